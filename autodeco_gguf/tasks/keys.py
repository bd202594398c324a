"""What a response answers, without the rest of its text."""

from __future__ import annotations

from collections.abc import Callable

from autodeco_gguf.tasks import members


def answer_key(checker: str, text: str, answer: str) -> str:
    """What tells a right answer from another right one: answers with one key are the same answer.

    For ``member`` that is the member of the list, for any other checker the text.

    Args:
        checker: its name, or ``module:function``.
        text: the response.
        answer: the expected answer, as the checker takes it.

    Examples:
        >>> answer_key("member", "Sure! A fruit: **Mangoes**.", "fruit")
        'mango'
        >>> answer_key("exact", " yes ", "yes")
        ' yes '
    """
    key = KEYS[checker](text, answer) if checker in KEYS else None
    return text if key is None else key


KEYS: dict[str, Callable[[str, str], str | None]] = {
    "member": members.first_member,
}
"""By checker: (text, answer) -> what the response answers; None where that cannot be told."""

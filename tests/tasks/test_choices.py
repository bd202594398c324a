"""Multiple choice: which letter a response chooses."""

from __future__ import annotations

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.choices import choice, chosen

CHOICES = [
    # nothing but the letter
    ("C", "C"),
    ("c", "C"),
    (" C.\n", "C"),
    ("(C)", "C"),
    ("**C**", "C"),
    ("$C$", "C"),
    # boxed
    (r"\boxed{C}", "C"),
    (r"\boxed{c}", "C"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{\mathrm{C}}", "C"),
    (r"\boxed{(C) 5 cm}", "C"),
    (r"\boxed{C. 5}", "C"),
    (r"\boxed{\textbf{(C) }5\text{ cm}}", "C"),
    (r"\boxed{\text{Option C}}", "C"),
    (r"\boxed{A} no, \boxed{C}", "C"),
    (r"\boxed{Cat}", None),
    (r"\boxed{C, D}", None),
    (r"\boxed{5}", None),
    # said
    ("The answer is (C).", "C"),
    ("The answer is C", "C"),
    ("the answer is: **C**", "C"),
    ("The answer is **(C) 5 cm**.", "C"),
    ("**Answer:** C", "C"),
    ("**Answer: C**", "C"),
    ("**Answer**: __C__", "C"),
    ("ANSWER: C", "C"),
    ("Answer: $C$", "C"),
    (r"Answer: $\text{C}$", "C"),
    (r"The answer is \(C\).", "C"),
    ("Answer: (c)", "C"),
    ("Answer: option (C)", "C"),
    ("The correct option is C.", "C"),
    ("Final Answer: C) 5 cm", "C"),
    ("The answer is C, I think.", "C"),
    # the last statement counts
    ("The answer is A. Wait, the answer is (C).", "C"),
    ("Answer: C\n\nOption A is wrong, as B.", "C"),
    (r"\boxed{A} Wait. The answer is (C).", "C"),
    (r"Answer: A, so \boxed{C}", "C"),
    (r"The answer is (C): $x = \boxed{5}$", "C"),
    # no statement
    ("", None),
    ("Answer:", None),
    ("Answer: Cats", None),
    ("A is better than C.", None),
    ("I think C.", None),
    ("The answer is not (C).", None),
    ("the answer is a vector.", None),
    ("The answer is C-sharp.", None),
    ("The answer is C's.", None),
    ("The answer is $C = 5$.", None),
    ("The answer is A or C", None),
    ("The answer is (C) or (D).", None),
    ("Answer: C, D", None),
    ("Answer: C/D", None),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_choice(text: str, letter: str | None) -> None:
    assert [right for right in "ABCD" if choice(text, right)] == ([letter] if letter else [])
    assert chosen(text) == letter


@pytest.mark.parametrize("answer", ["", "c", "CD", "(C)", "5"])
def test_choice_expects_a_letter(answer: str) -> None:
    with pytest.raises(InvalidInput, match=r"^answer '.*': expected one letter, A to Z$"):
        choice("C", answer)

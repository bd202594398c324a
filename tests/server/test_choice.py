"""Which tokens a text is of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from server_helpers import demo_engine

from autodeco_gguf.engine.request import Piece, Result
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.trace import Rows, Trace, TraceToken
from autodeco_gguf.server.chat import ChatVoice
from autodeco_gguf.server.choice import Choice, Words
from autodeco_gguf.server.tools import CallFinder

TEXTS = {1: b"ab", 2: b"cd", 3: b"\xf0\x9f", 4: b"\x99\x82", 5: b"\xff", 6: b"\xf0\x9fa", 7: b"\xed\xa0", 9: b"<|end|>"}
CALL = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
TEXTS[10] = CALL.encode()


def test_words_of_a_model_that_is_closed_meanwhile() -> None:
    """As one on workers is while it is loaded again: what was drawn before is still read, and written down."""
    with demo_engine(1) as engine:
        read, whole = Words(engine), cast(Any, SimpleNamespace(context=engine.context, machine=Machine(rpc=("x:1",))))
        words, tokens = Words(whole), range(engine.context.n_vocab)
        shown, pieces = [read.shown(token) for token in tokens], [read.piece(token) for token in tokens]
        assert shown != pieces
    assert [words.shown(token) for token in tokens] == shown
    assert [words.piece(token) for token in tokens] == pieces


def test_an_end_of_answers_that_is_no_control_token_is_no_text() -> None:
    context = SimpleNamespace(is_eog=lambda token: token == 9, token_bytes=lambda token, special=True: TEXTS[token])
    words = Words(cast(Any, SimpleNamespace(context=context, machine=Machine())))
    assert [words.shown(token) for token in (9, 1)] == [b"", b"ab"]


class Vocabulary:
    def shown(self, token: int) -> bytes:
        return b"" if token == 9 else TEXTS[token]

    def piece(self, token: int) -> bytes:
        return TEXTS[token]


class Voice:
    """What of a ChatVoice words a delta: the numbers of its calls."""

    _body = SimpleNamespace(autodeco=None, logprobs=False)

    def _part(self, choice: Choice, content: dict[str, Any], tokens: object) -> list[int]:
        return [call["index"] for call in content["tool_calls"]]


def piece(token: int, text: str) -> Piece:
    return Piece(text, TraceToken(token, TEXTS[token], 1.0, 1.0, 0.0, 1, 1.0))


def ended(choice: Choice, reason: Any, tokens: list[int]) -> Any:
    trace = Trace(Rows([(t, 1.0, 1.0, 0.0, 1, 1.0) for t in tokens]), TEXTS.__getitem__)
    return choice.end(Result(0, tokens, choice.text, reason, None, trace, *trace.parameters))


def begun() -> Choice:
    return Choice(0, cast("Words", Vocabulary()))


def test_tokens_come_with_their_text() -> None:
    choice = begun()
    assert [said.shown for said in choice.add(piece(1, "ab")).tokens] == [b"ab"]
    assert not choice.add(piece(2, ""))  # held back, as what may be a stop
    delta = choice.add(piece(1, "cdab"))
    assert (delta.text, [said.token.id for said in delta.tokens]) == ("cdab", [2, 1])


def test_what_is_not_kept_is_told_all_the_same() -> None:
    choice = Choice(0, cast("Words", Vocabulary()), keeps=False)
    assert [said.shown for said in choice.add(piece(1, "ab")).tokens] == [b"ab"]
    assert not choice.add(piece(2, ""))
    delta = ended(choice, "length", [1, 2])
    assert [said.token.id for said in delta.tokens] == [2]
    assert (choice.text, choice.n_tokens, choice.tokens) == ("ab", 2, [])


def test_calls_are_numbered_however_late_they_are_told() -> None:
    choice = Choice(0, cast("Words", Vocabulary()), CallFinder())
    deltas = [choice.add(piece(10, CALL * n)) for n in (1, 2, 1)]
    assert [(delta.n_earlier, len(delta.calls)) for delta in deltas] == [(0, 1), (1, 2), (3, 1)]
    parts = [ChatVoice.delta(cast("ChatVoice", Voice()), choice, delta) for delta in deltas]
    assert parts == [[0], [1, 2], [3]]


def test_half_a_character() -> None:
    choice = begun()
    assert not choice.add(piece(3, ""))
    delta = choice.add(piece(4, "🙂"))
    assert b"".join(said.shown or b"" for said in delta.tokens).decode() == "🙂"


@pytest.mark.parametrize(
    ("before", "text", "kept"),
    [
        ([5], "\ufffd", b"\xff"),
        ([6], "\ufffda", b"\xf0\x9fa"),
        ([3, 5, 6], "\ufffd\ufffd\ufffda", b"\xf0\x9f\xff\xf0\x9fa"),
        ([4], "\ufffd\ufffd", b"\x99\x82"),
        ([7, 1], "\ufffd\ufffdab", b"\xed\xa0ab"),
        ([3, 4], "🙂", b"\xf0\x9f\x99\x82"),
    ],
)
def test_a_stop_behind_bytes_that_are_no_text(before: list[int], text: str, kept: bytes) -> None:
    choice = begun()
    for token in before[:-1]:
        choice.add(piece(token, ""))
    choice.add(piece(before[-1], text))
    choice.add(piece(1, "a"))  # and b is the stop
    ended(choice, "stop", [*before, 1])
    assert b"".join(said.shown or b"" for said in choice.tokens) == kept + b"a"


def test_a_stop_within_text_behind_half_a_character() -> None:
    choice = begun()
    choice.add(piece(3, ""))
    choice.add(piece(1, "\ufffda"))  # and b is the stop
    ended(choice, "stop", [3, 1])
    assert b"".join(said.shown or b"" for said in choice.tokens) == b"\xf0\x9fa"


def test_what_was_held_as_a_call_is_part_of_the_text() -> None:
    choice = Choice(0, cast("Words", Vocabulary()), CallFinder())
    delta = choice.add(piece(1, "ab<tool"))
    assert (delta.text, ended(choice, "stop", [1]).text, choice.text) == ("ab", "<tool", "ab<tool")


def test_half_a_character_at_the_end() -> None:
    choice = begun()
    choice.add(piece(1, "ab"))
    choice.add(piece(3, "\ufffd"))
    assert [said.shown for said in choice.tokens] == [b"ab", b"\xf0\x9f"]
    ended(choice, "length", [1, 3])


def test_a_stop_within_a_token() -> None:
    choice = begun()
    choice.add(piece(1, "ab"))
    choice.add(piece(2, "c"))
    delta = ended(choice, "stop", [1, 2])
    assert [said.shown for said in delta.tokens] == [b"c"]
    assert (choice.text, choice.n_tokens, choice.finish_reason) == ("abc", 2, "stop")


def test_what_ends_it_is_not_part_of_it() -> None:
    choice = begun()
    choice.add(piece(1, "ab"))
    choice.add(piece(9, ""))
    ended(choice, "stop", [1, 9])
    assert [said.shown for said in choice.tokens] == [b"ab", None]
    assert choice.n_tokens == 2


def test_without_pieces() -> None:
    choice = begun()
    trace = Trace(Rows([(1, 1.0, 1.0, 0.0, 1, 1.0)]), TEXTS.__getitem__)
    choice.end(Result(0, [1], "ab", "length", None, trace, *trace.parameters))
    assert (choice.text, choice.n_tokens, choice.tokens) == ("ab", 1, [])

"""Tokens as JSON."""

from __future__ import annotations

from autodeco_gguf.model.trace import Alternative
from autodeco_gguf.server.trace_json import LEAST, TextLogprobs, finite, name_of


def test_names() -> None:
    assert name_of("é".encode()) == "é"
    assert name_of(b"\xf0\x9f") == "bytes:\\xf0\\x9f"


def test_what_json_cannot_hold() -> None:
    assert finite(float("-inf")) == LEAST == -9999
    assert finite(-1.5) == -1.5


def test_four_lists() -> None:
    likely = (Alternative(1, b"a", -0.25, 1.0), Alternative(2, b"\xf0", -2.0, 0.0), Alternative(3, b"a", -3.0, 0.0))
    logprobs = TextLogprobs()
    assert logprobs.of([(b"ab", None, None), (b"a", -0.25, likely)]) == {
        "tokens": ["ab", "a"],
        "token_logprobs": [None, -0.25],
        "top_logprobs": [None, {"a": -0.25, "bytes:\\xf0": -2.0}],  # of two of one name the likelier
        "text_offset": [0, 2],
    }
    assert logprobs.of([(b"c", float("-inf"), ())])["text_offset"] == [3]


def test_offsets_of_characters_of_several_tokens() -> None:
    logprobs = TextLogprobs()
    assert logprobs.of([(piece, None, None) for piece in (b"\xc3", b"\xa9", b"\xe2\x82")])["text_offset"] == [0, 0, 1]
    assert logprobs.of([(piece, None, None) for piece in (b"\xac", b"b\xff", b"c")])["text_offset"] == [1, 2, 4]


def test_offsets_behind_half_of_a_character() -> None:
    logprobs = TextLogprobs()
    pieces = (b"\xc3", b" lives", b"\xe2", b"\x82", b"\xac", b"\xe2", b"\xc3", b"\xa9")
    assert logprobs.of([(piece, None, None) for piece in pieces])["text_offset"] == [0, 1, 7, 7, 7, 8, 9, 9]


def test_offsets_behind_what_is_no_text() -> None:
    logprobs = TextLogprobs()
    logprobs.skip(4)
    pieces = (b"<s>", b" ", b"ab", b"c")
    assert logprobs.of([(piece, None, None) for piece in pieces])["text_offset"] == [0, 0, 0, 2]

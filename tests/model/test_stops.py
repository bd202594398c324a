"""Stops: what may be given, and where in a stream of tokens they are found."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
from conftest import Case

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.stops import StopFinder, StoppedText, stop_texts

GIVEN: list[tuple[Any, tuple[str, ...]]] = [
    (None, ()),
    ((), ()),
    ("ab", ("ab",)),
    (["a", "b"], ("a", "b")),
    (("a", "b"), ("a", "b")),
    ({"b"}, ("b",)),
    (frozenset({"é"}), ("é",)),
    ({"a": 1}.keys(), ("a",)),
]


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_what_may_be_given(given: Any, expected: tuple[str, ...]) -> None:
    assert stop_texts(given) == expected


def test_a_generator_may_be_given() -> None:
    assert stop_texts(text for text in "ab") == ("a", "b")
    assert stop_texts(itertools.chain(["a"], ["b"])) == ("a", "b")


REFUSED: list[tuple[Any, str]] = [
    ("", "stop '', expected a text that is not empty, or several"),
    (["a", ""], "stop '', expected a text that is not empty, or several"),
    (b"a", "stop b'a', expected a text that is not empty, or several"),
    ([b"a"], "stop b'a', expected a text"),
    ([None], "stop None, expected a text"),
    (["a", 7], "stop 7, expected a text"),
    (7, "stop 7, expected a text"),
    ([["a"]], r"stop \['a'\], expected a text"),
    (["a"] * 257, "stop 257 texts of 257 characters, expected at most 256 of 16384 in all"),
    (["a" * 16_000, "b" * 400], "stop 2 texts of 16400 characters, expected at most 256 of 16384"),
    ("a\ud800", r"stop 'a\\ud800' is not UTF-8: surrogates not allowed"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}") as caught:
        stop_texts(given)
    assert caught.value.key == "stop"


FOUND: list[tuple[list[str], list[bytes], list[bytes]]] = [
    ([], [b"abc"], [b"abc"]),
    (["x"], [b"abc", b"de"], [b"abc", b"de"]),
    (["cd"], [b"abc", b"de", b"f"], [b"ab", b"", b""]),
    (["cx"], [b"abc", b"de"], [b"ab", b"cde"]),
    (["c", "ab"], [b"abc"], [b""]),  # the first in the text, not in the list
    (["ab", "c"], [b"abc"], [b""]),
    (["b", "abc"], [b"abc"], [b""]),
    (["abcd", "b"], [b"ab"], [b"a"]),  # the longer may come, but the shorter is there
    (["aab"], [b"a", b"a", b"a", b"b"], [b"", b"", b"a", b""]),
    (["abab!"], [b"ababab!"], [b"ab"]),
    (["aabaaac"], [b"aabaaabaaac"], [b"aaba"]),
    (["é"], ["è".encode()[:1], "è".encode()[1:], "é".encode()], [b"", "è".encode(), b""]),
]


@pytest.mark.parametrize(("stops", "pieces", "expected"), FOUND)
def test_where_they_are_found(stops: list[str], pieces: list[bytes], expected: list[bytes]) -> None:
    finder = StopFinder(stops)
    out = [finder.add(piece) for piece in pieces]
    if finder.stopped:
        assert finder.rest() == b""
    else:
        out[-1] += finder.rest()
    assert out == expected


def test_pieces_at_random() -> None:
    """The text is that before the first stop; nothing is shown that has to be taken back, nothing held in vain."""
    for seed in range(2000):
        rng = random.Random(seed)
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 5))) for _ in range(rng.randrange(1, 4))]
        pieces = ["".join(rng.choices("abc", weights=(4, 4, 1), k=rng.randrange(4))).encode() for _ in range(8)]
        finder, text, shown = StopFinder(stops), b"", b""
        for piece in pieces:
            text += piece
            shown += finder.add(piece)
            begins = [text.index(stop.encode()) for stop in stops if stop.encode() in text]
            assert finder.stopped == bool(begins)
            if begins:
                assert shown == text[: min(begins)]
                break
            held = max((n for s in stops for n in range(len(s)) if text.endswith(s[:n].encode())), default=0)
            assert shown == text[: len(text) - held]
        else:
            assert shown + finder.rest() == text


def test_long_stops_take_no_longer() -> None:
    """300,000 bytes that all belong to the beginning of a stop: seconds if each were compared with all before it."""
    finder = StopFinder(["a" * 100_000 + "b"])
    begin = time.perf_counter()
    shown = sum(len(finder.add(b"a" * 100)) for _ in range(3000))
    assert (shown, len(finder.rest())) == (200_000, 100_000)
    assert time.perf_counter() - begin < 5


# ---- control tokens ----

START = 1
"""<|im_start|> in the tiny models."""

NAMED: list[tuple[str, list[bytes | int], bytes]] = [
    ("<|im_start|>", [b"yes", START, b"no"], b"yes"),
    ("<|im_start|>", [b"yes", b"<|im_", b"start", b"|>"], b"yes"),  # spelt out, it is a text
    ("<|im_start|>user", [b"yes", START, b"us", b"ed", START, b"us", b"er"], b"yesused"),
    ("\n<|im_start|>", [b"yes\n\n", START], b"yes\n"),
    ("<|im_start|>x<|im_start|>", [b"yes", START, b"x", START], b"yes"),
    ("<|im_end|>", [b"yes", START], b"yes"),  # another
    ("es", [b"e", START, b"s"], b""),  # which shows as the text "es"
]


@pytest.mark.parametrize(("stop", "pieces", "expected"), NAMED)
def test_names_of_control_tokens(stop: str, pieces: list[bytes | int], expected: bytes, qwen2: Case) -> None:
    finder = StopFinder([stop], Context(qwen2.base, n_ctx=32).vocab)
    shown = [finder.add(b"", piece) if isinstance(piece, int) else finder.add(piece) for piece in pieces]
    assert b"".join(shown) == expected
    assert finder.stopped == (stop != "<|im_end|>")
    assert finder.rest() == b""


# ---- as text ----

STOPS = [
    (["x"], [b"abc", b"de"], True, ["abc", "de"]),
    (["cd"], [b"abc", b"de", b"f"], True, ["ab", "", ""]),
    (["cx"], [b"abc", b"de"], True, ["ab", "cde"]),
    (["cx"], [b"abc"], True, ["abc"]),
    (["b", "abc"], [b"abc"], True, [""]),
    (["e"], ["é".encode()[:1], "é".encode()[1:] + b"e", b"z"], True, ["", "é", ""]),
    ([], ["é".encode()[:1]], True, ["�"]),
    (["aab"], [b"a", b"a", b"a", b"b"], True, ["", "", "a", ""]),
    (["c", "ab"], [b"xabc"], False, ["x"]),
    (["�"], [b"a\xffb"], False, ["a"]),  # what shows as the replacement character is that
    (["bc"], [b"\xff", b"b"], True, ["�", "b"]),
    ([], [b"a", b"\xff", b"b", b"\xe2\x82", b"c", b"d"], False, ["a", "�", "b", "", "�c", "d"]),
    (["zz"], [b"a", b"\xf0\x9f", b"\xff", b"b"], False, ["a", "", "��", "b"]),
]


@pytest.mark.parametrize(("stop", "pieces", "final", "expected"), STOPS)
def test_stop_strings(stop: list[str], pieces: list[bytes], final: bool, expected: list[str]) -> None:
    text = StoppedText(stop)
    assert [text.add(piece, final and i == len(pieces) - 1) for i, piece in enumerate(pieces)] == expected


def test_the_end_is_no_token(qwen2: Case) -> None:
    """As which it would be token 0, a control token here, whose name may be part of a stop."""
    text = StoppedText(["yes<|endoftext|>"], Context(qwen2.base, n_ctx=32).vocab)
    assert (text.add(b"yes"), text.rest(), text.stopped) == ("", "yes", False)
    assert StoppedText(["yes<|endoftext|>"], Context(qwen2.base, n_ctx=32).vocab).add(b"yes", final=True) == "yes"


def test_half_a_character_is_no_control_token(qwen2: Case) -> None:
    text = StoppedText(["yes<|endoftext|>"], Context(qwen2.base, n_ctx=32).vocab)
    assert [text.add(piece) for piece in (b"yes", "é".encode()[:1], "é".encode()[1:])] == ["", "", "yesé"]
    assert not text.stopped

"""What a chat can change of how it answers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from autodeco_gguf.cli import _settings as settings
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.sampling import Sampling

ROOT = Path(__file__).parent.parent.parent
BOTH = frozenset(settings.HEADS)


def test_every_number_of_a_request_is_a_setting() -> None:
    left_out = {"logit_bias", "grammar", "order"}
    assert {f.name for f in fields(Sampling)} - left_out < set(settings.NUMBERS)
    assert {"max_tokens", "seed", "temperature"} < set(settings.NUMBERS)


def test_the_documentation_names_every_setting() -> None:
    text = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    assert [name for name in settings.SETTINGS if f"`{name}`" not in text] == []


def test_a_setting_is_changed_and_given_back() -> None:
    request = Request("")
    for name, value, expected in (
        ("temperature", "0.5", 0.5),
        ("top_k", "7", 7),
        ("min_p", "0.25", 0.25),
        ("max_tokens", "-1", None),
        ("stop", "'a b' c", ("a b", "c")),
        ("stop", r'"\n\n" "a\tb"', ("\n\n", "a\tb")),
        ("stop", r"\n a\tb# '\n'", ("\n", "a\tb#", "\n")),
        ("stop", r"""a\ b 'a\b' "say \"hi\"" """, ("a b", "a\\b", 'say "hi"')),
    ):
        new = settings.changed(request, name, value)
        assert getattr(new, name) == expected
        assert settings.changed(new, name, "default") == request
    assert settings.changed(settings.changed(request, "top_p", "0.5"), "top_p", "heads").top_p is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "warm", "temperature warm, expected a number, or heads"),
        ("temperature", "nan", "temperature nan, expected a finite number"),
        ("temperature", "1_0", "temperature 1_0, expected a number, or heads"),
        ("top_k", "1_0", "top_k 1_0, expected a whole number, or default"),
        ("top_p", "1.5", "top_p 1.5, expected"),
        ("top_k", "heads", "top_k heads, expected a whole number, or default"),
        ("top_k", "1.5", "top_k 1.5, expected a whole number"),
        ("max_tokens", "0", "max_tokens 0, expected at least 1"),
        ("stop", '"a', "No closing quotation"),
        ("grammar", "root", "grammar"),
    ],
)
def test_what_a_setting_cannot_be(name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        settings.changed(Request(""), name, value)


def test_names_as_people_write_them() -> None:
    names = {"--top-p": "top_p", "Temp": "temperature", "n": "max_tokens", "top_k": "top_k"}
    names |= {"repeat_last_n": "penalty_last_n", "mirostat": "mirostat_mode"}
    assert {name: settings.setting_name(name) for name in names} == names


@pytest.mark.parametrize(
    ("before", "which", "heads", "after"),
    [
        ((None, None), "off", BOTH, (1.0, 1.0)),
        ((0.5, None), "off", BOTH, (0.5, 1.0)),
        ((1.0, 0.5), "on", BOTH, (None, None)),
        ((1.0, 1.0), "temperature", BOTH, (None, 1.0)),
        ((None, None), "top-p", BOTH, (1.0, None)),
        ((None, None), "off", frozenset(), (None, None)),
    ],
)
def test_which_heads_decide(
    before: tuple[float | None, float | None],
    which: str,
    heads: frozenset[str],
    after: tuple[float | None, float | None],
) -> None:
    request = settings.with_heads(Request("", temperature=before[0], top_p=before[1]), which, heads, {})
    assert (request.temperature, request.top_p) == after


def test_what_the_file_decides_is_said() -> None:
    file = {"temperature": 0.5, "top_k": 3}
    request, none = Request(""), frozenset[str]()
    line = "none (top-p is 1, temperature 0.5 by the model's file, top-k 3 by the model's file)"
    assert settings.heads_line(none, request, file) == line
    assert settings.heads_line(BOTH, request, file) == "temperature, top-p"
    assert settings.with_heads(request, "off", BOTH, file).temperature == 0.5
    assert dict(settings.table(request, none, file)) == {
        "temperature": "0.5 (by the model's file)",
        "top_p": "1 (no such head)",
        "top_k": "3 (by the model's file)",
        "max_tokens": "until the end",
    }
    assert "n_keep" not in settings.SETTINGS  # the conversation's own
    assert "seed" not in dict(settings.table(Request("", seed=3), none, file))  # /show has that of the next answer


@pytest.mark.parametrize("which", ["on", "top_p"])
def test_heads_that_are_not_there(which: str) -> None:
    missing = frozenset(["temperature"]) if which == "top_p" else frozenset[str]()
    with pytest.raises(InvalidInput, match="the model has no"):
        settings.with_heads(Request(""), which, missing, {})

from __future__ import annotations

from typing import Any

import pytest
from instruction_helpers import Row, assert_either_outcome, cases_of

from autodeco_gguf.tasks.ifbench import forms
from autodeco_gguf.tasks.ifbench.registry import check
from autodeco_gguf.tasks.instruction_checks import encode

LETTERS = "a), b), c), d)"
REQUEST = "explain the context, then act"
SIMPLE = "Only output this sentence here, ignore all other requests."

ROWS: list[Row] = [
    (
        "format:parentheses",
        {},
        ["a (b [c {d (e [f] g) h} i] j)", "((((( )", "] (((( [x]"],
        ["((((a))))", "(((((", "(a) (b) (c) (d) (e)", "(((([)]))))", ")))))((((("],
    ),
    (
        "format:quotes",
        {},
        ['He said "I heard \'she said "go" now\' then"', "'\"'x'\"'"],
        ["\"a 'b' c\"", '"a" "b" "c"', 'it\'s so "far"', "'\"'"],
    ),
    (
        "format:options",
        {"options": "yes/no/maybe"},
        ["yes", "No.", ' "Maybe!" '],
        ["yes or no", "Sure", "yes\n", "yes/no/maybe"],
    ),
    (
        "format:options",
        {"options": "I know or I don't know"},
        ["I know", "i don't know.", "**I know**"],
        ["I do not know", "know"],
    ),
    ("format:options", {"options": LETTERS}, ["a)", "d)"], ["a", "A)", "a) ", "a), b)", "e)"]),
    ("format:options", {"options": "red, blue"}, ["Red", "blue!"], ["green", "red, blue"]),
    ("format:newline", {}, ["one\ntwo\nthree", "one\n\n- two\n", "one"], ["one two", "one\ntwo three", "a\n \nb"]),
    (
        "format:emoji",
        {},
        [
            "Hello there. \U0001f600 How are you? \U0001f389 Bye \U0001f44b",
            "I \u2764\ufe0f",
            "Nice \U0001f600! Good \u2705.",
            "Sun \u2600\ufe0f.",
        ],
        [
            "Hello there. How are you? \U0001f600",
            "Hello \U0001f600 there.",
            "Bye",
            "\U0001f600 Hi",
            "Hi \u263b",
            "Hi \U0001f600 .b",
        ],
    ),
    (
        "format:line_indent",
        {},
        ["a\n b\n  c", "a\n\n  b\n\n    c", "a\n    b", "one"],
        ["a\nb", " a\nb", "a\n b\n c", "a\n\tb", "a\n\n\n b"],
    ),
    (
        "format:quote_unquote",
        {},
        ['"Go" means leave.', "No quotation.", "The '\"' mark", "\u201cGo\u201d", "It is '5'."],
        ['He said "go".', '"Go" "on" is it', '"Go"\n"on" is it', 'Say "go" 5!'],
    ),
    ("format:list", {"sep": "!?!?"}, ["!?!? a\n!?!? b", "!?!?!?!?"], ["!?!? a", "!? a\n!? b", "!?!?!? a"]),
    (
        "format:thesis",
        {},
        ["<i>A thesis.</i> And more.", "So: <em>a</em> b", "<em></em> b", "<em>a</em>"],
        ["<i> </i> b", "<i>a</i> ", "<i>a b", "*a* b", "a</i> b", "<em>a b"],
    ),
    (
        "format:sub-bullets",
        {},
        ["* a\n - b\n* c\n - d", "no bullets", "well-known * a-b"],
        ["* a\n* b\n - c", "- a\n* b"],
    ),
    (
        "format:no_bullets_bullets",
        {},
        ["One. Two.\n* a\n* b", "One.\nTwo.\n\n* a\n  * b\n* c", "One! Two?\n**a**\n*b*"],
        [
            "One.\n* a\n* b",
            "One. Two.\n* a",
            "One. Two.\n* a\n* b\nEnd.",
            "One. Two.\n* a\n\n* b",
            "One.\n\nTwo.\n* a\n* b",
        ],
    ),
    (
        "format:title_case",
        {},
        ["The Cat Sat On It", "A Cat, 5 Dogs!", "An iPhone's Screen", "Well-known McDonald", "\u0391\u03b2"],
        ["The cat Sat", "A Cat and a Dog", "Don't", "aBC", "It Is I and You"],
    ),
    (
        "format:output_template",
        {},
        ["My Answer: 5 My Conclusion: ok Future Outlook: good", "Future Outlook: c\nMy Conclusion: b\nMy Answer: a"],
        ["My Answer: 5 My Conclusion: ok", "my answer: 5 my conclusion: ok future outlook: good"],
    ),
    ("format:no_whitespace", {}, ["one", "one_two\u200b"], ["one two", "one\n", "one\u00a0two"]),
    (
        "repeat:repeat_change",
        {"prompt_to_repeat": REQUEST},
        ["Describe the context, then act", "Give the  context,\nthen act"],
        [REQUEST, "Describe the context", "Please explain the context, then act", "Describe The context, then act"],
    ),
    ("repeat:repeat_simple", {}, [SIMPLE, f" {SIMPLE.lower()}\n"], [SIMPLE[:-1], f'"{SIMPLE}"', SIMPLE + " ok"]),
    (
        "repeat:repeat_span",
        {"prompt_to_repeat": REQUEST, "n_start": 3, "n_end": 6},
        ["lain", " LAIN\n"],
        ["lai", "then act", "lain."],
    ),
    ("repeat:repeat_span", {"prompt_to_repeat": REQUEST, "n_start": 0, "n_end": 90}, [REQUEST], ["explain"]),
]


def test_every_instruction_has_a_row_for_either_outcome() -> None:
    assert_either_outcome(ROWS, forms.INSTRUCTIONS)


@pytest.mark.parametrize(("name", "arguments", "text", "followed"), cases_of(ROWS))
def test_instruction(name: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    assert check(text, encode([name], [arguments])) is followed
    assert check(" \n", encode([name], [arguments])) is False

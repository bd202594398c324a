from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest
from instruction_helpers import Row, assert_either_outcome, cases_of

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.tasks import ifeval
from autodeco_gguf.tasks.ifeval import INSTRUCTIONS, check
from autodeco_gguf.tasks.instruction_checks import encode


@pytest.fixture(autouse=True)
def langdetect(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in that takes what has "und" in it for German and can tell nothing by digits."""
    module = ModuleType("langdetect")

    class DetectorFactory:
        seed = None

    class LangDetectException(Exception):
        pass

    def detect(text: str) -> str:
        assert DetectorFactory.seed == 0
        if not any(map(str.isalpha, text)):
            raise LangDetectException("No features in text.")
        return "de" if "und" in text.lower().split() else "en"

    members = {"DetectorFactory": DetectorFactory, "LangDetectException": LangDetectException, "detect": detect}
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, "langdetect", module)
    return module


AT_LEAST, LESS_THAN = "at least", "less than"

ROWS: list[Row] = [
    ("keywords:existence", {"keywords": ["Sun", "c++"]}, ["Sunny C++", "c++ sun"], ["sun c+", "c++"]),
    (
        "keywords:frequency",
        {"keyword": " Ion ", "frequency": 2, "relation": AT_LEAST},
        ["ion, ions", "An onion, a lion"],
        ["ion"],
    ),
    ("keywords:frequency", {"keyword": "ion", "frequency": 2, "relation": LESS_THAN}, ["ion", "x"], ["Ion ion"]),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "a.b"]},
        ["rocks", "shamrock", "axb"],
        ["Rock!", "a rock-solid", "an a.b c"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": AT_LEAST},
        ["Qq", "quiz quail q"],
        ["q", "O"],
    ),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": LESS_THAN}, ["q"], ["qQ"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": AT_LEAST}, ["#a #b"], ["#a"]),
    ("language:response_language", {"language": "de"}, ["ich und du", "123"], ["me and you"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, ["a b c", "a-b c"], ["a b", "a, - b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS_THAN}, ["a b"], ["a b c"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        ["One. Two.", "One? two"],
        ["Dr. Who", "One, two."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS_THAN}, ["One."], ["One. Two."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a *** b", "*** a *** b ***"],
        ["a\n\nb", "a *** b *** c", "a *** *** b", "a ***"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
        ["a\n\nweekend b", "a\n\n\"Weekend's b", "a\n\nWEEKEND, b", "a\n\nweekend"],
        ["a\n\nb weekend", "a\nweekend", "a\n\nweekend\n\nb", "a\n\nweekends", "\n\na\n\nweekend"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
        [],
        ["a", "b\n\na"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b c]", "[[a]] []"],
        ["[a]", "[a [b]", "[a\n] [b]", "(a) (b)"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\n\np.s. b", "a P. S. b"], ["PS b", "a P.S"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["a\np. p. s b", "P.P.S. b"], ["a\nP.S. b"]),
    ("detectable_content:postscript", {"postscript_marker": " N.B. "}, ["a\nn.b. c"], ["a\nnxb. c"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "text\n  - a\n\t* b", "* a\n- b\n**c**"],
        ["* a", "* a\n* b\n* c", "1. a\n2. b", "a * b\nc - d"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", " My answer is no. ", "So: My answer is maybe."],
        ["my answer is yes.", "My answer is yes", "No."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and *b*", "*a b*\n**c**"],
        ["*a*", "*a\nb* c", "** **\n*a*", "a b", "**a**"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day ", "num_sections": 2},
        ["Day 1\na\nDay 2\nb", "Day1 a Day2 b Day3 c"],
        ["Day 1\na", "DAY 1\nDAY 2", "Day one\nDay two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1, null]}\n```', "```\n[]\n```", " 5 "],
        ["{'a': 1}", 'Here: {"a": 1}', "```json\n```", '{"a": 1} done', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<a>>", "b\n<<a poem>> c"], ["<a>", "<<>>", "<< >>", "<<a\nb>>", "a>><<"]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b******"],
        ["a", "a ****** a", "a ***** b", "a ****** b ****** c", "a ****** ****** b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write  a Poem. "},
        ["Write  a Poem. Roses", "\nwrite  a poem."],
        ["Sure: Write  a Poem.", "Write a Poem."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Peace! "},
        ["So. Peace!", '"love and peace!"', "PEACE!\n"],
        ["Peace! Bye", "Peace", "Peace!."],
    ),
    ("startend:quotation", {}, ['"a"', ' "a\nb"\n', '""'], ['"a', "'a'", '"', 'He said "a"', "\u201ca\u201d"]),
    ("change_case:english_capital", {}, ["HELLO, 4 U!"], ["HELLO yOU", "DU UND ICH", "123"]),
    ("change_case:english_lowercase", {}, ["hello, 4 u!"], ["hello You", "du und ich", "123"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        ["I am HERE", "AT&T it is", "DON'T do it", "**NOTE**: B2 is fine", "YES--NO", "CANNOT", "GONNA", "IT\u2019S"],
        ["AND/OR", "WELL-KNOWN", "Hello World A", "U.S.A."],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LESS_THAN},
        ["I am here"],
        ["I am HERE"],
    ),
    ("punctuation:no_comma", {}, ["a; b. c"], ["a, b"]),
]


def test_every_instruction_has_a_row_for_either_outcome() -> None:
    assert_either_outcome(ROWS, INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25


@pytest.mark.parametrize(("name", "arguments", "text", "followed"), cases_of(ROWS))
def test_instruction(name: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    answer = encode([name], [arguments])
    assert check(text, answer) is followed
    assert check("", answer) is False
    assert check(" \n", answer) is False


def test_all_instructions_are_to_be_followed() -> None:
    both = encode(["punctuation:no_comma", "startend:quotation"], [{}, {}])
    assert [check(text, both) for text in ('"a"', '"a, b"', "a", "a, b")] == [True, False, False, False]


def test_encode_leaves_nulls_out() -> None:
    answer = encode(
        ["keywords:existence", "detectable_format:title"], [{"keywords": ["é"], "letter": None}, {"a": None}]
    )
    assert answer == '[["keywords:existence", {"keywords": ["é"]}], ["detectable_format:title", {}]]'


FORM = r'expected \[\["ID", \{"ARGUMENT": VALUE, \.\.\.\}\], \.\.\.\]$'
WORDS = "length_constraints:number_words"
BAD_ANSWERS = {
    "no JSON": ("x", "^not JSON: Expecting value at column 1$"),
    "an object": ("{}", f"^instructions: an object, {FORM}"),
    "none": ("[]", f"^instructions: empty, {FORM}"),
    "ids alone": ('["startend:quotation"]', rf'^instructions: "startend:quotation" in the list, {FORM}'),
    "a triple": ('[["startend:quotation", {}, 1]]', rf"^instructions: \[.*\] in the list, {FORM}"),
    "no id": ("[[5, {}]]", rf"^instructions: \[5, {{}}\] in the list, {FORM}"),
    "unknown": (
        '[["startend:quotation", {}], ["startend:rhyme", {}]]',
        "^instruction 'startend:rhyme': unknown, expected one of keywords:existence, .*, punctuation:no_comma$",
    ),
    "missing": (
        encode([WORDS], [{"num_words": 5}]),
        f"^instruction {WORDS}: has the arguments num_words, expected num_words, relation$",
    ),
    "too many": (
        encode(["punctuation:no_comma"], [{"num_words": 5}]),
        "^instruction punctuation:no_comma: has the arguments num_words, expected none$",
    ),
    "relation": (
        encode([WORDS], [{"num_words": 5, "relation": "exactly"}]),
        f'^instruction {WORDS}: relation is "exactly", expected "at least" or "less than"$',
    ),
    "unhashable relation": (
        encode([WORDS], [{"num_words": 5, "relation": ["at least"]}]),
        f'^instruction {WORDS}: relation is \\["at least"\\], expected "at least" or "less than"$',
    ),
    "float": (
        encode([WORDS], [{"num_words": 5.5, "relation": AT_LEAST}]),
        f"^instruction {WORDS}: num_words is 5.5, expected a whole number >= 0$",
    ),
    "true": (
        encode([WORDS], [{"num_words": True, "relation": AT_LEAST}]),
        f"^instruction {WORDS}: num_words is true, expected a whole number >= 0$",
    ),
    "negative": (
        encode(["detectable_format:number_bullet_lists"], [{"num_bullets": -1}]),
        "num_bullets is -1, expected a whole number >= 0$",
    ),
    "paragraph 0": (
        encode(
            ["length_constraints:nth_paragraph_first_word"],
            [{"num_paragraphs": 1, "nth_paragraph": 0, "first_word": "a"}],
        ),
        "nth_paragraph is 0, expected a whole number >= 1$",
    ),
    "a word for a letter": (
        encode(["keywords:letter_frequency"], [{"letter": "ab", "let_frequency": 1, "let_relation": AT_LEAST}]),
        'letter is "ab", expected one character$',
    ),
    "blank": (
        encode(["startend:end_checker"], [{"end_phrase": " "}]),
        'end_phrase is " ", expected a string that is not blank$',
    ),
    "no keywords": (
        encode(["keywords:existence"], [{"keywords": []}]),
        r"keywords is \[\], expected a list of strings that are not blank$",
    ),
    "one keyword as a string": (
        encode(["keywords:forbidden_words"], [{"forbidden_words": "a"}]),
        'forbidden_words is "a", expected a list of strings that are not blank$',
    ),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answers(name: str) -> None:
    answer, message = BAD_ANSWERS[name]
    for text in ("", "some text"):
        with pytest.raises(AutoDecoError, match=message):
            check(text, answer)


def test_a_bad_argument_is_named() -> None:
    with pytest.raises(InvalidInput) as error:
        check("", encode([WORDS], [{"num_words": 5, "relation": "exactly"}]))
    found = error.value
    assert (found.key, found.found, found.expected) == ("relation", "exactly", '"at least" or "less than"')


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("language:response_language", {"language": "de"}),
        ("change_case:english_capital", {}),
        ("change_case:english_lowercase", {}),
    ],
)
def test_without_langdetect(name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(AutoDecoError, match=r"^langdetect is not installed; pip install langdetect, or in "):
        check("", encode([name], [arguments]))
    assert check("a", encode(["punctuation:no_comma"], [{}]))


def test_long_responses_take_no_long_time() -> None:
    """What a model that repeats itself writes; anything quadratic here would take minutes."""
    every = [(name, arguments) for name, arguments, _, _ in ROWS]
    for piece in ("[", "*", "<<", "\n", "a", ".", "!x", " * ", '"', "P. "):
        for name, arguments in every:
            check(piece * 100_000, json.dumps([[name, arguments]]))


def test_every_argument_has_a_kind() -> None:
    assert {key for _, arguments, _, _ in ROWS for key in arguments} == set(ifeval.ARGUMENTS)

"""Made instructions: that a response can follow them, that the prompt says what is graded, and how they are drawn."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodeco_gguf.tasks import ifeval, instructions
from autodeco_gguf.tasks.instruction_checks import encode
from autodeco_gguf.tasks.instructions import Instruction, InstructionProblem
from autodeco_gguf.tasks.tasks import read_task

TRAIN = instructions.problems(4096, split="train")
TEST = instructions.problems(512, split="test")

# ---- responses that follow instructions ----

# clauses without capital letters; of every letter that may be rare, one of the English ones has none
CLAUSES = {
    "en": (
        "this is one of those things that we see here",
        "many people can sit and read a book at noon",
        "on such an occasion we are seldom alone and never silent",
    ),
    "es": ("la casa es grande y el perro duerme en el jardín con los niños",),
    "fr": ("nous sommes très contents de vous voir dans cette belle maison",),
    "de": ("das ist ein schönes altes haus und wir wohnen gern darin",),
    "it": ("questa è una bella giornata e andiamo tutti insieme alla spiaggia",),
    "pt": ("não sabemos ainda quando as crianças vão chegar à nossa casa",),
    "pl": ("dzisiaj jest piękny dzień i idziemy razem do parku nad rzeką",),
    "fi": ("tänään on kaunis päivä ja menemme yhdessä järven rannalle",),
    "ru": ("сегодня хорошая погода и мы идём гулять в парк все вместе",),
    "uk": ("сьогодні гарна погода тож ми йдемо разом гуляти до парку біля річки",),
    "bg": ("днес времето навън ни харесва и ние отиваме заедно на разходка в парка",),
    "vi": ("hôm nay trời đẹp và chúng tôi cùng nhau đi dạo trong công viên",),
    "ar": ("اليوم الطقس جميل ونحن نذهب معا إلى الحديقة مع الأطفال",),
}

SPELT = dict(zip("etaoinsr", ["we", "that", "have", "not", "this", "and", "is", "our"], strict=True))
"""A word with each letter that may be asked for often: rows of one letter are no English."""


def respond(request: str, listed: Sequence[Instruction]) -> str | None:
    """A response that ``ifeval.check`` accepts; None where this finds none."""
    asked = {i.kind: i for i in listed}
    language = asked["response_language"].arguments["language"] if "response_language" in asked else "en"
    answer = encode([i.id for i in listed], [i.arguments for i in listed])
    texts = (write(request, asked, clause, shortest) for shortest in (1, 3, 9) for clause in CLAUSES[language])
    return next((text for text in texts if ifeval.check(text, answer)), None)


def write(request: str, asked: dict[str, Instruction], clause: str, shortest: int) -> str:
    """A response out of one clause, repeated until there are words enough, and what the instructions ask for."""

    def least(kind: str) -> int:
        return asked[kind].count if kind in asked and asked[kind].relation != "less than" else 0

    def given(kind: str, argument: str) -> Any:
        return asked[kind].arguments[argument] if kind in asked else ""

    extra = [*given("existence", "keywords")]
    extra += [given("frequency", "keyword")] * least("frequency")
    extra += [SPELT.get(letter := given("letter_frequency", "letter"), letter)] * least("letter_frequency")
    extra += ["NO"] * least("capital_word_frequency")
    extra += ["[one]"] * least("number_placeholders") + ["*one*"] * least("number_highlighted_sections")
    sentences = max(1, least("number_sentences"))
    clauses = math.ceil(least("number_words") / len(clause.split()) / sentences)
    said = [" and ".join([clause] * max(clauses, shortest)) + "." for _ in range(sentences)]
    said[0] = " ".join([*extra, said[0]])
    said += ["My answer is no."] * ("constrained_response" in asked)
    text = " ".join(said)
    text += "".join("\n* one" for _ in range(least("number_bullet_lists")))
    for n in range(1, least("multiple_sections") + 1):
        text += f"\n{given('multiple_sections', 'section_spliter')} {n}\n{clause}."
    text += "".join(f"\n***\n{clause}." for _ in range(least("number_paragraphs") - 1))
    if "nth_paragraph_first_word" in asked:
        paragraphs = [text, *[f"{clause}."] * (least("nth_paragraph_first_word") - 1)]
        nth = given("nth_paragraph_first_word", "nth_paragraph") - 1
        paragraphs[nth] = f"{given('nth_paragraph_first_word', 'first_word')} {paragraphs[nth]}"
        text = "\n\n".join(paragraphs)
    if "title" in asked:
        text = f"<<one>>\n{text}"
    if "repeat_prompt" in asked:
        text = f"{request}\n{text}"
    if "postscript" in asked:
        text += f"\n{given('postscript', 'postscript_marker')} {clause}"
    if "end_checker" in asked:
        text += f"\n{given('end_checker', 'end_phrase')}"
    if "two_responses" in asked:
        text = f"{text}\n******\n{clause} and {clause}."
    if "json_format" in asked:
        text = json.dumps({"one": text})
    if "quotation" in asked:
        text = f'"{text}"'
    return text.upper() if "english_capital" in asked else text.lower() if "english_lowercase" in asked else text


def drawn(names: Sequence[str], seed: int) -> tuple[str, list[Instruction]]:
    """A request and consistent instructions of these kinds."""
    rng = random.Random(seed)
    request = rng.choice(TRAIN).request
    while True:
        words = rng.sample(["garden", "music", "cheap", "window"], 4)
        listed = [
            Instruction(
                instructions.kinds()[name],
                {"prompt_to_repeat": request} if name == "repeat_prompt" else instructions._arguments(name, rng, words),
            )
            for name in names
        ]
        if instructions.consistent(request, "prose", listed):
            return request, listed


@pytest.mark.parametrize("name", instructions.kinds())
def test_every_kind_can_be_followed(name: str) -> None:
    for seed in range(20):
        request, listed = drawn([name], seed)
        assert respond(request, listed), (request, listed)


@pytest.mark.parametrize("pair", instructions.pairs(), ids="+".join)
def test_every_pair_can_be_followed(pair: tuple[str, str]) -> None:
    for seed in range(4):
        request, listed = drawn(pair, seed)
        assert respond(request, listed), (request, listed)


@given(st.data(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_what_is_compatible_two_by_two_can_be_followed(data: st.DataObject, seed: int) -> None:
    names: list[str] = []
    for _ in range(3):
        fit = [name for name in instructions.kinds() if all(instructions.compatible(name, other) for other in names)]
        names.append(data.draw(st.sampled_from(fit)))
    request, listed = drawn(names, seed)
    assert respond(request, listed), (request, listed)


def test_every_problem_can_be_followed() -> None:
    assert [p for p in (*TRAIN, *TEST) if respond(p.request, p.instructions) is None] == []


def test_a_clause_alone_does_not_do() -> None:
    """What is demanded is what makes the responses above right."""
    plain = [p for p in TEST if ifeval.check(CLAUSES["en"][0].capitalize() + ".", p.answer)]
    assert 0.05 < len(plain) / len(TEST) < 0.25
    limits = ("frequency", "letter_frequency", "number_words", "number_sentences", "capital_word_frequency")
    names = {i.kind for p in plain for i in p.instructions}
    assert names <= {*limits, "forbidden_words", "no_comma"}


# ---- conflicts ----

APART = [
    ("english_capital", "english_lowercase"),
    ("json_format", "number_bullet_lists"),
    ("json_format", "no_comma"),
    ("json_format", "end_checker"),
    ("json_format", "quotation"),
    ("response_language", "existence"),
    ("response_language", "english_lowercase"),
    ("repeat_prompt", "quotation"),
    ("repeat_prompt", "no_comma"),
    ("repeat_prompt", "english_capital"),
    ("constrained_response", "english_lowercase"),
    ("number_paragraphs", "two_responses"),
    ("number_paragraphs", "nth_paragraph_first_word"),
    ("number_bullet_lists", "number_highlighted_sections"),
    ("end_checker", "postscript"),
    ("english_lowercase", "capital_word_frequency"),
    ("no_comma", "no_comma"),
]


@pytest.mark.parametrize(("a", "b"), APART)
def test_kinds_that_are_never_together(a: str, b: str) -> None:
    assert not instructions.compatible(a, b)
    assert not instructions.compatible(b, a)


def test_the_tables_name_kinds() -> None:
    known = set(instructions.kinds())
    assert len(known) == 25
    listed = (*instructions._CONFLICTS.values(), *instructions._UNFIT.values())
    assert {name for names in listed for name in names.split()} <= known
    tables = (instructions._CONFLICTS, instructions._ONLY, instructions._WORDS, instructions._SENTENCES)
    assert {name for table in tables for name in table} <= known
    assert set(instructions._ARGUMENTS) == {
        i.partition(":")[2] for i, f in ifeval.INSTRUCTIONS.items() if f.__code__.co_argcount > 1
    } - {"repeat_prompt"}


def test_pairs_of_the_problems() -> None:
    seen = {frozenset((a.kind, b.kind)) for p in TRAIN for a, b in combinations(p.instructions, 2)}
    allowed = {frozenset(pair) for pair in instructions.pairs()}
    assert seen <= allowed
    assert len(allowed) == 222
    assert len(seen) >= 220


WORDS, SENTENCES = "length_constraints:number_words", "length_constraints:number_sentences"
LESS = {"relation": "less than"}
INCONSISTENT: list[list[tuple[str, dict[str, Any]]]] = [
    [(WORDS, {"num_words": 40, **LESS}), (SENTENCES, {"num_sentences": 6, "relation": "at least"})],
    [(WORDS, {"num_words": 100, "relation": "at least"}), (SENTENCES, {"num_sentences": 3, **LESS})],
    [(WORDS, {"num_words": 30, **LESS}), ("detectable_format:number_bullet_lists", {"num_bullets": 6})],
    [(SENTENCES, {"num_sentences": 3, **LESS}), ("detectable_format:number_bullet_lists", {"num_bullets": 4})],
    [
        ("keywords:forbidden_words", {"forbidden_words": ["tree"]}),
        ("keywords:existence", {"keywords": ["bird"]}),
    ],
    [
        ("keywords:letter_frequency", {"letter": "p", "let_frequency": 3, "let_relation": "less than"}),
        ("keywords:frequency", {"keyword": "apple", "frequency": 2, "relation": "at least"}),
    ],
    [("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "Well, that is all."})],
]


@pytest.mark.parametrize("listed", INCONSISTENT)
def test_arguments_that_leave_no_response(listed: list[tuple[str, dict[str, Any]]]) -> None:
    both = [Instruction(*one) for one in listed]
    assert not instructions.consistent("Describe a tree.", "prose", both)
    assert all(instructions.consistent("Describe a house.", "prose", [one]) for one in both)


def test_a_short_text_is_not_to_be_long() -> None:
    long = [Instruction(WORDS, {"num_words": 50, "relation": "at least"})]
    assert instructions.consistent("Write a slogan.", "prose", long)
    assert not instructions.consistent("Write a slogan.", "short", long)


# ---- what the prompts say ----

ORDINALS = {1: "first", 2: "second", 3: "third"}
LANGUAGES = {
    "Spanish": "es",
    "French": "fr",
    "German": "de",
    "Italian": "it",
    "Portuguese": "pt",
    "Polish": "pl",
    "Finnish": "fi",
    "Russian": "ru",
    "Ukrainian": "uk",
    "Bulgarian": "bg",
    "Vietnamese": "vi",
    "Arabic": "ar",
}


def stated(instruction: Instruction, said: str) -> bool:
    """Whether what follows the request in a prompt gives every argument, read without the lists of wordings."""
    n, arguments = instruction.count, dict(instruction.arguments)
    relation = next((arguments.pop(key) for key in tuple(arguments) if key.endswith("relation")), "")
    if relation == "at least":
        number = rf"at least {n} |\b{n} or more |no fewer than {n} |shorter than {n} |\b{n} [a-z]+ or more"
    elif relation == "less than":
        number = rf"(fewer|less) than {n} |under {n} |(at most|more than|longer than) {n - 1} "
    else:
        number = rf"\b{n}\b" if n else ""
    fine = re.search(number, said, re.IGNORECASE) is not None
    for key, value in arguments.items():
        if key in ("keywords", "forbidden_words"):
            fine = fine and all(f'"{word}"' in said for word in value)
        elif key in ("keyword", "letter", "first_word"):
            fine = fine and f'"{value}"' in said
        elif key == "language":
            fine = fine and [LANGUAGES[name] for name in LANGUAGES if name in said] == [value]
        elif key == "nth_paragraph":
            fine = fine and f"the {ORDINALS[value]} " in said.lower()
        elif isinstance(value, str) and key != "prompt_to_repeat":
            fine = fine and value in said
    return fine


def test_prompts_state_the_arguments() -> None:
    for problem in (*TRAIN, *TEST):
        assert problem.prompt.startswith(problem.request)
        said = problem.prompt.removeprefix(problem.request)
        assert all(stated(instruction, said) for instruction in problem.instructions), problem.prompt
        assert problem.topic in problem.request
        assert not re.search(r"[{}]|None|  ", problem.prompt), problem.prompt


def test_what_is_to_be_repeated_is_all_that_stands_before() -> None:
    repeating = [p for p in (*TRAIN, *TEST) if any(i.kind == "repeat_prompt" for i in p.instructions)]
    assert len(repeating) > 100
    for problem in repeating:
        given, _, asked = problem.prompt.partition("\n")
        assert given == problem.request
        assert re.match(
            "Start with a literal copy of the|Before you answer, copy|Begin your response with an exact repetition",
            asked,
        )
        assert {"prompt_to_repeat": given} in [i.arguments for i in problem.instructions]


def test_every_wording_is_used() -> None:
    wordings = instructions._data()["wordings"]
    assert list(wordings) == list(ifeval.INSTRUCTIONS)
    groups = [g for found in wordings.values() for g in (found.values() if isinstance(found, dict) else (found,))]
    listed = [wording for group in groups for wording in group]
    prompts = "\n".join(p.prompt for p in TRAIN)
    assert len(listed) > 90
    for wording in listed:
        assert re.search(re.sub(r"\\{\w+\\}", ".*", re.escape(wording)), prompts), wording


def test_limits_count_what_they_say() -> None:
    """ "At most 59 words" is fewer than 60."""
    (problem,) = [p for p in TRAIN if p.prompt.endswith("The answer must not be longer than 59 words.")][:1]
    words = next(i for i in problem.instructions if i.kind == "number_words")
    assert words.followed("word " * 59)
    assert not words.followed("word " * 60)


# ---- how they are drawn ----


def test_splits_have_nothing_in_common() -> None:
    assert not {p.prompt for p in TRAIN} & {p.prompt for p in TEST}
    assert not {p.topic for p in TRAIN} & {p.topic for p in TEST}
    data = instructions._data()
    for field, forms in data["forms"].items():
        train, test = ({form for shape in forms[split].values() for form in shape} for split in ("train", "test"))
        assert not train & test
        assert all(form.count("{topic}") == 1 and form.format(topic="x") for form in train | test)
        assert not set(data["topics"][field]["train"]) & set(data["topics"][field]["test"])
    assert len({p.topic for p in TRAIN}) > 350
    assert len({p.topic for p in TEST}) > 90


def test_keywords_of_a_topic() -> None:
    for field in instructions._data()["topics"].values():
        for topic, keywords in (field["train"] | field["test"]).items():
            words = keywords.split()
            assert len(set(words)) == 4, topic
            assert all(word.isalpha() and word.islower() for word in words), topic
            assert not any(a != b and a in b for a in words for b in words), topic
            assert not any(re.search(rf"\b{word}", topic, re.IGNORECASE) for word in words), topic


def test_reproducible() -> None:
    assert instructions.problems(50, split="test") == TEST[:50]
    other = instructions.problems(512, split="test", seed=1)
    assert len({p.prompt for p in other} & {p.prompt for p in TEST}) < 10
    assert len({p.prompt for p in TRAIN}) == 4096


def digest(problems: list[InstructionProblem]) -> str:
    return hashlib.sha256("".join(p.prompt + p.answer for p in problems).encode()).hexdigest()[:16]


def test_the_tasks_are_those_that_were_measured() -> None:
    """Another list, number or order makes other problems: results before and after are not to be compared."""
    assert (digest(TRAIN), digest(TEST)) == ("5331185e29236717", "777d33eb919195a7")
    question = "Should I bring a gift to a first dinner at a friend's house?"
    assert TEST[0] == InstructionProblem(
        f"Tell me honestly. {question}\n"
        'Your answer must have exactly 3 bullet points in markdown. Start each with "* ".\n'
        "Answer in English, without any small letter. Every letter is to be a capital.",
        f"Tell me honestly. {question}",
        question,
        (
            Instruction("detectable_format:number_bullet_lists", {"num_bullets": 3}),
            Instruction("change_case:english_capital", {}),
        ),
    )
    assert TEST[0].answer == (
        '[["detectable_format:number_bullet_lists", {"num_bullets": 3}], ["change_case:english_capital", {}]]'
    )


def test_mixture() -> None:
    sizes = Counter(len(p.instructions) for p in TRAIN)
    assert [round(sizes[n] / 4096, 2) for n in (1, 2, 3)] == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.03)
    for problems in (TRAIN[:300], TRAIN[1000:1300], TEST):
        listed = Counter(i.kind for p in problems for i in p.instructions)
        assert set(listed) == set(instructions.kinds())
        assert min(listed.values()) >= len(problems) / 32
        assert max(listed.values()) <= len(problems) / 6


def test_quick() -> None:
    began = time.process_time()
    instructions.problems(4096, split="train")
    assert time.process_time() - began < 5  # 0.7 s where nothing else runs


def test_tasks() -> None:
    train, test = (read_task(f"instructions@{split}") for split in ("train", "test"))
    assert read_task("instructions") == test
    assert (len(train.problems), len(test.problems)) == (4096, 512)
    assert (train.checker, test.checker) == ("ifeval", "ifeval")
    assert [(p.text, p.answer) for p in test.problems] == [(p.prompt, p.answer) for p in TEST]
    assert read_task("instructions@train", limit=3).problems == train.problems[:3]

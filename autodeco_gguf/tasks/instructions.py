"""Everyday requests with instructions that a program can verify: IFEval's 25 kinds, on prompts of our own.

A prompt is a request about a topic and one to three instructions:

    Write a short story about a lonely cloud. Use fewer than 60 words. Do not use any commas.

The training and the test split have no topic and no wording of a request in common. No text of a published benchmark
is in it. The lists stand in ``instructions.json``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from autodeco_gguf.files.reading import read_json
from autodeco_gguf.tasks import ifeval
from autodeco_gguf.tasks.instruction_checks import encode

SPLITS: Mapping[str, int] = {"train": 4096, "test": 512}
"""The splits, and how many problems the task of each has."""

_HOW_MANY = (1, 1, 1, 1, 1, 2, 2, 2, 3)

_COMMON, _LESS_COMMON, _RARE = "etaoinsr", "hdlcumwfgypb", "kvjxqz"
_ORDINALS = ("first", "second", "third")


@lru_cache(maxsize=1)
def _data() -> Any:
    return read_json(Path(__file__).with_suffix(".json"))


@dataclass(frozen=True)
class Instruction:
    """One of ``ifeval.INSTRUCTIONS`` with its arguments."""

    id: str
    arguments: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The id without its group: "no_comma"."""
        return self.id.partition(":")[2]

    @property
    def count(self) -> int:
        """The number in it, 0 where it has none."""
        return next((value for value in self.arguments.values() if isinstance(value, int)), 0)

    @property
    def relation(self) -> str:
        """``"at least"``, ``"less than"``, or ``""`` where the kind has no such argument."""
        return next((str(value) for key, value in self.arguments.items() if key.endswith("relation")), "")

    def followed(self, text: str) -> bool:
        """Whether ``text`` follows it, as IFEval judges."""
        return ifeval.INSTRUCTIONS[self.id](text, **self.arguments)


@dataclass(frozen=True)
class InstructionProblem:
    """A prompt: the request, and what the response has to be like."""

    prompt: str
    request: str
    topic: str
    instructions: tuple[Instruction, ...]

    @property
    def answer(self) -> str:
        """What ``ifeval.check`` takes."""
        return encode([i.id for i in self.instructions], [i.arguments for i in self.instructions])


# ---- what goes together ----

_CONFLICTS = {
    # a paragraph, a section, a point, a response: which of two layouts holds the other is anybody's guess
    "two_responses": "number_paragraphs nth_paragraph_first_word number_bullet_lists multiple_sections number_words "
    "number_sentences letter_frequency frequency capital_word_frequency postscript end_checker quotation repeat_prompt "
    "constrained_response json_format",
    "number_paragraphs": "nth_paragraph_first_word multiple_sections repeat_prompt constrained_response json_format",
    "nth_paragraph_first_word": "multiple_sections number_bullet_lists repeat_prompt constrained_response json_format "
    "title postscript",
    "number_bullet_lists": "constrained_response json_format number_highlighted_sections",  # asterisks for both
    "multiple_sections": "constrained_response json_format",
    # JSON begins and ends as it must, and its brackets and commas are no matter of style
    "json_format": "number_placeholders postscript constrained_response number_highlighted_sections title "
    "repeat_prompt end_checker quotation no_comma number_sentences",
    # words, sentences and letters are English ones
    "response_language": "existence frequency forbidden_words letter_frequency number_sentences multiple_sections "
    "nth_paragraph_first_word postscript constrained_response json_format repeat_prompt end_checker english_capital "
    "english_lowercase capital_word_frequency",
    # what is to be written exactly so has capital and small letters
    "english_capital": "english_lowercase capital_word_frequency constrained_response json_format multiple_sections "
    "repeat_prompt end_checker",
    "english_lowercase": "capital_word_frequency constrained_response multiple_sections repeat_prompt end_checker "
    "postscript",
    # the request counts too, whatever is in it
    "repeat_prompt": "quotation number_sentences letter_frequency frequency capital_word_frequency no_comma",
    "end_checker": "postscript",  # either is the last
    "constrained_response": "number_placeholders",
}
"""Which kinds are never asked for together; it holds both ways."""

_APART = frozenset(pair for a, others in _CONFLICTS.items() for b in others.split() for pair in ((a, b), (b, a)))

_UNFIT = {
    "list": "number_paragraphs nth_paragraph_first_word number_placeholders postscript",
    "verse": "number_bullet_lists multiple_sections json_format number_placeholders postscript number_sentences",
    "short": "number_paragraphs nth_paragraph_first_word number_bullet_lists multiple_sections postscript "
    "number_sentences",
}
"""Which kinds do not suit a shape of text."""

_ONLY = {"constrained_response": ("question",), "number_placeholders": ("message", "event", "job")}
"""Kinds that suit certain topics only."""


def compatible(a: str, b: str) -> bool:
    """Whether two kinds may be asked for together."""
    return a != b and (a, b) not in _APART


# the fewest words and sentences that each of what is asked for takes, generously
_WORDS = {
    "number_words": 1,
    "number_sentences": 6,
    "number_paragraphs": 12,
    "nth_paragraph_first_word": 12,
    "number_placeholders": 3,
    "number_bullet_lists": 5,
    "number_highlighted_sections": 3,
    "multiple_sections": 12,
    "frequency": 5,
    "capital_word_frequency": 3,
    "letter_frequency": 3,
}
_SENTENCES = {
    "number_paragraphs": 1,
    "nth_paragraph_first_word": 1,
    "multiple_sections": 1,
    "number_bullet_lists": 1,
    "constrained_response": 1,
    "end_checker": 1,
    "postscript": 2,
    "two_responses": 2,
}
_SHORT = 40
"""Words of a text that is to be short."""
_SLACK = 25
"""Words that a limit leaves for the rest."""


def consistent(request: str, shape: str, instructions: Sequence[Instruction]) -> bool:
    """Whether the numbers and words of compatible kinds leave a sensible response possible."""
    positive = [i for i in instructions if i.relation != "less than"]
    words = sum(_WORDS.get(i.kind, 0) * i.count for i in positive)
    sentences = 1 + sum(_SENTENCES.get(i.kind, 0) * (i.count or 1) for i in positive)
    if shape == "short" and words > _SHORT:
        return False
    demanded = " ".join(_demanded(request, positive))
    for instruction in instructions:
        limit = instruction.count
        if instruction.kind == "forbidden_words":
            fits = instruction.followed(f"{request} {demanded}")
        elif instruction.kind == "no_comma":
            fits = instruction.followed(demanded)
        elif instruction.relation != "less than":
            fits = True
        elif instruction.kind == "number_words":
            fits = words + len(demanded.split()) + _SLACK <= limit
        elif instruction.kind == "number_sentences":
            fits = sentences < limit and words <= 15 * (limit - 1)
        else:
            fits = instruction.followed(demanded)
        if not fits:
            return False
    return True


def _demanded(request: str, instructions: Sequence[Instruction]) -> Iterator[str]:
    """What a response has to hold, as it is to be written."""
    for instruction in instructions:
        arguments = instruction.arguments
        for key in ("keywords", "keyword", "first_word", "postscript_marker", "section_spliter", "end_phrase"):
            value = arguments.get(key, ())
            repeated = instruction.count if key in ("keyword", "section_spliter") else 1
            yield from ((value,) if isinstance(value, str) else tuple(value)) * repeated
        if instruction.kind == "repeat_prompt":
            yield request
        if instruction.kind == "constrained_response":
            yield "My answer is no."


# ---- arguments ----


def _limit(rng: random.Random, least: Sequence[int], less: Sequence[int]) -> tuple[str, int]:
    relation = rng.choice(("at least", "less than"))
    return relation, rng.choice(least if relation == "at least" else less)


def _frequency(rng: random.Random, words: list[str]) -> dict[str, object]:
    relation, n = _limit(rng, range(2, 4), range(3, 6))
    return {"keyword": words.pop(), "frequency": n, "relation": relation}


def _letter_frequency(rng: random.Random, _: list[str]) -> dict[str, object]:
    letters, relation, least, most = rng.choice(
        (
            (_COMMON, "at least", 10, 30),
            (_LESS_COMMON, "at least", 3, 10),
            (_RARE, "at least", 2, 4),
            (_LESS_COMMON, "less than", 5, 15),
            (_RARE, "less than", 3, 6),
        )
    )
    return {"letter": rng.choice(letters), "let_frequency": rng.randint(least, most), "let_relation": relation}


def _number_words(rng: random.Random, _: list[str]) -> dict[str, object]:
    relation, n = _limit(rng, range(20, 121, 10), range(30, 201, 10))
    return {"num_words": n, "relation": relation}


def _number_sentences(rng: random.Random, _: list[str]) -> dict[str, object]:
    relation, n = _limit(rng, range(2, 7), range(3, 10))
    return {"num_sentences": n, "relation": relation}


def _nth_paragraph(rng: random.Random, _: list[str]) -> dict[str, object]:
    n = rng.randint(2, 3)
    return {"num_paragraphs": n, "nth_paragraph": rng.randint(1, n), "first_word": rng.choice(_data()["first_words"])}


def _capital_words(rng: random.Random, _: list[str]) -> dict[str, object]:
    relation, n = _limit(rng, range(2, 6), range(3, 8))
    return {"capital_frequency": n, "capital_relation": relation}


def _language(rng: random.Random) -> str:
    """One whose words are divided by blanks, so that they can be counted; the first five are known to small models."""
    languages = [*_data()["languages"]]
    return str(rng.choice(languages + languages[:5] * 2))


def _some(rng: random.Random, words: list[str]) -> list[str]:
    """One or two of the words, which leaves at least one to another instruction."""
    return [words.pop() for _ in range(rng.randint(1, max(1, min(2, len(words) - 1))))]


_ARGUMENTS: dict[str, Callable[[random.Random, list[str]], dict[str, object]]] = {
    "existence": lambda rng, words: {"keywords": _some(rng, words)},
    "frequency": _frequency,
    "forbidden_words": lambda rng, words: {"forbidden_words": _some(rng, words)},
    "letter_frequency": _letter_frequency,
    "response_language": lambda rng, _: {"language": _language(rng)},
    "number_words": _number_words,
    "number_sentences": _number_sentences,
    "number_paragraphs": lambda rng, _: {"num_paragraphs": rng.randint(2, 4)},
    "nth_paragraph_first_word": _nth_paragraph,
    "number_placeholders": lambda rng, _: {"num_placeholders": rng.randint(2, 5)},
    "postscript": lambda rng, _: {"postscript_marker": rng.choice(("P.S.", "P.S.", "P.P.S"))},
    "number_bullet_lists": lambda rng, _: {"num_bullets": rng.randint(2, 6)},
    "number_highlighted_sections": lambda rng, _: {"num_highlights": rng.randint(2, 3)},
    "multiple_sections": lambda rng, _: {
        "section_spliter": rng.choice(("Section", "Part", "Chapter", "Step")),
        "num_sections": rng.randint(2, 3),
    },
    "capital_word_frequency": _capital_words,
    "end_checker": lambda rng, _: {"end_phrase": rng.choice(_data()["end_phrases"])},
}
"""What each kind that has arguments draws, from the keywords of the topic that are left, which it takes out."""


# ---- prompts ----


@lru_cache(maxsize=1)
def kinds() -> dict[str, str]:
    """The kinds of instructions, and the id of each."""
    return {i.partition(":")[2]: i for i in ifeval.INSTRUCTIONS}


def pairs() -> list[tuple[str, str]]:
    """The pairs of kinds that may be asked for together."""
    return [pair for pair in combinations(kinds(), 2) if compatible(*pair)]


def problems(n: int, *, split: str, seed: int | str = 0) -> list[InstructionProblem]:
    """``n`` different problems, the same for the same arguments; the first of many are those of few.

    Every 30 problems each kind of instruction is drawn first once, one that is a lower or an upper limit twice.
    """
    rng = random.Random(f"instructions {split} {seed}")
    drawn: dict[str, InstructionProblem] = {}
    first: list[str] = []
    while len(drawn) < n:
        if not first:
            first = [*kinds(), *(k for k, i in kinds().items() if isinstance(_data()["wordings"][i], dict))]
            rng.shuffle(first)
        kind = first.pop()
        while (problem := _draw(kind, split, rng)) is None or problem.prompt in drawn:
            pass
        drawn[problem.prompt] = problem
    return list(drawn.values())


def task(split: str) -> list[tuple[str, str]]:
    """Prompt and answer of each problem of the task of a split: 4,096 of "train", 512 of "test"."""
    return [(problem.prompt, problem.answer) for problem in problems(SPLITS[split], split=split)]


def _draw(first: str, split: str, rng: random.Random) -> InstructionProblem | None:
    """A problem; None where the numbers that were drawn do not go together."""
    data = _data()
    field = rng.choice(_ONLY.get(first, [*data["topics"]]))
    topic, keywords = rng.choice([*data["topics"][field][split].items()])
    forms = [(shape, form) for shape, listed in data["forms"][field][split].items() for form in listed]
    shape, form = rng.choice(forms)
    unfit = _UNFIT.get(shape, "").split()
    if first in unfit:
        return None
    chosen = [first]
    fit = [k for k in kinds() if k not in unfit and field in _ONLY.get(k, (field,))]
    for _ in range(rng.choice(_HOW_MANY) - 1):
        fit = [k for k in fit if compatible(k, chosen[-1])]
        chosen.append(rng.choice(fit))
    request, words = form.format(topic=topic), rng.sample(keywords.split(), 4)
    instructions = tuple(
        Instruction(kinds()[k], {"prompt_to_repeat": request} if k == "repeat_prompt" else _arguments(k, rng, words))
        for k in rng.sample(chosen, len(chosen))
    )
    if not consistent(request, shape, instructions):
        return None
    return InstructionProblem(_prompt(request, instructions, rng), request, topic, instructions)


def _arguments(kind: str, rng: random.Random, words: list[str]) -> dict[str, object]:
    return _ARGUMENTS[kind](rng, words) if kind in _ARGUMENTS else {}


def _prompt(request: str, instructions: Sequence[Instruction], rng: random.Random) -> str:
    """The request and a sentence for each instruction; that it is to be repeated stands right behind it."""
    ordered = sorted(instructions, key=lambda i: i.kind != "repeat_prompt")
    sentences = [_state(instruction, rng) for instruction in ordered]
    by_line = ordered[0].kind == "repeat_prompt" or any("\n" in sentence for sentence in sentences[:-1])
    return ("\n" if by_line else rng.choice((" ", " ", "\n"))).join((request, *sentences))


def _state(instruction: Instruction, rng: random.Random) -> str:
    wordings = _data()["wordings"][instruction.id]
    if instruction.relation:
        wordings = wordings[instruction.relation]
    arguments = instruction.arguments
    words = arguments.get("keywords") or arguments.get("forbidden_words") or [arguments.get("keyword")]
    quoted = [f'"{word}"' for word in words]
    return str(rng.choice(wordings)).format(
        n=instruction.count,
        m=instruction.count - 1,
        words=" and ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1]))),
        letter=arguments.get("letter"),
        language=_data()["languages"].get(arguments.get("language")),
        nth=_ORDINALS[arguments.get("nth_paragraph", 1) - 1],
        word=arguments.get("first_word"),
        marker=arguments.get("postscript_marker"),
        splitter=arguments.get("section_spliter"),
        phrase=arguments.get("end_phrase"),
    )

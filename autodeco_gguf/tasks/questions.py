"""Open questions with closed lists of right answers: "Name one fruit.", "I need a Greek letter. Which one ...?".

``questions.json`` has the kinds, in groups: kinds that share members or that say much about one another are of one
group, and a group stands on one side, train or test, so that no kind of the test is half known from training.
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.reading import read_json

DATA = Path(__file__).parent / "questions.json"
SIDES = ("train", "test")

WORDINGS = (
    "Name one {noun}.",
    "Give me an example of one {noun}.",
    "Can you tell me {a_noun}?",
    "I need {a_noun}. Which one do you suggest?",
    "Name {a_noun}, please.",
    "Think of {a_noun}. What is it?",
    "Tell me the name of one {noun}.",
    "Pick {a_noun} for me.",
    "What is an example of {a_noun}?",
    "What is one {noun}?",
    "Which {noun} comes to your mind?",
    "Please give an example of one {noun}.",
)
"""Of which each kind is asked with ``PER_KIND``."""

PER_KIND = 4

Words = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Kind:
    """What is asked for, and all that is right.

    Attributes:
        name: what stands for it as the answer of a problem.
        group: of related kinds.
        side: "train" or "test".
        asks: what the question calls it, with the article: "a country in Africa".
        names: each way to write a member, as ``words`` splits it, to the member.
        common: the members are everyday words, which say little where another kind is asked for.
        gaps: of names that have signs within, as ``signed_gaps`` gives them.
    """

    name: str
    group: str
    side: str
    asks: tuple[str, ...]
    names: Mapping[Words, str]
    common: bool = False
    gaps: Mapping[Words, Sequence[str]] = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """Each right answer once, as the list has it."""
        return list(dict.fromkeys(self.names.values()))


@lru_cache(maxsize=1)
def kinds() -> Mapping[str, Kind]:
    """Every kind by its name, in the order of the file, where a comma within a name has no space behind it."""
    out = {}
    for group, entry in read_json(DATA).items():
        for name, given in entry["kinds"].items():
            lines = (line.split(", ") for line in given["members"])
            listed = [member.replace(",", ", ").split("|") for member in itertools.chain.from_iterable(lines)]
            asks, common = tuple(given["ask"]), given.get("common", False)
            out[name] = Kind(name, group, entry["side"], asks, spellings(listed), common, signed_gaps(listed))
    return out


def problems(side: str = "test") -> list[tuple[str, str]]:
    """The questions of a side, each with the name of its kind: (prompt, answer).

    Every kind is asked ``PER_KIND`` times, each time otherwise. The first questions, as many as there are kinds, are
    one of each, in an order drawn once and for all, then comes another of each: with any limit it is a fair sample.

    Raises:
        InvalidInput: another side.
    """
    if side not in SIDES:
        message = f"split {side!r}, expected {' or '.join(SIDES)}"
        raise InvalidInput(message, key="split", found=side, expected=SIDES)
    asked = [kind for kind in kinds().values() if kind.side == side]
    wordings = {kind.name: random.Random(f"wordings {kind.name}").sample(WORDINGS, PER_KIND) for kind in asked}
    out = []
    for turn in range(PER_KIND):
        random.Random(f"order {side} {turn}").shuffle(asked)
        for kind in asked:
            a_noun = kind.asks[turn % len(kind.asks)]
            prompt = wordings[kind.name][turn].format(a_noun=a_noun, noun=without_article(a_noun))
            out.append((prompt, kind.name))
    return out


def without_article(noun: str) -> str:
    """``"a fruit"`` to ``"fruit"``."""
    return re.sub("^(?:an?|the|one) ", "", noun)


# ---- words ----

_WORD = re.compile(r"[a-z](?:\+\+|#)|[0-9][0-9,]*(?:\.[0-9]+)?[^\W\d_]*|[^\W\d_]+(?:'[^\W\d_]+)*|\d+")


def words(text: str) -> Words:
    """Lower case, without accents, punctuation and possessives; hyphens part words.

    Examples:
        >>> words("Côte d'Ivoire")
        ('cote', "d'ivoire")
        >>> words("**Valentine's Day**, C++ and 1,024")
        ('valentine', 'day', 'c++', 'and', '1024')
        >>> words("...")
        ()
    """
    return tuple(word for word, _ in spaced_words(text))


def spaced_words(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with what stands between it and the next."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    found = list(_WORD.finditer(plain))
    ends = [*(match.start() for match in found), len(plain)][1:]
    return [
        (match[0].rstrip(",").replace(",", "").removesuffix("'s"), plain[match.end() : end])
        for match, end in zip(found, ends, strict=False)  # of no word there is one end
    ]


def spellings(members: Iterable[Iterable[str]]) -> dict[Words, str]:
    """Every way to write the members: their aliases, plurals, and numbers in words.

    Args:
        members: the aliases of each, the first of which stands for it. An alias of one member is no plural of another.
    """
    listed = [(alias, names[0]) for names in map(tuple, members) for alias in names]
    out = {words(alias): member for alias, member in listed}
    for alias, member in listed:
        *first, last = words(alias)
        for plural in _plurals(last):
            out.setdefault((*first, plural), member)
        if number := _IN_WORDS.get(alias.lstrip("0")):
            out.setdefault(words(number), member)
    return out


SIGN = re.compile(r"[!?:;,\n]")
"""What parts names, but where one has it itself: "Mission: Impossible"."""


def signed_gaps(members: Iterable[Iterable[str]]) -> dict[Words, list[str]]:
    """What stands between the words of each alias that has a sign there, and behind the last."""
    spaced = [spaced_words(alias) for names in members for alias in names if SIGN.search(alias)]
    return {tuple(word for word, _ in alias): [gap for _, gap in alias] for alias in spaced}


def _plurals(word: str) -> list[str]:
    if len(word) < 3 or not word.isalpha():
        return []
    if word.endswith("y"):
        return [word + "s", word[:-1] + "ies"]
    if word.endswith(("f", "fe")):
        return [word + "s", word.rstrip("e")[:-1] + "ves"]
    return [word + "s", word + "es"]


_ONES = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = dict(enumerate(_ONES, 2))
_NUMBERS |= {10 * i: ten for i, ten in enumerate(_TENS, 2)}
_NUMBERS |= {
    n: f"{_NUMBERS[n - n % 10]} {'one' if n % 10 == 1 else _NUMBERS[n % 10]}" for n in range(21, 100) if n % 10
}
"""In words, from 2: "one" is more often no number."""

_IN_WORDS = {str(number): word for number, word in _NUMBERS.items()}

DIGITS = {word: digits for digits, word in _IN_WORDS.items()}

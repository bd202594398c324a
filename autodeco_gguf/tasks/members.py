"""Which member of a closed list a response names first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.files.jsonl import parse_line
from autodeco_gguf.tasks.questions import (
    DIGITS,
    SIGN,
    Kind,
    Words,
    kinds,
    signed_gaps,
    spaced_words,
    spellings,
    words,
)

_EXPECTED = 'the name of a kind of question, or a list of members such as ["apple", ["aubergine", "eggplant"]]'


def check(text: str, answer: str) -> bool:
    """Whether what a response names first is a member of the asked kind.

    ``answer`` is the name of a kind of ``questions.json``, or a list of one's own, as JSON; InvalidInput where it is
    neither. Case, accents, plurals and markup do not count, nor does LaTeX around a name. Of names that begin at one
    word the longest counts, of any kind: "orange juice" is no orange. Wrong is a response that first

    - names a member of another kind ("a carrot, or an apple"), unless it only describes: behind "in", "of" and the
      like, or right before a member or a word of the question ("a Paris museum");
    - names what no list has, in an opening that has no word of the question ("The Golden Gate Bridge is a river").

    Of a list of one's own the question isn't known: what is no member is passed over, but for a number in numbers.
    What follows "not", "unlike" and the like is passed over, and so are the words of the question itself; its number,
    where that is a member too, only behind "of" or "by". A punctuation mark may be the sign alone.

    Examples:
        >>> check("One fruit is the mango, another one is the pear.", "fruit")
        True
        >>> check("A carrot, or an apple", "fruit")
        False
    """
    return first_member(text, answer) is not None


def first_member(text: str, answer: str) -> str | None:
    """The member that a response names first, as the list has it; None where ``check`` takes it for wrong."""
    kind = parse(answer)
    text = _STOCK.sub("", _MARKER.sub("", _COMMAND.sub("", text)))
    spaced = spaced_words(text)
    if not spaced:
        return kind.names.get(words(_sign(text))) if kind.name == "punctuation mark" else None
    said = tuple(word for word, _ in spaced)
    gaps = [gap for _, gap in spaced]
    opening = list(said)
    at = 0
    while at < len(said):
        length, member = _named(said, gaps, at, kind)
        echo = _echo(said, at, kind)
        if echo >= length and echo:
            at += echo
        elif member is not None and not _negated(said, at):
            return None if kind.asks and _other_subject(opening[:at], gaps, _asked_words(kind)) else member
        elif not length:
            at += 1
        elif _negated(said, at) or _describes(said, gaps, at, length, kind):
            opening[at : at + length] = ["not"] * length  # a filler
            at += length
        else:
            return None
    return None


@lru_cache(maxsize=1024)
def parse(answer: str) -> Kind:
    """The kind that an answer stands for; InvalidInput where it is neither a kind's name nor a list of members."""
    if answer in kinds():
        return kinds()[answer]
    try:
        given = parse_line(answer.encode("utf-8", "surrogatepass"))
    except AutoDecoError:
        given = None
    entries = [[entry] if isinstance(entry, str) else entry for entry in given] if isinstance(given, list) else []
    if not entries or not all(
        isinstance(entry, list) and entry and all(isinstance(alias, str) and words(alias) for alias in entry)
        for entry in entries
    ):
        shown = answer if len(answer) <= 100 else f"{answer[:100]} ..."
        raise InvalidInput(f"answer {shown!r}: expected {_EXPECTED}", key="answer", found=answer, expected=_EXPECTED)
    return Kind(answer, "", "", (), spellings(entries), gaps=signed_gaps(entries))


# ---- names in a text ----

_MARKER = re.compile(r"^[ \t]*1[.)][ \t]+(?=\S)|\b(?:e\.g\.|i\.e\.)", re.MULTILINE)
"""Of a list's first line; and what would be letters."""

_COMMAND = re.compile(r"\\[A-Za-z]+\s*\{\s*\}?")
"""Of LaTeX, such as a box, which would be a word."""


_STOCK = re.compile(
    r"\b(?:i(?:['\u2019]m| am) (?:so |very |really )?(?:sorry|happy|glad)|(?:sorry|no)(?=, i\b)|no problem"
    r"|happy to help|(?:i(?:['\u2019]d| would) )?(?:love|be happy|be glad) to|i hope"
    r"|as an? (?:ai|(?:ai |large )?language) model|(?:let['\u2019]s|i(?:['\u2019]d| would|['\u2019]ll)) go with"
    r"|(?:i|we|you|to|me|would|could|can|may|might|will|['\u2019](?:d|ll)) pick|(?:i|we|you|it) may"
    r"|may i (?:offer|propose|recommend|suggest)|(?:here|there) you go|let us"
    r"|(?:give me|take) a (?:second|minute|moment))\b",
    re.IGNORECASE,
)
"""What chat models begin with, and is no name: there are a game Sorry, a game Go, an emotion Love, a gas NO."""


def _set(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_ARTICLES = _set("a an the")
_NEGATIONS = _set("not isn't aren't wasn't never no neither except besides unlike excluding without")
_DESCRIBING = _set("in of from by near on at for to with among between during across around through under into")
_COMMON = _set(
    "one two three first second may will can mark lead iron right left like go do great good fine well may march "
    "august mint date sage rose lime turkey china even back hand light time world earth man woman human people name "
    "names word words thing things example answer choice question state country city place home house day year "
    "english american european british french german italian spanish japanese chinese latin greek roman "
    "gold silver spring summer fall autumn winter fruit vegetable animal food drink water list top"
)
"""Members of one kind or another that a response also has where it names nothing."""

_FILLERS = _set(
    "a an the this that these those it its here there one some any each i i'd i'll i'm i've you you'd you'll we "
    "we'll let let's me my your our us is are was be been could would should can may might must will do does did "
    "have has of in on for to from with by at as and or so if then but not just only also even very most more much "
    "many well sure yes okay ok certainly absolutely definitely course great good nice fine popular common known "
    "famous favorite favorites favourite favourites personal best perfect interesting simple classic typical hello "
    "hi hey thanks thank please question answer example examples instance name names named called choice option "
    "options suggestion pick thing first mind think thinking thought know say tell give like love prefer suggest "
    "recommend try trying consider choose choosing go going mention happy help happily glad how about what which "
    "who when where all both list following below come comes came mean means need needs want look looking wants "
    "always now today sorry type kind sort hm hmm um oh ah alright gladly"
)
"""Words of an opening that name nothing."""

_LEADS = _set(
    "about after although as at because before by during for from here how i i'd i'll i'm i've if in let let's like no "
    "of on please since sorry there though to we we'll well what when where while with yes you you'd you'll"
)
"""First words of what is no name, but goes before one: "When it comes to taste, ...", "I'm glad to help. ..."."""

_COPULAS = _set("is are was were")

_SIGNS = {
    "full stop": ".",
    "comma": ",",
    "question mark": "?",
    "exclamation mark": "!",
    "colon": ":",
    "semicolon": ";",
    "apostrophe": "'\u2019",
    "quotation mark": '"',
    "hyphen": "-",
    "dash": "\u2013\u2014",
    "parenthesis": "()",
    "bracket": "[]",
    "brace": "{}",
    "ellipsis": "\u2026",
    "slash": "/\\",
    "ampersand": "&",
    "asterisk": "*",
    "bullet": "\u2022",
    "at sign": "@",
    "hash": "#",
    "tilde": "~",
    "underscore": "_",
    "interrobang": "\u203d",
    "pilcrow": "\u00b6",
}


def _sign(text: str) -> str:
    """The name of the sign that a text is, perhaps in quotes or a box; empty for another text."""
    bare = text.strip()
    bare = bare if len(bare) == 1 else bare.strip("\"'`*_ {}$\u201c\u201d\u2018\u2019")
    return next((name for name, signs in _SIGNS.items() if len(bare) == 1 and bare in signs), "")


def _named(said: Words, gaps: Sequence[str], at: int, kind: Kind) -> tuple[int, str | None]:
    """The longest name at a place: how many words, 0 where there is none, and the member if it is one."""
    others = _others()
    for length in range(min(_longest(kind), len(said) - at), 0, -1):
        span = said[at : at + length]
        member = kind.names.get(span)
        number = length == 1 and said[at][0].isdigit() and _numeric(kind)
        if member is None and span not in others and not number:
            continue
        own = kind.gaps.get(span, [""] * length)
        if any(set(SIGN.findall(gap)) - set(mark) for gap, mark in zip(gaps[at : at + length - 1], own, strict=False)):
            continue
        if member is None or not _article(said, gaps, at, length):
            return length, member
    return 0, None


@lru_cache(maxsize=1)
def _others() -> frozenset[Words]:
    """The names that say that something is named, whatever is asked for."""
    found = {name for kind in kinds().values() if not kind.common for name in kind.names}
    return frozenset(name for name in found if len("".join(name)) > 3 and not _COMMON.issuperset(name))


@lru_cache(maxsize=1024)
def _longest(kind: Kind) -> int:
    return max(map(len, (*kind.names, *_others())))


@lru_cache(maxsize=1024)
def _numeric(kind: Kind) -> bool:
    return all(member.isdigit() for member in kind.members)


def _article(said: Words, gaps: Sequence[str], at: int, length: int) -> bool:
    """Whether what could be the letter A or I is a word of the sentence."""
    following = said[at + 1] if at + 1 < len(said) else ""
    return length == 1 and said[at] in ("a", "i") and gaps[at] == " " and following not in _COPULAS


def _echo(said: Words, at: int, kind: Kind) -> int:
    """How many words of the question stand here in its own order, or 1 for a single one."""
    for phrase in _phrases(kind):
        if said[at : at + len(phrase)] == phrase:
            return len(phrase)
    word = said[at]
    if (word,) in kind.names and (word.isdigit() or word in DIGITS):
        before = [one for one in said[max(at - 3, 0) : at] if one not in ("the", "number")]
        if before[-1:] not in (["of"], ["by"]):
            return 0
    return int(word in _asked_words(kind))


@lru_cache(maxsize=1024)
def _phrases(kind: Kind) -> tuple[Words, ...]:
    """What the question calls the kind, longest first, without the article."""
    phrases = [words(noun) for noun in kind.asks]
    phrases = [phrase[1:] if phrase[0] in _ARTICLES else phrase for phrase in phrases]
    return tuple(sorted(phrases, key=len, reverse=True))


@lru_cache(maxsize=1024)
def _asked_words(kind: Kind) -> frozenset[str]:
    """The words of the question that are not every question's, in singular and plural, and numbers in digits."""
    content = {word for phrase in _phrases(kind) for word in phrase} - _FILLERS
    content |= {DIGITS[word] for word in content & DIGITS.keys()}
    content |= {word.removesuffix("s") for word in content} | {re.sub("ies$", "y", word) for word in content}
    return frozenset(word for name in spellings([word] for word in content) for word in name)


def _negated(said: Words, at: int) -> bool:
    before = [word for word in said[max(at - 2, 0) : at] if word not in _ARTICLES]
    return bool(before) and before[-1] in _NEGATIONS


def _describes(said: Words, gaps: Sequence[str], at: int, length: int, kind: Kind) -> bool:
    """Whether a name of another kind only describes: "a fruit of Brazil is ...", "a Brazil nut".

    For a list of one's own every name does, but for numbers where that has them: what it is asked with isn't known.
    """
    if not kind.asks and not _numeric(kind):
        return True
    before = [word for word in said[max(at - 2, 0) : at] if word not in _ARTICLES]
    if before and before[-1] in _DESCRIBING:
        return True
    after = at + length
    if after >= len(said) or gaps[after - 1].strip():
        return False
    return said[after] in _asked_words(kind) or _named(said, gaps, after, kind)[1] is not None


def _other_subject(said: Sequence[str], gaps: Sequence[str], asked: frozenset[str]) -> bool:
    """Whether the opening, up to a first sign or verb, names something although it has no word of the question."""
    segment: list[str] = []
    for word, gap in zip(said, gaps, strict=False):
        if word not in _COPULAS:
            segment.append(word)
            initial = len(word) == 1 and gap.startswith(".")
            if initial or not re.search(r"[^\s\"'*_`]", gap):
                continue
        if asked.intersection(segment):
            return False
        leads_on = not segment or segment[0] in _LEADS or segment[-1] in _FILLERS or gap.startswith(":")
        if not leads_on and not _FILLERS.issuperset(segment):
            return True
        segment = []
    return False

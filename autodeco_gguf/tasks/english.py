"""English text as sentences and tokens, by rules that come close to NLTK's trained splitter and its tokenizer."""

from __future__ import annotations

import re
import string
from itertools import zip_longest

STOP_WORDS = frozenset(
    str.split(
        # articles, conjunctions, prepositions, adverbs
        "a an the and but if or because as until while of at by for with about against between into through during "
        "before after above below to from up down in out on off over under again further then once here there when "
        "where why how all any both each few more most other some such no nor not only own same so than too very now "
        "just "
        # pronouns
        "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers "
        "herself it its itself they them their theirs themselves what which who whom this that these those "
        # verbs, and what an apostrophe divides them into
        "am is are was were be been being have has had having do does did doing can will should s t d ll m o re ve y "
        "ain aren couldn didn doesn don hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn"
    )
)
"""NLTK's, as far as they are words without an apostrophe."""

# ---- sentences ----

_CLOSING = "\"')\\]}\u2018\u2019\u201c\u201d"
_MARK = re.compile(rf"[.!?](?=[{_CLOSING}([{{;*:@!?])")
"""An end of a sentence within a word: before a bracket, a quotation mark or another mark."""

_CLOSERS = re.compile(rf"[{_CLOSING}]+(?=\s|$)")
_BEFORE_NAME = re.compile(r"[()\"`{\[:;&#*@}\]!?]|--+|,(?=.)|(?=')")
_NUMBER = re.compile(r"-?[.,]?[0-9][0-9,.-]*")
_WORD = re.compile(r"[\w'-]+")

_ABBREVIATIONS = frozenset(
    str.split(
        "mr mrs ms messrs dr prof st sen rep reps gen col lt maj adm sr jr inc ltd co cos corp bros ave vs v yr ft mg "
        "ph.d jan feb aug sep sept oct nov dec u.s u.s.a u.k u.n d.c n.y l.a a.m p.m calif conn fla ga ill minn tenn "
        "va wash wis"
    )
)
_INITIALS = frozenset("cdefghklmnprstvw")
"""Letters that never end a sentence before a full stop; the others do, before a word that is no name."""

_OPENERS = frozenset(
    str.split(
        "according although always among anyone being consider despite either even ever finally however indeed instead "
        "many meanwhile moreover nevertheless nonetheless nothing please remember separately similarly since sometimes "
        "soon still though thus unless us whether within without yes yet your he i if in it most nor but so some the "
        "there these they this under when while both her here into such them through were which"
    )
)
"""Words that begin a sentence where they have a capital."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the white space around them.

    As NLTK's: a quotation mark or bracket that closes belongs to the sentence before it, an asterisk to the next one;
    line breaks end nothing; the number of a list, "1.", is a sentence.
    """
    found, begin = [], 0
    parts = list(re.finditer(r"\S+", text))
    for word, following in zip_longest(parts, parts[1:]):
        if following and word[0][-1] in ".!?":
            at, after, rest = len(word[0]), following[0], following.start()
        elif marks := [match.end() for match in _MARK.finditer(word[0])]:
            at, after, rest = marks[-1], word[0][marks[-1]], word.start() + marks[-1]
        else:
            continue
        if _ends_sentence(word[0][:at], after):
            end = word.start() + at
            if closers := _CLOSERS.match(text, rest):
                end = rest = closers.end()
            found.append(text[begin:end].strip())
            begin = rest
    return [sentence for sentence in (*found, text[begin:].strip()) if sentence]


def _ends_sentence(word: str, following: str) -> bool:
    """Whether the mark at the end of ``word`` ends a sentence; ``following`` is the next word or a bracket or mark."""
    if word[-1] in "!?":
        return True
    name = _BEFORE_NAME.split(word[:-1])[-1].lower()
    capital = _WORD.match(following) if following[0].isupper() else None
    next_word = capital[0].lower() if capital else ""
    if name in _INITIALS:
        return False
    if name.endswith(".") or name.rpartition("-")[2] in _ABBREVIATIONS:
        return next_word in _OPENERS
    letter = len(name) == 1 and name.isalpha()
    if (letter or _NUMBER.fullmatch(name)) and (following[0].islower() or following[0] in ";:,.!?"):
        return False
    return not (letter and capital) or next_word in _OPENERS or next_word in STOP_WORDS


# ---- tokens ----

_APART = ';@#$%&?!*()\\[\\]{}<>"\u201c\u201d\u201e\xab\xbb\u2018\u2019\u2014'
_PIECE = re.compile(rf"\.{{2,}}|--|`+|[{_APART}]|[,:](?![0-9])|(?:[^\s{_APART}`.,:-]|\.(?!\.)|-(?!-)|[,:](?=[0-9]))+")
_DIVIDED = re.compile(
    r"(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|([^'].*?)(n't|'(?:s|m|d|ll|re|ve)?)", re.IGNORECASE
)
_CLITIC = re.compile(r"'(?:s|t|m|d|n|ll|re|ve)", re.IGNORECASE)


def tokens(text: str) -> list[str]:
    """Words and punctuation, as the Penn Treebank has them: "don't" is two, the full stop that ends a sentence is one.

    A double quotation mark is "''".
    """
    return [token for sentence in sentences(text) for token in _tokens(sentence)]


def _tokens(sentence: str) -> list[str]:
    body = sentence.rstrip("])}>\"'\xbb\u201d\u2019 ")
    stop = len(body) - 1 if body.endswith(".") and not body.endswith("..") else len(sentence)
    found: list[str] = []
    for part in (sentence[:stop], sentence[stop : stop + 1], sentence[stop + 1 :]):
        for piece in _PIECE.findall(part):
            word = "''" if piece == '"' else piece
            if word.startswith("'") and word.strip("'") and not _CLITIC.fullmatch(word):
                found.append("'")
                word = word[1:]
            divided = _DIVIDED.fullmatch(word)
            found += [half for half in divided.groups() if half] if divided else [word]
    return found


# ---- words ----

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """What white space divides, without ASCII punctuation: "can't - well-known" is "cant" and "wellknown"."""
    return text.translate(_NO_PUNCTUATION).split()


EDGES = string.punctuation + " "
"""What is stripped off words and lines."""

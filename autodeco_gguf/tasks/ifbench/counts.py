"""IFBench's instructions on numbers and ratios: of words, of kinds of words, of sentences."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from autodeco_gguf.tasks.english import EDGES, STOP_WORDS, sentences, tokens, words

_NAMES = str.split(
    "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin "
    "Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria "
    "Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella "
    "Jonathan"
)
"""Those that the prompts list."""

_CONJUNCTIONS = frozenset(str.split("and but for nor or so yet"))
_PRONOUNS = frozenset(
    str.split(
        "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her "
        "hers herself it its itself they them their theirs themselves this that these those who whom whose which what "
        "whoever whomever whatever whichever anybody anyone anything everybody everyone everything nobody nothing "
        "somebody someone something each either neither both all some any none"
    )
)


# ---- count ----


def _word_count_range(text: str, min_words: int, max_words: int) -> bool:
    return min_words <= len(re.findall(r"\w+", text)) <= max_words


def _unique_word_count(text: str, N: int) -> bool:
    """At least so many different words; all that is punctuation alone is one, as published."""
    return len({word.strip(EDGES) for word in text.lower().split()}) >= N


def _conjunctions(text: str, small_n: int) -> bool:
    """At least so many spellings of coordinating conjunctions; "and", "And" and "and," are three, as published."""
    return len({word for word in text.split() if word.strip(EDGES).lower() in _CONJUNCTIONS}) >= small_n


def _person_names(text: str, N: int) -> bool:
    return sum(re.search(rf"\b{name}\b", text) is not None for name in _NAMES) >= N


def _numbers(text: str, N: int) -> bool:
    """Exactly so many numbers; "1,000.5" is one."""
    return len(re.findall(r"\d+", " ".join(words(text)))) == N


def _punctuation(text: str) -> bool:
    """All of ``. , ! ? ; :`` besides an interrobang."""
    interrobang = next((mark for mark in ("?!", "!?", "\u203d") if mark in text), None)
    if interrobang is None:
        return False
    return set(".,!?;:") <= set(text if interrobang == "\u203d" else text.replace(interrobang, "", 1))


def _words_japanese(text: str, N: int) -> bool:
    """Every ``N``-th word has a Japanese character, or is a number or punctuation."""
    found = [word.strip(EDGES) for word in text.split()[N - 1 :: N]]
    return all(re.search("[\u3040-\u30ff\u4e00-\u9fff]", word) for word in found if word and not word.isdigit())


def _pronouns(text: str, N: int) -> bool:
    return sum(token in _PRONOUNS for token in tokens(text.lower().replace("/", " "))) >= N


def _keywords_multiple(text: str, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    """They occur once, twice, three, five and seven times, also within words."""
    counts = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(text.lower().count(keyword.strip().lower()) == count for keyword, count in counts)


# ---- ratio ----


def _stop_words(text: str, percentage: float) -> bool:
    """At most so many of a hundred words are stop words."""
    found = re.findall(r"\w+", text.lower())
    return bool(found) and sum(word in STOP_WORDS for word in found) / len(found) * 100 <= percentage


def _ending(text: str) -> tuple[int, int, int]:
    """The sentences that end with a full stop, a question mark and an exclamation mark."""
    found = sentences(text)
    stops, questions, exclamations = (sum(sentence.endswith(mark) for sentence in found) for mark in ".?!")
    return stops, questions, exclamations


def _sentence_type(text: str) -> bool:
    """Twice as many statements as questions; none of either will do, as published."""
    statements, questions, _ = _ending(text)
    return statements == 2 * questions


def _sentence_balance(text: str) -> bool:
    return len(set(_ending(text))) == 1


def _overlap(text: str, reference_text: str, percentage: float) -> bool:
    """So many of a hundred different groups of three characters occur in the reference, two more or less."""
    groups, reference = ({t[i : i + 3] for i in range(len(t) - 2)} for t in (text, reference_text))
    return bool(groups) and percentage - 2 <= len(groups & reference) / len(groups) * 100 <= percentage + 2


def _sentence_words(text: str) -> bool:
    """Three sentences of the same length; that their words differ is not looked at, as published."""
    found = sentences(text)
    return len(found) == 3 and len(set(map(len, found))) == 1


# ---- sentence ----


def _alliteration_increment(text: str) -> bool:
    """Each sentence has more words that begin as their neighbour does than the one before it."""
    before = -1
    for sentence in sentences(text):
        initials = [word.lstrip(EDGES)[:1] for word in sentence.lower().split()]
        same = [a == b for a, b in pairwise(filter(None, initials))]
        # a run of n pairs is n + 1 words
        count = sum(same) + sum(pair and not last for last, pair in pairwise([False, *same]))
        if count <= before:
            return False
        before = count
    return True


def _keyword(text: str, word: str, N: int) -> bool:
    """The ``N``-th sentence has the word, on its own and in any case."""
    return any(re.search(rf"\b{re.escape(word)}\b", sentence, re.IGNORECASE) for sentence in sentences(text)[N - 1 : N])


def _increment(text: str, small_n: int) -> bool:
    """Each sentence has exactly ``small_n`` words more than the one before it."""
    return all(b - a == small_n for a, b in pairwise(len(words(sentence)) for sentence in sentences(text)))


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "count:word_count_range": _word_count_range,
    "count:unique_word_count": _unique_word_count,
    "count:conjunctions": _conjunctions,
    "count:person_names": _person_names,
    "count:numbers": _numbers,
    "count:punctuation": _punctuation,
    "count:words_japanese": _words_japanese,
    "count:pronouns": _pronouns,
    "count:keywords_multiple": _keywords_multiple,
    "ratio:stop_words": _stop_words,
    "ratio:sentence_type": _sentence_type,
    "ratio:sentence_balance": _sentence_balance,
    "ratio:overlap": _overlap,
    "ratio:sentence_words": _sentence_words,
    "sentence:alliteration_increment": _alliteration_increment,
    "sentence:keyword": _keyword,
    "sentence:increment": _increment,
}

"""IFBench's instructions on words: which, how long, how often, in what order."""

from __future__ import annotations

import importlib
import string
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from autodeco_gguf.errors import not_installed
from autodeco_gguf.tasks.english import EDGES, sentences, tokens, words
from autodeco_gguf.tasks.ifbench.verbs import starts_with_verb

_CONSONANTS = frozenset("bcdfghjklmnpqrstvwxyz")
_PRIMES = frozenset(n for n in range(2, 100) if all(n % d for d in range(2, n)))


def _alphabet(text: str) -> bool:
    """Each word begins with the letter after that of the word before it, A after Z."""
    initials = [ord(word[0]) - ord("a") for word in words(text.lower())]
    if not initials or not 0 <= initials[0] < 26:
        return False
    return all(letter == (before + 1) % 26 for before, letter in pairwise(initials))


def _vowel(text: str) -> bool:
    """One line with at most three of the five vowels."""
    return "\n" not in text.strip() and len(set(text.lower()) & set("aeiou")) <= 3


def _consonants(text: str) -> bool:
    """Each word has two consonants side by side."""
    return all(any(_CONSONANTS.issuperset(pair) for pair in pairwise(word)) for word in text.lower().split())


def _palindrome(text: str) -> bool:
    """At least ten words of five letters or more are the same backwards."""
    return sum(len(word) >= 5 and word == word[::-1] for word in words(text.lower())) >= 10


def _prime_lengths(text: str) -> bool:
    return all(len(word) in _PRIMES for word in words(text))


def _repeats(text: str, small_n: int) -> bool:
    """No word occurs more than ``small_n`` times."""
    return max(Counter(words(text.lower())).values(), default=0) <= small_n


def _no_consecutive(text: str) -> bool:
    """No two words in a row begin with the same letter."""
    return all(before[0] != word[0] for before, word in pairwise(words(text.lower())))


def _odd_even_syllables(text: str) -> bool:
    """Words with an odd and with an even number of syllables alternate."""
    count = _syllapy().count
    return all(count(before) % 2 != count(word) % 2 for before, word in pairwise(words(text.lower())))


def _syllapy() -> Any:
    try:
        return importlib.import_module("syllapy")
    except ImportError as e:
        raise not_installed("syllapy is not installed", "syllapy", "eval") from e


def _last_first(text: str) -> bool:
    """The last word of each sentence is the first of the next one."""
    parts = [sentence.lower() for sentence in sentences(text)]
    ends = ((before.rstrip(EDGES).split()[-1:], part.lstrip(EDGES).split()[:1]) for before, part in pairwise(parts))
    return all(last == first != [] for last, first in ends)


def _paragraph_last_first(text: str) -> bool:
    """Each line ends with the word that it begins with."""
    parts = [line.strip().strip(EDGES).lower().split() for line in text.split("\n")]
    return all(part[0] == part[-1] for part in parts if part)


def _keywords_specific_position(text: str, keyword: str, n: int, m: int) -> bool:
    """The ``m``-th word of the ``n``-th sentence is the keyword; punctuation is no word."""
    found = [token for sentence in sentences(text)[n - 1 : n] for token in tokens(sentence)]
    found = [token for token in found if any(map(str.isalnum, token))]
    return len(found) >= m and found[m - 1].lower() == keyword.strip().lower()


def _words_position(text: str, keyword: str) -> bool:
    """The second word and the second to last are the keyword; of punctuation, the last mark alone is no word."""
    found = [token.lower() for token in tokens(text)]
    if found and found[-1] in string.punctuation:
        found.pop()
    return len(found) >= 2 and found[1] == found[-2] == keyword.strip().lower()


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "words:alphabet": _alphabet,
    "words:vowel": _vowel,
    "words:consonants": _consonants,
    "words:palindrome": _palindrome,
    "words:prime_lengths": _prime_lengths,
    "words:start_verb": starts_with_verb,
    "words:repeats": _repeats,
    "words:odd_even_syllables": _odd_even_syllables,
    "words:last_first": _last_first,
    "words:paragraph_last_first": _paragraph_last_first,
    "words:no_consecutive": _no_consecutive,
    "words:keywords_specific_position": _keywords_specific_position,
    "words:words_position": _words_position,
}
PACKAGES = {"words:odd_even_syllables": _syllapy}

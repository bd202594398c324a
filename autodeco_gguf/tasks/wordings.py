"""Sentences that ask for little or much diversity: those to train with, and others that training is not to see.

A grammar, so that there are enough of them for a rule to be cheaper than to learn them by heart. What is held out is
made of the same words: some sentences of each form, whole forms (the paper's own "ensure that the diversity of your
output is low", "as certain as possible", "generate with low randomness" among them), and some sentences that
stand alone.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

Direction = Literal["low", "high"]

_ADJECTIVES: dict[Direction, str] = {
    "low": "predictable certain precise consistent plain conventional ordinary usual safe strict exact careful simple "
    "typical reliable boring",
    "high": "creative imaginative unusual varied diverse innovative surprising original bold wild playful inventive "
    "unexpected different strange free",
}
_NOUNS = ["diversity", "randomness", "variety", "creativity", "imagination", "freedom"]
_LEVELS: dict[Direction, tuple[str, ...]] = {
    "low": ("low", "little", "minimal", "no"),
    "high": ("high", "much", "maximal", "a lot of"),
}
_STATES: dict[Direction, tuple[str, ...]] = {"low": ("low", "small", "minimal"), "high": ("high", "large", "maximal")}

_OF_ADJECTIVES = (
    "Please be as {} as possible.",
    "Be {}, please.",
    "Keep it {}.",
    "Make it {}.",
    "Stay {}.",
    "I want something {}.",
    "The answer should be {}.",
    "Write in a way that is {}.",
    "Ensure that your output is {}.",
    "Generate something {}.",
    "Please make it {}.",
    "Please give me something {}.",
)
_OF_ADJECTIVES_HELD_OUT = (
    "Be as {} as possible.",
    "Please make it as {} as possible.",
    "Write something {}, please.",
    "The output should be {}.",
)
_OF_PAIRS = ("Be {} and {}.", "I hope the answer is {} and {}.")
_OF_LEVELS = (
    "Use {} {}.",
    "Please use {} {}.",
    "I want {} {}.",
    "Give me an answer with {} {}.",
    "Write with {} {}, please.",
)
_OF_LEVELS_HELD_OUT = ("Generate with {} {}.", "Generate an answer with {} {}, please.")
_OF_STATES = (
    "The {} of your answer should be {}.",
    "Keep the {} {}.",
    "Make sure that the {} of your output is {}.",
)
_OF_STATES_HELD_OUT = ("Ensure that the {} of your output is {}.", "I want the {} of your answer {}.")

_ALONE: dict[Direction, tuple[str, ...]] = {
    "low": (
        "Give the most likely answer.",
        "I want the same answer every time.",
        "No surprises, please.",
        "Do not surprise me.",
        "Tell it the same way every time.",
        "Do not let your imagination run.",
        "Take no risk.",
    ),
    "high": (
        "Surprise me.",
        "Give me something unusual.",
        "I want a different answer every time.",
        "Please surprise me.",
        "Tell it a different way every time.",
        "Let your imagination run.",
        "Take a risk.",
    ),
}
_ALONE_HELD_OUT: dict[Direction, tuple[str, ...]] = {
    "low": ("Please give the same answer every time.", "No risk, please."),
    "high": ("Please give a different answer every time.", "Let your imagination run wild."),
}

_SHARE = 10
"""One in so many sentences of a form is held out."""


@lru_cache
def wordings(direction: Direction, *, held_out: bool) -> tuple[str, ...]:
    """The sentences of a direction, to train with or held out from that."""
    adjectives, nouns = _ADJECTIVES[direction].split(), _NOUNS
    pairs = list(zip(adjectives, adjectives[5:] + adjectives[:5], strict=True))
    of_levels = [(level, noun) for level in _LEVELS[direction] for noun in nouns]
    of_states = [(noun, state) for noun in nouns for state in _STATES[direction]]
    seen = [
        *(form.format(word) for form in _OF_ADJECTIVES for word in adjectives),
        *(form.format(*pair) for form in _OF_PAIRS for pair in pairs),
        *(form.format(*words) for form in _OF_LEVELS for words in of_levels),
        *(form.format(*words) for form in _OF_STATES for words in of_states),
    ]
    if not held_out:
        return (*(sentence for sentence in seen if not _is_held_out(sentence)), *_ALONE[direction])
    return (
        *filter(_is_held_out, seen),
        *(form.format(word) for form in _OF_ADJECTIVES_HELD_OUT for word in adjectives),
        *(form.format(*words) for form in _OF_LEVELS_HELD_OUT for words in of_levels),
        *(form.format(*words) for form in _OF_STATES_HELD_OUT for words in of_states),
        *_ALONE_HELD_OUT[direction],
    )


def _is_held_out(sentence: str) -> bool:
    return hashlib.sha256(sentence.encode()).digest()[0] % _SHARE == 0

"""IFEval's 25 kinds of instructions, each checked by a program: prompt-level strict accuracy.

The definitions are those of the published evaluation (Zhou et al., "Instruction-Following Evaluation for Large Language
Models", https://arxiv.org/abs/2311.07911, google-research/instruction_following_eval). What differs:

- Sentences are split by rules instead of NLTK's trained splitter. All of the 832 judgements of GPT-4's responses that
  are published with it are the same.
- A letter that is no letter, as the data set has it twice ("#" and "!"), is counted; the published program counts a
  letter that it draws at random.
- Languages are detected with a fixed seed, so that a response is always judged alike.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from autodeco_gguf.errors import not_installed
from autodeco_gguf.tasks.english import sentences, tokens
from autodeco_gguf.tasks.instruction_checks import COUNT, POSITION, TEXT, Instructions, Kind, is_text

# ---- arguments ----

_COUNTS = (
    "capital_frequency frequency let_frequency num_bullets num_highlights num_paragraphs num_placeholders num_sections "
    "num_sentences num_words"
)
_TEXTS = "end_phrase first_word keyword language postscript_marker prompt_to_repeat section_spliter"  # sic
_RELATION = Kind(lambda v: v in ("at least", "less than"), '"at least" or "less than"')
_LIST = Kind(lambda v: isinstance(v, list) and bool(v) and all(map(is_text, v)), "a list of strings that are not blank")
_LETTER = Kind(lambda v: is_text(v) and len(str(v)) == 1, "one character")
ARGUMENTS = {
    **dict.fromkeys(_COUNTS.split(), COUNT),
    **dict.fromkeys(_TEXTS.split(), TEXT),
    **dict.fromkeys(("capital_relation", "let_relation", "relation"), _RELATION),
    **dict.fromkeys(("forbidden_words", "keywords"), _LIST),
    "letter": _LETTER,
    "nth_paragraph": POSITION,
}
"""What each argument of an instruction has to be."""


# ---- languages ----


def _langdetect() -> Any:
    try:
        return importlib.import_module("langdetect")
    except ImportError as e:
        raise not_installed("langdetect is not installed", "langdetect", "eval") from e


def _is_language(text: str, language: str) -> bool:
    """Whether ``text`` is in a language, an ISO 639-1 code; also True where there is nothing to tell it by."""
    langdetect = _langdetect()
    langdetect.DetectorFactory.seed = 0
    try:
        return bool(langdetect.detect(text) == language)
    except langdetect.LangDetectException:
        return True


# ---- the instructions: text of a response and, under their published names, the arguments -> followed? ----


def _keywords(text: str, keywords: list[str]) -> bool:
    """Every keyword occurs, also within a word."""
    return all(keyword.lower() in text.lower() for keyword in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    """None occurs as a word of its own."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _number_words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(len(sentences(text)), relation, num_sentences)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs with "***" between them; one may also stand before the first or after the last."""
    return _count_parts(text.split("***")) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs with a blank line between them, and one begins with the word."""
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if count != num_paragraphs or nth_paragraph > count:
        return False
    words = paragraphs[nth_paragraph - 1].split()  # blank ones count here, as published
    found = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return found.lower() == first_word.lower()


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    """The marker occurs; the two of the data set also without dots or spaces that are easily left out."""
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    marker = postscript_marker.strip()
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    """Exactly so many lines begin with one asterisk or with a hyphen."""
    lines = (line.lstrip() for line in text.split("\n"))
    return sum(line.startswith(("*", "-")) and not line.startswith("**") for line in lines) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(f"My answer is {answer}." in text for answer in ("yes", "no", "maybe"))


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """At least so many of ``*...*`` and ``**...**`` within a line."""
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(highlight.strip("*").strip()) for highlight in found) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings such as "Section 1"."""
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    """All of it is JSON, perhaps in a code block."""
    block = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip())
    try:
        json.loads(block)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    """Something stands in ``<<...>>`` within a line."""
    titles = (line.partition("<<")[2].rpartition(">>")[0] for line in text.split("\n"))
    return any(title.strip("<>").strip() for title in titles)


def _two_responses(text: str) -> bool:
    """Two that differ with "******" between them; one may also stand before the first or after the second."""
    parts = text.split("******")
    return _count_parts(parts) == 2 and len({part.strip() for part in parts if part.strip()}) == 2


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Words as NLTK divides them: "AND/OR" and "WELL-KNOWN" are one, "DON'T", "CANNOT" and "AT&T" two."""
    return _compare(sum(token.isupper() for token in tokens(text)), capital_relation, capital_frequency)


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _is_language,
    "length_constraints:number_words": _number_words,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:english_capital": lambda text: text.isupper() and _is_language(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and _is_language(text, "en"),
    "change_case:capital_word_frequency": _capital_word_frequency,
    "punctuation:no_comma": lambda text: "," not in text,
}
"""The check of each id."""

_DETECTED = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
"""Those for which the language of a response is detected."""

IFEVAL = Instructions(INSTRUCTIONS, ARGUMENTS, dict.fromkeys(_DETECTED, _langdetect))
check, parse = IFEVAL.check, IFEVAL.parse


# ---- counting ----


def _compare(found: int, relation: str, wanted: int) -> bool:
    return found >= wanted if relation == "at least" else found < wanted


def _count_parts(parts: Sequence[str]) -> int:
    """How many there are, -1 where one between two others is blank; the first and the last may be."""
    blank = [i for i, part in enumerate(parts) if not part.strip()]
    return len(parts) - len(blank) if set(blank) <= {0, len(parts) - 1} else -1

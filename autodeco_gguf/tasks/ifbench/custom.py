"""IFBench's instructions that are a whole task: lists, tables, a story, two answers backwards."""

from __future__ import annotations

import csv
import io
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

from autodeco_gguf.tasks.english import EDGES, sentences, words

_CAPITALS = str.split(
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw "
    "London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb"
)
"""From north to south, as published."""

_DAYS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_QUESTION = re.compile(r"Question \d+[.|):;]?")
_CHOICE = re.compile(r"[A-Ea-e][.|)]\s*\w")


def _multiples(text: str) -> bool:
    """The multiples of 7 from 10 to 50 are the numbers, and in order."""
    return re.findall(r"\d+", text) == ["14", "21", "28", "35", "42", "49"]


def _mcq_count_length(text: str) -> bool:
    """Four times "Question N", longer each time, with five options each; nothing before."""
    questions = [question.strip() for question in _QUESTION.split(text)]
    lengths = []
    for question in filter(None, questions):
        lines = [line.strip() for line in question.split("\n")]
        options = [i for i, line in enumerate(lines) if _CHOICE.match(line)]
        if len(options) != 5:
            return False
        lengths.append(len(" ".join(lines[: options[0]]).strip()))
    return text.startswith("Question") and len(lengths) == 4 and all(a < b for a, b in pairwise(lengths))


def _reverse_newline(text: str) -> bool:
    """From Zimbabwe on at least 52 lines in reverse alphabetical order; whether they are countries is not looked at."""
    lines = [line for line in (line.strip(EDGES) for line in text.split("\n")) if line]
    begin = next((i for i, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    names = [_ascii(line) for line in lines[begin:]]
    return len(names) >= 52 and names == sorted(names, reverse=True)


def _ascii(text: str) -> str:
    """Without accents, and without what else is not ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def _word_reverse(text: str) -> bool:
    return "bald eagle" in " ".join(reversed(words(text.lower())))


def _character_reverse(text: str) -> bool:
    return "elgae dlab" in text.lower()


def _sentence_alphabet(text: str) -> bool:
    """26 sentences that begin with the letters from A to Z; a quotation mark is none."""
    return [sentence[0].lower() for sentence in sentences(text)] == list(string.ascii_lowercase)


def _european_capitals_sort(text: str) -> bool:
    return [name.strip() for name in _ascii(text).split(",") if name.strip()] == _CAPITALS


def _csv_city(text: str) -> bool:
    """The header and seven rows of five."""
    rows = _rows(text, ",")
    header = ["ID", "Country", "City", "Year", "Count"]
    return len(rows) == 8 and rows[0] == header and all(len(row) == 5 for row in rows)


def _csv_special_character(text: str) -> bool:
    """The header and 14 rows; before any that has not five fields, a field has a special character in its quotes."""
    if not _is_header(text, ("ProductID", "Category", "Brand", "Price", "Stock"), r",[ \t]*"):
        return False
    rows = _rows(text.replace('"', '"""'), ",")
    if len(rows) != 15:
        return False
    for row in rows[1:]:
        if len(row) != 5 or any(map(_is_special, row)):
            return len(row) == 5
    return False


def _is_special(field: str) -> bool:
    """Whether a field begins with a quotation mark, and before a later one has what is no letter, digit or space."""
    line = field.partition("\n")[0]
    return line.startswith('"') and re.search(r"[^\w\s]", line[1 : max(line.rfind('"'), 1)]) is not None


def _csv_quotes(text: str) -> bool:
    """The header and three rows with tabs between, and each field in quotation marks."""
    if not _is_header(text, ("StudentID", "Subject", "Grade", "Semester", "Score"), r"\t *"):
        return False
    rows = _rows(text.replace('"', '"""'), "\t")
    fields = [field.strip() for row in rows for field in row]
    shape = [len(row) for row in rows] == [5, 5, 5, 5]
    return shape and all(field.startswith('"') and field.endswith('"') for field in fields)


def _is_header(text: str, names: Sequence[str], separator: str) -> bool:
    pattern = separator.join(f'(?:{name}|"{name}")' for name in names)
    return re.fullmatch(pattern, text.partition("\n")[0].strip()) is not None


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """The rows of CSV, those of blank lines too; none where it is not CSV."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _date_format_list(text: str) -> bool:
    """Dates of Napoleon's life with commas between; a month or a day may be 00, as published."""
    dates = [re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", date.strip()) for date in text.split(",")]
    return all(date and _lived(*map(int, date.groups())) for date in dates)


def _lived(year: int, month: int, day: int) -> bool:
    return 1769 <= year <= 1821 and month <= 12 and day <= _DAYS.get(month, 99)


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "custom:multiples": _multiples,
    "custom:mcq_count_length": _mcq_count_length,
    "custom:reverse_newline": _reverse_newline,
    "custom:word_reverse": _word_reverse,
    "custom:character_reverse": _character_reverse,
    "custom:sentence_alphabet": _sentence_alphabet,
    "custom:european_capitals_sort": _european_capitals_sort,
    "custom:csv_city": _csv_city,
    "custom:csv_special_character": _csv_special_character,
    "custom:csv_quotes": _csv_quotes,
    "custom:date_format_list": _date_format_list,
}

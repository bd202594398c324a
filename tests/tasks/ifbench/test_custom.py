from __future__ import annotations

import string
from typing import Any

import pytest
from instruction_helpers import Row, assert_either_outcome, cases_of

from autodeco_gguf.tasks.ifbench import custom
from autodeco_gguf.tasks.ifbench.registry import check
from autodeco_gguf.tasks.instruction_checks import encode


def question(number: int, text: str, letters: str = "ABCDE") -> str:
    return "\n".join([f"Question {number}: {text}", *(f"{letter}) option" for letter in letters)])


QUESTIONS = "\n\n".join(question(i, "why" * i) for i in range(1, 5))
LINES = [f"{chr(ord('Z') - i // 26)}{chr(ord('z') - i % 26)}" for i in range(26, 26 + 51)]
AFRICA = "\n".join(["Zimbabwe", *LINES])
STORY = " ".join(f"{letter}nd so it went." for letter in string.ascii_uppercase)
CAPITALS = (
    "Reykjav\u00edk, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, "
    "Chi\u0219in\u0103u, Bern, Ljubljana, Zagreb"
)
CITY = "ID,Country,City,Year,Count\n" + "\n".join(f'{i},Peru,"Lima, {i}",2001,5' for i in range(7))
STOCK = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(f"{i},a,b,2.5,1" for i in range(14))
GRADES = "\n".join(
    "\t".join(f'"{field}"' for field in fields)
    for fields in [("StudentID", "Subject", "Grade", "Semester", "Score"), *[("1", "Art, old", "A", "2", "90")] * 3]
)

ROWS: list[Row] = [
    (
        "custom:multiples",
        {},
        ["14, 21, 28, 35, 42, 49", "14,21,28,35,42,49", "14\n21\n28\n35\n42\n49."],
        ["7, 14, 21, 28, 35, 42, 49", "14, 21, 28, 35, 49, 42", "14 21 28 35 42", "From 10: 14 21 28 35 42 49"],
    ),
    (
        "custom:mcq_count_length",
        {},
        [QUESTIONS, QUESTIONS.replace(") ", ". ").replace(": ", " "), QUESTIONS.replace("\n\n", "\n\n\n") + "\n"],
        [
            "Here: " + QUESTIONS,
            QUESTIONS.replace("why" * 4, "why"),
            QUESTIONS.replace("E) option", "F) option", 1),
            question(1, "why") + "\n\n" + question(2, "why?"),
            QUESTIONS + "\n\n" + question(5, "why" * 5),
            "Question",
        ],
    ),
    (
        "custom:reverse_newline",
        {},
        [AFRICA, "Here:\n\n" + AFRICA.replace("\n", "\n\n"), "- " + AFRICA.replace("\n", "\n- ")],
        [
            "\n".join(reversed(AFRICA.split("\n"))),
            AFRICA.rpartition("\n")[0],
            AFRICA + "\nZz",
            AFRICA.replace("Zimbabwe", "Zambia"),
            "1. Zimbabwe\n" + "\n".join(f"{i}. a" for i in range(2, 60)),
        ],
    ),
    (
        "custom:word_reverse",
        {},
        ["Eagle bald the is US the of symbol national The.", "eagle, BALD"],
        ["The national symbol is the bald eagle.", "elgae dlab", "eagle"],
    ),
    (
        "custom:character_reverse",
        {},
        [".elgae dlab eht si tI", "Elgae Dlab"],
        ["bald eagle", "eagle bald", "elgaedlab"],
    ),
    (
        "custom:sentence_alphabet",
        {},
        [STORY, STORY.replace(" B", "\n\nB")],
        [
            STORY.removesuffix("Znd so it went."),
            STORY.replace("Dnd so", '"Do not go," she said, "'),
            STORY.replace("Cnd", "Dnd"),
            STORY + " End.",
        ],
    ),
    (
        "custom:european_capitals_sort",
        {},
        [CAPITALS, CAPITALS.replace(", ", ",\n") + ","],
        [CAPITALS + ".", CAPITALS.replace("Bern, ", ""), CAPITALS.replace("Oslo, Tallinn", "Tallinn, Oslo"), "Oslo"],
    ),
    (
        "custom:csv_city",
        {},
        [CITY, CITY.replace("ID,Country", '"ID","Country"') + "\n"],
        [
            CITY.replace("ID,C", "Id,C"),
            CITY.rpartition("\n")[0],
            CITY + "\n7,Peru,Lima,2001,5",
            CITY.replace(",5", "", 1),
            f"```\n{CITY}\n```",
            CITY + "\n\n",
            CITY.replace("Peru", "x" * 200_000),
        ],
    ),
    (
        "custom:csv_special_character",
        {},
        [STOCK.replace("3,a", '3,"a&b"'), STOCK.replace("Brand,Price", '"Brand", Price').replace("0,a", '0,"a""b"')],
        [
            STOCK,
            STOCK.replace("3,a", '3,"a b"'),
            STOCK.replace("3,a", "3,a&b"),
            STOCK.replace("3,a", '3,"a&b"').replace("2,a", "2,a,a"),
            STOCK.replace("3,a", '3,"a&b"').replace("Stock", "Stocks"),
            STOCK.replace("3,a", '3,"a&b"') + "\n1,2,3,4,5",
        ],
    ),
    (
        "custom:csv_quotes",
        {},
        [GRADES, GRADES.replace("\t", "\t ") + "\n"],
        [
            GRADES.replace("\t", ","),
            GRADES.replace('"90"', "90"),
            GRADES.replace('"90"', "", 1),
            GRADES.rpartition("\n")[0],
            GRADES.replace('"Score"', '"Mark"'),
            GRADES.replace('\t"90"', "", 1),
        ],
    ),
    (
        "custom:date_format_list",
        {},
        ["1796-04-12, 1805-12-02,1815-06-18\n", "1796-02-29", "1800-00-00"],
        [
            "1796-4-12",
            "April 12, 1796",
            "1768-01-01",
            "1822-01-01",
            "1796-13-01",
            "1796-04-31",
            "1796-02-30",
            "1796-01-32",
        ],
    ),
    (
        "custom:date_format_list",
        {},
        ["1769-12-31"],
        ["1796-04-12,", "1796-04-12, and 1805-12-02", "1796-04-12\n1805-12-02"],
    ),
]


def test_every_instruction_has_a_row_for_either_outcome() -> None:
    assert_either_outcome(ROWS, custom.INSTRUCTIONS)


@pytest.mark.parametrize(("name", "arguments", "text", "followed"), cases_of(ROWS))
def test_instruction(name: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    assert check(text, encode([name], [arguments])) is followed
    assert check(" \n", encode([name], [arguments])) is False

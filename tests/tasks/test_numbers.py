"""Numbers in responses: tables of response, answer, verdict."""

from __future__ import annotations

import time

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.checkers import get_checker, has_form, read_answer
from autodeco_gguf.tasks.numbers import expected_number, given_number, number

RIGHT = [
    # a point before the digits, fractions
    ("The answer is .5.", ".5"),
    ("It costs $0.50.", "$.50"),
    ("The answer is 0.75.", r"\boxed{.75}"),
    (r"The answer is $\frac{-1}{2}$.", "-1/2"),
    (r"It is $\frac{-1}{2}$", r"\frac{-1}{2}"),
    (r"The answer is \frac{1,000}{4}", "250"),
    (r"\boxed{\frac{1.5}{2}}", "0.75"),
    ("The answer is 1 / 2", "0.5"),
    ("3 / 4 cup of flour", "0.75"),
    # what follows an answer and is none of it
    ("**Answer:**\n\n1. Add 3 and 4 to get 7.\n2. Double it: 14.", "14"),
    ("Answer:\n1) Add 3 and 4.\n2) So 14 in all.", "14"),
    ("Answer:\n18. He has 3 left.", "18"),
    ("#### 18\n\n16 - 7 = 9", "18"),
    ("The answer is 18. 2+2=4", "18"),
    ("The answer is 18 (16 - 7 = 9, times 2).", "18"),
    ("The answer is -18.\n\n-5 + 3 = -2", "-18"),
    ("#### 18\n- 5 eggs", "18"),
    ("The answer is 9 * 2\n= 18", "18"),
    # money, commas, full stops, units, bold
    ("the total cost of Rory's delivery order is $29.00.", "29"),
    ("2125", "2,125"),
    ("It is $2,125.50, then.", "2125.5"),
    ("-$10", "-10"),
    ("$-10", "-10"),
    (r"-\$10", "-10"),
    ("\u2212$10", "-10"),
    ("\u221210", "-10"),
    ("\u201310", "-10"),
    ("-10", "\u221210"),
    ("29 dollars", "29"),
    ("\u20ac29", "29"),
    ("29\u20ac", "29"),
    ("USD 29", "29"),
    ("29%", "29"),
    ("29%", "0.29"),
    (r"$29\%$", "29"),
    ("29 percent", "0.29"),
    ("0.29", "29%"),
    ("**29**", "29"),
    ("__29__ eggs", "29"),
    ("`29`", "29"),
    ("\u2705 Final Answer: **73**", "73"),
    ("29kg", "29"),
    ("18 cm^2", "18"),
    ("18 cm\u00b2", "18"),
    ("18 m^{2}", "18"),
    ("a 5-year-old", "5"),
    ("on the 7th day", "7"),
    ("+5", "5"),
    ("007", "7"),
    (".5", "0.5"),
    ("5.", "5"),
    ("She has 18 apples.", "18"),
    # fractions, powers of ten, words
    ("3/4", "0.75"),
    (r"\frac{3}{4}", "3/4"),
    (r"$-\frac{3}{4}$", "-0.75"),
    (r"\dfrac12", "0.5"),
    ("3 1/2 cups", "3.5"),
    (r"3\frac{1}{2}", "3.5"),
    ("\u00bd", "0.5"),
    ("3\u00bd", "7/2"),
    ("1.5e3", "1500"),
    ("1.5E-3", "0.0015"),
    ("1.5 x 10^3", "1500"),
    ("1.5 \u00d7 10\u00b3", "1500"),
    ("1.5 \u00d7 10\u207b\u00b3", "0.0015"),
    *((f"Answer: 3{dot}4 = 12", "12") for dot in ("\u00b7", " \u22c5 ", "\u2022", " \u2219 ")),
    ("Answer: 3\n\u2022 4 eggs", "3"),
    ("Answer: 2\u00b3 = 8", "8"),
    ("Answer: 25 m\u00b2", "25"),
    (r"$1.5 \times 10^{3}$", "1500"),
    ("1.5 \u00d7 10^-3", "0.0015"),
    ("2 million", "2000000"),
    ("$1.5M", "1500000"),
    ("30k", "30000"),
    (r"\boxed{2 \text{ million}}", "2000000"),
    (r"\boxed{2\text{ million dollars}}", "2000000"),
    (r"It is $2.5 \text{ million}$", "2500000"),
    (r"The answer is $3 \mathrm{thousand}$.", "3000"),
    (r"\boxed{29\text{ percent}}", "0.29"),
    (r"\boxed{2 \text{ millionaires}}", "2"),
    # as others group digits
    ("1 234 567", "1234567"),
    ("1\u00a0234", "1234"),
    ("1\u202f234,5", "1234.5"),
    ("1'234", "1234"),
    ("1.234.567", "1234567"),
    ("1.234,56", "1234.56"),
    ("12,34,567", "1234567"),
    (r"1{,}234", "1234"),
    (r"1\,234", "1234"),
    ("29,5", "29.5"),
    ("1.234", "1.234"),
    ("\uff17\uff13", "73"),
    # times
    ("She has to start at 2:00 pm", "2"),
    # the last number, unless another is marked
    ("9 * 2 = 18 and 18 + 1 = 19", "19"),
    ("Example: #### 5\nNow: .. #### 7", "7"),
    ("#### 7\nI hope 2 of these helped.", "7"),
    ("The answer is 7 (step 3).", "7"),
    ("the answer is: 7. Is there 1 more?", "7"),
    ("Answer: 7 of 9", "7"),
    ("**Answer:** $7, not 9", "7"),
    ("The answer is x = 7, as y = 9", "7"),
    ("The answer is therefore about $7. I used 2 steps.", "7"),
    ("The answer is 3 + 4 = 7 (3 steps)", "7"),
    ("The answer is 6÷2 = 3", "3"),
    ("The answer is 10-3=7; 1 step", "7"),
    ("Answer: 3 apples + 4 apples = 7 apples, in 1 step", "7"),
    ("The answer is 12 hours - 4 hours = **8 hours** (1 step)", "8"),
    ("The answer is 5 boxes * 12 eggs/box = 60 eggs. 1 step", "60"),
    ("The answer is $20 x 3 days = $60 (1 step)", "60"),
    ("The answer is $20 per hour \u00d7 (3 hours + 1 hour) = $80 (1 step)", "80"),
    (r"The answer is 3\text{ m} + 4\text{ m} = 7\text{ m} (1 step)", "7"),
    ("Answer: 5 boxes * 12 eggs = 60 eggs - 4 eggs = 56 eggs (2 steps)", "56"),
    *(
        (f"The answer is {equation} = 18{end}", "18")
        for equation in (
            "9 eggs * $2/egg",
            "20% of 90",
            "2/3 of 27",
            "2/3 of the 27 eggs",
            "3 times 6",
            "9 plus 9",
            "20 eggs minus 2",
            "36 divided by 2",
            r"\frac{20+16}{2}",
            r"\frac{36}{2}",
            r"9 \times 2",
            "16 - 3 - 4 = 9 eggs, 9 * 2",
            "16 - 3 - 4 = 9 eggs, and $9 * 2",
            "16 - 3 - 4 = 9; 9 * 2",
            "16 - 3 - 4 = 9 and 9 * 2",
            "16 - 3 - 4 = 9 eggs so 9*2",
            "16 - 3 - 4 = 9, and then $9 * 2",
            "9 cups a day * 2 days",
            "3 eggs for breakfast + 15 eggs",
            "9 cups in the morning + 9 cups",
            "18 in * 1",
            "2 + 2 = 4 eggs, 4 * 4 = 16 eggs, so 16 + 2",
        )
        for end in ("", " (1 step)", " eggs. 7 + 1 = 8", ", as 7 + 1 = 8", "\n7 + 1 = 8")
    ),
    ("The answer is 9 eggs * $2/egg = $18.", "18"),
    ("The answer is 9 plus 9 equals 18", "18"),
    ("The answer is 9 \u00d7 2 \u2248 18", "18"),
    (r"The answer is 35/2 \approx 18", "18"),
    # which are no equations for the number
    ("The answer is 18 (9 * 2 = 18, 16 - 7 = 9)", "18"),
    ("The answer is 18, 16 - 7 = 9", "18"),
    ("The answer is 18 = 9 * 2", "18"),
    ("The answer is 18 \u2248 9 eggs * $2", "18"),
    ("The answer is 18 of 20, which equals 90%", "18"),
    ("The answer is 2 hours equals 120 minutes", "2"),
    ("The answer is 18 times as many", "18"),
    ("The answer is 7 apples = 3 apples + 4 apples", "7"),
    ("The answer is 2 hours = 120 minutes", "2"),
    ("The answer is 7 apples, 3 * 4 = 12 of 19", "7"),
    ("The answer is 7 apples (5 + 2 apples = 7 apples, 1 step)", "7"),
    ("The answer is 7 apples because total - 3 = 4", "7"),
    ("The answer is 7 apples since n + 3 = 10", "7"),
    ("The answer is 7 apples for n + 3 = 10", "7"),
    ("The answer is 7 by a - 3 = 4", "7"),
    ("#### 7 and 3 * 4 = 12", "7"),
    ("The answer is 7 so 3 * 4 = 12", "7"),
    ("answer: 7 as x = 8", "7"),
    ("The answer is 7 apples\n3 apples * 4 = 12 apples", "7"),
    ("The answer is 7 apples - that is 3 + 5 = 8 less 1", "7"),
    ("### Final Answer\n\n7\n\n(2 steps)", "7"),
    (r"The answer is $\boxed{7}$, by step 3", "7"),
    (r"\boxed{7} by step 3", "7"),
    (r"\boxed{5} or rather the answer is 7, step 3", "7"),
    (r"the answer is 5; no: \boxed{7}, step 3", "7"),
    (r"\boxed{3 + 4 = 7}", "7"),
    (r"\boxed{\text{Total} = \$7}", "7"),
    (r"\boxed{7\text{ dollars}}", "7"),
    (r"\boxed{7\ \mathrm{m}^2}", "7"),
    (r"\boxed{- 7}", "-7"),
    (r"\boxed{\$1,234.00}", "1234"),
    # a minus apart, or in words
    *(
        (f"{mark} {minus}{end}", "-7")
        for mark in ("The answer is", "Answer: **x =", "#### about", "The answer is 3 - 10 =")
        for minus in ("minus 7", "negative $7", "- 7", "\u2212 7")
        for end in ("", " degrees, by step 3")
    ),
    (r"\boxed{\text{negative } 7}", "-7"),
    ("**Final Answer**\n- 7 eggs", "7"),
    ("Answer:\n\n- 7 eggs", "7"),
    ("The answer is 7 - a total of 5 + 2", "7"),
    ("She had 10 minus 7", "7"),
    # what a formula comes to, and commands that make none
    (r"The answer is $\sqrt{9} + \sqrt{16} = 7$, by step 3", "7"),
    (r"The answer is $6 \div 2 = 3$", "3"),
    ("The answer is 25\u03c0 \u2248 78.5 by step 3", "78.5"),
    ("The answer is 5 m + 2 m = 7 m", "7"),
    ("The answer is 7 m - the length of 2", "7"),
    ("The answer is 7!", "7"),
    ("The answer is 7 (\u03c0 is no part of it)", "7"),
    (r"\boxed{x = \sqrt{49} = 7}", "7"),
    (r"\boxed{\pi \approx 3.14}", "3.14"),
    (r"\boxed{1{,}000 + 2 = 1{,}004 - 2 = 1{,}002}", "1002"),
    (r"\boxed{\approx 7\,\text{apples!}}", "7"),
    (r"\boxed{7^\circ}", "7"),
    (r"The answer is 7 $\blacksquare$", "7"),
    (r"The answer is $7 \implies$ done", "7"),
    (r"\boxed{7^{\circ}\mathrm{C}}", "7"),
    (r"\boxed{\left(7\right)}", "7"),
    (r"\boxed{\mathbf{7}\quad\textbf{eggs}}", "7"),
    (r"\boxed{\$7/\text{hour}}", "7"),
    (r"\boxed{7\text{-year-old}}", "7"),
    # what is no mark
    ("The answer is not 5 but 7", "7"),
    ("The answer is that 3 boys have 5 each, so 7", "7"),
    ("#### Step 3: add\n3 + 4 = 7", "7"),
    ("#### 3. Add them\n3 + 4 = 7", "7"),
    ("#### 3) **Add**\n3 + 4 = 7", "7"),
    ("##### 3\n7", "7"),
    # no numbers
    ("She has 7. She leaves at 10:30.", "7"),
    ("She has 7 by 12/25/2024", "7"),
    ("She has 7 as of v1.2.3", "7"),
    ("7 of COVID-19", "7"),
    ("7 for x_2, H2O, GPT4 and a_{3}", "7"),
]

WRONG = [
    ("The answer is 5.", ".5"),
    (r"The answer is $\frac{-1}{2}$.", "-1"),
    ("The answer is 5-10", "5"),
    ("10", "-10"),
    ("-10", "10"),
    ("29.5", "29"),
    ("29,5", "29"),
    ("29.5", "5"),
    ("2.9", "29"),
    ("0.29%", "29%"),
    ("0.29", "29"),
    ("29%", "2900"),
    ("30k", "30"),
    (r"\boxed{2 \text{ million}}", "2"),
    ("1,234", "234"),
    ("1 234", "234"),
    ("1.234", "1234"),
    ("1.5e3", "3"),
    ("1.5 x 10^3", "1.5"),
    ("1.5 \u00d7 10\u00b3", "1.5"),
    ("\\boxed{10\u00b2}", "10"),
    ("2^10", "2"),
    (r"\boxed{2^{10}}", "2"),
    (r"\boxed{2^{10}}", "10"),
    ("1/0", "0"),
    ("1/0", "1"),
    ("3/4", "4"),
    ("3 1/2", "3"),
    ("The answer is 5-10", "5"),
    ("The answer is 5\u201310 eggs", "10"),
    ("The answer is 5 to 10", "5"),
    ("The answer is 5 or 6", "5"),
    ("The answer is 10:30", "10"),
    ("The answer is 10:30", "30"),
    ("12/25/2024", "2024"),
    ("x2", "2"),
    ("COVID-19", "19"),
    ("cm^2", "2"),
    ("The answer is 5. No, 7.", "7"),
    ("She had 18 apples in 2024.", "18"),
    (r"\boxed{2x+3}", "2"),
    (r"\boxed{x+3}", "3"),
    (r"\boxed{5, 6}", "5"),
    (r"\boxed{(5, 6)}", "6"),
    *(
        (given, digit)
        for formula, digit in [
            (r"\sqrt{2}", "2"),
            (r"5\pi", "5"),
            ("5\u03c0", "5"),
            ("\u221a2", "2"),
            (r"2\sqrt{3}", "2"),
            (r"\frac{\pi}{4}", "4"),
            (r"\dfrac{x}{4}", "4"),
            (r"-\sqrt{4}", "4"),
            (r"-\sqrt{4}", "-4"),
            (r"\ln 5", "5"),
            (r"\sin 30^\circ", "30"),
            (r"\pm 5", "5"),
            ("7!", "7"),
            ("2^3", "2"),
            ("4-x", "4"),
            ("4 - x", "4"),
            ("2x + 3", "2"),
            ("2n-1", "2"),
        ]
        for given in (rf"\boxed{{{formula}}}", f"The answer is ${formula}$.", f"#### ${formula}$")
    ),
    ("The answer is 5\u03c0", "5"),
    ("The answer is 2x + 3.", "2"),
    (r"\boxed{x-4}", "4"),
    (r"\boxed{x - 4}", "4"),
    (r"\boxed{x/4}", "4"),
    (r"\boxed{|{-5}|}", "-5"),
    (r"\boxed{x=5, y=6}", "6"),
    (r"\boxed{x=5,\,y=6}", "6"),
    (r"\boxed{x = 5 \text{ and } y = 6}", "6"),
    (r"The answer is $7 = \sqrt{49}$", "49"),
    *(
        (f"{mark} {minus}7", "7")
        for mark in ("The answer is", "Answer: x =")
        for minus in ("minus ", "negative ", "- ")
    ),
    # boxes, as for the checker boxed
    (r"I get 7. \boxed{}", "7"),
    (r"\boxed{7} or \boxed{}", "7"),
    (r"\boxed{7} or \boxed{8", "8"),
    ("", "0"),
    ("none", "0"),
    (r"\boxed{7", "8"),
]


@pytest.mark.parametrize(("text", "answer"), RIGHT)
def test_right(text: str, answer: str) -> None:
    assert number(text, answer)


@pytest.mark.parametrize(("text", "answer"), WRONG)
def test_wrong(text: str, answer: str) -> None:
    assert not number(text, answer)


@pytest.mark.parametrize("digits", [900, 100_000])
def test_very_long_numbers(digits: int) -> None:
    long = "7" * digits
    for text in (long, "0" + long, f"**{long}**.", f"The answer is {long} by step 3."):
        assert number(text, long)
        assert number(text.replace("77", "-77", 1), "-" + long) is ("0" not in text)
        assert not number(text, long[1:])
        assert not number(text, long + "7")
        assert not number(text, "-" + long)
    assert not number(f"3 {long}/2", "3")


@pytest.mark.parametrize(
    "piece",
    ["The answer is ", "The answer is 1 ", "#### 1. a", "1", "1 ", "1,", "1,11", "1 111", "1.", "1-", "1 1/", "- ",
     ".", "$-", "1=", "1{", "{", "{ ", "answer=1+", "1 a +", "+1 ab cd ef", "+ 1 a/b", "7 ", " of 1", "/a", "=1",
     "=1+1", "{1", " 1 + 1 = 1, ",
     "+1 a a ab", "+1 a ab a cd", " and then ", "=1+1=1 and ", "1 + 1 = 1 so then ",
     "= - ", "= ", "- - ", "minus ", "\\pi ", "=\\sqrt ", "{ \\pi} ", "x-",
     "\\frac{1}{", "{,}", "1 x 10^", " ", "#### Step 1\n", "Answer: 5 or 6 "],
)  # fmt: skip
def test_a_model_that_repeats_itself_takes_no_time(piece: str) -> None:
    start = time.process_time()
    number(piece * (200_000 // len(piece)), "-9")
    number("The answer is 1" + piece * (200_000 // len(piece)), "-9")
    number(rf"\boxed{{{piece * (200_000 // len(piece))}}}", "-9")
    assert time.process_time() - start < 10  # quadratic, it would be minutes


@pytest.mark.parametrize(
    "answer", ["", "eighteen", "18 eggs", "5-10", "10:30", "1/0", "x = 5", "\\boxed{}", "the sum is 18"]
)
def test_an_answer_that_is_no_number(answer: str) -> None:
    with pytest.raises(InvalidInput, match=r"^answer .*: expected a number$"):
        expected_number(answer)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", "18"),
        ("So\n#### 2,125", "2125"),
        ("So\n#### -10", "-10"),
        ("So\n#### \u221210", "\u221210"),
        ("$2,125.00", "$2,125.00"),
    ],
)
def test_answers_as_published(answer: str, read: str) -> None:
    assert read_answer("number", answer) == read
    assert number(read, answer.rpartition("#### ")[2])


def test_the_checker_by_name() -> None:
    assert get_checker("number") is number
    assert [has_form("number", text) for text in ("none", "It is 5.", r"It is 5: \boxed{}")] == [False, True, False]
    assert given_number("none") is None

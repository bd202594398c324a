"""Answer checkers: tables of response, answer, verdict."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.tasks.boxes import last_boxed
from autodeco_gguf.tasks.checkers import CHECKERS, get_checker, has_form, read_answer

# ---- boxed ----

LONG = "1" * 10_000

EQUAL = [
    # numbers
    ("85", "85"),
    ("027", "27"),
    ("+5", "5"),
    ("- 7", "-7"),
    ("\u22127", "-7"),
    ("0", "-0"),
    ("5.", "5"),
    ("5", "5."),
    ("3.0", "3"),
    ("0.50", ".5"),
    ("1,234", "1234"),
    ("1,234,000", "1234000"),
    ("1,234.5", "1234.50"),
    ("1{,}234", "1234"),
    (r"1\,234\,567", "1234567"),
    ("1 234", "1234"),
    ("1.5e3", "1500"),
    (r"0.\overline{3}", r"\frac13"),
    ("-7/6", r"-1.1\overline{6}"),
    (r".\bar{9}", "1"),
    (r"\approx 9", "9"),
    ("\u2248 9.5", "9.5"),
    ("3\u00b74", "12"),
    ("3\u22c54", "12"),
    ("(\u2212\u221e, 3)", r"(-\infty, 3)"),
    ("=5", "5"),
    (r"= \frac{1}{2}", "0.5"),
    ("=", "="),
    (LONG, LONG),
    # around the answer
    (" 5 ", "5"),
    ("$5$", "5"),
    (r"\$5", "5"),
    ("5", "$5$."),
    ("(5)", "5"),
    (r"\text{5}", "5"),
    (r"\mathbf{5}", "5"),
    (r"\displaystyle\frac{1}{2}", "1/2"),
    # fractions
    ("1/2", "0.5"),
    (" -1 / 2 ", "-0.5"),
    (r"\frac{1}{2}", "0.5"),
    (r"\dfrac{1}{2}", r"\frac12"),
    (r"\tfrac{3}{4}", "0.75"),
    ("3/4", r"\frac{6}{8}"),
    (r"-\dfrac{2}{4}", r"-\tfrac{1}{2}"),
    (r"-\frac{1}{2}", r"\frac{1}{-2}"),
    (r"\frac{-6}{3}", "-2"),
    (r"1\frac{1}{2}", r"\frac{3}{2}"),
    (r"-3\frac{1}{2}", r"-\frac{7}{2}"),
    ("1 1/2", r"\frac{3}{2}"),
    ("-1.5", "-1 1/2"),
    (r"1\ 1/2\text{ cups}", "1.5"),
    (r"12 1/2\%", "12.5"),
    ("1 234/5", "246.8"),
    ("1 1/0", "1 1/0"),
    ("0/5", "0"),
    ("1/0", "1/0"),
    # roots, pi, powers, functions
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    (r"\sqrt{16}", "4"),
    (r"\sqrt[3]{8}", "2"),
    (r"\sqrt{5+2\sqrt{6}}", r"\sqrt2+\sqrt3"),
    (r"\frac{1}{1+\sqrt 2}", r"\sqrt2-1"),
    (r"\frac{\pi}{2}", r"0.5\pi"),
    (r"\frac{3\pi}{4}", r"\frac{3}{4}\pi"),
    ("2\u03c0", r"2\pi"),
    ("2^{99}", "633825300114114700748351602688"),
    ("2^{10}-1", "1023"),
    ("10^{-3}", "0.001"),
    (r"\frac{1}{10^8}", "10^{-8}"),
    (r"1.5 \times 10^3", "1500"),
    (r"6.67 \times 10^{-11}", "6.67e-11"),
    ("5!", "120"),
    (r"\binom{5}{2}", "10"),
    (r"\log_2 8", "3"),
    (r"\ln 4", r"2\ln 2"),
    (r"\cos\frac{\pi}{3}", r"\frac12"),
    (r"\frac{\sqrt{5}-1}{2}-\frac{2}{1+\sqrt5}", "0"),
    ("3+2i", "2i+3"),
    # percent, degrees, units
    (r"50\%", "50"),
    (r"50\%", "0.5"),
    ("50", r"50\%"),
    (r"12.5\%", "12.5"),
    ("5 percent", "0.05"),
    (r"90^\circ", "90"),
    ("90", r"90^{\circ}"),
    ("90\u00b0", "90"),
    (r"37^\circ\text{C}", "37"),
    (r"5\text{ cm}", "5"),
    (r"5 \text{ cm}^2", "5"),
    (r"5\ \mathrm{m/s}", "5"),
    (r"5 \text{ m}/\text{s}", "5"),
    ("5 cm", "5"),
    ("120 dollars", "120"),
    (r"\text{5 cm}", "5"),
    (r"2\pi\text{ cm}", r"2\pi"),
    (r"\frac{1}{2}\text{ m}^2", "0.5"),
    *(
        (f"5{unit}", "5")
        for unit in (
            *(" m", " s", " g", " L", " h", " N", " in", " mL", " \u03bcs", " km/h", " m/s", " m/s^2", r" N\cdot m"),
            *(" cm\u00b2", " m\u00b2", " m^2", " m^{-1}", " USD", r"\,km", r"\ m", " \u00b0C", r"^\circ F"),
        )
    ),
    ("1,234.5 m", "1234.5"),
    *(("5", f"5{unit}") for unit in (" m", " km/h", " m\u00b2", r"^\circ C")),
    (r"5\text{ m}", "5 m"),
    *((paid, "5") for paid in ("\u00a35", "\u20ac5", "5 \u20ac", "\\text{\u20ac5}", r"\pounds 5")),
    *((style, "5") for style in (r"\large 5", r"{\Large 5}", r"\huge{5}", r"\mathbf{\LARGE 5}", r"\boldsymbol{5}")),
    *((coloured, "x+5") for coloured in (r"\color{red}x+5", r"\textcolor{red}{x+5}", r"x+{\color{red} 5}")),
    *((f"2.5{of}", "2500000") for of in (" million dollars", r"\text{ million dollars}", r" million\text{ people}")),
    ("3 dozen eggs", "36"),
    # signs of Unicode
    ("\u221a12", r"2\sqrt{3}"),
    ("2\u221a3/3", r"\frac{2\sqrt{3}}{3}"),
    ("\u221a(x+1)", r"\sqrt{x+1}"),
    ("\u00bd", "0.5"),
    ("1\u00bd cups", "3/2"),
    ("\u2153x", "x/3"),
    ("3x\u00b2+2", "3x^2+2"),
    ("10\u207b\u00b9\u2070", "10^{-10}"),
    # expressions
    ("x^2  + 1", "x^2+1"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x^3 - 3x^2 + 3x - 1", "(x-1)^3"),
    ("(x-1)(x-2)", "(x-2)(x-1)"),
    ("a+b+c", "c+b+a"),
    ("ab", "ba"),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
    (r"\frac{1}{2}x", "x/2"),
    ("2^{x+1}", r"2\cdot 2^x"),
    (r"\sin^2 x+\cos^2 x", "1"),
    ("3t^2+2t", "2t+3t^2"),
    ("x+c", "x + c"),
    # equations and inequalities
    ("x=5", "5"),
    ("5", "x=5"),
    ("m+n=204", "204"),
    ("y=2x+1", "2x+1"),
    ("f(x)=x^2", "x^2"),
    ("3x+2y=6", "6x+4y=12"),
    ("x>3", "3<x"),
    (r"x>3", r"(3,\infty)"),
    (r"0\le x\le 1", "[0,1]"),
    # tuples, sets, intervals, matrices
    ("(1, 2)", "(1,2)"),
    (r"\left(3,\frac{\pi}{2}\right)", r"(3,\pi/2)"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    (r"\{1,2\}", "2, 1"),
    ("(1,2)", "1,2"),
    ("(1,2),(3,4)", r"\{(1,2),(3,4)\}"),
    (r"1 \text{ and } 2", "2, 1"),
    (r"x = 1 \text{ or } x = 2", "1,2"),
    (r"\pm 2", r"\{-2,2\}"),
    (r"x = \pm 2", "-2, 2"),
    (r"1 \pm 2", "3, -1"),
    (r"\frac{-1 \pm \sqrt{17}}{2}", r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}"),
    (r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}", r"x = \frac{-1 \pm \sqrt{17}}{2}"),
    (r"\left\{\frac{1 \pm 3}{2}\right\}", r"\{2, -1\}"),
    ("(1 \u00b1 3)/2", "2, -1"),
    (r"2, 3, \frac{3 \pm i\sqrt{3}}{2}", r"2, 3, \frac{3 + i\sqrt{3}}{2}, \frac{3 - i\sqrt{3}}{2}"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("x=3, y=4", "(3,4)"),
    ("y=4, x=3", "(3,4)"),
    ("(3, 1/2)", "x = 3, y = 0.5"),
    (r"(x, y) = \left(3, 4\right)", "x=3, y=4"),
    ("(y,x)=(4,3)", "x=3, y=4"),
    ("(2,3)", "m=2, b=3"),
    ("[3,4]", r"x=3 \text{ and } y=4"),
    (r"\emptyset", r"\varnothing"),
    (r"\left[-1,1\right]", "[-1,1]"),
    (r"(-\infty, 3]", r"(-\infty,3]"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"x\in[1,2]", "[1,2]"),
    (r"+\infty", r"\infty"),
    (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"\begin{pmatrix}0.5\\2\end{pmatrix}", r"\begin{pmatrix}1/2\\2\end{pmatrix}"),
    # text
    (r"\text{East}", "east"),
    (r"\textbf{East}.", r"\text{East}"),
    (r"\text{No solution}", "no solution"),
    (r"\text{DNE}", "dne"),
    (r"\text{(A)}", "A"),
    (r"\text{Monday}, \text{Tuesday}", "Monday, Tuesday"),
    ("+", "+"),
    ("1/2/3", "1/2/3"),
    ("1011_2", "1011_2"),
    ("1011_{2}", "1011_2"),
]

DIFFERENT = [
    ("85", "86"),
    ("-5", "5"),
    ("1234", "1,234,000"),
    ("12,34", "1234"),
    ("3.00001", "3"),
    ("0.00000001", "0.0000002"),
    (LONG, "1"),
    (LONG, LONG + "1"),
    ("1e999", "5"),
    ("", "5"),
    (r"\text{}", "5"),
    (r"\frac{1}{2}", r"\frac{2}{3}"),
    (r"\frac{1}{3}", "0.333"),
    ("0.333", "1/3"),
    (r"0.\overline{3}", "0.3"),
    (r"\approx 9", "9.5"),
    ("1/0", "2/0"),
    ("1/0", r"\infty"),
    (r"\frac{0}{0}", "1"),
    (r"\sqrt{8}", r"2\sqrt{3}"),
    (r"\sqrt{2+3}", r"\sqrt2+\sqrt3"),
    (r"\frac{1+\sqrt5}{2}", r"\frac{1-\sqrt5}{2}"),
    (r"2\pi", r"\pi"),
    (r"\pi", "3.14"),
    (r"\frac{22}{7}", r"\pi"),
    ("e", "2.718"),
    ("2^{99}", "2^{98}"),
    ("2^{100000}", "2^{100001}"),
    ("10^{-3}", "0.01"),
    ("10^{-8}", "0.0000002"),
    (r"6.67 \times 10^{-11}", r"1.6 \times 10^{-19}"),
    ("3+2i", "3-2i"),
    (r"50\%", "0.05"),
    ("5 percent", "0.06"),
    (r"45^\circ", "90"),
    (r"5 \text{ hours}", "6"),
    (r"3 \text{ hours } 20 \text{ minutes}", r"3 \text{ hours } 40 \text{ minutes}"),
    ("1 1/2", "11/2"),
    ("=5", "6"),
    ("12:30", "12:45"),
    ("3:4", "4:3"),
    # variables, not units
    ("2", "2c"),
    ("2c", "2"),
    ("2ab", "2"),
    ("3t^2+2", "3t^2+2t"),
    (r"2\mathrm{e}", "2"),
    ("3 pi", "3"),
    ("5m", "5"),
    ("5 x", "5"),
    ("5 i", "5"),
    ("5 m", "6"),
    ("5", "5m"),
    ("5 thousand two hundred", "5000"),
    ("2.5 million dollars", "2.5"),
    ("3\u00b2", "32"),
    ("\u221a12", "2"),
    (r"\largest 5", "5"),
    ("5 m + 2", "5"),
    ("5 m 20 cm", "5"),
    ("3 + 2 m", "5"),
    ("2x", "2 m"),
    ("5 s", "5 m"),
    ("x^2+1", "(x+1)^2"),
    ("a-b", "a+b"),
    ("a^b", "b^a"),
    ("x_1", "x_2"),
    ("2n+1", "2k+1"),
    (r"\sin x", r"\cos x"),
    ("x=5", "y=5"),
    ("x=5", "6"),
    ("y=2x+1", "y=2x-1"),
    ("x>3", "x<3"),
    (r"x \geq 3", "x>3"),
    (r"p \neq 2", "p = 2"),
    ("(1,2)", "(2,1)"),
    ("(4,3)", "x=3, y=4"),
    ("(4,3)", r"y=4 \text{ and } x=3.5"),
    ("(x,y)=(4,3)", "x=3, y=4"),
    ("(3,2,1)", "x=1, y=2, z=3"),
    ("(1,2,3)", "(1,3,2)"),
    ("[1,2]", "(1,2)"),
    ("[1, 2)", "[1,2]"),
    ("(1,2)", r"\{1,2\}"),
    (r"\left\{ 1,2 \right\}", r"\left( 1,2 \right)"),
    (r"\{1,2,3\}", "[1,2,3]"),
    (r"(-\infty, 3)", r"(-\infty,3]"),
    (r"(0,1)\cup(1,2)", "(0,2)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\frac{1 \pm 3}{2}", "2"),
    ("2", r"\frac{1 \pm 3}{2}"),
    (r"\frac{1 \pm 3}{2}", "2, 1"),
    (r"(1, \pm 2)", "1, 2"),
    (r"\frac{\pm 1 \pm 3}{2}", "2, -1"),
    ("5", "5,6"),
    ("5,6", "5"),
    ("0", r"\emptyset"),
    (r"-\infty", r"\infty"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"\text{East}", "West"),
    ("Yes", "No"),
    ("A", "B"),
    ("DACB", "ABCD"),
    (r"\text{listen}", "silent"),
    ("red, green", "blue, red"),
    ("5", "five"),
    ("+", "-"),
    ("\u0665", "5"),  # Arabic
    (r"the 5 \frac", "5"),
    ("1011_2", "1101_2"),
    ("101_2", "101_3"),
    ("101_{10}", "101_2"),
]

PAIRS = [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in DIFFERENT]


@pytest.mark.parametrize(("found", "answer", "right"), PAIRS, ids=[f"{b[0][:30]} {b[1][:20]}" for b in PAIRS])
def test_boxed(found: str, answer: str, right: bool) -> None:
    assert get_checker("boxed")(rf"So it is $\boxed{{{found}}}$.", answer) is right


WHICH_BOX = [
    ("85", "85", False),
    ("", "85", False),
    (r"The answer is $\boxed{85}$.", "85", True),
    (r"\boxed{1} no, \boxed{2}", "2", True),
    (r"\boxed{1} no, \boxed{2}", "1", False),
    (r"\boxed{1} and \boxed{2", "1", True),
    (r"\boxed{1} or \boxed{", "1", True),  # cut short
    (r"\boxed{1} or \boxed{}", "1", False),
    (r"\boxed{1", "1", False),
    (r"\boxed 1", "1", False),
    (r"\boxed {1}", "1", True),
    (r"{ \boxed{1}", "1", True),
    (r"} \boxed{1} {", "1", True),
    (r"\boxed{\boxed{1}}", "1", True),
    (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right.", True),
]


@pytest.mark.parametrize(("text", "answer", "right"), WHICH_BOX)
def test_the_last_box_counts(text: str, answer: str, right: bool) -> None:
    assert get_checker("boxed")(text, answer) is right


def test_boxed_without_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        AutoDecoError, match=r"^checker 'boxed' needs math-verify: .*; pip install math-verify, or in .*\[eval\]\"$"
    ) as error:
        get_checker("boxed")
    assert (type(error.value), error.value.key) == (AutoDecoError, "eval")


# ---- regular expressions, text ----


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("It is 42.", r"\b4\d\b", True),
        ("It is 142.", r"\b4\d\b", False),
        ("a\nb", "a$", False),
        ("a\nb", "(?m)a$", True),
    ],
)
def test_regex(text: str, answer: str, right: bool) -> None:
    assert get_checker("regex")(text, answer) is right


def test_regex_expects_a_regular_expression() -> None:
    with pytest.raises(InvalidInput, match=r"^answer '\(a': not a regular expression: missing \), unterminated"):
        get_checker("regex")("a", "(a")


@pytest.mark.parametrize(
    ("text", "answer", "right"), [(" Paris\n", "Paris", True), ("Paris.", "Paris", False), ("paris", "Paris", False)]
)
def test_exact(text: str, answer: str, right: bool) -> None:
    assert get_checker("exact")(text, answer) is right


def test_story() -> None:
    from autodeco_gguf.tasks.stories import NAMES, SLOTS

    first = {name: slot.words[0] for name, slot in SLOTS.items()}
    story = (
        "{n} lives near the {place}. One {mood} morning {n} finds 47 {look} {thing} in a {container}. Then a {kind} "
        "{helper} brings 38 more. {n} counts: 47 + 38 = \\boxed{{85}}. What a {day} day!"
    ).format(n=NAMES[0], **first)
    assert get_checker("story")(story, f"{NAMES[0]} 47 38") is True
    assert get_checker("story")(story, f"{NAMES[0]} 47 39") is False


REPETITIONS = [
    "answer is ",
    "answer",
    "option: ",
    "answer is" + " " * 1000,
    "Answer: \\text",
    "*",
    "(",
    "C)",
    r"\boxed{",
    r"\boxed{\text{C",
    r"\boxed{1} ",
]


@pytest.mark.parametrize("text", REPETITIONS)
def test_a_model_that_repeats_itself_takes_no_time(text: str) -> None:
    start = time.perf_counter()
    text *= 300_000 // len(text)
    assert last_boxed(r"\boxed{1} " + text) == "1"
    get_checker("choice")(text, "Z")
    get_checker("number")(text, "-9")
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("checker", "there", "missing"),
    [
        ("boxed", r"not 4: \boxed{5}", r"4 \boxed{5"),
        ("choice", "The answer is (B).", "C is a vitamin."),
        ("literal", "It is\n```\nNone\n```", "It is nothing."),
    ],
)
def test_the_form_that_a_checker_looks_for(checker: str, there: str, missing: str) -> None:
    assert (has_form(checker, there), has_form(checker, missing)) == (True, False)
    assert not any(has_form(other, there) is not None for other in ("exact", "ifeval", "regex", "story", "own:checker"))


# ---- expected answers as they are published ----

SOLVED = "He has 3 boxes of 6 = 3*6 = $<<3*6=18>>18.\nThat is all of it.\n"
MARKING = '[["startend:end_checker", {"end_phrase": "#### 5"}]]'
READ = [
    ("boxed", SOLVED + "#### 18", "18"),
    ("boxed", SOLVED + "####18\r\n", "18"),
    ("boxed", SOLVED + "#### -$1,018.50", "-1018.50"),
    ("boxed", "#### 5\nNow the real one.\n#### 7. ", "7"),
    ("boxed", SOLVED + "#### \\frac{1}{2}", "\\frac{1}{2}"),
    ("boxed", SOLVED + "It is $\\boxed{18}$.", SOLVED + "It is $\\boxed{18}$."),
    ("boxed", "5,6", "5,6"),
    ("boxed", "1" * 5000, "1" * 5000),
    ("boxed", "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}", "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}"),
    ("exact", SOLVED + "#### 1,018", "1018"),
    ("exact", "no mark # 5", "no mark # 5"),
    ("literal", SOLVED + "#### 1,018", "1018"),
    ("choice", "B fits both.\n#### C", "C"),
    ("literal", "'a #### b'", "'a #### b'"),
    ("regex", r"\b18\b", r"\b18\b"),
    ("regex", r"####\s*18", r"####\s*18"),
    ("ifbench", MARKING, MARKING),
    ("ifeval", MARKING, MARKING),
    ("own:check", SOLVED + "#### 18", SOLVED + "#### 18"),
]


@pytest.mark.parametrize(("checker", "published", "answer"), READ)
def test_an_answer_as_it_is_published(checker: str, published: str, answer: str) -> None:
    assert read_answer(checker, published) == answer


def test_a_solution_that_boxes_its_answer() -> None:
    assert get_checker("boxed")(r"\boxed{18.0}", SOLVED + r"It is $\boxed{18}$.") is True
    assert get_checker("boxed")(r"\boxed{19}", SOLVED + r"It is $\boxed{18}$.") is False


FORM = "nothing but a number, a formula or at most 8 words, as checker boxed compares it"
UNREADABLE = [
    ("boxed", SOLVED, FORM),
    ("boxed", "3*6 = <<3*6=18>>18", FORM),
    ("boxed", "3 + 4 = 7\n7 - 2 = 5", FORM),
    ("boxed", "#### 18\nThat is all.", FORM),
    ("boxed", "#### 18 # it is", FORM),
    ("boxed", SOLVED + "####\n", FORM),
    ("boxed", "The answer is 18.", FORM),
    ("boxed", r"\frac{1}{2", FORM),
    ("boxed", r"\boxed{}", FORM),
    ("boxed", "$ $.", FORM),
    ("boxed", "\\begin{pmatrix}\n1\n\\end{pmatrix}\nis it", FORM),
    ("boxed", "#### 5\n#", FORM),
    ("boxed", "x+" * 600 + "x", FORM),
    ("choice", SOLVED + "#### 18", "one letter, A to Z"),
    ("choice", "(C)", "one letter, A to Z"),
]


@pytest.mark.parametrize(("checker", "answer", "expected"), UNREADABLE)
def test_an_answer_that_its_checker_cannot_read(checker: str, answer: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^answer '.*': expected {expected}$") as error:
        read_answer(checker, answer)
    assert (error.value.key, error.value.expected) == ("answer", expected)
    assert len(str(error.value)) < 250


WRITTEN = [
    (r"\$29.00", "29", True),
    ("29 dollars", "29", True),
    (r"29\%", "29", True),
    ("**29**", "29", True),
    ("29.5", "29", False),
    ("2125", "2,125", True),
    (r"-\$10", "-10", True),
    ("\u221210", "-10", True),
    ("10", "-10", False),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{2\pi}{3})", False),
]


@pytest.mark.parametrize(("found", "answer", "right"), WRITTEN)
def test_a_number_as_it_is_written(found: str, answer: str, right: bool) -> None:
    assert get_checker("boxed")(rf"\boxed{{{found}}}", answer) is right


ENDLESS = ["####" + " " * 100_000 + "#a", "<" * 300_000, "\n" * 100_000 + "\\end{" + "x" * 100_000]


@pytest.mark.parametrize("answer", ENDLESS, ids=[answer[:8] for answer in ENDLESS])
def test_a_hostile_answer_takes_linear_time(answer: str) -> None:
    start = time.process_time()
    for checker in ("boxed", "choice", "number"):
        with pytest.raises(InvalidInput):
            read_answer(checker, answer)
    assert time.process_time() - start < 3


# ---- names ----


def test_unknown_checker() -> None:
    names = "boxed choice code exact ifbench ifeval literal member number official regex story"
    assert " ".join(CHECKERS) == names
    with pytest.raises(
        InvalidInput, match=r"^checker 'maths', expected one of boxed, .*, story, or module:function of"
    ) as error:
        get_checker("maths")
    assert (error.value.key, error.value.found, error.value.expected) == ("checker", "maths", tuple(CHECKERS))


def test_checker_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in_the_working_directory.py").write_text("def check(text, answer):\n    return text == answer * 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    checker = get_checker("in_the_working_directory:check")
    assert checker("xx", "x") is True
    assert checker("x", "x") is False


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:f",
            r"'no_such_module' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (":f", "'' cannot be imported: ValueError: Empty module name"),
        ("json:f", "'f' of 'json' is missing, expected a function"),
        ("sys:platform", "'platform' of 'sys' is of type str, expected a function"),
        ("json:", "'' of 'json' is missing, expected a function"),
    ],
)
def test_checker_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^checker '{name}': {message}$"):
        get_checker(name)

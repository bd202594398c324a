"""Formats of benchmarks: records as they are published, prompts and answers as they come out."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks.adapters import ADAPTERS
from autodeco_gguf.tasks.checkers import get_checker, read_answer
from autodeco_gguf.tasks.ifbench import registry as ifbench
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task, read_task

BOX = "\nMake sure you output the final answer within \\boxed{}."
LETTER = "End your answer with the letter of the right option in \\boxed{}."
LITERAL = "End your answer with the value alone, as a Python literal in a code block."
CODE = "End your answer with all of the code in one Python code block."


def write(path: Path, records: Sequence[object]) -> Path:
    """A file of records in the format of its suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        with path.open("w", newline="") as f:
            rows: Any = records
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


MATH = {"problem": "How much?", "solution": r"Not $\boxed{1}$ but $\boxed{\frac{1}{2}}$.", "type": "Algebra"}
GPQA = {
    "Question": "Which is a noble gas?\n",
    "Correct Answer": "Neon ",
    "Incorrect Answer 1": "Iron",
    "Incorrect Answer 2": "Zinc\n",
    "Incorrect Answer 3": "Lead",
    "Explanation": "two\nlines",
}
MMLU_PRO = {
    "question_id": 7,
    "question": "What is 1 + 1?",
    "options": ["0", "1", "2"],
    "answer": "C",
    "answer_index": 2,
    "cot_content": "",
    "category": "math",
    "src": "here",
}
TEST_OUTPUT = {
    "question_title": "keep",
    "question_content": "Say whether k is in nums.",
    "question_id": "1",
    "contest_id": "c",
    "test_id": 0,
    "starter_code": "class Solution:\n    def keep(self, nums, k):\n        ",
    "function_name": "keep",
    "difficulty": "easy",
    "test": '[{"input": "[1, 2]\\n3", "output": "[true, null]", "testtype": "functional"}]',
}
TEST_OUTPUT_TEXT = (
    "Say whether k is in nums.\n\n```python\nclass Solution:\n    def keep(self, nums, k):\n```\n\n"
    f"What does a correct keep([1, 2], 3) return? {LITERAL}"
)
EXECUTION = {
    "question_id": "1",
    "id": "sample_0",
    "function_name": "f",
    "code": "def f(x):\n    return [x]\n",
    "input": "f(x = 'a')",
    "output": "['a']",
    "numsteps": 3,
}
PRIVATE = base64.b64encode(zlib.compress(pickle.dumps('[{"input": "3 4", "output": "7"}]'))).decode()
GENERATION = {
    "question_title": "add",
    "question_content": "Add the numbers.",
    "platform": "atcoder",
    "starter_code": "",
    "public_test_cases": '[{"input": "1 2\\n", "output": "3\\n", "testtype": "stdin"}]',
    "private_test_cases": PRIVATE,
    "metadata": "{}",
}
IFEVAL = {
    "key": 1000,
    "prompt": "Write two lines, without a comma.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 5, "relation": "at least", "keywords": None}],
}

IFBENCH = {
    "key": "17",
    "prompt": "Count in one word.",
    "instruction_id_list": ["count:numbers", "format:no_whitespace"],
    "kwargs": [{"N": 1.0, "small_n": None}, {"N": None}],
}

RECORDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "official aime": ("aime", {"problem": "a", "gt": "204"}, "a" + BOX, "204"),
    "official aime, number": ("aime", {"problem": "a", "gt": 70}, "a" + BOX, "70"),
    "Maxwell-Jia": ("aime", {"ID": "I-1", "Problem": "a", "Solution": "s", "Answer": 33}, "a" + BOX, "33"),
    "HuggingFaceH4": ("aime", {"id": 60, "problem": "a", "solution": "s", "answer": "025"}, "a" + BOX, "025"),
    "opencompass": ("aime", {"question": "a", "answer": "70"}, "a" + BOX, "70"),
    "brumo25": (
        "brumo25",
        {"problem_idx": 1, "problem": "a\n", "answer": "2^{99}", "problem_type": ["Geometry"]},
        "a\n" + BOX,
        "2^{99}",
    ),
    "hmmt25": ("hmmt25", {"problem_idx": 1, "problem": "a", "answer": "-984", "problem_type": []}, "a" + BOX, "-984"),
    "beyondaime": ("beyondaime", {"problem": "a", "answer": 3}, "a" + BOX, "3"),
    "gsm8k": (
        "gsm8k",
        {"question": "How many?", "answer": "It is <<1000+80=1080>>1080\n#### 1,080"},
        "How many?",
        "1080",
    ),
    "math": ("math", {**MATH, "level": "Level 1"}, "How much?" + BOX, r"\frac{1}{2}"),
    "math, bare": ("math", {**MATH, "solution": r"$\boxed{3}$, so $\boxed 2$."}, "How much?" + BOX, "2"),
    **{
        f"math, bare {answer}": ("math", {**MATH, "solution": f"so {solution}."}, "How much?" + BOX, answer)
        for answer, solution in (
            (r"\frac{1}{2}", r"$\boxed \frac{1}{2}$"),
            (r"2\sqrt{3}", r"$\boxed 2\sqrt{3} $"),
            ("x + 3", r"\(\boxed x + 3\), or $3 + x$"),
            ("-2.", r"\boxed -2"),
            ("5", r"\begin{align*} x &= \boxed 5 \end{align*} so $x = 5$"),
            ("5", r"\begin{align*} x &= \boxed 5 \\ y &= 6 \end{align*} so $x = 5$"),
            ("5.", r"\boxed 5. Thus $x = 5$."),
            ("3", r"\boxed  {3}, or $x$"),
        )
    },
    "math, framed": (
        "math",
        {**MATH, "answer": None, "solution": r"$\fbox{\sqrt{2}}$"},
        "How much?" + BOX,
        r"\sqrt{2}",
    ),
    "math-500": ("math", {**MATH, "answer": "0.5", "unique_id": "test/a/1.json"}, "How much?" + BOX, "0.5"),
    "gpqa": ("gpqa", GPQA, f"Which is a noble gas?\n\nA. Zinc\nB. Iron\nC. Neon\nD. Lead\n\n{LETTER}", "C"),
    "mmlu-pro": ("mmlu-pro", MMLU_PRO, f"What is 1 + 1?\n\nA. 0\nB. 1\nC. 2\n\n{LETTER}", "C"),
    "mmlu-pro without index": (
        "mmlu-pro",
        {"question": "q", "options": ["x", "y"], "answer": "A"},
        f"q\n\nA. x\nB. y\n\n{LETTER}",
        "A",
    ),
    "test output": ("livecodebench", TEST_OUTPUT, TEST_OUTPUT_TEXT, "[True, None]"),
    "test output, parsed": (
        "livecodebench",
        {**TEST_OUTPUT, "test": [{"input": "[1, 2]\n3", "output": '"it\'s"'}]},
        TEST_OUTPUT_TEXT,
        '"it\'s"',
    ),
    "execution": (
        "livecodebench",
        EXECUTION,
        f"```python\ndef f(x):\n    return [x]\n```\n\nWhat does f(x = 'a') return? {LITERAL}",
        "['a']",
    ),
    "ifeval": (
        "ifeval",
        IFEVAL,
        "Write two lines, without a comma.",
        '[["punctuation:no_comma", {}], ["length_constraints:number_words", {"num_words": 5, "relation": "at least"}]]',
    ),
    "ifbench": (
        "ifbench",
        IFBENCH,
        "Count in one word.",
        '[["count:numbers", {"N": 1.0}], ["format:no_whitespace", {}]]',
    ),
    "plain": ("", {"problem": "a", "gt": 5}, "a", "5"),
    "deepmath": (
        "deepmath",
        {"question": "What is 1 / 2?", "final_answer": r"\dfrac{1}{2}", "difficulty": 1.0, "topic": "Numbers"},
        "What is 1 / 2?\nMake sure you output the final answer within \\boxed{}.",
        r"\dfrac{1}{2}",
    ),
    "plain deepmath": ("", {"question": "a", "final_answer": "5"}, "a", "5"),
    "plain prompt": ("", {"prompt": "a", "answer": "5"}, "a", "5"),
}
CHECKERS = {
    "": "boxed",
    "aime": "boxed",
    "brumo25": "boxed",
    "hmmt25": "boxed",
    "beyondaime": "boxed",
    "gsm8k": "number",
    "math": "boxed",
    "gpqa": "choice",
    "mmlu-pro": "choice",
    "deepmath": "boxed",
    "livecodebench": "literal",
    "ifeval": "ifeval",
    "ifbench": "ifbench",
}


def test_every_format_has_a_record() -> None:
    assert {form for form, *_ in RECORDS.values()} == {*ADAPTERS, ""} == set(CHECKERS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("name", RECORDS)
def test_formats(name: str, suffix: str, tmp_path: Path) -> None:
    form, record, text, answer = RECORDS[name]
    path = write(tmp_path / f"set{suffix}", [record, record])
    task = read_task(f"{form}:{path}" if form else str(path))
    by_line = suffix == ".jsonl"
    problems = tuple(Problem(text, answer, i, str(path), by_line) for i in (1, 2))
    assert task == Task("set", problems, CHECKERS[form])
    assert [problem.where for problem in problems] == [
        f"{path}:{i}" if by_line else f"{path}: record {i}" for i in (1, 2)
    ]


RESPONSES = {
    "gsm8k": ("It is 1,080.00.", "It is 108."),
    "math": (r"\boxed{0.5}", r"0.5, not \boxed{2}"),
    "gpqa": (r"It is \boxed{C}.", r"It is \boxed{A}."),
    "mmlu-pro": (r"It is \boxed{C}.", r"It is \boxed{A}."),
    "test output": ("```\n[True, None]\n```", "```\n[True, 0]\n```"),
    "execution": ('```python\n["a"]\n```', "```\na\n```"),
    "ifeval": ("One two three four five.", "One, two, three, four, five."),
    "ifbench": ("1!", "1 2"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_checker_understands_the_answer(name: str) -> None:
    form, record, _, _ = RECORDS[name]
    adapter = ADAPTERS[form]
    answer = read_answer(adapter.checker, adapter.convert(record, adapter.checker)[1])
    check = get_checker(adapter.checker)
    assert [check(response, answer) for response in RESPONSES[name]] == [True, False]


def test_gpqa_shuffles_by_the_question_alone(tmp_path: Path) -> None:
    rows = [{**GPQA, "Question": f"Question {i}", "Explanation": "x" * i} for i in range(40)]
    task = read_task(f"gpqa:{write(tmp_path / 'gpqa_diamond.csv', rows)}")
    again = read_task(f"gpqa:{write(tmp_path / 'x.json', rows[::-1])}")
    assert [(p.text, p.answer) for p in task.problems] == [(p.text, p.answer) for p in again.problems[::-1]]
    assert "".join(p.answer for p in task.problems[:12]) == "ABAACCBCBAAC"
    for problem in task.problems:
        assert f"\n{problem.answer}. Neon\n" in problem.text
        assert [line[:3] for line in problem.text.split("\n")[2:6]] == ["A. ", "B. ", "C. ", "D. "]
        assert {line[3:] for line in problem.text.split("\n")[2:6]} == {"Neon", "Iron", "Zinc", "Lead"}


ASKED = "Write a correct Python program for this problem; it has to pass all tests.\n\nAdd the numbers.\n\n"


def test_code_generation(tmp_path: Path) -> None:
    path = write(tmp_path / "v6.jsonl", [GENERATION])
    refused = rf"^{path}:1: code generation, which checker literal cannot grade, expected code, or one of your own$"
    with pytest.raises(BadFile, match=refused):
        read_task(f"livecodebench:{path}", checker="literal")
    tests = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    for checker in (None, "mine:run"):
        task = read_task(f"livecodebench:{path}", checker=checker)
        assert task.checker == (checker or "code")
        assert task.problems[0].text == (
            f"{ASKED}The program reads standard input and writes its answer to standard output. Do not build the "
            f"examples into it.\n\n{CODE}"
        )
        assert json.loads(task.problems[0].answer) == {"function": None, "tests": tests, "private": PRIVATE}


@pytest.mark.parametrize("key", ["func_name", "fn_name"])
def test_code_generation_of_a_function(key: str, tmp_path: Path) -> None:
    private = '[{"input": "2\\n3", "output": "5", "testtype": "functional"}]'
    record = {
        **GENERATION,
        "starter_code": "def add(a, b):\n",
        "metadata": json.dumps({key: "add"}),
        "public_test_cases": '[{"input": "1\\n2", "output": "3", "testtype": "functional"}]',
        "private_test_cases": private,
    }
    path = write(tmp_path / "v6.jsonl", [record])
    (problem,) = read_task(f"livecodebench:{path}").problems
    names = "Complete this code, without changing its names:"
    assert problem.text == f"{ASKED}{names}\n\n```python\ndef add(a, b):\n```\n\n{CODE}"
    answer = json.loads(problem.answer)
    assert (answer["function"], answer["private"]) == ("add", private)


BAD_TESTS = {
    "none": ({"public_test_cases": "[]", "private_test_cases": "[]"}, "tests is empty, and there are no private ones"),
    "private": ({"private_test_cases": "eJw="}, "private: no pickle: pickle exhausted before .*"),
    "no name": (
        {"public_test_cases": '[{"input": "1", "output": "2", "testtype": "functional"}]'},
        "metadata has no func_name, but the tests call a function",
    ),
    "no output": ({"public_test_cases": '[{"input": "1"}]'}, "tests is a list of other things, expected .*"),
}


@pytest.mark.parametrize("name", BAD_TESTS)
def test_tests_that_will_not_do(name: str, tmp_path: Path) -> None:
    changed, reason = BAD_TESTS[name]
    path = write(tmp_path / "v6.jsonl", [{**GENERATION, **changed}])
    with pytest.raises(BadFile, match=f"^{path}:1: {reason}$"):
        read_task(f"livecodebench:{path}")


def test_kinds_of_livecodebench_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "v6.jsonl", [EXECUTION, GENERATION])
    with pytest.raises(BadFile, match=rf"^{path}:2: code generation, which checker literal cannot grade"):
        read_task(f"livecodebench:{path}")
    path = write(tmp_path / "v7.jsonl", [GENERATION, EXECUTION])
    with pytest.raises(BadFile, match=rf"^{path}:2: a value to be told, which checker code cannot grade"):
        read_task(f"livecodebench:{path}")


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


BAD_RECORDS: dict[str, tuple[str, object, str]] = {
    "math, no problem": ("aime", {"gt": 1}, "problem or Problem or question is missing; the record has gt"),
    "math, no answer": (
        "hmmt25",
        {"problem": "a", "b": 1},
        "gt or answer or Answer is missing; the record has b, problem",
    ),
    "math, bare fraction": (
        "math",
        {**MATH, "solution": r"It is \boxed \frac{1}{2} of it."},
        "solution has no answer in \\boxed{}, and answer is missing",
    ),
    "math, list": ("brumo25", {"problem": "a", "answer": ["1"]}, "answer is a list, expected a string or a number"),
    "math, null": ("beyondaime", {"problem": "a", "answer": None}, "answer is null, expected a string or a number"),
    "math, blank": ("aime", {"Problem": " ", "Answer": 1}, "Problem is empty"),
    "math, nothing": ("aime", {}, "problem or Problem or question is missing; the record has no keys"),
    "gsm8k, words": ("gsm8k", {"question": "a", "answer": "So\n#### two"}, "answer 'two': expected a number"),
    "gsm8k, no mark": ("gsm8k", {"question": "a", "answer": "1 + 1 is 2"}, "answer '1 + 1 is 2': expected a number"),
    "gsm8k, null": ("gsm8k", {"question": "a", "answer": None}, "answer is null, expected a string or a number"),
    "MATH, no box": (
        "math",
        {"problem": "a", "solution": "It is 2."},
        "solution has no answer in \\boxed{}, and answer is missing",
    ),
    "MATH, neither": ("math", {"problem": "a"}, "solution or answer is missing; the record has problem"),
    "a list": ("aime", [1], "is a list, expected an object"),
    "plain": (
        "",
        {"a": 1},
        """has the keys ['a'], expected {"problem", "gt"}, {"prompt", "answer"} or {"question", "answer"}""",
    ),
    "plain list": ("", [1], "is a list, expected an object"),
    "gpqa, no question": ("gpqa", {"a": 1}, "Question is missing; the record has a"),
    "gpqa, three options": (
        "gpqa",
        without(GPQA, "Incorrect Answer 3"),
        "Incorrect Answer 3 is missing; the record has Correct Answer, Explanation, Incorrect Answer 1, "
        "Incorrect Answer 2, Question",
    ),
    "gpqa, number": ("gpqa", {**GPQA, "Correct Answer": 5}, "Correct Answer is a number, expected a string"),
    "mmlu-pro, letter": ("mmlu-pro", {**MMLU_PRO, "answer": "D"}, "answer is 'D', expected a letter from A to C"),
    "mmlu-pro, letters": ("mmlu-pro", {**MMLU_PRO, "answer": "AB"}, "answer is 'AB', expected a letter from A to C"),
    "mmlu-pro, number": ("mmlu-pro", {**MMLU_PRO, "answer": 2}, "answer is a number, expected a string"),
    "mmlu-pro, index": ("mmlu-pro", {**MMLU_PRO, "answer_index": 1}, "answer is C and answer_index 1, expected 2"),
    "mmlu-pro, options": ("mmlu-pro", {**MMLU_PRO, "options": "0 1 2"}, "options is a string, expected a list"),
    "mmlu-pro, one option": ("mmlu-pro", {**MMLU_PRO, "options": ["0"]}, "options has 1 entries, expected 2 to 26"),
    "mmlu-pro, no options": ("mmlu-pro", {**MMLU_PRO, "options": []}, "options has 0 entries, expected 2 to 26"),
    "mmlu-pro, an option": ("mmlu-pro", {**MMLU_PRO, "options": ["0", "", "2"]}, "options is empty"),
    "lcb": (
        "livecodebench",
        {"question": "a"},
        "the record has question, expected test, or code, or public_test_cases, as LiveCodeBench has them",
    ),
    "deepmath, no answer": ("deepmath", {"question": "a"}, "final_answer is missing; the record has question"),
    "lcb, no JSON": (
        "livecodebench",
        {**TEST_OUTPUT, "test": "[{"},
        "test: not JSON: Expecting property name enclosed in double quotes at column 3",
    ),
    "lcb, no tests": (
        "livecodebench",
        {**TEST_OUTPUT, "test": "[]"},
        'test has no {"input", "output"} at its beginning',
    ),
    "lcb, other tests": ("livecodebench", {**TEST_OUTPUT, "test": "{}"}, "test is an object, expected a list"),
    "lcb, no input": (
        "livecodebench",
        {**TEST_OUTPUT, "test": '[{"output": "1"}]'},
        "input is missing; the record has output",
    ),
    "lcb, output": (
        "livecodebench",
        {**TEST_OUTPUT, "test": '[{"input": "1", "output": "[1"}]'},
        "output: not JSON: Expecting ',' delimiter at column 3",
    ),
    "lcb, no function": (
        "livecodebench",
        without(TEST_OUTPUT, "function_name"),
        "function_name is missing; the record has contest_id, difficulty, question_content, question_id, "
        "question_title, starter_code, test, test_id",
    ),
    "lcb, execution": ("livecodebench", {"code": "a", "input": "b"}, "output is missing; the record has code, input"),
    "ifeval, no prompt": ("ifeval", {"key": 1}, "key 1: prompt is missing; the record has key"),
    "ifeval, ids": (
        "ifeval",
        {**IFEVAL, "instruction_id_list": "punctuation:no_comma"},
        "key 1000: instruction_id_list is a string, expected a list",
    ),
    "ifeval, an id": (
        "ifeval",
        {**IFEVAL, "instruction_id_list": [1, "a"]},
        "key 1000: instruction_id_list is a number, expected a string",
    ),
    "ifeval, no kwargs": (
        "ifeval",
        without(IFEVAL, "kwargs"),
        "key 1000: kwargs is missing; the record has instruction_id_list, key, prompt",
    ),
    "ifeval, kwargs": (
        "ifeval",
        {**IFEVAL, "kwargs": [{}]},
        "key 1000: kwargs has 1 entries for 2 in instruction_id_list",
    ),
    "ifeval, null": ("ifeval", {**IFEVAL, "kwargs": [{}, None]}, "key 1000: kwargs has null, expected objects"),
    "ifeval, none": (
        "ifeval",
        {**IFEVAL, "kwargs": [], "instruction_id_list": []},
        "key 1000: kwargs has 0 entries for 0 in instruction_id_list",
    ),
    "ifbench, an id": (
        "ifbench",
        {**IFBENCH, "instruction_id_list": ["count:numbers", "format:no_spaces"]},
        "key 17: instruction 'format:no_spaces': unknown, expected one of " + ", ".join(ifbench.IFBENCH.checks),
    ),
    "ifbench, an argument": (
        "ifbench",
        {**IFBENCH, "kwargs": [{"N": None}, {}]},
        "key 17: instruction count:numbers: has the arguments none, expected N",
    ),
    "ifbench, kwargs": (
        "ifbench",
        without({**IFBENCH, "kwargs": [{"N": 1}]}, "key"),
        "kwargs has 1 entries for 2 in instruction_id_list",
    ),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records(name: str, tmp_path: Path) -> None:
    form, record, message = BAD_RECORDS[name]
    good = next(record for other, record, *_ in RECORDS.values() if other == form)
    for path, place in ((tmp_path / "p.jsonl", ":2"), (tmp_path / "p.json", ": record 2")):
        write(path, [good, record])
        spec = f"{form}:{path}" if form else str(path)
        with pytest.raises(BadFile) as error:
            read_task(spec)
        assert str(error.value) == f"{path}{place}: {message}"
        assert len(read_task(spec, limit=1).problems) == 1

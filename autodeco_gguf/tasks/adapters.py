"""Benchmarks: from a record as it is published to the prompt and the answer that a checker compares with."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.files.jsonl import parse_line, type_name
from autodeco_gguf.files.reading import MAX_JSON
from autodeco_gguf.tasks.boxes import last_boxed
from autodeco_gguf.tasks.checkers import read_answer
from autodeco_gguf.tasks.instruction_checks import encode
from autodeco_gguf.tasks.problems import as_answer, as_text, parse_problem, unfit
from autodeco_gguf.tasks.programs import cases as programs

Record = Mapping[str, object]


@dataclass(frozen=True)
class Adapter:
    """How a benchmark is read: the checker that grades it, if the user chooses no other, and (record, checker) ->
    (prompt, answer), which raises InvalidInput, without the record's place, for one that it cannot use.

    ``chosen`` tells the checker where it depends on the record. A line of a file may have ``line_bytes``.
    """

    checker: str
    convert: Callable[[Record, str], tuple[str, str]]
    chosen: Callable[[Record], str] | None = None
    line_bytes: int = MAX_JSON

    def checker_of(self, record: Record) -> str:
        """The checker of a record."""
        return self.checker if self.chosen is None else self.chosen(record)


# ---- mathematics ----

_BOXED = "\nMake sure you output the final answer within \\boxed{}."
"""What the official evaluation appends to every problem (AutoDeco, utils/llm_eval.py)."""


def _competition(record: Record, checker: str) -> tuple[str, str]:
    """``problem`` and ``gt`` (AutoDeco's eval_data), or ``answer`` (MathArena, HuggingFaceH4/aime_2024, BeyondAIME), or
    ``Problem`` and ``Answer`` (Maxwell-Jia/AIME_2024), or ``question`` and ``answer`` (opencompass/AIME2025).
    """
    text = as_text(*_item(record, "problem", "Problem", "question"))
    return text + _BOXED, as_answer(*_item(record, "gt", "answer", "Answer"))


def _gsm8k(record: Record, checker: str) -> tuple[str, str]:
    """openai/gsm8k: ``question``, as it stands since any number will do, and an ``answer`` that ends in ``#### 18``."""
    return as_text(*_item(record, "question")), as_answer(*_item(record, "answer"))


def _math(record: Record, checker: str) -> tuple[str, str]:
    """HuggingFaceH4/MATH-500 has ``problem`` and ``answer``; in MATH (EleutherAI/hendrycks_math) the answer is the last
    box of the ``solution``.
    """
    text = as_text(*_item(record, "problem"))
    if record.get("answer") not in (None, ""):
        return text + _BOXED, as_answer("answer", record["answer"])
    solution = as_text(*_item(record, "solution", "answer"))
    answer = last_boxed(_BARE_BOX.sub(r"\\boxed{\1\2}", solution.replace("\\fbox", "\\boxed")))
    if not answer:
        raise InvalidInput("solution has no answer in \\boxed{}, and answer is missing", key="solution", found=solution)
    return text + _BOXED, answer


_BARE_BOX = re.compile(
    r"\\boxed +(?=[^\s{}$])(?:((?:(?!\\end|\\\\|&|\.\s)[^$\n]){1,200}?) *(?=\$|\\[)\]]|\\end|\\\\|&)|"
    r"([^\s{}$]+)(?=[\s$]|\Z))"
)
"""As a few solutions have it, without braces: what stands up to the end of the formula, else a single sign."""


def _deepmath(record: Record, checker: str) -> tuple[str, str]:
    """zwhe99/DeepMath-103K, what the paper's heads are trained on: ``question`` and ``final_answer``."""
    return as_text(*_item(record, "question")) + _BOXED, as_answer(*_item(record, "final_answer"))


# ---- multiple choice ----


def _gpqa(record: Record, checker: str) -> tuple[str, str]:
    """Idavidrein/gpqa: ``Question``, ``Correct Answer`` and three of ``Incorrect Answer N``.

    The order of the options is drawn by the text of the question alone, so that it is the same everywhere.
    """
    question = as_text(*_item(record, "Question")).strip()
    keys = ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))
    options = [as_text(*_item(record, key)).strip() for key in keys]
    seeds = [f"{i} {question}".encode("utf-8", "surrogatepass") for i in range(len(options))]
    order = sorted(range(len(options)), key=lambda i: hashlib.sha256(seeds[i]).digest())
    return _choice(question, [options[i] for i in order]), string.ascii_uppercase[order.index(0)]


def _mmlu_pro(record: Record, checker: str) -> tuple[str, str]:
    """TIGER-Lab/MMLU-Pro: ``question``, ``options``, ``answer`` (a letter) and, if it is there, ``answer_index``."""
    question = as_text(*_item(record, "question"))
    options = _list(*_item(record, "options"))
    letters = string.ascii_uppercase[: len(options)]
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        message = f"options has {len(options)} entries, expected 2 to {len(string.ascii_uppercase)}"
        raise InvalidInput(message, key="options", found=len(options))
    answer = as_text(*_item(record, "answer")).strip()
    if answer not in tuple(letters):
        raise unfit("answer", repr(answer), f"a letter from A to {letters[-1]}")
    index = record.get("answer_index")
    if index is not None and str(index) != str(letters.index(answer)):
        raise unfit("answer", f"{answer} and answer_index {index}", letters.index(answer))
    return _choice(question, [as_text("options", option) for option in options]), answer


def _choice(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, "", *lines, "", "End your answer with the letter of the right option in \\boxed{}."])


# ---- code ----

# not in a box: braces within a string would end it, and models escape what LaTeX would mind
_LITERAL = "End your answer with the value alone, as a Python literal in a code block."


def _livecodebench(record: Record, checker: str) -> tuple[str, str]:
    """The three kinds of records of LiveCodeBench: test output prediction, code execution, code generation."""
    for key, convert in (("public_test_cases", _generation), ("test", _test_output), ("code", _execution)):
        if key in record:
            if checker == "code" and convert is not _generation:
                message = "a value to be told, which checker code cannot grade, expected literal, or one of your own"
                raise InvalidInput(message, key="checker", found=checker, expected=LIVECODEBENCH.checker)
            return convert(record, checker)
    raise InvalidInput(f"{_keys(record)}, expected test, or code, or public_test_cases, as LiveCodeBench has them")


def _test_output(record: Record, checker: str) -> tuple[str, str]:
    """livecodebench/test_generation: what a function that is only described returns for ``test[0]["input"]``.

    ``test`` is JSON, the input one argument a line, the output JSON too.
    """
    question, code = (as_text(*_item(record, key)) for key in ("question_content", "starter_code"))
    test = _list("test", _json("test", record["test"]))
    if not test or not isinstance(test[0], Mapping):
        raise InvalidInput('test has no {"input", "output"} at its beginning', key="test", found=test)
    arguments = ", ".join(as_text(*_item(test[0], "input")).split("\n"))
    call = f"{as_text(*_item(record, 'function_name'))}({arguments})"
    text = f"{question}\n\n{_block(code)}\n\nWhat does a correct {call} return? {_LITERAL}"
    return text, repr(_json("output", _item(test[0], "output")[1]))


def _execution(record: Record, checker: str) -> tuple[str, str]:
    """livecodebench/execution and execution-v2: what ``code`` returns for the call ``input``."""
    code, call, output = (as_text(*_item(record, key)) for key in ("code", "input", "output"))
    return f"{_block(code)}\n\nWhat does {call} return? {_LITERAL}", output


def _generation(record: Record, checker: str) -> tuple[str, str]:
    """livecodebench/code_generation and code_generation_lite: a program that passes public and private tests.

    The answer is ``{"function": NAME or null, "tests": [...], "private": ...}`` as JSON; a program without a function
    reads standard input.
    """
    if checker == LIVECODEBENCH.checker:
        message = f"code generation, which checker {checker} cannot grade, expected code, or one of your own"
        raise InvalidInput(message, key="checker", found=checker, expected="code")
    question = as_text(*_item(record, "question_content"))
    tests = _list("public_test_cases", _json("public_test_cases", record["public_test_cases"]))
    metadata = _json("metadata", record.get("metadata") or "{}")
    names = [metadata.get(key) for key in ("func_name", "fn_name")] if isinstance(metadata, Mapping) else []
    function = next((name for name in names if name), None)
    if function is None and any(isinstance(test, Mapping) and test.get("testtype") == "functional" for test in tests):
        raise InvalidInput("metadata has no func_name, but the tests call a function", key="metadata", found=metadata)
    starter = record.get("starter_code")
    if starter:
        task = f"Complete this code, without changing its names:\n\n{_block(as_text('starter_code', starter))}"
    else:
        task = (
            "The program reads standard input and writes its answer to standard output. "
            "Do not build the examples into it."
        )
    text = (
        f"Write a correct Python program for this problem; it has to pass all tests.\n\n{question}\n\n{task}\n\n"
        "End your answer with all of the code in one Python code block."
    )
    return text, programs.write_answer(function, tests, record.get("private_test_cases"))


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


# ---- instructions ----


def _instructions(record: Record, checker: str) -> tuple[str, str]:
    """google/IFEval and allenai/IFBench_test: ``prompt``, ``instruction_id_list`` and, for each of them, ``kwargs``.

    An error says the ``key`` of the record too.
    """
    try:
        prompt = as_text(*_item(record, "prompt"))
        ids = [as_text("instruction_id_list", i) for i in _list(*_item(record, "instruction_id_list"))]
        arguments = []
        for entry in _list(*_item(record, "kwargs")):
            if not isinstance(entry, Mapping):
                raise InvalidInput(f"kwargs has {type_name(entry)}, expected objects", key="kwargs", found=entry)
            arguments.append(entry)
        if not ids or len(ids) != len(arguments):
            raise InvalidInput(
                f"kwargs has {len(arguments)} entries for {len(ids)} in instruction_id_list", key="kwargs"
            )
        return prompt, read_answer(checker, encode(ids, arguments))
    except InvalidInput as e:
        if not isinstance(record.get("key"), int | str):
            raise
        raise InvalidInput(f"key {record['key']}: {e}", key=e.key, found=e.found, expected=e.expected) from e


# ---- parts of records ----


def _item(record: Record, *keys: str) -> tuple[str, object]:
    """The first of ``keys`` that the record has, and its value."""
    for key in keys:
        if key in record:
            return key, record[key]
    raise InvalidInput(f"{' or '.join(keys)} is missing; {_keys(record)}", key=keys[0])


def _keys(record: Record) -> str:
    return f"the record has {', '.join(sorted(map(str, record))) or 'no keys'}"


def _list(key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise unfit(key, type_name(value), "a list")
    return value


def _json(key: str, value: object) -> object:
    """The value of a string of JSON; what is no string is the value itself."""
    try:
        return parse_line(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else value
    except AutoDecoError as e:
        raise InvalidInput(f"{key}: {e}", key=key, found=value) from e


LIVECODEBENCH = Adapter(
    "literal",
    _livecodebench,
    chosen=lambda record: "code" if "public_test_cases" in record else "literal",
    line_bytes=256 << 20,  # with private tests
)
PLAIN = Adapter("boxed", lambda record, checker: parse_problem(record))
"""Records as ``parse_problem`` takes them; the prompt is the problem as it stands."""

ADAPTERS = {
    **dict.fromkeys(("aime", "brumo25", "hmmt25", "beyondaime"), Adapter("boxed", _competition)),
    "gsm8k": Adapter("number", _gsm8k),
    "math": Adapter("boxed", _math),
    "deepmath": Adapter("boxed", _deepmath),
    "gpqa": Adapter("choice", _gpqa),
    "mmlu-pro": Adapter("choice", _mmlu_pro),
    "livecodebench": LIVECODEBENCH,
    "ifeval": Adapter("ifeval", _instructions),
    "ifbench": Adapter("ifbench", _instructions),
}
"""The formats that a task can be given in, by the name that stands before its source."""

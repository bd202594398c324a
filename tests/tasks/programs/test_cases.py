"""Tests of programs as LiveCodeBench publishes them, and what output is right."""

from __future__ import annotations

import base64
import json
import pickle
import time
import zlib
from collections.abc import Callable

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.programs import cases
from autodeco_gguf.tasks.programs.cases import Case, Suite, program, read_answer, same_output, same_value, write_answer

PUBLIC = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
MORE = json.dumps([{"input": "3", "output": "4", "testtype": "stdin"}])


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_private_tests(protocol: int) -> None:
    wanted = Suite(None, (Case("1\n", "2\n"), Case("3", "4")))
    assert read_answer(write_answer(None, PUBLIC, packed(pickle.dumps(MORE, protocol)))) == wanted
    assert read_answer(write_answer(None, PUBLIC, MORE)) == wanted


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('run')",)


PICKLES = [
    (pickle.dumps(Evil()), r"a pickle with SHORT_BINUNICODE, expected that of one string"),
    (pickle.dumps(Evil(), 0), r"a pickle with GLOBAL, expected that of one string"),
    (pickle.dumps([MORE]), r"a pickle with EMPTY_LIST, expected that of one string"),
    (pickle.dumps(MORE.encode()), r"a pickle with SHORT_BINBYTES, expected that of one string"),
    (pickle.dumps((MORE, MORE)), r"a pickle with BINGET|a pickle with (SHORT_BINUNICODE|BINUNICODE|TUPLE2|BINGET)"),
    (pickle.dumps(MORE)[:-5], r"no pickle: "),
    (b"\x80\x04.", r"a pickle of nothing, expected that of a string"),
    (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", r"a pickle with BINBYTES8|no pickle: "),
    (b"not a pickle", r"a pickle with|no pickle: "),
    (pickle.dumps("[[" * 100_000), r"not JSON: nested too deeply"),
    (pickle.dumps("[" + "1," * (1 << 20) + "1]"), r"not JSON that can be read: more than 1048576 values"),
]


@pytest.mark.parametrize(("content", "reason"), PICKLES)
def test_a_pickle_builds_a_string_and_nothing_else(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^(private: )?({reason})"):
        read_answer(write_answer(None, PUBLIC, packed(content)))


def test_a_pickle_of_many_operations_takes_no_time() -> None:
    start = time.process_time()
    with pytest.raises(InvalidInput, match=r"^private: a pickle of more than 16 operations, expected that of"):
        read_answer(write_answer(None, PUBLIC, packed(b"\x80\x04\x8c\x02[]" + b"\x94" * (1 << 23) + b".")))
    assert time.process_time() - start < 1


def test_unpacking_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MAX_TESTS", 1000)
    with pytest.raises(InvalidInput, match=r"^private: unpacks to more than 1000 bytes$"):
        read_answer(write_answer(None, PUBLIC, packed(bytes(100_000_000))))


def test_long_lists_within_strings_are_no_values() -> None:
    numbers = ",".join(["1"] * (1 << 20))
    answer = write_answer("f", [{"input": "[]", "output": "1"}], None)
    assert read_answer(answer).function == "f"
    assert len(read_answer(write_answer(None, [{"input": numbers, "output": '"'}], None)).cases[0].input) == len(
        numbers
    )


BAD = [
    ("[]", "answer is a list, expected an object"),
    ('{"function": "a b", "tests": []}', "function is 'a b', expected the name of a function"),
    ('{"tests": {}}', "tests is an object, expected a list"),
    ('{"tests": [{"input": 1, "output": "2"}]}', "tests is a list of other things"),
    ('{"tests": []}', "tests is empty, and there are no private ones"),
    ('{"function": "f", "tests": [{"input": "1, 2", "output": "2"}]}', "not JSON: Extra data"),
    ('{"tests": [], "private": 5}', "private is a number, expected a string"),
    ('{"tests": [], "private": "é"}', "private: neither JSON nor a deflated pickle in base64"),
]


@pytest.mark.parametrize(("answer", "reason"), BAD)
def test_answers_that_will_not_do(answer: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{reason}"):
        read_answer(answer)


PROGRAMS = [
    ("```python\na\n```", "a"),
    ("```\na\n```\ntext\n```py\nb\n\nc\n```\nend", "b\n\nc"),
    # text before and behind
    ("Answer: ```python\nprint(1)\n```", "print(1)"),
    ("  Answer: ```python\nif a:\n    b\n```", "if a:\n    b"),
    ("**Answer:** ```\na\n```", "a"),
    ("```python\na\n``` This works.", "a"),
    ("```python\na\n``` Done", "a"),
    ("```python\na\n```This code prints 1.", "a"),
    ("```python\na\n```.\nDone", "a"),
    ("```python\na\n```python\nb\n```", "b"),
    ("```python\na\n``` done\n", "a"),
    ("Here it is (~10 lines):```python\na\n```", "a"),
    ("Use `x` of ``y``: ```python\na\n```", "a"),
    ("`x` does it: ```\na\n```", "a"),
    ("Put it in ```x``` and ``` then\n```\na\n```", "a"),
    ("```python\na\n``` It is `a`.\nThat is it.", "a"),
    ("```python\na\n``` python\nb\n```", "b"),
    ("Begin with ```\n```\na\n```", "a"),
    ("Use ```a``` here: ```b```\n```\na\n```", "a"),
    ("```python\na = '''\n``` x ```\n'''\n```", "a = '''\n``` x ```\n'''"),
    ("```python\n# as in: ```python\na\n```", "# as in: ```python\na"),
    # the fence's indentation
    ("  ```python\n  a\n  ```", "a"),
    ("  ```python\n  if a:\n      b\n\n  c\n  ```", "if a:\n    b\n\nc"),
    ("  ```python\nif a:\n  b\n  ```", "if a:\n  b"),
    ("```python\n  a\n```", "  a"),
    ("\t```python\n\tif a:\n\t\tb\n\t```", "if a:\n\tb"),
    ("- ```python\n  if a:\n      b\n  ```", "if a:\n    b"),
    ("- ```python\nif a:\n  b\n```", "if a:\n  b"),
    ("10. Answer: ```python\n    a\n    b\n    ```", "a\nb"),
    ("> ```python\n> if a:\n>     b > c\n>\n> ```", "if a:\n    b > c"),
    ("> > - ```python\n> >   a\n> >   ```\n> So.", "a"),
    ("> ```python\n> >>> a\n> ```", ">>> a"),
    ("```python\na\n```\nand\n```python\ncut", "a"),
    ("````\n```\na\n```\n````", "```\na\n```"),
    ("```python\ndef f():\n    '''\n    x ``` y\n    '''\n```", "def f():\n    '''\n    x ``` y\n    '''"),
    ("~~~python\na\n~~~", "a"),
    ("Use `a` or ```b``` here.", None),
    ("```python\r\na\r\n```\r\n", "a"),
    ("a", None),
    ("", None),
]


@pytest.mark.parametrize(
    "piece", [" ", ">", "> ", "- ", "`", "```", "~", "a ", "```a ", "1. ", "```\n", "> ```python\n", "a: ```\n", "\n"]
)
def test_a_model_that_repeats_itself_takes_no_time(piece: str) -> None:
    start = time.process_time()
    for end in ("", "`", "```a`", "\n```\na\n```"):
        program(piece * (200_000 // len(piece)) + end)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("depth", [100, 50_000])
@pytest.mark.parametrize("line", ["x\n", f"{'>' * 200}x\n", f"{'>' * 50_000}x\n"])
def test_deep_quotations_take_no_time(depth: int, line: str) -> None:
    start = time.process_time()
    program(f"{'>' * depth}```python\n{line * (50_000 // len(line))}```\n")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("text", "code"), PROGRAMS)
def test_the_last_block_counts(text: str, code: str | None) -> None:
    assert program(text) == code


OUTPUTS = [
    ("1\n2\n", "1\n2", True),
    ("\n\n 1 \n2  \n\n", "1\n2", True),
    ("1 2", "1\n2", False),
    ("1\n\n2", "1\n2", False),
    ("1.0 2", "1 2.00", True),
    ("1  2", "1 2", True),
    ("a  b", "a b", False),
    ("0.1", "0.10000001", False),
    ("1e3", "1000", True),
    ("50000000000000000", "50000000000000001", False),
    ("YES", "Yes", False),
    ("", "", True),
    ("", "1", False),
    ("nan", "nan", True),
    ("nan 1", "NaN 1", False),
    ("sNaN 1", "snan 1.0", False),
    ("1e999999999999999999", "2", False),
]


@pytest.mark.parametrize(("found", "expected", "same"), OUTPUTS)
def test_outputs(found: str, expected: str, same: bool) -> None:
    assert same_output(found, expected) is same


VALUES = [
    ("1.0", "1", True),
    ("true", "1", True),
    ("[1, [2]]", "[1,[2]]", True),
    ('"a"', '"a"', True),
    ("[1]", "1", False),
    ("0.30000000000000004", "0.3", False),
    ("", "null", False),
    ("[" * 100_000, "1", False),
]


@pytest.mark.parametrize(("found", "expected", "same"), VALUES)
def test_values(found: str, expected: str, same: bool) -> None:
    assert same_value(found, expected) is same

"""Tasks: the sources that problems come from, and what is said of those that will not do."""

from __future__ import annotations

import importlib
import json
import sys
import time
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.tasks import stories
from autodeco_gguf.tasks.adapters import ADAPTERS
from autodeco_gguf.tasks.checkers import get_checker, read_answer
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import BUILT_IN, Task, read_task

BOX = "\nMake sure you output the final answer within \\boxed{}."


# ---- files ----

BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "no record": ("p.jsonl", b"\n", ": no record in it"),
    "empty list": ("p.json", b"[]", ": no record in it"),
    "header alone": ("p.csv", b"problem,gt\n", ": no record in it"),
    "empty table": ("p.csv", b"", ": no record in it"),
    "no line of JSON": ("p.jsonl", b'{"problem": "a", "gt": 1}\n{', ":2: not JSON: Expecting property name "),
    "empty JSON": ("p.json", b"", ": not JSON: Expecting value at column 1"),
    "lines": ("p.json", b'{"problem": "a", "gt": 1}\n{}', ": not JSON: Extra data at line 2, column 1"),
    "no UTF-8": ("p.json", b'["\xe9"]', ": not UTF-8 at byte 2"),
    "nested": ("p.json", b"[" * 100_000, ": not JSON: "),
    "an object": ("p.json", b"{}", ": is an object, expected a list of records"),
    "many cells": ("p.csv", b"problem,gt\na,1\nb,2,3\n", ": record 2: has more cells than the header"),
    "no object": ("p.jsonl", b"\n[1]\n", ":2: is a list, expected an object"),
    "few cells": ("p.csv", b"problem,gt\na,1\nb\n", ": record 2: gt is null, expected a string or a number"),
    "open quote": ("p.csv", b'problem,gt\n"a,1\n', ": not CSV: unexpected end of data"),
    "csv, no UTF-8": ("p.csv", b"problem,gt\n\xe9,1\n", ": not CSV: 'utf-8' codec can't decode byte 0xe9"),
    "suffix": ("p.txt", b"a", ": has the suffix '.txt', expected one of .jsonl, .json, .csv, .parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    file, content, message = BAD_FILES[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(BadFile) as error:
        read_task(str(path))
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_csv_without_an_end_of_line_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    with path.open("wb") as f:
        f.truncate(256 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match="not CSV"):
            read_task(str(path))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "p.CSV"
    path.write_bytes(b'\xef\xbb\xbfproblem,gt,note\r\n"a\r\n""b""",\xc2\xbd,x\r\n')
    assert read_task(str(path)).problems == (Problem('a\r\n"b"', "½", 1, str(path), False),)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('\n{"problem": "a", "gt": 1}\n\n{"problem": "b", "gt": 2}\n')
    assert [p.where for p in read_task(f"aime:{path}").problems] == [f"{path}:2", f"{path}:4"]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test-00000.parquet"
    path.write_bytes(b"PAR1")

    class ParquetFile(nullcontext[Any]):
        metadata = SimpleNamespace(num_rows=1, num_row_groups=0)

        def __init__(self, file: Path) -> None:
            if file != path:
                raise ValueError("Parquet magic bytes not found in footer.\nEither the file is corrupted")
            super().__init__(self)

        def iter_batches(self, batch_size: int) -> list[Any]:
            return [SimpleNamespace(to_pylist=lambda: [{"problem": "a", "answer": "1"}])]

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AutoDecoError, match=rf"^{path}: needs pyarrow to be read; pip install pyarrow$"):
        read_task(f"aime:{path}")
    module = ModuleType("pyarrow.parquet")
    module.__dict__["ParquetFile"] = ParquetFile
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)
    problem = Problem("a" + BOX, "1", 1, str(path), False)
    assert read_task(f"aime:{path}") == Task("test-00000", (problem,), "boxed")
    other = tmp_path / "other.parquet"
    other.write_bytes(b"")
    broken = rf"^{other}: cannot be read: Parquet magic bytes not found in footer\. Either the file is corrupted$"
    with pytest.raises(BadFile, match=broken):
        read_task(f"aime:{other}")


@pytest.fixture
def arrow() -> Any:
    pytest.importorskip("pyarrow.parquet")
    return importlib.import_module("pyarrow")


def write_parquet(arrow: Any, path: Path, columns: dict[str, Any]) -> None:
    arrow.parquet.write_table(arrow.table(columns), path, compression="zstd")


def test_parquet_of_pyarrow(arrow: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_parquet(arrow, path, {"problem": [f"{i}?" for i in range(2500)], "gt": list(range(2500))})
    assert [p.answer for p in read_task(str(path)).problems] == [str(i) for i in range(2500)]
    assert read_task(str(path), limit=2).problems[1] == Problem("1?", "1", 2, str(path), False)
    write_parquet(arrow, path, {"problem": [], "gt": []})
    with pytest.raises(BadFile, match=r"p\.parquet: no record in it$"):
        read_task(str(path))


@pytest.mark.parametrize(("rows", "note"), [(2_000_000, 1), (1, 256 << 20)])
def test_a_small_parquet_file_that_claims_to_be_large(rows: int, note: int, arrow: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    cells = {"problem": "What?", "gt": "5", "note": "x" * note}
    write_parquet(arrow, path, {name: arrow.repeat(cell, rows) for name, cell in cells.items()})
    start = time.process_time()
    told = rf"p\.parquet: has \d+ bytes, but by its footer {rows} records, unpacked \d+ bytes, expected at most \d+; "
    told += "write it as JSONL$"
    with pytest.raises(BadFile, match=told):
        read_task(str(path), limit=1)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("zone", [None, "Mars/Phobos"])
def test_parquet_with_a_time_that_python_does_not_have(zone: str | None, arrow: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    day = arrow.array([5 if zone else 1 << 60], arrow.int64()).cast(arrow.timestamp("us", tz=zone))
    write_parquet(arrow, path, {"problem": ["a"], "gt": ["1"], "day": day})
    with pytest.raises(BadFile, match=r"p\.parquet: cannot be read: "):
        read_task(str(path))


# ---- answers that the checker of the task reads ----


def test_worked_solutions_with_a_marked_answer(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "6 * 3 = <<6*3=18>>18\n#### 1,018"}) + "\n")
    assert [p.answer for p in read_task(str(path)).problems] == ["1018"]
    assert [p.answer for p in read_task(f"aime:{path}", checker="exact").problems] == ["1018"]
    assert read_task(str(path), checker="own:check").problems[0].answer.endswith("\n#### 1,018")
    with pytest.raises(BadFile, match=r"p\.jsonl:1: answer '1018': expected one letter, A to Z$"):
        read_task(str(path), checker="choice")


UNREADABLE = [
    (
        "boxed",
        "He has 6 and 3 more, so that in the end there are 9 of them.",
        "expected nothing but a number, a formula or ",
    ),
    ("choice", "5", "expected one letter, A to Z"),
    ("story", "Mia 5 38", 'not of the form "NAME A B"'),
    ("literal", "five", "not a Python literal"),
    ("regex", "(a", "not a regular expression: missing ), unterminated subpattern"),
    ("ifeval", '[["no:such", {}]]', "instruction 'no:such': unknown, expected one of keywords:existence, "),
    ("ifeval", "5", "instructions: a number, expected "),
]


@pytest.mark.parametrize(("checker", "answer", "message"), UNREADABLE)
def test_an_answer_that_the_checker_cannot_read(checker: str, answer: str, message: str, tmp_path: Path) -> None:
    good = {"choice": "A", "story": "Mia 47 38", "ifeval": '[["punctuation:no_comma", {}]]'}.get(checker, "5")
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": "?", "answer": a}) + "\n" for a in (good, answer)))
    assert len(read_task(str(path), checker=checker, limit=1).problems) == 1
    with pytest.raises(BadFile) as error:
        read_task(str(path), checker=checker)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


# ---- what is asked for ----


def test_demo() -> None:
    told = stories.problems(100, seed="test 0", held_out=True)
    problems = tuple(Problem(p.prompt, p.answer, i, "demo") for i, p in enumerate(told, 1))
    assert read_task("demo") == Task("demo", problems, "story")
    assert read_task("demo", checker="exact", limit=3) == Task("demo", problems[:3], "exact")


def test_built_in_tasks_and_their_splits() -> None:
    for name, (checker, problems) in BUILT_IN.items():
        for split in ("train", "test"):
            own = name if split == "test" else f"{name}-train"
            asked = tuple(Problem(*pair, i, own) for i, pair in enumerate(problems(split), 1))
            assert read_task(f"{name}@{split}") == Task(own, asked, checker)
            assert not set(asked) & set(read_task(f"{name}@{'test' if split == 'train' else 'train'}").problems)
        assert read_task(name) == read_task(f"{name}@test")
        assert [p.answer for p in read_task(name, limit=2).problems] == [a for _, a in problems("test")[:2]]
        for problem in read_task(f"{name}@train").problems:
            assert read_answer(checker, problem.answer) == problem.answer


def test_the_demos_problems_to_train_with_are_those_of_pre_training() -> None:
    train, test = ({p.answer.split(" ", 1)[1] for p in read_task(f"demo@{s}").problems} for s in ("train", "test"))
    assert (len(read_task("demo@train").problems), train & test) == (1000, set())
    assert train <= {f"{a} {b}" for a, b in stories.pairs(False)}


def test_checker_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"problem": str(i), "gt": i}) + "\n" for i in range(5)))
    task = read_task(f"hmmt25:{path}", checker="exact", limit=2)
    assert (task.checker, [p.answer for p in task.problems]) == ("exact", ["0", "1"])
    for more in (9, 10**20):
        assert len(read_task(f"hmmt25:{path}", limit=more).problems) == 5


FORMS = (
    "a task is demo, questions, instructions, or [FORMAT:]FILE, or [FORMAT:]OWNER/NAME[:CONFIG][@SPLIT] "
    "of the Hugging Face hub"
)
NAMES = "aime, brumo25, hmmt25, beyondaime, gsm8k, math, deepmath, gpqa, mmlu-pro, livecodebench, ifeval, ifbench"
BAD_SPECS = {
    "": f"task: no such file; {FORMS}",
    "nowhere.jsonl": f"nowhere.jsonl: no such file; {FORMS}",
    "aime:data/nowhere.jsonl": f"data/nowhere.jsonl: no such file; {FORMS}",
    r"C:\data\p.jsonl": rf"C:\data\p.jsonl: no such file; {FORMS}",
    r"gpqa:C:\p.csv": rf"C:\p.csv: no such file; {FORMS}",
    "aime": "task aime: a format without a source; expected aime:FILE or aime:OWNER/NAME",
    "ifeval:": "task ifeval:: a format without a source; expected ifeval:FILE or ifeval:OWNER/NAME",
    "mmlu:cais/mmlu": f"task mmlu:cais/mmlu: format 'mmlu', expected one of {NAMES}",
    "AIME:p.jsonl": f"task AIME:p.jsonl: format 'AIME', expected one of {NAMES}",
    "questions@dev": "task questions@dev: expected questions, questions@train or questions@test",
    "demo@": "task demo@: expected demo, demo@train or demo@test",
    "demo:p.jsonl": f"task demo:p.jsonl: format 'demo', expected one of {NAMES}",
    "https://x.org/a/b": f"task https://x.org/a/b: format 'https', expected one of {NAMES}",
    "owner/name/more": f"owner/name/more: no such file; {FORMS}",
    "aime:owner/name:a:b": f"owner/name:a:b: no such file; {FORMS}",
    "aime:.": ".: is not a regular file",
}


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_specs(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InvalidInput, BadFile)) as error:
        read_task(spec)
    assert str(error.value) == BAD_SPECS[spec]


def test_errors_carry_what_they_speak_of(tmp_path: Path, hub: list[object]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}\n{"problem": 5, "answer": "1"}\n')
    other = tmp_path / "p.csv"
    other.write_text("problem,gt\na,1,2\n")
    rows: list[tuple[str, type[AutoDecoError], str | None, str | None, object, object]] = [
        (f"aime:{path}", BadFile, str(path), "problem", "a string", "a number"),
        (str(other), BadFile, str(other), None, None, None),
        (str(tmp_path), BadFile, str(tmp_path), None, None, None),
        ("aime:gone/set", BadFile, "gone/set", None, None, None),
        ("aime:no/test", InvalidInput, "no/test", "split", ["train", "dev"], None),
        ("nowhere.csv", InvalidInput, "nowhere.csv", "task", None, "nowhere.csv"),
        ("aime:", InvalidInput, None, "task", None, "aime:"),
        ("mmlu:a/b", InvalidInput, None, "task", tuple(ADAPTERS), "mmlu:a/b"),
    ]
    for spec, kind, *attributes in rows:
        with pytest.raises(AutoDecoError) as error:
            read_task(spec)
        found = error.value
        assert type(found) is kind, spec
        assert [found.file, found.key, found.expected, found.found] == attributes, spec


def test_a_file_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd:name.jsonl").write_text('{"problem": "a", "gt": 1}\n')
    assert read_task("odd:name.jsonl").name == "odd:name"
    assert read_task("aime:odd:name.jsonl").problems[0].text == "a" + BOX


# ---- the Hugging Face hub ----

MATH = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}]
HUB: dict[tuple[str, str | None], dict[str, list[dict[str, str]]]] = {
    ("MathArena/hmmt_feb_2025", None): {"train": MATH},
    ("some/set", None): {"validation": MATH[:1], "test": MATH},
    ("opencompass/AIME2025", "AIME2025-I"): {"test": MATH},
    ("no/test", None): {"train": MATH, "dev": MATH},
    ("bad/record", None): {"test": [*MATH, {"problem": "c"}]},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str | None]]:
    """A stand-in for datasets; gives the calls of load_dataset."""
    calls: list[tuple[str, str | None, str | None]] = []
    exceptions = ModuleType("datasets.exceptions")
    exceptions.__dict__["DatasetsError"] = type("DatasetsError", (Exception,), {})
    errors = {
        "gone/set": FileNotFoundError("Dataset 'gone/set' doesn't exist on the Hub"),
        "scripted/set": RuntimeError("Dataset scripts are no longer supported, but found set.py"),
        "broken/set": exceptions.DatasetsError("An error occurred\n  while generating the dataset"),
        "silent/set": ConnectionError(),
    }

    def load_dataset(path: str, name: str | None = None, *, split: str | None = None) -> Any:
        calls.append((path, name, split))
        if path in errors:
            raise errors[path]
        if (path, name) not in HUB:
            raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['AIME2025-I']")
        splits = HUB[path, name]
        return splits[split] if split else splits

    module = ModuleType("datasets")
    module.__dict__["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", exceptions)
    return calls


@pytest.mark.parametrize(
    ("spec", "call", "name", "answers"),
    [
        ("hmmt25:MathArena/hmmt_feb_2025", ("MathArena/hmmt_feb_2025", None, None), "hmmt_feb_2025", "12"),
        ("aime:some/set", ("some/set", None, None), "set", "12"),
        ("aime:some/set@validation", ("some/set", None, "validation"), "set", "1"),
        (
            "aime:opencompass/AIME2025:AIME2025-I",
            ("opencompass/AIME2025", "AIME2025-I", None),
            "AIME2025-AIME2025-I",
            "12",
        ),
        (
            "aime:opencompass/AIME2025:AIME2025-I@test",
            ("opencompass/AIME2025", "AIME2025-I", "test"),
            "AIME2025-AIME2025-I",
            "12",
        ),
    ],
)
def test_hub(
    spec: str,
    call: tuple[str, str | None, str | None],
    name: str,
    answers: str,
    hub: list[tuple[str, str | None, str | None]],
) -> None:
    task = read_task(spec)
    source = spec.partition(":")[2]
    problems = tuple(
        Problem(text + BOX, answer, i, source, False)
        for i, (text, answer) in enumerate(zip("ab", answers, strict=False), 1)
    )
    assert task == Task(name, problems, "boxed")
    assert hub == [call]


BAD_SETS = {
    "aime:gone/set": "gone/set: no such file, and not to be had from the Hugging Face hub: "
    "Dataset 'gone/set' doesn't exist on the Hub",
    "aime:scripted/set@test": "scripted/set@test: no such file, and not to be had from the Hugging Face hub: "
    "Dataset scripts are no longer supported, but found set.py",
    "broken/set": "broken/set: no such file, and not to be had from the Hugging Face hub: "
    "An error occurred while generating the dataset",
    "silent/set": "silent/set: no such file, and not to be had from the Hugging Face hub: ConnectionError",
    "aime:opencompass/AIME2025": "opencompass/AIME2025: no such file, and not to be had from the Hugging Face hub: "
    "Config name is missing. Please pick one among the available configs: ['AIME2025-I']",
    "aime:no/test": "no/test: has the splits train, dev; choose one with @SPLIT",
    "aime:bad/record": "bad/record: record 3: gt or answer or Answer is missing; the record has problem",
}


@pytest.mark.parametrize("spec", BAD_SETS)
def test_bad_sets(spec: str, hub: list[object]) -> None:
    with pytest.raises((InvalidInput, BadFile)) as error:
        read_task(spec)
    assert str(error.value) == BAD_SETS[spec]


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = (
        "^MathArena/hmmt_feb_2025: no such file, and a data set of the Hugging Face hub needs datasets; "
        "pip install datasets$"
    )
    with pytest.raises(AutoDecoError, match=message):
        read_task("hmmt25:MathArena/hmmt_feb_2025")


# ---- IFEval's records ----

WORDS = "length_constraints:number_words"
FIRST = "length_constraints:nth_paragraph_first_word"


def ifeval_file(path: Path, ids: list[str], arguments: list[dict[str, Any]]) -> str:
    record = {"prompt": "?", "instruction_id_list": ids, "kwargs": arguments}
    path.write_text(json.dumps(record) + "\n")
    return f"ifeval:{path}"


def test_ifeval_checks_a_repeated_instruction_each_time(tmp_path: Path) -> None:
    nulls = dict.fromkeys(("keyword", "letter", "language", "num_bullets"))
    limits = [{**nulls, "relation": "at least", "num_words": n} for n in (20.0, 2)]
    (problem,) = read_task(ifeval_file(tmp_path / "p.jsonl", [WORDS, WORDS], limits)).problems
    check = get_checker("ifeval")
    assert [check("word " * n, problem.answer) for n in (1, 3, 19, 20)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("ids", "arguments", "message"),
    [
        (["count:no_such"], [{}], "instruction 'count:no_such': unknown, expected one of "),
        ([FIRST], [{"keyword": "x"}], f"instruction {FIRST}: has the arguments keyword, expected num_paragraphs, "),
        ([WORDS, WORDS], [{}], "kwargs has 1 entries for 2 in instruction_id_list"),
        ([WORDS], [{"relation": "at least", "num_words": None}], f"instruction {WORDS}: has the arguments relation, "),
        ([WORDS], [{"relation": "at least", "num_words": 5.5}], f"instruction {WORDS}: num_words is 5.5, expected a "),
        ([WORDS], [{"relation": "at least", "num_words": float("inf")}], f"instruction {WORDS}: num_words is Infinity"),
    ],
)
def test_ifeval_arguments_are_read_with_the_task(
    ids: list[str], arguments: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadFile) as error:
        read_task(ifeval_file(tmp_path / "p.jsonl", ids, arguments))
    assert str(error.value).startswith(f"{tmp_path / 'p.jsonl'}:1: {message}")

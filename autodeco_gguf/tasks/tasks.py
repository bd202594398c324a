"""Tasks: problems from a benchmark's file or from the Hugging Face hub, with the checker that grades them."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file
from autodeco_gguf.files.jsonl import parse_line, read_lines, type_name
from autodeco_gguf.files.reading import MAX_JSON, open_regular, read_json
from autodeco_gguf.tasks import instructions, questions, stories
from autodeco_gguf.tasks.adapters import ADAPTERS, PLAIN, Adapter
from autodeco_gguf.tasks.checkers import read_answer
from autodeco_gguf.tasks.problems import Problem, located, place

DEMO = "demo"

SPLITS = ("train", "test")

_Asked = list[tuple[str, str]]
"""Prompt and answer of each problem."""


def _stories(split: str) -> _Asked:
    """The demo model's own task; of the test part pre-training has seen no problem."""
    if split == "train":
        told = stories.problems(1000, seed="train 0", held_out=False)
    else:
        told = stories.problems(100, seed="test 0", held_out=True)
    return [(problem.prompt, problem.answer) for problem in told]


BUILT_IN: dict[str, tuple[str, Callable[[str], _Asked]]] = {
    DEMO: ("story", _stories),
    "questions": ("member", questions.problems),
    "instructions": ("ifeval", instructions.task),
}
"""Tasks of this package by their names: the checker, and split -> problems."""

_FORMS = "[FORMAT:]FILE, or [FORMAT:]OWNER/NAME[:CONFIG][@SPLIT] of the Hugging Face hub"
_FORMAT = re.compile(r"(?P<format>[A-Za-z0-9][\w.-]+):(?P<source>.*)", re.DOTALL)
_DATASET = re.compile(r"(?P<id>[\w-][\w.-]*/(?P<name>[\w-][\w.-]*))(?::(?P<config>[^@:\s]+))?(?:@(?P<split>\S+))?")


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: of the file without its suffix, or of the data set, with its config: "aime24", "AIME2025-AIME2025-I"; of
            a built-in task that and, for other splits than "test", the split: "demo", "questions-train".
        problems: at least one.
        checker: what grades them: a name that ``checkers.get_checker`` knows.
    """

    name: str
    problems: tuple[Problem, ...]
    checker: str


def read_task(spec: str, *, checker: str | None = None, limit: int | None = None) -> Task:
    r"""Read a task.

    The official evaluation ends every problem with "\nMake sure you output the final answer within \boxed{}.". The
    formats aime, brumo25, hmmt25 and beyondaime do that too; without a format, problems are asked as they stand.

    Args:
        spec: ``NAME[@SPLIT]`` of ``BUILT_IN``, with "train" or "test", which is the default; or
            ``[FORMAT:]SOURCE``. FORMAT is one of ``adapters.ADAPTERS``; without it records are as
            ``parse_problem`` takes them. SOURCE is a file (.jsonl, .json with a list, .csv, .parquet) or a data set
            of the Hugging Face hub as ``OWNER/NAME[:CONFIG][@SPLIT]``; of several splits "test" is taken.
        checker: instead of the format's own; "boxed" without a format.
        limit: read the first so many.

    Raises:
        InvalidInput: a spec that names no format, file or data set, or a data set whose split is to be chosen.
        BadFile: a malformed record, or one whose answer the checker cannot read, named by its file and line, or record;
            no record; a source that cannot be read.
        AutoDecoError: a package that the source needs is not installed.
    """
    if (built_in := spec.partition("@"))[0] in BUILT_IN:
        return _built_in(*built_in, checker=checker, limit=limit)
    adapter, source = _split(spec)
    name, records, by_line = _open(source, adapter.line_bytes)
    problems = []
    for number, record in itertools.islice(records, limit and min(limit, sys.maxsize)):
        with located(source, number, by_line=by_line):
            if not isinstance(record, dict):
                raise InvalidInput(f"is {type_name(record)}, expected an object", found=record)
            checker = checker or adapter.checker_of(record)
            text, answer = adapter.convert(record, checker)
            problems.append(Problem(text, read_answer(checker, answer), number, source, by_line))
    if not problems:
        raise BadFile.of(source, "no record in it")
    return Task(name, tuple(problems), checker or adapter.checker)


def _built_in(name: str, at: str, split: str, *, checker: str | None, limit: int | None) -> Task:
    if at and split not in SPLITS:
        message = f"task {name}@{split}: expected {name}, {' or '.join(f'{name}@{known}' for known in SPLITS)}"
        raise InvalidInput(message, key="task", found=split, expected=SPLITS)
    own, problems = BUILT_IN[name]
    name = name if split in ("", "test") else f"{name}-{split}"
    asked = problems(split or "test")[:limit]
    return Task(name, tuple(Problem(*problem, i, name) for i, problem in enumerate(asked, 1)), checker or own)


def _split(spec: str) -> tuple[Adapter, str]:
    """The adapter and the source of a spec."""
    match = _FORMAT.fullmatch(spec)
    if match and match["format"] in ADAPTERS and match["source"]:
        return ADAPTERS[match["format"]], match["source"]
    name = spec.partition(":")[0]
    if name in ADAPTERS and spec.rstrip(":") == name:
        message = f"task {spec}: a format without a source; expected {name}:FILE or {name}:OWNER/NAME"
        raise InvalidInput(message, key="task", found=spec)
    if match and not Path(spec).exists():
        message = f"task {spec}: format {name!r}, expected one of {', '.join(ADAPTERS)}"
        raise InvalidInput(message, key="task", found=spec, expected=tuple(ADAPTERS))
    return PLAIN, spec


# ---- records ----

_Records = Iterator[tuple[int, Any]]
"""With the number of each, or of its line, from 1."""


def _open(source: str, line_bytes: int) -> tuple[str, _Records, bool]:
    """The name of a source, its records, and whether they are numbered by lines, which are not longer than that."""
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if path.is_file():
        if reader is None:
            raise BadFile.of(path, f"has the suffix {path.suffix!r}, expected one of {', '.join(_READERS)}")
        by_line = reader is _read_jsonl
        return path.stem, _read_jsonl(path, line_bytes) if by_line else reader(path), by_line
    if source and path.exists():
        raise BadFile.of(path, "is not a regular file")
    match = _DATASET.fullmatch(source)
    if match is None or reader is not None:
        message = f"{source or 'task'}: no such file; a task is {', '.join(BUILT_IN)}, or {_FORMS}"
        raise InvalidInput(message, file=source, key="task", found=source)
    return "-".join(filter(None, match.group("name", "config"))), _read_hub(source, match), False


def _read_jsonl(path: Path, at_most: int = MAX_JSON) -> _Records:
    for number, line in read_lines(path, at_most):
        with located(path, number):
            value = parse_line(line)
        yield number, value


def _read_json(path: Path) -> _Records:
    values = read_json(path)
    if not isinstance(values, list):
        raise BadFile.of(path, f"is {type_name(values)}, expected a list of records")
    yield from enumerate(values, 1)


def _read_csv(path: Path) -> _Records:
    try:
        with bad_file(path, "cannot be read"), open_regular(path) as raw:
            f = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            lines = iter(lambda: f.readline(MAX_JSON), "")  # so that a file without line ends is not read whole
            for number, record in enumerate(csv.DictReader(lines, strict=True), 1):
                if None in record:
                    raise BadFile(f"{place(path, number, by_line=False)}: has more cells than the header", file=path)
                yield number, record
    except (UnicodeDecodeError, csv.Error) as e:
        raise BadFile.of(path, f"not CSV: {e}") from e


_MOST_PACKED = 32
"""How many bytes one of a Parquet file may stand for: text takes a third to a tenth of its length."""


def _read_parquet(path: Path) -> _Records:
    parquet = _import("pyarrow.parquet", f"{path}: needs pyarrow to be read; pip install pyarrow")
    try:
        with parquet.ParquetFile(path) as file:
            size, told = path.stat().st_size, file.metadata
            unpacked = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
            most = 8 * MAX_JSON + _MOST_PACKED * size
            if told.num_rows > size or unpacked > most:
                message = f"has {size} bytes, but by its footer {told.num_rows} records, unpacked {unpacked} bytes"
                raise BadFile.of(path, f"{message}, expected at most {most}; write it as JSONL")
            batches = file.iter_batches(batch_size=1)  # a value that stands once in the file may be every record's
            yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)
    except AutoDecoError:
        raise
    # pyarrow's own are among these, and those of dates and time zones that Python does not have
    except (OSError, ValueError, NotImplementedError, ArithmeticError, LookupError, TypeError, MemoryError) as e:
        raise BadFile.of(path, f"cannot be read: {_reason(e)}") from e


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}


def _read_hub(source: str, match: re.Match[str]) -> _Records:
    hint = f"{source}: no such file, and a data set of the Hugging Face hub needs datasets; pip install datasets"
    datasets = _import("datasets", hint)
    exceptions = _import("datasets.exceptions", hint)
    try:
        data = datasets.load_dataset(match["id"], match["config"], split=match["split"])
    # RuntimeError: a data set with a script of its own, which datasets no longer runs
    except (OSError, ValueError, RuntimeError, exceptions.DatasetsError) as e:
        raise BadFile.of(source, f"no such file, and not to be had from the Hugging Face hub: {_reason(e)}") from e
    if not match["split"]:  # all of them, by their names
        if len(data) != 1 and "test" not in data:
            message = f"{source}: has the splits {', '.join(data)}; choose one with @SPLIT"
            raise InvalidInput(message, file=source, key="split", expected=list(data))
        data = data["test" if "test" in data else next(iter(data))]
    yield from enumerate(data, 1)


def _import(module: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise AutoDecoError(hint) from e


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__

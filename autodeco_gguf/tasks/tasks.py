"""Tasks: problems from a benchmark's file or from the Hugging Face hub, with the checker that grades them."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.jsonl import parse_line, read_lines, type_name
from autodeco_gguf.tasks.adapters import ADAPTERS, PLAIN, Adapter
from autodeco_gguf.tasks.problems import Problem, place

DEMO = "demo"
"""The demo model's own task, of which pre-training has seen no problem."""

_FORMS = "[FORMAT:]FILE, or [FORMAT:]OWNER/NAME[:CONFIG][@SPLIT] of the Hugging Face hub"
_FORMAT = re.compile(r"(?P<format>[A-Za-z0-9][\w.-]+):(?P<source>.*)", re.DOTALL)
_DATASET = re.compile(r"(?P<id>[\w-][\w.-]*/(?P<name>[\w-][\w.-]*))(?::(?P<config>[^@:\s]+))?(?:@(?P<split>\S+))?")


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: of the file without its suffix, or of the data set, with its config: "aime24", "AIME2025-AIME2025-I"; or
            "demo".
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
        spec: "demo", or ``[FORMAT:]SOURCE``. FORMAT is one of ``adapters.ADAPTERS``; without it records are as
            ``read_problems`` takes them. SOURCE is a file (.jsonl, .json with a list, .csv, .parquet) or a data set
            of the Hugging Face hub as ``OWNER/NAME[:CONFIG][@SPLIT]``; of several splits "test" is taken.
        checker: instead of the format's own; "boxed" without a format.
        limit: read the first so many.

    Raises:
        AutoDecoError: a malformed record, named by its file and line, or record; no record; a source that does not
            exist or cannot be read, or needs a package that is not installed.
    """
    if spec == DEMO:
        return _demo(checker, limit)
    adapter, source = _split(spec)
    checker = checker or adapter.checker
    name, records = _open(source)
    problems = tuple(_problem(record, source, adapter, checker) for record in itertools.islice(records, limit))
    if not problems:
        raise AutoDecoError(f"{source}: no record in it")
    return Task(name, problems, checker)


def _demo(checker: str | None, limit: int | None) -> Task:
    from autodeco_gguf.tasks import stories

    told = stories.problems(100, seed="test 0", held_out=True)[:limit]
    problems = (Problem(problem.prompt, problem.answer, i, DEMO) for i, problem in enumerate(told, 1))
    return Task(DEMO, tuple(problems), checker or "story")


def _split(spec: str) -> tuple[Adapter, str]:
    """The adapter and the source of a spec."""
    match = _FORMAT.fullmatch(spec)
    if match and match["format"] in ADAPTERS and match["source"]:
        return ADAPTERS[match["format"]], match["source"]
    name = spec.partition(":")[0]
    if name in ADAPTERS and spec.rstrip(":") == name:
        raise AutoDecoError(f"task {spec}: a format without a source; expected {name}:FILE or {name}:OWNER/NAME")
    if match and not Path(spec).exists():
        raise AutoDecoError(f"task {spec}: format {name!r}, expected one of {', '.join(ADAPTERS)}")
    return PLAIN, spec


# ---- records ----


@dataclass(frozen=True)
class _Record:
    """What stands at a line or, where that is not what separates them, is the record of a number; from 1."""

    number: int
    value: Any
    by_line: bool = False


def _problem(record: _Record, source: str, adapter: Adapter, checker: str) -> Problem:
    try:
        if not isinstance(record.value, dict):
            raise AutoDecoError(f"is {type_name(record.value)}, expected an object")
        text, answer = adapter.convert(record.value, checker)
    except AutoDecoError as e:
        raise AutoDecoError(f"{place(source, record.number, by_line=record.by_line)}: {e}") from e
    return Problem(text, answer, record.number, source, record.by_line)


def _open(source: str) -> tuple[str, Iterator[_Record]]:
    """The name of a source and its records."""
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if path.is_file():
        if reader is None:
            raise AutoDecoError(f"{path}: has the suffix {path.suffix!r}, expected one of {', '.join(_READERS)}")
        return path.stem, reader(path)
    if source and path.exists():
        raise AutoDecoError(f"{path}: is not a regular file")
    match = _DATASET.fullmatch(source)
    if match is None or reader is not None:
        raise AutoDecoError(f"{source or 'task'}: no such file; a task is {DEMO}, or {_FORMS}")
    return "-".join(filter(None, match.group("name", "config"))), _read_hub(source, match)


def _read_jsonl(path: Path) -> Iterator[_Record]:
    for number, line in read_lines(path):
        try:
            yield _Record(number, parse_line(line), by_line=True)
        except AutoDecoError as e:
            raise AutoDecoError(f"{place(path, number)}: {e}") from e


def _read_json(path: Path) -> Iterator[_Record]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as e:
        raise AutoDecoError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:  # ValueError: not UTF-8, not JSON, or too long a number
        raise AutoDecoError(f"{path}: not JSON: {e}") from e
    if not isinstance(values, list):
        raise AutoDecoError(f"{path}: is {type_name(values)}, expected a list of records")
    yield from _numbered(values)


def _read_csv(path: Path) -> Iterator[_Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            for record in _numbered(csv.DictReader(f, strict=True)):
                if None in record.value:
                    raise AutoDecoError(f"{place(path, record.number, by_line=False)}: has more cells than the header")
                yield record
    except OSError as e:
        raise AutoDecoError(f"{path}: cannot be read: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise AutoDecoError(f"{path}: not CSV: {e}") from e


def _read_parquet(path: Path) -> Iterator[_Record]:
    parquet = _import("pyarrow.parquet", f"{path}: needs pyarrow to be read; pip install pyarrow")
    try:
        values = parquet.read_table(path).to_pylist()
    except (OSError, ValueError, NotImplementedError) as e:  # pyarrow's own are among these
        raise AutoDecoError(f"{path}: cannot be read: {_reason(e)}") from e
    yield from _numbered(values)


_READERS: dict[str, Callable[[Path], Iterator[_Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_hub(source: str, match: re.Match[str]) -> Iterator[_Record]:
    hint = f"{source}: no such file, and a data set of the Hugging Face hub needs datasets; pip install datasets"
    datasets = _import("datasets", hint)
    exceptions = _import("datasets.exceptions", hint)
    try:
        data = datasets.load_dataset(match["id"], match["config"], split=match["split"])
    # RuntimeError: a data set with a script of its own, which datasets no longer runs
    except (OSError, ValueError, RuntimeError, exceptions.DatasetsError) as e:
        raise AutoDecoError(f"{source}: no such file, and not to be had from the Hugging Face hub: {_reason(e)}") from e
    yield from _numbered(data if match["split"] else _default_split(source, data))


def _default_split(source: str, splits: dict[str, Any]) -> Any:
    if len(splits) != 1 and "test" not in splits:
        raise AutoDecoError(f"{source}: has the splits {', '.join(splits)}; choose one with @SPLIT")
    return splits["test"] if "test" in splits else next(iter(splits.values()))


def _numbered(values: Iterable[Any]) -> Iterator[_Record]:
    return (_Record(i, value) for i, value in enumerate(values, 1))


def _import(module: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise AutoDecoError(hint) from e


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__

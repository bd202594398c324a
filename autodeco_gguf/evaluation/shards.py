"""Puts the shards of an evaluation together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.drawing import last_date, read_sessions, speeds
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.pairs import PAIRS
from autodeco_gguf.evaluation.questions import QUESTIONS
from autodeco_gguf.evaluation.results import RESULTS, Origin, Results
from autodeco_gguf.evaluation.runner import EVALUATION, WRITTEN, write_results
from autodeco_gguf.evaluation.samples import SAMPLES, Key, Sample, keys_of
from autodeco_gguf.evaluation.settings import DIGESTS, VERSION, EvalSettings, check_free, make_directory
from autodeco_gguf.evaluation.summary import summarize
from autodeco_gguf.evaluation.traces import TRACES
from autodeco_gguf.files.atomic import bad_file, check_name, same_file
from autodeco_gguf.files.journal import Journal, difference, reading
from autodeco_gguf.files.jsonl import dump_line, write_lines
from autodeco_gguf.files.lock import locked
from autodeco_gguf.files.reading import MAX_JSON, parse_json, read_bytes

_KIND = "evaluation"
_TAKEN = "has an evaluation in it; give a new directory"

Place = tuple[Config, Key]
Where = tuple[int, int]
"""Which of the directories, and the number of the line."""


@dataclass(frozen=True)
class Joined:
    """What came of it: samples in the output, and results of the methods that are complete, None where none is.

    ``incomplete`` are the other methods that the directories have results of.
    """

    samples: int
    complete: tuple[str, ...]
    incomplete: tuple[str, ...]
    results: Results | None


def join(directories: Sequence[Path], output: Path, *, plots: bool = True) -> Joined:
    """Put the samples of several directories into a new one, which an evaluation without shards can go on from.

    Their settings are the same but for the shard. Of a sample that is there twice one is kept, a graded one where there
    is one. A join that was interrupted can be run again.

    Raises:
        BadFile: settings that differ, and in what, or where mean-shift is from; a sample that is there twice with
            different texts; a damaged file; there is another evaluation in the output. Or Busy: a directory is in use.
    """
    check_name(output)
    if same_file([output], directories) is not None:
        raise BadFile.of(output, _TAKEN)
    header = common_header(directories, "shard")
    found = [(directory, read) for directory in directories if (read := read_results(directory)) is not None]
    validation = validated_on((directory, read.methods, read.settings) for directory, read in found)
    samples, kept = _choose(directories)
    make_directory(output)
    header = {**header, "shard": None}
    with locked(output):
        if (output / SAMPLES).exists():
            if not _holds(output / SAMPLES, _lines(directories, kept)):
                raise BadFile.of(output, _TAKEN)
        else:  # last, so that what an interrupted join leaves is no evaluation
            if not _begun(output, chain([header], sessions_of(directories))):
                write_lines(output / EVALUATION, chain([header], sessions_of(directories)))
            for name in (PAIRS, TRACES):
                if any((directory / name).exists() for directory in directories):
                    write_lines(output / name, _all_lines(directories, name))
            asked = next((directory for directory in directories if (directory / QUESTIONS).exists()), None)
            if asked is not None:  # each has those of all
                write_lines(output / QUESTIONS, _all_lines([asked], QUESTIONS))
            write_lines(output / SAMPLES, _lines(directories, kept))
        return _summarize([read for _, read in found], validation, output, header, samples, plots)


def _begun(output: Path, lines: Iterable[object]) -> bool:
    """Whether a join of these lines was interrupted in a directory; BadFile where a file of another is there."""
    if not (output / EVALUATION).exists():
        check_free(output, WRITTEN, EVALUATION)
        return False
    if not _holds(output / EVALUATION, lines):
        raise BadFile.of(output, _TAKEN)
    return True


def _lines(directories: Sequence[Path], kept: set[Where]) -> Iterator[object]:
    return (line for where, line, _ in read_samples(directories) if where in kept)


def _all_lines(directories: Sequence[Path], name: str) -> Iterator[object]:
    for directory in directories:
        if (directory / name).exists():
            with reading(directory / name, None, VERSION) as (_, lines):
                yield from (line.value for line in lines)


def _holds(path: Path, values: Iterable[object]) -> bool:
    """Whether a file has these lines and no others."""
    with bad_file(path, "cannot be read"), path.open("rb") as f:
        return all(line == expected for line, expected in zip_longest(f, map(dump_line, values)))


def common_header(directories: Sequence[Path], *but: str) -> dict[str, Any]:
    """The header of all directories, but for some settings; raises BadFile where they differ in others."""
    first: dict[str, Any] = {}
    for directory in directories:
        with reading(directory / EVALUATION, _KIND, VERSION) as (header, _):
            _check(directory, header)
            header = {key: value for key, value in header.items() if key not in but}
        first = first or header
        differs = difference(header, first, DIGESTS, f"{directories[0]} has")
        if differs is not None:
            raise BadFile.of(directory, f"has {differs}")
    return first


def _check(directory: Path, header: Mapping[str, Any]) -> None:
    tasks = header.get("tasks")
    values = tasks.values() if isinstance(tasks, dict) else [None]
    if not all(isinstance(value, dict) and type(value.get("problems")) is int for value in values):
        path = directory / EVALUATION
        raise BadFile(f"{path}:1: damaged: no tasks with their numbers of problems", file=path, key="tasks")


def read_samples(directories: Sequence[Path]) -> Iterator[tuple[Where, object, Sample]]:
    """All samples, with where each stands, and what stands there."""
    for i, directory in enumerate(directories):
        path = directory / SAMPLES
        with (
            reading(directory / EVALUATION, _KIND, VERSION) as (header, _),
            reading(path, None, VERSION) as (_, lines),
        ):
            _check(directory, header)
            for line in lines:
                try:
                    yield (i, line.number), line.value, Sample.from_json(line.value, header["tasks"])
                except InvalidInput as e:
                    raise BadFile(f"{path}:{line.number}: damaged: {e}", file=path) from e


def _choose(directories: Sequence[Path]) -> tuple[dict[Place, Sample], set[Where]]:
    """The samples to keep, their texts as digests, and where they stand."""
    samples: dict[Place, Sample] = {}
    kept: dict[Place, Where] = {}
    for where, _, sample in read_samples(directories):
        place, slim = (sample.config, sample.key), sample.slim()
        earlier = samples.get(place)
        if earlier is not None and earlier.text != slim.text:
            which = f"sample {sample.sample} of seed {sample.seed} of {sample.config} on problem {sample.problem}"
            other = directories[kept[place][0]]
            raise BadFile.of(directories[where[0]], f"{which} of {sample.task} has another text than in {other}")
        if earlier is None or sample.correct is not None:
            samples[place], kept[place] = slim, where
    return samples, set(kept.values())


def sessions_of(directories: Sequence[Path]) -> Iterator[object]:
    """The lines of their sessions."""
    for directory in directories:
        with reading(directory / EVALUATION, _KIND, VERSION) as (_, lines):
            yield from (line.value for line in lines)


# ---- results ----


def _summarize(
    found: Sequence[Asked],
    validation: str | None,
    output: Path,
    header: Mapping[str, Any],
    samples: Mapping[Place, Sample],
    plots: bool,
) -> Joined:
    """Write the results of the methods that are complete."""
    if not found:
        return Joined(len(samples), (), (), None)
    methods = list(dict.fromkeys(method for one in found for method in one.methods))
    settings = replace(
        found[0].settings,
        tasks=tuple(header["tasks"]),
        k=min(one.settings.k for one in found),
        seeds=min(one.settings.seeds for one in found),
        validation=validation,
    )
    problems = [(task, number) for task, values in header["tasks"].items() for number in range(values["problems"])]

    def is_complete(config: Config) -> bool:
        draws = settings.draws(config)
        return all((config, key) in samples for problem in problems for key in keys_of(problem, *draws))

    complete = [method for method in methods if method.config is not None and is_complete(method.config)]
    rest = tuple(method.name for method in methods if method not in complete)
    earlier = read_results(output)
    if earlier is not None and not set(earlier.methods) <= set(complete):
        raise BadFile.of(output, _TAKEN)
    results = None
    if complete:
        with Journal(output / EVALUATION, header) as log:
            drawn = read_sessions(log)
        results = summarize((samples[place] for place in sorted(samples)), complete, settings, speeds(drawn))
        origin = found[0].origin
        results = replace(results, origin=None if origin is None else replace(origin, date=last_date(drawn)))
        write_results(output, results, plots)
    return Joined(len(samples), tuple(method.name for method in complete), rest, results)


class Asked(NamedTuple):
    """What the results of a directory are of."""

    settings: EvalSettings
    methods: tuple[Method, ...]
    origin: Origin | None


def validated_on(found: Iterable[tuple[Path, Sequence[Method], EvalSettings]]) -> str | None:
    """Where the constants of mean-shift are from, in all directories that have it; BadFile where that differs."""
    shifted = [
        (directory, settings.validation)
        for directory, methods, settings in found
        if any(method.name.partition(" (")[0] == "mean-shift" for method in methods)
    ]
    for directory, validation in shifted[1:]:
        if validation != shifted[0][1]:
            theirs, ours = (value or "the problems evaluated" for value in (validation, shifted[0][1]))
            reason = f"has mean-shift from {theirs}, {shifted[0][0]} from {ours}; evaluate both with --mean-shift-from"
            raise BadFile.of(directory, f"{reason}, or neither")
    return shifted[0][1] if shifted else None


def read_results(directory: Path) -> Asked | None:
    """None where there are none."""
    path = directory / RESULTS
    if not path.exists():
        return None
    try:
        values: Any = parse_json(read_bytes(path, MAX_JSON))
        methods = tuple(from_json(Method, row) for row in values["methods"])
        origin = None if values.get("origin") is None else from_json(Origin, values["origin"])
        return Asked(from_json(EvalSettings, values["settings"]), methods, origin)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
        raise BadFile.of(path, f"cannot be read as results: {e}; delete it, or finish its evaluation") from e

"""Puts the shards of an evaluation together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.results import RESULTS, Results
from autodeco_gguf.evaluation.runner import TIMING, speeds, write_results
from autodeco_gguf.evaluation.samples import SAMPLES, Key, Sample, keys_of
from autodeco_gguf.evaluation.settings import DIGESTS, VERSION, EvalSettings, make_directory
from autodeco_gguf.evaluation.summary import summarize
from autodeco_gguf.files.journal import Journal, Line, difference, reading
from autodeco_gguf.files.jsonl import write_lines

Place = tuple[Config, Key]


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

    Of a sample that is there twice one is kept, a graded one where there is one.

    Args:
        directories: of evaluations with the same settings but for the shard.
        output: a directory without an evaluation; made where it is not there.
        plots: draw the plots as well.

    Raises:
        BadFile: settings that differ, and in what; a sample that is there twice with different texts; a damaged file;
            there is an evaluation in the output. Or Busy: a directory is in use.
    """
    if (output / SAMPLES).exists():
        raise BadFile.of(output, "has an evaluation in it; give a new directory")
    header = _common_header(directories)
    samples = _Joiner(directories)
    make_directory(output)
    # last, so that what an interrupted join leaves is no evaluation
    write_lines(output / TIMING, chain([{"timing": VERSION}], _timings(directories)))
    write_lines(output / SAMPLES, chain([{**header, "shard": None}], samples.records()))
    return _summarize(directories, output, header, samples.slim, plots)


def _common_header(directories: Sequence[Path]) -> dict[str, Any]:
    """The header of all directories, but for the shard."""
    first: dict[str, Any] = {}
    for directory in directories:
        with reading(directory / SAMPLES, "samples", VERSION) as (header, _):
            header.pop("shard", None)
        first = first or header
        if header != first:
            raise BadFile.of(directory, f"has {difference(header, first, DIGESTS, f'{directories[0]} has')}")
    return first


class _Joiner:
    """Two passes over the samples: which line of which directory holds the one to keep, then the lines."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._kept: dict[Place, tuple[int, int]] = {}  # -> directory, line number
        self.slim: dict[Place, Sample] = {}
        for i in range(len(directories)):
            for line, sample in self._read(i):
                self._take(sample.slim(), (i, line.number))

    def _read(self, i: int) -> Iterator[tuple[Line, Sample]]:
        path = self._directories[i] / SAMPLES
        with reading(path, "samples", VERSION) as (header, lines):
            for line in lines:
                try:
                    yield line, Sample.from_json(line.value, header["tasks"])
                except InvalidInput as e:
                    raise BadFile(f"{path}:{line.number}: damaged: {e}", file=path) from e

    def _take(self, sample: Sample, where: tuple[int, int]) -> None:
        place = (sample.config, sample.key)
        earlier = self.slim.get(place)
        if earlier is not None and earlier.text != sample.text:
            raise BadFile.of(
                self._directories[where[0]],
                f"sample {sample.sample} of seed {sample.seed} of {sample.config} on problem {sample.problem} of "
                f"{sample.task} has another text than in {self._directories[self._kept[place][0]]}",
            )
        if earlier is None or sample.correct is not None:
            self.slim[place], self._kept[place] = sample, where

    def records(self) -> Iterator[object]:
        """The samples to keep, as they stand in the files."""
        for i in range(len(self._directories)):
            for line, sample in self._read(i):
                if self._kept.get((sample.config, sample.key)) == (i, line.number):
                    yield line.value


def _timings(directories: Sequence[Path]) -> Iterator[object]:
    for directory in directories:
        if (directory / TIMING).exists():
            with reading(directory / TIMING, "timing", VERSION) as (_, lines):
                yield from (line.value for line in lines)


# ---- results ----


def _summarize(
    directories: Sequence[Path], output: Path, header: Mapping[str, Any], samples: Mapping[Place, Sample], plots: bool
) -> Joined:
    """Write the results of the methods that are complete."""
    found = [read for read in map(_read_results, directories) if read is not None]
    methods = list(dict.fromkeys(method for _, known in found for method in known))
    if not methods:
        return Joined(len(samples), (), (), None)
    settings = replace(
        found[0][0],
        tasks=tuple(header["tasks"]),
        k=min(settings.k for settings, _ in found),
        seeds=min(settings.seeds for settings, _ in found),
    )
    keys = [(task, number) for task, values in header["tasks"].items() for number in range(values["problems"])]
    complete = [
        method
        for method in methods
        if method.config is not None
        and all((method.config, key) in samples for key in keys_of(keys, *settings.draws(method.config)))
    ]
    rest = tuple(method.name for method in methods if method not in complete)
    if not complete:
        return Joined(len(samples), (), rest, None)
    with Journal(output / TIMING, {"timing": VERSION}) as timing:
        results = summarize((samples[place] for place in sorted(samples)), complete, settings, speeds(timing))
    write_results(output, results, plots)
    return Joined(len(samples), tuple(method.name for method in complete), rest, results)


def _read_results(directory: Path) -> tuple[EvalSettings, tuple[Method, ...]] | None:
    """Settings and methods of a directory's results; None where there are none."""
    path = directory / RESULTS
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_bytes())
        return from_json(EvalSettings, values["settings"]), tuple(from_json(Method, row) for row in values["methods"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise BadFile.of(path, f"cannot be read as results: {e}; delete it, or finish its evaluation") from e

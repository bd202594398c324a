"""Puts the shards of an evaluation together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.methods import Method, is_deterministic
from autodeco_gguf.evaluation.runner import RESULTS, TIMING, speeds, write_results
from autodeco_gguf.evaluation.samples import SAMPLES, Key, Sample, place_of, text_digest
from autodeco_gguf.evaluation.settings import DIGESTS, VERSION, EvalSettings, make_directory
from autodeco_gguf.files.atomic import write_atomically
from autodeco_gguf.files.journal import Journal, difference, reading

Place = tuple[str, Key]


@dataclass(frozen=True)
class Joined:
    """What came of it.

    Attributes:
        samples: in the output.
        complete: the methods of which no sample is lacking, with which results.json was written.
        incomplete: the others of the directories' results.
        results: what stands in results.json, None where no method is complete.
    """

    samples: int
    complete: tuple[str, ...]
    incomplete: tuple[str, ...]
    results: dict[str, Any] | None


def join(directories: Sequence[Path], output: Path, *, plots: bool = True) -> Joined:
    """Put the samples of several directories into a new one, which an evaluation without shards can go on from.

    Of a sample that is there twice one is kept, a graded one where there is one.

    Args:
        directories: of evaluations with the same settings but for the shard.
        output: a directory without an evaluation; made where it is not there.
        plots: draw the plots as well.

    Raises:
        AutoDecoError: settings that differ, and in what; a sample that is there twice with different texts; a damaged
            file; there is an evaluation in the output.
    """
    if (output / SAMPLES).exists():
        raise AutoDecoError(f"{output}: has an evaluation in it; give a new directory")
    header = _common_header(directories)
    samples = _Joiner(directories)
    make_directory(output)
    # last, so that what an interrupted join leaves is no evaluation
    _write_lines(output / TIMING, {"timing": VERSION}, _timings(directories))
    _write_lines(output / SAMPLES, {**header, "shard": None}, samples.records())
    return _summarize(directories, output, header, samples.slim, plots)


def _common_header(directories: Sequence[Path]) -> dict[str, Any]:
    """The header of all directories, but for the shard."""
    first: dict[str, Any] = {}
    for directory in directories:
        with reading(directory / SAMPLES, "samples", VERSION) as (header, _):
            header.pop("shard", None)
        first = first or header
        if header != first:
            raise AutoDecoError(f"{directory}: has {difference(header, first, DIGESTS, f'{directories[0]} has')}")
    return first


class _Joiner:
    """Two passes over the samples: which line of which directory holds the one to keep, then the lines."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._kept: dict[Place, tuple[int, int]] = {}  # -> directory, line number
        self.slim: dict[Place, Sample] = {}
        for i in range(len(directories)):
            for number, place, sample in self._read(i):
                self._take(place, (i, number), sample)

    def _read(self, i: int) -> Iterator[tuple[int, Place, Sample]]:
        path = self._directories[i] / SAMPLES
        with reading(path, "samples", VERSION) as (header, lines):
            for line in lines:
                try:
                    place = place_of(line.value, header["tasks"])
                except AutoDecoError as e:
                    raise AutoDecoError(f"{path}:{line.number}: damaged: {e}") from e
                yield line.number, place, {**line.value, "text": text_digest(line.value["text"])}

    def _take(self, place: Place, where: tuple[int, int], sample: Sample) -> None:
        earlier = self.slim.get(place)
        if earlier is not None and earlier["text"] != sample["text"]:
            config, key = place
            raise AutoDecoError(
                f"{self._directories[where[0]]}: sample {key.sample} of seed {key.seed} of {config} on problem "
                f"{key.problem} of {key.task} has another text than in {self._directories[self._kept[place][0]]}"
            )
        if earlier is None or sample["correct"] is not None:
            self.slim[place], self._kept[place] = sample, where

    def records(self) -> Iterator[object]:
        """The samples to keep, as they stand in the files."""
        for i, directory in enumerate(self._directories):
            with reading(directory / SAMPLES, "samples", VERSION) as (_, lines):
                for line in lines:
                    if self._kept.get((line.value["config"], Key.of(line.value))) == (i, line.number):
                        yield line.value


def _timings(directories: Sequence[Path]) -> Iterator[object]:
    for directory in directories:
        if (directory / TIMING).exists():
            with reading(directory / TIMING, "timing", VERSION) as (_, lines):
                yield from (line.value for line in lines)


def _write_lines(path: Path, header: Mapping[str, Any], values: Iterator[object]) -> None:
    def write(f: BinaryIO) -> None:
        for value in (header, *values):
            f.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    write_atomically(path, write, lambda _: None)


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
    complete = [method for method in methods if _is_complete(method.config, header["tasks"], samples, settings)]
    rest = tuple(method.name for method in methods if method not in complete)
    if not complete:
        return Joined(len(samples), (), rest, None)
    used = [
        samples[place] for place in sorted(samples) if place[1].seed < settings.seeds and place[1].sample < settings.k
    ]
    with Journal(output / TIMING, {"timing": VERSION}) as timing:
        results = write_results(output, used, complete, settings, speeds(timing), plots)
    return Joined(len(samples), tuple(method.name for method in complete), rest, results)


def _read_results(directory: Path) -> tuple[EvalSettings, list[Method]] | None:
    """Settings and methods of a directory's results; None where there are none."""
    path = directory / RESULTS
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_bytes())
        known = EvalSettings.__dataclass_fields__
        settings = EvalSettings(**{key: value for key, value in values["settings"].items() if key in known})
        return settings, [Method(row["name"], row["kind"], row["config"]) for row in values["methods"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise AutoDecoError(f"{path}: cannot be read as results: {e}; delete it, or finish its evaluation") from e


def _is_complete(
    config: str | None, tasks: Mapping[str, Any], samples: Mapping[Place, Sample], settings: EvalSettings
) -> bool:
    if config is None:
        return False
    seeds, k = (1, 1) if is_deterministic(config) else (settings.seeds, settings.k)
    return all(
        (config, Key(task, problem, seed, sample)) in samples
        for task, values in tasks.items()
        for problem in range(values["problems"])
        for seed in range(seeds)
        for sample in range(k)
    )

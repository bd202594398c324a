"""Evaluations of the same model with different heads in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.drawing import Session, speeds
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.samples import Sample
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.shards import common_header, read_results, read_samples, sessions_of, validated_on
from autodeco_gguf.evaluation.summary import summarize

_OF_HEADS = ("mean-shift", "shuffle")
"""Methods that follow from what the heads predict, besides those that are predicted."""


class _Part(NamedTuple):
    """What is taken from a directory: its methods as they are called now, and the configs of each of its own."""

    directory: Path
    methods: list[Method]
    configs: Mapping[Config, list[Config]]


def compare(directories: Sequence[tuple[str, Path]]) -> Results:
    """The results of several evaluations that differ in their heads, as of one; :func:`table` shows them.

    Args:
        directories: (label, directory) of each. What depends on the heads is taken from all and called by its label,
            "autodeco (LABEL)", "mean-shift (LABEL)", and the rest from the first. Each AutoDeco is compared with all
            other rows, problem by problem, and the verdict has a line for each claim about each of them, and each two.

    ``k`` and the seeds are the least of those that the evaluations asked for.

    Raises:
        InvalidInput: no directory, or a label twice.
        BadFile: settings that differ in more than the heads, or in where mean-shift is from; no results; a damaged
            file; samples that are missing.
    """
    labels = [label for label, _ in directories]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if not directories or twice is not None:
        raise InvalidInput.of("label", repr(twice), "a directory at least, and each label once")
    paths = [path for _, path in directories]
    header = common_header(paths, "shard", "heads")
    parts: list[_Part] = []
    asked: list[EvalSettings] = []
    for label, path in directories:
        found = read_results(path)
        if found is None:
            raise BadFile.of(path, "has no results; finish its evaluation")
        asked.append(found.settings)
        parts.append(_part(path, label, found.methods, first=not parts))
    settings = replace(
        asked[0],
        tasks=tuple(header["tasks"]),
        k=min(s.k for s in asked),
        seeds=min(s.seeds for s in asked),
        validation=validated_on([(p.directory, p.methods, s) for p, s in zip(parts, asked, strict=True)]),
    )
    sessions = [session for part in parts for session in _sessions(part)]
    methods = [method for part in parts for method in part.methods]
    methods.sort(key=lambda method: method.kind != "predicted")
    samples = sorted(_samples(parts), key=lambda sample: (sample.config, sample.key))  # as their evaluations do
    return summarize(samples, methods, settings, speeds(sessions))


def _part(directory: Path, label: str, methods: Sequence[Method], first: bool) -> _Part:
    kept: list[Method] = []
    configs: dict[Config, list[Config]] = {}
    for method in methods:
        own = method.kind == "predicted" or method.name in _OF_HEADS
        if own:
            config = replace(method.found, key=f"{method.found} ({label})")
            kept.append(replace(method, name=f"{method.name} ({label})", config=config))
        elif first:
            kept.append(method)
        if own or first:
            configs.setdefault(method.found, []).append(kept[-1].found)
    return _Part(directory, kept, configs)


def _samples(parts: Sequence[_Part]) -> Iterator[Sample]:
    """Those of all parts, with digests for texts."""
    for part in parts:
        for _, _, sample in read_samples([part.directory]):
            slim = sample.slim()
            yield from (replace(slim, config=config) for config in part.configs.get(sample.config, ()))


def _sessions(part: _Part) -> Iterator[Session]:
    for line in sessions_of([part.directory]):
        try:
            session = from_json(Session, line)
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise BadFile.of(part.directory, "has a damaged line in evaluation.jsonl") from e
        yield from (replace(session, config=config) for config in part.configs.get(session.config, ()))

"""Rejection sampling: several answers a problem, of which the right ones are data to train the heads on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import check_new, check_output
from autodeco_gguf.files.journal import Header, Journal
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.model.sampling import check_seed_range, check_temperature, check_top_p, seed_from
from autodeco_gguf.tasks.checkers import get_checker
from autodeco_gguf.tasks.grading import Grader
from autodeco_gguf.tasks.problems import Problem, located

PARTIAL = ".partial"
"""What is finished so far stands beside the output, in a file of the same name with this suffix."""

_VERSION = 2
"""Of the partial file: it says how samples are drawn, too."""

_ADVICE = "delete it, or use --force to begin anew"
_DIGESTS = {"model": "another model", "problems": "other problems"}


@dataclass(frozen=True)
class RolloutSettings:
    """What decides about the samples.

    Attributes:
        k: samples a problem.
        checker: one of ``checkers.CHECKERS``.
        seed: in [0, 2**32); the same seed gives the same samples.
        temperature: what all are drawn with; 1 is the model's own distribution.
        top_p: likewise.
        max_tokens: longest answer, the end-of-generation token included; None: until the context is full.
    """

    k: int = 16
    checker: str = "boxed"
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None

    def check(self) -> None:
        """Raise InvalidInput for a value out of range."""
        for name, value in (("k", self.k), ("max_tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise InvalidInput.of(name, value, "at least 1")
        check_seed_range(self.seed)
        check_temperature(self.temperature)
        check_top_p(self.top_p)
        get_checker(self.checker)


@dataclass(frozen=True)
class RolloutSummary:
    """What came out of it.

    Attributes:
        problems: finished.
        samples: drawn for them.
        correct: those kept: right, and ended by the model itself.
        unsolved: problems without a correct sample.
        continued: problems that an earlier, interrupted run had finished.
        tokens: drawn by this run.
        seconds: that this run took, without loading.
    """

    problems: int = 0
    samples: int = 0
    correct: int = 0
    unsolved: int = 0
    continued: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, samples: int, correct: int) -> RolloutSummary:
        """With one more problem."""
        return replace(
            self,
            problems=self.problems + 1,
            samples=self.samples + samples,
            correct=self.correct + correct,
            unsolved=self.unsolved + (correct == 0),
        )


RolloutWatch = Callable[[RolloutSummary, int], None]
"""Called with the state so far and the number of problems in all: at first, and after every problem."""


# ---- sampling ----


def rollouts(
    engine: Engine,
    problems: Sequence[Problem],
    output: Path,
    settings: RolloutSettings | None = None,
    *,
    inputs: Sequence[Path] = (),
    force: bool = False,
    watch: RolloutWatch = lambda summary, total: None,
) -> RolloutSummary:
    """Sample answers and write the correct ones as JSONL: prompt, completion, problem (its line), sample (from 0).

    What is finished is kept in ``output`` + ".partial": the same call after an interruption goes on from there, and
    gives the file that an undisturbed run would have given.

    Args:
        engine: the model.
        problems: rendered with the model's chat template as one user message, or as they are.
        output: the file to write.
        settings: how to sample.
        inputs: files that are not to be written over.
        force: replace an existing output, and a partial file of other settings.
        watch: progress.

    Raises:
        InvalidInput: a setting that will not do.
        BadFile: a problem that will not do, named before anything is drawn; a partial file of other settings; the
            output exists or cannot be written; no sample is correct.
    """
    settings = settings or RolloutSettings()
    settings.check()
    check_output(output, inputs=inputs, force=force)
    partial_path = output.with_name(output.name + PARTIAL)
    check_output(partial_path, inputs=inputs, force=True)
    with Grader(settings.checker) as grader:
        grader.validate(problems)
        prompts = _prompts(engine, problems, settings)
        header = _header(engine, problems, prompts, settings)
        with Journal(partial_path, header, advice=_ADVICE, digests=_DIGESTS, force=force) as journal:
            check_new([output], force=force)  # another run may have come to its end meanwhile
            partial = _Partial(journal)
            summary = _sample(engine, problems, prompts, settings, partial, grader, watch)
            if summary.correct:
                write_lines(output, _records(engine, problems, partial), new=not force)
            partial_path.unlink(missing_ok=True)  # while nobody else can go on from it
    if not summary.correct:
        raise BadFile(f"none of {summary.samples} samples is correct, so there is nothing for {output}", file=output)
    return summary


def _prompts(engine: Engine, problems: Sequence[Problem], settings: RolloutSettings) -> list[list[int]]:
    """The tokens of every problem, all known to fit."""
    prompts = []
    for problem in problems:
        with located(problem.file, problem.line, by_line=problem.by_line):
            prompts.append(engine.prompt(problem.text))
            engine.check(sample_request(prompts[-1], settings, 0, 0))
    return prompts


def sample_request(prompt: list[int], settings: RolloutSettings, problem: int, sample: int) -> Request:
    """The request for one sample of a problem, both by number; each of them has a seed of its own."""
    return Request(
        prompt,
        seed=seed_from(f"{settings.seed} {problem} {sample}"),
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
    )


def _sample(
    engine: Engine,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    settings: RolloutSettings,
    partial: _Partial,
    grader: Grader,
    watch: RolloutWatch,
) -> RolloutSummary:
    """Draw what the partial file lacks, and append it there problem by problem."""
    summary = RolloutSummary()
    for i in sorted(partial.places):
        summary = summary.plus(settings.k, len(partial.read(i)))
    summary = replace(summary, continued=summary.problems)
    watch(summary, len(problems))
    todo = [i for i in range(len(problems)) if i not in partial.places]
    results: dict[int, list[Result]] = {}
    start, tokens = time.perf_counter(), 0
    requests = (sample_request(prompts[i], settings, i, sample) for i in todo for sample in range(settings.k))
    with closing(engine.as_completed(requests)) as generated:
        for result in generated:
            i = todo[result.index // settings.k]
            tokens += len(result.temperature)
            results.setdefault(i, []).append(result)
            if len(results[i]) == settings.k:
                correct = _correct(results.pop(i), settings.k, grader, problems[i])
                partial.append(i, correct)
                summary = summary.plus(settings.k, len(correct))
                summary = replace(summary, tokens=tokens, seconds=time.perf_counter() - start)
                watch(summary, len(problems))
    return summary


def _correct(results: list[Result], k: int, grader: Grader, problem: Problem) -> dict[int, str]:
    """The texts of the correct samples, by number, in order."""
    kept = {}
    for result in results:
        if result.finish_reason == "stop":
            grade = grader.grade(result.text, problem.answer)
            if grade.correct is None:
                raise BadFile(f"{problem.where}: the checker failed on a sample: {grade.error}", file=problem.file)
            if grade.correct:
                kept[result.index % k] = result.text
    return dict(sorted(kept.items()))


def _records(engine: Engine, problems: Sequence[Problem], partial: _Partial) -> Iterator[dict[str, object]]:
    for i, problem in enumerate(problems):
        for sample, text in partial.read(i).items():
            prompt = engine.render(problem.text)
            yield {"prompt": prompt, "completion": text, "problem": problem.line, "sample": sample}


# ---- what is finished so far ----


def _header(
    engine: Engine, problems: Sequence[Problem], prompts: Sequence[list[int]], settings: RolloutSettings
) -> Header:
    """All that the samples depend on."""
    digest = hashlib.sha256()
    for problem, tokens in zip(problems, prompts, strict=True):
        digest.update(repr((problem.line, problem.answer, tokens)).encode("utf-8", "surrogatepass"))
    return {
        "rollouts": _VERSION,
        "model": engine.context.file.base().fingerprint()[:16],
        "problems": digest.hexdigest()[:16],
        "ctx": engine.n_ctx,
        "cache_type": engine.machine.cache_type,
        "flash_attn": engine.machine.flash_attn,
        **asdict(settings),
    }


class _Partial:
    """The partial file: a journal of ``[problem, {sample: text, ...}]``, a line for every finished problem."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.places: dict[int, int] = {}  # problem -> of its line
        for line in journal.lines():
            try:
                self.places[_parse(line.value)[0]] = line.place
            except (ValueError, TypeError, AttributeError) as e:
                raise journal.refused(line.number, "damaged") from e

    def read(self, problem: int) -> dict[int, str]:
        """The correct samples of a finished problem."""
        return _parse(self._journal.read(self.places[problem]))[1]

    def append(self, problem: int, texts: dict[int, str]) -> None:
        """Add a finished problem; it stays, whatever happens to this process."""
        self.places[problem] = self._journal.append([problem, texts])


def _parse(value: Any) -> tuple[int, dict[int, str]]:
    problem, texts = value
    return int(problem), {int(sample): str(text) for sample, text in texts.items()}

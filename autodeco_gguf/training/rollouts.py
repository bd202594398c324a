"""Rejection sampling: several answers a problem, of which the right ones are data to train the heads on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.answers.items import GradedTasks, Item, digest, render
from autodeco_gguf.answers.stream import Answer, Wanted, answers, groups
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import check_new, check_output
from autodeco_gguf.files.journal import Header, Journal
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.model.sampling import Sampling, check_seed_range, check_temperature, check_top_p, seed_from
from autodeco_gguf.model.trace import texts
from autodeco_gguf.tasks.checkers import OTHER_RULES, RULES

PARTIAL = ".partial"
"""What is finished so far stands beside the output, in a file of the same name with this suffix."""

_VERSION = 4
"""Of the partial file: it says how samples are drawn, too."""

_ADVICE = "delete it, or use --force to begin anew"
_DIGESTS = {"model": "another model", "problems": "other problems", "rules": OTHER_RULES}

_LONGEST = 1 << 30
"""Bytes of a line of the partial file, which has all answers to a problem."""


@dataclass(frozen=True)
class RolloutSettings:
    """What decides about the samples.

    Attributes:
        k: samples a problem.
        keep: "correct": those that are right and that the model itself ended; "all": wrong and cut ones too.
        seed: in [0, 2**32); the same seed gives the same samples.
        temperature: what all are drawn with; 1 is the model's own distribution.
        top_p: likewise.
        max_tokens: longest answer, the end-of-generation token included; None: until the context is full.
    """

    k: int = 16
    keep: Literal["correct", "all"] = "correct"
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
        if self.keep not in ("correct", "all"):
            raise InvalidInput.of("keep", repr(self.keep), "'correct' or 'all'")

    @property
    def sampling(self) -> Sampling:
        """How every token is drawn, but for the seed."""
        return Sampling(temperature=self.temperature, top_p=self.top_p)


class Kept(NamedTuple):
    """A sample that is finished: its number, its text, whether it is right, and why it ended: "stop" or "length"."""

    sample: int
    text: str
    correct: bool
    finish_reason: str


@dataclass(frozen=True)
class RolloutSummary:
    """What came out of it.

    Attributes:
        problems: finished.
        samples: drawn for them.
        correct: those that are right, and, where only such are kept, ended by the model itself.
        kept: those for the output.
        cut: those that are right too, but were cut, where only such as have ended are kept.
        unsolved: problems without a correct sample.
        continued: problems that an earlier, interrupted run had finished.
        tokens: drawn by this run.
        seconds: that this run took, without loading.
    """

    problems: int = 0
    samples: int = 0
    correct: int = 0
    kept: int = 0
    cut: int = 0
    unsolved: int = 0
    continued: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, samples: int, found: Sequence[Kept], keep: str) -> RolloutSummary:
        """With one more problem."""
        kept = [sample for sample in found if _wanted(sample, keep)]
        correct = sum(sample.correct for sample in kept)
        return replace(
            self,
            problems=self.problems + 1,
            samples=self.samples + samples,
            correct=self.correct + correct,
            kept=self.kept + len(kept),
            cut=self.cut + len(found) - len(kept),
            unsolved=self.unsolved + (correct == 0),
        )


def _wanted(sample: Kept, keep: str) -> bool:
    return keep == "all" or (sample.correct and sample.finish_reason == "stop")


RolloutWatch = Callable[[RolloutSummary, int], None]
"""Called with the state so far and the number of problems in all: at first, and after every problem."""


# ---- sampling ----


def rollouts(
    engine: Drawer,
    tasks: GradedTasks,
    output: Path,
    settings: RolloutSettings | None = None,
    *,
    inputs: Sequence[Path] = (),
    force: bool = False,
    keep_partial: bool = False,
    watch: RolloutWatch = lambda summary, total: None,
) -> RolloutSummary:
    """Sample answers and write those to keep as JSONL: prompt, completion, task, problem (its line), sample (from 0).

    With all kept also their grade: correct, finish_reason, and weight, 0 for those that a training is not to learn.
    What is finished is kept in ``output`` + ".partial": the same call after an interruption goes on from there, and
    gives the file that an undisturbed run would have given.

    Args:
        engine: the model, or what has many of them and gives traces; else control tokens within answers are left out.
        tasks: open; each problem is rendered with the model's chat template as one user message, or as it is.
        output: the file to write.
        settings: how to sample.
        inputs: files that are not to be written over.
        force: replace an existing output, and a partial file of other settings.
        keep_partial: leave the partial file there beside the output, which the same call then writes again from it.
        watch: progress.

    Raises:
        InvalidInput: a setting that will not do.
        BadFile: a problem that will not do, named before anything is drawn; a partial file of other settings; the
            output exists or cannot be written; there is no sample to keep.
    """
    settings = settings or RolloutSettings()
    settings.check()
    partial_path = output.with_name(output.name + PARTIAL)
    replace_output = force or (keep_partial and partial_path.exists())
    check_output(output, inputs=inputs, force=replace_output)
    check_output(partial_path, inputs=inputs, force=True)
    items = render(engine, tasks.tasks, settings.max_tokens)
    header = _header(engine, tasks, items, settings)
    with Journal(partial_path, header, advice=_ADVICE, digests=_DIGESTS, force=force, longest=_LONGEST) as journal:
        check_new([output], force=replace_output)  # another run may have come to its end meanwhile
        partial = _Partial(journal)
        summary = _sample(engine, tasks, items, settings, partial, watch)
        if summary.kept:
            write_lines(output, _records(engine, items, partial, settings), new=not replace_output)
        if not (keep_partial and summary.kept):
            partial_path.unlink(missing_ok=True)  # while nobody else can go on from it
    if not summary.kept:
        reason = f"none of {summary.samples} samples is correct, so there is nothing for {output}"
        if summary.cut:
            reason = f"no right sample has ended, so there is nothing for {output}: {summary.cut} of {summary.samples} "
            reason += "are right but cut; keep all, or let them be longer"
        raise BadFile(reason, file=output)
    return summary


def wanted_samples(items: Sequence[Item], todo: Sequence[int], k: int, seed: int) -> list[Wanted]:
    """k samples of some problems, by their places among all; each of them has a seed of its own."""
    return [Wanted(items[i], sample, seed_from(f"{seed} {i} {sample}")) for i in todo for sample in range(k)]


def _sample(
    engine: Drawer,
    tasks: GradedTasks,
    items: Sequence[Item],
    settings: RolloutSettings,
    partial: _Partial,
    watch: RolloutWatch,
) -> RolloutSummary:
    """Draw what the partial file lacks, and append it there problem by problem."""
    summary = RolloutSummary()
    for i in sorted(partial.places):
        summary = summary.plus(settings.k, partial.read(i), settings.keep)
    summary = replace(summary, continued=summary.problems)
    watch(summary, len(items))
    place_of = {item.key: i for i, item in enumerate(items)}
    todo = [i for i in range(len(items)) if i not in partial.places]
    wanted = wanted_samples(items, todo, settings.k, settings.seed)
    start, tokens = time.perf_counter(), 0
    with closing(answers(engine, tasks, wanted, settings.sampling, settings.max_tokens)) as drawn:
        for group in groups(drawn, settings.k):
            found = [_kept(one) for one in group if one.result.finish_reason in ("stop", "length")]
            found = [one for one in found if settings.keep == "all" or one.correct]
            partial.append(place_of[group[0].item.key], found)
            tokens += sum(len(one.result.temperature) for one in group)
            summary = summary.plus(settings.k, found, settings.keep)
            summary = replace(summary, tokens=tokens, seconds=time.perf_counter() - start)
            watch(summary, len(items))
    return summary


def _kept(answer: Answer) -> Kept:
    result = answer.result
    said = "".join(texts(result.trace[: len(result.tokens)]))  # with control tokens, which are learnt like others
    return Kept(answer.number, said or result.text, answer.graded(), result.finish_reason)


def _records(
    engine: Drawer, items: Sequence[Item], partial: _Partial, settings: RolloutSettings
) -> Iterator[dict[str, object]]:
    for i, item in enumerate(items):
        prompt, problem = engine.render(item.problem.text), item.problem
        for sample, text, correct, reason in (one for one in partial.read(i) if _wanted(one, settings.keep)):
            record = {"prompt": prompt, "completion": text, "task": item.task, "problem": problem.line}
            grade = {"correct": correct, "finish_reason": reason, "weight": int(correct)}
            yield {**record, "sample": sample, **(grade if settings.keep == "all" else {})}


# ---- what is finished so far ----


def _header(engine: Drawer, tasks: GradedTasks, items: Sequence[Item], settings: RolloutSettings) -> Header:
    """All that the samples depend on."""
    checkers = dict.fromkeys(task.checker for task in tasks.tasks)
    return {
        "rollouts": _VERSION,
        "model": engine.fingerprint.partition(" ")[0][:16],
        "checker": ", ".join(checkers),
        "rules": [rules for rules in map(RULES.get, checkers) if rules] or None,
        "problems": digest(items),
        "ctx": engine.n_ctx,
        "cache_type": engine.machine.cache_type,
        "flash_attn": engine.machine.flash_attn,
        **asdict(settings),
    }


class _Partial:
    """The partial file: a journal of ``[problem, [samples to keep]]``, a line for every finished problem."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.places: dict[int, int] = {}  # problem -> of its line
        for line in journal.lines():
            try:
                self.places[_parse(line.value)[0]] = line.place
            except (ValueError, TypeError, AttributeError) as e:
                raise journal.refused(line.number, "damaged") from e

    def read(self, problem: int) -> list[Kept]:
        """The samples to keep of a finished problem."""
        return _parse(self._journal.read(self.places[problem]))[1]

    def append(self, problem: int, kept: Sequence[Kept]) -> None:
        """Add a finished problem; it stays, whatever happens to this process."""
        self.places[problem] = self._journal.append([problem, kept])


def _parse(value: Any) -> tuple[int, list[Kept]]:
    problem, kept = value
    return int(problem), [
        Kept(int(sample), str(text), bool(correct), str(reason)) for sample, text, correct, reason in kept
    ]

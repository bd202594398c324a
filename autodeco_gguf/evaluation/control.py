"""Decoding control (section 3.3 of the paper): whether commands in the prompt move the predicted T and P."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from autodeco_gguf.answers.items import Item, make_item, make_request, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, InvalidInput, ModelFailed
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.forced import (
    PLOT,
    TOKENS,
    Forced,
    forced_table,
    read_forced,
    summarize_forced,
    write_forced,
)
from autodeco_gguf.evaluation.report import count
from autodeco_gguf.evaluation.runner import write_json
from autodeco_gguf.evaluation.samples import Key, ProblemKey, keys_of, sample_seed
from autodeco_gguf.evaluation.settings import ADVICE, DIGESTS, EvalSettings, check_free, make_directory, make_header
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.journal import Journal, has_header
from autodeco_gguf.heads.weights import LETTERS
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.tasks.commands import VARIANTS, Commands
from autodeco_gguf.tasks.tasks import Task

CONTROL, RESULTS, REPORT = "control.jsonl", "control.json", "control.md"
"""What is written to the directory of an evaluation."""

WRITTEN = (RESULTS, REPORT, TOKENS, PLOT)
"""What comes of the answers in control.jsonl."""

_HELD_OUT = ", held out"
"""At the end of a kind whose wordings nobody has trained with."""

ControlWatch = Callable[[int, int], None]
"""Called with the answers there and those wanted: at first, and after each."""

ByKind = Mapping[str, Mapping[str, float]]
"""Kind of command -> "temperature" or "top_p" -> a figure."""


@dataclass(frozen=True)
class ControlResult:
    """What stands in control.json: the means over problems, for each kind of command, and their differences to "plain".

    Kinds are "low" and "high", and "low, held out" and "high, held out" where the commands have wordings held out.
    ``consistency`` is the share of problems whose mean a low command lowers, and a high one raises; ``left_out`` counts
    those that had a command in them already. ``forced`` is what moves at the tokens of the plain answers, None
    where an older version wrote the file.
    """

    problems: int
    k: int
    mean: ByKind
    difference: ByKind
    consistency: ByKind
    left_out: int
    forced: Forced | None = None


_Kinds = dict[str, list[Item]]
_Place = tuple[str, Key]
"""Kind of command, and which answer."""


class _Means(NamedTuple):
    """T and P of an answer: the mean over its tokens."""

    temperature: float
    top_p: float


@dataclass
class _Drawn:
    """The answers so far: the means of all, and the tokens of those to the plain prompts."""

    means: dict[_Place, _Means]
    plain: dict[Key, list[int]]


def evaluate_control(
    engine: Engine,
    tasks: Sequence[Task],
    directory: Path,
    commands: Commands,
    settings: EvalSettings,
    *,
    k: int = 1,
    plots: bool = False,
    watch: ControlWatch = lambda done, total: None,
) -> ControlResult:
    """Answer every problem as it is, with a low and with a high command at its end, and compare the mean T and P.

    Commands that are held out are asked apart from the others.
    The commands are drawn for each problem by the settings' seed, and their own share and seed do not count; of the
    settings max_tokens counts as well. A problem that has a command already is left out. ``k`` answers are drawn to a
    problem of each kind, with the same seeds for all kinds; those to the plain prompts are read once more under the
    commands, token by token, and with ``plots`` drawn. What is finished stays in control.jsonl: the same call goes
    on from there.

    Raises:
        AutoDecoError: a model without heads; a problem that does not fit; a directory with other settings; an answer
            without a token.
    """
    if not engine.heads:
        raise BadFile("control: the model has no heads, so there is nothing for commands to move")
    if k < 1:
        raise InvalidInput.of("k", k, "at least 1").within("control")
    settings = replace(settings, tasks=tuple(task.name for task in tasks))
    settings.check()
    plain = render(engine, tasks, settings.max_tokens)
    kinds = _variants(engine, plain, commands, settings)
    header = make_header("control", engine, tasks, chain(*kinds.values()), settings)
    check_control_directory(directory)
    make_directory(directory)
    with Journal(directory / CONTROL, header, advice=ADVICE, digests=DIGESTS) as journal:
        drawn = _complete(engine, kinds, settings, k, journal, watch)
    heads = [name for name in _Means._fields if name in engine.heads]
    lines = list(read_forced(engine, kinds, drawn.plain))
    write_forced(directory, lines, plots=plots)
    result = _summary(drawn.means, [*kinds], heads, k, left_out=len(plain) - len(kinds["plain"]))
    result = replace(result, forced=summarize_forced(lines))
    write_json(directory / RESULTS, to_json(result))
    heading = f"# Decoding control of {', '.join(settings.tasks)}"
    write_bytes(directory / REPORT, f"{heading}\n\n{control_table(result)}\n".encode("utf-8", "replace"))
    return result


def check_control_directory(directory: Path) -> None:
    """Raise BadFile where none has begun in a directory, and a file of one is there."""
    if not has_header(directory / CONTROL):
        check_free(directory, WRITTEN, CONTROL)


def _variants(engine: Engine, plain: list[Item], commands: Commands, settings: EvalSettings) -> _Kinds:
    """The problems of each kind."""
    sets = [("", commands)] if commands.held_out is None else [("", commands), (_HELD_OUT, commands.held_out)]
    sets = [(suffix, replace(one, share=1.0, seed=settings.seed, pairs=1)) for suffix, one in sets]
    kinds: _Kinds = {"plain": [], **{kind + suffix: [] for suffix, _ in sets for kind in VARIANTS[1:]}}
    for index, item in enumerate(plain):
        drawn = [(suffix, one.draw(index, item.problem.text)) for suffix, one in sets]
        if not all(pairs for _, pairs in drawn):
            continue
        kinds["plain"].append(item)
        for suffix, (pair,) in drawn:
            for kind, command in zip(VARIANTS[1:], pair, strict=True):
                problem = replace(item.problem, text=f"{item.problem.text.rstrip()} {command}")
                kinds[kind + suffix].append(make_item(engine, item.task, item.number, problem, settings.max_tokens))
    if not kinds["plain"]:
        raise BadFile("control: every problem has a command in it already")
    return kinds


def _complete(
    engine: Engine, kinds: _Kinds, settings: EvalSettings, k: int, journal: Journal, watch: ControlWatch
) -> _Drawn:
    """Draw the answers that the journal lacks; all of them."""
    found = _read(journal, engine.context.n_vocab)
    means = found.means
    wanted = {(kind, key): item for kind, items in kinds.items() for item in items for key in keys_of(item.key, 1, k)}
    missing = [(place, item) for place, item in wanted.items() if place not in means]
    done = len(wanted) - len(missing)
    watch(done, len(wanted))
    n = settings.max_tokens
    requests = (make_request(item, Sampling(), sample_seed(settings.seed, key), n) for (_, key), item in missing)
    with closing(engine.as_completed(requests)) as results:
        for result in results:
            (kind, key), item = missing[result.index]
            if result.finish_reason == "error" or len(result.temperature) == 0:
                raise ModelFailed(f"control: {item.problem.where}: {result.error or 'an answer without a token'}")
            mean = _Means(*(float(fmean(map(float, getattr(result, name)))) for name in _Means._fields))
            which = {"task": key.task, "problem": key.problem, "kind": kind, "sample": key.sample}
            drawn: dict[str, object] = {"text": result.text, "tokens": len(result.temperature)}
            if kind == "plain":
                found.plain[key] = drawn["ids"] = [token.id for token in result.trace]
            journal.append({**which, **drawn, **mean._asdict()})
            means[kind, key] = mean
            done += 1
            watch(done, len(wanted))
    plain = {key: found.plain[key] for kind, key in wanted if kind == "plain"}
    return _Drawn({place: means[place] for place in wanted}, plain)


def _read(journal: Journal, n_vocab: int) -> _Drawn:
    """What is there; a plain answer of an older version, whose tokens are not, is to be drawn again."""
    found = _Drawn({}, {})
    for line in journal.lines():
        try:
            kind, key = line.value["kind"], Key(line.value["task"], line.value["problem"], 0, line.value["sample"])
            if kind == "plain":
                if "ids" not in line.value:
                    continue
                found.plain[key] = [check_token(token, n_vocab) for token in line.value["ids"]]
            found.means[kind, key] = _Means(*(float(line.value[name]) for name in _Means._fields))
        except (TypeError, KeyError, ValueError) as e:
            raise journal.refused(line.number, "damaged: no answer") from e
    return found


def _summary(
    means: Mapping[_Place, _Means], kinds: Sequence[str], heads: Sequence[str], k: int, left_out: int
) -> ControlResult:
    """Means over problems, of the means over their answers."""
    of = {name: {kind: _by_problem(means, name, kind) for kind in kinds} for name in heads}
    mean = {kind: {name: fmean(of[name][kind]) for name in heads} for kind in kinds}

    def moved(kind: str, name: str) -> float:
        sign = 1 if kind.startswith("high") else -1
        return fmean(sign * (a - b) > 0 for a, b in zip(of[name][kind], of[name]["plain"], strict=True))

    difference = {kind: {name: mean[kind][name] - mean["plain"][name] for name in heads} for kind in kinds[1:]}
    consistency = {kind: {name: moved(kind, name) for name in heads} for kind in kinds[1:]}
    return ControlResult(len(of[heads[0]]["plain"]), k, mean, difference, consistency, left_out)


def _by_problem(means: Mapping[_Place, _Means], name: str, kind: str) -> list[float]:
    """The mean of each problem's answers."""
    found: dict[ProblemKey, list[float]] = {}
    for (of, key), values in means.items():
        if of == kind:
            found.setdefault((key.task, key.problem), []).append(getattr(values, name))
    return [fmean(values) for values in found.values()]


def control_table(result: ControlResult) -> str:
    """The result as Markdown: a row for each kind of command."""
    heads = list(result.mean["plain"])
    columns = ["command", *(f"mean {LETTERS[name]} | to plain | moved so" for name in heads)]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|---:|---:|" * len(heads)]
    for kind in result.mean:
        cells = ["none" if kind == "plain" else kind]
        for name in heads:
            cells.append(f"{result.mean[kind][name]:.3f}")
            if kind == "plain":
                cells += ["", ""]
            else:
                cells += [f"{result.difference[kind][name]:+.3f}", f"{100 * result.consistency[kind][name]:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"{result.problems} problems, {count(result.k, 'answer')} to each of every kind"
    if result.left_out:
        note += f"; {result.left_out} with a command in them already left out"
    lines += ["", f"- {note}. moved so: share of problems whose mean the command moves its way."]
    if result.forced is not None:
        lines += ["", forced_table(result.forced)]
    return "\n".join(lines)

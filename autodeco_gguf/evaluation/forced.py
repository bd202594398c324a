"""Decoding control token by token: the same answers read after the plain prompt and after each command.

Answers that are drawn under a command are other texts. Here the text is held fixed, that of the plain prompt, so that
what moves is what the heads say of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autodeco_gguf.answers.items import Item
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.evaluation.estimates import mean_se
from autodeco_gguf.evaluation.samples import Key
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.heads.weights import LETTERS, Float32Array
from autodeco_gguf.model.features import Tokens, stream
from autodeco_gguf.tasks.commands import VARIANTS
from autodeco_gguf.view.figures import commands_figure, write_png

TOKENS, PLOT = "control_tokens.jsonl", "control.png"
"""What is written to the directory of an evaluation."""

_TOGETHER = 16
"""Answers that are handed to the model at a time, once after each prompt."""

_PLACES = 20
"""Parts of an answer over which its values are averaged for the plot."""


@dataclass(frozen=True)
class Moved:
    """What a command does to T or P at the tokens of an answer, each mean over problems with its standard error."""

    difference: float  # to the plain prompt, mean over tokens
    difference_se: float | None
    share: float  # of tokens that move the command's way
    share_se: float | None
    problems: float | None = None  # share of them whose mean moves its way; None where an older version wrote the file


@dataclass(frozen=True)
class Forced:
    """The same answers under the plain prompt and both commands: by kind of command, and by head."""

    answers: int
    tokens: int
    moved: Mapping[str, Mapping[str, Moved]]


@dataclass(frozen=True)
class Lines:
    """T or P at the tokens of one answer, by head and kind of command, all of the same length."""

    key: Key
    text: tuple[str, ...]
    values: Mapping[str, Mapping[str, Float32Array]]


def read_forced(
    engine: Engine, kinds: Mapping[str, Sequence[Item]], answers: Mapping[Key, Sequence[int]]
) -> Iterator[Lines]:
    """Read answers, token ids by their keys, after each kind of prompt; nothing of the engine is under way.

    An answer that would not fit into the context after one of its prompts is cut for all of them.
    """
    prompts = {kind: {item.key: item.tokens for item in items} for kind, items in kinds.items()}
    keys = list(answers)
    engine.forget()
    try:
        for first in range(0, len(keys), _TOGETHER):
            part = keys[first : first + _TOGETHER]
            wanted = [(key, *_sequences(engine, prompts, key, answers[key])) for key in part]
            yield from _read(engine, list(prompts), wanted)
    finally:
        engine.forget()


def _sequences(
    engine: Engine, prompts: Mapping[str, Mapping[tuple[str, int], list[int]]], key: Key, answer: Sequence[int]
) -> tuple[Sequence[int], list[Tokens]]:
    """The answer, cut to what fits, and its sequence after each prompt."""
    before = [of[key.task, key.problem] for of in prompts.values()]
    answer = answer[: engine.n_ctx - max(map(len, before))]
    return answer, [np.array([*prompt, *(~token for token in answer)], np.int32) for prompt in before]


def _read(
    engine: Engine, kinds: Sequence[str], wanted: Sequence[tuple[Key, Sequence[int], list[Tokens]]]
) -> Iterator[Lines]:
    sequences = [tokens for _, _, variants in wanted for tokens in variants]
    found: list[list[tuple[Float32Array, Float32Array]]] = [[] for _ in sequences]
    for part in stream(engine.context, sequences):
        values = np.stack(engine.predict(part.hidden, part.read), axis=1)
        for sequence, pair in zip(part.sequence.tolist(), values, strict=True):
            found[sequence].append(pair)
    for i, (key, answer, variants) in enumerate(wanted):
        pairs = {
            kind: np.array(found[len(variants) * i + j], np.float32).reshape(-1, 2) for j, kind in enumerate(kinds)
        }
        heads = {
            name: {kind: pairs[kind][:, axis] for kind in kinds}
            for axis, name in enumerate(LETTERS)
            if name in engine.heads
        }
        yield Lines(key, tuple(engine.context.text([token]) for token in answer), heads)


# ---- what it comes to ----


def summarize_forced(lines: Sequence[Lines]) -> Forced:
    """Over tokens, then over problems."""
    heads = lines[0].values
    kinds = [kind for kind in next(iter(heads.values())) if kind != "plain"]
    moved = {kind: {name: _moved(lines, name, kind) for name in heads} for kind in kinds}
    return Forced(len(lines), sum(len(line.text) for line in lines), moved)


def _moved(lines: Sequence[Lines], name: str, kind: str) -> Moved:
    sign = 1 if kind.startswith("high") else -1
    of: dict[tuple[str, int], list[Float32Array]] = {}
    for line in lines:
        by = line.values[name][kind] - line.values[name]["plain"]
        of.setdefault((line.key.task, line.key.problem), []).append(by)
    problems = [np.concatenate(parts).astype(np.float64) for parts in of.values()]
    means, shares = [values.mean() for values in problems], [(sign * values > 0).mean() for values in problems]
    moved = float(np.mean([sign * mean > 0 for mean in means]))
    return Moved(*mean_se(means), *mean_se(shares), moved)


def forced_table(result: Forced) -> str:
    """The result as Markdown: a row for each command."""
    heads = list(result.moved["low"])
    columns = ["same answer, command", *(f"{LETTERS[name]} to plain | tokens moved so | problems" for name in heads)]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|---:|---:|" * len(heads)]
    for kind, moved in result.moved.items():
        cells = [kind]
        for name in heads:
            m = moved[name]
            cells += [f"{m.difference:+.4f}{_error(m.difference_se, '.4f')}"]
            cells += [f"{100 * m.share:.1f}{_error(m.share_se and 100 * m.share_se, '.1f')} %"]
            cells += ["" if m.problems is None else f"{100 * m.problems:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"- the {result.answers:,} plain answers, {result.tokens:,} tokens, read again under each command; ± standard "
    )
    chance = "50 % of the tokens move so by chance; problems: share whose mean over these tokens does."
    return "\n".join([*lines, "", f"{note}error over problems. {chance}"])


def _error(value: float | None, form: str) -> str:
    return "" if value is None else f" ± {value:{form}}"


def write_forced(directory: Path, lines: Sequence[Lines], *, plots: bool) -> None:
    """Write control_tokens.jsonl, a line for each answer, and, with ``plots``, control.png, which is removed without.

    Raises:
        AutoDecoError: a file cannot be written, or matplotlib is missing.
    """
    write_lines(directory / TOKENS, map(_line, lines))
    if plots:
        kinds = [line.values for line in lines]
        mean = {
            name: {kind: np.mean([along(values[name][kind]) for values in kinds], axis=0) for kind in VARIANTS}
            for name in kinds[0]
        }
        write_png(commands_figure(kinds[0], mean, len(kinds)), directory / PLOT)
    else:
        (directory / PLOT).unlink(missing_ok=True)


def _line(lines: Lines) -> dict[str, Any]:
    values = {
        name: {kind: [round(float(v), 4) for v in column] for kind, column in kinds.items()}
        for name, kinds in lines.values.items()
    }
    return {
        "task": lines.key.task,
        "problem": lines.key.problem,
        "sample": lines.key.sample,
        "text": lines.text,
        **values,
    }


def along(values: Float32Array) -> Float32Array:
    """Values along an answer as so many of even distance, each the value of the token that stands there."""
    places = ((np.arange(_PLACES) + 0.5) * len(values) / _PLACES).astype(int)
    found: Float32Array = values[places]
    return found

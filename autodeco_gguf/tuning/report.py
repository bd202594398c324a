"""A tuning for a reader: what to take and the line to use it, why, the figures, and how they came about."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autodeco_gguf.engine.file_sampling import file_sampling
from autodeco_gguf.evaluation.estimates import mean_se
from autodeco_gguf.evaluation.methods import Config, config_of
from autodeco_gguf.evaluation.report import count, markdown
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.tuning.plan import Plan, Speed, duration
from autodeco_gguf.tuning.scores import Row
from autodeco_gguf.tuning.search import Found
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import Split, different
from autodeco_gguf.tuning.verdict import HEADS, LLAMA_CPP, OWN, Unit, Verdict, label, words

SHOWN = 5
"""Of the pairs that were searched."""

_STAY_ON = ("xtc_probability", "mirostat_mode")
_OFF = {"top_k": " --top-k 0", "min_p": " --min-p 0", "repeat_penalty": " --repeat-penalty 1"}


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    Attributes:
        model: as it was named.
        settings: what it was told.
        parts: the problems.
        plan: what it did.
        speed: what that was planned with.
        found: the pairs that were tried, the best first.
        rows: what was compared on the test, by name; problems with the same text count as one.
        pair: the name of the row with the best pair.
        verdict: which row to take, and what shows it.
        tested: the task of each of these problems.
        seconds: that it took.
        file: where the model lies; None: where it was named.
        own: an adapter that was given, None where there was none.
        trained: the adapter with the heads that were trained; None where none were.
        obstacle: why none were; None where there was no time for it, or where they were.
    """

    model: Path
    settings: TuneSettings
    parts: Split
    plan: Plan
    speed: Speed
    found: Sequence[Found[Config]]
    rows: Mapping[str, Row]
    pair: str
    verdict: Verdict
    tested: Sequence[str]
    seconds: float
    file: Path | None = None
    own: Path | None = None
    trained: Path | None = None
    obstacle: str | None = None

    @property
    def chosen(self) -> Row:
        """The row to take."""
        return self.rows[self.verdict.chosen]

    @property
    def unit(self) -> Unit:
        """Of the measure."""
        return Unit.of(self.settings.measure, max((float(row.values.mean()) for row in self.rows.values()), key=abs))

    @property
    def adapter(self) -> Path | None:
        """With the heads to take; None where none are to be taken, or those in the model itself."""
        return {HEADS: self.trained, OWN: self.own}.get(self.verdict.chosen)

    @cached_property
    def command(self) -> str | None:
        """The line to use what was found.

        None for llama.cpp's defaults with a model that its own programs do not read: ``run`` has another order.
        """
        model, name = shlex.quote(str(self.model)) + self._chat, self.verdict.chosen
        if name == LLAMA_CPP:
            file = self.file or self.model
            is_plain = file.is_file() and ModelFile.open(file).kind == "plain"
            return f"llama-cli -m {shlex.quote(str(file))} {self.llama_cpp_options}" if is_plain else None
        if self.adapter is not None:
            return f"autodeco-gguf run {model} --heads {shlex.quote(str(self.adapter))}"
        pair = self.chosen.config.pair
        if pair is None:
            return f"autodeco-gguf run {model}"
        top_p = f" --top-p {pair[1]:g}" if pair[0] else ""
        return f"autodeco-gguf run {model} --temperature {pair[0]:g}{top_p}{self._nothing_else}"

    @property
    def llama_cpp_options(self) -> str:
        """Its defaults as options of its programs, which would else follow the model's ``general.sampling.*``."""
        s = config_of(LLAMA_CPP).sampling({})
        cuts = f"--top-k {s.top_k} --top-p {s.top_p:g} --min-p {s.min_p:g} --temp {s.temperature:g}"
        return f'--samplers "top_k;top_p;min_p;temperature" {cuts}{" --jinja" if self._chat else ""}{self._chat}'

    @property
    def _nothing_else(self) -> str:
        """What the model's file recommends besides, and ``run`` would follow, off: it was not in what was measured."""
        return "".join(option for name, option in _OFF.items() if name in self.recommended)

    @cached_property
    def recommended(self) -> Mapping[str, Any]:
        """What the model's file does, as :func:`file_sampling` has it."""
        file = self.file or self.model
        return file_sampling(ModelFile.open(file).base()) if file.is_file() else {}

    @property
    def _chat(self) -> str:
        kwargs = self.settings.undated_kwargs
        return f" --chat-template-kwargs {shlex.quote(json.dumps(kwargs))}" if kwargs else ""


def plan_lines(plan: Plan, speed: Speed) -> list[str]:
    """What is about to be done, for who waits for it."""
    lines = [
        f"an answer: {speed.words}, {duration(speed.answer_s)} ({speed.tokens_s:.0f} tokens/s)",
        f"search: {plan.rungs[0].candidates} pairs, {_minutes(plan.search_s)}",
    ]
    if plan.training is not None:
        size = f"{plan.training.problems} x {plan.training.k} answers"
        lines.append(f"training: {plan.rounds} rounds of {size}, {_minutes(plan.training_s)}")
    elif plan.heads_s is not None:
        lines.append(f"training: no time for it; with --minutes {needed(plan)} heads would be trained too")
    lines.append(f"test: {count(plan.test_problems, 'problem')}, {_minutes(plan.test_s)}")
    return lines


def needed(plan: Plan) -> int:
    """Whole minutes with which heads would be trained as well."""
    assert plan.heads_s is not None
    return math.ceil(plan.heads_s / 60)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def page(tuned: Tuned) -> str:
    """The report as Markdown that is read as it stands, too."""
    first, *others = words(tuned.verdict, tuned.rows, tuned.pair, tuned.unit)
    parts = [
        f"# How to decode with {tuned.model.name} on {', '.join(task.name for task in tuned.parts.test)}",
        first,
        *_line(tuned),
        *_besides(tuned),
        *_elsewhere(tuned),
        "\n".join(f"- {sentence}" for sentence in (*others, *_without_heads(tuned))),
        markdown([_cells(tuned, row) for row in tuned.rows.values()]),
        "\n".join(f"- {note}" for note in _notes(tuned)),
        f"The search on {count(different(tuned.parts.search), 'other problem')}, the best of {len(tuned.found)} pairs:",
        markdown([_found_cells(tuned, one) for one in tuned.found[:SHOWN]]),
        _facts(tuned),
    ]
    return "\n\n".join(parts) + "\n"


def _line(tuned: Tuned) -> list[str]:
    """The line to use it; where there is none, why, and what to tell llama.cpp."""
    if tuned.command is not None:
        return [f"    {tuned.command}"]
    return [
        "`autodeco-gguf run` cannot draw so: it scales by T before it cuts. llama.cpp can, with a plain GGUF "
        "(`autodeco-gguf extract MODEL --base OUT` makes one of a merged file) and these options:",
        f"    {tuned.llama_cpp_options}",
    ]


def _besides(tuned: Tuned) -> list[str]:
    """What ``run`` follows of the model's file, having no option for it, although it was not in what was measured."""
    names, pair = [name for name in _STAY_ON if tuned.recommended.get(name)], tuned.chosen.config.pair
    if not names or pair is None or pair[0] == 0:
        return []
    return [f"This draws with {' and '.join(names)} too, as the model's file recommends: the comparison was without."]


def _elsewhere(tuned: Tuned) -> list[str]:
    """The same pair for other programs."""
    pair = tuned.chosen.config.pair
    if pair is None:
        return []
    if pair[0] == 0:
        return ["Elsewhere: temperature 0."]
    options = f'--samplers "temperature;top_p" --temp {pair[0]:g} --top-p {pair[1]:g}'
    return [
        f"Elsewhere: temperature {pair[0]:g}, top_p {pair[1]:g}, no other cut. llama.cpp: `{options}`, in this order."
    ]


def _without_heads(tuned: Tuned) -> list[str]:
    if tuned.obstacle is not None:
        return [f"No heads were trained: {tuned.obstacle}."]
    if tuned.plan.heads_s is None:
        return []
    more = f"--minutes {needed(tuned.plan)} would be enough for it"
    return [f"No heads were trained: {tuned.settings.minutes:g} minutes are too few for this model; {more}."]


def _cells(tuned: Tuned, row: Row) -> dict[str, str]:
    mean, se = mean_se(row.values, tuned.tested)
    chosen = " <-" if row is tuned.chosen else ""
    parameters = ("" if x is None else f"{x:.2f}" for x in (row.temperature, row.top_p))
    return {
        count(len(row.values), "test problem"): f"{label(row)}{chosen}",
        _head(tuned): _with_error(tuned.unit, mean, se),
        **dict(zip(("T", "P"), parameters, strict=True)),
        "tokens": f"{row.tokens:.0f}",
    }


def _found_cells(tuned: Tuned, found: Found[Config]) -> dict[str, str]:
    temperature, top_p = found.candidate.pair or (0.0, 0.0)
    return {
        "T": f"{temperature:g}",
        "P": f"{top_p:g}",
        _head(tuned): tuned.unit.value(found.mean),
        "tried on": str(found.problems),
    }


def _head(tuned: Tuned) -> str:
    return f"{tuned.unit.measure}{', %' if tuned.unit.scale == 100 else ''}"


def _with_error(unit: Unit, mean: float, se: float | None) -> str:
    return unit.value(mean) + ("" if se is None else f" ± {unit.value(se)}")


def _notes(tuned: Tuned) -> list[str]:
    k, measure = tuned.settings.k, tuned.settings.measure
    told = {
        f"pass@{k}": f"share of problems of which at least one of {k} answers is right",
        f"distinct@{k}": f"different right answers among {k}",
        "pass@1": "share of right answers",
    }
    notes = [f"{measure}: {told.get(measure, 'of the answers')}, ± standard error over problems."]
    if any(name in tuned.rows for name in (HEADS, OWN)):
        notes.append("T and P of heads: their means over all tokens.")
    if len(tuned.verdict.claims) > 1:
        notes.append(f"p is corrected for {len(tuned.verdict.claims)} comparisons (Holm), the intervals are not.")
    return notes


def _facts(tuned: Tuned) -> str:
    search, test = different(tuned.parts.search), different(tuned.parts.test)
    compared = "" if len(tuned.tested) == test else f"{len(tuned.tested)} of "
    rounds = f", {tuned.plan.rounds} rounds of training" if tuned.plan.rounds else ""
    return (
        f"{count(search + test, 'problem')}, split by seed {tuned.settings.seed}: {search} to search and train on, "
        f"{compared}{test} to compare on. {_minutes(tuned.seconds)} of {_minutes(60 * tuned.settings.minutes)}"
        f"{rounds}, {tuned.speed.tokens_s:.0f} tokens/s."
    )


def values(tuned: Tuned) -> dict[str, object]:
    """What stands in result.json."""
    pair = tuned.chosen.config.pair
    return {
        "chosen": tuned.verdict.chosen,
        "temperature": None if pair is None else pair[0],
        "top_p": None if pair is None else pair[1],
        "adapter": None if tuned.adapter is None else str(tuned.adapter),
        "command": tuned.command,
        "measure": tuned.settings.measure,
        "rows": {name: _values(tuned, row) for name, row in tuned.rows.items()},
        "claims": [
            {
                "ahead": c.ahead,
                "of": c.of,
                "by": c.difference.mean,
                "ci": [c.difference.low, c.difference.high],
                "p": c.p,
            }
            for c in tuned.verdict.claims
        ],
        "search": [
            {"config": str(one.candidate), "mean": one.mean, "se": one.se, "problems": one.problems}
            for one in tuned.found
        ],
        "seconds": round(tuned.seconds, 1),
    }


def _values(tuned: Tuned, row: Row) -> dict[str, object]:
    mean, se = mean_se(row.values, tuned.tested)
    parameters = {"temperature": row.temperature, "top_p": row.top_p, "tokens": row.tokens}
    return {"config": str(row.config), "mean": mean, "se": se, **parameters}

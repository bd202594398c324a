"""Draws and grades the samples of an evaluation, keeps every finished one, and never draws one twice."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from autodeco_gguf import __version__
from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.answers.items import GradedTasks, Item, make_request, render
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.drawing import EvalWatch, Run, Session, last_date, read_sessions, speeds
from autodeco_gguf.evaluation.graders import GRADERS
from autodeco_gguf.evaluation.methods import Method
from autodeco_gguf.evaluation.pairs import PAIRS, PairsFile
from autodeco_gguf.evaluation.plots import PLOTS, plot, remove_plots
from autodeco_gguf.evaluation.questions import QUESTIONS, keep_questions
from autodeco_gguf.evaluation.report import page
from autodeco_gguf.evaluation.results import REPORT, RESULTS, Origin, Results
from autodeco_gguf.evaluation.samples import SAMPLES, Samples
from autodeco_gguf.evaluation.settings import (
    ADVICE,
    DIGESTS,
    EvalSettings,
    Shard,
    check_free,
    make_directory,
    make_header,
)
from autodeco_gguf.evaluation.summary import summarize
from autodeco_gguf.evaluation.traces import TRACES
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.journal import Journal, has_header

EVALUATION = "evaluation.jsonl"
"""Stands beside the samples: a line with all that they depend on, then one for each time that some were drawn."""

WRITTEN = (PAIRS, TRACES, QUESTIONS, GRADERS, RESULTS, REPORT, *PLOTS)
"""What else may be written beside it."""


def evaluate(
    engine: Drawer,
    tasks: GradedTasks,
    directory: Path,
    methods: Sequence[Method],
    settings: EvalSettings,
    *,
    shard: Shard | None = None,
    also: Collection[str] = ("plots",),
    watch: EvalWatch = lambda progress: None,
) -> Results | None:
    """Sample every method on every problem; write samples.jsonl, evaluation.jsonl, results.json and report.md.

    ``also`` may have "plots", and "traces": T and P of every token that is drawn, in traces.jsonl. What is finished
    stays in the directory, whatever ends the run: the same call goes on from there, and so does one with other
    methods, another ``k`` or another number of seeds. Where ``watch`` raises Enough, the results are those of the
    methods that are complete, and None where none is.

    The ``tasks`` are open; each problem is one user message, rendered with the model's chat template. The ``methods``
    are for this model. The settings' ``tasks`` are set here. With a ``shard`` this part of the problems is taken only,
    and the methods that a search has to find are left out.

    Raises:
        AutoDecoError: a setting, a problem or a method that will not do, named before anything is drawn; a directory
            with an evaluation of other settings; a checker that failed on some samples, at the end.
    """
    settings = replace(settings, tasks=tuple(task.name for task in tasks.tasks))
    settings.check()
    items = render(engine, tasks.tasks, settings.max_tokens)
    header = {**make_header("evaluation", engine, tasks.tasks, items, settings), "shard": str(shard) if shard else None}
    shuffles = any(method.name == "shuffle" for method in methods)  # a shard keeps the pairs for what it is joined to
    mine, methods = _part(items, methods, shard)
    for config in [method.config for method in methods if method.config is not None]:
        engine.check(make_request(mine[0], config.sampling(engine.metadata), 0, settings.max_tokens))
    check_directory(directory)
    make_directory(directory)
    with ExitStack() as files:
        log = files.enter_context(Journal(directory / EVALUATION, header, advice=ADVICE, digests=DIGESTS))
        samples = files.enter_context(Samples(directory, header["tasks"]))
        keep_questions(directory, items)
        pairs = files.enter_context(PairsFile(directory)) if shuffles else None
        run = Run(engine, mine, tasks, settings, samples, pairs, log, watch)
        if "traces" in also:
            run.traces = files.enter_context(Journal(directory / TRACES, None, advice=ADVICE))
        run.regrade(items)
        found = run.complete_all(methods)
        if not found:
            samples.check_graded()
            return None
        try:
            drawn = read_sessions(log)
            results = summarize(samples.all(), found, settings, speeds(drawn))
            unfinished = tuple(method.name for method in methods if method.name not in {m.name for m in found})
            results = replace(results, origin=_origin(engine, header, drawn), unfinished=unfinished)
            write_results(directory, results, "plots" in also)
        except AutoDecoError:
            samples.check_graded()  # the likely reason
            raise
        samples.check_graded()
    return results


def check_directory(directory: Path) -> None:
    """Raise BadFile where no evaluation has begun in a directory, and a file of one is there."""
    found = has_header(directory / EVALUATION)
    if found:
        return
    if (directory / SAMPLES).exists():
        what = "missing" if found is None else "empty, or cut short,"
        raise BadFile.of(directory / EVALUATION, f"{what} beside {SAMPLES}, whose settings it tells; {ADVICE}")
    check_free(directory, WRITTEN, EVALUATION)


def _part(items: list[Item], methods: Sequence[Method], shard: Shard | None) -> tuple[list[Item], Sequence[Method]]:
    """The problems and methods of a shard."""
    if shard is None:
        return items, methods
    ordered = sorted(items, key=lambda item: item.key)  # whatever the order in which the tasks are given
    mine = [item for number, item in enumerate(ordered) if shard.holds(number)]
    if not mine:
        raise InvalidInput(f"shard {shard}: no problem is left for it, there are {len(items)} in all", key="shard")
    direct = [method for method in methods if method.config is not None]
    if not direct:
        names = ", ".join(method.name for method in methods)
        message = f"shard {shard}: {names}: to be found on all problems; evaluate what the shards are joined to"
        raise InvalidInput(message, key="methods", found=names)
    return mine, direct


# ---- results ----


def _origin(engine: Drawer, header: Mapping[str, Any], sessions: Iterable[Session]) -> Origin:
    return Origin(
        model=engine.model_name,
        model_digest=header["model"],
        heads=tuple(sorted(engine.heads)),
        heads_file=None if engine.heads_file is None else engine.heads_file.name,
        heads_digest=header["heads"],
        context=engine.n_ctx,
        cache_type=header["cache_type"],
        flash_attn=header["flash_attn"],
        version=__version__,
        llama_cpp_python=LLAMA_CPP_PYTHON_VERSION,
        date=last_date(sessions),
    )


def write_results(directory: Path, results: Results, plots: bool) -> None:
    """Write results.json and report.md, and draw the plots; without, none is left."""
    write_json(directory / RESULTS, to_json(results))
    write_bytes(directory / REPORT, page(results).encode("utf-8", "replace"))
    if plots:
        plot(results, directory)
    else:
        remove_plots(directory)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "replace"))  # a file's name may be no text

"""From a model with heads and right answers to the page that says what the heads are worth at each token, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, as_utf8
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.report import count
from autodeco_gguf.explain.findings import Findings, temperature_findings, top_p_findings
from autodeco_gguf.explain.page import render
from autodeco_gguf.explain.plots import draw
from autodeco_gguf.explain.reading import Reading, ReadWatch, read
from autodeco_gguf.explain.verdict import verdict
from autodeco_gguf.files.atomic import (
    Output,
    check_directory,
    check_name,
    check_new,
    check_output,
    missing_directories,
    new_directory,
    write_together,
)
from autodeco_gguf.model.features import Tokens
from autodeco_gguf.training.data import Counts, Encoder, Ids, encode_files
from autodeco_gguf.training.rollouts import PARTIAL, RolloutSettings, RolloutWatch, rollouts
from autodeco_gguf.view.figures import check_matplotlib

ANSWERS, FINDINGS, PLOT, PAGE = "answers.jsonl", "explain.json", "explain.png", "explain.html"
"""What is written to the directory."""


def check_outputs(directory: Path, *, drawn: bool, inputs: Iterable[Path] = (), force: bool) -> None:
    """Raise BadFile where the directory, or what it lies in, is a file, or a name in it is that of a directory.

    And where an input would be replaced, or without ``force`` an earlier explanation, or answers that are not those of
    an interrupted one.
    """
    check_name(directory)
    for path in missing_directories(directory)[:1]:
        check_directory(path)
    complete = drawn and not _partial(directory).exists()
    names = (*((ANSWERS,) if complete else ()), FINDINGS, PLOT, PAGE)
    paths = [directory / name for name in names]
    check_new(paths, inputs=inputs, force=force)
    for path in paths if directory.is_dir() else ():
        check_output(path, force=True)


def draw_answers(
    engine: Engine,
    tasks: GradedTasks,
    directory: Path,
    settings: RolloutSettings,
    *,
    force: bool = False,
    watch: RolloutWatch = lambda summary, total: None,
) -> Path:
    """Right answers to problems, drawn from the model's own distribution.

    The same call goes on with those of an interrupted run, until :func:`explain` has come to its end.

    Raises:
        AutoDecoError: none is right; whatever :func:`rollouts` refuses.
    """
    path = directory / ANSWERS
    with new_directory(directory):
        rollouts(engine, tasks, path, settings, inputs=tasks.files, force=force, keep_partial=True, watch=watch)
    return path


def _partial(directory: Path) -> Path:
    """What is kept of the answers that are drawn until they are explained."""
    return directory / (ANSWERS + PARTIAL)


def explain(
    engine: Engine,
    answers: Sequence[Path],
    directory: Path,
    *,
    plots: bool = True,
    counted: Counts | None = None,
    watch: ReadWatch = lambda done, total: None,
) -> Findings:
    """Work out what the heads' T and P are worth at each token of right answers; write the findings and their page.

    All is written or nothing, and a directory that was not there goes again where it fails.

    Args:
        engine: the model with its heads; nothing of it is under way.
        answers: JSONL files of right answers, as ``train`` takes them.
        directory: gets explain.json, explain.html and, with ``plots``, explain.png; what is there is replaced, and
            without ``plots`` a picture that is there is removed.
        plots: draw them, with matplotlib.
        counted: is told what became of the lines.
        watch: progress.

    Raises:
        AutoDecoError: a model without heads, matplotlib is missing, the directory cannot be made, a name in it is
            that of a directory or of an input: found out first; a malformed line, nothing to read.
    """
    if not engine.heads:
        raise BadFile.of(engine.context.file.path, "has no heads to explain; give some with --heads")
    if plots:
        check_matplotlib()
    with new_directory(directory):
        check_outputs(directory, drawn=False, inputs=answers, force=True)
        at = read(engine, *_sequences(engine, answers, counted), watch)
        found = findings(at, engine.heads)
        png = _picture(found, at) if plots else None
        write_together(_outputs(engine, answers, directory, found, png))
        if png is None:
            (directory / PLOT).unlink(missing_ok=True)
        if directory / ANSWERS in answers:
            _partial(directory).unlink(missing_ok=True)
    return found


def findings(at: Reading, heads: frozenset[str]) -> Findings:
    """What a reading comes to, for the heads there are, with the verdict."""
    found = Findings(
        answers=len(set(at.answer.tolist())),
        problems=len(set(at.problem.tolist())),
        tokens=len(at.answer),
        temperature=temperature_findings(at) if "temperature" in heads else None,
        top_p=top_p_findings(at) if "top_p" in heads else None,
    )
    return replace(found, verdict=verdict(found))


def size(found: Findings) -> str:
    """How much was read, in words."""
    answers, problems = count(found.answers, "right answer"), count(found.problems, "problem")
    return f"{answers} to {problems}, {count(found.tokens, 'token')}"


def _picture(found: Findings, at: Reading) -> bytes:
    content = io.BytesIO()
    draw(found, at).savefig(content, format="png", dpi=120)
    return content.getvalue()


def _sequences(engine: Engine, answers: Sequence[Path], counted: Counts | None) -> tuple[list[Tokens], Ids]:
    """The answers as tokens, and their problems; ``counted`` is told what became of the lines."""
    encoder = Encoder(engine.context, engine.n_ctx, chat=engine.chat)
    with TemporaryDirectory() as temporary, closing(encode_files(answers, encoder, Path(temporary))) as data:
        sequences, problems = [data[i][0] for i in range(len(data))], data.prompts()
    if counted is not None:
        vars(counted).update(vars(data.counts))
    return sequences, problems


def _outputs(
    engine: Engine, answers: Sequence[Path], directory: Path, found: Findings, png: bytes | None
) -> list[Output]:
    """The files of the directory."""
    heads = "the model's own" if engine.heads_file is None else as_utf8(engine.heads_file.name)
    model, data = as_utf8(engine.context.file.path.name), [as_utf8(path.name) for path in answers]
    origin = {"model": model, "heads": heads, "data": data}
    content = json.dumps({**origin, **to_json(found)}, indent=1, ensure_ascii=False, allow_nan=False)
    facts = [f"Model: {model}. Heads: {heads}. {size(found)}."]
    files = {FINDINGS: f"{content}\n".encode(), PAGE: render(found, facts, png)}
    if png is not None:
        files[PLOT] = png

    def output(name: str, content: bytes) -> Output:
        return Output(directory / name, lambda f: f.write(content))

    return [output(name, content) for name, content in files.items()]

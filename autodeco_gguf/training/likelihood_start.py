"""Heads to begin a training on reward with: trained by likelihood on right answers at T = 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from autodeco_gguf.answers.items import GradedTasks, Item
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.training.data import Encoder, NoExample, encode_files
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.rollouts import RolloutSettings, rollouts
from autodeco_gguf.training.settings import TrainingSettings
from autodeco_gguf.training.trainer import Trainer

LEAST = 32
"""Right answers to learn from; with fewer the heads stay new."""

Phase = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


def likelihood_start(
    engine: Engine,
    tasks: GradedTasks,
    items: list[Item],
    settings: RewardSettings,
    directory: Path,
    phase: Phase = lambda name, done, of: None,
    device: torch.device | None = None,
) -> tuple[HeadsModule, int]:
    """New heads, trained by likelihood on right answers to as many problems as the first rounds have, drawn at T = 1.

    Args:
        engine: the model.
        tasks: open, those of the items.
        items: the problems to train on; of a few as many answers are drawn as of many.
        settings: of the training on reward; ``start_rounds`` and ``start_steps`` count.
        directory: keeps what is finished, for the same call after an interruption.
        phase: progress.
        device: where torch works; None: the CPU.

    Returns:
        The heads, and how many right answers there were; below ``LEAST`` the heads are new.

    Raises:
        AutoDecoError: as ``rollouts`` and ``Trainer``.
    """
    directory.mkdir(exist_ok=True)
    answers = directory / "answers.jsonl"
    if not answers.exists():
        _draw(engine, tasks, items, settings, answers, phase)
    heads = HeadsModule(engine.context.hidden_size, settings.seed, settings.kind)
    engine.forget()
    encoder = Encoder(engine.context, engine.n_ctx, chat=engine.chat)
    try:
        data = encode_files([answers], encoder, directory, skip_bad=True)
    except NoExample:  # nothing that is right, or nothing but empty answers, which are skipped
        return heads, 0
    if data.counts.examples < LEAST:
        return heads, data.counts.examples
    learning = TrainingSettings(
        objective=replace(TrainingSettings().objective, heads=settings.objective.heads),
        kind=settings.kind,
        steps=settings.start_steps,
        lr=settings.peak_lr(engine.context.hidden_size),
        evaluations=3,
        patience=0,
        seed=settings.seed,
    )
    trainer = Trainer(engine.context, data, learning, directory, directory, {"base": ""}, device=device)
    trainer.run(lambda step: phase("start: steps", step.step, step.steps))
    return trainer.heads, data.counts.examples


def _draw(
    engine: Engine, tasks: GradedTasks, items: list[Item], settings: RewardSettings, output: Path, phase: Phase
) -> None:
    """All answers, right or wrong, so that there is a file even where none is right."""
    chosen = items[: settings.start_rounds * settings.problems]
    wanted = settings.start_rounds * settings.problems * settings.k
    sampling = RolloutSettings(
        k=math.ceil(wanted / len(chosen)), keep="all", seed=settings.seed, max_tokens=settings.max_tokens
    )
    places = {item.key for item in chosen}
    parts = [
        replace(task, problems=tuple(p for i, p in enumerate(task.problems) if (task.name, i) in places))
        for task in tasks.tasks
    ]
    with GradedTasks([task for task in parts if task.problems], tasks.time_limit, tasks.allow_code) as asked:
        rollouts(engine, asked, output, sampling, watch=lambda s, total: phase("start: problems", s.problems, total))

"""Heads trained on the reward, as one more way to decode."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.errors import BadFile, not_installed
from autodeco_gguf.files.system import signals_wait
from autodeco_gguf.training.rewards import MAX_VALIDATION
from autodeco_gguf.tuning.plan import Plan
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import VALIDATION

if TYPE_CHECKING:
    from autodeco_gguf.training.reward_trainer import Round

CHECKPOINT, ADAPTER = "heads", "heads.gguf"
"""The trained heads in the directory of a tuning."""

Say = Callable[[str], None]


def obstacle(settings: TuneSettings) -> str | None:
    """Why no heads are trained, whatever the time; None where nothing stands in the way."""
    if not settings.train:
        return "it was not asked for"
    if importlib.util.find_spec("torch") is None:
        return str(not_installed("training needs torch", "torch", "train"))
    return None


class Start(NamedTuple):
    """Heads to begin with: the file that holds them, and which they are, of "temperature" and "top_p"."""

    file: Path
    heads: tuple[str, ...]


def validation_problems(n: int) -> int:
    """Problems of n that a training holds out."""
    return min(MAX_VALIDATION, round(VALIDATION * n))


def _finished(output: Path) -> Path:
    """The adapter of a training that has come to its end."""
    adapter = output / ADAPTER
    if not adapter.exists():
        reason = f"missing beside {output / CHECKPOINT}, of which it was made; delete that as well"
        raise BadFile.of(adapter, reason)
    return adapter


def train_heads(
    model: Path,
    start: Start | None,
    tasks: GradedTasks,
    output: Path,
    settings: TuneSettings,
    plan: Plan,
    say: Say,
    warn: Say,
) -> Path:
    """Train heads for the reward, those of ``start`` from there on, or both by likelihood first; the adapter.

    What is finished stays in ``output``, and is not trained again.

    Raises:
        AutoDecoError: as ``train_reward``.
    """
    with signals_wait():
        from autodeco_gguf.training.reward import LIKELIHOOD, RewardOptions, RewardWatch, train_reward
    from autodeco_gguf.training.output import Output
    from autodeco_gguf.training.reward_settings import RewardSettings
    from autodeco_gguf.training.settings import Objective

    directory, training = output / CHECKPOINT, plan.training
    assert training is not None
    if (directory / "config.json").exists() and not Output(directory).unfinished:
        return _finished(output)

    def on_round(done: Round) -> None:
        value = "" if done.train is None else f", reward {done.train.reward:.3f}"
        say(f"training, round {done.round} of {done.rounds}{value}")

    trained = train_reward(
        model,
        tasks,
        directory,
        RewardSettings(
            reward=settings.reward,
            objective=Objective() if start is None else Objective(heads=start.heads),
            k=training.k,
            rounds=plan.rounds,
            problems=training.problems,
            max_tokens=settings.max_tokens,
            start_rounds=training.start_rounds,
            start_steps=training.start_steps,
            validation=VALIDATION,
            evaluations=training.validations,
            seed=settings.seed,
        ),
        options=RewardOptions(
            start=LIKELIHOOD if start is None else start.file,
            n_ctx=settings.n_ctx,
            n_parallel=settings.n_parallel,
            time_limit=settings.time_limit,
            chat_template_kwargs=settings.chat_template_kwargs,
        ),
        machine=settings.machine,
        watch=RewardWatch(lambda name, done, of: say(f"training, {name} {done} of {of}"), warn, on_round),
    )
    return trained.adapter

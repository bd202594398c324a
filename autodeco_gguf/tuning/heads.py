"""Heads trained on the reward, as one more way to decode."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.heads.weights import HeadWeights
from autodeco_gguf.tuning.plan import Plan
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import Split

ADAPTER = "heads.gguf"
"""The trained heads in the directory of a tuning."""

ROUND_ANSWERS = 12 * 16
START_S = 15.0


def obstacle(settings: TuneSettings) -> str | None:
    """Why no heads are trained, whatever the time."""
    if not settings.train:
        return "it was not asked for"
    if importlib.util.find_spec("torch") is None:
        return 'training needs torch; pip install torch, or in a clone: pip install ".[train]"'
    return None


def train_heads(
    model: Path,
    own: HeadWeights | None,
    graded: GradedTasks,
    parts: Split,
    output: Path,
    settings: TuneSettings,
    plan: Plan,
    say: Callable[[str], None],
) -> Path:
    """Train heads; the adapter."""
    raise NotImplementedError

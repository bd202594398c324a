"""The scripts of demo/, which is no package, and a model that they have trained in a moment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "demo"))

if TYPE_CHECKING:
    from pretrain import PretrainSettings


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """The evaluation that the pages show."""
    result: dict[str, Any] = json.loads((ROOT / "demo" / "evaluation.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture(scope="session")
def minute() -> PretrainSettings:
    """Settings for a training of four steps."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import pretrain

    return pretrain.PretrainSettings(
        hidden=32, layers=2, heads=2, ffn=48, vocabulary=420, steps=4, clean_share=0.5, batch=3, warmup_steps=2
    )


@pytest.fixture(scope="session")
def trained(minute: PretrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of that training: for reading only."""
    import pretrain

    out = tmp_path_factory.mktemp("trained")
    pretrain.pretrain(out, minute)
    return out

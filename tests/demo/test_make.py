"""How the demo model is made."""

from __future__ import annotations

import pytest

from autodeco_gguf.tasks import stories
from autodeco_gguf.tasks.tasks import read_task

pytest.importorskip("torch")
pytest.importorskip("transformers")
import make


def test_heads_are_trained_on_pairs_that_pre_training_saw() -> None:
    assert "--task demo@train" in make.TRAIN
    pairs = {tuple(map(int, problem.answer.split()[1:])) for problem in read_task("demo@train").problems}
    assert len(pairs) > 500
    assert not pairs & set(stories.pairs(True))

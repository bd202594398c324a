"""What the tests of the training run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Case
from training_helpers import dataset, random_sequences, tame

from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.data import Dataset


@pytest.fixture(scope="module")
def tamed() -> Iterator[None]:
    """A random model that ends its answers, and a checker that takes about half of them."""
    with tame():
        yield


@pytest.fixture
def one_thread() -> None:
    """Sums that come out the same to the bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def context(qwen2: Case) -> Iterator[Context]:
    context = Context(qwen2.base, n_ctx=256, n_seq=8, machine=Machine(n_threads=1))
    yield context
    context.close()


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(1)
    return dataset(tmp_path / "data", [[s] for s in random_sequences(rng, rng.integers(4, 20, 20).tolist())])

"""Where torch works, and that the results do not ask where."""

from __future__ import annotations

import pytest
import torch

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training.device import torch_device


@pytest.mark.parametrize(
    ("cuda", "mps", "name"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")]
)
def test_auto_takes_the_first_there_is(cuda: bool, mps: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_device().type == torch_device("auto").type == name
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "^torch_device 'cuda', which torch .* does not have here, expected auto, cpu$"),
        ("mps", "^torch_device 'mps', which torch .* does not have here, expected auto, cpu$"),
        ("tpu", "^torch_device 'tpu', expected auto, cpu$"),
    ],
)
def test_a_device_that_torch_does_not_have(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InvalidInput, match=words):
        torch_device(name)

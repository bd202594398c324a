"""The command verify: what it compares, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import (
    assert_refused,
    invoke,
)
from conftest import FIXTURES, Case

Capture = pytest.CaptureFixture[str]


def test_verify(case: Case, merged_of: Callable[[Case], Path], capfd: Capture) -> None:
    golden = FIXTURES / case.name / "golden.npz"
    for options in ([], ["--cache-type", "f16"]):
        outcome = invoke(capfd, "verify", merged_of(case), "--golden", golden, *options)
        heads = "temperature|top_p" if case.golden["has_top_p"] else "temperature"
        assert re.fullmatch(
            rf"(({heads}): mean difference \de-\d\d, largest \de-\d\d\n)+", re.sub(r"\.\d", "", outcome.out)
        )
        assert (outcome.status, outcome.err) == (0, "")


def test_verify_with_an_adapter(qwen2: Case, adapter: Path, capfd: Capture) -> None:
    golden = FIXTURES / "qwen2" / "golden.npz"
    assert invoke(capfd, "verify", qwen2.base, "--heads", adapter, "--golden", golden).status == 0
    quantized = qwen2.base.with_name("base-q8_0.gguf")
    args: tuple[object, ...] = ("verify", quantized, "--heads", adapter, "--golden", golden)
    outcome = invoke(capfd, *args)
    assert outcome.status == 1
    assert re.search(r"^error: .*base-q8_0\.gguf: differs from .* by \d\.\de-02, allowed is 1\.0e-05\n$", outcome.err)
    assert invoke(capfd, *args, "--tolerance", 0.05).status == 0


GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "no temperature": ({"tokens": [1], "top_p": [1.0]}, "no recorded predictions: "),
    "another length": (
        {"tokens": [1, 2], "temperature": [1.0], "top_p": [1.0, 1.0]},
        "temperature is [1], expected [2]",
    ),
    "no tokens": ({"tokens": [], "temperature": [], "top_p": []}, "expected [n]"),
    "texts": ({"tokens": ["a"], "temperature": [1.0], "top_p": [1.0]}, "tokens"),
    "objects": ({"tokens": np.array([{}]), "temperature": [1.0], "top_p": [1.0]}, "no recorded predictions: "),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_bad_golden(name: str, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    arrays, message = GOLDEN[name]
    path = tmp_path / "golden.npz"
    np.savez(path, allow_pickle=True, **{key: np.asarray(value) for key, value in arrays.items()})
    assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, message)


def test_golden_is_no_npz(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    np.save(tmp_path / "golden.npy", np.zeros(3))
    for path, message in (
        (tmp_path / "golden.npy", "expected tokens, temperature and top_p"),
        (tmp_path / "nowhere.npz", "no such file"),
        (merged, "no recorded predictions"),
        (tmp_path, "no recorded predictions"),
    ):
        assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, message)

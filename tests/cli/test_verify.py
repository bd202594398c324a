"""The command verify: what it compares, and what it refuses."""

from __future__ import annotations

import re
import zipfile
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


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_one_head_that_is_off_is_enough(name: str, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    with np.load(FIXTURES / "qwen2" / "golden.npz") as golden:
        recorded = {key: golden[key].copy() for key in ("tokens", "temperature", "top_p")}
    recorded[name][3] += 0.01
    np.savez(tmp_path / "golden.npz", **recorded)
    outcome = invoke(capfd, "verify", merged, "--golden", tmp_path / "golden.npz")
    assert outcome.status == 1
    assert outcome.err.endswith("by 1.0e-02, allowed is 1.0e-05\n")


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


def test_more_tokens_than_the_model_is_for(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    path, n = tmp_path / "golden.npz", 1 << 20
    np.savez_compressed(path, tokens=np.zeros(n, np.int32), temperature=np.ones(n, "f4"), top_p=np.ones(n, "f4"))
    assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, f"has {n} tokens, the model is for ")


def test_predictions_of_a_head_that_is_not_there(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    path, nan = tmp_path / "golden.npz", np.full(2, np.nan, "f4")
    np.savez(path, tokens=np.int32([1, 2]), temperature=np.ones(2, "f4"), top_p=nan)
    outcome = invoke(capfd, "verify", merged, "--golden", path)
    assert outcome.status == 1
    assert outcome.err == f"error: {path}: lacks top_p, the model has ['temperature', 'top_p']\n"


def test_predictions_that_are_nan_in_part(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "golden.npz"
    for name in ("temperature", "top_p"):
        with np.load(FIXTURES / "qwen2" / "golden.npz") as golden:
            recorded = {key: golden[key].copy() for key in ("tokens", "temperature", "top_p")}
        n = len(recorded["tokens"])
        recorded[name][1:] = np.nan
        np.savez(path, **recorded)
        words = f"{name} is NaN for {n - 1} of {n} tokens, expected none or all"
        assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, words)


def test_golden_is_no_npz(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    np.save(tmp_path / "golden.npy", np.zeros(3))
    for path, message in (
        (tmp_path / "golden.npy", "expected tokens, temperature and top_p"),
        (tmp_path / "nowhere.npz", "no such file"),
        (merged, "no recorded predictions"),
        (tmp_path, "no recorded predictions: no regular file"),
    ):
        assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, message)


def npz(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


BROKEN = {
    "more than there is": npy("<f4", "(4000000000,)"),
    "huge items": npy("|V1000000000", "(4000000000,)"),
    "deep": npy("<f4", "(" * 3000),
    "open": npy("<f4", "(1, 2"),
    "digits": npy("<f4", "(" + "9" * 5000 + ",)"),
    "objects": npy("|O", "(1,)", b"12345678"),
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
    "nothing": b"",
    "a bomb": npy("<f4", "(50000000,)", bytes(200_000_000)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_arrays_that_are_none(name: str, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    path = npz(tmp_path / "x.npz", tokens=BROKEN[name])
    reasons = {"a bomb": "tokens.npy has more than ", "another version": "tokens.npy is of a version"}
    reason = reasons.get(name, "")
    assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, f"no recorded predictions: {reason}")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, 99])
def test_archives_that_numpy_would_not_write(method: int, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    path = npz(tmp_path / "x.npz", zipfile.ZIP_DEFLATED if method == 99 else method, tokens=npy("<f4", "(0,)"))
    raw = path.read_bytes()
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)) if method == 99 else ():
        at = raw.index(mark) + place
        raw = raw[:at] + method.to_bytes(2, "little") + raw[at + 2 :]
    path.write_bytes(raw)
    assert_refused(invoke(capfd, "verify", merged, "--golden", path), path, "compressed in another way")

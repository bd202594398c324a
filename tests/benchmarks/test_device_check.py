"""A device's figures, of a tiny model on a device that is made up; and that they see what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")
import device_check
from conftest import Case
from fake_devices import fake_devices

import autodeco_gguf as ad


@pytest.fixture
def options(qwen2: Case, tmp_path: Path) -> list[str]:
    adapter = ad.export(qwen2.base, qwen2.heads, tmp_path / "heads.gguf", adapter=True).path
    names = {"model": qwen2.base, "heads": adapter, "dir": tmp_path / "files", "json": tmp_path / "figures.json"}
    sizes = {"positions": 6, "draws": 200, "rounds": 2, "tokens": 3}
    return [word for name, value in {**names, **sizes}.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("device", ["FAKE0", "cpu"])
def test_figures(device: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_devices("FAKE0"):
        device_check.main(["--device", device, *options])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["device"]["name"] == device.upper()
    assert list(figures["files"]) == ["F16", "Q8_0", "Q4_K_M"]
    for row in figures["files"].values():
        assert max(row[key] for key in ("temperature", "top_p", "heads_alone")) < 1e-5
        assert row["draw_p_value"] > 1e-4
        assert 1 < row["nucleus"] < 384
        assert row["decode"]["ours_tok_s"] > 0
    table = capsys.readouterr().out
    assert table.startswith(f"{device.upper()}: ")
    assert [line.split()[1] for line in table.splitlines()[4:]] == ["F16", "Q8_0", "Q4_K_M"]


def test_other_predictions_are_seen(qwen2: Case, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose T is a hundredth off."""
    real = device_check.predictions

    def off(path: Path, heads: Path, device: str, tokens: list[int]) -> Any:
        return real(path, heads, device, tokens) + np.array([[0.01 * (device == "FAKE0")], [0.0]])

    monkeypatch.setattr(device_check, "predictions", off)
    monkeypatch.setattr(device_check, "FILES", ("F16",))
    with fake_devices("FAKE0"):
        device_check.main(["--device", "FAKE0", *options])
    figures = json.loads(Path(options[options.index("--json") + 1]).read_text())
    assert all(row["temperature"] == pytest.approx(0.01, abs=1e-4) for row in figures["files"].values())


def test_the_distribution_is_seen() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 1000).astype(np.float32)
    p = device_check.expected(logits, 0.8, 0.9)
    assert p.sum() == pytest.approx(1.0)
    tokens = ad.draw(logits, 0.8, 0.9, n=2000, seed=1)
    assert np.all(p[tokens] > 0)
    assert device_check.p_value(tokens, p) > 1e-4
    for temperature, top_p in ((1.0, 0.9), (0.8, 1.0), (0.8, 0.7)):
        assert device_check.p_value(ad.draw(logits, temperature, top_p, n=2000, seed=1), p) < 1e-4
    assert device_check.p_value(np.zeros(50, int), device_check.expected(np.array([9.0, 0.0]), 1.0, 0.5)) == 1.0


def test_no_such_device(options: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"error: no device 'TPU'; there is .*CPU"):
        device_check.main(["--device", "TPU", *options])

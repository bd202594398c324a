"""``autodeco-gguf devices``, and a device that is not there."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from fake_devices import fake_devices

from autodeco_gguf.cli import cli


def test_a_table() -> None:
    with fake_devices("FAKE0"), fake_devices("FAKE1", memory=0):
        result = CliRunner().invoke(cli, ["devices"])
    assert result.exit_code == 0
    head, *rows = result.output.splitlines()
    assert head.split() == ["name", "kind", "free", "total", "description"]
    assert rows[0].split()[:2] == ["CPU", "cpu"]
    assert rows[1].split() == ["FAKE0", "gpu", "4.3", "GB", "8.6", "GB", "FAKE0"]
    assert rows[2].split() == ["FAKE1", "gpu", "FAKE1"]
    assert {line.index("gpu") for line in rows[1:]} == {head.index("kind")}


def test_as_json() -> None:
    with fake_devices("FAKE0"), fake_devices("FAKE1", memory=0):
        result = CliRunner().invoke(cli, ["devices", "--json"])
    cpu, *fakes = json.loads(result.output)
    assert cpu["kind"] == "cpu"
    assert cpu["total"] > 0
    known = {"name": "FAKE0", "description": "FAKE0", "kind": "gpu", "free": 4 << 30, "total": 8 << 30}
    assert fakes == [known, {**known, "name": "FAKE1", "description": "FAKE1", "free": None, "total": None}]


def test_a_device_that_is_not_there(merged: Path) -> None:
    result = CliRunner().invoke(cli, ["run", str(merged), "--device", "CUDA7", "-p", "x"])
    assert result.exit_code == 2
    assert "Error: no device 'CUDA7' that takes layers; there is none (the CPU alone)" in result.output

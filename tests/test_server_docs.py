"""The examples of docs/server.md run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server_helpers import demo_engine, served, serving

PAGE = (Path(__file__).parent.parent / "docs" / "server.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_examples() -> None:
    (python,) = blocks("python")
    _, curl = blocks("bash")
    with demo_engine() as engine, served(serving(engine)) as url:
        address = url.removeprefix("http://")
        script = python.replace("127.0.0.1:8080", address)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Mia" in done.stdout
        if shutil.which("curl") is None:
            pytest.skip("no curl")
        command = curl.replace("localhost:8080", f"--noproxy '*' -s {address}")
        answer = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert '"source":"heads"' in answer.stdout

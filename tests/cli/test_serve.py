"""``autodeco-gguf serve``: what it refuses before it serves."""

from __future__ import annotations

import builtins
import socket
from typing import Any

import pytest

from autodeco_gguf.cli import cli, run_command


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as exit_info:
        run_command(cli, ["serve", *arguments])
    return exit_info.value.code


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--port", "99999"], 2, "99999"),
        (["--parallel", "0"], 2, "--parallel"),
        (["--sampling", "me"], 2, "--sampling"),
        (["--api-key", " "], 2, "--api-key is empty"),
        (["none.gguf", "--port", "0"], 1, "none.gguf"),
        (["--log-answers", "no/such/folder", "--port", "0"], 1, "no/such/folder: cannot be written: No such file"),
        (["--host", "192.0.2.1"], 1, "192.0.2.1:8080: cannot listen"),
    ],
)
def test_refused(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_a_key_that_was_forgotten(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTODECO_SERVE_API_KEY", value)
    assert run("--port", "0") == 2
    assert "--api-key is empty" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-body", "--drain", "--rpc-timeout"])
def test_nan_is_no_limit(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(option, "nan", "--port", "0") == 2
    assert f"{option}': nan is no number" in capsys.readouterr().err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run("--port", str(port)) == 1
    assert f"127.0.0.1:{port}: cannot listen" in capsys.readouterr().err


def test_heads_that_are_to_decide_must_be_there(qwen2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(qwen2.base), "--port", "0", "--sampling", "heads") == 2
    assert "has none" in capsys.readouterr().err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "autodeco_gguf.server.running":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run("--port", "0") == 1
    assert 'pip install ".[server]"' in capsys.readouterr().err

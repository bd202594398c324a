"""``autodeco-gguf serve``: what it refuses before it serves."""

from __future__ import annotations

import builtins
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.cli import cli, run_command
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.server import running, service
from autodeco_gguf.server.answer_log import AnswerLog
from autodeco_gguf.server.settings import ServerSettings


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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the parts of a server are told; it fails before it serves."""
    seen: dict[str, Any] = {"closed": []}
    engine = SimpleNamespace(heads=("top_p",))

    class Served:
        def __init__(self, service: object, sockets: object, **how: object) -> None:
            seen["server"] = how

        def run(self, started: Any) -> None:
            raise ModelFailed("seen")

    def bind(*address: object) -> list[Any]:
        seen["bind"] = address
        return [SimpleNamespace(close=lambda: seen["closed"].append(address))]

    def load(*arguments: object, **options: object) -> Any:
        seen["load"] = (*arguments, options)
        return nullcontext(engine)

    for module, name, new in (
        (running, "bind", bind),
        (running, "Server", Served),
        (service, "load", load),
        (service, "Service", lambda *arguments: seen.update(service=arguments[1:])),
    ):
        monkeypatch.setattr(module, name, new)
    return seen


def test_every_option_has_an_effect(told: dict[str, Any], tmp_path: Path) -> None:
    options = (
        *("m.gguf", "--heads", "h.gguf", "--host", "10.0.0.1", "--port", "9", "--parallel", "3", "--queue", "5"),
        *("-c", "99", "-t", "2", "--sampling", "heads", "--alias", "a", "--api-key", "k", "--api-key", "l"),
        *("--cors", "*", "--allow-host", "name", "--max-body", "0.5", "--drain", "7", "--batch-invariant"),
        *("--chat-template-kwargs", '{"a": 1}', "--log-requests", "--log-answers", str(tmp_path / "log")),
    )
    assert run(*options) == 1
    loaded = (Path("m.gguf"), Path("h.gguf"), 3, 99, Machine(n_threads=2), {"a": 1}, {"batch_invariant": True})
    assert (told["bind"], told["load"]) == (("10.0.0.1", 9), loaded)
    settings, kwargs, log = told["service"]
    assert settings == ServerSettings(
        model_id="a",
        api_keys=("k", "l"),
        cors_origins=("*",),
        allowed_hosts=("name", "10.0.0.1"),
        max_body=1 << 19,
        max_queue=5,
        sampling="heads",
    )
    assert (kwargs, type(log), told["server"]) == ({"a": 1}, AnswerLog, {"drain_s": 7.0, "access_log": True})
    assert told["closed"] == [("10.0.0.1", 9)]


def test_the_defaults_of_the_options_are_those_of_the_settings(told: dict[str, Any]) -> None:
    assert run() == 1
    assert told["load"] == (DEMO_MODEL, None, 4, None, Machine(), None, {"batch_invariant": False})
    assert told["service"] == (ServerSettings(allowed_hosts=("127.0.0.1",)), None, None)
    assert told["server"] == {"drain_s": 30.0, "access_log": False}

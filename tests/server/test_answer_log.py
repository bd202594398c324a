"""The answers of a server in a file."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_helpers import STORY, Api, Loop, demo_engine, ok, served

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, Busy, Closed
from autodeco_gguf.server import answer_log as module
from autodeco_gguf.server.answer_log import AnswerLog
from autodeco_gguf.server.service import Service
from autodeco_gguf.server.settings import ServerSettings
from autodeco_gguf.view.traces import read_traces

SHORT = {**STORY, "seed": 3, "max_tokens": 6}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def logged(engine: Engine, loop: Loop, path: Path) -> Iterator[tuple[Api, AnswerLog]]:
    with AnswerLog(path) as log:
        service = Service(engine, ServerSettings(model_id="demo", api_keys=("SECRET",)), log=log)
        yield Api(service, loop), log
        service.driver.close()


def lines_of(path: Path, n: int) -> list[dict[str, Any]]:
    """The lines of a log, once there are so many."""
    deadline = time.monotonic() + 5
    while len(found := path.read_bytes().splitlines()) < n and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == n
    return [json.loads(line) for line in found]


KEY = {"headers": {"Authorization": "Bearer SECRET"}}


def test_a_line_for_each_choice_of_each_api(logged: tuple[Api, AnswerLog], path: Path) -> None:
    api, _ = logged
    traced = ok(api.post("/v1/chat/completions", {**SHORT, "n": 2, "autodeco": {"tokens": True, "top": 2}}, **KEY))
    api.post("/v1/chat/completions", {**SHORT, "stream": True, "temperature": 0.5}, **KEY)
    api.post("/v1/completions", {"prompt": "Once", "max_tokens": 2, "stop": "zz", "heads": "temperature"}, **KEY)
    api.post("/api/chat", {"model": "demo", **STORY, "options": {"num_predict": 2}}, **KEY)
    api.post("/v1/responses", {"input": "hi", "max_output_tokens": 2}, **KEY)
    assert api.post("/v1/chat/completions", {"messages": []}, **KEY).status_code == 400
    first, second, fixed, compl, *others = lines_of(path, 6)
    assert first["tokens"] == traced["choices"][0]["autodeco"]["tokens"]
    assert second["tokens"] == traced["choices"][1]["autodeco"]["tokens"]
    assert [line["summary"]["seed"] for line in (first, second, fixed)] == [3, 4, 3]
    assert STORY["messages"][0]["content"] in first["prompt"]
    date = first["summary"].pop("date")
    assert date.startswith("20")
    prompt = traced["usage"]["prompt_tokens"]
    assert first["summary"] == {
        "tokens": 6, "prompt_tokens": prompt, "finish_reason": "length", "seed": 3, "model": "demo", "source": "heads",
    }  # fmt: skip
    assert {token["temperature"] for token in fixed["tokens"]} == {0.5}
    assert all("entropy" in token for token in fixed["tokens"])
    assert fixed["summary"]["source"] == "client"
    assert compl["summary"]["source"] == {"temperature": "heads", "top_p": "default"}
    assert [line["summary"]["tokens"] for line in others] == [2, 2]
    assert "SECRET" not in path.read_text()
    traces = read_traces(path)
    assert len(traces) == 6
    assert traces[0].tokens == first["tokens"]


def test_each_answer_has_its_own_prompt(logged: tuple[Api, AnswerLog], path: Path) -> None:
    body = {"prompt": ["Once", "Twice"], "n": 2, "max_tokens": 1}
    assert ok(logged[0].post("/v1/completions", body, **KEY))["usage"]["completion_tokens"] == 4
    prompts = sorted(line["prompt"] for line in lines_of(path, 4))
    assert prompts == ["Once", "Once", "Twice", "Twice"]


def test_an_answer_is_the_same_with_a_log(logged: tuple[Api, AnswerLog], api: Api) -> None:
    for body in (SHORT, {**SHORT, "n": 3, "autodeco": True}, {**SHORT, "logprobs": True, "top_logprobs": 1}):
        plain, kept = ok(api.chat(body)), ok(logged[0].post("/v1/chat/completions", body, **KEY))
        assert kept["choices"] == plain["choices"]
        assert kept["usage"] == plain["usage"]


def test_what_a_client_stopped_is_there_too(path: Path) -> None:
    with demo_engine(1) as engine, AnswerLog(path) as log:
        service = Service(engine, ServerSettings(model_id="demo"), log=log)
        body = {**STORY, "stream": True, "logit_bias": {"0": -100, "2": -100}}
        with served(service) as url, httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            next(response.iter_bytes(400))
        (line,) = lines_of(path, 1)
    assert line["summary"]["finish_reason"] == "interrupt"
    assert 0 < line["summary"]["tokens"] == len(line["tokens"])


def test_it_is_its_owner_s(path: Path) -> None:
    before = os.umask(0)
    try:
        with AnswerLog(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        with AnswerLog(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_lines_are_appended_and_one_that_was_torn_spoils_none(path: Path) -> None:
    for content, before in ((b'{"a": 1}\n', 1), (b'{"a": 1}\n{"b', 2)):
        path.write_bytes(content)
        with AnswerLog(path) as log:
            log.put(lambda: {"c": "é\ud800"})
            log.put(lambda: {"d": 4})
        *_, last, end = path.read_bytes().split(b"\n")
        assert (json.loads(last), end) == ({"d": 4}, b"")
        assert path.read_bytes().count(b"\n") == before + 2


def test_one_server_has_it(path: Path) -> None:
    with AnswerLog(path), pytest.raises(Busy, match=r"in use by another run"):
        AnswerLog(path)
    with AnswerLog(path):
        pass


def test_a_full_disk_is_one_warning(path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    write, room = os.write, 30

    def with_room(fd: int, data: bytes) -> int:
        left = room - os.fstat(fd).st_size
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:left])

    def more_room() -> dict[str, Any]:
        nonlocal room
        room = 1000
        return {"text": "b"}

    monkeypatch.setattr(os, "write", with_room)
    with AnswerLog(path) as log:
        for _ in range(5):
            log.put(lambda: {"text": "a" * 10})
        log.put(more_room)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: cannot be written: No space left on device; answers are missing there"
    ]
    assert [json.loads(line)["text"] for line in path.read_bytes().splitlines()] == ["a" * 10, "b"]


def test_what_another_server_wrote_behind_half_a_line_stays(path: Path, monkeypatch: Any) -> None:
    """As over a network, where the lock does not hold."""
    write = os.write

    def half(fd: int, data: bytes) -> int:
        if not path.stat().st_size:
            return write(fd, data[:5])
        with path.open("ab") as other:
            other.write(b'{"other": 1}\n')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with AnswerLog(path) as log:
        log.put(lambda: {"text": "a"})
    assert path.read_bytes() == b'{"tex{"other": 1}\n'


def test_a_line_that_cannot_be_made_is_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def closed() -> dict[str, Any]:
        raise Closed("the model is closed")

    with AnswerLog(path) as log:
        log.put(closed)
        log.put(lambda: {"text": "b"})
    assert caplog.messages == [f"{path}: cannot be written: the model is closed; answers are missing there"]
    assert json.loads(path.read_bytes()) == {"text": "b"}


def test_a_disk_that_hangs_is_waited_for_by_nobody(path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(module, "_WAITING", 3)
    monkeypatch.setattr(module, "_END_SECONDS", 0.05)
    hangs, began = threading.Event(), time.monotonic()

    def stuck() -> dict[str, Any]:
        hangs.wait(10)
        return {}

    with AnswerLog(path) as log:
        for _ in range(50):
            log.put(stuck)
    assert time.monotonic() - began < 2
    assert len(caplog.records) == 1
    hangs.set()


@pytest.mark.parametrize(
    ("name", "words"), [("", "is no regular file"), ("none/log", "cannot be written: No such file")]
)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(BadFile, match=words):
        AnswerLog(tmp_path / name)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    model.chmod(0o644)
    with pytest.raises(BadFile, match=r"model\.gguf: is no log of answers; give another file$"):
        AnswerLog(model)
    assert (model.read_bytes(), stat.S_IMODE(model.stat().st_mode)) == (b"GGUF", 0o644)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadFile, match="is no regular file"):
        AnswerLog(tmp_path / "pipe")


def test_standard_output_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match=r"^-: is not standard output here; give another name$"):
        AnswerLog(Path("-"))

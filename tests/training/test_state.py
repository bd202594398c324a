"""The state of a training and its log: written together, and cut back together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from autodeco_gguf.errors import BadFile
from autodeco_gguf.training.state import State


def state(directory: Path, **identity: object) -> State:
    return State(directory / "state.pt", directory / "log.jsonl", {"seed": 1, "base": "a", **identity})


def test_what_was_logged_after_it_is_cut_off(tmp_path: Path) -> None:
    one = state(tmp_path)
    assert not one.load(lambda _: None)
    one.open_log()
    one.write({"step": 1})
    one.save({"x": torch.ones(2)})
    one.write({"step": 2})
    taken: list[Any] = []
    two = state(tmp_path)
    assert two.load(taken.append)
    two.open_log()
    two.write({"step": 3})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 3}\n'
    assert taken[0]["x"].tolist() == [1, 1]
    new = state(tmp_path)
    new.open_log()  # without its state the log begins anew
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_the_log_is_on_the_disk_before_the_state_that_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def noting(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    one = state(tmp_path)
    one.open_log()
    one.write({"step": 1})
    monkeypatch.setattr(os, "fsync", noting)
    one.save({})
    files = [tmp_path / "log.jsonl", tmp_path, tmp_path / "state.pt", tmp_path]
    assert synced == [path.stat().st_ino for path in files]


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"seed": 2}, "a training with seed 1, now 2"),
        ({"base": "b"}, "a training with other base"),
        ({"reward": "correct", "k": 4}, "a training with --data, now --reward"),
    ],
)
def test_of_another_training(identity: dict[str, object], words: str, tmp_path: Path) -> None:
    one = state(tmp_path)
    one.open_log()
    one.save({})
    with pytest.raises(BadFile, match=rf"state\.pt: of {words}; start anew with --force, or elsewhere$"):
        state(tmp_path, **identity).load(lambda _: None)


def test_what_is_none_or_empty_is_as_good_as_missing(tmp_path: Path) -> None:
    one = state(tmp_path, start=None)
    one.open_log()
    one.save({})
    assert state(tmp_path, options={}).load(lambda _: None)


def test_a_broken_one_and_a_short_log(tmp_path: Path) -> None:
    one = state(tmp_path)
    one.open_log()
    one.write(1)
    one.save({})
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(BadFile, match=r"log\.jsonl: shorter than when .*state\.pt was written; start anew"):
        state(tmp_path).load(lambda _: None)
    for content in (b"\0\0", b"\xe9\n", b"x\n"):
        (tmp_path / "log.jsonl").write_bytes(content)
        with pytest.raises(BadFile, match=r"log\.jsonl:1: damaged: .*; start anew with --force$"):
            state(tmp_path).load(lambda _: None)
    (tmp_path / "state.pt").write_bytes(b"x")
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        state(tmp_path).load(lambda _: None)


def test_a_bit_that_has_changed(tmp_path: Path) -> None:
    one = state(tmp_path)
    one.open_log()
    one.save({"x": torch.arange(1000.0)})
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 64
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        state(tmp_path).load(lambda _: None)


@pytest.mark.parametrize("nbytes", [-1, 2.0, "2", True])
def test_no_length_of_the_log(nbytes: object, tmp_path: Path) -> None:
    one = state(tmp_path)
    one.open_log()
    one.save({})
    path = tmp_path / "state.pt"
    torch.save({**torch.load(path, weights_only=True), "log_bytes": nbytes}, path)
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        state(tmp_path).load(lambda _: None)

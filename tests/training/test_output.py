"""Where a training writes: what is refused, and what counts as unfinished."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile, Busy
from autodeco_gguf.training.output import BEGUN, Output


def test_it_is_unfinished_while_there_is_a_state(tmp_path: Path) -> None:
    out = Output(tmp_path / "out")
    with out.held():
        assert not out.unfinished
        (out.state / ".x.tmp").write_bytes(b"")  # what a kill leaves of a file
        assert not out.unfinished
        (out.state / "start").mkdir()
        assert out.unfinished
        with pytest.raises(Busy), Output(tmp_path / "out").held():
            pass
    (out.directory / "config.json").write_bytes(b"")
    out.check_new(force=False)
    out.remove_state()
    with pytest.raises(BadFile, match=r"config\.json: exists; use --force"):
        out.check_new(force=False)
    out.check_new(force=True)


def test_a_state_that_is_empty_does_not_stay(tmp_path: Path) -> None:
    with Output(tmp_path / "out").held():
        assert (tmp_path / "out" / ".training").is_dir()
    assert not (tmp_path / "out" / ".training").exists()


def test_an_input_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"")
    with pytest.raises(BadFile, match=r"out\.gguf: is an input and would be written; choose another output$"):
        Output(tmp_path / "out").check([tmp_path / "out.gguf"], force=True)


def test_nothing_of_a_training_on_reward_stays_in_the_way_of_one_that_was_forced(tmp_path: Path) -> None:
    out = Output(tmp_path / "out")
    with out.held():
        (out.state / BEGUN).touch()
        (out.state / "tokens").touch()  # of the new one
        with pytest.raises(BadFile, match=r"begun\.jsonl: of a training with --reward, now --data; start anew"):
            out.check_free(force=False)
        out.remove_results()
        out.check_free(force=False)
        assert out.unfinished

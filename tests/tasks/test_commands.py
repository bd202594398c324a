"""Commands: their files, and which examples get one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks.commands import VARIANTS, Commands


def test_the_share_of_examples_with_commands() -> None:
    commands = Commands.shipped(share=0.25, seed=3)
    drawn = [commands.draw(i, "") for i in range(2000)]
    assert drawn == [Commands.shipped(share=0.25, seed=3).draw(i, "") for i in range(2000)]
    assert drawn != [Commands.shipped(share=0.25, seed=4).draw(i, "") for i in range(2000)]
    assert abs(sum(d is not None for d in drawn) / 2000 - 0.25) < 0.04
    assert {d[0] for d in drawn if d} < set(commands.low)
    assert {d[1] for d in drawn if d} < set(commands.high)
    assert len({d for d in drawn if d}) > 400  # all about as likely
    assert all(Commands.shipped(share=1.0).draw(i, "Hello") for i in range(50))
    assert not any(Commands.shipped(share=0.0).draw(i, "Hello") for i in range(50))


COMMAND_FILES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "not JSON: Expecting property name"),
    "a list": (b"[]", "low: expected a list of sentences"),
    "no high": (b'{"low": ["x"]}', "high: expected a list of sentences"),
    "empty": (b'{"low": [], "high": ["x"]}', "low: expected a list of sentences"),
    "blank": (b'{"low": ["x"], "high": [" "]}', "high: expected a list of sentences"),
    "a number": (b'{"low": [1], "high": ["x"]}', "low: expected a list of sentences"),
    "not UTF-8": (b"\xff", "not UTF-8 at byte 0"),
    "held out, no high": (
        b'{"low": ["x"], "high": ["y"], "held_out": {"low": ["z"]}}',
        r"held_out\.high: expected a list of sentences",
    ),
    "held out, a list": (b'{"low": ["x"], "high": ["y"], "held_out": []}', r"held_out\.low: expected a list"),
}


@pytest.mark.parametrize("name", COMMAND_FILES)
def test_a_bad_list_of_commands(name: str, tmp_path: Path) -> None:
    content, message = COMMAND_FILES[name]
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(BadFile, match=r"c\.json: " + message):
        Commands.read(tmp_path / "c.json")


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    lists = {"low": ["a"], "high": ["b", "c"], "held_out": {"low": ["d"], "high": ["e"]}}
    (tmp_path / "c.json").write_text(json.dumps(lists))
    expected = Commands(("a",), ("b", "c"), 0.5, 3, Commands(("d",), ("e",)))
    assert Commands.read(tmp_path / "c.json", share=0.5, seed=3) == expected
    (tmp_path / "c.json").write_text('{"low": ["a"], "high": ["b"]}')
    assert Commands.read(tmp_path / "c.json") == Commands(("a",), ("b",))


def test_the_shipped_commands() -> None:
    shipped = Commands.shipped()
    assert shipped.held_out is not None
    assert not set(shipped.low) & set(shipped.high)
    assert not {*shipped.low, *shipped.high} & {*shipped.held_out.low, *shipped.held_out.high}


def test_commands_are_named_as_the_variants_are() -> None:
    assert VARIANTS == ("plain", "low", "high")
    assert Commands(("a",), ("b",)).draw(0, "") == ("a", "b")


def test_a_bad_list_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"low": ["x"], "high": []}')
    with pytest.raises(BadFile) as error:
        Commands.read(tmp_path / "c.json")
    assert (error.value.file, error.value.key, error.value.found) == (str(tmp_path / "c.json"), "high", [])

"""Commands: their files, and which examples get one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks.commands import SHIPPED, VARIANTS, Commands


def test_the_share_of_examples_with_commands() -> None:
    commands = Commands.read(share=0.25, seed=3)
    drawn = [commands.draw(i, "") for i in range(2000)]
    assert drawn == [Commands.read(share=0.25, seed=3).draw(i, "") for i in range(2000)]
    assert drawn != [Commands.read(share=0.25, seed=4).draw(i, "") for i in range(2000)]
    assert abs(sum(d is not None for d in drawn) / 2000 - 0.25) < 0.04
    assert {d[0] for d in drawn if d} == set(commands.low)
    assert {d[1] for d in drawn if d} == set(commands.high)
    assert all(Commands.read(share=1.0).draw(i, "Hello") for i in range(50))
    assert not any(Commands.read(share=0.0).draw(i, "Hello") for i in range(50))


COMMAND_FILES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "not JSON: Expecting property name"),
    "a list": (b"[]", "low: expected a list of sentences"),
    "no high": (b'{"low": ["x"]}', "high: expected a list of sentences"),
    "empty": (b'{"low": [], "high": ["x"]}', "low: expected a list of sentences"),
    "blank": (b'{"low": ["x"], "high": [" "]}', "high: expected a list of sentences"),
    "a number": (b'{"low": [1], "high": ["x"]}', "low: expected a list of sentences"),
    "not UTF-8": (b"\xff", "not UTF-8 at byte 0"),
}


@pytest.mark.parametrize("name", COMMAND_FILES)
def test_a_bad_list_of_commands(name: str, tmp_path: Path) -> None:
    content, message = COMMAND_FILES[name]
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(BadFile, match=r"c\.json: " + message):
        Commands.read(tmp_path / "c.json")


def test_the_shipped_commands() -> None:
    lists = json.loads(SHIPPED.read_text())
    assert sorted(lists) == ["high", "low"]
    assert not set(lists["low"]) & set(lists["high"])
    assert min(map(len, lists.values())) >= 5


def test_commands_are_named_as_the_variants_are() -> None:
    assert VARIANTS == ("plain", "low", "high")
    assert Commands(("a",), ("b",)).draw(0, "") == ("a", "b")


def test_a_bad_list_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"low": ["x"], "high": []}')
    with pytest.raises(BadFile) as error:
        Commands.read(tmp_path / "c.json")
    assert (error.value.file, error.value.key, error.value.found) == (str(tmp_path / "c.json"), "high", [])

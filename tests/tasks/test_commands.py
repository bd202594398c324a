"""Commands: their files, and which examples get one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks.commands import VARIANTS, Commands


def test_the_share_of_examples_with_commands() -> None:
    commands = Commands.read([], share=0.25, seed=3)
    drawn = [commands.draw(i, "") for i in range(2000)]
    assert drawn == [Commands.read([], share=0.25, seed=3).draw(i, "") for i in range(2000)]
    assert drawn != [Commands.read([], share=0.25, seed=4).draw(i, "") for i in range(2000)]
    assert abs(sum(map(bool, drawn)) / 2000 - 0.25) < 0.04
    pairs = [pair for found in drawn for pair in found]
    assert {low for low, _ in pairs} < set(commands.low)
    assert {high for _, high in pairs} < set(commands.high)
    assert len(set(pairs)) > 400  # all about as likely
    assert all(Commands.read([], share=1.0).draw(i, "Hello") for i in range(50))
    assert not any(Commands.read([], share=0.0).draw(i, "Hello") for i in range(50))


def test_several_pairs_of_an_example() -> None:
    several, one = Commands.read([], pairs=5), Commands.read([])
    for i in range(20):
        pairs = several.draw(i, "")
        assert pairs[:1] == one.draw(i, "")
        assert len(set(pairs)) == 5


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
        Commands.read([tmp_path / "c.json"])


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    lists = {"low": ["a"], "high": ["b", "c"], "held_out": {"low": ["d"], "high": ["e"]}}
    (tmp_path / "c.json").write_text(json.dumps(lists))
    expected = Commands(("a",), ("b", "c"), 0.5, 3, Commands(("d",), ("e",)))
    assert Commands.read([tmp_path / "c.json"], share=0.5, seed=3) == expected
    (tmp_path / "c.json").write_text('{"low": ["a"], "high": ["b"]}')
    assert Commands.read([tmp_path / "c.json"]) == Commands(("a",), ("b",))


@pytest.mark.parametrize(("name", "least"), [("grammar", 350), ("free", 180)])
def test_the_shipped_commands(name: str, least: int) -> None:
    shipped = Commands.read([Path(name)])
    assert shipped.held_out is not None
    lists = [shipped.low, shipped.high, shipped.held_out.low, shipped.held_out.high]
    assert sum(map(len, lists)) == len({sentence.lower() for one in lists for sentence in one})
    assert min(map(len, lists[:2])) > least
    assert min(map(len, lists[2:])) > 50


def test_of_several_lists_about_as_many_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"low": ["a", "b"], "high": ["c"]}')
    own, grammar, free = ({*Commands.read([path]).low} for path in (tmp_path / "c.json", Path("grammar"), Path("free")))
    commands = Commands.read([Path("grammar"), Path("free"), tmp_path / "c.json"])
    assert commands.held_out is not None
    assert {*commands.held_out.low} > {*Commands.grammar().held_out.low}  # type: ignore[union-attr]
    drawn = [commands.draw(i, "")[0][0] for i in range(3000)]
    for one in (own, grammar, free):
        assert abs(sum(low in one for low in drawn) / 3000 - 1 / 3) < 0.06


def test_commands_are_named_as_the_variants_are() -> None:
    assert VARIANTS == ("plain", "low", "high")
    assert Commands(("a",), ("b",)).draw(0, "") == [("a", "b")]


def test_a_bad_list_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"low": ["x"], "high": []}')
    with pytest.raises(BadFile) as error:
        Commands.read([tmp_path / "c.json"])
    assert (error.value.file, error.value.key, error.value.found) == (str(tmp_path / "c.json"), "high", [])

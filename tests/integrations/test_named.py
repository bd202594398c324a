"""The file with the models that a user has named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.heads.known import KNOWN, KnownModel
from autodeco_gguf.integrations.named import Source, check_name, read_named, shipped, source_of, write_named
from autodeco_gguf.model.shipped import DEMO_MODEL


def test_no_file_no_models(tmp_path: Path) -> None:
    assert read_named(tmp_path / "none.json") == {}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sources = {"a": Source("/m.gguf"), "b:Q4_0": Source("/ü.gguf", "/h.gguf", 512)}
    sources["odd"] = Source("/tmp/\udcff.gguf")  # a name that is no text
    write_named(tmp_path / "f.json", sources)
    assert read_named(tmp_path / "f.json") == sources


def test_paths_of_a_file_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    entries = {"a": "here.gguf", "b": {"model": "~/there.gguf", "heads": "/h.gguf"}}
    (tmp_path / "f.json").write_text(json.dumps(entries))
    expected = {"a": Source(f"{tmp_path}/here.gguf"), "b": Source("/home/someone/there.gguf", "/h.gguf")}
    assert read_named(tmp_path / "f.json") == expected


def test_what_is_no_path_stays_as_it_is(tiny: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("tiny", "hf:u/r:Q8_0", "hf:u/r/m.gguf")
    assert [source_of(Path(name)) for name in (*names, "m.gguf")] == [*names, f"{tmp_path}/m.gguf"]
    (tmp_path / "tiny").write_text("a file of that name goes first where one is given, and later is not meant")
    assert source_of(Path("tiny")) == f"{tmp_path}/tiny"
    entries = {"a": "tiny", "b": {"model": names[1], "heads": "tiny"}, "c": {"model": "./tiny", "heads": names[2]}}
    (tmp_path / "f.json").write_text(json.dumps(entries))
    expected = {"a": Source("tiny"), "b": Source(names[1], "tiny"), "c": Source(f"{tmp_path}/tiny", names[2])}
    assert read_named(tmp_path / "f.json") == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ("[]", "is a list, expected an object of models by name"),
        ('{"a": 1}', 'a: expected the path of a GGUF, or an object with "model"'),
        ('{"a": {"heads": "h"}}', 'a: expected the path of a GGUF, or an object with "model"'),
        ('{"a": {"model": ["m"]}}', "a.model: is a list, expected a path"),
        ('{"a": {"model": "m", "heads": null}}', "a.heads: is null, expected a path"),
        ('{"a": {"model": "m", "n_ctx": 1}}', "a.n_ctx: no such key, expected model, heads or ctx"),
        ('{"a": {"model": "m", "ctx": 0}}', "a.ctx 0, expected 1 to 16777216 tokens"),
        ('{"a": {"model": "m", "ctx": true}}', "a.ctx True, expected 1 to 16777216 tokens"),
        ('{"a": {"model": "m", "ctx": "8"}}', "a.ctx '8', expected 1 to 16777216 tokens"),
        ('{"a": "~nosuchuser/x"}', "a.model '~nosuchuser/x': no such user"),
        ('{"a": {"model": "m", "heads": "~nosuchuser"}}', "a.heads '~nosuchuser': no such user"),
        ('{"a": {"model": "m\\u0000"}}', "a.model 'm\\x00', expected a path without a zero byte"),
        ('{"a b": "m"}', "name 'a b', expected letters"),
        ('{"demo": "m"}', "name 'demo' is that of a model that is known already"),
    ],
)
def test_files_that_say_something_else(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=re.escape(reason)) as caught:
        read_named(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "-x", "a/b", "a\n", "é", *KNOWN])
def test_names_that_will_not_do(name: str) -> None:
    with pytest.raises(InvalidInput, match="name "):
        check_name(name)


def test_known_models_are_there_where_their_weights_are(tiny: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped()["demo"] == Source(str(DEMO_MODEL))
    assert shipped()["tiny"] == Source("tiny")
    monkeypatch.undo()
    assert "tiny" not in shipped()

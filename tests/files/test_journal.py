"""Journals: who may open one, and how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import BadFile, Busy
from autodeco_gguf.files.journal import Journal, difference, first_difference, reading

HEADER = {"things": 1, "nested": {"size": 2, "digest": "x"}}


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, HEADER):
        for other in (Journal(path, HEADER), reading(path, "things", 1)):
            with pytest.raises(Busy, match=r"j: in use by another run; wait for its end, or") as error, other:
                pass
            assert error.value.file == str(path)
    with reading(path, "things", 1) as (header, _), reading(path, "things", 1):
        assert header == HEADER
        with pytest.raises(Busy, match="in use"), Journal(path, HEADER):
            pass
    with Journal(path, HEADER):
        pass


DIFFERENT: list[tuple[dict[str, Any], tuple[str, Any, Any], str]] = [
    ({**HEADER, "things": 2}, ("things", 1, 2), "things 1, ours has 2"),
    ({**HEADER, "more": [1]}, ("more", None, [1]), "more none, ours has [1]"),
    ({"things": 1, "nested": {"size": 2}}, ("nested.digest", "x", None), "another digest in nested"),
    ({"things": 3, "nested": {"size": 4}}, ("things", 1, 3), "things 1, ours has 3"),
    ({"nested": {"size": 4}, "things": 3}, ("nested.size", 2, 4), "nested.size 2, ours has 4"),
]


@pytest.mark.parametrize(("wanted", "first", "words"), DIFFERENT)
def test_the_first_difference(wanted: dict[str, Any], first: tuple[str, Any, Any], words: str) -> None:
    assert first_difference(HEADER, wanted) == first
    assert difference(HEADER, wanted, {"digest": "another digest"}, "ours has") == words


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"things": 1}\nx\n')
    with pytest.raises(BadFile, match=r"j:2: damaged: not JSON") as error, reading(path, "things", 1) as (_, lines):
        list(lines)
    assert error.value.file == str(path)
    with pytest.raises(BadFile, match=r"j:2: damaged; delete it to begin anew$") as error:
        raise Journal(path, HEADER).refused(2, "damaged")
    assert error.value.file == str(path)
    with pytest.raises(BadFile, match="j: not the beginning of others") as error, reading(path, "others", 1):
        pass
    assert (error.value.file, error.value.key, error.value.expected) == (str(path), "others", 1)

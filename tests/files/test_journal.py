"""Journals: what is kept whatever happens, what is continued and what is refused."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, InvalidInput
from autodeco_gguf.files.journal import Journal, difference, first_difference, reading

HEADER = {"things": 1, "model": "abc", "nested": {"size": 2, "digest": "x"}}


def test_a_journal_keeps_what_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, HEADER) as journal:
        places = [journal.append(value) for value in ({"a": "é\n\ud800"}, [1, 2])]
        seen = list(journal.lines())
        assert [(line.number, line.value) for line in seen] == [(2, {"a": "é\n\ud800"}), (3, [1, 2])]
        assert [line.place for line in seen] == places
        assert journal.read(places[0]) == {"a": "é\n\ud800"}
        for line in journal.lines():  # appending meanwhile disturbs nothing
            journal.append(line.value)
        assert len(list(journal.lines())) == 4
        assert len(path.read_bytes().splitlines()) == 5  # at once, not at the end
    with Journal(path, HEADER) as journal:
        assert [line.value for line in journal.lines()][2:] == [{"a": "é\n\ud800"}, [1, 2]]
        assert journal.read(places[1]) == [1, 2]
    with reading(path, "things", 1) as (header, lines):
        assert header == HEADER
        assert [line.number for line in lines] == [2, 3, 4, 5]


def test_lines_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autodeco_gguf.files import journal as module

    monkeypatch.setattr(module, "_BLOCK", 90)
    values = ["x" * n for n in (0, 85, 86, 87, 88, 89, 200, 300)]
    with Journal(tmp_path / "j", HEADER) as journal:
        places = [journal.append(value) for value in values]
        assert [line.value for line in journal.lines()] == values
        assert [journal.read(place) for place in places] == values
    with (tmp_path / "j").open("ab") as f:
        f.write(b'"' + b"y" * 400)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert [line.value for line in journal.lines()] == values
    with (
        Journal(tmp_path / "j", HEADER, longest=150) as journal,
        pytest.raises(BadFile, match=r"j:8: longer than 150 bytes; delete it"),
    ):
        list(journal.lines())


def test_the_time_for_a_line_grows_as_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autodeco_gguf.files import journal as module

    monkeypatch.setattr(module, "_BLOCK", 16)  # of which there are as many as in 64 GiB
    with Journal(tmp_path / "j", None) as journal:
        place, begin = journal.append("x" * (1 << 20)), time.process_time()
        assert len(journal.read(place)) == 1 << 20
        assert time.process_time() - begin < 3  # a fraction of it; gathered anew for each block, many times that


@pytest.mark.parametrize("cut", range(len(json.dumps(HEADER)) + 1))
def test_a_torn_header_is_begun_anew(cut: int, tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps(HEADER)[:cut])
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
    assert (tmp_path / "j").read_text() == f"{json.dumps(HEADER)}\n1\n"


def test_a_header_is_on_the_disk_before_what_depends_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "j.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, path.stat().st_size)))
    with Journal(path, {"squares": 1}) as journal:
        journal.append([1, 1])
    with Journal(path, {"squares": 1}):
        assert synced == [(path.stat().st_ino, 15), (tmp_path.stat().st_ino, 15)]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({**HEADER, "model": "def"}, "j: begun with another model; delete it to begin anew"),
        ({**HEADER, "nested": {"size": 3, "digest": "x"}}, "begun with nested.size 2, this run has 3; delete"),
        ({**HEADER, "nested": {"size": 2, "digest": "y"}}, "begun with other things in nested; delete"),
        ({**HEADER, "more": (1, 2)}, r"begun with more none, this run has \[1, 2\]; delete"),
        ({"things": 2}, "j: not the beginning of things; delete"),
    ],
)
def test_another_header_is_refused_or_replaced(header: dict[str, Any], words: str, tmp_path: Path) -> None:
    digests = {"model": "another model", "digest": "other things"}
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
    with pytest.raises(AutoDecoError, match=words), Journal(tmp_path / "j", header, digests=digests):
        pass
    with Journal(tmp_path / "j", header, force=True) as journal:
        assert list(journal.lines()) == []
    with Journal(tmp_path / "j", header) as journal:
        journal.append(2)


def test_a_header_that_could_not_be_read_again(tmp_path: Path) -> None:
    frame = len(b'{"things": ""}\n')
    with Journal(tmp_path / "j", {"things": "x" * ((1 << 20) - frame)}) as journal:
        journal.append(1)
    with Journal(tmp_path / "j", {"things": "x" * ((1 << 20) - frame)}) as journal:
        assert [line.value for line in journal.lines()] == [1]
    message = r"j: settings of 1048577 bytes, expected at most 1048576$"
    with pytest.raises(InvalidInput, match=message), Journal(tmp_path / "j", {"things": "x" * ((1 << 20) + 1 - frame)}):
        pass


def test_a_journal_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:-1])

    with (
        pytest.raises(AutoDecoError, match=r"nothing/j: cannot be written: No such file"),
        Journal(tmp_path / "nothing" / "j", HEADER),
    ):
        pass
    with pytest.raises(AutoDecoError, match=r": cannot be written: Is a directory"), Journal(tmp_path, HEADER):
        pass
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            with pytest.raises(AutoDecoError, match="j: cannot be written: No space left on device"):
                journal.append(2)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert [line.value for line in journal.lines()] == [1]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", [0, 3, 6])
def test_it_goes_on_after_a_line_that_was_not_written(
    written: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part of it may stand, and all where an interrupt came just then."""
    write = os.write

    def fail(fd: int, data: bytes) -> int:
        write(fd, data[:written])
        raise error

    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append("one")
        with monkeypatch.context() as patch:
            patch.setattr("os.write", fail)
            for _ in range(2):
                with pytest.raises((BadFile, KeyboardInterrupt)):
                    journal.append("two")
        assert journal.read(journal.append("three")) == "three"
        journal.append("four")
        assert [line.value for line in journal.lines()] == ["one", "three", "four"]
    assert (tmp_path / "j").read_text().splitlines()[1:] == ['"one"', '"three"', '"four"']


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "j: not the beginning of things"),
        (b'{"things": 1}', "j: not the beginning of things"),
        (b'{"things": 2}\n', "j: not the beginning of things"),
        (b'{"others": 1}\n', "j: not the beginning of things"),
        (b"x\n", "j:1: damaged: not JSON"),
        (b'{"things": 1}\n1\nx\n', "j:3: damaged: not JSON"),
    ],
)
def test_what_is_no_journal(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(AutoDecoError, match=words), reading(tmp_path / "j", "things", 1) as (_, lines):
        list(lines)
    assert (tmp_path / "j").read_bytes() == content


def test_reading_passes_over_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"things": 1}\n1\n2')
    with reading(tmp_path / "j", "things", 1) as (_, lines):
        assert [line.value for line in lines] == [1]


SMALL = {"things": 1, "nested": {"size": 2, "digest": "x"}}


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, SMALL):
        for other in (Journal(path, SMALL), reading(path, "things", 1)):
            with pytest.raises(Busy, match=r"j: in use by another run; wait for its end, or") as error, other:
                pass
            assert error.value.file == str(path)
    with reading(path, "things", 1) as (header, _), reading(path, "things", 1):
        assert header == SMALL
        with pytest.raises(Busy, match="in use"), Journal(path, SMALL):
            pass
    with Journal(path, SMALL):
        pass


DIFFERENT: list[tuple[dict[str, Any], tuple[str, Any, Any], str]] = [
    ({**SMALL, "things": 2}, ("things", 1, 2), "things 1, ours has 2"),
    ({**SMALL, "more": [1]}, ("more", None, [1]), "more none, ours has [1]"),
    ({"things": 1, "nested": {"size": 2}}, ("nested.digest", "x", None), "another digest in nested"),
    ({"things": 3, "nested": {"size": 4}}, ("things", 1, 3), "things 1, ours has 3"),
    ({"nested": {"size": 4}, "things": 3}, ("nested.size", 2, 4), "nested.size 2, ours has 4"),
]


@pytest.mark.parametrize(("wanted", "first", "words"), DIFFERENT)
def test_the_first_difference(wanted: dict[str, Any], first: tuple[str, Any, Any], words: str) -> None:
    assert first_difference(SMALL, wanted) == first
    assert difference(SMALL, wanted, {"digest": "another digest"}, "ours has") == words


@pytest.mark.parametrize("same", [{"more": None}, {"more": {}}, {"more": {"a": None, "b": {}}}])
def test_what_is_none_or_empty_is_as_good_as_missing(same: dict[str, Any], tmp_path: Path) -> None:
    for i, (first, second) in enumerate([(SMALL, {**SMALL, **same}), ({**SMALL, **same}, SMALL)]):
        with Journal(tmp_path / f"{i}", first) as journal:
            journal.append(5)
        with Journal(tmp_path / f"{i}", second) as journal:
            assert [line.value for line in journal.lines()] == [5]
        assert first_difference(first, second) is difference(first, second, {}, "ours has") is None


def test_a_name_with_a_dot_is_no_setting_within_another() -> None:
    assert first_difference({"a.b": 2}, {"a": {"b": 2}}) == ("a.b", None, 2)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"things": 1}\nx\n')
    with pytest.raises(BadFile, match=r"j:2: damaged: not JSON") as error, reading(path, "things", 1) as (_, lines):
        list(lines)
    assert error.value.file == str(path)
    with pytest.raises(BadFile, match=r"j:2: damaged; delete it to begin anew$") as error:
        raise Journal(path, SMALL).refused(2, "damaged")
    assert error.value.file == str(path)
    with pytest.raises(BadFile, match="j: not the beginning of others") as error, reading(path, "others", 1):
        pass
    assert (error.value.file, error.value.key, error.value.expected) == (str(path), "others", 1)


def test_lines_alone(tmp_path: Path) -> None:
    """Without a header the first line is one like the others; a torn one is cut off all the same."""
    path = tmp_path / "lines.jsonl"
    with Journal(path, None) as journal:
        places = [journal.append(i) for i in range(3)]
    with path.open("ab") as f:
        f.write(b'{"torn')
    with reading(path, None, 1) as (header, lines):
        assert (header, [(line.number, line.value) for line in lines]) == ({}, [(1, 0), (2, 1), (3, 2)])
    with Journal(path, None) as journal:
        assert [(line.place, line.value) for line in journal.lines()] == list(zip(places, range(3), strict=True))
        assert [journal.read(place) for place in places] == [0, 1, 2]
        journal.append(3)
    assert path.read_bytes() == b"0\n1\n2\n3\n"
    path.write_bytes(b"0\nx\n")
    with (
        Journal(path, None, advice="do this") as journal,
        pytest.raises(BadFile, match=r"lines\.jsonl:2: damaged: .*; do"),
    ):
        list(journal.lines())

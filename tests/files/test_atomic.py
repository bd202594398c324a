"""Files are written whole or not at all, and outputs are looked at before any work for them begins."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from broken import STRIKE, Kind, assert_refused, big_base, rewrite, spawn
from conftest import Case

from autodeco_gguf import export
from autodeco_gguf.errors import BadFile, Busy
from autodeco_gguf.files import atomic
from autodeco_gguf.files.atomic import (
    Output,
    bad_file,
    check_directory,
    check_new,
    check_output,
    check_unchanged,
    identity,
    new_directory,
    read_range,
    same_file,
    write_atomically,
    write_bytes,
    write_together,
)
from autodeco_gguf.files.lock import lock

# ---- outputs ----


def made(directory: Path) -> Path:
    """A directory with a file, two more names of it, a directory and a pipe."""
    (directory / "file").write_bytes(b"old")
    (directory / "link").symlink_to("file")
    (directory / "gone").symlink_to("nowhere")
    os.link(directory / "file", directory / "hard")
    (directory / "dir").mkdir()
    os.mkfifo(directory / "pipe")
    return directory


def linked(directory: Path, to: str) -> Path:
    """A link in it to a path in it."""
    link = directory / "another"
    link.symlink_to(directory / to)
    return link


Check = Callable[[Path], None]
CHECKS: dict[str, tuple[Check, str, str]] = {
    "an input": (lambda d: check_output(d / "file", inputs=[d / "file"], force=True), "file", "is the input {d}/file;"),
    "a link to one": (lambda d: check_output(d / "link", inputs=[d / "dir", d / "file"]), "link", "is the input {d}/f"),
    "another name": (lambda d: check_output(d / "hard", inputs=[d / "file"]), "hard", "is the input {d}/file; choose"),
    "one that cannot be looked at": (
        lambda d: check_output(d / "new", inputs=[d / ("x" * 300)]),
        "x" * 300,
        "cannot be read: File name too long",
    ),
    "a directory": (lambda d: check_output(d / "dir", force=True), "dir", "is a directory; give a file name"),
    "a pipe": (lambda d: check_output(d / "pipe", force=True), "pipe", "is no regular file; give another name"),
    "a link to a pipe": (
        lambda d: check_output(linked(d, "pipe"), force=True),
        "another",
        "is no regular file; give a",
    ),
    "a link to itself": (lambda d: check_output(linked(d, "another"), force=True), "another", "is no regular file; gi"),
    "a link without parent": (lambda d: check_output(linked(d, "a/b")), "another", "no such directory as {d}/a"),
    "too long a name": (lambda d: check_output(d / ("x" * 300)), "x" * 300, "cannot be written: File name too long"),
    "exists": (lambda d: check_output(d / "file"), "file", "exists; use --force to replace it"),
    "no parent": (lambda d: check_output(d / "a/b"), "a/b", "no such directory as {d}/a"),
    "one exists": (lambda d: check_new([d / "a", d / "hard"], force=False), "hard", "exists; use --force to"),
    "no directory": (lambda d: check_directory(d / "file"), "file", "is a file; give a directory"),
    "directory whose name is too long": (
        lambda d: check_directory(d / ("x" * 300)),
        "x" * 300,
        "cannot be written: File name too long",
    ),
    "directory without parent": (lambda d: check_directory(d / "a/b"), "a/b", "no such directory as {d}/a"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_refused_outputs(name: str, tmp_path: Path) -> None:
    check, file, message = CHECKS[name]
    with pytest.raises(BadFile) as error:
        check(made(tmp_path))
    assert str(error.value).startswith(f"{tmp_path / file}: {message.format(d=tmp_path)}")
    assert error.value.file == str(tmp_path / file)


def test_standard_output_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        with pytest.raises(BadFile, match=r"^-: is not standard output here; give another name$"):
            check_output(Path("-"), force=force)
    check_output(tmp_path / "-")


@pytest.mark.parametrize("make", [check_directory, lambda path: new_directory(path).__enter__()])
def test_nor_a_directory(make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match=r"^-: is not standard output here; give another name$"):
        make(Path("-"))
    assert not list(tmp_path.iterdir())


def test_outputs_that_will_do(tmp_path: Path) -> None:
    d = made(tmp_path)
    check_output(d / "new", inputs=[d / "file", d / "nowhere"])
    check_output(d / "file", inputs=[d / "nowhere"], force=True)
    check_new([d / "new", d / "gone"], force=False)
    check_new([d / "file"], force=True)
    check_directory(d / "dir")
    check_directory(d / "new")
    assert same_file([d / "new", d / "dir", d / "hard"], [d / "nowhere", d / "link"]) == (d / "hard", d / "link")
    assert same_file([d / "file"], [d / "dir"]) is None


# ---- writing ----


@pytest.mark.parametrize(
    ("error", "said"), [(PermissionError(13, "Permission denied"), "Permission denied"), (OSError("full"), "full")]
)
def test_an_oserror_is_of_the_file(error: OSError, said: str) -> None:
    with (
        pytest.raises(BadFile, match=f"^dir/x: cannot be read: {said}$") as found,
        bad_file(Path("dir/x"), "cannot be read"),
    ):
        raise error
    assert (found.value.file, found.value.__cause__) == ("dir/x", error)


def refuse(path: Path) -> None:
    raise BadFile.of(path, "will not do")


def test_what_is_refused_has_the_name_it_was_to_have(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(BadFile, match=rf"^{re.escape(str(path))}: will not do$") as error:
        write_together([Output(path, lambda f: None, refuse)])
    assert error.value.file == str(path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["out"])


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)


@pytest.mark.parametrize(("umask", "made", "kept"), [(0o022, 0o644, 0o664), (0o077, 0o600, 0o664)])
def test_permissions_from_the_first_byte_on(umask: int, made: int, kept: int, tmp_path: Path) -> None:
    """A new file's are the umask's; an existing file's are exactly its own, and never more before."""
    seen = []

    def write(f: BinaryIO) -> None:
        seen.append(os.fstat(f.fileno()).st_mode & 0o777)
        f.write(b"x")

    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(kept)
    (tmp_path / "secret").write_bytes(b"old")
    (tmp_path / "secret").chmod(0o400)
    before = os.umask(umask)
    try:
        for name in ("new", "old", "secret"):
            write_atomically(tmp_path / name, write)
    finally:
        os.umask(before)
    assert seen == [made, kept, 0o400]
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "old", "secret")] == seen


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(b"old")
    for name, to in (("link", "d/file"), ("twice", "link"), ("dangling", "d/new")):
        (tmp_path / name).symlink_to(to)
        write_bytes(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / to).read_bytes() == name.encode()
    assert sorted(os.listdir(tmp_path / "d")) == ["file", "new"]
    assert sorted(os.listdir(tmp_path)) == ["d", "dangling", "link", "twice"]


@pytest.mark.parametrize("kind", ["pipe", "file without a name"])
def test_what_stdout_leads_to_is_left_alone(kind: str, tmp_path: Path) -> None:
    """As /dev/stdout does: a link to a descriptor of the process."""
    link = tmp_path / "stdout"
    if kind == "pipe":
        descriptors = os.pipe()
    else:
        descriptors = (os.open(tmp_path / "x", os.O_CREAT | os.O_RDWR),) * 2
        (tmp_path / "x").unlink()
    try:
        link.symlink_to(f"/dev/fd/{descriptors[1]}")
        for act in (lambda: check_output(link, force=True), lambda: write_bytes(link, b"x")):
            with pytest.raises(BadFile, match=r"stdout: is no regular file; give another name"):
                act()
        assert link.is_symlink()
        assert os.listdir(tmp_path) == ["stdout"]
    finally:
        for fd in set(descriptors):
            os.close(fd)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_one_new_file_one_wins(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    if not links:
        monkeypatch.setattr(os, "link", without_links)

    def meanwhile(f: BinaryIO) -> None:
        f.write(b"second")
        write_together([Output(path, lambda f: f.write(b"first"))], new=True)

    with pytest.raises(BadFile, match=r"out: exists; use --force to replace it"):
        write_together([Output(path, meanwhile)], new=True)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"first", ["out"])
    write_atomically(path, lambda f: f.write(b"third"))
    assert path.read_bytes() == b"third"


def without_links(source: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


# ---- what killed runs leave ----


def test_a_name_that_is_taken_and_gone_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(source: Path, target: Path) -> None:
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", taken)
    with pytest.raises(BadFile, match=r"new: cannot be written: File exists"):
        write_together([Output(tmp_path / "new", lambda f: f.write(b"x"))], new=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_that_was_made_goes_again_on_an_error(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "in" / "new"
    if there:
        path.parent.mkdir()
    with pytest.raises(FileNotFoundError), new_directory(path):
        (path / "nowhere" / "x").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["in"] * there
    path.mkdir(parents=True)
    with pytest.raises(FileNotFoundError), new_directory(path):
        (path / "nowhere" / "x").touch()
    assert path.is_dir()


def test_a_directory_with_something_in_it_stays_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), new_directory(tmp_path / "in" / "new"):
        Path(shutil.copy(__file__, tmp_path / "in" / "kept")).mkdir()
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "kept"]


def test_leftovers_of_killed_runs_go_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out[1]"
    others = [
        ".out[1].0123abcd.tmp.tmp",
        ".out1.0123abcd.tmp",
        ".out[1].tmp",
        ".out[1].0123abcg.tmp",
        ".x.01234567.tmp",
    ]
    leftover, secret = tmp_path / ".out[1].0123abcd.tmp", tmp_path / ".out[1].deadbeef.tmp"
    for name in (*others, leftover, secret):
        (tmp_path / name).write_bytes(b"x")
    secret.chmod(0o400)
    os.mkfifo(tmp_path / ".out[1].00000000.tmp")
    (tmp_path / ".out[1].11111111.tmp").symlink_to("nowhere")
    write_bytes(path, b"new")
    kept = {*others, ".out[1].00000000.tmp", ".out[1].11111111.tmp", path.name}
    assert set(os.listdir(tmp_path)) == kept


@pytest.mark.parametrize(("name", "kept"), [("a" * 255, 241), ("\u00e9" * 127, 120)])
def test_a_name_may_be_as_long_as_names_may_be(name: str, kept: int, tmp_path: Path) -> None:
    (tmp_path / f".{name[:kept]}.0123abcd.tmp").touch()  # of a killed run
    write_bytes(tmp_path / name, b"a")
    assert os.listdir(tmp_path) == [name]


def test_what_a_living_run_writes_stays(tmp_path: Path) -> None:
    def meanwhile(f: BinaryIO) -> None:
        f.write(b"second")
        write_bytes(tmp_path / "out", b"first")

    write_atomically(tmp_path / "out", meanwhile)
    assert ((tmp_path / "out").read_bytes(), os.listdir(tmp_path)) == (b"second", ["out"])


def test_a_new_file_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run looks for leftovers between the making of a file and its lock."""
    monkeypatch.setattr(atomic, "lock", once(lambda fd, path: path.unlink(), lock))
    write_bytes(tmp_path / "out", b"x")
    monkeypatch.setattr(atomic, "lock", once(is_busy, lock))
    write_bytes(tmp_path / "two", b"x")
    assert sorted(os.listdir(tmp_path)) == ["out", "two"]


def is_busy(fd: int, path: Path) -> None:
    raise Busy("in use")


def once(first: Callable[..., Any], later: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter([first])
    return lambda *args: next(calls, later)(*args)


# ---- several files ----


def both(directory: Path, **second: Any) -> list[Output]:
    """Two files to write, "b" over an old one."""
    (directory / "b").write_bytes(b"old")
    return [
        Output(directory / "a", lambda f: f.write(b"new")),
        Output(directory / "b", **{"write": lambda f: f.write(b"new"), **second}),
        Output(directory / "c", lambda f: f.write(b"new")),
    ]


def test_files_written_together(tmp_path: Path) -> None:
    write_together(both(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys("abc", b"new")


def test_all_of_them_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"b": b"old"}
    with pytest.raises(BadFile, match=r"b: will not do"):
        write_together(both(tmp_path, verify=refuse))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(BadFile, match=r"b: exists; use --force"):
        write_together(both(tmp_path), new=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    rename = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "c":
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadFile, match=r"c: cannot be written: Permission denied"):
        write_together(both(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_does_not_reach_the_disk_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, where a full disk is told at the end."""
    (tmp_path / "x").write_bytes(b"old")
    fsync = os.fsync

    def failing(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(BadFile, match=rf"x: cannot be written: {os.strerror(errno.EDQUOT)}$"):
        write_bytes(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_name_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(atomic, "sync_directory", synced.append)
    write_bytes(tmp_path / "x", b"new")
    assert synced == [tmp_path]


def test_a_file_that_cannot_be_kept_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", without_links)
    write_together(both(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys("abc", b"new")


# ---- copying ----


@pytest.mark.parametrize(
    ("offset", "nbytes", "message"), [(4, 7, "ended while it was read"), (0, 1, "cannot be read: No such file")]
)
def test_what_cannot_be_copied(offset: int, nbytes: int, message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if offset:
        source.write_bytes(b"0123456789")
    with pytest.raises(BadFile, match=rf"source: {message}") as error:
        write_atomically(tmp_path / "out", lambda out: out.writelines(read_range(source, offset, nbytes)))
    assert error.value.file == str(source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ahead", [False, True])
def test_reads_in_pieces(ahead: bool, tmp_path: Path) -> None:
    content = os.urandom(9_000_000)
    (tmp_path / "source").write_bytes(content)
    pieces = []
    for piece in read_range(tmp_path / "source", 5, 8_999_990, ahead=ahead):
        time.sleep(0.01)  # in which the next is read
        pieces.append(bytes(piece))
    assert b"".join(pieces) == content[5:-5]
    assert len(pieces) > 1
    assert list(read_range(tmp_path / "source", 5, 0, ahead=ahead)) == []
    with pytest.raises(BadFile, match=r"source: ended while it was read, at byte 9000000$"):
        list(read_range(tmp_path / "source", 5, 8_999_996, ahead=ahead))


def test_a_reader_ahead_ends_with_who_reads(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(9_000_000))
    threads = threading.active_count()
    pieces = read_range(tmp_path / "source", 0, 9_000_000, ahead=True)
    next(pieces)
    assert threading.active_count() == threads + 1
    del pieces
    assert threading.active_count() == threads


def test_what_another_writer_does_to_a_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert identity(path) is None
    check_unchanged(path, None)
    path.write_bytes(b"abc")
    before = identity(path)
    check_unchanged(path, before)
    for change in (lambda: os.truncate(path, 2), lambda: os.utime(path, ns=(0, 0)), path.unlink):
        change()
        with pytest.raises(BadFile, match=r"x: changed since it was first read; start again when nothing writes"):
            check_unchanged(path, before)


# ---- interrupted, killed, out of space ----

MOMENTS = ["os:open", "autodeco_gguf.heads.model_writer:read_range", "os:fsync", "os:replace"]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_leaves_the_old_file(moment: str, number: signal.Signals, qwen2: Case, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    outcome = spawn(
        f"{moment}:{number:d}",
        "export",
        "--base",
        qwen2.base,
        "--heads",
        qwen2.heads,
        "-o",
        output,
        "--force",
        python=("-c", STRIKE),
    )
    assert outcome.status == SIGNALS[number]
    assert output.read_bytes() == b"old"
    left = {p.name for p in tmp_path.iterdir()} - {"out.gguf"}
    if number == signal.SIGKILL:
        assert all(re.fullmatch(r"\.out\.gguf\.\w+\.tmp", name) for name in left)
        assert left or moment == "os:open"
        export(qwen2.base, qwen2.heads, output, force=True)
        assert os.listdir(tmp_path) == ["out.gguf"]
    else:
        assert left == set()
        assert outcome.err.strip() == ("interrupted" if number == signal.SIGINT else "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_repack_leaves_the_file(number: signal.Signals, merged: Path, tmp_path: Path) -> None:
    path = rewrite(merged, tmp_path / "m.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    before = path.read_bytes()
    assert spawn(f"os:replace:{number:d}", "repack", path, python=("-c", STRIKE)).status == SIGNALS[number]
    assert path.read_bytes() == before


@dataclass(frozen=True)
class Disk:
    """A directory with room for about a megabyte; what a process needs to run out of it; what it is then told."""

    path: Path
    options: dict[str, Any]
    message: str


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A small tmpfs; where none can be mounted, a limit on the size of the files that a process writes."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(path)]
    mounted = mount is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        if mounted:
            yield Disk(path, {}, "No space left on device")
        else:
            yield Disk(
                path,
                {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000,) * 2)},
                "File too large",
            )
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


def test_full_disk(qwen2: Case, merged: Path, small_disk: Disk, tmp_path: Path) -> None:
    stale = rewrite(merged, small_disk.path / "stale.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    before, output = stale.read_bytes(), small_disk.path / "out.gguf"
    for command in (
        ("export", "--base", qwen2.base, "--heads", qwen2.heads, "-o", output),
        ("extract", merged, "--base", output),
        ("repack", stale),
    ):
        outcome = spawn(*command, **small_disk.options)
        assert_refused(outcome, ": cannot be written: ", small_disk.message, small_disk.path)
        assert [p.name for p in small_disk.path.iterdir()] == ["stale.gguf"]
    assert stale.read_bytes() == before
    if not small_disk.options:  # as much as leaves no room for the adapter, when the base is already written elsewhere
        free = shutil.disk_usage(small_disk.path).free
        (small_disk.path / "filler").write_bytes(bytes(free - 50_000))
    outcome = spawn("extract", merged, "--base", tmp_path / "b", "--adapter", output, **small_disk.options)
    assert_refused(outcome, ": cannot be written: ", small_disk.message)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk"]


PEAK = """
import re, resource, sys
import autodeco_gguf as ad
ad.export(*sys.argv[1:4])
ad.extract(sys.argv[3], base=sys.argv[4])
try:  # unlike ru_maxrss, it leaves out what the parent had when it forked
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
print(peak)
"""


def test_peak_memory_is_bounded(qwen2: Case, tmp_path: Path) -> None:
    base = big_base(tmp_path / "base.gguf", 200_000_000)
    paths = [str(p) for p in (base, qwen2.heads, tmp_path / "merged.gguf", tmp_path / "out.gguf")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    assert (tmp_path / "merged.gguf").stat().st_size > 200_000_000
    assert int(done.stdout) < 150e6  # found: 52e6
    for path in tmp_path.iterdir():  # pytest keeps the folder
        path.unlink()

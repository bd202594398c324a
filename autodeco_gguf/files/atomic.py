"""Files written so that a failure leaves the old one, and what is checked before any work for them begins."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy
from autodeco_gguf.files.lock import lock
from autodeco_gguf.files.system import open_bytes, set_mode, sync_directory

_Item = TypeVar("_Item")

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while files are written and looked at."""

_COPY_BYTES = 1 << 20
"""Bytes that are copied or compared at a time: they stay in the cache."""

_NAME_BYTES = 255 - len("..01234567.tmp")
"""Of a file's name, in the temporary one."""


@contextmanager
def bad_file(path: Path, what: str) -> Iterator[None]:
    """Inside it an ``OSError`` becomes the BadFile of a path: "PATH: cannot be read: Permission denied"."""
    try:
        yield
    except OSError as e:
        raise BadFile.of(path, f"{what}: {e.strerror or e}") from e


def read_range(source: Path, offset: int, nbytes: int, *, ahead: bool = False) -> Iterator[memoryview]:
    """Bytes of a file in pieces, in bounded memory: each is valid until the next, which ``ahead`` reads meanwhile.

    Raises BadFile where the file cannot be read, or ends early.
    """
    ahead = ahead and nbytes > _COPY_BYTES
    pieces = _pieces(source, offset, nbytes, 2 if ahead else 1)
    return _ahead(pieces) if ahead else pieces


def _pieces(source: Path, offset: int, nbytes: int, n_buffers: int) -> Iterator[memoryview]:
    buffers = [memoryview(bytearray(min(nbytes, _COPY_BYTES))) for _ in range(n_buffers)]
    with bad_file(source, "cannot be read"), source.open("rb", buffering=0) as f:
        f.seek(offset)
        for buffer in cycle(buffers):
            if not nbytes:
                return
            n = f.readinto(buffer[:nbytes])
            if not n:
                raise BadFile.of(source, f"ended while it was read, at byte {f.tell()}")
            yield buffer[:n]
            nbytes -= n


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Items, none of them None, the next of which is made by a thread while one is in use."""
    from concurrent.futures import ThreadPoolExecutor  # logging, which it imports, would make a start longer

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits; BadFile where it cannot be read."""
    digest = hashlib.sha256()
    for block in read_range(path, 0, path.stat().st_size, ahead=True):
        digest.update(block)
    return digest.hexdigest()


def identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is overwritten, truncated or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_unchanged(path: Path, before: tuple[int, ...] | None) -> None:
    """Raise BadFile where a file has another identity than before."""
    if identity(path) != before:
        raise BadFile.of(path, "changed since it was first read; start again when nothing writes to it")


def check_output(path: Path, *, inputs: Iterable[Path] = (), force: bool = False) -> None:
    """Raise BadFile for an output that is an input under any name, that exists without force, or cannot be made."""
    check_name(path)
    with bad_file(path, "cannot be written"):
        if path.is_dir():
            raise BadFile.of(path, "is a directory; give a file name")
        target = _target(path)
        check_new([path], inputs=inputs, force=force)
        _check_parent(target, path)


def check_name(path: Path) -> None:
    """Raise BadFile for the output "-", which elsewhere is standard output."""
    if str(path) == "-":
        raise BadFile.of(path, "is not standard output here; give another name")


def check_directory(path: Path) -> None:
    """Raise BadFile for an output directory that is a file, or "-", or that cannot be made."""
    check_name(path)
    with bad_file(path, "cannot be written"):
        if path.exists() and not path.is_dir():
            raise BadFile.of(path, "is a file; give a directory")
        _check_parent(path, path)


@contextmanager
def new_directory(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Make a directory, None for none, and those it lies in; what was not there and is empty goes again on an error."""
    if path is not None:
        check_name(Path(path))
    missing = [] if path is None else missing_directories(Path(path))
    try:
        for directory in missing:
            with bad_file(directory, "cannot be made"):
                directory.mkdir()
        yield
    except BaseException:
        with suppress(OSError):  # there is something in one by now
            for directory in reversed(missing):
                directory.rmdir()
        raise


def missing_directories(directory: Path) -> list[Path]:
    """What of a directory and those it lies in is no directory, the outermost first."""
    return [path for path in (*reversed(directory.parents), directory) if not path.is_dir()]


def check_new(paths: Collection[Path], *, inputs: Iterable[Path] = (), force: bool) -> None:
    """Raise BadFile where files that exist would be replaced without force, or inputs under any name."""
    same = same_file(paths, inputs)
    if same is not None:
        raise BadFile.of(same[0], f"is the input {same[1]}; choose another output")
    for path in paths:
        if path.exists() and not force:
            raise BadFile.of(path, "exists; use --force to replace it")


def same_file(paths: Iterable[Path], others: Iterable[Path]) -> tuple[Path, Path] | None:
    """The first of some paths that is one of the others under any name, and which; None where none is."""
    there = []
    for other in others:
        with bad_file(other, "cannot be read"):
            if other.exists():
                there.append(other)
    return next(((p, other) for p in paths if p.exists() for other in there if p.samefile(other)), None)


def _check_parent(target: Path, path: Path) -> None:
    parent = target.absolute().parent
    if not parent.is_dir():
        raise BadFile.of(path, f"no such directory as {parent}")


def _target(path: Path) -> Path:
    """The file that a name stands for, through links, there or not; BadFile where it is there and no regular file."""
    target = Path(os.path.realpath(path))
    # what /dev/stdout leads to may be a file without a name
    is_regular = path.is_file() and target.exists() and path.samefile(target)
    if not is_regular and (path.exists() or os.path.lexists(target)):
        raise BadFile.of(path, "is no regular file; give another name")
    return target


# ---- writing ----


class Output(NamedTuple):
    """A file to write, how, and what to check about it, as it lies on disk, before it takes its name."""

    path: Path
    write: Callable[[BinaryIO], object]
    verify: Callable[[Path], object] = lambda _: None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """As :func:`write_together`, one file."""
    write_together([Output(path, write)])


def write_together(outputs: Iterable[Output], *, new: bool = False) -> None:
    """Write files so that, whatever happens, they hold the old content or all of the new, and all of them or none do.

    A temporary file beside each is written, synced, verified and renamed; on any error, an interrupt included, it is
    removed. What earlier runs left there when they were killed is removed too. A link stays one: the file that it
    leads to is written. One that replaces another gets its permissions. They take their names one after the other when
    all are complete; only a kill just then leaves some.

    Args:
        outputs: the files.
        new: never replace a file, whoever makes it and when.

    Raises:
        BadFile: a directory cannot be written or is full; a path is no regular file, or there already, with ``new``.
        AutoDecoError: what writing and verifying raise.
    """
    with ExitStack() as temporaries, ExitStack() as undo:
        written = [(output, *temporaries.enter_context(_written(output))) for output in outputs]
        for n, (output, target, temporary) in enumerate(written, 1):
            with bad_file(output.path, "cannot be written"):
                way_back = _way_back(target, temporaries) if n < len(written) else None
                _rename(temporary, target, output.path, new)
            if way_back is not None:
                undo.callback(way_back)
        undo.pop_all()
        for output, target, _ in written:
            with bad_file(output.path, "cannot be written"):
                sync_directory(target.parent)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a small file atomically; BadFile where it cannot be written."""
    write_atomically(path, lambda f: f.write(content))


@contextmanager
def _written(output: Output) -> Iterator[tuple[Path, Path]]:
    """The file that an output stands for, and a temporary one beside it with all that it is to hold."""
    from concurrent.futures import ThreadPoolExecutor  # logging, which it imports, would make a start longer

    with bad_file(output.path, "cannot be written"):
        target = _target(output.path)
        _remove_leftovers(target)
        with _temporary(target) as (f, temporary):
            try:
                output.write(f)
                f.flush()
                with ThreadPoolExecutor(1) as pool:  # what is written is read back from memory meanwhile
                    synced = pool.submit(os.fsync, f.fileno())
                    output.verify(temporary)
                    synced.result()
            except AutoDecoError as e:  # of what was written, under the name it was to have
                e.args = (str(e).replace(str(temporary), str(output.path)),)
                e.file = str(output.path) if e.file == str(temporary) else e.file
                raise
            yield target, temporary


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside another, with its permissions from the start, locked so that no other run removes it."""
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    while True:
        temporary = _name_beside(target)
        try:
            fd = open_bytes(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666 if mode is None else mode)
            with open(fd, "wb") as f:
                if mode is not None:
                    set_mode(fd, mode)
                if _is_ours(fd, temporary):
                    yield f, temporary
                    return
        finally:
            temporary.unlink(missing_ok=True)


def _name_beside(target: Path) -> Path:
    return target.with_name(f".{_shortened(target.name)}.{secrets.token_hex(4)}.tmp")


def _shortened(name: str) -> str:
    """A file's name, cut where the temporary one would have more bytes than a name may have."""
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return name


def _is_ours(fd: int, temporary: Path) -> bool:
    """Lock a new temporary file; False where another run took it for a leftover before."""
    try:
        lock(fd, temporary)
    except Busy:
        return False
    return temporary.exists()


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files beside a file that no living process has locked."""
    name = re.compile(rf"\.{re.escape(_shortened(target.name))}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        for path in [p for p in target.parent.iterdir() if name.fullmatch(p.name)]:
            if path.is_symlink() or not path.is_file():
                continue
            # a lock wants write access on NFS; a file that was to be read-only is so from the start
            access = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY
            with suppress(OSError, Busy), open(os.open(path, access), "rb") as f:
                if lock(f.fileno(), path):
                    path.unlink()


def _rename(temporary: Path, target: Path, path: Path, new: bool) -> None:
    if not new:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike a rename it never replaces
    except FileExistsError:
        check_new([path], force=False)
        raise
    except OSError:  # a file system without hard links
        check_new([path], force=False)
        os.rename(temporary, target)


def _way_back(target: Path, cleanup: ExitStack) -> Callable[[], object] | None:
    """How to undo that a file takes this name; None where a file cannot be kept meanwhile."""
    if not target.exists():
        return target.unlink
    kept = _name_beside(target)
    try:
        os.link(target, kept)
    except OSError:  # a file system without hard links
        return None
    cleanup.callback(kept.unlink, missing_ok=True)
    return lambda: os.replace(kept, target)

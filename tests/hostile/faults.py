"""Lets every single call by which a writer changes a file fail, or be its process's last; looks at what is left.

``python tests/hostile/faults.py`` is all of it; ``--kills 1000`` also kills that many times at any moment, and as often
between the first write and the rename. It starts itself again with faults.c preloaded, and forks for each trial.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "qwen2"

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

ERRORS = {"eio": errno.EIO, "enospc": errno.ENOSPC, "kill": -1}
REFUSED = 7
"""Exit status of a trial whose writer raised an error of ours that names a file in its directory."""


@dataclass(frozen=True)
class Writer:
    """Something that writes files: what is there before, what it does, and which files it writes."""

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    outputs: tuple[str, ...]
    together: bool = True
    """An error leaves all of the outputs old, or all new."""
    prefix: bool = False
    """A file that grows: a beginning of it is whole too."""


def old(*names: str) -> Callable[[Path], object]:
    return lambda d: [(d / name).write_bytes(b"old") for name in names]


def writers() -> dict[str, Writer]:
    import autodeco_gguf as ad
    from autodeco_gguf.files.atomic import write_bytes
    from autodeco_gguf.files.journal import Journal
    from autodeco_gguf.files.jsonl import write_lines

    base, heads = FIXTURES / "base.gguf", FIXTURES / "heads"
    made = Path(tempfile.mkdtemp(prefix="faults-"))
    merged = ad.export(base, heads, made / "merged.gguf").path
    stale = _stale(merged, made / "stale.gguf")

    def journal(d: Path) -> None:
        with Journal(d / "x", {"kind": 1}) as j:
            done = [line.value for line in j.lines()]
            for i in range(len(done), 5):
                j.append(i)

    def checkpoint(d: Path) -> None:
        ad.extract(merged, checkpoint=d / "h", force=True)

    return {
        "export": Writer(old("x"), lambda d: ad.export(base, heads, d / "x", force=True), ("x",)),
        "export new": Writer(old(), lambda d: ad.export(base, heads, d / "x"), ("x",)),
        "adapter": Writer(old("x"), lambda d: ad.export(base, heads, d / "x", adapter=True, force=True), ("x",)),
        "extract": Writer(
            old("b", "a"), lambda d: ad.extract(merged, base=d / "b", adapter=d / "a", force=True), ("b", "a")
        ),
        "checkpoint": Writer(old(), checkpoint, ("h/config.json", "h/model.safetensors")),
        "repack": Writer(lambda d: shutil.copy(stale, d / "x"), lambda d: ad.repack(d / "x"), ("x",)),
        "lines": Writer(old("x"), lambda d: write_lines(d / "x", range(30_000)), ("x",)),
        "bytes": Writer(old("x"), lambda d: write_bytes(d / "x", b"new" * 1000), ("x",)),
        "journal": Writer(old(), journal, ("x",), prefix=True),
    }


def _stale(merged: Path, path: Path) -> Path:
    """As another tool leaves a merged file: the last byte of a value is another, so that the view differs."""
    raw = bytearray(merged.read_bytes())
    at = raw.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    key = raw.index(b"autodeco.base_model")
    assert raw[at : at + 5] == b"qwen2"
    at = raw.index(b"qwen2.context_length", 0, key) + len(b"qwen2.context_length") + 4
    raw[at] ^= 1
    path.write_bytes(raw)
    return path


class Trials:
    """Trials of one writer, each in a fork, in directories of their own."""

    def __init__(self, name: str, writer: Writer, directory: Path) -> None:
        self.name, self._writer, self._directory = name, writer, directory
        self._core = ctypes.CDLL(None)
        self._core.faults_kill_after.argtypes, self._core.faults_span.restype = [ctypes.c_double], ctypes.c_double
        self._before = self._made("before", 0, 0)[1]
        status, self._after = self._made("after", 0, 0, write=True)
        assert status == 0, (name, status)
        calls, span = (directory / "calls").read_text().split()
        self.calls, self._span = int(calls), float(span)

    def _made(self, name: str, at: int, error: int, *, write: bool = False) -> tuple[int, dict[str, bytes]]:
        d = self._directory / name
        shutil.rmtree(d, ignore_errors=True)
        d.mkdir()
        self._writer.prepare(d)
        status = self._fork(d, at, error) if write else 0
        return status, self.contents(d)

    def contents(self, d: Path) -> dict[str, bytes]:
        return {str(p.relative_to(d)): p.read_bytes() for p in d.rglob("*") if p.is_file()}

    def _fork(self, d: Path, at: int, error: int, kill_after: float | None = None, kill_in_write: float = -1) -> int:
        """The exit status of the writer in a child of ours, negative for a signal.

        ``kill_after`` so many seconds; ``kill_in_write`` so many after its first write, unless that is renamed before.
        """
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self._core.faults_arm(at, error)
                self._core.faults_kill_after(kill_in_write)
                self._writer.write(d)
                status = 0
            except Exception as e:
                from autodeco_gguf.errors import AutoDecoError

                self._core.faults_arm(0, 0)
                status = REFUSED if isinstance(e, AutoDecoError) and str(d) in str(e) else 1
                if status == 1:
                    print(f"{self.name}, call {at}: {e!r}", file=sys.stderr, flush=True)
            finally:
                calls, span = self._core.faults_count(), self._core.faults_span()
                self._core.faults_arm(0, 0)
                if at == 0 and kill_after is None:
                    (self._directory / "calls").write_text(f"{calls} {span}")
                os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def check(self, d: Path, status: int, what: str) -> str:
        """What came of a trial; AssertionError for a file that is neither the old nor the new one, or too many."""
        found = self.contents(d)
        kinds = set()
        for name in self._writer.outputs:
            content = found.get(name)
            is_old, is_new = content == self._before.get(name), content == self._after[name]
            torn = self._writer.prefix and content is not None and self._after[name].startswith(content)
            assert is_old or is_new or torn, f"{self.name}, {what}: {name} has {len(content or b'')} other bytes"
            kinds.add("new" if is_new else "old")
        killed = status == -signal.SIGKILL
        assert killed or status in (0, REFUSED), f"{self.name}, {what}: status {status}"
        if not killed:
            assert len(kinds) == 1 or not self._writer.together, f"{self.name}, {what}: some old, some new"
            assert found.keys() <= {*self._before, *self._after}, f"{self.name}, {what}: left {sorted(found)}"
            assert status != 0 or kinds == {"new"}, f"{self.name}, {what}: it says that it wrote"
        again = self._fork(d, 0, 0)  # which another run mends
        exists = again == REFUSED and kinds == {"new"} and self.name == "export new"
        assert again == 0 or exists, f"{self.name}, {what}: the next run ends with {again}"
        left = {n: c for n, c in self.contents(d).items() if not (exists and n.endswith(".tmp"))}
        assert left == self._after, f"{self.name}, {what}: the next run leaves {sorted(left)}"
        return ("killed" if killed else "refused" if status else "done") + f", {'/'.join(sorted(kinds))}"

    def each_call(self, error: str) -> Counter[str]:
        """Every call in turn fails, or is the last."""
        found = Counter[str]()
        for at in range(1, self.calls + 1):
            status, _ = self._made("d", at, ERRORS[error], write=True)
            found[self.check(self._directory / "d", status, f"{error} at call {at}")] += 1
        return found

    def any_moment(self, rng: random.Random, count: int) -> Counter[str]:
        """Killed from outside, at a random moment of the time that it takes."""
        begin = time.monotonic()
        self._made("d", 0, 0, write=True)
        seconds, found = time.monotonic() - begin, Counter[str]()
        for i in range(count):
            self._made("d", 0, 0)
            status = self._fork(self._directory / "d", 0, 0, kill_after=rng.random() * seconds * 1.1)
            found[self.check(self._directory / "d", status, f"kill {i}")] += 1
        return found

    def in_the_write(self, rng: random.Random, count: int) -> Counter[str]:
        """Killed so often by the kernel, at random moments between the first write and the name of what is written."""
        found, left = Counter[str](), count
        for i in range(20 * count):
            if left == 0:
                return found
            self._made("d", 0, 0)
            status = self._fork(self._directory / "d", 0, 0, kill_in_write=rng.random() * self._span)
            found[self.check(self._directory / "d", status, f"kill {i} in the write")] += 1
            left -= status == -signal.SIGKILL
        raise AssertionError(f"{self.name}: {left} kills of {count} came too late, though tried {20 * count} times")


def preloaded(*args: str) -> list[str]:
    """The command of this module with the faults in it, which takes a C compiler."""
    library = Path(tempfile.mkdtemp(prefix="faults-")) / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True, timeout=60)
    return ["env", f"LD_PRELOAD={library}", sys.executable, str(HERE / "faults.py"), "--preloaded", *args]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preloaded", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0, help="so many of each kind, over all writers")
    parser.add_argument("--errors", nargs="*", choices=ERRORS, default=list(ERRORS))
    args = parser.parse_args()
    if not args.preloaded:
        sys.exit(subprocess.run(preloaded(*sys.argv[1:]), check=False).returncode)
    rng = random.Random(args.seed)
    all_writers = writers()
    found: dict[str, dict[str, int]] = {}
    for name, writer in all_writers.items():
        with tempfile.TemporaryDirectory() as directory:
            trials = Trials(name, writer, Path(directory))
            for error in args.errors:
                found[f"{name}, {error} at each of {trials.calls} calls"] = trials.each_call(error)
            if args.kills:
                n = -(-args.kills // len(all_writers))
                found[f"{name}, {n} kills at any moment"] = trials.any_moment(rng, n)
                found[f"{name}, {n} kills in the write"] = trials.in_the_write(rng, n)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""A process that runs the command line on one broken file after another, and says how each ended.

It reads seeds, a line each, and answers each with a line of JSON. Whoever started it notices when a case ends it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

CPU_S = 20
"""Processor time of one case at which this process is ended."""

AT_MOST = 8 << 30
"""Bytes of address space beyond what is mapped at the start, of any file written: 1/64 of it."""


def memory(name: str) -> int:
    """A value of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def limit_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, resource.RLIM_INFINITY))


def run_case(seed: int, directory: Path, made: Path, *, quick: bool = False) -> dict[str, Any]:
    """Make the file, run what reads it, and say how that went; stdout and stderr go to files.

    Nothing of a case that is not ``quick``, where such are wanted.
    """
    from hostile.cases import GGUF_ALONE, case_of

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    call = case_of(seed, directory, made)
    if quick and not GGUF_ALONE.match(call.what):
        return {}
    directory.with_suffix(".what").write_text(call.what)
    streams = [
        os.open(directory.parent / f"{directory.name}.{name}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for name in ("out", "err")
    ]
    for fd, stream in enumerate(streams, 1):
        os.dup2(stream, fd)
    read = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    forget_peak()
    before, begin, wall = memory("VmRSS"), time.process_time(), time.monotonic()
    limit_cpu()
    try:
        call.run()
        status: Any = 0
    except SystemExit as e:
        status = e.code
    except BaseException:
        status = traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    said = []
    for stream in streams:
        said.append(os.pread(stream, 1 << 16, 0).decode("utf-8", "backslashreplace"))
        os.close(stream)
    return {
        "seed": seed,
        "what": call.what,
        "status": status,
        "cpu_s": time.process_time() - begin,
        "wall_s": time.monotonic() - wall,
        "memory": max(0, memory("VmHWM") - before),
        "read": read,
        "out": said[0],
        "err": said[1],
        "left": sorted(p.name for p in directory.rglob("*.tmp")),
    }


def main() -> None:
    directory, made = map(Path, sys.argv[1:3])
    quick = sys.argv[3:] == ["quick"]
    seeds, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # commands read standard input
    from hostile.cases import warm_up

    warm_up()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + AT_MOST, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (AT_MOST // 64, resource.RLIM_INFINITY))
    for line in seeds:
        print(json.dumps(run_case(int(line), directory, made, quick=quick)), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Finds the broken files that end badly: ``python tests/hostile/hunt.py --seed 7 --count 20000``."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile.cases import GGUF_ALONE, is_gguf, prepare

ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1"}
"""Of a worker: a crash says so at once, and two of them do not wait for each other's threads."""

SECONDS, MEGABYTES, HANGS_S = 5, 300, 300
"""What one file may cost: processor time, memory beyond what was in use, and wall time at which the worker is ended."""

QUICK_SECONDS, QUICK_MEGABYTES = 1, 64
"""The same for what is done with a GGUF alone."""

STARTS_S = 600
"""The same for the first of a worker, which imports all that there is."""


def fault(answer: dict[str, Any]) -> str:
    """What is wrong with how a case ended; empty: nothing."""
    status, err = answer["status"], answer["err"]
    if isinstance(status, str) and not status.startswith("error: "):
        return f"traceback: {status}"
    if "Traceback" in err:
        return f"traceback: {err}"
    if status not in (0, 1, 2) and not isinstance(status, str):
        return f"exit status {status}: {err}"
    if isinstance(status, str) and "\n" in status:
        return f"more than one line: {status}"
    if status in (1, 2) and not re.search(r"^error: .*\n\Z", err, re.M):
        return f"no line that says what is wrong: {err!r}"
    text = err + (status if isinstance(status, str) else "") + ("" if ": run " in answer["what"] else answer["out"])
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text):
        return f"control characters: {text!r}"
    seconds, megabytes = (QUICK_SECONDS, QUICK_MEGABYTES) if GGUF_ALONE.match(answer["what"]) else (SECONDS, MEGABYTES)
    if answer["cpu_s"] > seconds:
        return f"{answer['cpu_s']:.1f} s"
    mapped = answer["read"] if ": run " in answer["what"] else 0  # by llama.cpp, and the system can have it back
    if answer["memory"] - mapped > megabytes << 20:
        return f"{answer['memory'] >> 20} MB"
    return f"left behind: {answer['left']}" if answer["left"] else ""


class Worker:
    """A worker process, started again when a case ends it."""

    def __init__(self, directory: Path, made: Path, quick: bool = False) -> None:
        self._directory, self._made, self._quick = directory, made, quick
        self._process: subprocess.Popen[str] | None = None
        self._begun = False

    def ask(self, seed: int) -> tuple[dict[str, Any], str]:
        """How the case of a seed went, and what is wrong with that; nothing of one that is passed over."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{seed}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANGS_S if self._begun else STARTS_S)
        self._begun = True
        line = process.stdout.readline() if ready else ""
        if line:
            answer = json.loads(line)
            return answer, answer and fault(answer)
        if not ready:
            process.kill()
        code = process.wait()
        self.stop()
        paths = [self._directory.with_suffix(suffix) for suffix in (".err", ".what")]
        said, call = (p.read_text("utf-8", "replace") if p.exists() else "" for p in paths)
        what = f"no answer within {HANGS_S} s" if not ready else f"ended with {code}"
        return {"seed": seed, "what": call}, f"{what}: {said[-1500:]}"

    def _start(self) -> None:
        self._begun = False
        path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [
            sys.executable,
            "-m",
            "hostile.worker",
            str(self._directory),
            str(self._made),
            *["quick"] * self._quick,
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        )

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._process = None


def hunt(
    seeds: Iterator[int], directory: Path, n_workers: int = 2, record: TextIO | None = None, *, quick: bool = False
) -> list[str]:
    """The cases that end badly, each as a line with its seed; ``record`` gets a line of JSON for every case.

    ``quick``: of the seeds those alone that run, inspect, export or repack a GGUF.
    """
    made = directory / "made"
    made.mkdir()
    prepare(made)
    seeds = filter(is_gguf, seeds) if quick else seeds
    found: list[str] = []
    lock = threading.Lock()

    def work(i: int) -> None:
        worker = Worker(directory / f"w{i}", made, quick)
        try:
            while True:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                answer, wrong = worker.ask(seed)
                if not answer:
                    continue
                with lock:
                    if record is not None:
                        kept = {key: answer.get(key) for key in ("seed", "what", "status", "cpu_s", "memory", "read")}
                        print(json.dumps({**kept, "wrong": wrong}), file=record, flush=True)
                    if wrong:
                        found.append(f"seed {seed}, {answer.get('what', '')}: {wrong}")
                        print(found[-1], flush=True)
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def summary(lines: Iterator[dict[str, Any]]) -> str:
    """How many cases there were, how they ended, and what they took."""
    cases = list(lines)
    gguf = [case for case in cases if case["what"].startswith(("model.gguf", "adapter"))]
    quick = sum(bool(GGUF_ALONE.match(case["what"])) for case in cases)
    text = (
        f"{len(cases)} cases, {len(gguf)} of them GGUFs, {quick} of these to run, inspect, export, repack; "
        f"{sum(bool(case['wrong']) for case in cases)} end badly"
    )
    for name, unit, scale in (("cpu_s", "s", 1), ("memory", "MB", 1 << 20)):
        values = sorted(case[name] / scale for case in cases if case[name] is not None)
        shares = ", ".join(
            f"{share:.1%} within {values[int(share * (len(values) - 1))]:.2f}" for share in (0.5, 0.99, 0.999)
        )
        text += f"\n{name}, {unit}: {shares}, at most {values[-1]:.2f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file for how each case went; those in it already are passed over")
    parser.add_argument("--seed", type=int, default=0, help="the first of the cases' seeds")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="only those that run, inspect, export or repack a GGUF")
    args = parser.parse_args()
    path = args.record or Path(os.devnull)
    done = {case["seed"] for case in map(json.loads, path.read_text().splitlines())} if path.exists() else set()
    seeds = (seed for seed in range(args.seed, args.seed + args.count) if seed not in done)
    with tempfile.TemporaryDirectory() as directory, path.open("a") as record:
        found = hunt(seeds, Path(directory), args.workers, record, quick=args.quick)
    if args.record:
        print(summary(map(json.loads, path.read_text().splitlines())))
    print(f"{len(found)} of {args.count - len(done)} end badly")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

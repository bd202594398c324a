"""Tokens per second beside busy processes: what spinning threads cost there, and what the package's bounded spin saves.

Takes turns between libgomp's own spin (before), the package's (after), one that sleeps at once, and one thread alone,
each beside no, one and two processes that keep a core busy; for `run` (one answer) and an Engine of four. A round gives
every setting its turn; ratios are to "before" of the same round.

    python benchmarks/busy.py MODEL [--heads ADAPTER] --json benchmarks/busy.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from overhead import machine

from autodeco_gguf.model.shipped import DEMO_MODEL

PROMPT = "Tell a story about Mia with 47 and 38."
SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "before": ({"GOMP_SPINCOUNT": "300000"}, []),  # libgomp's default where OMP_WAIT_POLICY is not set
    "after": ({}, []),
    "passive": ({"OMP_WAIT_POLICY": "passive"}, []),
    "one thread": ({}, ["-t", "1"]),
}
LIMIT = 10.0
"""Seconds that one measurement may take; a slower one counts with the tokens that it has by then."""


@contextmanager
def busy(n: int) -> Iterator[None]:
    """With n processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rate(setting: str, parallel: int, args: argparse.Namespace) -> float:
    """Tokens per second of a fresh process, once every answer has its first token."""
    variables, options = SETTINGS[setting]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | variables
    command = [sys.executable, __file__, str(args.model), "--worker", str(parallel), "--tokens", str(args.tokens)]
    if args.heads:
        command += ["--heads", str(args.heads)]
    return float(subprocess.run([*command, *options], env=env, check=True, capture_output=True, text=True).stdout)


def work(args: argparse.Namespace) -> float:
    """What :func:`rate` starts."""
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request
    from autodeco_gguf.model.machine import Machine

    n = args.worker
    with Engine(
        args.model, heads=args.heads, n_parallel=n, n_ctx=1024, machine=Machine(n_threads=args.threads)
    ) as engine:
        prompt = engine.prompt(PROMPT)
        generations = [engine.submit(Request(prompt, seed=i, max_tokens=args.tokens)) for i in range(n)]
        engine.run_until(lambda: all(generation.n_drawn for generation in generations))
        drawn, begin = sum(generation.n_drawn for generation in generations), time.perf_counter()
        engine.run_until(
            lambda: all(generation.finish_reason for generation in generations) or time.perf_counter() > begin + LIMIT
        )
        return (sum(generation.n_drawn for generation in generations) - drawn) / (time.perf_counter() - begin)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for parallel in (1, 4):
        for n_busy in (0, 1, 2):
            rates: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
            for _ in range(args.rounds):
                for setting, found in rates.items():
                    with busy(n_busy):
                        found.append(rate(setting, parallel, args))
            for setting, found in rates.items():
                ratios = [a / b for a, b in zip(found, rates["before"], strict=True)]
                row = {"answers": parallel, "busy": n_busy, "setting": setting}
                rows.append(row | {"tok_s": statistics.median(found), "ratio": statistics.median(ratios)})
                print(
                    f"{parallel} at once beside {n_busy} busy, {setting:10s}: {rows[-1]['tok_s']:7.1f} tokens/s, "
                    f"{rows[-1]['ratio']:.2f} of before",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL)
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(work(args))
        return
    result = {"machine": machine(), "model": args.model.name, "rows": measure(args)}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

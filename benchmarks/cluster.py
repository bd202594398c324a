"""Answers over a Ray cluster: what a second node brings, and what an answer costs the process that hands them out.

Nodes of one CPU on this machine, one thread each, draw the same answers, alone and together; they have to be those of
an engine without Ray. Then actors that draw nothing answer at once, which leaves the processor time of the driver for
an answer: handed out, received, graded and written. From it follows how many nodes one driver can keep busy.

    python benchmarks/cluster.py [MODEL] --json benchmarks/cluster.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from overhead import machine

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.cluster.actor import VERSIONS, About, Actor, Job, Spec
from autodeco_gguf.cluster.connection import Connection
from autodeco_gguf.cluster.fleet import Fleet
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.evaluation.methods import parse_methods
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.model.trace import Trace
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

ONE_THREAD = Machine(n_threads=1, flash_attn=True)
SIZE = {"object_store_memory": 80 << 20, "include_dashboard": False}
NODES = ((100, 1000), (2000, 1000), (2000, 8000), (10000, 8000))
"""Tokens a second of a node, and tokens of an answer: a few cores; a GPU; longer answers; a large GPU."""


class Stub:
    """An actor whose answers are there at once."""

    def __init__(self, threads: int) -> None:
        self.tokens, self.job, self.under_way = 0, -1, list[int]()

    def hello(self) -> int:
        return os.getpid()

    def load(self, spec: Spec) -> About:
        self.tokens = int(spec.model or 0)
        return About(
            versions=VERSIONS,
            fingerprint=f"{'0' * 64} {'1' * 64}",
            n_ctx=4096,
            n_vocab=2,
            heads=frozenset(("temperature", "top_p")),
            machine=ONE_THREAD,
            heads_file=None,
            model_name="stub.gguf",
            metadata={},
            threads=1,
            omp_threads="1",
            devices=(),
        )

    def prompts(self, messages: Sequence[str]) -> tuple[list[tuple[str, list[int]]], None]:
        return [(message, [1] * 200) for message in messages], None

    def draw(self, job: Job, requests: Sequence[tuple[int, Request]]) -> list[Result]:
        if job[0] > self.job:
            self.job, self.under_way = job[0], []
        self.under_way += [number for number, _ in requests]
        n, some, self.under_way = self.tokens, self.under_way[:2], self.under_way[2:]  # what a call brings of a model
        values = np.full(n, 0.5, np.float32)
        text = "word " * n + "The answer is 7."
        return [Result(i, [1] * n, text, "stop", None, Trace(), values, values) for i in some]


# ---- what a second node brings ----


def asked(engine: Engine | Fleet, args: argparse.Namespace) -> list[Request]:
    prompts = engine.prompts(f"Tell a story about Mia with {i} and 38." for i in range(args.answers // 4))
    return [
        Request(tokens, seed=seed, max_tokens=args.tokens, temperature=1.0, top_p=1.0)
        for tokens in prompts
        for seed in range(4)
    ]


def timed(results: Iterable[Result]) -> tuple[float, list[tuple[int, str]], int]:
    """Tokens a second, what was drawn, and how much of it."""
    begin = time.perf_counter()
    found = list(results)
    seconds = time.perf_counter() - begin
    n = sum(len(result.temperature) for result in found)
    return n / seconds, sorted((result.index, result.text) for result in found), n


@contextmanager
def fleet_of(address: str, spec: Spec, n: int, actor: type = Actor) -> Iterator[Fleet]:
    """A fleet whose nodes are all ready."""
    with Connection(address, actor=actor) as connection, Fleet(connection, spec) as fleet:
        while fleet.size < n:
            fleet.look()
        yield fleet


def scaling(cluster: Any, args: argparse.Namespace) -> dict[str, Any]:
    how: dict[str, Any] = {"n_parallel": args.parallel, "n_ctx": 512, "machine": ONE_THREAD}
    rates: dict[str, list[float]] = {"engine": [], "1 node": [], "2 nodes": []}
    with Engine(args.model, batching=Batching(batch_invariant=True), **how) as engine:
        requests = asked(engine, args)
        _, expected, tokens = timed(engine.as_completed(requests))  # a warm-up as well
        for _ in range(args.rounds):
            rates["engine"].append(timed(engine.as_completed(requests))[0])
    spec = Spec(model=str(args.model), **how)
    for n in (1, 2):
        cluster.add_node(num_cpus=1, **SIZE)
        with fleet_of(cluster.address, spec, n) as fleet:
            for i in range(args.rounds + 1):
                rate, drawn, _ = timed(fleet.as_completed(asked(fleet, args)))
                assert drawn == expected, "the cluster has drawn something else"
                if i:
                    rates[list(rates)[n]].append(rate)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:8s} {medians[name]:8.1f} tokens/s, {min(found):.1f} to {max(found):.1f}", flush=True)
    ratio = medians["2 nodes"] / medians["1 node"]
    print(f"2 nodes to 1: {ratio:.2f}; 1 node to an engine without Ray: {medians['1 node'] / medians['engine']:.2f}")
    answers = {"answers": len(requests), "tokens": tokens, "parallel": args.parallel, "rounds": args.rounds}
    return {**answers, "tok_s": rates, "median_tok_s": medians, "ratio": ratio}


# ---- what an answer costs the driver ----


def driver_cost(cluster: Any, tokens: int, n: int) -> dict[str, Any]:
    """Milliseconds of this process's processors for an answer of so many tokens: in the fleet alone, and in all."""
    problems = tuple(Problem(f"What is {i} and 7?", "7", i + 1, "stub.jsonl") for i in range(n // 8))
    spec, task = Spec(model=str(tokens), n_parallel=16, machine=ONE_THREAD), Task("stub", problems, "number")
    with fleet_of(cluster.address, spec, 2, Stub) as fleet, GradedTasks([task]) as tasks:
        list(fleet.as_completed(Request([1] * 200, seed=i, max_tokens=tokens) for i in range(200)))
        begin = time.process_time()
        list(fleet.as_completed(Request([1] * 200, seed=i, max_tokens=tokens) for i in range(n)))
        alone = time.process_time() - begin
        settings = EvalSettings(k=8, seeds=1, max_tokens=tokens)
        with tempfile.TemporaryDirectory() as directory:
            methods = parse_methods(["autodeco"], fleet.heads, {})
            begin = time.process_time()
            evaluate(fleet, tasks, Path(directory), methods, settings, also=())
            whole = time.process_time() - begin
    row = {"tokens": tokens, "answers": n, "fleet_ms": 1e3 * alone / n, "whole_ms": 1e3 * whole / n}
    print(
        f"answers of {tokens} tokens: {row['fleet_ms']:.2f} ms to hand out and receive, {row['whole_ms']:.2f} ms in all"
    )
    return row


def limits(costs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each kind of node: the share of the driver that 1,000 of them take, and how many take all of it."""
    rows = []
    for speed, tokens in NODES:
        # a line through what was measured
        (a, b) = np.polyfit([row["tokens"] for row in costs], [row["whole_ms"] for row in costs], 1)
        cost_s = 1e-3 * max(a * tokens + b, 0)
        nodes = 1 / (cost_s * speed / tokens)
        rows.append(
            {
                "node_tok_s": speed,
                "tokens": tokens,
                "cost_ms": 1e3 * cost_s,
                "nodes": int(nodes),
                "of_1000": 1000 / nodes,
            }
        )
        print(
            f"nodes of {speed} tokens/s, answers of {tokens} tokens: "
            f"at most {nodes:,.0f}; 1,000 take {1000 / nodes:.1%} of a driver"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL)
    parser.add_argument("--answers", type=int, default=64, help="of a round")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stubs", type=int, default=4000, help="answers that are made up")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for the nodes, which inherit it
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SIZE})
    try:
        scaled = scaling(cluster, args)
        costs = [driver_cost(cluster, tokens, args.stubs) for tokens in (100, 1000)]
    finally:
        cluster.shutdown()
    result = {
        "machine": machine(),
        "model": args.model.name,
        "scaling": scaled,
        "driver": costs,
        "limits": limits(costs),
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

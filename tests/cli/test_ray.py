"""eval and rollouts over a Ray cluster of several nodes here: what one process gives, whatever goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from broken import MAIN, Outcome, assert_refused, spawn
from ray_nodes import RayNodes
from rpc_helpers import addresses, kill, needs_rpc, restarted
from rpc_helpers import running as running_workers

from autodeco_gguf.cli._ray import check_ray, make_spec
from autodeco_gguf.heads.known import KnownModel
from autodeco_gguf.model.machine import Machine

LIMIT_S = 240
"""Seconds after which something hangs, on a machine that has much else to do."""

CHECKER = """
import os

def check(text, answer):
    if "3" in answer and text:
        raise ValueError("cannot tell")
    if "4" in answer and text:
        os._exit(3)
    return len(text) % 2 == 0
"""

SHORT = ("eval", "--methods", "autodeco,greedy", "-k", 4, "--limit", 40, "-c", 160, "--parallel", 4, "--seeds", 2)
EVAL = (*SHORT[:-1], 8)
"""Long enough for a node to join meanwhile, also on a machine that has nothing else to do."""
COMMON = ("-t", 1, "--no-plots")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def one_process(workplace: Path) -> list[str]:
    """The samples that no cluster has drawn."""
    done = spawn(*EVAL, *COMMON, "-o", "one", cwd=workplace, timeout=LIMIT_S)
    assert done.status == 0, done.err
    return samples(workplace / "one")


def samples(directory: Path) -> list[str]:
    path = directory / "samples.jsonl"
    return sorted(path.read_text().splitlines()) if path.exists() else []


class Running:
    """A command that runs, with what it has said so far."""

    def __init__(self, where: Path, *args: object) -> None:
        self._err = where / "stderr"
        self._out = where / "stdout"
        with self._err.open("wb") as err, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=where,
                env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            )

    @property
    def said(self) -> str:
        return self._err.read_text()

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not ready():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self) -> Outcome:
        status = self.process.wait(LIMIT_S)
        return Outcome(status, self._out.read_text(), self.said)


@pytest.fixture
def start(workplace: Path, ray_nodes: RayNodes) -> Iterator[Callable[..., Running]]:
    """Starts commands on the cluster, and ends what is left of them."""
    started: list[Running] = []

    def run(*args: object) -> Running:
        started.append(Running(workplace, *args, f"--ray={ray_nodes.address}", *COMMON[:2]))
        return started[-1]

    yield run
    for running in started:
        running.process.kill()
        running.process.wait()


def drawn(workplace: Path, name: str) -> int:
    return len(samples(workplace / name))


# ---- nodes that come and go ----


def test_a_node_that_is_killed_and_one_that_is_added(
    workplace: Path, one_process: list[str], ray_nodes: RayNodes, start: Callable[..., Running]
) -> None:
    first, _ = ray_nodes.have((1, 0), (1, 0))
    running = start(*EVAL, "--no-plots", "--traces", "-o", "two")
    running.until(lambda: drawn(workplace, "two") >= 20)
    ray_nodes.kill(first)
    running.until(lambda: f"({first[:6]}): a process is lost" in running.said)
    before = drawn(workplace, "two")
    third = ray_nodes.add()
    running.until(lambda: f"({third[:6]}): 1 at a time, each with 1 thread, on the CPU" in running.said)
    assert before < drawn(workplace, "two") <= len(one_process)
    done = running.end()
    assert done.status == 0, done.err
    assert samples(workplace / "two") == one_process
    traces = [json.loads(line) for line in (workplace / "two" / "traces.jsonl").read_text().splitlines()]
    assert len(traces) == len(one_process)
    assert all(len(line["tokens"]["text"]) == len(line["tokens"]["temperature"]) for line in traces[:40])
    assert "raylet" not in done.out  # Ray's own words are none of ours
    results = [json.loads((workplace / name / "results.json").read_text()) for name in ("one", "two")]
    origins = [{**one["origin"], "date": None} for one in results]
    assert origins[0] == origins[1]
    assert [row["overall"]["pass@1"] for row in results[0]["methods"]] == [
        row["overall"]["pass@1"] for row in results[1]["methods"]
    ]


def test_the_last_node_goes_and_another_comes(
    workplace: Path, one_process: list[str], ray_nodes: RayNodes, start: Callable[..., Running]
) -> None:
    (only,) = ray_nodes.have((1, 0))
    running = start(*EVAL, "--no-plots", "-o", "gone")
    running.until(lambda: drawn(workplace, "gone") >= 20)
    ray_nodes.kill(only)
    running.until(lambda: "no node to draw on: waiting, at most 10 minutes" in running.said)
    assert drawn(workplace, "gone") < len(one_process)
    ray_nodes.add()
    done = running.end()
    assert done.status == 0, done.err
    assert samples(workplace / "gone") == one_process


def test_no_node_ever_again(
    workplace: Path, one_process: list[str], ray_nodes: RayNodes, start: Callable[..., Running]
) -> None:
    (only,) = ray_nodes.have((1, 0))
    running = start(*EVAL, "--no-plots", "-o", "never")
    running.until(lambda: drawn(workplace, "never") >= 20)
    ray_nodes.kill(only)
    running.until(lambda: "no node to draw on: waiting" in running.said)
    running.process.send_signal(signal.SIGINT)
    done = running.end()
    assert done.status == 130
    assert [line for line in done.err.splitlines() if line][-2:] == [
        "never: what is finished is kept; the same command goes on from there",
        "interrupted",
    ]
    kept = samples(workplace / "never")
    assert len(kept) >= 20
    done = start(*EVAL, "--no-plots", "-o", "never", "--ray-wait", 0.02).end()
    assert_refused(Outcome(done.status, done.out, done.err.splitlines(keepends=True)[-1]), NO_NODE)
    assert samples(workplace / "never") == kept
    done = spawn(*EVAL, *COMMON, "-o", "never", cwd=workplace, timeout=LIMIT_S)  # without Ray
    assert done.status == 0, done.err
    assert set(kept) <= set(samples(workplace / "never"))
    assert samples(workplace / "never") == one_process


NO_NODE = "error: --ray: no node to draw on for 0.02 minutes; add one and run the same command again"


# ---- nodes whose model is on workers ----

ON_WORKERS = ("--device", "none", "--gpu-layers", -1, "--cache-type", "f32", "--no-flash-attn")


@needs_rpc
def test_a_node_whose_model_is_on_a_worker_that_is_lost_and_comes_back(
    workplace: Path, ray_nodes: RayNodes, start: Callable[..., Running]
) -> None:
    ray_nodes.have((1, 0))
    with running_workers() as (worker,):
        on_it = *ON_WORKERS, "--rpc", addresses([worker])[0]
        done = spawn(*SHORT, *COMMON, *on_it, "-o", "here", cwd=workplace, timeout=LIMIT_S)
        assert done.status == 0, done.err
        remote = start(*SHORT, "--no-plots", *on_it, "-o", "there")
        remote.until(lambda: drawn(workplace, "there") >= 20)
        kill(worker)
        remote.until(lambda: "is lost" in remote.said)
        another = restarted(worker)
        try:
            done = remote.end()
        finally:
            another.close()
    assert done.status == 0, done.err
    assert samples(workplace / "there") == samples(workplace / "here")


# ---- rollouts ----


def test_rollouts(workplace: Path, ray_nodes: RayNodes, start: Callable[..., Running], merged: Path) -> None:
    ray_nodes.have((1, 0), (1, 0))
    problems = "".join(f'{{"problem": "Problem {i}", "gt": "{i}"}}\n' for i in range(12))
    (workplace / "p.jsonl").write_text(problems)
    command = ("rollouts", merged, "--task", "p.jsonl", "--keep", "all", "-k", 3, "-n", 12, "-c", 128)
    done = spawn(*command, "-t", 1, "-o", "one.jsonl", cwd=workplace, timeout=LIMIT_S)
    assert done.status == 0, done.err
    done = start(*command, "-o", "two.jsonl").end()
    assert done.status == 0, done.err
    assert (workplace / "two.jsonl").read_bytes() == (workplace / "one.jsonl").read_bytes()
    assert not (workplace / "two.jsonl.partial").exists()


# ---- what the docs say ----


def test_the_command_of_the_docs(workplace: Path, ray_nodes: RayNodes) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (command,) = re.findall(r"^autodeco-gguf (eval .*--ray=local)$", page, re.M)
    done = spawn(*command.split(), cwd=workplace, timeout=LIMIT_S, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    assert done.status == 0, done.err
    assert len(samples(workplace / "over-ray")) == 4 * 1 + 4 * 2
    assert "pass@1" in done.out


# ---- problems that are bad ----


def test_bad_problems_are_what_they_are_in_one_process(
    workplace: Path, ray_nodes: RayNodes, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_nodes.have((1, 0), (1, 0))
    (workplace / "mine.py").write_text(CHECKER)
    monkeypatch.setenv("PYTHONPATH", str(workplace), prepend=os.pathsep)
    lines = [{"prompt": f"Tell a story about Mia with {i} and 5.", "answer": str(i)} for i in range(8)]
    (workplace / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("eval", Path(DEMO), "--task", "bad.jsonl", "--methods", "default", "-k", 2, "--seeds", 1, "-n", 20)
    command = (*command, "-c", 160, "--no-plots", "--parallel", 4)
    outcomes = []
    for name in ("alone", "fleet"):
        args = (*command, "--checker", "mine:check", "-o", name)
        one = spawn(*args, "-t", 1, cwd=workplace, timeout=LIMIT_S) if name == "alone" else start(*args).end()
        outcomes.append((one.status, one.err.splitlines()[-1].replace(name, "DIR")))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 1
    assert "4 of 16 samples could not be graded" in outcomes[0][1]
    assert samples(workplace / "alone") == samples(workplace / "fleet")

    lines[5]["prompt"] *= 20
    (workplace / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = (*command, "--checker", "exact", "-o", "long")
    alone = spawn(*args, "-t", 1, cwd=workplace, timeout=LIMIT_S)
    fleet = start(*args).end()
    assert (alone.status, fleet.status) == (1, 1)
    assert alone.err.splitlines()[-1] == fleet.err.splitlines()[-1]
    message = r"error: bad\.jsonl:6: the prompt has \d+ tokens, the context holds 160; raise it"
    assert re.fullmatch(message, alone.err.splitlines()[-1])


DEMO = Path(__file__).parents[2] / "autodeco_gguf" / "demo.gguf"


# ---- usage ----


def options(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"parallel": 3, "ctx": 64, "machine": Machine(n_threads=2), "chat_template_kwargs": None}
    return {"ray": "auto", "heads": None, **fields, **changes}


def test_what_nodes_load(tiny: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Path("m.gguf").touch()
    spec = make_spec(Path("m.gguf"), options(heads=Path("h.gguf")), True)
    assert (spec.model, spec.heads) == (str(tmp_path / "m.gguf"), "h.gguf")  # here, and there alone
    assert (spec.n_parallel, spec.n_ctx, spec.machine, spec.traces, spec.offline) == (
        *(3, 64, Machine(n_threads=2)),
        *(True, False),
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert make_spec(Path("tiny"), options(), False).model == "tiny"
    assert make_spec(Path("hf:user/repo"), options(), False).model == "hf:user/repo"
    spec = make_spec(None, options(chat_template_kwargs={"a": 1}), False)
    assert (spec.model, spec.heads, spec.offline, spec.chat_template_kwargs) == (None, None, True, {"a": 1})


def test_an_argument_that_is_taken_for_an_address() -> None:
    check_ray({"ray": None})
    check_ray({"ray": "10.0.0.1:6379"})
    message = r"^--ray 'small\.gguf', expected HOST:PORT, auto or local; --ray=auto where another argument follows$"
    with pytest.raises(click.UsageError, match=message):
        check_ray({"ray": "small.gguf"})


@pytest.mark.parametrize("verb", ["eval", "rollouts"])
def test_usage_errors(verb: str, tmp_path: Path) -> None:
    done = spawn(verb, "--ray", "m.gguf", "m.gguf", "--task", "p.jsonl", "-o", "out", cwd=tmp_path)
    assert_refused(done, "error: --ray 'm.gguf', expected HOST:PORT, auto or local", status=2)


def test_control_stays_on_one_machine(tmp_path: Path) -> None:
    done = spawn("eval", "--ray", "--control", "-o", "out", cwd=tmp_path)
    assert_refused(done, "error: --control reads answers token by token on one machine", status=2)

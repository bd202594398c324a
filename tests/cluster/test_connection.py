"""Ray itself: nodes, actors with what is asked for them, and what becomes of their calls."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken import spawn
from ray_nodes import RayNodes

from autodeco_gguf.cluster.connection import Connection, check_address, reason_of
from autodeco_gguf.errors import AutoDecoError, InvalidInput

LIMIT_S = 240

ASKING = """
import json, os, sys, signal, time
from dataclasses import asdict
import ray
from autodeco_gguf.cluster.actor import Spec
from autodeco_gguf.cluster.connection import Connection
from autodeco_gguf.cluster.fleet import Fleet
from autodeco_gguf.model.machine import Machine

def handler(*_): pass

signal.signal(signal.SIGTERM, handler)
said = []
spec = Spec(model=None, n_ctx=160, n_parallel=2, machine=Machine(n_threads=2))
with Connection(sys.argv[1]) as cluster, Fleet(cluster, spec, say=said.append) as fleet:
    while len(list(fleet._crew.ready)) < 3:
        fleet._turn()
    ours = signal.getsignal(signal.SIGTERM) is handler
    workers = []
    for worker in fleet._crew.ready:
        about = ray.get(worker.handle.load.remote(spec))
        workers.append([worker.node.id, about.threads, about.omp_threads, about.devices])
    free = {node["NodeID"]: 0 for node in ray.nodes()}
    end = time.monotonic() + 60
    while True:  # Ray hears of it from its nodes
        left = ray.available_resources()
        if (left.get("CPU") == 2.0 and "GPU" not in left) or time.monotonic() > end:
            break
        time.sleep(0.2)
    # a process that ends, and one that raises what it should not
    victim = next(fleet._crew.ready)
    os.kill(ray.get(victim.handle.hello.remote()), signal.SIGKILL)
    while victim in fleet._crew.ready:
        fleet._crew.call(victim, ("ask", -1), "hello")
        fleet._turn()
    lost = [line for line in said if "is lost" in line]
    bug = None
    try:
        fleet._ask("prompts", 5)
    except TypeError as e:
        bug = str(e)
    # a second connection of the process
    with Connection(sys.argv[1]) as again:
        n_nodes = len(again.nodes())
    still = ray.is_initialized()
print(json.dumps({
    "ours": ours, "workers": workers, "left": left, "said": said, "lost": lost, "bug": bug, "n_nodes": n_nodes,
    "connected": [still, ray.is_initialized()],
}))
"""


def test_what_actors_ask_for_and_how_they_end(ray_nodes: RayNodes) -> None:
    ray_nodes.have((4, 0), (4, 1))
    plain, gpu = sorted(ray_nodes.nodes, key=lambda node: ray_nodes.nodes[node][1])
    done = subprocess.run(
        [sys.executable, "-c", ASKING, ray_nodes.address],
        capture_output=True, timeout=LIMIT_S, check=False, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    # as many as fit, by the CPUs or the GPU; with the threads that were asked for, whatever the nodes' own variable
    assert sorted(found["workers"]) == sorted([*[[plain, 2, "2", []]] * 2, [gpu, 2, "2", []]])
    assert found["left"].get("CPU") == 2.0
    assert "GPU" not in found["left"]
    assert [line.partition(")")[2] for line in found["said"] if gpu[:6] in line][:2] == [
        ": 1 at a time, each with 2 threads, on the CPU",
        ": Ray has a GPU there, llama.cpp finds none (is it built for it?): it is not used",
    ]
    assert [line.partition(")")[2] for line in found["said"] if plain[:6] in line][:1] == [
        ": 2 at a time, each with 2 threads, on the CPU"
    ]
    assert len(found["lost"]) == 1
    assert "object" not in found["lost"][0]
    assert "'int' object is not iterable" in found["bug"]
    assert found["ours"] is True
    assert found["n_nodes"] == 3  # the head too
    assert found["connected"] == [True, False]


def test_there_is_no_cluster(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option, variables in ((f"--ray={address}", {}), ("--ray", {"RAY_ADDRESS": address})):
            command = ("eval", "-o", "out", "--limit", 1, "--no-plots", option)
            done = spawn(*command, cwd=tmp_path, env={**os.environ, **variables}, timeout=LIMIT_S)
            assert done.status == 1
            name = option.partition("=")[2] or "auto"
            assert done.err.splitlines()[-1] == (
                f"error: --ray {name}: no Ray cluster: [Errno 111] Connection refused; start one with: ray start --head"
            )


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r'^several machines need ray; pip install ray, or in a clone: pip install "\.\[cluster\]"$'
    with pytest.raises(AutoDecoError, match=message) as info:
        Connection().__enter__()
    assert info.value.key == "cluster"


@pytest.mark.parametrize("address", ["auto", "local", "127.0.0.1:6379", "head.example:1", "[::1]:6379"])
def test_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":6379", "ray://host:10001", "dir/file:1", "model.gguf", "a:99999"]
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected HOST:PORT, auto or local$"):
        Connection(address)


def test_reasons() -> None:
    def error(name: str, text: str) -> Any:
        return type(name, (Exception,), {})(text)

    assert (
        reason_of(error("ActorUnavailableError", "The actor 12 is unavailable: RpcError 14")) == "it cannot be reached"
    )
    died = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: Actor\n\tactor_id: 12\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. There are some potential root causes."
    )
    assert reason_of(error("ActorDiedError", died)) == "Worker unexpectedly exits with a connection error code 2"
    assert reason_of(error("ActorDiedError", "The actor died.\n\tpid: 3\nIts node has died.")) == "Its node has died."
    assert reason_of(error("Odd", "")) == "Odd"
    assert len(reason_of(SimpleNamespace(__str__=None) and error("Odd", "x" * 999))) == 300

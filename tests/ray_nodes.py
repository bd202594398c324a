"""A Ray cluster on this machine, whose head draws nothing, in a process of its own: it reads commands, a line each.

add CPUS GPUS   starts a node, and prints its id
kill ID         ends a node with SIGKILL, and prints "gone"
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SIZE = {"object_store_memory": 80 << 20, "include_dashboard": False}
_HERE = Path(__file__).parent


class RayNodes:
    """The cluster, from the tests' process, which has nothing of Ray in it."""

    def __init__(self) -> None:
        paths = [str(_HERE), str(_HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),  # which the actors have from the nodes
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        environment.pop("OMP_NUM_THREADS", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        self.address = self._read()
        self.nodes: dict[str, tuple[int, int]] = {}

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def add(self, cpus: int = 1, gpus: int = 0) -> str:
        node = self._ask(f"add {cpus} {gpus}")
        self.nodes[node] = (cpus, gpus)
        return node

    def kill(self, node: str) -> None:
        assert self._ask(f"kill {node}") == "gone"
        del self.nodes[node]

    def have(self, *wanted: tuple[int, int]) -> list[str]:
        """Nodes of so many CPUs and GPUs and no others; those that are there stay."""
        left = list(wanted)
        for node, size in list(self.nodes.items()):
            if size in left:
                left.remove(size)
            else:
                self.kill(node)
        for size in left:
            self.add(*size)
        return list(self.nodes)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # which ends it
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


def main() -> None:
    """What runs in that process."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_SIZE})
    print(cluster.address, file=replies, flush=True)
    nodes = {}
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "add":
            cpus, gpus = map(int, arguments)
            node = cluster.add_node(num_cpus=cpus, num_gpus=gpus, **_SIZE)
            nodes[node.node_id] = node
            print(node.node_id, file=replies, flush=True)
        else:
            cluster.remove_node(nodes.pop(arguments[0]), allow_graceful=False)
            print("gone", file=replies, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

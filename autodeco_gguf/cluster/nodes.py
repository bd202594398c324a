"""The nodes of a cluster, and how many models fit on one."""

from __future__ import annotations

from typing import NamedTuple

from autodeco_gguf.model.devices import HOST
from autodeco_gguf.model.machine import Machine


class Node(NamedTuple):
    """A node that is alive: its id, which no other ever has, its address, and the CPUs and GPUs that Ray has of it."""

    id: str
    address: str
    cpus: int
    gpus: int

    @property
    def name(self) -> str:
        """For a reader; several nodes may share an address."""
        return f"node {self.address} ({self.id[:6]})"


class Needs(NamedTuple):
    """What a model uses of a node, and what is asked for it."""

    cpus: int
    gpus: int


def needs_of(machine: Machine, node: Node) -> Needs:
    """A CPU for each thread, and the GPUs that the layers are put on, where the node has some.

    Without a number of threads all CPUs of the node, in equal parts where it has GPUs for several models.

    Examples:
        >>> node = Node("0f", "10.0.0.2", cpus=16, gpus=2)
        >>> needs_of(Machine(n_threads=4), node), needs_of(Machine(device=("none",)), node)
        (Needs(cpus=4, gpus=1), Needs(cpus=16, gpus=0))
    """
    on_host = machine.n_gpu_layers == 0 or (machine.device is not None and machine.device[0].casefold() in HOST)
    named = len(machine.device or ()) or len(machine.tensor_split or ()) or 1
    gpus = 0 if on_host or not node.gpus else named
    parts = max(1, node.gpus // gpus) if gpus else 1
    return Needs(machine.n_threads or max(1, node.cpus // parts), gpus)


def fitting(needs: Needs, node: Node) -> int:
    """How many models a node has room for, which may be none.

    Examples:
        >>> fitting(Needs(4, 1), Node("0f", "10.0.0.2", cpus=16, gpus=2))
        2
    """
    n = node.cpus // needs.cpus
    return min(n, node.gpus // needs.gpus) if needs.gpus else n

"""What a model asks of a node, and how many fit."""

from __future__ import annotations

import pytest

from autodeco_gguf.cluster.nodes import Needs, Node, fitting, needs_of
from autodeco_gguf.model.machine import Machine


def node(cpus: int, gpus: int = 0) -> Node:
    return Node("0123456789abcdef", "10.0.0.2", cpus, gpus)


@pytest.mark.parametrize(
    ("machine", "cpus", "gpus", "needs", "fit"),
    [
        (Machine(n_threads=4), 16, 0, (4, 0), 4),
        (Machine(n_threads=4), 16, 2, (4, 1), 2),  # the GPUs are fewer
        (Machine(n_threads=4), 7, 8, (4, 1), 1),  # the CPUs are
        (Machine(n_threads=4), 3, 0, (4, 0), 0),
        (Machine(n_threads=4, n_gpu_layers=0), 16, 2, (4, 0), 4),
        (Machine(n_threads=4, device=("none",)), 16, 2, (4, 0), 4),
        (Machine(n_threads=4, device=("CPU",)), 16, 2, (4, 0), 4),
        (Machine(n_threads=1, device=("CUDA0", "CUDA1")), 16, 4, (1, 2), 2),
        (Machine(n_threads=1, tensor_split=(3.0, 1.0)), 16, 3, (1, 2), 1),
        (Machine(device=("CUDA0", "CUDA1")), 16, 1, (16, 2), 0),
        (Machine(n_threads=1, device=("CUDA0",)), 16, 0, (1, 0), 16),  # which the node refuses when it loads
        (Machine(), 16, 0, (16, 0), 1),
        (Machine(), 16, 4, (4, 1), 4),
        (Machine(), 1, 4, (1, 1), 1),
        (Machine(), 0, 0, (1, 0), 0),  # a head that only looks after the others
    ],
)
def test_what_fits(machine: Machine, cpus: int, gpus: int, needs: tuple[int, int], fit: int) -> None:
    assert needs_of(machine, node(cpus, gpus)) == needs
    assert fitting(Needs(*needs), node(cpus, gpus)) == fit


def test_a_name_for_a_reader() -> None:
    assert node(1).name == "node 10.0.0.2 (012345)"

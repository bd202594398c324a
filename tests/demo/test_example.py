"""What the README begins with."""

from __future__ import annotations

from pathlib import Path

import example
import numpy as np

import autodeco_gguf as ad
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.tasks import read_task


def test_the_demo_can_be_put_together_again(tmp_path: Path) -> None:
    for _ in range(2):  # a second time in the same directory
        example.write(tmp_path / "a", n_problems=5)
    directory = tmp_path / "a"
    heads = ad.export(directory / "small.gguf", directory / "checkpoint", tmp_path / "merged.gguf").path
    made, shipped = (ad.ModelFile.open(path).read_heads() for path in (heads, DEMO_MODEL))
    assert made.mlps.keys() == shipped.mlps.keys()
    for name, mlp in shipped.mlps.items():
        for (weight, bias), (weight_2, bias_2) in zip(mlp.layers, made.mlps[name].layers, strict=True):
            np.testing.assert_array_equal(weight, weight_2)
            np.testing.assert_array_equal(bias, bias_2)
    assert len(read_task(str(directory / "problems.jsonl")).problems) == 5

"""Names of the file format: what stands in a merged file is what docs/format.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

import autodeco_gguf as ad
from autodeco_gguf.heads.format import FEATURES, default_activation, head_key, tensor_name

PAGE = Path(__file__).parent.parent.parent / "docs" / "format.md"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (tensor_name("temperature", 0, "weight"), "autodeco.temp_head.0.weight"),
        (tensor_name("top_p", 12, "bias"), "autodeco.top_p_head.12.bias"),
        (head_key("temperature", "scale"), "autodeco.temp_head.scale"),
        (head_key("top_p", "features"), "autodeco.top_p_head.features"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert name == expected


@pytest.mark.parametrize(("n_layers", "activation"), [(1, "relu"), (2, "relu"), (3, "gelu"), (64, "gelu")])
def test_activation(n_layers: int, activation: str) -> None:
    assert default_activation(n_layers) == activation


def test_the_page_names_what_a_merged_file_has(merged: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f'"{feature}"' in page for feature in FEATURES[True])
    for tensor in ad.ModelFile.open(merged).outer.tensors:
        if tensor.name.startswith("autodeco."):
            name = ".".join("{i}" if part.isdigit() else part for part in tensor.name.split("."))
            assert f"`{name}`" in page, tensor.name

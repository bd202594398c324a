"""What a model's file recommends, and what of it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from broken import Kind, rewrite
from conftest import Case

from autodeco_gguf.engine.file_sampling import file_sampling, of_the_file, settled
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile

BOTH = frozenset({"temperature", "top_p"})
FILE = {"temperature": 0.5, "top_p": 0.75, "top_k": 3}


def recommending(qwen2: Case, path: Path, **values: tuple[Any, Kind]) -> GgufFile:
    keys = {f"general.sampling.{key}": value for key, value in values.items()}
    return GgufFile(rewrite(qwen2.base, path, metadata=keys))


def test_keys_of_llama_cpp(qwen2: Case, tmp_path: Path) -> None:
    file = recommending(
        qwen2, tmp_path / "m.gguf", temp=(0.5, Kind.FLOAT32), penalty_repeat=(1.25, Kind.FLOAT32), top_k=(3, Kind.INT32)
    )
    assert file_sampling(file) == {"temperature": 0.5, "repeat_penalty": 1.25, "top_k": 3}
    assert file_sampling(GgufFile(qwen2.base)) == {}


def test_below_0_is_0_as_for_llama_cpp(qwen2: Case, tmp_path: Path) -> None:
    file = recommending(qwen2, tmp_path / "m.gguf", temp=(-0.5, Kind.FLOAT32), top_k=(-1, Kind.INT32))
    assert file_sampling(file) == {"temperature": 0, "top_k": 0}


@pytest.mark.parametrize("value", [(1e9, Kind.FLOAT32), ("warm", Kind.STRING), (True, Kind.BOOL)])
def test_nonsense_names_the_file(value: tuple[Any, Kind], qwen2: Case, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"m\.gguf: general\.sampling\.\*: temperature (1000000000.0|warm|True)"):
        file_sampling(recommending(qwen2, tmp_path / "m.gguf", temp=value))


@pytest.mark.parametrize(
    ("request_", "heads", "values"),
    [
        (Request("x"), BOTH, {}),
        (Request("x"), {"temperature"}, {"top_p": 0.75}),
        (Request("x"), frozenset(), FILE),
        (Request("x", temperature=2.0), frozenset(), {"top_p": 0.75, "top_k": 3}),
        (Request("x", temperature=2.0), BOTH, {}),
        (Request("x", temperature=2.0, top_p=1.0), BOTH, {"top_k": 3}),
    ],
)
def test_the_request_then_the_heads_then_the_file(
    request_: Request, heads: frozenset[str], values: dict[str, Any]
) -> None:
    assert of_the_file(request_, heads, FILE) == values
    changed = settled(request_, heads, FILE)
    assert {name: getattr(changed, name) for name in values} == values

"""FLOPs from the shapes, against a multiplication of every matrix; and a row of the table."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gguf")
import efficiency
from conftest import load_case
from efficiency import Shapes, base_flops, head_flops

import autodeco_gguf as ad
from autodeco_gguf.model.shipped import DEMO_MODEL


def test_shapes_are_those_of_the_file() -> None:
    base = ad.ModelFile.open(load_case("qwen2").base)
    shapes = Shapes.of(base)
    of = {t.name: t.shape for t in base.base().tensors}
    assert of["blk.0.attn_q.weight"] == (shapes.queries, shapes.hidden)
    assert of["blk.0.attn_k.weight"] == (shapes.kv, shapes.hidden)
    assert of["blk.0.ffn_up.weight"] == (shapes.ff, shapes.hidden)
    assert of["token_embd.weight"] == (shapes.vocab, shapes.hidden)
    assert f"blk.{shapes.layers - 1}.attn_q.weight" in of
    assert f"blk.{shapes.layers}.attn_q.weight" not in of


def test_flops_by_counting_every_product() -> None:
    s = Shapes(hidden=8, layers=3, kv=4, queries=8, ff=20, vocab=50)
    n_prompt, n_tokens, total = 5, 3, 0

    def product(rows: int, inner: int) -> int:
        """Of a matrix with a vector: a multiplication and an addition for each weight."""
        return 2 * rows * inner

    for position in range(1, n_prompt + n_tokens):  # the last token is drawn, not read
        for _ in range(s.layers):
            total += product(s.queries, s.hidden) + 2 * product(s.kv, s.hidden) + product(s.hidden, s.queries)
            total += 2 * product(s.ff, s.hidden) + product(s.hidden, s.ff)
            total += product(position, s.queries) + product(s.queries, position)  # all heads together
    total += n_tokens * product(s.vocab, s.hidden)
    assert base_flops(s, n_prompt, n_tokens) == total


def test_flops_of_the_heads() -> None:
    heads = ad.ModelFile.open(DEMO_MODEL).read_heads()
    shapes = Shapes.of(ad.ModelFile.open(DEMO_MODEL))
    products = sum(2 * np.prod(w.shape) for mlp in heads.mlps.values() for w in mlp.weights)
    assert head_flops(heads, shapes, 1) == products + efficiency.FEATURE_OPERATIONS * shapes.vocab
    assert head_flops(heads, shapes, 7) == 7 * head_flops(heads, shapes, 1)


def test_rounds_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def timed(name: str, n_prompt: int, n_tokens: int) -> tuple[float, float]:
        order.append(name)
        return (1.0, 1.0) if name == "stock" else (1.0, 1.04)

    monkeypatch.setattr(efficiency, "timed", timed)
    found = efficiency.measure({"stock": "stock", "ours": "ours"}, 10, 4, 3)  # type: ignore[dict-item]
    assert order == ["stock", "ours", "ours", "stock", "stock", "ours"]
    assert found["latency_percent"] == pytest.approx([2.0] * 3)
    assert found["decode_percent"] == pytest.approx([4.0] * 3)
    found.update({"prompt": 1024, "base_flops": 10**12, "head_flops_percent": 0.01})
    assert efficiency.row(found) == "| 1,024 | 1.00 | 0.0100 % | 2.00 | 2.04 | +2.0 % [+2.0, +2.0] | +4.0 % |  |  |"

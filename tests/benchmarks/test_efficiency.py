"""FLOPs from the shapes, against a multiplication of every matrix; and a row of the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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


class Clocked:
    """A model that takes so long for a token of a prompt, and for one that it draws, by a clock of its own."""

    def __init__(self, name: str, clock: list[float], asked: list[tuple[str, int]], token: float, drawn: float) -> None:
        self.name, self.clock, self.asked, self.token, self.drawn, self.read = name, clock, asked, token, drawn, 99

    def reset(self) -> None:
        self.read = 0

    def generate(self, tokens: list[int]) -> Iterator[int]:
        self.asked.append((self.name, len(tokens)))
        self.clock[0] += self.token * (len(tokens) - self.read)
        self.read = len(tokens)
        yield 0
        while True:
            self.clock[0] += self.drawn
            yield 0


def test_models_alternate_and_a_prompt_goes_on_from_the_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[tuple[str, int]]()
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: clock[0])
    models = {
        "stock": Clocked("stock", clock, asked, 1.0, 10.0),
        "ours": Clocked("ours", clock, asked, 1.01, 10.5),
    }
    found = efficiency.walk(models, [600, 1024], 20)  # type: ignore[arg-type]
    assert asked == [("stock", 512), ("ours", 512), ("ours", 600), ("stock", 600), ("stock", 1024), ("ours", 1024)]
    assert np.array(found["stock"]) == pytest.approx(np.array([(600, 190), (1024, 190)]))
    assert np.array(found["ours"]) == pytest.approx(np.array([(606, 199.5), (1034.24, 199.5)]))


def test_figures_of_rounds() -> None:
    found = efficiency.summary([{"stock": (1.0, 1.0), "ours": (1.0, ours)} for ours in (1.04, 1.0, 1.08)])
    assert found["latency_percent"] == pytest.approx([2.0, 0.0, 4.0])
    assert found["decode_percent"] == pytest.approx([4.0, 0.0, 8.0])
    assert (found["stock_s"], found["ours_s"]) == (2.0, 2.04)
    found["latency_percent"] = [2.0, 2.0, 2.0]
    found.update({"prompt": 1024, "base_flops": 10**12, "head_flops_percent": 0.01})
    assert efficiency.row(found) == "| 1,024 | 1.00 | 0.0100 % | 2.00 | 2.04 | +2.0 % [+2.0, +2.0] | +4.0 % |  |  |"


@pytest.mark.parametrize("name", ["efficiency", "efficiency_smollm2"])
def test_the_page_has_the_figures(name: str) -> None:
    root = Path(__file__).parent.parent.parent
    page = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    for found in json.loads((root / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))["lengths"]:
        times = [found["stock_s"], found["ours_s"]]
        shown = [f"{seconds:.{0 if seconds >= 100 else 1}f} s" for seconds in times]
        flops, percent = found["base_flops"] / 1e12, found["head_flops_percent"]
        assert f"| {flops:.2f} | {percent:.4f} % | {' | '.join(shown)} |" in page

"""Which models the benchmarks of speed take."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import overhead
import pytest
from conftest import load_case

import autodeco_gguf as ad
from autodeco_gguf.model.shipped import DEMO_MODEL

ROOT = Path(__file__).parent.parent.parent


def test_a_plain_model_gets_random_heads(tmp_path: Path) -> None:
    base = load_case("qwen2").base
    found, adapter = overhead.find(str(base), tmp_path)
    assert found == base
    heads = ad.ModelFile.open(adapter).read_heads()
    assert (heads.hidden_size, heads.vocab_size) == (64, 384)
    written = adapter.stat().st_mtime_ns
    assert overhead.find(str(base), tmp_path)[1].stat().st_mtime_ns == written


def test_a_merged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="give a plain GGUF; autodeco-gguf extract takes a merged one apart"):
        overhead.find(str(DEMO_MODEL), tmp_path)


class Loaded:
    """A model of which each load is faster or slower than the one before."""

    loads = 0

    def __init__(self, adapter: Path | None) -> None:
        Loaded.loads += 1
        self.rate = (80.0 if adapter else 100.0) + Loaded.loads
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_prompts_are_compared_over_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[Loaded] = []

    def load(base: Path, adapter: Path | None, threads: int, n_ctx: int) -> Loaded:
        loaded.append(Loaded(adapter))
        return loaded[-1]

    monkeypatch.setattr(overhead, "load", load)
    monkeypatch.setattr(overhead, "prompt_rate", lambda llama, n: llama.rate)
    base = tmp_path / "base.gguf"
    base.write_bytes(b"")
    found = overhead.measure_prompts(base, tmp_path / "adapter.gguf", Namespace(loads=2, threads=1))
    ours, again = found["prompt"], found[overhead.NOISE]
    assert ours["ratio"] == pytest.approx(((82 / 101) + (85 / 106)) / 2)  # the second load has ours first
    assert again["ratio"] == pytest.approx(((104 / 103) + (107 / 108)) / 2)
    assert len(loaded) == 8
    assert all(llama.closed for llama in loaded)


ROWS = {
    "decode": "decoding, stock with its default sampler",
    "decode_greedy": "decoding, stock greedy",
    "decode_full_top_p": "decoding, stock with top-p over the whole vocabulary",
    "prompt": "prompt processing",
}


@pytest.mark.parametrize("key", ROWS)
def test_the_readme_has_the_figures(key: str) -> None:
    found = json.loads((ROOT / "benchmarks" / "overhead.json").read_text(encoding="utf-8"))
    cells = [found[name][key] for name in ("0.5b-q8_0", "SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m")]
    shown = ["{:.2f} [{:.2f}, {:.2f}]".format(cell["ratio"], *cell["quartiles"]) for cell in cells]
    assert f"| {ROWS[key]} | {' | '.join(shown)} |\n" in (ROOT / "README.md").read_text(encoding="utf-8")

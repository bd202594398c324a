"""Models that ask for more: sliding windows and sinks, a deep GELU head, a top-p head alone, a large vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import reference
from broken import STRINGS, Kind, Tensor, metadata_of, rewrite
from conftest import Case, load
from llama_cpp import llama_cpp as lib

import autodeco_gguf as ad
from autodeco_gguf._native import core
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.sampler import Predictor, address, build_sampler
from autodeco_gguf.model.sampling import Sampling

DIRECTORY = Path(__file__).parent.parent / "more_fixtures"
HEADS = {
    "gpt_oss": {"temperature", "top_p"},
    "gelu4": {"temperature", "top_p"},
    "top_p_only": {"top_p"},
}


@pytest.mark.parametrize(("f32_cache", "tolerance"), [(True, 1e-5), (False, 2e-3)], ids=["F32 cache", "F16 cache"])
@pytest.mark.parametrize("name", HEADS)
def test_predictions_agree_with_the_official_code(name: str, f32_cache: bool, tolerance: float, tmp_path: Path) -> None:
    directory = DIRECTORY / name
    merged = ad.export(directory / "base.gguf", directory / "heads", tmp_path / "merged.gguf").path
    with np.load(directory / "golden.npz") as golden:
        tokens = golden["tokens"].tolist()
        expected = [np.nan_to_num(golden[head], nan=1.0) for head in ("temperature", "top_p")]
        alone = ad.Heads.load(merged).evaluate(golden["hidden"], golden["logits"])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)

    llama = load(merged, f32_cache=f32_cache)
    assert llama.heads == HEADS[name]
    np.testing.assert_allclose(llama.predict(tokens), expected, rtol=0, atol=tolerance)

    llama.create_completion(tokens, max_tokens=16, seed=1)
    trace = list(llama.trace)
    text = tokens + [t.id for t in trace[:-1]]
    drawn = [[t.temperature for t in trace], [t.top_p for t in trace]]
    after = [values[len(tokens) - 1 :] for values in llama.predict(text)]
    np.testing.assert_allclose(drawn, after, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", HEADS)
def test_an_engine_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    """Several at once, with a shared prompt that is longer than a sliding window, and one that goes on from it."""
    directory = DIRECTORY / name
    merged = ad.export(directory / "base.gguf", directory / "heads", tmp_path / "merged.gguf").path
    with np.load(directory / "golden.npz") as golden:
        prompt = golden["tokens"].tolist() * 3
    llama = load(merged, f32_cache=True, n_ctx=512)
    engine = ad.Engine(
        merged,
        n_parallel=3,
        n_ctx=512,
        machine=Machine(n_threads=1, cache_type="f32"),
        batching=Batching(prompt_chunk=20),
    )
    assert engine.heads == HEADS[name]
    prompts = [prompt, prompt[:50], prompt, [*prompt, 5, 6], prompt[:100], [*prompt[:70], 9]]
    for i, result in enumerate(engine.generate([ad.Request(p, seed=i, max_tokens=9) for i, p in enumerate(prompts)])):
        llama.set_seed(i)
        stream = llama.generate(prompts[i])
        drawn = [next(stream) for _ in range(len(result.trace))]
        assert drawn == result.trace.ids
        np.testing.assert_allclose(result.temperature, [t.temperature for t in llama.trace], rtol=0, atol=1e-5)
        np.testing.assert_allclose(result.top_p, [t.top_p for t in llama.trace], rtol=0, atol=1e-5)
    engine.close()


def write_mamba(path: Path, vocabulary: Path) -> Path:
    """A tiny recurrent model with random weights and the vocabulary of another."""
    hidden, inner, state, kernel, rank, blocks = 32, 64, 16, 4, 4, 2
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(blocks)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    fields = gguf.GGUFReader(vocabulary).fields
    for key, field in fields.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    n_vocab = len(fields["tokenizer.ggml.tokens"].contents())
    tensors = {"token_embd.weight": random(n_vocab, hidden) * 8, "output.weight": random(n_vocab, hidden) * 3}
    tensors["output_norm.weight"] = np.ones(hidden, np.float32)
    for i in range(blocks):
        block = {
            "attn_norm.weight": np.ones(hidden, np.float32),
            "ssm_in.weight": random(2 * inner, hidden),
            "ssm_conv1d.weight": random(inner, kernel),
            "ssm_conv1d.bias": np.zeros(inner, np.float32),
            "ssm_x.weight": random(rank + 2 * state, inner),
            "ssm_dt.weight": random(inner, rank),
            "ssm_dt.bias": np.zeros(inner, np.float32),
            "ssm_a": -0.5 - np.abs(random(inner, state)),
            "ssm_d": np.ones(inner, np.float32),
            "ssm_out.weight": random(hidden, inner),
        }
        tensors |= {f"blk.{i}.{name}": value for name, value in block.items()}
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sequences_that_cannot_go_back(qwen2: Case, tmp_path: Path) -> None:
    """A recurrent model keeps a state and no cells: what another has drawn cannot be taken off a copy."""
    model = write_mamba(tmp_path / "mamba.gguf", qwen2.base)
    prompt = list(range(3, 60))
    prompts = [prompt, [*prompt[:40], 7], [5], prompt, [*prompt, 8, 9]] * 3
    found = []
    for n_parallel in (1, 3):
        with ad.Engine(model, n_parallel=n_parallel, n_ctx=128, machine=Machine(n_threads=1)) as engine:
            requests = [ad.Request(p, seed=i, temperature=0.8, max_tokens=12) for i, p in enumerate(prompts)]
            found += [[result.tokens for result in engine.generate(requests)] for _ in range(2)]
    assert found[0] == found[1] == found[2] == found[3]
    assert len({tuple(tokens) for tokens in found[0]}) == len(prompts)


def test_a_prefix_whose_window_is_gone_is_computed_again(tmp_path: Path) -> None:
    """Without ``swa_full`` a sliding window's cache keeps little more than the window."""
    directory = DIRECTORY / "gpt_oss"
    merged = ad.export(directory / "base.gguf", directory / "heads", tmp_path / "merged.gguf").path
    with np.load(directory / "golden.npz") as golden:
        text = (golden["tokens"].tolist() * 30)[:640]
    prompt = [*text[:160], 5, 9, 11]

    def answer(llm: ad.Llama) -> Any:
        return llm(prompt, max_tokens=12, temperature=0.0)["choices"]

    fresh, used = (load(merged, n_ctx=1024, n_batch=32, n_ubatch=32, swa_full=False, f32_cache=True) for _ in range(2))
    used(text, max_tokens=2)
    assert answer(used) == answer(fresh)
    evaluated = []
    used.eval = lambda tokens, real=used.eval: evaluated.append(len(tokens)) or real(tokens)  # type: ignore[method-assign, misc]
    assert answer(used) == answer(fresh)
    assert evaluated[0] == 1, "what is held is not computed again"


def test_a_text_goes_on_where_all_of_a_window_is_held() -> None:
    small = {"n_ctx": 1024, "n_batch": 32, "n_ubatch": 32, "swa_full": False}
    llama = load(DIRECTORY / "gpt_oss" / "base.gguf", heads_enabled=(), **small)
    llama.eval([*range(3, 323)] * 2)
    first = lib.llama_memory_seq_pos_min(lib.llama_get_memory(llama.ctx), 0)
    assert 640 - 16 > first > 0  # the window is of 16 tokens, the next one's own included
    assert core.goes_on(address(llama.ctx), first + 15)
    assert not core.goes_on(address(llama.ctx), first + 14)
    assert core.goes_on(address(llama.ctx), 0)


@pytest.mark.parametrize("in_graph", [False, True])
def test_the_distribution_of_a_large_vocabulary(in_graph: bool, qwen2: Case, tmp_path: Path) -> None:
    """Its logits are summed up in parts, and those of one output by several threads: entropy, and where the gate is."""
    tokens, types = (metadata_of(qwen2.base)[f"tokenizer.ggml.{key}"][0] for key in ("tokens", "token_type"))
    more = 20_000 - len(tokens)

    def widened(tensors: list[Tensor]) -> list[Tensor]:
        rows = np.random.default_rng(0).normal(0, 0.5, (more, 64)).astype(np.float32)
        wide = ("token_embd.weight", "output.weight")
        return [(name, np.concatenate([data, rows]) if name in wide else data, kind) for name, data, kind in tensors]

    names, kinds = [*tokens, *(f"more {i}" for i in range(more))], ([*types, *[1] * more], Kind.ARRAY, Kind.INT32)
    metadata = {"tokenizer.ggml.tokens": (names, *STRINGS), "tokenizer.ggml.token_type": kinds}
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=metadata, edit=widened)
    weights = replace(ad.read_checkpoint(qwen2.heads).weights, vocab_size=20_000)
    context = Context(path, n_ctx=32, n_seq=2, machine=Machine(n_threads=2, cache_type="f32"))
    predictor = Predictor(ad.Heads(weights))
    assert predictor.attach_rows(context.address, 2, entropy=in_graph)
    for n, shift in ((1, 1e-3), (2, -1e-3), (1, -1e-3), (2, 1e-3)):
        batch = [5 + n, 6][:n], [0] * n, list(range(n))
        rows = context.decode(*batch, hidden=False)[0].astype(float)
        top = 1 / np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)
        context.clear()
        ways = [Sampling(seed=1, top_p=1.0, gate=float(p + shift)) for p in top]
        samplers = [build_sampler(predictor, way, context.model) for way in ways]
        assert context.draw(*batch, samplers, predictor).errors == {}
        for sampler, row in zip(samplers, rows, strict=True):
            (found,) = sampler.trace
            assert found.entropy == pytest.approx(reference.entropy(row), abs=1e-5)
            assert (found.temperature == 0.0) is (shift < 0)
            expected = reference.distribution(row, found.temperature, 1.0)[found.id]
            assert found.prob == pytest.approx(expected, rel=1e-4)
        context.clear()
    predictor.detach()
    context.close()

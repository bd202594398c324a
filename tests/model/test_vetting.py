"""What llama.cpp would crash on, or take all memory for, is refused in one line."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from broken import STRINGS, Kind, Tensor, metadata_of, rewrite, shards, tensors_of, without, write_gguf
from conftest import Case, load, load_case
from family_helpers import FAMILIES

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.vetting import check_loadable

INTS = (Kind.ARRAY, Kind.UINT32)

METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no blocks": ({"qwen2.block_count": (0, Kind.UINT32)}, "0 blocks"),
    "a context without end": ({"qwen2.context_length": (2**32 - 1, Kind.UINT32)}, "context_length 4294967295"),
    "a head of a million": (
        {"qwen2.attention.value_length": (2**20, Kind.UINT32)},
        "value_length 1048576, larger than",
    ),
    "a window without end": ({"qwen2.attention.sliding_window": (2**31, Kind.UINT32)}, "sliding_window 2147483648"),
    "negative epsilon": (
        {"qwen2.attention.layer_norm_rms_epsilon": (-1.0, Kind.FLOAT32)},
        "layer_norm_rms_epsilon -1",
    ),
    "unordered epsilon": (
        {"qwen2.attention.layer_norm_rms_epsilon": (float("nan"), Kind.FLOAT32)},
        "layer_norm_rms_epsilon nan",
    ),
    "bytes without tokens": ({"tokenizer.ggml.model": ("rwkv", Kind.STRING)}, "no token for a byte"),
    "a vocabulary of another kind": ({"tokenizer.ggml.model": ("llama", Kind.STRING)}, "cannot tokenize every text"),
    "no vocabulary": (
        {"tokenizer.ggml.model": ("none", Kind.STRING), "qwen2.vocab_size": (384, Kind.UINT32)},
        "no vocabulary",
    ),
    "an interval of 0": ({"qwen2.full_attention_interval": (0, Kind.UINT32)}, "full_attention_interval 0"),
    "a head of nothing": ({"qwen2.wkv.head_size": (0, Kind.UINT32)}, "head_size 0"),
    **{
        f"{n} numbers of a head rotated": (
            {"qwen2.rope.dimension_count": (n, Kind.UINT32)},
            f"rope.dimension_count {n} of a head of 16",
        )
        for n in (0, 1, 7, 18, 2**32 - 1)
    },
    "more rotated in a window": (
        {"qwen2.attention.key_length_swa": (4, Kind.UINT32), "qwen2.rope.dimension_count_swa": (6, Kind.UINT32)},
        "rope.dimension_count_swa 6 of a head of 4",
    ),
    "more rotated where layers differ": (
        {"qwen2.attention.head_count": ([4, 4], Kind.ARRAY), "qwen2.rope.dimension_count": (3, Kind.UINT32)},
        "rope.dimension_count 3 of a head of 16$",
    ),
    "nothing but further tokens": (
        {"qwen2.nextn_predict_layers": (2, Kind.UINT32)},
        "nextn_predict_layers 2, expected less than its 2 blocks$",
    ),
    "as many inputs of an image as blocks": (
        {"qwen2.n_deepstack_layers": (2, Kind.UINT32)},
        "n_deepstack_layers 2, expected less than its 2 blocks$",
    ),
    "streams that are mixed without end": (
        {"qwen2.hyper_connection.sinkhorn_iterations": (2**31 - 1, Kind.UINT32)},
        "sinkhorn_iterations 2147483647$",
    ),
    "no groups": ({"qwen2.attention.output_group_count": (0, Kind.UINT32)}, "output_group_count 0$"),
    "thousands of experts": ({"qwen2.expert_count": (60000, Kind.UINT32)}, "GGML_ASSERT"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name: str, qwen2: Case, tmp_path: Path) -> None:
    metadata, reason = METADATA[name]
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=metadata)
    for open_it in (lambda: Context(path, n_ctx=32), lambda: load(path, heads_enabled=())):
        with pytest.raises(BadFile, match=rf"^{re.escape(str(path))}: .*{reason}") as caught:
            open_it()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("qwen2.attention.layer_norm_rms_epsilon", -1.0, r"\S+ llama\.cpp would crash on it: \S+_epsilon -1"),
        ("qwen2.context_length", 2**32 - 1, r"\S+ llama\.cpp would crash on it: context_length 4294967295"),
        ("qwen2.context_length", -1, "qwen2.context_length -1, expected 0 to 4294967295"),
        ("qwen2.rope.dimension_count", 7, r"\S+ llama\.cpp would crash on it: rope\.dimension_count 7 of a head of 16"),
        ("qwen2.block_count", "2", r"\S+ qwen2.block_count is '2', expected int"),
        ("tokenizer.ggml.model", "rwkv", "tokenizer.ggml.model cannot be another than the file's"),
    ],
)
def test_what_takes_the_place_of_metadata(key: str, value: object, said: str, qwen2: Case) -> None:
    """The process ended by a signal, or hung."""
    with pytest.raises(InvalidInput, match=rf"^kv_overrides: {said}$"):
        load(qwen2.base, heads_enabled=(), kv_overrides={key: value})


@pytest.mark.parametrize(
    ("tokens", "whole"),
    [
        (["a", "b", "ab"], True),
        (["ab"], False),
        (["\\n", "\\nx", "\\t", "\\ta", "\\r", "\\r\\n"], True),
        (["n", "\\nx"], False),
        (["t", "\\tx"], False),
        (["r", "\\rx"], False),
        (["\\x41", "AB"], True),
        (["\\x41B"], False),
        (["\\", "\\\\b"], True),
        (["\\'", "'b", ""], True),
    ],
    ids=repr,
)
def test_bytes_that_tokens_begin_with(tokens: list[str], whole: bool, tmp_path: Path) -> None:
    """Without a token for one llama.cpp reads a text of an RWKV model for ever."""
    entries = {"general.architecture": "rwkv6", "tokenizer.ggml.model": "rwkv"}
    metadata = {key: (value, Kind.STRING) for key, value in entries.items()}
    path = write_gguf(tmp_path / "x.gguf", metadata | {"tokenizer.ggml.tokens": (tokens, *STRINGS)}, [])
    assert ("no token for a byte" not in GgufFile(path).header.check_vocab()) is whole


def test_experts_that_are_not_counted(tmp_path: Path) -> None:
    base = load_case("qwen3_moe").base
    path = rewrite(base, tmp_path / "x.gguf", metadata={"qwen3moe.expert_count": None})
    with pytest.raises(BadFile, match=re.escape(str(path))):
        Context(path, n_ctx=32)


@pytest.mark.parametrize(("entry", "n"), [((30000, Kind.UINT32), 30000), (([4, 5], *INTS), 5)], ids=str)
def test_more_heads_of_keys_than_heads(entry: Any, n: int, tmp_path: Path) -> None:
    """The cache of a DeepSeek would have as many, and take all memory."""
    of = "deepseek2.attention.head_count"
    path = rewrite(FAMILIES / "deepseek_v2.gguf", tmp_path / "x.gguf", metadata={f"{of}_kv": entry})
    with pytest.raises(BadFile, match=rf"x\.gguf: .*: attention\.head_count_kv {n}, expected at most 4$"):
        Context(path, n_ctx=32)
    for heads in ((0, Kind.UINT32), ([0, 30000], *INTS)):  # what has none, and where blocks differ
        check_loadable(GgufFile(rewrite(path, tmp_path / "y.gguf", metadata={of: heads})))


@pytest.mark.parametrize("used", [[0, 2], [2, 0]], ids=str)
def test_experts_of_which_none_is_used(used: list[int], tmp_path: Path) -> None:
    of = {"llama.expert_used_count": (used, Kind.ARRAY, Kind.UINT32)}
    path = rewrite(FAMILIES / "mixtral.gguf", tmp_path / "x.gguf", metadata=of)
    with pytest.raises(BadFile, match=rf"x\.gguf: .* expert_used_count 0 of block {used.index(0)}, where block "):
        check_loadable(GgufFile(path))
    dense = rewrite(path, tmp_path / "y.gguf", edit=without(f"blk.{used.index(0)}.ffn_gate_inp.weight"))
    if not used[0]:  # which the graphs of all but one read for every block
        with pytest.raises(BadFile, match=r"expert_used_count 0 of block 0, where block 1 has experts$"):
            check_loadable(GgufFile(dense))
        of_architecture("nemotron_h_moe", dense, tmp_path / "z.gguf", expert_used_count=(used, *INTS))
        dense = tmp_path / "z.gguf"
    check_loadable(GgufFile(dense))


def test_a_tensor_that_llama_cpp_takes_for_optional(tmp_path: Path) -> None:
    whole = FAMILIES / "granitemoehybrid.gguf"
    name = next(name for name, *_ in tensors_of(whole) if name.endswith("ssm_conv1d.bias"))
    path = rewrite(whole, tmp_path / "x.gguf", edit=without(name))
    with pytest.raises(BadFile, match=rf"x\.gguf: llama\.cpp would crash on it: no tensor {re.escape(name)}$"):
        Context(path, n_ctx=32)


@pytest.mark.parametrize(
    ("names", "marker", "needed", "others"),
    [
        ("falcon-h1 granitehybrid nemotron_h nemotron_h_moe", "ssm_conv1d.weight", "ssm_conv1d.bias", ""),
        ("phi3 pockettts", "attn_norm.weight", "attn_qkv.weight", "attn_q.weight attn_k.weight attn_v.weight"),
        ("phi3", "attn_norm.weight attn_q.weight attn_v.weight", "attn_k.weight", "attn_qkv.weight"),
        ("qwen35 qwen35moe", "ssm_conv1d.weight attn_gate.weight", "attn_qkv.weight", ""),
        ("qwen35 qwen3next", "ssm_conv1d.weight attn_qkv.weight", "attn_gate.weight", ""),
        ("qwen3next", "ssm_conv1d.weight", "ssm_in.weight", "attn_qkv.weight attn_gate.weight"),
        ("qwen3next", "ssm_conv1d.weight ssm_in.weight attn_qkv.weight", "attn_gate.weight", ""),
        ("qwen3next", "attn_qkv.weight ssm_conv1d.weight", "attn_gate.weight", ""),
        ("hy_v3 mimo2 step35", "ffn_gate_inp.weight ffn_up_exps.weight", "ffn_down_exps.weight", ""),
        ("hy_v3", "ffn_gate_inp.weight ffn_down_exps.weight", "ffn_up_exps.weight", "ffn_gate_up_exps.weight"),
        ("kimi-k3", "ffn_gate_shexp.weight ffn_down_shexp.weight", "ffn_up_shexp.weight", ""),
        ("kimi-k3", "ffn_gate_shexp.weight ffn_up_shexp.weight", "ffn_down_shexp.weight", ""),
        ("glm-dsa", "indexer.proj.weight indexer.attn_q_b.weight", "indexer.attn_k.weight", ""),
        ("glm-dsa", "indexer.proj.weight indexer.attn_k.weight", "indexer.attn_q_b.weight", ""),
    ],
)
def test_what_a_block_needs(names: str, marker: str, needed: str, others: str, qwen2: Case, tmp_path: Path) -> None:
    def check(name: str, tensors: str) -> None:
        more = {"general.architecture": (name, Kind.STRING), f"{name}.rope.dimension_sections": ([2, 2, 2, 0], *INTS)}
        data = [(f"blk.0.{x}", np.zeros(4, np.float32), gguf.GGMLQuantizationType.F32) for x in tensors.split()]
        check_loadable(GgufFile(write_gguf(tmp_path / "x.gguf", vocabulary | more, data)))

    vocabulary = {key: entry for key, entry in metadata_of(qwen2.base).items() if key.startswith("tokenizer.")}
    for name in names.split():
        with pytest.raises(BadFile, match=rf"x\.gguf: .*: no tensor .*blk\.0\.{re.escape(needed)}"):
            check(name, marker)
        for more in [needed, others] if others else [needed]:
            check(name, f"{marker} {more}")
        check(name, "ffn_up.weight")
        check(name, "attn_qkv.weight")  # as those of attention have it, all in one


@pytest.mark.parametrize(
    ("entries", "choose"),
    [
        ({}, range(7)),
        ({"block_count": (80, Kind.UINT32), "context_length": (2**20, Kind.UINT32)}, {0, 1, *range(2, 78, 4)}),
        ({"nextn_predict_layers": (2, Kind.UINT32)}, range(5)),
        ({"context_length": (2**20, Kind.UINT32)}, {0, 1, 2, 6}),
        ({"attention.indexer.types": ([1, 0, 0, 1, 0, 0, 0], *INTS)}, {0, 3}),
        ({"attention.indexer.types": (1, Kind.UINT32)}, range(7)),
    ],
)
def test_blocks_that_choose_what_they_attend_to(
    entries: dict[str, Any], choose: Collection[int], qwen2: Case, tmp_path: Path
) -> None:
    """Those of glm-dsa that have an indexer need its tensors, each of them."""

    def check(without: int) -> None:
        more = {f"glm-dsa.{key}": entry for key, entry in ({"block_count": (7, Kind.UINT32)} | entries).items()}
        names = [f"blk.{i}.attn_norm.weight" for i in range(80)]
        parts = ("proj", "attn_k", "attn_q_b")
        names += [f"blk.{i}.indexer.{part}.weight" for i in range(80) if i != without for part in parts]
        data = [(name, np.zeros(4, np.float32), gguf.GGMLQuantizationType.F32) for name in names]
        entry = {"general.architecture": ("glm-dsa", Kind.STRING)}
        check_loadable(GgufFile(write_gguf(tmp_path / "x.gguf", vocabulary | entry | more, data)))

    vocabulary = {key: entry for key, entry in metadata_of(qwen2.base).items() if key.startswith("tokenizer.")}
    for i in (*range(7), 74, 78):
        with pytest.raises(BadFile, match=rf"no tensor blk\.{i}\.indexer") if i in choose else nullcontext():
            check(i)


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_output.weight"])
def test_weights_that_are_integers(name: str, qwen2: Case, tmp_path: Path) -> None:
    def integers(tensors: list[Tensor]) -> list[Tensor]:
        kind = gguf.GGMLQuantizationType.I32
        return [(n, d.astype(np.int32), kind) if n == name else (n, d, k) for n, d, k in tensors]

    path = rewrite(qwen2.base, tmp_path / "x.gguf", edit=integers)
    with pytest.raises(BadFile, match=f"llama.cpp would crash on it: tensor {re.escape(name)} is i32"):
        check_loadable(GgufFile(path))


@pytest.mark.parametrize("kind", ["Q8_1", "Q8_K"])
def test_weights_of_types_that_only_kernels_have(kind: str, qwen2: Case, tmp_path: Path) -> None:
    def edit(tensors: list[Tensor]) -> list[Tensor]:
        n_bytes = {"Q8_1": 40, "Q8_K": 292}[kind]
        data = np.zeros((2, n_bytes), np.uint8)
        return [*tensors, ("blk.0.attn_x.weight", data, gguf.GGMLQuantizationType[kind])]

    path = rewrite(qwen2.base, tmp_path / "x.gguf", edit=edit)
    with pytest.raises(BadFile, match=rf"crash on it: tensor blk\.0\.attn_x\.weight is q8_{kind[-1]}"):
        check_loadable(GgufFile(path))


def with_a_half(base: Path, path: Path, name: str) -> GgufFile:
    def edit(tensors: list[Tensor]) -> list[Tensor]:
        return [*tensors, (name, np.zeros((2, 4), np.float16), gguf.GGMLQuantizationType.F16)]

    return GgufFile(rewrite(base, path, edit=edit))


@pytest.mark.parametrize(
    "name",
    [
        *("ssm_a", "ssm_d", "ssm_conv1d.weight", "ssm_conv1d_q.weight", "shortconv.conv.weight"),
        *("post_norm.weight", "attn_norm_2.weight", "ffn_norm_exps.weight", "ffn_norm", "ssm_dt_norm"),
        *("hc_attn_base.weight", "hc_ffn_scale.weight", "ffn_res_score.weight", "layer_output_scale.weight"),
        *(f"time_mix_{x}.weight" for x in ("lerp_x", "lerp_fused", "decay", "first", "ln", "w0", "a0", "k_k", "r_k")),
        *("channel_mix_lerp_k.weight", "channel_mix_lerp_r.weight"),
    ],
)
def test_what_layers_add_multiply_or_read_as_floats(name: str, qwen2: Case, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=f"crash on it: tensor blk.0.{re.escape(name)} is f16"):
        check_loadable(with_a_half(qwen2.base, tmp_path / "x.gguf", f"blk.0.{name}"))


@pytest.mark.parametrize(
    "name", ["output_hc_base.weight", "output_hc_scale.weight", "hrm.z_l_init", "rope_freqs.weight"]
)
def test_what_a_model_adds_or_multiplies(name: str, qwen2: Case, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=f"crash on it: tensor {re.escape(name)} is f16"):
        check_loadable(with_a_half(qwen2.base, tmp_path / "x.gguf", name))


def test_what_one_architecture_adds_and_another_reads_by_rows(qwen2: Case, tmp_path: Path) -> None:
    name = "blk.0.indexer_compressor_ape.weight"
    path = with_a_half(qwen2.base, tmp_path / "x.gguf", name).path
    check_loadable(GgufFile(of_architecture("deepseek4", path, tmp_path / "y.gguf")))
    with pytest.raises(BadFile, match=f"crash on it: tensor {re.escape(name)} is f16"):
        check_loadable(GgufFile(of_architecture("glm5-next", path, tmp_path / "z.gguf")))


@pytest.mark.parametrize("name", ["hc_attn_fn", "time_mix_w1", "time_mix_decay_w1", "channel_mix_key"])
def test_matrices_may_be_halves(name: str, qwen2: Case, tmp_path: Path) -> None:
    check_loadable(with_a_half(qwen2.base, tmp_path / "x.gguf", f"blk.1.{name}.weight"))


def halves(tensors: list[Tensor]) -> list[Tensor]:
    """Biases as f16."""
    kind = gguf.GGMLQuantizationType.F16
    return [(n, d.astype(np.float16), kind) if n.endswith(".bias") else (n, d, k) for n, d, k in tensors]


def test_a_bias_that_is_no_float32(qwen2: Case, tmp_path: Path) -> None:
    path = rewrite(qwen2.base, tmp_path / "x.gguf", edit=halves)
    with pytest.raises(BadFile, match=r"tensor blk\.0\.attn_\w\.bias is f16"):
        check_loadable(GgufFile(path))


def test_tensors_that_are_not_aligned_for_ggml_are_read_all_the_same(qwen2: Case, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", metadata_of(qwen2.base), tensors_of(qwen2.base), alignment=8)
    with Engine(path, heads=qwen2_adapter(qwen2, tmp_path), n_parallel=1, n_ctx=32) as engine:
        assert len(engine.prompt("a b")) > 0


def qwen2_adapter(qwen2: Case, tmp_path: Path) -> Path:
    import autodeco_gguf as ad

    return ad.export(qwen2.base, qwen2.heads, tmp_path / "heads.gguf", adapter=True).path


def test_a_first_shard_may_have_no_tensors(qwen2: Case, tmp_path: Path) -> None:
    """As gguf-split --no-tensor-first-split writes it."""
    length = {f"qwen2.attention.{key}_length": (16, Kind.UINT32) for key in ("key", "value")}
    path = shards(rewrite(qwen2.base, tmp_path / "x.gguf", metadata=length), tmp_path, [0, 9])
    heads = qwen2_adapter(qwen2, tmp_path)
    with Engine(path, heads=heads, n_parallel=1, n_ctx=32) as engine:
        assert len(engine.prompt("a b")) > 0
    load(path, heads=heads).close()


def test_a_shard_may_be_aligned_for_itself(qwen2: Case, tmp_path: Path) -> None:
    path = shards(qwen2.base, tmp_path, [9])
    second = path.with_name("base-00002-of-00002.gguf")
    write_gguf(second, metadata_of(second), tensors_of(second), alignment=4)
    load(path, heads=qwen2_adapter(qwen2, tmp_path)).close()


def test_every_shard_is_looked_at(qwen2: Case, tmp_path: Path) -> None:
    path = shards(qwen2.base, tmp_path, [0, 9])
    third = path.with_name("base-00003-of-00003.gguf")
    rewrite(third, third, edit=halves)
    with pytest.raises(BadFile, match=rf"^{re.escape(str(third))}: .*: tensor blk.*\.bias is f16$") as caught:
        check_loadable(GgufFile(path))
    assert caught.value.file == str(third)


def test_what_is_whole_is_loaded(case: Case) -> None:
    check_loadable(GgufFile(case.base))


def of_architecture(name: str, source: Path, path: Path, **metadata: Any) -> Path:
    """What says that it is of another one."""
    entries = {key.replace("qwen2.", f"{name}."): entry for key, entry in metadata_of(source).items()}
    entries |= {f"{name}.{key}": entry for key, entry in metadata.items()}
    return write_gguf(path, {**entries, "general.architecture": (name, Kind.STRING)}, tensors_of(source))


def test_a_head_of_which_nothing_is_rotated(qwen2: Case, tmp_path: Path) -> None:
    """As conversion writes GLM5-Next."""
    nothing = {"rope.dimension_count": (0, Kind.UINT32)}
    check_loadable(GgufFile(of_architecture("glm5-next", qwen2.base, tmp_path / "x.gguf", **nothing)))


def test_a_temperature_of_attention_without_its_length(qwen2: Case, tmp_path: Path) -> None:
    scale = {"attention.temperature_scale": (0.1, Kind.FLOAT32)}
    path = of_architecture("deepseek2", qwen2.base, tmp_path / "x.gguf", **scale)
    with pytest.raises(BadFile, match=r"crash on it: attention\.temperature_length 0"):
        check_loadable(GgufFile(path))
    scale["attention.temperature_length"] = (8192, Kind.UINT32)
    check_loadable(GgufFile(of_architecture("deepseek2", qwen2.base, tmp_path / "y.gguf", **scale)))
    del scale["attention.temperature_length"]
    check_loadable(GgufFile(of_architecture("mistral3", qwen2.base, tmp_path / "z.gguf", **scale)))


@pytest.mark.parametrize(
    ("name", "key", "wrong", "right", "reason"),
    [
        ("afmoe", "attention.sliding_window", (0, Kind.UINT32), (9, Kind.UINT32), "0, expected at least 1"),
        ("afmoe", "attention.sliding_window", None, (9, Kind.UINT32), "0, expected at least 1"),
        ("llama4", "attention.sliding_window", (0, Kind.UINT32), None, "0, expected at least 1"),
        ("olmo2", "attention.head_count", (0, Kind.UINT32), (4, Kind.UINT32), "0, expected at least 1"),
        ("phimoe", "attention.head_count", None, ([4, 4], *INTS), "0, expected at least 1"),
        ("cogvlm", "attention.head_count_kv", ([0, 2], *INTS), None, "0, expected at least 1"),
        ("qwen", "attention.head_count_kv", ([0, 2], *INTS), None, "0, expected at least 1"),
        ("dots3note", "attention.sliding_window_pattern", ([0, 0], *INTS), ([0, 1], *INTS), "without a 1"),
        ("dots3note", "attention.sliding_window_pattern", ([1, 1], *INTS), ([1, 0], *INTS), "without a 0"),
        ("glm-dsa", "attention.indexer.types", ([0, 0], *INTS), ([1, 0], *INTS), "without a 1"),
        ("glm-dsa", "attention.indexer.types", (0, Kind.UINT32), ([1, 0], *INTS), "without a 1"),
        ("granite_swa", "attention.rope_pattern", ([0, 0], *INTS), ([0, 1], *INTS), "without a 1"),
        ("granite_swa", "attention.rope_pattern", ([0, 0, 1], *INTS), None, "without a 1"),
    ],
)
def test_what_an_architecture_cannot_do_without(
    name: str, key: str, wrong: Any, right: Any, reason: str, qwen2: Case, tmp_path: Path
) -> None:
    def written(entry: Any) -> GgufFile:
        of = of_architecture(name, qwen2.base, tmp_path / "x.gguf")
        edit = without("blk.0.attn_norm.weight")  # with which glm-dsa needs another
        return GgufFile(rewrite(of, tmp_path / "y.gguf", metadata={f"{name}.{key}": entry}, edit=edit))

    with pytest.raises(BadFile, match=rf"y\.gguf: llama\.cpp would crash on it: {re.escape(key)} {reason}$"):
        check_loadable(written(wrong))
    check_loadable(written(right))


@pytest.mark.parametrize("edit", [{"qwen2.attention.causal": (False, Kind.BOOL)}, "dream"], ids=str)
def test_a_model_that_sees_a_text_as_a_whole(edit: Any, qwen2: Case, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    if isinstance(edit, str):
        of_architecture(edit, qwen2.base, path)
    else:
        rewrite(qwen2.base, path, metadata=edit)
    for open_it in (lambda: Context(path, n_ctx=32), lambda: load(path, heads_enabled=())):
        with pytest.raises(BadFile, match=r"x\.gguf: a \w+ model sees a text as a whole and cannot go on with one"):
            open_it()
    llm = load(path, heads_enabled=(), embedding=True)
    assert len(llm.embed("ab")) == len(llm.tokenize(b"ab"))
    llm.close()


@pytest.mark.parametrize("name", ["qwen3tts", "qwen4exp"])
def test_positions_of_parts_of_others(name: str, qwen2: Case, tmp_path: Path) -> None:
    none = {"rope.dimension_sections": ([0, 0, 0, 4], *INTS)}
    with pytest.raises(BadFile, match=r"rope\.dimension_sections \[0, 0, 0\], expected one larger than 0$"):
        check_loadable(GgufFile(of_architecture(name, qwen2.base, tmp_path / "x.gguf", **none)))


def test_an_encoder_and_a_decoder(qwen2: Case, tmp_path: Path) -> None:
    of_architecture("t5", qwen2.base, tmp_path / "x.gguf")
    with pytest.raises(BadFile, match=r"llama\.cpp would crash on it: a model with an encoder and a decoder"):
        check_loadable(GgufFile(tmp_path / "x.gguf"))


def of_64_positions(path: Path, base: Path) -> Path:
    """A gpt2, which has a row for each position."""
    random, h, n = np.random.default_rng(0), 32, 2
    tokens = next(data for name, data, _ in tensors_of(base) if name == "token_embd.weight").shape[0]
    shapes = {"token_embd.weight": (tokens, h), "position_embd.weight": (64, h), "output.weight": (tokens, h)}
    for norm in ("output_norm", *(f"blk.{i}.{name}" for i in range(n) for name in ("attn_norm", "ffn_norm"))):
        shapes |= {f"{norm}.weight": (h,), f"{norm}.bias": (h,)}
    for i in range(n):
        for name, rows, columns in (
            ("attn_qkv", 3 * h, h),
            ("attn_output", h, h),
            ("ffn_up", 64, h),
            ("ffn_down", h, 64),
        ):
            shapes |= {f"blk.{i}.{name}.weight": (rows, columns), f"blk.{i}.{name}.bias": (rows,)}
    tensors = [(name, random.normal(0, 0.2, shape).astype(np.float32), None) for name, shape in shapes.items()]
    counts = {"block_count": n, "context_length": 64, "embedding_length": h, "feed_forward_length": 64}
    metadata = {f"gpt2.{key}": (value, Kind.UINT32) for key, value in (counts | {"attention.head_count": 4}).items()}
    metadata["gpt2.attention.layer_norm_epsilon"] = (1e-5, Kind.FLOAT32)
    vocabulary = {key: value for key, value in metadata_of(base).items() if key.startswith("tokenizer.")}
    write_gguf(path, {"general.architecture": ("gpt2", Kind.STRING), **metadata, **vocabulary}, tensors)
    return path


def test_more_tokens_than_positions(qwen2: Case, tmp_path: Path) -> None:
    path = of_64_positions(tmp_path / "x.gguf", qwen2.base)
    words = r"n_ctx 65, expected at most 64, for which the model has positions"
    with pytest.raises(InvalidInput, match=words):
        Context(path, n_ctx=65)
    with pytest.raises(InvalidInput, match=words):
        load(path, heads_enabled=(), n_ctx=65)
    context = Context(path, n_ctx=64)
    with pytest.raises(InvalidInput, match=words):
        context.resize(65, 1)
    assert context.decode([5], [0], [0], hidden=False)  # as it was
    for n_ctx in (64, 0):
        llm = load(path, heads_enabled=(), n_ctx=n_ctx)
        assert llm([5, 6, 7], max_tokens=None, seed=1, logit_bias=dict.fromkeys(ends(llm), -np.inf))["usage"] == {
            "prompt_tokens": 3, "completion_tokens": 61, "total_tokens": 64,
        }  # fmt: skip
        llm.close()


def ends(llm: Any) -> list[int]:
    return [t for t in range(llm.n_vocab()) if llama_cpp.llama_vocab_is_eog(llm._model.vocab, t)]


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_model_that_says_how_to_pool(kind: int, qwen2: Case, tmp_path: Path) -> None:
    """The hidden states of its tokens were mixed, or not there."""
    pooled = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"qwen2.pooling_type": (kind, Kind.UINT32)})
    found = []
    for path in (qwen2.base, pooled):
        context = Context(path, n_ctx=32)
        tokens = list(range(3, 20))
        logits, hidden = context.decode(tokens, range(len(tokens)), [0] * len(tokens), hidden=True)
        found.append((logits.copy(), hidden.copy()))
        context.close()
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("sections", [None, [0, 0, 0, 0], [0, 0, 0, 4], [2**31] * 4, ["a"]], ids=str)
def test_positions_of_parts_that_are_nothing(sections: list[Any] | None, qwen2: Case, tmp_path: Path) -> None:
    def written(values: list[Any]) -> Path:
        kind = Kind.STRING if isinstance(values[0], str) else Kind.UINT32
        return of_architecture("qwen2vl", qwen2.base, path, **{"rope.dimension_sections": (values, Kind.ARRAY, kind)})

    path = tmp_path / "x.gguf"
    if sections is None:
        of_architecture("qwen2vl", qwen2.base, path)
    else:
        written(sections)
    with pytest.raises(BadFile, match=r"x\.gguf: llama\.cpp would crash on it: rope\.dimension_sections "):
        Context(path, n_ctx=32)
    Context(written([2, 2, 2, 0]), n_ctx=32).close()

"""What llama.cpp would crash on, or compute wrongly, found in a header."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Mapping

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import parts_of
from autodeco_gguf.model.machine import MAX_CONTEXT

_MAX_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""

_INT = 2**31 - 1
"""C's largest."""

_RANGES = {
    "context_length": (0, MAX_CONTEXT),  # llama_cpp makes room for as many at every tokenization
    "attention.sliding_window": (0, MAX_CONTEXT),
    "attention.output_group_count": (1, _INT),
    "full_attention_interval": (1, _INT),
    "hyper_connection.sinkhorn_iterations": (0, 1000),
    "wkv.head_size": (1, _INT),
}
"""Least and most of what a file says."""

_NOT_ZERO = {
    "afmoe": ("attention.sliding_window", 0),
    "cogvlm": ("attention.head_count_kv", 1),
    "llama4": ("attention.sliding_window", 1),
    "olmo2": ("attention.head_count", 0),
    "phimoe": ("attention.head_count", 0),
    "qwen": ("attention.head_count_kv", 1),
}
"""What an architecture has no graph without, in any block; and what it is where a file does not say."""

_HAS = {
    "dots3note": ("attention.sliding_window_pattern", (0, 1)),
    "granite_swa": ("attention.rope_pattern", (1,)),
}
"""Kinds of blocks of which an architecture needs one each."""

_NEEDS = (
    ("falcon-h1 granitehybrid nemotron_h nemotron_h_moe", "ssm_conv1d.weight", "ssm_conv1d.bias"),
    ("glm-dsa", "indexer.proj.weight", "indexer.attn_k.weight indexer.attn_q_b.weight"),
    ("hy_v3 mimo2 step35", "ffn_gate_inp.weight", "ffn_down_exps.weight ffn_up_exps.weight|ffn_gate_up_exps.weight"),
    ("kimi-k3", "ffn_gate_shexp.weight", "ffn_up_shexp.weight ffn_down_shexp.weight"),
    ("phi3 pockettts", "attn_norm.weight", " ".join(f"attn_qkv.weight|attn_{x}.weight" for x in "qkv")),
    ("qwen35 qwen35moe", "ssm_conv1d.weight", "attn_qkv.weight attn_gate.weight"),
    ("qwen3next", "ssm_conv1d.weight", "attn_qkv.weight|ssm_in.weight"),
    ("qwen3next", "ssm_conv1d.weight attn_qkv.weight", "attn_gate.weight"),
)
"""Architectures; tensors; those, or one of two, that a block with them needs, though llama.cpp loads it without."""

_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")

_LENGTHS = ("key_length", "value_length", "key_length_swa", "value_length_swa")
"""Sizes of a head; where no tensor's shape follows from one, llama.cpp believes it and makes a cache as large."""

_NO_WEIGHTS = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K")
"""Types that ggml stores and cannot compute with."""

_VECTOR = re.compile(
    r"_norm(?:_\w+)?(?:\.weight)?$|\.bias$|\.scale$|sinks\.weight$|:rope_freqs|:rope_factors"
    r"|ssm_[ad]$|ssm_conv1d(?:_[qkv])?\.weight$|shortconv\.conv\.weight$"
    r"|hc_(?:\w+_)?(?:base|scale)\.weight$|res_score\.weight$|layer_output_scale\.weight$|:hrm\.z_l_init$"
    r"|(?:time|channel)_mix_(?:lerp_\w+|decay|first|ln|[wav]0|k_[ka]|r_k)\.weight$"
    r"|^glm5-next:.*indexer_compressor_ape\.weight$"  # others read it by rows, of any type
)
"""ARCHITECTURE:NAME of tensors that are added, multiplied or read as floats, which ggml does in f32 alone."""

_SEES_ALL = {
    *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert", "neo-bert"),
    *("nomic-bert", "nomic-bert-moe", "t5encoder", "dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"),
}
"""Architectures of which a token sees those that come after it."""

_M_ROPE = {"paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3tts", "qwen4exp"}
"""Architectures whose positions have several parts, as those of an image do."""

_PARTLY_ROTATED = {"afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "llama4", "smallthinker", "smollm3"}
"""Architectures with layers whose keys have no position: a context shift of llama.cpp rotates these as well."""


def check_loadable(base: GgufFile) -> None:
    """Raise BadFile, naming key or tensor, for what would end the process within llama.cpp, in any shard.

    Its assertions while it loads are caught (csrc/log_capture.h); this is for what it does not look at then. Nor is
    a file loadable that is no longer the one whose header was read.
    """
    parts = parts_of(base)
    names = {tensor.name: None for part in parts for tensor in part.tensors}
    problem = base.header.check_vocab() or _numbers(base) or _lacking(base) or _rotation(base)
    problem = problem or _unused_experts(base, names) or _missing(base, names)
    if base.architecture == "t5":  # of which the encoder has to run first
        problem = "a model with an encoder and a decoder"
    widest = max((n for part in parts for tensor in part.tensors for n in tensor.shape), default=0)
    for name in _LENGTHS:
        length = base.get(f"{base.architecture}.attention.{name}", int, 0)
        if length > widest:
            problem = f"{name} {length}, larger than any tensor"
    if problem:
        raise _crash(base, problem)
    for part in parts:
        part.check_unchanged()
        for tensor in part.tensors:
            integer = tensor.type in _NO_WEIGHTS and "tid2eid" not in tensor.name  # which holds indices
            if integer or (tensor.type != "f32" and _VECTOR.search(f"{base.architecture}:{tensor.name}")):
                raise _crash(part, f"tensor {tensor.name} is {tensor.type}")


def overridden(base: GgufFile, values: Mapping[str, object] | None) -> GgufFile:
    """The header as llama.cpp reads it with llama_cpp's ``kv_overrides``, which are checked as a file is.

    Raises InvalidInput for what would end the process, is of another type than the file's, or no file can have.
    """
    for key, value in (values or {}).items():
        if key == "tokenizer.ggml.model":
            raise InvalidInput(f"kv_overrides: {key} cannot be another than the file's", key="kv_overrides")
        if isinstance(value, int) and not 0 <= value < 2**32:  # it would wrap around
            raise InvalidInput.of(f"kv_overrides: {key}", value, "0 to 4294967295")
    if not values:
        return base
    changed = copy.copy(base)
    changed.overrides = values
    try:
        check_loadable(changed)
    except BadFile as e:
        raise InvalidInput(f"kv_overrides: {e}", key="kv_overrides") from e
    return changed


def _numbers(base: GgufFile) -> str | None:
    """The first number that is too small or too large."""
    of = base.architecture
    blocks = base.get(f"{of}.block_count", int, 1)
    if not 1 <= blocks <= _MAX_BLOCKS:
        return f"{blocks} blocks"
    for name, (least, most) in _RANGES.items():
        n = base.get(f"{of}.{name}", int, least)
        if not least <= n <= most:
            return f"{name} {n}"
    for name in _EPSILONS:
        epsilon = base.get(f"{of}.attention.{name}", float, 1.0)
        if not 0 <= epsilon <= 1:
            return f"{name} {epsilon:g}"
    for name in ("nextn_predict_layers", "n_deepstack_layers"):
        n = base.get(f"{of}.{name}", int, 0)
        if n >= blocks:
            return f"{name} {n}, expected less than its {blocks} blocks"
    heads, kv = (_most(base, f"{of}.attention.{name}") for name in ("head_count", "head_count_kv"))
    if kv > heads > 0:  # of some architectures no tensor's shape follows from it, and the cache is as large
        return f"attention.head_count_kv {kv}, expected at most {heads}"
    temperature = f"{of}.attention.temperature"
    has_length = of != "deepseek2" or base.get(f"{temperature}_length", int, 0)
    if base.get(f"{temperature}_scale", float, 0.0) and not has_length:
        return "attention.temperature_length 0"
    return None


def _most(base: GgufFile, key: str) -> int:
    """The largest number, where blocks differ; 0 where there is none."""
    value = base.get(key, object)
    return max((n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)), default=0)


def _lacking(base: GgufFile) -> str | None:
    """What an architecture cannot do without, and this one has not."""
    of = base.architecture
    sections = base.get(f"{of}.rope.dimension_sections", object)
    sections = sections[:3] if isinstance(sections, list) else [sections]
    if of in _M_ROPE and not any(isinstance(n, int) and 0 < n <= _INT for n in sections):
        return f"rope.dimension_sections {sections}, expected one larger than 0"
    if of in _NOT_ZERO:
        name, default = _NOT_ZERO[of]
        n = base.get(f"{of}.{name}", object, default)
        if 0 in (n if isinstance(n, list) else [n]):
            return f"{name} 0, expected at least 1"
    name, needed = _HAS.get(of, ("", ()))
    pattern = base.get(f"{of}.{name}", object)
    for n in needed:
        if isinstance(pattern, list) and n not in pattern[: _trunk(base)]:
            return f"{name} without a {n}"
    return None


def _trunk(base: GgufFile) -> int:
    """Blocks but for those that predict further tokens."""
    of = base.architecture
    return base.get(f"{of}.block_count", int, 1) - base.get(f"{of}.nextn_predict_layers", int, 0)


def _rotation(base: GgufFile) -> str | None:
    """What is wrong with how much of a head is rotated: pairs of it, and no more than there is; of GLM5-Next none."""
    least = 0 if base.architecture == "glm5-next" else 2
    attention = f"{base.architecture}.attention"
    width = base.get(f"{base.architecture}.embedding_length", int, 0)
    heads = base.get(f"{attention}.head_count", object)
    heads = heads[0] if isinstance(heads, list) and heads else heads  # as llama.cpp does, where layers differ
    size = base.get(f"{attention}.key_length", int)
    if size is None and isinstance(heads, int) and heads > 0:
        size = width // heads
    for suffix in ("", "_swa"):
        size = base.get(f"{attention}.key_length{suffix}", int, size)
        n = base.get(f"{base.architecture}.rope.dimension_count{suffix}", int)
        if n is not None and (n < least or n % 2 or (size is not None and n > size)):
            return f"rope.dimension_count{suffix} {n}" + ("" if size is None else f" of a head of {size}")
    return None


def _unused_experts(base: GgufFile, names: Collection[str]) -> str | None:
    """The first block that has experts of which none is used; llama.cpp looks at the largest number alone."""
    used = base.get(f"{base.architecture}.expert_used_count", object)
    if not isinstance(used, list) or 0 not in used:
        return None
    for i, n in enumerate(used[:_MAX_BLOCKS]):
        read = n if base.architecture.startswith("nemotron_h") else n and used[0]  # others' graphs read the first one
        if not read and f"blk.{i}.ffn_gate_inp.weight" in names:
            return f"expert_used_count 0 of block {0 if n else i}, where block {i} has experts"
    return None


def _missing(base: GgufFile, names: Collection[str]) -> str | None:
    """The first tensor that a block has not and its graph needs."""
    rows = [(marker.split(), needed.split()) for of, marker, needed in _NEEDS if base.architecture in of.split()]
    for name, ((marker, *others), needed) in itertools.product(names, rows):
        block = name.removesuffix(marker)
        if name == f"{block}{marker}" and all(f"{block}{other}" in names for other in others):
            for kinds in needed:
                either = [f"{block}{kind}" for kind in kinds.split("|")]
                if not any(other in names for other in either):
                    return f"no tensor {' or '.join(either)}"
    if base.architecture == "glm-dsa":
        if not _indexers(base):
            return "attention.indexer.types without a 1"
        for block in (f"blk.{i}." for i in _indexers(base)):
            if f"{block}attn_norm.weight" in names and f"{block}indexer.proj.weight" not in names:
                return f"no tensor {block}indexer.proj.weight"
    return None


def _indexers(base: GgufFile) -> list[int]:
    """The blocks of a glm-dsa model that choose by an indexer of their own what they attend to, as llama.cpp has it."""
    blocks = range(_trunk(base))
    types = base.get("glm-dsa.attention.indexer.types", object)
    if isinstance(types, list):
        return [i for i in blocks if i < len(types) and types[i]]
    if types is None and base.get("glm-dsa.context_length", int, 0) >= 2**20:  # GLM 5.2's
        return [i for i in blocks if i < 2 or (i < 78 and i % 4 == 2)]
    return list(blocks) if types is None or types else []


def check_use(base: GgufFile, n_ctx: int, *, embeds: bool = False) -> None:
    """Refuse a model that cannot go on with a text, but where it ``embeds`` one, and more tokens than it has positions.

    ``n_ctx``: tokens of a sequence, 0 for as many as the model was trained for.

    Raises:
        BadFile: a token sees those that come after it, as in an encoder or a diffusion model.
        InvalidInput: ``n_ctx``; llama.cpp would end the process at the first token without a position.
    """
    if not embeds and (
        base.architecture in _SEES_ALL or not base.get(f"{base.architecture}.attention.causal", bool, True)
    ):
        reason = (
            f"a {base.architecture} model sees a text as a whole and cannot go on with one; it may be there to embed"
        )
        raise BadFile.of(base.path, reason)
    tables = [t.shape[0] for part in parts_of(base) for t in part.tensors if t.name == "position_embd.weight"]
    n_ctx = n_ctx or base.get(f"{base.architecture}.context_length", int, 0)
    if tables and n_ctx > tables[0]:
        raise InvalidInput.of("n_ctx", n_ctx, f"at most {tables[0]}, for which the model has positions")


def keeps_keys(base: GgufFile) -> bool:
    """Whether a context shift leaves keys as they should be.

    llama.cpp rotates those of all sequences again then, most of them by nothing, with the factor for attention that
    YaRN and LongRoPE bring: each shift would multiply all of them by it. DeepSeek's multiplier makes that 1.
    """
    rope = f"{base.architecture}.rope.scaling"
    yarn = base.get(f"{rope}.type", str, "") == "yarn"
    if base.architecture == "deepseek2" and base.get(f"{rope}.yarn_log_multiplier", float, 0.0):
        yarn = False
    if base.architecture in _PARTLY_ROTATED:
        return False
    return not yarn and base.get(f"{rope}.attn_factor", float, 1.0) == 1


def _crash(file: GgufFile, problem: str) -> BadFile:
    return BadFile.of(file.path, f"llama.cpp would crash on it: {problem}")

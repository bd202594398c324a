"""What llama.cpp would crash on, or compute wrongly, found in a header."""

from __future__ import annotations

import re

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import parts_of
from autodeco_gguf.model.machine import MAX_CONTEXT

_MAX_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""

_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")

_LENGTHS = ("key_length", "value_length", "key_length_swa", "value_length_swa")
"""Sizes of a head; where no tensor's shape follows from one, llama.cpp believes it and makes a cache as large."""

_NO_WEIGHTS = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K")
"""Types that ggml stores and cannot compute with."""

_VECTOR = re.compile(
    r"_norm(?:_\w+)?(?:\.weight)?$|\.bias$|\.scale$|sinks\.weight$|^rope_freqs|^rope_factors"
    r"|ssm_[ad]$|ssm_conv1d(?:_[qkv])?\.weight$|shortconv\.conv\.weight$"
    r"|hc_(?:\w+_)?(?:base|scale)\.weight$|res_score\.weight$|layer_output_scale\.weight$|^hrm\.z_l_init$"
    r"|(?:time|channel)_mix_(?:lerp_\w+|decay|first|ln|[wav]0|k_[ka]|r_k)\.weight$"
)
"""Tensors that are added, multiplied or read as floats, which ggml does in f32 alone."""

_SEES_ALL = {
    *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert", "neo-bert"),
    *("nomic-bert", "nomic-bert-moe", "t5encoder", "dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"),
}
"""Architectures of which a token sees those that come after it."""

_M_ROPE = {"paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"}
"""Architectures whose positions have several parts, as those of an image do."""

_PARTLY_ROTATED = {"afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "llama4", "smallthinker", "smollm3"}
"""Architectures with layers whose keys have no position: a context shift of llama.cpp rotates these as well."""


def check_loadable(base: GgufFile) -> None:
    """Raise BadFile, naming key or tensor, for what would end the process within llama.cpp, in any shard.

    Its assertions while it loads are caught (csrc/log_capture.h); this is for what it does not look at then. Nor is
    a file loadable that is no longer the one whose header was read.
    """
    key = f"{base.architecture}.block_count"
    blocks = base.get(key, int, 1)
    problem = base.header.check_vocab()
    if not 1 <= blocks <= _MAX_BLOCKS:
        problem = f"{blocks} blocks"
    for name in ("context_length", "attention.sliding_window"):
        n = base.get(f"{base.architecture}.{name}", int, 0)
        if not 0 <= n <= MAX_CONTEXT:  # llama_cpp makes room for as many at every tokenization
            problem = f"{name} {n}"
    for name in _EPSILONS:
        epsilon = base.get(f"{base.architecture}.attention.{name}", float, 1.0)
        if not 0 <= epsilon <= 1:
            problem = f"{name} {epsilon:g}"
    for name in ("full_attention_interval", "wkv.head_size"):
        if not base.get(f"{base.architecture}.{name}", int, 1):
            problem = f"{name} 0"
    sections = base.get(f"{base.architecture}.rope.dimension_sections", object, None)
    if base.architecture in _M_ROPE and not (
        isinstance(sections, list) and any(isinstance(n, int) and n > 0 for n in sections[:3])
    ):
        problem = f"rope.dimension_sections {sections}"
    if 0 < blocks <= base.get(f"{base.architecture}.nextn_predict_layers", int, 0):
        problem = "all of its blocks are for predicting further tokens"
    temperature = f"{base.architecture}.attention.temperature"
    has_length = base.architecture != "deepseek2" or base.get(f"{temperature}_length", int, 0)
    if base.get(f"{temperature}_scale", float, 0.0) and not has_length:
        problem = "attention.temperature_length 0"
    problem = _rotation(base) or _unused_experts(base) or problem
    if base.architecture == "t5":  # of which the encoder has to run first
        problem = "a model with an encoder and a decoder"
    parts = parts_of(base)
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
            if integer or (tensor.type != "f32" and _VECTOR.search(tensor.name)):
                raise _crash(part, f"tensor {tensor.name} is {tensor.type}")


def _rotation(base: GgufFile) -> str | None:
    """What is wrong with how much of a head is rotated: pairs of it, and no more than there is; of GLM5-Next none."""
    least = 0 if base.architecture == "glm5-next" else 2
    attention = f"{base.architecture}.attention"
    width = base.get(f"{base.architecture}.embedding_length", int, 0)
    heads = base.get(f"{attention}.head_count", object)  # a list, where layers differ
    size = base.get(f"{attention}.key_length", int)
    if size is None and isinstance(heads, int) and heads > 0:
        size = width // heads
    for suffix in ("", "_swa"):
        size = base.get(f"{attention}.key_length{suffix}", int, size)
        n = base.get(f"{base.architecture}.rope.dimension_count{suffix}", int)
        if n is not None and (n < least or n % 2 or (size is not None and n > size)):
            return f"rope.dimension_count{suffix} {n}" + ("" if size is None else f" of a head of {size}")
    return None


def _unused_experts(base: GgufFile) -> str | None:
    """The first block that has experts of which none is used; llama.cpp looks at the largest number alone."""
    used = base.get(f"{base.architecture}.expert_used_count", object)
    if not isinstance(used, list) or 0 not in used:
        return None
    names = {tensor.name for part in parts_of(base) for tensor in part.tensors}
    blocks = (i for i, n in enumerate(used[:_MAX_BLOCKS]) if not n and f"blk.{i}.ffn_gate_inp.weight" in names)
    return next((f"expert_used_count 0 of block {i}, which has experts" for i in blocks), None)


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

"""GGUFs broken by someone who knows the format: keys, values, tensors, counts and bytes, a few at a time."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

from gguf.constants import GGML_QUANT_SIZES

from hostile.gguf_bytes import ARRAY, BOOL, F32, I32, SCALARS, STRING, U32, U64, WIDTH, Entry, Gguf, array, text, u32

NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    64,
    255,
    256,
    65535,
    2**16,
    2**20,
    2**24,
    2**28,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
FLOATS = [0.0, -0.0, 1e-45, 1e-9, 0.5, 1.0, 1e4, 1e30, -1.0, float("inf"), float("-inf"), float("nan")]
STRINGS = [
    b"",
    b"\0",
    b"a\0b",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x1b[2J\x1b]0;owned\x07",
    b"x" * 63,
    b"x" * 64,
    b"x" * 1023,
    b"x" * 1024,
    b"x" * 70000,
    b"\n\n",
    "é中🙂".encode(),
    b"../../etc/passwd",
    b"%s%n%d",
    b"-1",
    b"default",
]
TEMPLATES = [
    b"{{ 'a' * 10**9 }}",
    b"{{ 10 ** 10 ** 8 }}",
    b"{% for i in range(10**9) %}{% endfor %}",
    b"{% if %}",
    b"{{",
    b"\xff",
    b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    b"{{ " + b"(" * 3000 + b"1" + b")" * 3000 + b" }}",
    b"{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
    b"{{ 1 / 0 }}",
    b"{{ ''.__class__.__mro__ }}",
    b"{{ messages[99] }}",
    b"{{ 'x'|center(10**9) }}",
    b"{{ '%1000000000d' % 1 }}",
    b"{{ '{:>1000000000}'.format(1) }}",
    b"{{ [[1]] * 10**9 }}",
    b"{% set x = 'a' %}{% for i in range(99) %}{% set x = x ~ x %}{% endfor %}{{ x }}",
    b"{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    b"{% include 'x' %}",
    b"{% extends 'x' %}",
    b"{{ raise_exception('no') }}",
    b"{{ messages|tojson * 9 }}",
    b"x" * 1024,
    b"{{ messages[0].content }}" + b" " * 999,
    b"{{ 'a'|indent(10**9, true) }}",
    b"{{ range(10**7)|list|length }}",
    b"{{ lipsum(n=100000) }}",
    b"{{ 'a'.replace('a', 'b' * 9999999) }}",
    b"{{ 1 << 9999999999 }}",
    b"{% break %}",
    b"{{ -" * 1 + b"- " * 5000 + b"1 }}",
    b"{{ 9" * 1 + b"9" * 6000 + b" }}",
    b"{{ 1" + b" + 1" * 20000 + b" }}",
    b"{% if 1 %}" * 300 + b"{% endif %}" * 300,
    b"{{ x(" * 200 + b")" * 200 + b"}}",
    b"{{ strftime_now('%Y' * 9) }}",
]
ARCHITECTURES = [
    "llama",
    "llama4",
    "falcon",
    "gpt2",
    "gptj",
    "gptneox",
    "mpt",
    "baichuan",
    "starcoder",
    "refact",
    "bert",
    "nomic-bert",
    "jina-bert-v2",
    "bloom",
    "stablelm",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3next",
    "phi2",
    "phi3",
    "phimoe",
    "plamo",
    "plamo2",
    "codeshell",
    "orion",
    "internlm2",
    "minicpm",
    "minicpm3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "starcoder2",
    "mamba",
    "mamba2",
    "jamba",
    "falcon-h1",
    "xverse",
    "command-r",
    "cohere2",
    "dbrx",
    "olmo",
    "olmo2",
    "olmoe",
    "openelm",
    "arctic",
    "deepseek",
    "deepseek2",
    "chatglm",
    "glm4",
    "glm4moe",
    "bitnet",
    "t5",
    "t5encoder",
    "jais",
    "nemotron",
    "exaone",
    "exaone4",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
    "granite",
    "granitemoe",
    "granitehybrid",
    "chameleon",
    "wavtokenizer-dec",
    "plm",
    "bailingmoe",
    "dots1",
    "ernie4_5",
    "ernie4_5-moe",
    "hunyuan-moe",
    "smollm3",
    "gpt-oss",
    "lfm2",
    "lfm2moe",
    "dream",
    "smallthinker",
    "llada",
    "llada-moe",
    "seed_oss",
    "grovemoe",
    "apertus",
    "minimax-m2",
    "cogvlm",
    "pangu-embedded",
    "clip",
    "(unknown)",
    "nonsense",
]
HPARAMS = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "vocab_size",
    "rope.dimension_count",
    "rope.dimension_sections",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.clamp_kqv",
    "attention.causal",
    "attention.scale",
    "attention.temperature_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_group_count",
    "expert_group_used_count",
    "expert_gating_func",
    "expert_weights_scale",
    "leading_dense_block_count",
    "pooling_type",
    "use_parallel_residual",
    "residual_scale",
    "logit_scale",
    "embedding_scale",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "wkv.head_size",
    "nextn_predict_layers",
    "attention.indexer.head_count",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "swin_norm",
    "features_length",
    "embedding_length_out",
    "attention.key_length_mla",
    "attention.kv_lora_rank",
    "attention.q_lora_rank",
    "decoder_block_count",
    "tensor_data_layout",
    "interleave_moe_layer_step",
    "classifier.output_labels",
    "dense_2_feat_out",
]
TOKENIZER = [
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "unknown_token_id",
    "seperator_token_id",
    "padding_token_id",
    "mask_token_id",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    "precompiled_charsmap",
    "token_type_count",
    "fim_pre_token_id",
    "prefix_token_id",
    "middle_token_id",
    "chat_template",
    "hf.json",
]
OTHERS = [
    "general.architecture",
    "general.alignment",
    "general.type",
    "general.name",
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
    "autodeco.version",
    "autodeco.hidden_size",
    "autodeco.vocab_size",
    "autodeco.base_model",
    "autodeco.base_size",
    "autodeco.temp_head.activation",
    "autodeco.temp_head.scale",
    "autodeco.top_p_head.activation",
    "autodeco.top_p_head.features",
    "adapter.type",
    "tokenizer.chat_template",
    "tokenizer.chat_template.tool_use",
    "adapter.lora.alpha",
    "general.sampling.temp",
]
SIZES = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
VOCABULARIES = [b"llama", b"bert", b"t5", b"rwkv", b"plamo2", b"none", b"no_vocab", b"gpt2", b"x"]


def scalar(rng: random.Random, kind: int) -> bytes:
    if kind in (F32, 12):
        return struct.pack("<f" if kind == F32 else "<d", rng.choice(FLOATS))
    return (rng.choice(NUMBERS) & (256 ** WIDTH[kind] - 1)).to_bytes(WIDTH[kind], "little")


def odd_value(rng: random.Random) -> tuple[int, bytes]:
    """Any type, any value."""
    kind = rng.choice([0, 1, 2, 3, U32, U32, U32, I32, F32, BOOL, STRING, STRING, ARRAY, U64, 11, 12, 13, 255])
    if kind == STRING:
        return kind, text(rng.choice(STRINGS))
    if kind == ARRAY:
        item = rng.choice([0, U32, I32, F32, BOOL, STRING, ARRAY, U64, 99])
        n = rng.choice([0, 1, 2, 3, 100, 1000])
        items = [text(rng.choice(STRINGS[:9])) if item == STRING else scalar(rng, item) for _ in range(n) if item < 13]
        return kind, array(item, items, rng.choice([None, None, None, 0, n + 1, 2**31, 2**62, 2**64 - 1]))
    return kind, scalar(rng, kind) if kind < 13 else b"\0" * 8


def key_of(rng: random.Random, g: Gguf) -> bytes:
    """A key that some reader looks for."""
    if g.find(b"autodeco.version") is not None and rng.random() < 0.4:
        return rng.choice([key for key in OTHERS if key.startswith("autodeco")]).encode()
    arch = g.find(b"general.architecture")
    prefix = arch.value[8:].decode("latin-1") if arch is not None and len(arch.value) < 100 else "llama"
    group = rng.random()
    if group < 0.45:
        return f"{prefix}.{rng.choice(HPARAMS)}".encode("latin-1")
    if group < 0.7:
        return f"tokenizer.ggml.{rng.choice(TOKENIZER)}".encode()
    return rng.choice(OTHERS).encode()


def set_number(rng: random.Random, g: Gguf) -> None:
    g.set(key_of(rng, g), U32, u32(rng.choice(NUMBERS)))


def set_same_type(rng: random.Random, g: Gguf) -> None:
    """A value that the reader's type check lets through."""
    own = [e for e in g.entries if e.key.startswith(b"autodeco.")]
    entry = rng.choice(own if own and rng.random() < 0.4 else g.entries)
    if entry.kind < len(SCALARS) and entry.kind not in (STRING, ARRAY):
        entry.value = scalar(rng, entry.kind)
    elif entry.kind == STRING:
        entry.value = text(rng.choice(STRINGS))


def set_anything(rng: random.Random, g: Gguf) -> None:
    g.set(key_of(rng, g), *odd_value(rng))


def set_template(rng: random.Random, g: Gguf) -> None:
    g.set(b"tokenizer.chat_template", STRING, text(rng.choice(TEMPLATES)))


def set_architecture(rng: random.Random, g: Gguf) -> None:
    """Another architecture, most of them with this one's numbers under its own name."""
    arch, new = g.find(b"general.architecture"), rng.choice(ARCHITECTURES).encode()
    if arch is None:
        return
    old, arch.value = arch.value[8:], text(new)
    for entry in g.entries if rng.random() < 0.9 else ():
        if entry.key.startswith(old + b"."):
            entry.key = new + entry.key[len(old) :]


def set_vocabulary(rng: random.Random, g: Gguf) -> None:
    g.set(b"tokenizer.ggml.model", STRING, text(rng.choice(VOCABULARIES)))


def change_list(rng: random.Random, g: Gguf) -> None:
    """An array with entries that are odd, too many, too few, or of another type."""
    lists = [e for e in g.entries if e.kind == ARRAY and e.value[:4] in (u32(STRING), u32(I32), u32(F32))]
    if not lists:
        return
    entry = rng.choice(lists)
    kind, n = struct.unpack_from("<IQ", entry.value)
    if kind == STRING:
        at, items = 12, []
        for _ in range(min(n, (len(entry.value) - 12) // 8)):
            (size,) = struct.unpack_from("<Q", entry.value, at)
            items.append(entry.value[at + 8 : at + 8 + size])
            at += 8 + size
        for _ in range(rng.choice([1, 1, 5])):
            if items:
                items[rng.randrange(len(items))] = rng.choice([*STRINGS, items[0], b"<0x41>", b"<0xZZ>", b"a b", b"ab"])
        cut = rng.choice([len(items), len(items), 0, 1, 3, len(items) // 2])
        entry.value = array(STRING, [text(i) for i in (items * 2)[: rng.choice([cut, len(items) + 3])]])
    else:
        items = [entry.value[i : i + 4] for i in range(12, len(entry.value), 4)]
        if items:
            items[rng.randrange(len(items))] = scalar(rng, kind)
        entry.value = array(
            rng.choice([kind, kind, F32, U32]), items[: rng.choice([len(items), 0, 1, len(items) // 2])]
        )


def change_key(rng: random.Random, g: Gguf) -> None:
    rng.choice(g.entries).key = rng.choice(STRINGS)


def add_entry(rng: random.Random, g: Gguf) -> None:
    g.entries.insert(rng.randint(0, len(g.entries)), Entry(rng.choice(STRINGS), *odd_value(rng)))
    g.n_entries += 1


def drop_entry(rng: random.Random, g: Gguf) -> None:
    g.entries.remove(rng.choice(g.entries))
    g.n_entries -= 1


def double_entry(rng: random.Random, g: Gguf) -> None:
    g.entries.append(rng.choice(g.entries))
    g.n_entries += 1


def change_type(rng: random.Random, g: Gguf) -> None:
    t = rng.choice(g.tensors)
    t.kind = rng.choice([*range(42), 255, 2**31])


def change_shape(rng: random.Random, g: Gguf) -> None:
    t = rng.choice(g.tensors)
    choice = rng.random()
    if choice < 0.3 and t.dims:
        t.dims[rng.randrange(len(t.dims))] = rng.choice(NUMBERS)
    elif choice < 0.5:
        t.dims.reverse()
    elif choice < 0.7:
        t.dims.append(rng.choice([1, 1, 0, 2]))
    elif choice < 0.8:
        t.dims = []
    elif choice < 0.9:
        t.dims = [1] * rng.choice([4, 5, 100])
    else:
        t.dims = [2**21, 2**21, 2**21]


def change_place(rng: random.Random, g: Gguf) -> None:
    t = rng.choice(g.tensors)
    t.offset = rng.choice([*NUMBERS, t.offset + 1, t.offset + 32, rng.choice(g.tensors).offset])


def change_name(rng: random.Random, g: Gguf) -> None:
    t = rng.choice(g.tensors)
    t.name = rng.choice(
        [*STRINGS, rng.choice(g.tensors).name, b"autodeco." + t.name, b"autodeco.base_view", t.name + b"s"]
    )


def drop_tensor(rng: random.Random, g: Gguf) -> None:
    g.tensors.remove(rng.choice(g.tensors))
    g.n_tensors -= 1


def change_counts(rng: random.Random, g: Gguf) -> None:
    if rng.random() < 0.5:
        g.n_tensors = rng.choice([*NUMBERS, g.n_tensors + 1, g.n_tensors - 1])
    else:
        g.n_entries = rng.choice([*NUMBERS, g.n_entries + 1, g.n_entries - 1])


def change_start(rng: random.Random, g: Gguf) -> None:
    if rng.random() < 0.5:
        g.version = rng.choice([0, 1, 2, 4, 2**31, 3 << 24])
    else:
        g.magic = rng.choice([b"GGUF"[::-1], b"GGML", b"\0\0\0\0", b"PK\3\4"])


def change_alignment(rng: random.Random, g: Gguf) -> None:
    """Another alignment, now and then with the file laid out by it."""
    value = rng.choice([0, 1, 2, 4, 7, 8, 16, 24, 33, 64, 4096, 2**20, 2**28, 2**31, 2**32 - 1])
    g.set(b"general.alignment", U32, u32(value))
    if 0 < value < 5000 and rng.random() < 0.7:
        g.alignment = value


def change_data(rng: random.Random, g: Gguf) -> None:
    """Weights of NaN, of infinity, huge or random."""
    if not g.tensors or not g.data:
        return
    begin = rng.choice(g.tensors).offset % (len(g.data) + 1)
    n = rng.choice([4, 4096, len(g.data)])
    raw = rng.choice([struct.pack("<f", rng.choice(FLOATS)), struct.pack("<f", 3e38), rng.randbytes(64)]) * (n // 4)
    g.data = (g.data[:begin] + raw[:n] + g.data[begin + n :])[: len(g.data)]


def lay_out(g: Gguf) -> None:
    """Let the tensors follow each other again, as ggml wants them, each with what it had of its data."""
    data = b""
    for t in g.tensors:
        block, size = SIZES.get(t.kind, (1, 4))
        n = math.prod(t.dims) // block * size
        if n > 4 << 20:
            return
        old, t.offset = g.data[t.offset : t.offset + n], len(data)
        data += old.ljust(n, b"\0") + b"\0" * (-n % g.alignment)
    g.data = data


Change = Callable[[random.Random, Gguf], None]
OF_TENSORS: list[Change] = [change_type, change_shape, change_name, drop_tensor]
ON_SURFACE: list[Change] = [
    change_key,
    add_entry,
    double_entry,
    change_counts,
    change_start,
    change_alignment,
    change_place,
]
DEEP: list[Change] = [
    set_number,
    set_number,
    set_number,
    set_same_type,
    set_same_type,
    set_anything,
    set_template,
    set_architecture,
    set_vocabulary,
    change_list,
    change_list,
    drop_entry,
    drop_entry,
    change_data,
]


def broken_gguf(rng: random.Random, g: Gguf) -> bytes:
    """The bytes of a file with one to three changes, and now and then random ones in its header or a cut end."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        changes = rng.choices([DEEP, OF_TENSORS, ON_SURFACE], [6, 2, 1])[0]
        if g.entries and g.tensors:
            rng.choice(changes)(rng, g)
            if changes is OF_TENSORS and rng.random() < 0.9:
                lay_out(g)
    raw = bytearray(g.bytes())
    if rng.random() < 0.06:
        for _ in range(rng.choice([1, 4, 32])):
            raw[rng.randrange(min(len(raw), len(g.header()) + 64))] = rng.randrange(256)
    if rng.random() < 0.05:
        del raw[rng.choice([rng.randrange(len(raw)), rng.randrange(len(g.header()) + 1)]) :]
    return bytes(raw)

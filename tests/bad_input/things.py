"""The files that rows name: each made when a row asks for it, in a directory of that row."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from broken import Kind, checkpoint, replaced, rewrite, save_raw, without
from conftest import FIXTURES, load_case

import autodeco_gguf as ad

NAN = np.full((256, 64), np.nan, np.float32)
Maker = Callable[[Path], Path]


def written(name: str, content: bytes | str) -> Maker:
    def make(directory: Path) -> Path:
        path = directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def lines(name: str, *values: Any) -> Maker:
    return written(name, "".join(json.dumps(value) + "\n" for value in values))


def base_with(name: str, **changed: Any) -> Maker:
    """The base, its metadata or tensors changed."""
    return lambda d: rewrite(load_case("qwen2").base, d / name, **changed)


def metadata(name: str, key: str, value: Any) -> Maker:
    return base_with(name, metadata={key: value})


def header(name: str, change: Callable[[bytearray], None]) -> Maker:
    """The base with some bytes of its header changed in place."""

    def make(directory: Path) -> Path:
        raw = bytearray(load_case("qwen2").base.read_bytes())
        change(raw)
        return written(name, bytes(raw))(directory)

    return make


def put(at: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda raw: struct.pack_into(form, raw, at, value)


def merged(directory: Path) -> Path:
    case = load_case("qwen2")
    return ad.export(case.base, case.heads, directory / "merged.gguf").path


def adapter(directory: Path) -> Path:
    case = load_case("qwen2")
    return ad.export(case.base, case.heads, directory / "adapter.gguf", adapter=True).path


def of_merged(name: str, **changed: Any) -> Maker:
    return lambda d: rewrite(merged(d), d / name, **changed)


def of_adapter(name: str, **changed: Any) -> Maker:
    return lambda d: rewrite(adapter(d), d / name, **changed)


def heads_with(name: str, **changed: Any) -> Maker:
    return lambda d: checkpoint(load_case("qwen2").heads, d / name, **changed)


def heads_but(name: str, file: str, content: bytes) -> Maker:
    """The checkpoint with one file of other bytes."""

    def make(directory: Path) -> Path:
        path = checkpoint(load_case("qwen2").heads, directory / name)
        (path / file).write_bytes(content)
        return path

    return make


def heads_in_bin(name: str, content: Callable[[], Any]) -> Maker:
    """The checkpoint as a .bin that holds what is given."""

    def make(directory: Path) -> Path:
        import torch

        path = checkpoint(load_case("qwen2").heads, directory / name)
        (path / "model.safetensors").unlink()
        torch.save(content(), path / "pytorch_model.bin")
        return path

    return make


class Runs:
    """What a pickle would call when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def heads_of_raw(name: str, **tensors: tuple[str, tuple[int, ...], bytes]) -> Maker:
    def make(directory: Path) -> Path:
        path = checkpoint(load_case("qwen2").heads, directory / name)
        save_raw(path / "model.safetensors", {key.replace("__", "."): value for key, value in tensors.items()})
        return path

    return make


def golden(name: str, **changed: Any) -> Maker:
    """Recorded predictions with another array; None drops one."""

    def make(directory: Path) -> Path:
        with np.load(FIXTURES / "qwen2" / "golden.npz") as file:
            arrays = {key: file[key] for key in ("tokens", "temperature", "top_p")}
        arrays |= changed
        np.savez(directory / name, **{key: value for key, value in arrays.items() if value is not None})
        return directory / name

    return make


def golden_of_objects(directory: Path) -> Path:
    """Recorded predictions that are a pickle."""
    path, array = directory / "objects.npz", io.BytesIO()
    np.save(array, np.array([Runs()], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokens.npy", array.getvalue())
    return path


def folder(name: str) -> Maker:
    def make(directory: Path) -> Path:
        (directory / name).mkdir()
        return directory / name

    return make


def pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def full_folder(directory: Path) -> Path:
    path = folder("full")(directory)
    (path / "mine.txt").write_text("mine")
    return path


def integers(tensors: list[Any]) -> list[Any]:
    kind = gguf.GGMLQuantizationType.I32
    return [(n, d.astype(np.int32), kind) if n == "token_embd.weight" else (n, d, k) for n, d, k in tensors]


def shard(directory: Path) -> Path:
    path = directory / "base-00001-of-00002.gguf"
    split = {"split.no": (0, Kind.UINT16), "split.count": (2, Kind.UINT16)}
    return rewrite(load_case("qwen2").base, path, metadata=split)


QWEN2 = load_case("qwen2")
HEAD = "temp_head.mlp.0.weight"
VIEW = "autodeco.base_view"
LONG_JSON = b'{"hidden_size": ' + b"[" * 100_000

THINGS: Mapping[str, Maker] = {
    "base": lambda d: QWEN2.base,
    "heads": lambda d: QWEN2.heads,
    "golden": lambda d: FIXTURES / "qwen2" / "golden.npz",
    "other_base": lambda d: load_case("qwen3_moe").base,
    "merged": merged,
    "adapter": adapter,
    # bytes
    "empty": written("empty.gguf", b""),
    "hello": written("hello.gguf", b"hello, world"),
    "old": header("old.gguf", put(4, "<I", 1)),
    "new": header("new.gguf", put(4, "<I", 99)),
    "big_endian": header("big.gguf", put(4, ">I", 3)),
    "many_keys": header("keys.gguf", put(16, "<Q", 2**62)),
    "many_tensors": header("tensors.gguf", put(8, "<Q", 2**62)),
    "long_key": header("key.gguf", put(24, "<Q", 2**40)),
    "cut_header": lambda d: written("cut.gguf", QWEN2.base.read_bytes()[:200])(d),
    "cut_data": lambda d: written("short.gguf", QWEN2.base.read_bytes()[:-1])(d),
    "tail": lambda d: written("tail.gguf", QWEN2.base.read_bytes() + b"\1" * 100)(d),
    "folder": folder("folder"),
    "pipe": pipe,
    "full": full_folder,
    "existing": written("existing.gguf", b"mine"),
    # metadata and tensors of a model
    "no_arch": metadata("arch.gguf", "general.architecture", None),
    "odd_arch": metadata("arch.gguf", "general.architecture", ("nonsense", Kind.STRING)),
    "alignment": lambda d: rewrite(QWEN2.base, d / "align.gguf", alignment=1 << 17),
    "no_blocks": metadata("blocks.gguf", "qwen2.block_count", (0, Kind.UINT32)),
    "blocks_text": metadata("text.gguf", "qwen2.block_count", ("two", Kind.STRING)),
    "context": metadata("ctx.gguf", "qwen2.context_length", (2**32 - 1, Kind.UINT32)),
    "epsilon": metadata("eps.gguf", "qwen2.attention.layer_norm_rms_epsilon", (float("nan"), Kind.FLOAT32)),
    "wide_head": metadata("wide.gguf", "qwen2.attention.value_length", (1 << 20, Kind.UINT32)),
    "rwkv": metadata("rwkv.gguf", "tokenizer.ggml.model", ("rwkv", Kind.STRING)),
    "no_vocab": metadata("vocab.gguf", "tokenizer.ggml.tokens", None),
    "few_scores": metadata("scores.gguf", "tokenizer.ggml.scores", ([1.0], Kind.ARRAY, Kind.FLOAT32)),
    "twice": metadata("twice.gguf", "tokenizer.ggml.tokens", (["a"] * 384, Kind.ARRAY, Kind.STRING)),
    "integers": base_with("ints.gguf", edit=integers),
    "no_output": base_with("missing.gguf", edit=without("blk.0.attn_q.weight")),
    "template": metadata("template.gguf", "tokenizer.chat_template", ("{% if %}", Kind.STRING)),
    "slow_template": metadata(
        "slow.gguf", "tokenizer.chat_template", ("{% for i in range(10**9) %}{{ i }}{% endfor %}", Kind.STRING)
    ),
    "shard": shard,
    # merged files and adapters
    "newer": of_merged("newer.gguf", metadata={"autodeco.version": (9, Kind.UINT32)}),
    "no_version": of_merged("noversion.gguf", metadata={"autodeco.version": None}),
    "stale": of_merged("stale.gguf", metadata={"general.name": ("another", Kind.STRING)}),
    "no_view": of_merged("noview.gguf", edit=without(VIEW)),
    "no_size": of_adapter("nosize.gguf", metadata={"autodeco.hidden_size": None}),
    "size_text": of_adapter("sizetext.gguf", metadata={"autodeco.hidden_size": ("x", Kind.STRING)}),
    "other_size": of_adapter("othersize.gguf", metadata={"autodeco.hidden_size": (63, Kind.UINT32)}),
    "other_vocab": of_adapter("othervocab.gguf", metadata={"autodeco.vocab_size": (385, Kind.UINT32)}),
    "activation": of_adapter("act.gguf", metadata={"autodeco.temp_head.activation": ("tanh", Kind.STRING)}),
    "scale": of_adapter("scale.gguf", metadata={"autodeco.temp_head.scale": (0.0, Kind.FLOAT32)}),
    "features": of_adapter("feat.gguf", metadata={"autodeco.top_p_head.features": (["x"], Kind.ARRAY, Kind.STRING)}),
    "no_bias": of_adapter("nobias.gguf", edit=without("autodeco.temp_head.0.bias")),
    "nan_head": of_adapter("nan.gguf", edit=replaced("autodeco.temp_head.0.weight", NAN)),
    "odd_head": of_adapter("shape.gguf", edit=replaced("autodeco.temp_head.0.weight", NAN[:, :9])),
    # checkpoints
    "no_config": lambda d: save_raw(folder("bare")(d) / "model.safetensors", {}).parent,
    "config_list": heads_but("list", "config.json", b"[]"),
    "config_cut": heads_but("cutconfig", "config.json", b'{"a": '),
    "config_deep": heads_but("deep", "config.json", LONG_JSON),
    "config_utf8": heads_but("utf8", "config.json", b'{"a": "\xff"}'),
    "config_large": heads_but("large", "config.json", b" " * ((16 << 20) + 1)),
    "both_off": heads_with("off", config={"enable_temperature_head": False, "enable_top_p_head": False}),
    "flag": heads_with("flag", config={"enable_top_p_head": "yes"}),
    "config_size": heads_with("confsize", config={"hidden_size": 63, "temperature_hidden_size": 63}),
    "config_act": heads_with("confact", config={"temp_head_activation": "tanh"}),
    "config_features": heads_with("conffeat", config={"use_enhanced_features": False}),
    "no_tensors": heads_with("none", tensors=dict.fromkeys(["temp_head.mlp.0.weight"])),
    "nan_tensor": heads_with("nan", tensors={HEAD: NAN}),
    "vector": heads_with("vector", tensors={HEAD: NAN[0]}),
    "layer_1": heads_with("odd", tensors={"temp_head.mlp.1.weight": np.ones((2, 2), np.float32)}),
    "narrow": heads_with("narrow", tensors={"top_p_head.mlp.0.weight": np.ones((256, 66), np.float32)}),
    "int_tensor": heads_of_raw("ints", temp_head__mlp__0__weight=("I64", (1,), b"\0" * 8)),
    "safetensors_cut": heads_but("cutst", "model.safetensors", b"\x08\0\0\0\0\0\0\0{"),
    "safetensors_huge": heads_but("huge", "model.safetensors", b"\xff" * 8),
    "index": heads_but(
        "index", "model.safetensors.index.json", json.dumps({"weight_map": {"temp_head.mlp.9.bias": "b"}}).encode()
    ),
    "bin_runs": heads_in_bin("runs", Runs),
    "bin_list": heads_in_bin("binlist", lambda: [1]),
    "bin_sparse": heads_in_bin("sparse", lambda: {HEAD: __import__("torch").zeros(2, 2).to_sparse()}),
    "bin_text": lambda d: _renamed(heads_but("bintext", "model.safetensors", b"hello")(d)),
    # recorded predictions
    "golden_text": written("text.npz", b"hello"),
    "golden_pickle": golden_of_objects,
    "golden_no_tokens": golden("notokens.npz", tokens=None),
    "golden_floats": golden("floats.npz", tokens=np.ones(4, np.float32)),
    "golden_short": golden("short.npz", temperature=np.ones(3, np.float32)),
    "golden_token": golden("token.npz", tokens=np.full(48, 999)),
    # lines
    "no_lines": written("none.jsonl", b""),
    "no_json": written("nojson.jsonl", b"{}\n{oops\n"),
    "a_list": lines("alist.jsonl", [1]),
    "odd_keys": lines("keys.jsonl", {"x": 1}),
    "no_answer": lines("noanswer.jsonl", {"prompt": "a"}),
    "empty_prompt": lines("emptyprompt.jsonl", {"prompt": "", "answer": "1"}),
    "bad_number": lines("badnumber.jsonl", {"prompt": "a", "answer": "x"}),
    "bad_regex": lines("badregex.jsonl", {"prompt": "a", "answer": "("}),
    "problem": lines("problem.jsonl", {"prompt": "a", "answer": "1"}),
    "suffix": written("problems.yaml", b"x"),
    "cells": written("cells.csv", b"prompt,answer\na,b,c\n"),
    "parquet": written("x.parquet", b"PAR1"),
    "no_completion": lines("nocompletion.jsonl", {"prompt": "a"}),
    "messages": lines(
        "messages.jsonl",
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ),
    "no_assistant": lines("noassistant.jsonl", {"messages": [{"role": "user", "content": "a"}]}),
    "data": lines("data.jsonl", *[{"text": "once upon a time"}] * 4),
    "grammar": written("broken.gbnf", b"root ::= ("),
    "text": written("prompt.txt", b"a b"),
    "other_journal": lambda d: written("samples.jsonl", b'{"x": 1}\n')(folder("eval")(d)).parent,
}


def _renamed(directory: Path) -> Path:
    shutil.move(directory / "model.safetensors", directory / "pytorch_model.bin")
    return directory


class Here(dict[str, Path]):
    """For ``str.format_map``: a thing of that name, made in a directory; "d" is it, "out" and "missing" nothing yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __missing__(self, name: str) -> Path:
        if name == "d":
            return self._directory
        self[name] = self._directory / name if name in ("out", "missing") else THINGS[name](self._directory)
        return self[name]

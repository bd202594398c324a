"""Converts the demo's Hugging Face directory to F16 GGUF: python demo/to_gguf.py build/demo/base build/demo/base.gguf

For models like demo/pretrain.py's only (Qwen2, byte-level BPE); any other is a case for llama.cpp's own converter.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
from safetensors.numpy import load_file

from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.shipped import DEMO_NAME


def convert(hf_dir: Path, gguf_path: Path, *, name: str = DEMO_NAME) -> None:
    """Writes the model and tokenizer of ``hf_dir`` to ``gguf_path``: matrices as F16, vectors as F32.

    Raises:
        BadFile: a model of another architecture or with a tensor that Qwen2 does not have.
    """
    config = json.loads((hf_dir / "config.json").read_text(encoding="utf-8"))
    found = config.get("model_type")
    if found != "qwen2":
        message = f"model_type is {found!r}; only 'qwen2' can be converted"
        raise BadFile.of(hf_dir, message, key="model_type", expected="qwen2", found=found)
    temporary = gguf_path.with_name(gguf_path.name + ".tmp")
    writer = gguf.GGUFWriter(temporary, "qwen2")
    try:
        _add_hyperparameters(writer, config, name)
        _add_vocabulary(writer, hf_dir, config)
        _add_tensors(writer, hf_dir, config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, gguf_path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _add_hyperparameters(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    writer.add_name(name)
    writer.add_description("A small language model that tells short stories which end in a sum")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _add_vocabulary(writer: gguf.GGUFWriter, hf_dir: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((hf_dir / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **{content: token for token, content in special.items()}}
    tokens = sorted(ids, key=lambda token: ids[token])
    if [ids[token] for token in tokens] != list(range(config["vocab_size"])):
        message = f"tokenizer.json has {len(ids)} tokens, config.json says {config['vocab_size']}"
        raise BadFile.of(hf_dir, message, key="vocab_size", expected=config["vocab_size"], found=len(ids))
    merges = tokenizer["model"]["merges"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")  # the expression of pretrain.SPLIT
    writer.add_token_list(tokens)
    writer.add_token_types([control if i in special else normal for i in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    # llama.cpp wants some first token, though none is ever put in front; the text's end serves, as in Qwen2
    writer.add_bos_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((hf_dir / "chat_template.jinja").read_text(encoding="utf-8"))


def _add_tensors(writer: gguf.GGUFWriter, hf_dir: Path, config: dict[str, Any]) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, weights in load_file(hf_dir / "model.safetensors").items():
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise BadFile.of(hf_dir / "model.safetensors", f"{name} is no tensor of a Qwen2 model", key=name)
        writer.add_tensor(new_name, weights.astype(np.float32 if weights.ndim == 1 else np.float16))


@click.command(help=__doc__)
@click.argument("hf_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("gguf_path", type=click.Path(path_type=Path, dir_okay=False))
def main(hf_dir: Path, gguf_path: Path) -> None:
    """Command line of ``convert``."""
    convert(hf_dir, gguf_path)


if __name__ == "__main__":
    main()

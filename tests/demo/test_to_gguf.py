"""The demo's conversion, which keeps tokens and logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from autodeco_gguf.errors import BadFile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import to_gguf  # noqa: E402

TEXTS = [
    "Mia lives near the harbour. Mia counts: 47 + 38 = \\boxed{85}. What a day!",
    "  two  spaces,\n\nlines\t\tand I'll, WE'RE; ünïcödé 日本 🙂 1234567890 x\r\n",
    "\\boxed{{9}}...(--)\n  \n end ",
]


@pytest.fixture(scope="module")
def rounded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained model, with weights that F16 holds exactly."""
    from safetensors.numpy import load_file, save_file

    copy = tmp_path_factory.mktemp("rounded")
    shutil.copytree(trained, copy, dirs_exist_ok=True)
    path = copy / "model.safetensors"
    save_file({k: v.astype(np.float16).astype(np.float32) for k, v in load_file(path).items()}, path)
    return copy


@pytest.fixture(scope="module")
def llm(rounded: Path) -> llama_cpp.Llama:
    """Its conversion."""
    converted = rounded / "base.gguf"
    to_gguf.convert(rounded, converted)
    return llama_cpp.Llama(str(converted), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0)


def test_chat_template_is_what_the_model_is_trained_on(rounded: Path, llm: llama_cpp.Llama) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(rounded)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert llm.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert (llm.token_eos(), tokenizer.eos_token) == (tokenizer.eos_token_id, "<|im_end|>")


@pytest.mark.parametrize(
    "text", [*TEXTS, *(f"<|im_start|>user\n{t}<|im_end|>\n<|im_start|>assistant\n" for t in TEXTS)]
)
def test_same_tokens_as_transformers(text: str, rounded: Path, llm: llama_cpp.Llama) -> None:
    ids = transformers.AutoTokenizer.from_pretrained(rounded)(text).input_ids
    assert llm.tokenize(text.encode(), add_bos=True, special=True) == ids


def test_same_logits_as_transformers(rounded: Path, llm: llama_cpp.Llama) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(rounded)
    ids = transformers.AutoTokenizer.from_pretrained(rounded)(TEXTS[0]).input_ids
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    llm.reset()
    llm.eval(ids)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(llm.scores[: len(ids)], wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"model_type": "llama"}, "model_type", "model_type is 'llama'; only 'qwen2' can be converted"),
        ({"vocab_size": 421}, "vocab_size", r"tokenizer\.json has 4\d\d tokens, config\.json says 421"),
    ],
)
def test_other_models_are_refused(
    change: dict[str, Any], key: str, message: str, trained: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (tmp_path / name).symlink_to(trained / name)
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(BadFile, match=message) as error:
        to_gguf.convert(tmp_path, tmp_path / "base.gguf")
    assert (error.value.file, error.value.key) == (str(tmp_path), key)
    assert not list(tmp_path.glob("base.gguf*"))

"""The demo's scripts: pre-training that goes on where it stopped, and a conversion that keeps tokens and logits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.tasks import stories

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
import pretrain  # noqa: E402
import to_gguf  # noqa: E402

MINUTE = pretrain.Settings(
    hidden=32, layers=2, heads=2, ffn=48, vocabulary=420, steps=4, clean_share=0.5, batch=3, warmup_steps=2
)
TEXTS = [
    "Mia lives near the harbour. Mia counts: 47 + 38 = \\boxed{85}. What a day!",
    "  two  spaces,\n\nlines\t\tand I'll, WE'RE; ünïcödé 日本 🙂 1234567890 x\r\n",
    "\\boxed{{9}}...(--)\n  \n end ",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    pretrain.pretrain(out, MINUTE)
    return out


@pytest.fixture(scope="module")
def converted(trained: Path) -> Path:
    """The conversion of weights that F16 holds exactly."""
    path = trained / "model.safetensors"
    from safetensors.numpy import load_file, save_file

    save_file({k: v.astype(np.float16).astype(np.float32) for k, v in load_file(path).items()}, path)
    to_gguf.convert(trained, trained / "base.gguf")
    return trained / "base.gguf"


@pytest.fixture(scope="module")
def llm(converted: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(converted), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0)


def test_resumed_run_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    pretrain.pretrain(tmp_path, MINUTE, stop_at=3)
    assert not (tmp_path / "model.safetensors").exists()
    pretrain.pretrain(tmp_path, MINUTE)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    pretrain.pretrain(tmp_path, MINUTE, stop_at=1)
    with pytest.raises(AutoDecoError, match=r"checkpoint\.pt: a checkpoint of other settings or stories"):
        pretrain.pretrain(tmp_path, replace(MINUTE, seed=2))


def test_batches_are_the_same_whenever_they_are_asked_for() -> None:
    tokenizer = pretrain.train_tokenizer(MINUTE).backend_tokenizer
    first, second = (pretrain.batch(MINUTE, step, tokenizer) for step in (0, 1))
    again = pretrain.batch(MINUTE, 0, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][:, :20], second[0][:, :20])


def test_only_answers_count_and_sums_most() -> None:
    tokenizer = pretrain.train_tokenizer(MINUTE).backend_tokenizer
    for step in (0, 2):  # without and with slips
        for ids, weights in zip(*pretrain.batch(MINUTE, step, tokenizer), strict=True):

            def text(chosen: Any, ids: Any = ids) -> str:
                decoded: str = tokenizer.decode(ids[chosen].tolist(), skip_special_tokens=False)
                return decoded

            whole, answer = text(slice(None)).removesuffix("<|endoftext|>"), text(weights > 0)
            prompt = whole.partition(answer)[0]
            assert prompt.startswith("<|im_start|>user\n")
            assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
            assert answer.endswith(("!<|im_end|>", ".<|im_end|>"))
            assert text(weights == MINUTE.sum_weight) == answer.partition("boxed{")[2].partition("}")[0]


def test_default_tokenizer_keeps_words_whole() -> None:
    tokenizer = pretrain.train_tokenizer(pretrain.Settings())
    texts = [f" {word}" for word in stories.words()] + list(stories.NAMES)
    assert [text for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True) if len(ids) > 1] == []
    assert len(tokenizer("4738").input_ids) == 4


def test_chat_template_is_what_the_model_is_trained_on(trained: Path, llm: llama_cpp.Llama) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert llm.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert (llm.token_eos(), tokenizer.eos_token) == (tokenizer.eos_token_id, "<|im_end|>")


@pytest.mark.parametrize(
    "text", [*TEXTS, *(f"<|im_start|>user\n{t}<|im_end|>\n<|im_start|>assistant\n" for t in TEXTS)]
)
def test_same_tokens_as_transformers(text: str, trained: Path, llm: llama_cpp.Llama) -> None:
    ids = transformers.AutoTokenizer.from_pretrained(trained)(text).input_ids
    assert llm.tokenize(text.encode(), add_bos=True, special=True) == ids


def test_same_logits_as_transformers(trained: Path, llm: llama_cpp.Llama) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(trained)
    ids = transformers.AutoTokenizer.from_pretrained(trained)(TEXTS[0]).input_ids
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    llm.reset()
    llm.eval(ids)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(llm.scores[: len(ids)], wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only 'qwen2' can be converted"),
        ({"vocab_size": 421}, r"tokenizer\.json has 4\d\d tokens, config\.json says 421"),
    ],
)
def test_other_models_are_refused(change: dict[str, Any], message: str, trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (tmp_path / name).symlink_to(trained / name)
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(AutoDecoError, match=message):
        to_gguf.convert(tmp_path, tmp_path / "base.gguf")
    assert not list(tmp_path.glob("base.gguf*"))

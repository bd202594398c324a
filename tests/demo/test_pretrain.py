"""Pre-training of the demo's model, which goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks import stories

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import pretrain  # noqa: E402


def test_resumed_run_gives_the_same_weights(trained: Path, minute: pretrain.PretrainSettings, tmp_path: Path) -> None:
    pretrain.pretrain(tmp_path, minute, stop_at=3)
    assert not (tmp_path / "model.safetensors").exists()
    pretrain.pretrain(tmp_path, minute)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_checkpoint_of_other_settings_is_refused(minute: pretrain.PretrainSettings, tmp_path: Path) -> None:
    pretrain.pretrain(tmp_path, minute, stop_at=1)
    with pytest.raises(BadFile, match=r"checkpoint\.pt: a checkpoint of other settings or stories") as error:
        pretrain.pretrain(tmp_path, replace(minute, seed=2))
    assert error.value.file == str(tmp_path / "checkpoint.pt")


def test_batches_are_the_same_whenever_they_are_asked_for(minute: pretrain.PretrainSettings) -> None:
    tokenizer = pretrain.train_tokenizer(minute).backend_tokenizer
    first, second = (pretrain.batch(minute, step, tokenizer) for step in (0, 1))
    again = pretrain.batch(minute, 0, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][:, :20], second[0][:, :20])


def test_only_answers_count_and_sums_most(minute: pretrain.PretrainSettings) -> None:
    tokenizer = pretrain.train_tokenizer(minute).backend_tokenizer
    for step in (0, 2):  # without and with slips
        for ids, weights in zip(*pretrain.batch(minute, step, tokenizer), strict=True):

            def text(chosen: Any, ids: Any = ids) -> str:
                decoded: str = tokenizer.decode(ids[chosen].tolist(), skip_special_tokens=False)
                return decoded

            whole, answer = text(slice(None)).removesuffix("<|endoftext|>"), text(weights > 0)
            prompt = whole.partition(answer)[0]
            assert prompt.startswith("<|im_start|>user\n")
            assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
            assert answer.endswith(("!<|im_end|>", ".<|im_end|>"))
            assert text(weights == minute.sum_weight) == answer.partition("boxed{")[2].partition("}")[0]


def test_default_tokenizer_keeps_words_whole() -> None:
    tokenizer = pretrain.train_tokenizer(pretrain.PretrainSettings())
    texts = [f" {word}" for word in stories.words()] + list(stories.NAMES)
    assert [text for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True) if len(ids) > 1] == []
    assert len(tokenizer("4738").input_ids) == 4

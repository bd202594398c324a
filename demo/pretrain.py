"""Trains the demo's language model on autodeco_gguf.tasks.stories: python demo/pretrain.py build/demo/base

The corpus is written as it is read: batch i is the same whenever it is asked for, so a run that was stopped goes on
from its last checkpoint as if nothing had happened. The output is a Hugging Face directory, for demo/to_gguf.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import write_atomically
from autodeco_gguf.tasks import stories

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# llama.cpp knows this expression as "qwen2" (demo/to_gguf.py); it makes every digit a token.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class PretrainSettings:
    """Sizes of the model and of its training; the defaults take some thirteen minutes on two free cores."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 384
    vocabulary: int = 1200
    context: int = 512
    steps: int = 4000
    # The share of the steps, at the beginning, without slips: addition is learnt sooner where every sum is right.
    clean_share: float = 0.5
    # How much a digit of the sum counts in the loss: three tokens of 55, and the only ones that take thought. Every
    # position by itself is fitted to the same probabilities as without.
    sum_weight: float = 5.0
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    checkpoint_steps: int = 200
    seed: int = 1


def train_tokenizer(settings: PretrainSettings) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the stories, which keeps their words whole, with ChatML as its chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, START, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END_OF_TEXT,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _tokenizer_texts() -> Iterator[str]:
    # Zipf's tail would not get whole tokens from stories alone: each word also stands by itself, many times.
    for word in stories.words():
        yield from [f" {word}"] * 100
    for word in (*stories.NAMES, "user", "assistant"):
        yield from [word] * 100
    rng = random.Random(0)
    for problem in stories.problems(1000, seed="tokenizer", held_out=False, command="mixed"):
        yield problem.prompt
        yield stories.write(problem, rng, slips=False)


def build_model(settings: PretrainSettings, vocabulary: int, end: int, pad: int) -> Qwen2ForCausalLM:
    """A model with random weights, the same for the same seed."""
    torch.manual_seed(settings.seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.ffn,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        initializer_range=0.04,
    )
    return Qwen2ForCausalLM(config).train()


def batch(settings: PretrainSettings, step: int, tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch number ``step``: token ids and how much each counts in the loss, both [stories, tokens].

    Prompts do not count: nobody samples them, and their names and numbers are noise.
    """
    rng = random.Random(f"stories {settings.seed} {step}")
    ids, weights = [], []
    for problem in stories.problems(settings.batch, seed=f"{settings.seed} {step}", held_out=False, command="mixed"):
        prompt = tokenizer.encode(f"{START}user\n{problem.prompt}{END}\n{START}assistant\n").ids
        story = stories.write(problem, rng, slips=step >= settings.clean_share * settings.steps)
        answer = tokenizer.encode(story + END)
        begin, end = story.index("{") + 1, story.index("}")
        ids.append(prompt + answer.ids)
        counts = [settings.sum_weight if begin <= start < end else 1.0 for start, _ in answer.offsets]
        weights.append([0.0] * len(prompt) + counts)
    pad, width = tokenizer.token_to_id(END_OF_TEXT), max(map(len, ids))
    return (
        torch.tensor([row + [pad] * (width - len(row)) for row in ids]),
        torch.tensor([row + [0.0] * (width - len(row)) for row in weights]),
    )


def loss_of(model: Qwen2ForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the cross-entropy in nats; padding stands at the end, where nothing looks back at it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    weights = weights[:, 1:]
    counts = weights > 0
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[counts]), ids[:, 1:][counts], reduction="none")
    return (loss @ weights[counts]) / weights.sum()


def _learning_rate(settings: PretrainSettings, step: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: Qwen2ForCausalLM, settings: PretrainSettings) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def _save_checkpoint(path: Path, **state: Any) -> None:
    write_atomically(path, lambda f: torch.save(state, f))


def _load_checkpoint(
    path: Path, identity: dict[str, Any], model: Qwen2ForCausalLM, optimizer: torch.optim.AdamW
) -> int:
    """The step to go on from."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["identity"] != identity:
        raise BadFile.of(path, "a checkpoint of other settings or stories; remove it to train anew")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step


def pretrain(out_dir: Path, settings: PretrainSettings = PretrainSettings(), *, stop_at: int | None = None) -> None:
    """Trains the model into ``out_dir``, a Hugging Face directory; goes on from a ``checkpoint.pt`` in it.

    ``stop_at`` leaves off after that many steps, with a checkpoint and without a model, as if stopped there.

    Raises:
        BadFile: a checkpoint of other settings or stories.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(settings)
    model = build_model(settings, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    optimizer = _optimizer(model, settings)
    checkpoint = out_dir / "checkpoint.pt"
    # the vocabulary follows from the words of the stories
    identity = {"settings": dataclasses.asdict(settings), "tokenizer": tokenizer.backend_tokenizer.to_str()}
    first = _load_checkpoint(checkpoint, identity, model, optimizer)
    seconds, tokens, mean = time.perf_counter(), 0, 0.0
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    for step in range(first, last):
        ids, weights = batch(settings, step, tokenizer.backend_tokenizer)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(settings, step)
        loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += ids.numel()
        mean += (loss.item() - mean) / min(step - first + 1, 50)
        done = step + 1
        if done % 50 == 0:
            speed = tokens / (time.perf_counter() - seconds)
            print(f"step {done}/{settings.steps}  loss {mean:.4f}  {speed:,.0f} tokens/s", file=sys.stderr, flush=True)
        if done % settings.checkpoint_steps == 0 or done == last:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            _save_checkpoint(checkpoint, step=done, identity=identity, **state)
    if last == settings.steps:
        model.eval().save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
        (out_dir / "pretrain.json").write_text(
            json.dumps(dataclasses.asdict(settings), indent=2) + "\n", encoding="utf-8"
        )


@click.command(help=__doc__)
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", default=PretrainSettings.steps, show_default=True, help="Batches of 32 stories.")
@click.option("--seed", default=PretrainSettings.seed, show_default=True, help="Of the weights and of the stories.")
@click.option("--threads", default=2, show_default=True, help="CPU threads; another number rounds differently.")
def main(out_dir: Path, steps: int, seed: int, threads: int) -> None:
    """Command line of ``pretrain``."""
    torch.set_num_threads(threads)
    pretrain(out_dir, PretrainSettings(steps=steps, seed=seed))


if __name__ == "__main__":
    main()

"""From a GGUF and JSONL files to a checkpoint and an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import bad_file, write_bytes
from autodeco_gguf.heads.base_model import BaseModel, fingerprint_of
from autodeco_gguf.heads.checkpoint_writer import transformers_config, write_checkpoint
from autodeco_gguf.heads.export import export
from autodeco_gguf.heads.weights import HeadWeights
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training.data import Counts, Dataset, Encoder, encode_files
from autodeco_gguf.training.device import torch_device
from autodeco_gguf.training.lengths import longest_by_memory
from autodeco_gguf.training.measures import RewardReport
from autodeco_gguf.training.output import Output
from autodeco_gguf.training.plot import plot_log
from autodeco_gguf.training.report import Report, is_too_little, report
from autodeco_gguf.training.settings import LEAST_STEPS, TrainingSettings
from autodeco_gguf.training.start import NEW, read_start, start_files, start_identity
from autodeco_gguf.training.trainer import Step, Trainer

_TOGETHER, _CELLS = 8, 2048
"""So many sequences are decoded together, where they are short enough for so many tokens of context."""


@dataclass(frozen=True)
class TrainingOptions:
    """How the data are read, and what the checkpoint says.

    Attributes:
        start: "new", or what heads to begin with: a checkpoint, an adapter or a merged file.
        commands: train decoding control with these.
        skip_bad: leave malformed lines out.
        base_name: the base's name or path for transformers; by default what the GGUF calls it.
        chat_template_kwargs: what the chat template is to read besides.
        torch_device: where torch works, as ``device.torch_device`` takes it; the machine is llama.cpp's.
    """

    start: str | Path = NEW
    commands: Commands | None = None
    skip_bad: bool = False
    base_name: str | None = None
    chat_template_kwargs: Mapping[str, object] | None = None
    torch_device: str = "auto"


@dataclass(frozen=True)
class TrainingWatch:
    """Callbacks of a training: lines read, the counts of the data, what to beware of, every step."""

    lines: Callable[[int], None] = lambda _: None
    data: Callable[[Counts], None] = lambda _: None
    warning: Callable[[str], None] = lambda _: None
    step: Callable[[Step], None] = lambda _: None


@dataclass(frozen=True)
class Trained:
    """What a training left: the checkpoint directory, the adapter, and how good the heads are.

    Of the ``planned`` steps it has made ``steps``, and the heads are those after step ``kept``. ``report`` is None
    where nothing was held out for validation.
    """

    checkpoint: Path
    adapter: Path
    planned: int
    steps: int
    kept: int
    report: Report | None


def train(
    base: str | Path,
    data: Sequence[str | Path],
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    options: TrainingOptions | None = None,
    force: bool = False,
    machine: Machine | None = None,
    watch: TrainingWatch | None = None,
) -> Trained:
    """Train heads on a GGUF's own hidden states and logits.

    Memory does not grow with the data: besides the model and its context it takes 64 MiB of logits, about 300 MiB of
    work space, ``batch * max_tokens * (hidden_size + 20) * 4`` bytes for what is kept of one step, once more for each
    command of an example, and some 200 bytes an example. Tokens and the state are in the output directory.

    Args:
        base: a GGUF, quantized or not, or a merged file; it is not changed.
        data: JSONL files of records that ``records.normalize`` reads.
        output: the directory for the checkpoint, in the official layout; the adapter is written beside it, as
            ``output`` with the suffix .gguf.
        settings: the paper's objectives by default.
        options: of the data and the checkpoint.
        force: replace what is there, instead of resuming or refusing.
        machine: what it runs on; a single thread makes it reproducible to the bit.
        watch: progress.

    Raises:
        AutoDecoError: bad input, a finished output without ``force``, a state of another training.
        Busy: another training has the same output.
    """
    settings, options, watch = settings or TrainingSettings(), options or TrainingOptions(), watch or TrainingWatch()
    settings.check()
    paths, out = [Path(path) for path in data], Output(Path(output))
    out.check([Path(base), *paths, *start_files(options.start)], force)
    machine, device = machine or Machine(), torch_device(options.torch_device)
    torch.set_num_threads(machine.threads)
    model = BaseModel.open(Path(base))
    start = read_start(model, options.start, settings.objective, settings.seed)
    with out.held(), closing(Context(model.file, n_ctx=_CELLS, machine=machine)) as context:
        out.check_free(force)
        limit = settings.max_tokens or longest_by_memory(model, settings, machine, _variants(options.commands))
        settings = replace(settings, max_tokens=min(limit, max(2, context.n_ctx_train)))
        with closing(_encode(paths, _encoder(context, settings, options), out, options, watch)) as dataset:
            longest = max(dataset.counts.longest, 2)
            context.resize(longest, n_together(longest, options.commands))
            if force:
                out.remove_results()
            what = {**identity(model, machine), "start": start_identity(start)}
            trainer = Trainer(context, dataset, settings, out.directory, out.state, what, start, device)
            for warning in _warnings(trainer, dataset):
                watch.warning(warning)
            trainer.run(watch.step)
            objective, validated = settings.objective, len(trainer.validation_ids) > 0
            result = report(trainer.heads, objective, trainer.validation_features) if validated else None
            weights = trainer.heads.weights(vocab_size=context.n_vocab, base_model=options.base_name or model.name)
            write_heads(out, model, weights, objective.there, result, plot_log)
        out.remove_state()
    return Trained(out.directory, out.adapter, trainer.steps, trainer.step, trainer.kept, result)


def identity(model: BaseModel, machine: Machine) -> dict[str, object]:
    """What the features depend on."""
    base = fingerprint_of(model.parts)
    return {"base": base, "cache_type": machine.cache_type, "flash_attn": bool(machine.flash_attn)}


def _warnings(trainer: Trainer, dataset: Dataset) -> list[str]:
    """What makes a training too small to tell anything, before it has taken its time."""
    found = []
    if trainer.steps < LEAST_STEPS and not trainer.given:
        steps = f"{trainer.steps} step{'s' * (trainer.steps > 1)} of up to {trainer.batch} examples"
        few = f"only {steps}: heads hardly learn in less than {LEAST_STEPS}"
        found.append(f"{few}; give more data, --epochs or --steps")
    ids = trainer.validation_ids
    n_tokens, n_prompts = sum(int((dataset[int(i)][0] < 0).sum()) for i in ids), len(np.unique(trainer.prompts[ids]))
    if n_prompts and is_too_little(n_prompts, n_tokens):
        held = f"{n_tokens} tokens of {n_prompts} example{'s' * (n_prompts > 1)} to validate on"
        found.append(f"only {held}: too few for a verdict at the end; give more data, or a larger --validation")
    return found


def n_together(longest: int, commands: Commands | None) -> int:
    """How many sequences are decoded at a time: whole examples with their variants, whose prompts begin alike."""
    size = _variants(commands)
    n = min(max(_TOGETHER, size), max(1, _CELLS // longest))
    return max(n - n % size, min(n, size))


def _variants(commands: Commands | None) -> int:
    """Sequences of an example: it, and one for each command."""
    return 1 if commands is None else 1 + 2 * commands.pairs


def _encoder(context: Context, settings: TrainingSettings, options: TrainingOptions) -> Encoder:
    assert settings.max_tokens is not None
    chat = context.chat(options.chat_template_kwargs)
    return Encoder(context, settings.max_tokens, options.commands, chat, too_long=settings.too_long)


def _encode(
    paths: Sequence[Path], encoder: Encoder, out: Output, options: TrainingOptions, watch: TrainingWatch
) -> Dataset:
    """The data as tokens in the directory of the state, which a failure leaves as it was."""
    with ExitStack() as failed:
        if not out.unfinished:  # or what is finished there would look unfinished
            failed.callback(out.remove_state)
        with bad_file(out.state, "cannot be written"):
            dataset = encode_files(paths, encoder, out.state, skip_bad=options.skip_bad, progress=watch.lines)
        failed.callback(dataset.close)
        watch.data(dataset.counts)
        if options.commands is not None and options.commands.share > 0 and not dataset.counts.controlled:
            reason = "no example got a command; it takes prompts, and a larger share"
            raise BadFile(f"decoding control: {reason}", file=paths[0])
        failed.pop_all()
    return dataset


def write_heads(
    out: Output,
    model: BaseModel,
    weights: HeadWeights,
    heads: Collection[str],
    result: Report | RewardReport | None,
    plot: Callable[[Path, Path], None],
) -> None:
    """Write what a training leaves: the checkpoint, the curves of its log, the report and the adapter."""
    model_type, config = transformers_config(model.parts[0])
    write_checkpoint(out.directory, weights, enabled=heads, base_model_type=model_type, base_config=config)
    plot(out.directory / "log.jsonl", out.directory / "training.png")
    if result is not None:
        write_bytes(out.directory / "report.json", (json.dumps(asdict(result), indent=2) + "\n").encode())
    export(model, out.directory, out.adapter, adapter=True, force=True)

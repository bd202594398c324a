"""From a GGUF and JSONL files to a checkpoint and an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint_writer import transformers_config, write_checkpoint
from autodeco_gguf.heads.export import export
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training.data import Counts, Encoder, encode_files
from autodeco_gguf.training.features import Features, stream
from autodeco_gguf.training.plot import plot_log
from autodeco_gguf.training.report import Report, report
from autodeco_gguf.training.settings import Settings
from autodeco_gguf.training.trainer import Step, Trainer

_STATE = ".training"
"""Subdirectory of the output that holds tokens and state until the training is done."""

_STATE_FILES = ("tokens", "ends", "firsts", "state.pt")
_OUTPUT_FILES = ("config.json", "model.safetensors", "log.jsonl", "training.png", "report.json")

_TOGETHER, _CELLS = 8, 2048
"""So many examples are decoded together, where they are short enough for so many tokens of context."""


@dataclass(frozen=True)
class Watch:
    """Callbacks of a training: lines read, the counts of the data, every step."""

    lines: Callable[[int], None] = lambda _: None
    data: Callable[[Counts], None] = lambda _: None
    step: Callable[[Step], None] = lambda _: None


@dataclass(frozen=True)
class Trained:
    """What a training left: the checkpoint directory, the adapter, and how good the heads are.

    ``report`` is None where nothing was held out for validation.
    """

    checkpoint: Path
    adapter: Path
    steps: int
    report: Report | None


def train(
    base: str | Path,
    data: Sequence[str | Path],
    output: str | Path,
    settings: Settings | None = None,
    *,
    commands: Commands | None = None,
    base_name: str | None = None,
    skip_bad: bool = False,
    force: bool = False,
    machine: Machine | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train heads on a GGUF's own hidden states and logits.

    Memory does not grow with the data: besides the model and its context it takes some 64 MiB of logits, work
    space of about 300 MiB, ``batch * max_tokens * (hidden_size + 20) * 4`` bytes for what is kept of one step, and 4
    bytes an example. Tokens wait on disk, in the output directory, which also holds the state to resume from.

    Args:
        base: a GGUF, quantized or not, or a merged file; it is not changed.
        data: JSONL files with {"prompt", "completion"}, {"messages"} or {"text"}.
        output: the directory for the checkpoint, in the official layout; the adapter is written beside it, as
            ``output`` with the suffix .gguf.
        settings: the paper's objectives by default.
        commands: train decoding control with these.
        base_name: the base's name or path for transformers; by default what the GGUF calls it.
        skip_bad: leave malformed lines out.
        force: replace what is there, instead of resuming or refusing.
        machine: what it runs on; a single thread makes it reproducible to the bit.
        watch: progress.

    Raises:
        AutoDecoError: bad input, a finished output without ``force``, a state of another training.
    """
    settings, watch = settings or Settings(), watch or Watch()
    settings.check()
    output = Path(output)
    output = output if output.name not in ("", "..") else output.resolve()
    adapter = output.parent / f"{output.name}.gguf"
    _check_output(output, adapter, [Path(base), *map(Path, data)], force)
    machine = machine or Machine()
    torch.set_num_threads(machine.threads)
    context = Context(base, n_ctx=_CELLS, machine=machine)
    settings = replace(settings, max_tokens=min(settings.max_tokens, max(2, context.n_ctx_train)))
    model = BaseModel.open(Path(base))
    encoder = Encoder(context, settings.max_tokens, commands)
    new = not (output / _STATE).exists()
    state = _make_directory(output)
    try:
        dataset = encode_files([Path(p) for p in data], encoder, state, skip_bad=skip_bad, progress=watch.lines)
    except BaseException:
        if new:  # or what is finished there would look unfinished
            _remove_state(state)
        raise
    watch.data(dataset.counts)
    if commands is not None and commands.share > 0 and not dataset.counts.controlled:
        raise AutoDecoError("decoding control: no example got a command; it takes prompts, and a larger share")
    longest = max(dataset.counts.longest, 2)
    context.resize(longest, min(_TOGETHER, max(1, _CELLS // longest)))
    if force:
        _remove_results(output)
    trainer = Trainer(context, dataset, settings, output, state, " ".join(part.fingerprint() for part in model.parts))
    trainer.run(watch.step)
    result = _report(trainer, context, settings)
    _write(output, adapter, model, trainer, settings, base_name, result)
    _remove_state(state)
    return Trained(output, adapter, trainer.step, result)


def _check_output(output: Path, adapter: Path, inputs: Sequence[Path], force: bool) -> None:
    """Refuse to write over what is an input, or, without force, finished."""
    if output.exists() and not output.is_dir():
        raise AutoDecoError(f"{output}: is a file; give a directory")
    if not output.absolute().parent.is_dir():
        raise AutoDecoError(f"{output}: no such directory as {output.absolute().parent}")
    for path in inputs:
        if path.exists() and any(p.exists() and p.samefile(path) for p in (adapter, *_files(output))):
            raise AutoDecoError(f"{path}: is an input and would be written; choose another output")
    unfinished = (output / _STATE).is_dir()
    if not output.name or adapter.is_dir():
        raise AutoDecoError(f"{output}: {adapter} cannot be the adapter; choose another output")
    others = [p for p in sorted(output.glob("*.safetensors")) if p.name not in _OUTPUT_FILES]
    if others:
        raise AutoDecoError(f"{others[0]}: other weights in the output; choose another directory")
    done = [p for p in (*_files(output), adapter) if p.exists()]
    if done and not force and not unfinished:
        raise AutoDecoError(f"{done[0]}: exists; use --force to replace it")


def _files(output: Path) -> list[Path]:
    return [output / name for name in _OUTPUT_FILES]


def _make_directory(output: Path) -> Path:
    state = output / _STATE
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AutoDecoError(f"{output}: cannot be written: {e.strerror}") from e
    return state


def _remove_results(output: Path) -> None:
    """What an earlier training left; only when the new one is about to start."""
    try:
        for path in (output / _STATE / "state.pt", *_files(output)):
            path.unlink(missing_ok=True)
    except OSError as e:
        raise AutoDecoError(f"{output}: cannot be written: {e.strerror}") from e


def _remove_state(state: Path) -> None:
    for path in (*(state / name for name in _STATE_FILES), *state.glob(".state.pt.*.tmp")):
        path.unlink(missing_ok=True)  # the last are a killed training's
    with suppress(OSError):
        state.rmdir()


def _report(trainer: Trainer, context: Context, settings: Settings) -> Report | None:
    if not len(trainer.validation_ids):
        return None

    def features() -> Iterator[Features]:
        """The plain variants of the held-out examples, numbered from 0."""
        n = 0
        for sequences in trainer.validation_plain():
            for part in stream(context, sequences):
                yield replace(part, sequence=part.sequence + n)
            n += len(sequences)

    return report(trainer.heads, settings.objective, features)


def _write(
    output: Path,
    adapter: Path,
    model: BaseModel,
    trainer: Trainer,
    settings: Settings,
    base_name: str | None,
    result: Report | None,
) -> None:
    model_type, config = transformers_config(model.parts[0])
    name = base_name or str(model.parts[0].get("general.name", str, "")) or model.path.stem
    write_checkpoint(
        output,
        trainer.heads.weights(vocab_size=trainer.vocab_size, base_model=name),
        enabled=settings.objective.heads,
        base_model_type=model_type,
        base_config=config,
    )
    plot_log(output / "log.jsonl", output / "training.png")
    if result is not None:
        write_bytes(output / "report.json", (json.dumps(result.as_dict(), indent=2) + "\n").encode())
    export(model.path, output, adapter, adapter=True, force=True)

"""From a GGUF and problems with known answers to heads that were trained on the reward of their own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autodeco_gguf.answers.items import GradedTasks, Item, digest, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import BadFile
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.device import torch_device
from autodeco_gguf.training.likelihood_start import LEAST, likelihood_start
from autodeco_gguf.training.measures import Measures, RewardReport, report_of
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.output import Output
from autodeco_gguf.training.plot import plot_rounds
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.reward_trainer import RewardTrainer, Round
from autodeco_gguf.training.rewards import Reward
from autodeco_gguf.training.start import NEW, read_start, start_files, start_identity
from autodeco_gguf.training.train import identity, write_heads

LIKELIHOOD = "likelihood"
"""Where heads start, besides ``start.NEW`` and what ``start.read_start`` reads."""


@dataclass(frozen=True)
class RewardOptions:
    """What a training on reward begins with, and how its answers are drawn.

    Attributes:
        start: "likelihood": from new heads, trained on right answers to as many problems as the first rounds have;
            "new"; or a checkpoint, an adapter or a merged file.
        n_ctx: tokens of an answer, its prompt included; None: as an Engine has it.
        n_parallel: answers at once.
        time_limit: seconds that one call of the user's own reward may take.
        base_name: the base's name or path for transformers; by default what the GGUF calls it.
        chat_template_kwargs: what the chat template is to read besides.
        torch_device: where torch works, as ``train.TrainingOptions`` has it.
    """

    start: str | Path = LIKELIHOOD
    n_ctx: int | None = None
    n_parallel: int = 16
    time_limit: float = 10.0
    base_name: str | None = None
    chat_template_kwargs: Mapping[str, object] | None = None
    torch_device: str = "auto"


@dataclass(frozen=True)
class RewardWatch:
    """Callbacks: a phase with what is done and to do of it, what to beware of, and every round."""

    phase: Callable[[str, int, int], None] = lambda name, done, of: None
    warning: Callable[[str], None] = lambda _: None
    round: Callable[[Round], None] = lambda _: None


@dataclass(frozen=True)
class RewardTrained:
    """What a training left, as ``train.Trained``; ``kept`` is the round whose heads these are, 0 the start."""

    checkpoint: Path
    adapter: Path
    planned: int
    rounds: int
    kept: int
    report: RewardReport | None


def train_reward(
    base: str | Path,
    tasks: GradedTasks,
    output: str | Path,
    settings: RewardSettings | None = None,
    *,
    options: RewardOptions | None = None,
    force: bool = False,
    machine: Machine | None = None,
    watch: RewardWatch | None = None,
) -> RewardTrained:
    """Train heads on the reward of answers that they draw themselves.

    The state is saved after every round: an interruption costs the round under way.

    Args:
        base: a GGUF, quantized or not, or a merged file; it is not changed.
        tasks: open; a share of the problems is held out to choose the round by.
        output: as ``train.train`` has it.
        settings: the defaults are for a model of some 100 million parameters or more.
        options: the start, and how answers are drawn.
        force: replace what is there, instead of resuming or refusing.
        machine: what it runs on; a single thread makes it reproducible to the bit.
        watch: progress.

    Raises:
        AutoDecoError: bad input, a finished output without ``force``, a state of another training; a checker or a
            reward that failed on an answer.
        Busy: another training has the same output.
    """
    settings, options, watch = settings or RewardSettings(), options or RewardOptions(), watch or RewardWatch()
    settings.check()
    out, machine, device = Output(Path(output)), machine or Machine(), torch_device(options.torch_device)
    out.check([Path(base), *tasks.files, *start_files(options.start)], force)
    torch.set_num_threads(machine.threads)
    model = BaseModel.open(Path(base))
    new = options.start in (LIKELIHOOD, NEW)
    read = read_start(model, NEW if new else options.start, settings.objective, settings.seed)
    start = options.start if new else start_identity(read)
    given = (read or _new_heads(model, settings)).to(device)
    with Reward(settings.reward, options.time_limit) as reward, out.held():
        out.check_new(force)  # another may have come to its end meanwhile
        with _engine(model, given, settings, options, machine) as engine:
            items = render(engine, tasks.tasks, settings.max_tokens)
            if force:
                out.begin_anew()
            what = {**identity(model, engine.machine), **_described(engine, tasks, items), "start": start}
            trainer = RewardTrainer(engine, tasks, items, reward, settings, (out.state, out.directory), what, given)
            if not trainer.resumed:
                if options.start == LIKELIHOOD:
                    given = _likelihood(engine, tasks, trainer, settings, out.state / "start", watch)
                trainer.begin(given)
            _run(trainer, watch)
            n_vocab = engine.context.n_vocab
        weights = trainer.heads.weights(vocab_size=n_vocab, base_model=options.base_name or model.name)
        log, n_held_out = out.directory / "log.jsonl", len(trainer.validation)
        result = report_of(log, settings.reward, settings.k, n_held_out, trainer.kept)
        write_heads(out, model, weights, settings.objective.there, result, plot_rounds)
        out.remove_state()
    return RewardTrained(out.directory, out.adapter, settings.rounds, trainer.round, trainer.kept, result)


def _described(engine: Engine, tasks: GradedTasks, items: Sequence[Item]) -> dict[str, object]:
    """What answers depend on besides the model and the settings."""
    checkers = [task.checker for task in tasks.tasks]
    return {"ctx": engine.n_ctx, "parallel": engine.n_parallel, "checkers": checkers, "data": digest(items)}


def _new_heads(model: BaseModel, settings: RewardSettings) -> HeadsModule:
    if model.hidden_size is None:
        raise BadFile.of(model.path, "does not say its hidden size")
    return HeadsModule(model.hidden_size, settings.seed, settings.kind)


def _engine(
    model: BaseModel, heads: HeadsModule, settings: RewardSettings, options: RewardOptions, machine: Machine
) -> Engine:
    """With heads in whose place others come."""
    if model.vocab_size is None:
        raise BadFile.of(model.path, "does not say its vocabulary")
    return Engine(
        model.file,
        n_parallel=options.n_parallel,
        n_ctx=options.n_ctx,
        heads=heads.weights(vocab_size=model.vocab_size, base_model=""),
        heads_enabled=settings.objective.there,
        machine=machine,
        batching=Batching(batch_invariant=options.n_parallel > 1),
        chat_template_kwargs=options.chat_template_kwargs,
    )


def _likelihood(
    engine: Engine,
    tasks: GradedTasks,
    trainer: RewardTrainer,
    settings: RewardSettings,
    directory: Path,
    watch: RewardWatch,
) -> HeadsModule:
    heads, n = likelihood_start(engine, tasks, trainer.training, settings, directory, watch.phase, trainer.heads.device)
    if n < LEAST:
        watch.warning(f"only {n} right answers at T = 1: too few to start from by likelihood, so the heads are new")
    return heads


def _run(trainer: RewardTrainer, watch: RewardWatch) -> None:
    warned = False

    def on_round(done: Round) -> None:
        nonlocal warned
        watch.round(done)
        if done.train is not None and done.train.differing < 0.5 and not warned:
            warned = True
            watch.warning(flat_warning(done.train))

    trainer.run(on_round, watch.phase)


def flat_warning(of: Measures) -> str:
    """What to say where most groups have no difference."""
    text = f"only {of.differing:.0%} of the problems have answers of different reward, which is all there is to learn "
    text += f"from: {of.pass_at_1:.0%} of the answers are right"
    if of.pass_at_1 > 0.5:
        return f"{text}; harder problems would tell more"
    return f"{text}; easier problems, a larger -k or heads that are less sharp would tell more"

"""An engine that is made up, and a grader for its answers: evaluations of it in no time."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.methods import parse_methods
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.model.features import Features
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.trace import TraceToken
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

BOTH = frozenset(("temperature", "top_p"))
SETTINGS = EvalSettings(k=2, seeds=2)
METHODS = ("autodeco", "greedy", "default", "static:1,1", "oracle", "mean-shift", "llama.cpp", "dynatemp")

TASKS = tuple(
    Task(name, tuple(Problem(f"{name} {i}", f"{name}{i}", i + 1, f"{name}.jsonl") for i in range(n)), "exact")
    for name, n in (("sums", 3), ("words", 2))
)


class FakeEngine:
    """Draws what the prompt, the seed and the sampling say, as the real one does, but in no time.

    Right with probability ``accuracy(temperature, top_p)``, in one of ``variety(temperature, top_p)`` forms.
    """

    def __init__(self, heads: frozenset[str] = BOTH, stop_after: int | None = None) -> None:
        self.heads, self.n_ctx, self.n_parallel = heads, 48, 4
        self.fingerprint = f"{'0123456789abcdef' * 4} {'fedcba9876543210' * 4}"
        self.machine, self.heads_file = Machine(n_threads=1, flash_attn=True), Path("here/h.gguf")
        self.context = SimpleNamespace(
            metadata={}, n_vocab=2, text=lambda tokens: "x", file=SimpleNamespace(path=Path("here/m.gguf"))
        )
        self.metadata: dict[str, str] = self.context.metadata
        self.model_name, self.draws_on = "m.gguf", False
        self.drawn: list[Request] = []
        self.calls = 0
        self.stop_after = stop_after
        self.finish: dict[int, str] = {}  # by request
        self.variety: Any = lambda t, p: 3

    def enable(self, heads: Iterable[str]) -> None:
        self.heads = frozenset(heads)

    def accuracy(self, t: float, p: float) -> float:
        if (t, p) == (0.3, 0.7):
            return 0.95
        return 0.8 if t == 0.3 else 0.4

    def prompt(self, message: str) -> list[int]:
        return list(f"<{message}>".encode())

    def prompts(self, messages: Iterable[str]) -> Iterator[list[int]]:
        return map(self.prompt, messages)

    def check(self, request: Request) -> None:
        request.check()
        if len(request.prompt) >= self.n_ctx:
            raise InvalidInput(f"the prompt has {len(request.prompt)} tokens, the context holds {self.n_ctx}; raise it")

    def forget(self) -> None:
        pass

    def predict(self, hidden: Any, logits: Any) -> Any:
        return hidden[:, 0], hidden[:, 1]

    def as_completed(self, requests: Iterable[Request]) -> Iterator[Any]:
        self.calls += 1
        numbered = enumerate(requests)
        while window := list(itertools.islice(numbered, self.n_parallel)):
            for index, request in reversed(window):
                if self.stop_after is not None and len(self.drawn) >= self.stop_after:
                    raise KeyboardInterrupt
                self.drawn.append(request)
                yield self._result(index, request)

    def _result(self, index: int, request: Request) -> Any:
        message = bytes(request.prompt).decode()[1:-1]  # type: ignore[arg-type]
        rng = random.Random(f"{message} {request.seed}")
        n = rng.randrange(2, 6)
        t, p = (
            np.full(n, value, np.float32) if value is not None else np.float32([top * rng.random() for _ in range(n)])
            for value, top in ((request.temperature, 2.0), (request.top_p, 1.0))
        )
        if request.pairs is not None:
            t, p = (np.float32([request.pairs[i % len(request.pairs)][axis] for i in range(n)]) for axis in (0, 1))
        fixed = (float(t[0]), float(p[0])) if None in (request.temperature, request.top_p) else (
            request.temperature, request.top_p
        )  # fmt: skip
        right = rng.random() < self.accuracy(*fixed) or request.temperature == 0
        text = f"{message.replace(' ', '')}{'!' * rng.randrange(self.variety(*fixed))}" if right else f"no {n}"
        reason = self.finish.get(len(self.drawn), "stop")
        error = "out of memory" if reason == "error" else None
        pieces = [text[:2].encode(), text[2:].encode(), *[b""] * (n - 2)]
        rows = zip(pieces, t.tolist(), p.tolist(), strict=True)
        values = {
            "error": error,
            "temperature": t,
            "top_p": p,
            "trace": [TraceToken(1, *row, 0.0, 1, 1.0) for row in rows],
        }
        return SimpleNamespace(index=index, tokens=[1] * n, text=text, finish_reason=reason, **values)


def fake_stream(context: object, sequences: Sequence[Any]) -> Iterator[Features]:
    """After commands T moves by 0.1 at the tokens of an answer, at the first the other way; P stays."""
    for i, tokens in enumerate(sequences):
        message = bytes(tokens[tokens >= 0].tolist()).decode()
        shift = 0.1 * ((" surprise" in message) - (" be " in message))
        n = int((tokens < 0).sum())
        hidden = np.full((n, 2), 0.5, np.float32)
        hidden[:, 0] = 1 + shift
        hidden[:1, 0] = 1 - shift
        yield Features(np.full(n, i), ~tokens[tokens < 0].astype(np.int64), hidden, np.zeros((n, 1), np.float32))


class FakeGrader:
    """Right is the answer, whatever exclamation marks follow it; fails for the texts in ``FAILS``."""

    FAILS: Set[str] = frozenset()
    graded = 0

    def __init__(self, checker: str, time_limit: float, allow_code: object = None) -> None:
        pass

    def __enter__(self) -> FakeGrader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def validate(self, problems: Sequence[Problem]) -> None:
        bad = next((p for p in problems if p.answer == "?"), None)
        if bad is not None:
            raise BadFile(f"{bad.where}: answer '?' will not do")

    def grade(self, text: str, answer: str) -> Grade:
        FakeGrader.graded += 1
        if text in self.FAILS:
            return Grade(None, f"cannot read {text!r}")
        return Grade(text.rstrip("!") == answer, None)


def run(
    directory: Path,
    methods: Sequence[str] = METHODS,
    settings: EvalSettings = SETTINGS,
    engine: FakeEngine | None = None,
    tasks: Sequence[Task] = TASKS,
    time_limit: float = 10.0,
    **kwargs: Any,
) -> Any:
    """What stands in results.json."""
    engine = engine or FakeEngine()
    parsed = parse_methods(methods, engine.heads, engine.context.metadata)
    with GradedTasks(tasks, time_limit) as graded:
        results = evaluate(engine, graded, directory, parsed, settings, **{"also": (), **kwargs})  # type: ignore[arg-type]
    if results is None:
        return None
    assert from_json(Results, to_json(results)) == results
    return to_json(results)


def timeless(value: Any) -> Any:
    """Results without the speed and the date."""
    if isinstance(value, dict):
        return {key: timeless(v) for key, v in value.items() if key not in ("tokens_s", "date")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def results_of(directory: Path) -> Any:
    return timeless(json.loads((directory / "results.json").read_text()))


def samples_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]


def place(sample: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sample[key] for key in ("config", "task", "problem", "seed", "sample"))


def failing(directory: Path, config: str) -> str:
    """Make the grader fail for one of the right answers of a config."""
    return next(s["text"] for s in samples_of(directory) if s["config"] == config and s["correct"] and s["seed"] == 1)


def without(task: Task, n: int) -> Task:
    return replace(task, problems=task.problems[:-n])


class Loaded(FakeEngine):
    """What the command line loads, and how."""

    arguments: dict[str, Any]
    model: Path | None = None

    def __init__(self, model: Path, **arguments: Any) -> None:
        super().__init__()
        Loaded.model, Loaded.arguments, Loaded.last = model, arguments, self
        self.variety = lambda t, p: 1

    last: FakeEngine

"""Random use of an engine that is batch_invariant: to the bit, each answer is the one that its request gets alone.

More of it: ENGINE_SEED=0 ENGINE_COUNT=30 pytest tests/engine/test_engine_states.py
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from llama_cpp import LlamaGrammar

from autodeco_gguf.engine.conversation import Answer, Conversation
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation, Piece
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import Busy
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

SEED, COUNT = int(os.environ.get("ENGINE_SEED", "0")), int(os.environ.get("ENGINE_COUNT", "3"))
OPERATIONS = 180

WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"top_p": 0.3, "top": 3},
    {"pairs": [(1.0, 0.9), (0.2, 1.0), (0.0, 1.0)]},
    {"grammar": LlamaGrammar.from_string('root ::= [a-z ]+ "."', verbose=False)},
    {"repeat_penalty": 1.3, "top_k": 5},
    {"stop": [" a", "."]},
    {"prompt_logprobs": True},
]
SAID = ["Tell a story about Mia with 47 and 38.", "Tell a story about Tom", "Tell a story about Zoe with 1 and 2."]


@dataclass
class Play:
    """What is under way, each with its stream; texts: what prompts begin with, asked and answered before."""

    engine: Engine
    alone: Engine
    rng: random.Random
    texts: list[list[int]] = field(default_factory=list)
    live: list[tuple[Generation, Iterator[Piece]]] = field(default_factory=list)
    talks: list[Conversation] = field(default_factory=list)
    asked: list[tuple[Conversation, Answer]] = field(default_factory=list)
    ended: int = 0

    def submit(self) -> None:
        rng, n_ctx = self.rng, self.engine.n_ctx
        text = rng.choice(self.texts)
        n = rng.choice((len(text), rng.randint(1, len(text)), 127, 128, 129, n_ctx - 1))
        prompt = (text * (1 + n // len(text)))[: min(n, n_ctx - 1)]
        options = {"seed": rng.randrange(2**32 - 1), "max_tokens": rng.choice((1, 2, 5, 20, 60)), **rng.choice(WAYS)}
        shift = {"n_keep": rng.choice((0, 1, 4, n_ctx // 2)), "max_tokens": n_ctx} if rng.random() < 0.2 else {}
        self.begin(self.engine.submit(Request(prompt, **{**options, **shift})))

    def begin(self, generation: Generation) -> None:
        self.live.append((generation, iter(generation)))

    def stream(self) -> None:
        _, pieces = self.rng.choice(self.live)
        for _ in range(self.rng.randint(1, 6)):
            next(pieces, None)

    def cancel(self) -> None:
        self.rng.choice(self.live)[0].cancel()

    def forget(self) -> None:
        with suppress(Busy):
            self.engine.forget()

    def interrupt(self) -> None:
        """In the midst of a decode; what has a sequence ends by it."""

        def interrupted(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        generation = self.rng.choice(self.live)[0]
        with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(self.engine.context, "draw", interrupted)
            generation.result()

    def ask(self) -> None:
        talk = self.rng.choice(self.talks)
        answer = talk.ask(Request(self.rng.choice(SAID), max_tokens=self.rng.choice((2, 20, 60))))
        self.asked.append((talk, answer))
        self.begin(answer.generation)

    def keep(self) -> None:
        """One that has ended or not; or the conversation goes on from an earlier message, or another begins there."""
        if self.asked:
            talk, answer = self.asked.pop(self.rng.randrange(len(self.asked)))
            talk.keep(answer)
        talk = self.rng.choice(self.talks)
        if talk.messages and self.rng.random() < 0.4:
            talk.reopen()
        self.talks[self.rng.randrange(len(self.talks))] = copy.copy(self.rng.choice(self.talks))

    def compare(self) -> None:
        for generation, pieces in self.live[:]:
            if generation.finish_reason is not None:
                self.live.remove((generation, pieces))
                if generation.error != "KeyboardInterrupt":
                    self.check(generation.request, generation.result())

    def check(self, request: Request, found: Result) -> None:
        self.alone.forget()
        expected, n = self.alone.submit(request).result(), len(found.trace)
        assert repr([*found.trace]) == repr([*expected.trace][:n])
        if found.finish_reason != "cancelled":
            self.ended += 1
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
            assert repr(found.prompt_logprobs) == repr(expected.prompt_logprobs)
            self.texts = [*self.texts, [*request.prompt, *found.tokens]][-20:]


@pytest.mark.parametrize("seed", range(SEED, SEED + COUNT))
def test_random_use_of_an_engine(seed: int) -> None:
    rng = random.Random(seed)
    shape: dict[str, Any] = {"n_ctx": rng.choice((64, 200, 320)), "machine": Machine(n_threads=1)}
    batching = Batching(batch_invariant=True, prompt_chunk=rng.choice((1, 16, 128, 300)))
    with (
        Engine(DEMO_MODEL, n_parallel=rng.choice((2, 3, 5)), batching=batching, **shape) as engine,
        Engine(DEMO_MODEL, n_parallel=2, batching=Batching(batch_invariant=True), **shape) as alone,
    ):
        play = Play(engine, alone, rng, [engine.prompt(text)[:60] for text in SAID])
        play.talks = [Conversation(engine, seed=i, overflow="shift" if i else "forget") for i in range(3)]
        idle: list[Callable[[], None]] = [play.submit, play.submit, play.ask, play.keep, play.forget]
        busy = [*[play.stream] * 6, *[play.submit] * 3, play.cancel, play.ask, play.keep]
        for i in range(OPERATIONS):
            if i % 80 == 79 and play.live:
                play.interrupt()
            rng.choice(busy if play.live else idle)()
            play.compare()
        while play.live:
            play.stream()
            play.compare()
        assert play.ended > 20
        assert str(engine._scheduler) == "0 running, 0 waiting"

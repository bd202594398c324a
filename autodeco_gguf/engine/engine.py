"""Generates many sequences at once: requests join while others run, each with its own way of sampling."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from autodeco_gguf.engine.generation import Generation, Wait
from autodeco_gguf.engine.request import OnToken, Request, Result
from autodeco_gguf.engine.scheduler import SCORED, Batching, Scheduler
from autodeco_gguf.engine.turn import Turn
from autodeco_gguf.errors import AutoDecoError, Busy, InvalidInput
from autodeco_gguf.heads.base_model import fingerprint_of, fitting_heads, parts_of
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array, HeadWeights, check_enabled
from autodeco_gguf.model.context import MAX_SEQUENCES, Context, default_context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.rpc.relay import off_relays
from autodeco_gguf.model.sampler import Predictor, build_sampler
from autodeco_gguf.model.sampling import check_size
from autodeco_gguf.model.token_text import check_token


class Engine:
    """A model that answers up to ``n_parallel`` requests at once and takes the next as soon as one is done.

    Attributes:
        n_parallel: sequences at once.
        n_ctx: tokens of one sequence, its prompt included.
        context: what decodes.
        chat: the model's chat template, None where it has none.
        fingerprint: of the base model and the heads.
        machine: what it runs on, with nothing left to choose.
        heads_file: the file that the heads are from, None where they are the model's own.

    Nothing runs in the background: who waits for a token or a result runs the engine meanwhile, for all requests. Any
    thread may submit and wait.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> engine = Engine(DEMO_MODEL, n_parallel=4, n_ctx=160)
        >>> tokens = engine.prompt("Tell a story about Mia")
        >>> requests = (Request(tokens, seed=i, max_tokens=3) for i in range(4))
        >>> [result.finish_reason for result in engine.generate(requests)]
        ['length', 'length', 'length', 'length']
        >>> "".join(piece.text for piece in engine.submit(Request(tokens, temperature=0, stop=["."])))
        'Mia lives near the harbour'
        >>> engine.close()
    """

    def __init__(
        self,
        model: ModelFile | str | os.PathLike[str],
        *,
        n_parallel: int = 8,
        n_ctx: int | None = None,
        heads: HeadWeights | str | os.PathLike[str] | None = None,
        heads_enabled: Collection[str] | None = None,
        machine: Machine | None = None,
        batching: Batching | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Load a model and its heads, if it has any.

        Args:
            model: a plain or merged GGUF, or the name of a known model, "smollm2".
            n_parallel: sequences at once, 1 to 256.
            n_ctx: tokens of one sequence, its prompt included; by default as in :func:`default_context`.
            heads: an adapter, a merged file whose heads to take, or heads known to fit; by default the model's own,
                or those shipped for a known one.
            heads_enabled: the heads to use, of "temperature" and "top_p"; what another would predict is 1.
            machine: what it runs on.
            batching: how requests share it.
            chat_template_kwargs: what the chat template is to read besides, such as ``{"enable_thinking": False}``.

        Raises:
            InvalidInput: a parameter out of range.
            BadFile: a broken file, one that llama.cpp cannot load, or heads that do not fit.
        """
        check_size("n_parallel", n_parallel, 1, MAX_SEQUENCES)
        machine, self.batching = machine or Machine(), batching or Batching()
        self.batching.check(n_parallel)
        if n_ctx is not None:
            check_size("n_ctx", n_ctx)
        if machine.flash_attn is None:
            machine = replace(machine, flash_attn=machine.cache_type != "f32")
        model = model if isinstance(model, ModelFile) else ModelFile.open(model)
        shipped = model.known.heads if model.known is not None and heads is None else None
        self.machine, self.heads_file = machine, Path(heads) if isinstance(heads, str | os.PathLike) else shipped
        self.n_parallel, self.n_ctx = int(n_parallel), int(n_ctx or default_context(model))
        enabled = check_enabled(heads_enabled)
        found = heads if isinstance(heads, HeadWeights) else _read_heads(model, heads, enabled)
        self._predictor = Predictor(Heads(found) if found is not None else None, enabled)
        base = fingerprint_of(parts_of(model.base()))
        self.fingerprint = f"{base} {found.fingerprint() if found is not None else ''}"
        n_outputs = max(self.n_parallel, SCORED)
        self.context = Context(model, n_ctx=self.n_ctx, n_seq=self.n_parallel, n_outputs=n_outputs, machine=machine)
        try:
            self.chat = self.context.chat(chat_template_kwargs)
        except InvalidInput:
            self.context.close()
            raise
        self._check_invariance()
        self._scheduler = Scheduler(self.context, self._predictor, self.n_parallel, self.batching)
        self._numbers = itertools.count()
        end = self.context.freeing(self._scheduler.end_all)
        self._turn = Turn(str(model.path), end, self._scheduler.free)
        self.context.using = self._turn.use
        self._run_until = functools.partial(self._turn.run_until, step=self._scheduler.step)

    def _check_invariance(self) -> None:
        """Do without it, and say so, where a token that only keeps its place would stay in the state."""
        if self.batching.batch_invariant and self.context.is_stateful:
            self.batching = replace(self.batching, batch_invariant=False)
            text = "batch_invariant: not with this model, whose state cannot go back"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    @property
    def heads(self) -> frozenset[str]:
        """The heads that predict where a request asks for it: some of "temperature" and "top_p"."""
        return self._predictor.names

    @property
    def model_name(self) -> str:
        """Name of the model's file."""
        return self.context.file.path.name

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the model's GGUF, as llama.cpp has it."""
        return self.context.metadata

    @property
    def draws_on(self) -> bool:
        """Whether it goes on while nobody waits: it does not."""
        return False

    def __repr__(self) -> str:
        heads = " and ".join(sorted(self.heads)) or "none"
        size = f"{self.n_parallel} sequences of {self.n_ctx} tokens"
        state = "closed" if self._turn.closed else f"{self._scheduler}"
        return f"<Engine {self.context.file.path}: heads {heads}, {size}, {state}>"

    def close(self) -> None:
        """Cancel what is under way, once the token that is being computed is there, and free the context and the model.

        What has come of requests can be read on; everything else raises Closed. An engine that nobody holds is closed,
        and so are all when the interpreter ends.

        Raises:
            Busy: within ``on_token``.
        """
        self._turn.close()

    def forget(self) -> None:
        """Give :attr:`context` as it is when new to code that drives it itself; again before the engine goes on.

        Raises Busy where a request is under way, Closed where the engine is.
        """
        self._do(self._scheduler.forget)

    def replace_heads(self, heads: HeadWeights) -> None:
        """Predict with these from now on, the same ones of "temperature" and "top_p" as before; nothing is loaded.

        What the sequences held is forgotten.

        Raises:
            InvalidInput: the weights do not fit together or are not finite, or are those of another model.
            Busy: a request is under way.
            Closed: the engine is.
        """
        size, vocab = self.context.hidden_size, self.context.n_vocab
        if (heads.hidden_size, heads.vocab_size) != (size, vocab):
            found, expected = f"{heads.hidden_size} and {heads.vocab_size}", f"{size} and {vocab}"
            raise InvalidInput.of("hidden size and vocabulary of the heads", found, expected)
        predictor = Predictor(Heads(heads), self._predictor.names)
        self._do(lambda: self._scheduler.replace(predictor))
        self._predictor = predictor
        self.fingerprint = f"{self.fingerprint.partition(' ')[0]} {heads.fingerprint()}"

    @property
    def lost(self) -> str | None:
        """Which worker that has a part of the model was lost, and how; until :meth:`reload` nothing is computed."""
        return self.context.lost

    def reload(self) -> None:
        """Load the model again, once the workers of which one was lost are back. What the sequences held is forgotten.

        Raises:
            BadFile: the file is another one by now; the engine stays as it was.
            ModelFailed: they are not back, or one is lost again.
            Busy: a request is under way; also for who asks for something while it is loaded.
            Closed: the engine is.
        """
        self.machine.remote()  # while one is not there, nobody is kept out

        def work() -> None:
            self._scheduler.forget()
            self.context.reload()

        self._turn.alone(work)

    def predict(self, hidden: Float32Array, logits: Float32Array) -> tuple[Float32Array, Float32Array]:
        """T and P [n] that the heads give after hidden states [n, hidden_size] and raw logits [n, n_vocab].

        For code that drives :attr:`context` itself; 1 for a head that is not there. Raises Closed where the engine is.
        """
        return self._turn.use(lambda: self._predictor.evaluate(hidden, logits))

    def enable(self, heads: Collection[str]) -> None:
        """Predict with these of the engine's heads from now on, as ``heads_enabled`` says.

        What the sequences held is forgotten, unless they are the same as before.

        Raises:
            InvalidInput: a name that is no head.
            Busy: a request is under way.
            Closed: the engine is.
        """
        predictor = Predictor(self._predictor.heads, heads)
        if predictor.names != self._predictor.names:
            self._do(lambda: self._scheduler.replace(predictor))
            self._predictor = predictor

    def _do(self, work: Callable[[], None]) -> None:
        """Have a turn for something else than a step."""
        done = False

        def step() -> None:
            nonlocal done
            work()
            done = True

        self._turn.run_until(lambda: done, step)

    def __del__(self) -> None:
        # else loading failed, or the interpreter is taking its modules apart
        if "_turn" in vars(self) and off_relays is not None:
            off_relays(self._close_at_last)

    def _close_at_last(self) -> None:
        with suppress(Busy):  # closing, at the interpreter's end, has let go of it
            self.close()

    def __reduce__(self) -> NoReturn:  # a copy that is dropped would close this one
        raise TypeError("an Engine cannot be copied or pickled; load another")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- requests ----

    def render(self, message: str) -> str:
        """A user's message as the model expects it; without a chat template, the message itself.

        Raises InvalidInput where the chat template refuses.
        """
        return message if self.chat is None else self.chat.render([{"role": "user", "content": message}])

    def prompt(self, message: str) -> list[int]:
        """The tokens of :meth:`render`.

        Raises:
            InvalidInput: the chat template refuses, or the message is not to be written as UTF-8.
            Closed: the engine is.
        """
        return self.context.tokenize(self.render(message), add_bos=self.chat is None)

    def prompts(self, messages: Iterable[str]) -> Iterator[list[int]]:
        """Those of several messages, in their order; raises as :meth:`prompt` at the first that will not do."""
        return map(self.prompt, messages)

    def check(self, request: Request) -> None:
        """Raise InvalidInput for a request that cannot be met: its prompt does not fit, a value out of range."""
        request.check()
        self._turn.use(lambda: self._tokens(request))

    def _tokens(self, request: Request) -> list[int]:
        """The tokens of a request's prompt, known to fit."""
        prompt = request.prompt
        if isinstance(prompt, str):
            tokens = self.context.tokenize(prompt, add_bos=True)
        else:
            tokens = [check_token(token, self.context.n_vocab) for token in prompt]
        request.check_room(len(tokens), self.n_ctx)
        if request.n_keep is not None and not self.context.can_shift:
            path = self.context.file.path
            text = f"{path}: this model cannot forget a part of what it read: no context shift"
            raise InvalidInput(text, key="n_keep")
        return tokens

    def submit(self, request: Request, on_token: OnToken | None = None) -> Generation:
        """Queue a request; it is answered while somebody waits for it or for another.

        Args:
            request: what to generate.
            on_token: called with every :class:`Piece` as it comes, by the thread that runs the engine. It may submit
                and cancel, but not wait.

        Raises:
            InvalidInput: the request cannot be met.
            Busy: ``max_waiting`` others wait already.
            Closed: the engine is.
        """
        return self._submit(request, next(self._numbers), self.run_until, on_token)

    def _submit(self, request: Request, index: int, wait: Wait, on_token: OnToken | None = None) -> Generation:
        request.check()
        return self._turn.use(lambda: self._queue(request, index, wait, on_token))

    def _queue(self, request: Request, index: int, wait: Wait, on_token: OnToken | None) -> Generation:
        tokens = self._tokens(request)
        if not self._scheduler.has_room:
            raise Busy(f"too many requests: {self.batching.max_waiting} are waiting already; try again later")
        room = self.n_ctx - len(tokens) if request.n_keep is None else sys.maxsize
        trace = "full" if request.entropy else "plain"
        temperature, top_p = request.pair(0)
        sampling = replace(request, pairs=None, temperature=temperature, top_p=top_p)
        sampler = build_sampler(self._predictor, sampling, self.context.model, trace=trace)
        sampler.native.top = -1 if request.top is None else request.top
        generation = Generation(request, index, tokens, sampler, room, wait, self.context, on_token)
        self._scheduler.waiting.append(generation)
        return generation

    def generate(self, requests: Iterable[Request]) -> list[Result]:
        """Answer requests; the results in their order. Raises what :meth:`as_completed` does."""
        return sorted(self.as_completed(requests), key=lambda result: result.index)

    def as_completed(self, requests: Iterable[Request]) -> Generator[Result, None, None]:
        """Answer requests; the results as they are finished, not in the order of the requests.

        The requests are taken as there is room for them. Closing the generator cancels what is under way.

        Raises:
            InvalidInput: a request that :meth:`check` refuses, named by its place, before anything of it is drawn.
            ModelFailed: llama.cpp fails for the whole batch.
        """
        source = enumerate(requests)
        under_way: dict[int, Generation] = {}
        upcoming = next(source, None)

        def done() -> list[Generation]:
            return [generation for generation in under_way.values() if generation.finish_reason is not None]

        def takes() -> bool:
            room = len(under_way) < 2 * self.n_parallel and self._scheduler.has_room
            return room and upcoming is not None

        try:
            while upcoming is not None or under_way:
                while takes() and upcoming is not None:
                    index, request = upcoming
                    try:
                        # a wait of the engine's own would be a cycle for as long as it is under way
                        under_way[index] = self._submit(request, index, self._run_until)
                    except Busy:  # another thread took the room
                        break
                    except AutoDecoError as e:
                        raise e.within(f"request {index}") from e
                    upcoming = next(source, None)
                self.run_until(lambda: bool(done()) or takes())
                for generation in done():
                    result = generation.result()
                    del under_way[result.index]
                    yield result
        finally:
            for generation in under_way.values():
                generation.cancel()

    # ---- running ----

    def run_until(self, ready: Callable[[], bool]) -> None:
        """Run the engine until ``ready()``, or let another thread that does so go on.

        Raises:
            Busy: within ``on_token``.
            Closed: the engine is, and not ``ready()``.
            ModelFailed: llama.cpp fails for the whole batch.
        """
        self._run_until(ready)


def _read_heads(model: ModelFile, heads: str | os.PathLike[str] | None, enabled: Collection[str]) -> HeadWeights | None:
    """Those of a file, or the model's own where some of them are to be used."""
    if heads is None and not (enabled and model.heads_source.head_tensors):
        return None
    return fitting_heads(model, heads)

"""A drop-in for ``llama_cpp.Llama`` whose temperature and top-p are predicted at every token."""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.base_model import fitting_heads
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array, check_enabled
from autodeco_gguf.model import methods
from autodeco_gguf.model.completion import Completion
from autodeco_gguf.model.devices import after_remote, device_names
from autodeco_gguf.model.grammar import in_place_of, with_schemas
from autodeco_gguf.model.loading import freed, loading
from autodeco_gguf.model.machine import default_threads
from autodeco_gguf.model.raw_logits import RawLogits
from autodeco_gguf.model.rpc.relay import off_relays
from autodeco_gguf.model.rpc.remote import NOBODY, Remote, as_remote
from autodeco_gguf.model.sampler import Predictor, address, build_sampler
from autodeco_gguf.model.token_text import CheckedModel, token_bytes
from autodeco_gguf.model.trace import Trace
from autodeco_gguf.model.turns import Turns
from autodeco_gguf.model.vetting import check_use, overridden

_sample_once = methods.with_defaults(llama_cpp.Llama.sample)
_generate = methods.with_defaults(llama_cpp.Llama.generate)
_GENERATE = frozenset(inspect.signature(_generate).parameters)


class Llama(llama_cpp.Llama):
    """``llama_cpp.Llama`` with AutoDeco heads: changing the import is the whole migration.

    Where llama_cpp takes ``temperature`` and ``top_p``, both default to None here, which means predicted; a number
    fixes that one (temperature 0 is greedy). ``top_k``, ``min_p`` and ``typical_p`` are off unless given. The order
    is: logits processors and biases, penalties, grammar, scale by T, top-k, typical, min-p, cut at P, draw. The
    heads read the raw logits.

    Threads that share one are served one after the other. A generation whose context something else has taken in the
    meantime, as the second of two streams that are read in turn, ends with Busy.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> llm = Llama(DEMO_MODEL, verbose=False)
        >>> text = llm("Tell a story about Mia", max_tokens=4, seed=1)["choices"][0]["text"]
        >>> b"".join(token.text for token in llm.trace).decode() == text
        True
        >>> [0 < token.temperature < 2 for token in llm.trace]
        [True, True, True, True]
    """

    create_completion = methods.with_defaults(llama_cpp.Llama.create_completion)
    create_chat_completion = methods.with_defaults(with_schemas(llama_cpp.Llama.create_chat_completion))
    __call__ = methods.with_defaults(llama_cpp.Llama.__call__)
    set_seed = methods.set_seed
    reset = methods.in_turn(methods.reset)
    embed = methods.in_turn(methods.embed)
    load_state = methods.in_turn(methods.load_state)
    save_state = methods.in_turn(methods.save_state, changes=False)

    _host_way = _graph_seen = False  # seen: a decode has shown that this graph takes the heads
    _remote: Remote = NOBODY  # until it is loaded
    _direct = False  # one more token needs no more than _eval_next does
    _evaluated = -1  # n_tokens after an eval that came to its end
    _last: methods.LlamaSampler | None
    _sampler: Any
    _n_evals = _n_drawn_after = 0
    """Calls of eval, and those before a generation's last token: more than one since, and another has been there."""
    _generator: Callable[[], Any] = staticmethod(lambda: None)  # the last of generate(), while it is there

    # llama_cpp.Llama's own, of which mypy sees nothing
    n_tokens: int
    n_batch: int

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        heads: str | os.PathLike[str] | None = None,
        heads_enabled: Collection[str] | None = None,
        trace: bool = True,
        sampling: Literal["caller", "heads"] | None = None,
        device: str | Sequence[str] | None = None,
        rpc: str | Sequence[str] | Remote = (),
        **kwargs: Any,
    ) -> None:
        """Load a model and its heads.

        Args:
            model_path: a merged GGUF, a plain one together with ``heads``, or the name of a known model, "smollm2".
            heads: an adapter, or a merged file whose heads to take; by default those of the model itself,
                or those shipped for a known one.
            heads_enabled: the heads to use, of "temperature" and "top_p"; the other parameter is then 1. All by
                default; with none, a model without heads will do.
            trace: keep :attr:`trace`.
            sampling: "heads": the ``temperature`` and ``top_p`` of calls are ignored, for programs that always give
                some, which is said once; "caller": they are not. By default what the environment's
                AUTODECO_SAMPLING says, or "caller".
            device: names of devices to put the layers on, all of them unless ``n_gpu_layers`` says less; "none" is the
                CPU alone. By default what llama_cpp does: with ``n_gpu_layers``, so many on all GPUs.
            rpc: addresses of workers, as "host:port,host:port", on whose devices layers are put too, before the others.
            **kwargs: as in ``llama_cpp.Llama``, but ``n_threads`` is by default what
                :func:`~autodeco_gguf.model.machine.default_threads` says, and ``n_threads_batch`` the same. With
                ``vocab_only`` there are no heads, with a ``draft_model`` the logits of all ``n_ctx`` tokens are kept.

        Raises:
            BadFile: a file that is broken, without heads, an adapter given as model, a stale base view, heads
                that do not fit, llama.cpp cannot load the model, or it cannot go on with a text and is not to embed.
            InvalidInput: a ``sampling``, heads, device, seed, size, threads or ``kv_overrides`` that cannot be.
            ModelFailed: a worker that cannot be used, or is lost meanwhile.
        """
        self._stack = ExitStack()  # close() empties it, also when this fails before llama_cpp's __init__
        self._turns = Turns(str(model_path))
        methods.check_settings(kwargs)
        self._sampling, self._told = methods.who_decides(sampling), False  # told: that something is ignored
        enabled = frozenset[str]() if kwargs.get("vocab_only") else check_enabled(heads_enabled)
        model = ModelFile.open(model_path)
        base = overridden(model.base(), kwargs.get("kv_overrides"))
        if not kwargs.get("vocab_only"):
            check_use(base, kwargs.get("n_ctx", 512), embeds=bool(kwargs.get("embedding")))
        self._heads_path, self._trace_on, self._last = heads, trace, None
        self._predictor = Predictor(Heads(fitting_heads(model, heads)) if enabled else None, enabled)
        for name in ("n_threads", "n_threads_batch"):
            kwargs[name] = max(0, kwargs.get(name) or kwargs.get("n_threads") or 0) or default_threads(base)
        self._remote = as_remote(rpc)
        self._device = device_names(device, kwargs, bool(self._remote))
        prepare, devices = functools.partial(self._prepare, kwargs), functools.partial(after_remote, names=self._device)
        with loading(base, kwargs.get("verbose", True), prepare, devices=devices, remote=self._remote) as path:
            super().__init__(path, **kwargs)
        self._model.__class__, self._model.hold = CheckedModel, self._turns.hold
        self._raw.bind(self._ctx.ctx)
        self._address, self.model_path = address(self._ctx.ctx), os.fspath(model_path)
        self._turns.n_threads = max(self.n_threads, self.n_threads_batch)
        self._start_heads()

    def n_ctx(self) -> int:
        """The context window's size as it was asked for, which llama.cpp rounds up."""
        return min(int(super().n_ctx()), int(self.context_params.n_ctx))

    def __repr__(self) -> str:
        if self._turns.closed:
            return f"<Llama {self.model_path}: closed>"
        heads = " and ".join(sorted(self.heads)) or "none"
        return f"<Llama {self.model_path}: heads {heads}, {self.n_tokens} of {self.n_ctx()} tokens>"

    def close(self) -> None:
        """Free the model, once a thread that computes is done with its token; every later use raises Closed."""
        self._turns.close(self._remote.freeing(self._free))

    def __del__(self) -> None:
        if off_relays is not None:  # as it is once the interpreter takes its modules apart
            off_relays(self.close)

    def _free(self) -> None:
        parts = [vars(self)[name] for name in ("_model", "_ctx", "_batch") if name in vars(self)]
        freed(parts, self.model_path if parts else "", self._stack.close)
        if "_predictor" in vars(self):
            self._predictor.close()

    @property
    def heads(self) -> frozenset[str]:
        """The heads in use: some of "temperature" and "top_p"."""
        return self._predictor.names

    @property
    def trace(self) -> Trace:
        """The tokens of the last generation, end-of-generation token included; empty with ``trace=False``."""
        last = self._last  # which may be another the next moment
        return Trace() if last is None else Trace(last.native.records, last.pieces.__getitem__)

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The text piece of one token: bytes, since it may end within a UTF-8 character.

        Args: ``special``: give control tokens their names; else they give nothing. Raises Closed once the model is.
        """
        return token_bytes(self._model.vocab, token, special=special)

    def predict(self, tokens: Sequence[int]) -> tuple[Float32Array, Float32Array]:
        """Teacher-forced predictions: what T and P would be after each token of a text.

        Args:
            tokens: [n] token ids, n up to the context's size.

        Returns:
            temperature [n] and top-p [n]; entry i is for the token that follows ``tokens[i]``.

        Raises:
            InvalidInput: no such token, more tokens than the context holds, or a context that pools its embeddings.
            Closed: the model is.
        """
        tokens = methods.checked(self, tokens)
        if len(tokens) > self.n_ctx():
            raise InvalidInput(f"{len(tokens)} tokens, the context holds {self.n_ctx()}; raise n_ctx", key="n_ctx")
        ones = np.ones(len(tokens), np.float32)
        if not self._predictor.names or not tokens:
            return ones, ones.copy()
        if self.pooling_type() != lib.LLAMA_POOLING_TYPE_NONE:
            raise InvalidInput("the context pools its embeddings; predict needs LLAMA_POOLING_TYPE_NONE")
        return self._turns.run(methods.predict, self, tokens)

    @functools.wraps(_sample_once)
    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:  # noqa: D102  llama_cpp's own
        if self.n_tokens == 0:
            raise InvalidInput("the prompt is empty: there is no output to draw from")

        def draw() -> int:
            if self._evaluated == methods.RESTORED:
                self.n_tokens -= 1
                self._eval_all([int(self.input_ids[self.n_tokens])])
            generator = self._generator()
            if generator is not None and generator.gi_running:  # which has set the sampler up with these parameters
                token = int(self._sampler.sample(self._ctx, -1 if idx is None else idx - self.n_tokens))
                if self._n_evals > self._n_drawn_after + 1:
                    raise self._turns.within()
                self._n_drawn_after = self._n_evals
                return token
            self._sampler = None
            return int(_sample_once(self, *args, idx=idx, **kwargs))

        return self._turns.run(draw)

    @functools.wraps(_generate)
    def generate(self, *args: Any, **kwargs: Any) -> Generator[int, Any, None]:  # noqa: D102  llama_cpp's own
        bound = inspect.signature(_generate).bind(self, *args, **kwargs)
        criteria = bound.arguments.get("stopping_criteria")
        if criteria is not None:
            bound.arguments["stopping_criteria"] = self._turns.calling_back(criteria)
        generator = _generate(*bound.args, **bound.kwargs)

        def steps() -> Generator[int, Any, None]:
            self._generator = weakref.ref(generator)  # now: another may have been made since, or have come to its end
            yield from generator

        return self._turns.stream(steps())

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens, as ``llama_cpp.Llama.eval``, and see to it that T and P can be had afterwards.

        Raises:
            InvalidInput: no such token, or the vocabulary alone is loaded.
            ModelFailed: the context is full.
        """
        one = tokens[0] if self._direct and len(tokens) == 1 else None  # a drawn one needs no more than a look
        if type(one) is int and 0 <= one < self._n_vocab:
            self._turns.run(self._eval_next, one)
        elif checked := methods.checked(self, tokens):
            self._turns.run(self._eval_all, checked)

    @property
    def _requires_eval(self) -> bool:  # what llama_cpp asks before it draws from what is there
        return self._evaluated != self.n_tokens

    @_requires_eval.setter
    def _requires_eval(self, value: bool) -> None:
        self._evaluated = -1  # also where it says False, in the midst of an eval of ours

    def _eval_all(self, tokens: list[int]) -> None:
        if self.n_tokens + len(tokens) > self._n_ctx:
            raise ModelFailed(
                f"{self.model_path}: the context is full: {len(tokens)} more than the {self.n_tokens} of its "
                f"{self._n_ctx} tokens; raise n_ctx"
            )
        self._evaluated = -1  # an interrupt may leave outputs of other tokens
        if not core.goes_on(self._address, self.n_tokens):
            tokens = [*self.input_ids[: self.n_tokens].tolist(), *tokens]
            self._forget()
        self._eval(tokens)
        self._note_evaluated()
        self._direct = not (self._host_way or self._logits_all or self._remote)

    def _eval_next(self, token: int) -> None:
        """The same for the token after one that was drawn, with the least that there is to do."""
        n = self.n_tokens
        self._evaluated = -1
        if n < self._n_ctx and core.decode_next(self._address, token, n):
            self.input_ids[n] = token
            self.n_tokens = n + 1
            self._note_evaluated()
        else:
            self._eval_all([token])

    def _note_evaluated(self) -> None:
        self._n_evals += 1
        generator = self._generator()
        if generator is None or not generator.gi_running:  # which draws next; somebody else may read them
            self._predictor.fetch(self._ctx.ctx)
        self._evaluated = self.n_tokens

    def _forget(self) -> None:
        self.reset()  # first: of an interrupt in between nothing but time is lost
        self._ctx.kv_cache_clear()

    def _eval(self, tokens: list[int]) -> None:
        if self._host_way and not self._keeps_hidden:
            # hidden states are kept for the last token only: the flag makes every token an output
            lib.llama_set_embeddings(self._ctx.ctx, False)
            self._eval_parts(tokens[:-1])
            lib.llama_set_embeddings(self._ctx.ctx, True)
            tokens = tokens[-1:]
        self._eval_parts(tokens)
        if not self._graph_seen and self._predictor.attached:
            if not self._predictor.in_graph():
                self._leave_graph()
            self._graph_seen = True

    def _eval_parts(self, tokens: list[int]) -> None:
        for i in range(0, len(tokens), self.n_batch):
            self._turns.check()
            self._remote.check()
            self._raw.keep(self._host_way)
            super().eval(tokens[i : i + self.n_batch])
            self._remote.settle(self._ctx.ctx)

    # ---- loading ----

    def _prepare(self, kwargs: dict[str, Any], model: Any, params: Any) -> None:
        """Reserve graph memory for few outputs a decode, unless every token is one; note what decodes need to know."""
        if self._predictor.names and not (kwargs.get("logits_all") or kwargs.get("embedding")):
            params.n_outputs_max = min(methods.PREDICT_ROWS, params.n_batch)
        self._raw = RawLogits(model, params)

    def _start_heads(self) -> None:
        self._keeps_hidden = bool(self.context_params.embeddings)
        if not self._predictor.names:
            return
        # on the context's own stack: it runs before the context is freed, whoever frees it, also while garbage
        # of which both are part is collected in whatever order
        self._ctx._exit_stack.callback(self._predictor.detach)  # noqa: SLF001  there is no other
        if self._logits_all:
            lib.llama_set_embeddings(self._ctx.ctx, True)
            self._keeps_hidden = True
        self._host_way = self._keeps_hidden or not self._predictor.attach_last(self._ctx.ctx, entropy=self._trace_on)

    def _leave_graph(self) -> None:
        """Go over to the host way: this architecture's graph has no hidden state where heads look for it."""
        self._host_way = True
        self._predictor.detach()
        tokens = self.input_ids[: self.n_tokens].tolist()
        self._forget()
        self._eval(tokens)

    # ---- sampling ----

    def _create_completion(self, **kwargs: Any) -> Generator[dict[str, Any], None, None]:
        kwargs["grammar"] = in_place_of(kwargs.get("grammar"))
        kwargs["temp"] = kwargs.pop("temperature")
        sampling = {name: kwargs[name] for name in kwargs.keys() & _GENERATE - {"logits_processor"}}
        completion = self._turns.hold(lambda: Completion(self, kwargs))
        return self._turns.stream(completion.run(sampling), whole=True)

    def _init_sampler(
        self,
        *,
        temp: float | None,
        top_p: float | None,
        tfs_z: float,
        penalize_nl: bool,
        logits_processor: llama_cpp.LogitsProcessorList | None = None,
        **others: Any,
    ) -> methods.LlamaSampler:
        """What llama_cpp's generate and sample call; tfs_z and penalize_nl have no effect there either."""
        if self._sampling == "heads":
            self._told = self._told or methods.warn_ignored(self.model_path, {"temperature": temp, "top_p": top_p})
            temp = top_p = None
        others |= {"seed": self._seed, "penalty_last_n": self.last_n_tokens_size}
        sampling = methods.as_sampling(temperature=temp, top_p=top_p, **others)
        made: Any = build_sampler(
            self._predictor,
            sampling,
            self._model,
            make=functools.partial(methods.LlamaSampler, self),
            logits_processors=[self._turns.calling_back(processor) for processor in logits_processor or ()],
            trace="full" if self._trace_on else "off",
        )
        self._last, self._n_drawn_after = made, self._n_evals
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "heads": self._heads_path,
            "heads_enabled": self._predictor.names,
            "trace": self._trace_on,
            "sampling": self._sampling,
            "device": self._device,
            "rpc": self._remote.addresses,
        }

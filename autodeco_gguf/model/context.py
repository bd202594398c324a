"""A llama_context of our own that decodes many sequences at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaContext, LlamaModel
from llama_cpp._logger import set_verbose

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.model.loading import freed, loading
from autodeco_gguf.model.machine import DEFAULT_CONTEXT, Machine
from autodeco_gguf.model.raw_logits import RawLogits
from autodeco_gguf.model.rpc.remote import Remote
from autodeco_gguf.model.sampler import Predictor, Sampler, address
from autodeco_gguf.model.sampling import check_size
from autodeco_gguf.model.template import TEMPLATE_KEY
from autodeco_gguf.model.token_text import CheckedModel, check_token, token_bytes
from autodeco_gguf.model.turns import check_fork
from autodeco_gguf.model.vetting import check_loadable, check_use, keeps_keys

MAX_SEQUENCES = 256
"""llama.cpp's LLAMA_MAX_SEQ."""

_OUTPUT_FLOATS = 1 << 24
"""Logits kept of one decode: 64 MiB, however large the vocabulary."""

_CELLS = 256
"""What llama.cpp rounds a sequence's cells to."""

_MAX_CELLS = 2**26
"""Of all sequences together: each takes llama.cpp some 50 bytes beside its key and value, whatever memory there is."""

BATCH = 512
"""Tokens of one llama_decode."""

SHARED = 32
"""Tokens from which on a common beginning of two prompts is copied, not computed again; the whole of one always is."""

Ints = Sequence[int] | npt.NDArray[np.integer[Any]]


def default_context(model: ModelFile, at_most: int = DEFAULT_CONTEXT) -> int:
    """Tokens of the context that a model was trained for, at most so many."""
    base = model.base()
    own = int(base.get(f"{base.architecture}.context_length", int, 0))
    return min(own or at_most, at_most)


def _n_cells(n_ctx: int, n_seq: int) -> int:
    """Cells of ``n_seq`` sequences of ``n_ctx`` tokens; InvalidInput for none, or more than any model has."""
    n_seq, n_ctx = check_size("n_seq", n_seq, 1, MAX_SEQUENCES), check_size("n_ctx", n_ctx)
    if n_ctx > (most := _MAX_CELLS // n_seq // _CELLS * _CELLS):
        raise InvalidInput.of("n_ctx", n_ctx, f"at most {most} with sequences: {n_seq}")
    return -(-n_ctx // _CELLS) * _CELLS * n_seq


class Drawn(NamedTuple):
    """What was drawn from the outputs of a decode: tokens, whether each ends an answer, what went wrong, by output."""

    tokens: list[int]
    ends: list[bool]
    errors: dict[int, str]


class Context:
    """A model, and a context that holds ``n_seq`` sequences of up to ``n_ctx`` tokens each.

    Each has cells of its own: attention over cells that all of them share takes many times as long.

    Only what :meth:`decode` is asked for is kept: the logits, and on request the hidden states, of its outputs.

    Attributes:
        using: calls what it is given, which reads the vocabulary; whoever closes the context while other threads
            tokenize has it wait for them.
    """

    def __init__(
        self,
        model: ModelFile | str | os.PathLike[str],
        *,
        n_ctx: int,
        n_seq: int = 1,
        n_outputs: int | None = None,
        machine: Machine | None = None,
    ) -> None:
        """Load a plain or merged GGUF.

        Args:
            model: the file.
            n_ctx: tokens of a sequence.
            n_seq: sequences.
            n_outputs: most outputs of one decode; by default what 64 MiB of logits hold, at least 16.
            machine: what it runs on. Without flash attention, as by default here, the results are those of
                ``llama_cpp.Llama`` to the last bits.

        Raises:
            BadFile: a broken file, or llama.cpp cannot load it.
            InvalidInput: the machine has no such device, or more tokens than llama.cpp counts.
            ModelFailed: a worker that cannot be used, or is lost meanwhile.
        """
        _n_cells(n_ctx, n_seq)  # before anything is loaded
        self.file = model if isinstance(model, ModelFile) else ModelFile.open(model)
        self._machine = machine or Machine()
        self._verbose = self._machine.verbose
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self.using: Callable[[Callable[[], Any]], Any] = lambda function: function()
        set_verbose(self._verbose)
        llama_cpp.llama_backend_init()
        self._load(self._machine.remote(), n_ctx, n_seq, n_outputs)

    def _load(self, remote: Remote, n_ctx: int, n_seq: int, n_outputs: int | None) -> None:
        base, machine = self.file.base(), self._machine
        model_params, self._params = lib.llama_model_default_params(), lib.llama_context_default_params()
        machine.set_params(base, model_params, self._params)
        with loading(base, machine.verbose, devices=machine.devices, remote=remote) as name:
            self._model = CheckedModel(path_model=name, params=model_params, verbose=machine.verbose)
            self.n_vocab = int(lib.llama_vocab_n_tokens(self._model.vocab))
            self.hidden_size = int(lib.llama_model_n_embd_out(self._model.model))
            self.n_outputs = n_outputs or max(16, min(BATCH, _OUTPUT_FLOATS // self.n_vocab))
            self._params.n_batch = self._params.n_ubatch = BATCH
            # else the numbers of the outputs, which come first in the graph's memory, move all tensors off a cache line
            self._params.n_outputs_max = -(-self.n_outputs // 16) * 16
            self._open(n_ctx, n_seq)
        self._remote = remote

    def reload(self) -> None:
        """Load the model again, once the workers of which one was lost are all there; every sequence is empty then.

        Raises:
            BadFile: the file is another one by now; nothing has changed.
            ModelFailed: they are not, likewise; or one is lost meanwhile, and the model is closed until this succeeds.
        """
        remote = self._machine.remote()
        check_loadable(self.file.base())
        self.close()
        self._load(remote, self.n_ctx, self.n_seq, self.n_outputs)

    def _open(self, n_ctx: int, n_seq: int) -> None:
        check_use(self.file.base(), n_ctx)
        self._params.n_ctx, self._params.n_seq_max, self._params.kv_unified = _n_cells(n_ctx, n_seq), n_seq, False
        self._raw = RawLogits(self._model.model, self._params)
        self._ctx = LlamaContext(model=self._model, params=self._params, verbose=self._verbose)
        self._raw.bind(self._ctx.ctx)
        attached: list[Predictor] = []  # one at most
        self._ctx._exit_stack.callback(lambda: [*map(Predictor.detach, attached)])  # noqa: SLF001  before it is freed
        self._attached, self._hidden, self.n_ctx, self.n_seq = attached, False, int(n_ctx), int(n_seq)

    def resize(self, n_ctx: int, n_seq: int) -> None:
        """Hold ``n_seq`` sequences of ``n_ctx`` tokens instead, all of them empty.

        Raises InvalidInput for more tokens than llama.cpp counts, ModelFailed where it cannot, for want of memory.
        """
        _n_cells(n_ctx, n_seq)  # before anything is freed
        check_use(self.file.base(), n_ctx)
        freed([self._ctx], self.file.path)
        with core.LogCapture(self._verbose) as capture:
            try:
                self._open(n_ctx, n_seq)
            except ValueError as e:
                message = f"{self.file.path}: no context of {n_seq} times {n_ctx} tokens: {capture.first_error or e}"
                raise ModelFailed(message, file=self.file.path).with_log(capture.later_errors) from e

    def check_open(self) -> None:
        """Raise Closed once it is."""
        _ = self._model.model

    def close(self) -> None:
        """Free the context and the model; every later use raises Closed."""
        self.freeing(self._free)()

    def freeing(self, free: Callable[[], None]) -> Callable[[], None]:
        """A function that frees something of it, as it is to be called: see :meth:`Remote.freeing`."""
        return self._remote.freeing(free)

    def _free(self) -> None:
        freed([self._ctx, self._model], self.file.path)

    @property
    def address(self) -> int:
        """The llama_context's."""
        return address(self._ctx.ctx)

    @property
    def vocab(self) -> Any:
        """The model's ``llama_vocab``."""
        return self._model.vocab

    # ---- text ----

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata, as strings."""
        return self.file.base().metadata()

    @property
    def model(self) -> LlamaModel:
        """The model, as llama_cpp has it."""
        return self._model

    @property
    def n_ctx_train(self) -> int:
        """The context the model was trained for."""
        return int(self._model.n_ctx_train())

    @property
    def eos(self) -> int:
        """The token that ends an answer; -1 where the vocabulary has none."""
        return int(lib.llama_vocab_eos(self.vocab))

    def chat(self, kwargs: Mapping[str, object] | None = None) -> Chat | None:
        """The model's chat template, None where it has none; InvalidInput for ``kwargs`` that are not for it."""
        template = self.metadata.get(TEMPLATE_KEY)
        if template is None and kwargs:
            raise InvalidInput(f"chat template kwargs: {self.file.path} has no chat template")
        return None if template is None else Chat(template, self.vocab, self.file.path, kwargs)

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = True) -> list[int]:
        """The tokens of a text, by llama.cpp's own tokenizer.

        Args:
            text: any text.
            add_bos: add what the vocabulary wants at the beginning, unless the text has it already.
            special: read the names of control tokens as these tokens.

        Raises:
            InvalidInput: the text is not to be written as UTF-8.
        """
        try:
            encoded = text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise InvalidInput(f"not UTF-8: {e.reason} at character {e.start}", key="text") from e
        tokens: list[int] = self.using(lambda: self._model.tokenize(encoded, add_bos, special))
        bos = int(self.using(lambda: lib.llama_vocab_bos(self.vocab)))
        return tokens[1:] if add_bos and tokens[:2] == [bos, bos] else tokens

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The text piece of a token; with special False, control tokens give nothing."""
        self.check_open()
        if (token, special) not in self._pieces:
            self._pieces[token, special] = self.using(lambda: token_bytes(self.vocab, token, special=special))
        return self._pieces[token, special]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens left out; what is no UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes(token, special=False) for token in tokens).decode("utf-8", "replace")

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(self.using(lambda: lib.llama_vocab_is_eog(self.vocab, check_token(token, self.n_vocab))))

    # ---- decoding ----

    def attach(self, predictor: Predictor) -> bool:
        """Put heads into the graph for every output of a decode of consecutive sequences, a token each.

        A decode of more outputs than sequences is computed without them. Returns False where the device does not take
        them; raises AutoDecoError where the model has another hidden size or vocabulary.
        """
        return predictor.attach_rows(self._ctx.ctx, min(self.n_outputs, self.n_seq))

    def takes(self, predictor: Predictor) -> bool:
        """Whether the device and the architecture take heads in the graph, found out by decoding a token."""
        if not self.attach(predictor):
            return False
        try:
            self._attached[:] = [predictor]
            self.decode([0], [0], [0], hidden=False)
            return predictor.in_graph()
        finally:
            self.clear()
            predictor.detach()

    def clear(self) -> None:
        """Forget every sequence."""
        lib.llama_memory_clear(self._ctx.memory, False)

    def remove(self, seq: int, begin: int = 0) -> bool:
        """Forget one sequence from position ``begin`` on; False where it cannot go on from there, only from 0.

        A recurrent model cannot; one whose attention has a window may have let go of what is in it there.
        """
        return core.goes_on(self.address, begin, check_token(seq, self.n_seq, "sequence"))

    def copy(self, source: int, target: int) -> None:
        """Let sequence ``target``, forgotten before, begin with what ``source`` holds; nothing is computed."""
        source, target = (check_token(seq, self.n_seq, "sequence") for seq in (source, target))
        lib.llama_memory_seq_cp(self._ctx.memory, source, target, -1, -1)

    @property
    def can_shift(self) -> bool:
        """Whether :meth:`shift` is possible: not where a state is computed from all tokens before; see keeps_keys."""
        return keeps_keys(self.file.base()) and not self.is_stateful and lib.llama_memory_can_shift(self._ctx.memory)

    @property
    def is_stateful(self) -> bool:
        """Whether a state is computed from all tokens, which cannot go back."""
        model = self._model.model
        return bool(lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))

    def shift(self, seq: int, begin: int, n: int) -> None:
        """Forget ``n`` tokens of a sequence from position ``begin`` on; those that follow move up to their place."""
        if begin < 0 or n < 0:  # which llama.cpp takes for all there are
            raise InvalidInput.of("shift", f"of {n} tokens from {begin} on", "at least 0")
        seq = check_token(seq, self.n_seq, "sequence")
        lib.llama_memory_seq_rm(self._ctx.memory, seq, begin, begin + n)
        lib.llama_memory_seq_add(self._ctx.memory, seq, begin + n, -1, -n)

    def fill(self, tokens: Ints, positions: Ints, sequences: Ints) -> None:
        """Decode tokens of which no output is wanted, as many as there are."""
        for i in range(0, len(tokens), BATCH):
            part = slice(i, i + BATCH)
            self._decode(tokens[part], positions[part], sequences[part], n_outputs=0, hidden=False)

    def draw(
        self,
        tokens: Ints,
        positions: Ints,
        sequences: Ints,
        samplers: Sequence[Sampler | None],
        predictor: Predictor,
        *,
        hidden: bool = False,
    ) -> Drawn:
        """Decode up to 512 tokens, the last of them outputs, and draw from each output that has a sampler.

        Raises:
            InvalidInput: more of either.
            ModelFailed: llama.cpp fails, or the context is full.
        """
        self._prepare(hidden, len(tokens), len(samplers))
        native = [None if sampler is None else sampler.native for sampler in samplers]
        batch = tokens, positions, sequences
        status, drawn, ends, errors = core.decode_and_draw(self.address, *batch, native, predictor.native)
        self._check(status)
        return Drawn(drawn, ends, errors)

    def decode(
        self, tokens: Ints, positions: Ints, sequences: Ints, *, hidden: bool
    ) -> tuple[Float32Array, Float32Array | None]:
        """Decode up to :attr:`n_outputs` tokens, all of them outputs.

        A token each of consecutive, ascending sequences is computed in one piece.

        Returns:
            logits [n, n_vocab] and, with ``hidden``, the states after the final norm [n, hidden_size]: views of
            llama.cpp's own buffers, good until the next decode.

        Raises:
            InvalidInput: more tokens.
            ModelFailed: llama.cpp fails, or the context is full.
        """
        n = len(tokens)
        self._decode(tokens, positions, sequences, n_outputs=n, hidden=hidden)
        logits = np.ctypeslib.as_array(lib.llama_get_logits(self._ctx.ctx), shape=(n, self.n_vocab))
        if not hidden:
            return logits, None
        return logits, np.ctypeslib.as_array(lib.llama_get_embeddings(self._ctx.ctx), shape=(n, self.hidden_size))

    def raw(self, logits: Float32Array) -> Float32Array:
        """What the heads read of all outputs of the last decode, which was one with ``hidden``.

        Mostly its logits [n, n_vocab] themselves; a copy of those before, where the architecture scales or caps them.
        """
        return self._raw.read(logits)

    def _decode(self, tokens: Ints, positions: Ints, sequences: Ints, *, n_outputs: int, hidden: bool) -> None:
        self._prepare(hidden, len(tokens), n_outputs)
        self._check(core.decode(self.address, tokens, positions, sequences, n_outputs))

    def _prepare(self, hidden: bool, n_tokens: int, n_outputs: int) -> None:
        if n_tokens > BATCH or n_outputs > self.n_outputs:  # for which llama.cpp ends the process
            raise InvalidInput.of("tokens, outputs", f"{n_tokens}, {n_outputs}", f"at most {BATCH}, {self.n_outputs}")
        check_fork(self._params.n_threads)
        self._remote.check()
        if hidden != self._hidden:
            lib.llama_set_embeddings(self._ctx.ctx, hidden)
            self._hidden = hidden
        self._raw.keep(hidden)

    @property
    def lost(self) -> str | None:
        """Which worker that has a part of the model was lost, and how; then nothing can be computed any more."""
        return self._remote.lost

    def _check(self, status: int) -> None:
        self._remote.settle(self._ctx.ctx)
        if status:
            reason = "the context is full" if status == 1 else f"llama_decode failed with status {status}"
            raise ModelFailed(f"{self.file.path}: {reason}", file=self.file.path)

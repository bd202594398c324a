"""Completions: the objects that ``llama_cpp.Llama`` gives, from a loop that looks at each token once.

llama_cpp's own loop detokenizes the whole answer for every token, exceeds ``max_tokens`` within a character, cuts at
the first stop of the list instead of the text, and waits for ever for the rest of a character that is none.
"""

from __future__ import annotations

import codecs
import math
import random
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp.llama_tokenizer import LlamaTokenizer

from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.sampling import MAX_SEED, check_bias, check_seed
from autodeco_gguf.model.stops import StoppedText, stop_texts
from autodeco_gguf.model.token_text import check_token

_NO_CHARACTER = "\ufffd".encode()


class Completion:
    """What one call of ``create_completion`` asks for, checked, and the loop that answers it."""

    def __init__(self, llama: llama_cpp.Llama, asked: Mapping[str, Any]) -> None:
        """Args: the model, and the arguments of ``create_completion``, all of them.

        Raises:
            InvalidInput: a stop or a bias that is none, a prompt that fills the context, or log-probabilities asked of
                a model that keeps no logits.
        """
        self._llama, self._asked = llama, asked
        self._model = llama._model  # noqa: SLF001  llama_cpp's, which has no other door to the vocabulary
        self._prompt = _prompt_tokens(llama, self._model, asked["prompt"], asked["suffix"])
        self._limit = self._room(asked["max_tokens"])
        self._top: int | None = asked["logprobs"]
        if self._top is not None and not llama._logits_all:  # noqa: SLF001
            raise InvalidInput("logprobs is not supported for models created with logits_all=False", key="logprobs")
        # an empty one is what chat templates give whose model has no end-of-sequence token
        stops = stop_texts([s for s in asked["stop"] or () if s != ""])
        self._text = StoppedText(stops, self._model.vocab, "ignore")
        self._processors: list[Callable[..., Any]] = list(asked["logits_processor"] or ())
        if asked["logit_bias"]:
            self._processors.append(_bias_processor(asked["logit_bias"], llama.n_vocab()))
        self._same = {
            "id": f"cmpl-{uuid.uuid4()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": llama.model_path if asked["model"] is None else asked["model"],
        }
        self._drawn: list[int] = []
        self._reason = "length"
        # where the tokens whose log-probabilities are told stand in the text
        self._offset = 0 if asked["echo"] and not asked["stream"] else len(asked["prompt"])
        self._measure = codecs.getincrementaldecoder("utf-8")("ignore")

    def _room(self, wanted: int | None) -> int:
        """How many tokens to draw at most."""
        n_ctx, n_prompt = int(self._llama.n_ctx()), len(self._prompt)
        if n_prompt >= n_ctx:
            raise InvalidInput(f"Requested tokens ({n_prompt}) exceed context window of {n_ctx}", key="prompt")
        if wanted is not None and (not isinstance(wanted, Real) or math.isnan(wanted)):
            raise InvalidInput.of("max_tokens", repr(wanted), "a number")
        return n_ctx - n_prompt if wanted is None or wanted <= 0 else min(wanted, n_ctx - n_prompt)

    def run(self, sampling: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Answer: with ``stream`` in chunks, else as a whole; ``sampling`` goes to ``generate``."""
        llama, stream, n_prompt = self._llama, self._asked["stream"], len(self._prompt)
        if llama.verbose:
            lib.llama_perf_context_reset(llama.ctx)
        seed = self._asked["seed"]
        seed = _following(int(llama._seed)) if seed is None else seed  # noqa: SLF001  llama_cpp's
        self._load_cached()  # a state has a seed, too
        llama.set_seed(seed)
        if stream:
            for text, begin, end in self._parts(sampling):
                yield self._object(text, self._logprobs(n_prompt + begin, n_prompt + end), None)
            yield self._object("", None, self._reason)
        else:
            text = "".join(text for text, _, _ in self._parts(sampling))
        if llama.verbose:
            lib.llama_perf_context_print(llama.ctx)
        self._cache_state()
        if not stream:
            yield self._whole(text)

    def _parts(self, sampling: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
        """Text as it becomes certain, and which of the drawn tokens it is from."""
        told = 0
        for token, piece in self._pieces(sampling):
            text = self._text.add(piece, token=token)
            if text or not piece:
                yield text, told, len(self._drawn)
                told = len(self._drawn)
            if self._text.stopped:
                self._reason = "stop"
                break
            if len(self._drawn) >= self._limit:
                break
        else:
            self._reason = "stop"  # the model's own end, or a stopping criterion
        text = self._text.rest()
        if text or told < len(self._drawn):
            yield text, told, len(self._drawn)

    def _pieces(self, sampling: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
        """The tokens up to the end-of-generation token, and what they show."""
        llama, text = self._llama, list(self._prompt)
        is_begin = len(self._asked["prompt"]) == 0
        is_own, part = isinstance(llama.tokenizer_, LlamaTokenizer), list[int]()
        for token in llama.generate(self._prompt, logits_processor=self._processors or None, **sampling):
            if lib.llama_vocab_is_eog(self._model.vocab, token):
                return
            part.append(token)
            piece = llama.detokenize(part, prev_tokens=text)
            self._drawn.append(token)
            if is_own or not piece.endswith(_NO_CHARACTER):
                text += part
                part.clear()
            else:  # a part of a character, which others, as transformers', show as one that is none
                piece = b""
            if is_begin and piece:  # without the space that a tokenizer puts before the first word
                piece, is_begin = piece.removeprefix(b" "), False
            yield token, piece

    # ---- llama_cpp's objects ----

    def _object(self, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {**self._same, "choices": [{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}]}

    def _whole(self, text: str) -> dict[str, Any]:
        prompt, n_prompt, n_drawn = self._asked["prompt"], len(self._prompt), len(self._drawn)
        echo = self._asked["echo"]
        if echo:
            text = (prompt if isinstance(prompt, str) else _shown(self._llama.detokenize(self._prompt))) + text
        logprobs = self._logprobs(0 if echo else n_prompt, n_prompt + n_drawn)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_drawn, "total_tokens": n_prompt + n_drawn}
        return {**self._object(text, logprobs, self._reason), "usage": usage}

    def _logprobs(self, begin: int, end: int) -> dict[str, Any] | None:
        """What the model itself thinks of the tokens [begin, end) of prompt and answer; asked for in their order."""
        if self._top is None:
            return None
        llama, tokens = self._llama, [*self._prompt, *self._drawn]
        found: dict[str, Any] = {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
        for i in range(begin, end):
            piece = llama.detokenize([tokens[i]], prev_tokens=tokens[:i])
            if tokens[i] != llama.token_bos():
                first = begin == 0 and not found["tokens"]  # which in OpenAI's interface has no numbers
                logprob, top = (None, None) if first else self._numbers(i, tokens[i])
                for key, value in zip(found, (_shown(piece), self._offset, logprob, top), strict=True):
                    found[key].append(value)
            self._offset += len(self._measure.decode(piece))
        return found

    def _numbers(self, i: int, token: int) -> tuple[Any, dict[str, Any]]:
        """The log-probability of token i of the text, and of the most likely ones in its place."""
        row = self._llama.logits_to_logprobs(self._llama.scores[i - 1])
        values = row.tolist() if self._asked["stream"] else row  # as llama_cpp has them
        n = min(self._top or 0, len(row))
        likely = np.flatnonzero(row >= np.partition(row, -n)[-n]) if n else np.empty(0, int)
        best = sorted(likely.tolist(), key=lambda j: (row[j], j), reverse=True)[:n]
        return values[token], {_shown(self._llama.detokenize([j])): values[j] for j in (*best, token)}

    # ---- a cache of states ----

    def _load_cached(self) -> None:
        llama = self._llama
        if llama.cache is None:
            return
        try:
            state = llama.cache[self._prompt]
        except KeyError:
            return
        prefix = llama.longest_token_prefix
        if prefix(state.input_ids.tolist(), self._prompt) > prefix(llama.input_ids[: llama.n_tokens], self._prompt):
            with suppress(ModelFailed):  # of a context with other settings: as if there were none
                llama.load_state(state)

    def _cache_state(self) -> None:
        llama = self._llama
        if llama.cache is None:
            return
        try:
            llama.cache[[*self._prompt, *self._drawn]] = llama.save_state()
        except Exception as e:  # a full disk, or whatever a cache of the user's raises
            warnings.warn(f"the cache did not take the state of this answer: {e}", RuntimeWarning, stacklevel=2)


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "ignore")


def _following(seed: int) -> int:
    """The seed of a call that gives none: it follows from the model's, and is any where that is none."""
    return check_seed(None) if seed & MAX_SEED == MAX_SEED else random.Random(seed).randint(0, 2**32)


def _prompt_tokens(llama: llama_cpp.Llama, model: Any, prompt: str | Sequence[int], suffix: str | None) -> list[int]:
    """A prompt's tokens, with the vocabulary's own at the ends of a text, and its marks around a gap to fill."""
    if isinstance(prompt, bytes | bytearray) or not isinstance(prompt, Iterable):  # the items of bytes would be tokens
        raise InvalidInput.of("prompt", f"of {type(prompt).__name__}", "a text or tokens")
    if not isinstance(suffix, str | None):
        raise InvalidInput.of("suffix", repr(suffix), "a text")
    if isinstance(prompt, str):
        tokens = llama.tokenize(prompt.encode("utf-8"), add_bos=False, special=suffix is None) if prompt else []
    else:
        tokens = [check_token(token, llama.n_vocab()) for token in prompt]
        if suffix is None:
            return tokens
    if suffix is not None:
        # llama_cpp has token 0 for all marks, here only where the vocabulary has none
        before, after, middle = (
            max(0, mark) for mark in (model.token_prefix(), model.token_suffix(), model.token_middle())
        )
        adds_space = llama.metadata.get("tokenizer.ggml.add_space_prefix", "true") == "true"
        spm = lib.llama_vocab_type(model.vocab) == lib.LLAMA_VOCAB_TYPE_SPM  # no others put a space before a text
        first = "\u263a" * (bool(suffix) and adds_space and spm)  # gets the space, and goes with it
        gone, end = (llama.tokenize(text.encode(), add_bos=False, special=False) for text in (first, first + suffix))
        parts = [before, *tokens], [after, *end[len(gone) :]]
        tokens = [*(parts[1] + parts[0] if llama.spm_infill else parts[0] + parts[1]), middle]
    bos, sep = model.token_bos(), model.token_sep()
    if model.add_bos_token() and bos != -1:
        tokens.insert(0, bos)
    if model.add_eos_token() or sep != -1:
        tokens.append(sep if sep != -1 else model.token_eos())
    if tokens[:2] == [bos] * 2:
        warnings.warn(
            f'Detected duplicate leading "{model.token_get_text(bos)}" in prompt, this will likely reduce response '
            "quality, consider removing it...",
            RuntimeWarning,
            stacklevel=2,
        )
    return tokens


def _bias_processor(given: Mapping[Any, Any], n_vocab: int) -> Callable[..., Any]:
    """A logits processor that adds a bias to tokens, which JSON makes strings of."""
    if not isinstance(given, Mapping):
        raise InvalidInput.of("logit_bias", repr(given), "numbers by token")
    bias = {}
    for token, value in given.items():
        number = int(token) if isinstance(token, str) and token.removeprefix("-").isdecimal() else token
        try:
            amount = float(value)
        except (TypeError, ValueError) as e:
            raise InvalidInput.of(f"logit_bias of token {token}", repr(value), "a number") from e
        except OverflowError:
            amount = value
        check_bias(token, amount)
        bias[check_token(number, n_vocab, "logit_bias of token")] = amount

    def add(_: Any, scores: Float32Array) -> Float32Array:
        scores = scores.copy()
        with np.errstate(over="ignore"):  # -1e300 excludes a token
            scores[list(bias)] += np.fromiter(bias.values(), np.float32)
        return scores

    return add

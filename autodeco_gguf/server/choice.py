"""One answer as it grows: its text, and which tokens that text is of."""

from __future__ import annotations

import codecs
import time
from collections import deque
from dataclasses import dataclass, replace

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Piece, Result
from autodeco_gguf.model.token_text import text_bytes, token_bytes
from autodeco_gguf.model.trace import TraceToken
from autodeco_gguf.server.tools import CallFinder, Calls


class Words:
    """The text of tokens as an answer shows them."""

    def __init__(self, engine: Engine) -> None:
        """Of an engine's vocabulary: of all of it, where the model is closed when a worker is lost.

        Answers that were drawn are read and written down then as ever.
        """
        self._context = engine.context
        self._shown: dict[int, bytes] = {}
        self._pieces: dict[int, bytes] = {}
        if engine.machine.rpc:
            engine.context.using(self._read_all)

    def _read_all(self) -> None:
        vocab = self._context.vocab
        for token in range(self._context.n_vocab):
            self._pieces[token] = piece = token_bytes(vocab, token)
            shown = text_bytes(vocab, token)
            self._shown[token] = piece if shown == piece else shown  # the same object, of which there are many

    def shown(self, token: int) -> bytes:
        """The bytes of a token; none of one that ends an answer, or is a control token."""
        if token not in self._shown:
            ends = self._context.is_eog(token)
            self._shown[token] = b"" if ends else self._context.token_bytes(token, special=False)
        return self._shown[token]

    def piece(self, token: int) -> bytes:
        """The bytes of a token, the name of a control token included."""
        if token not in self._pieces:
            self._pieces[token] = self._context.token_bytes(token)
        return self._pieces[token]


class _Sizes:
    """How many bytes of tokens each character of their text is: U+FFFD may stand for one to three that are none."""

    def __init__(self) -> None:
        self._decoder, self._sizes = codecs.getincrementaldecoder("utf-8")("replace"), deque[int]()

    def add(self, piece: bytes) -> None:
        """Take the bytes of a token."""
        if piece.isascii() and not self._n_held():  # most are, and this is several times as fast
            self._sizes += [1] * len(piece)
            return
        for i in range(len(piece)):
            n = self._n_held() + 1
            found = self._decoder.decode(piece[i : i + 1])
            n -= self._n_held()
            if found:  # several where this byte shows that those before are none
                self._sizes += [n - len(found) + 1, *[1] * (len(found) - 1)]

    def take(self, n: int) -> int:
        """The bytes of the next n characters, of which the last may be half of one with which the text ends."""
        known = min(n, len(self._sizes))
        return sum(self._sizes.popleft() for _ in range(known)) + (self._n_held() if n > known else 0)

    def _n_held(self) -> int:
        return len(self._decoder.getstate()[0])


@dataclass(frozen=True)
class Said:
    """A token of an answer.

    Attributes:
        token: what was drawn.
        text: what became certain with it.
        shown: its own bytes as far as they are part of the answer; None where none of it is, as of what ends it.
    """

    token: TraceToken
    text: str
    shown: bytes | None


@dataclass(frozen=True)
class Delta:
    """What is new of an answer: text, calls of tools, the tokens that they are of, and how many calls came before."""

    text: str
    calls: Calls
    tokens: list[Said]
    n_earlier: int = 0

    def __bool__(self) -> bool:
        return bool(self.text or self.calls or self.tokens)


class Choice:
    """An answer.

    Attributes:
        index: its place.
        text: so far, without calls of tools.
        calls: of tools.
        tokens: all whose place in the text is known; none where they are not kept.
        first_ns: when the first token came, by the monotonic clock; 0 where it is not known.
        result: at the end.
    """

    def __init__(self, index: int, words: Words, calls: CallFinder | None = None, keeps: bool = True) -> None:
        """Begin one; ``calls`` finds calls of tools in it, ``keeps``: its tokens are wanted once more."""
        self.index, self._words, self._finder, self._keeps = index, words, calls, keeps
        self.text, self.calls, self.tokens = "", Calls(), list[Said]()
        self.result: Result | None = None
        self.first_ns = 0
        self._waiting: deque[tuple[Piece, bytes]] = deque()  # tokens whose text is not certain yet
        self._sizes = _Sizes()
        self._released = self._begin = 0  # bytes of the text, and of it before the first token that waits

    @property
    def n_tokens(self) -> int:
        """Tokens drawn, that which ended it included."""
        assert self.result is not None
        return len(self.result.trace)

    @property
    def finish_reason(self) -> str:
        """As OpenAI's API has it: whoever gets "tool_calls" may take the last call for whole."""
        assert self.result is not None
        reason = self.result.finish_reason
        return "tool_calls" if self.calls and reason == "stop" else reason

    def add(self, piece: Piece) -> Delta:
        """Take a token."""
        self.first_ns = self.first_ns or time.monotonic_ns()
        shown = self._words.shown(piece.token.id)
        self._waiting.append((piece, shown))
        self._sizes.add(shown)
        self._released += self._sizes.take(len(piece.text))
        tokens = []
        while self._waiting and self._begin + len(self._waiting[0][1]) <= self._released:
            tokens.append(self._take())
        return self._said(piece.text, tokens)

    def end(self, result: Result) -> Delta:
        """Take the end. What still waits is of a stop, or ended the answer."""
        self.result = result
        if not self.first_ns:  # tokens were not asked for
            return self._end(self._said(result.text, []))
        tokens = []
        while self._waiting:
            tokens.append(self._take())
        return self._end(self._said("", tokens))

    def _end(self, delta: Delta) -> Delta:
        if self._finder is not None:
            rest = self._finder.rest()
            self.text += rest
            delta = replace(delta, text=delta.text + rest)
        return delta

    def _take(self) -> Said:
        piece, shown = self._waiting.popleft()
        n = max(0, min(len(shown), self._released - self._begin))
        self._begin += len(shown)
        return Said(piece.token, piece.text, shown[:n] or None)

    def _said(self, text: str, tokens: list[Said]) -> Delta:
        calls = Calls()
        if self._finder is not None:
            text, calls = self._finder.add(text)
        delta = Delta(text, calls, tokens, len(self.calls))
        self.text += text
        self.calls += calls
        if self._keeps:
            self.tokens += tokens
        return delta

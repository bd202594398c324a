"""Where an answer ends before the model ends it: at texts, and at the names of control tokens."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.token_text import token_bytes

MAX_STOPS, MAX_STOPS_LENGTH = 256, 16_384

_CONTROL = 256
"""A control token in a stream of bytes: this and its id."""


def stop_tuple(stop: object) -> tuple[Any, ...]:
    """What is given as stops, not looked at yet: one text alone, any iterable (read once), or None for none."""
    if stop is None:
        return ()
    return tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str | bytes) else (stop,)


def stop_texts(stop: object) -> tuple[str, ...]:
    """The stops in what :func:`stop_tuple` takes.

    Raises:
        InvalidInput: one that is empty, no ``str``, or not to be written as UTF-8; too many of them.
    """
    stops = stop_tuple(stop)
    size = sum(len(text) for text in stops if isinstance(text, str))
    if len(stops) > MAX_STOPS or size > MAX_STOPS_LENGTH:  # each is looked for at every token
        found, most = f"{len(stops)} texts of {size} characters", f"at most {MAX_STOPS} of {MAX_STOPS_LENGTH} in all"
        raise InvalidInput.of("stop", found, most)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise InvalidInput.of("stop", repr(text), "a text that is not empty, or several")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise InvalidInput(f"stop {text!r} is not UTF-8: {e.reason}", key="stop") from e
    return stops


class StopFinder:
    """Cuts the text of an answer, as it grows, before the first stop.

    A stop is found in the text as it is shown, whichever tokens it comes from. One that has names of control tokens
    in it, as "<|im_end|>" or "<|im_end|>\\n", is also found where those tokens are drawn, which show nothing. Of
    several that end with the same token the one that begins first cuts; those that begin together cut alike.

    What may be the beginning of a stop is held back until more is known. A byte takes the same time wherever it stands.

    Attributes:
        stopped: a stop was found: there is no more text.

    Examples:
        >>> finder = StopFinder(["\\nUser:", "END"])
        >>> [finder.add(piece) for piece in (b"Yes.", b"\\nUs", b"ual\\n", b"User: why")]
        [b'Yes.', b'', b'\\nUsual', b'']
        >>> finder.stopped
        True
    """

    def __init__(self, stops: Sequence[str], vocab: Any = None) -> None:
        """Look for stops (of :func:`stop_texts`); ``vocab``, a ``llama_vocab``, knows the names of control tokens."""
        texts = [stop.encode("utf-8") for stop in stops]
        named = [elements for text in texts if vocab is not None and (elements := _elements(text, vocab))]
        self._matchers = [_Matcher(stop) for stop in (*texts, *named)]
        self._held = b""
        self.stopped = False

    def add(self, piece: bytes, token: int = 0) -> bytes:
        """The text that is certain with the next token: ``piece`` is what it shows, nothing for a control token."""
        if self.stopped:
            return b""
        text = self._held + piece
        elements = piece or (_CONTROL + token,)
        found = [begin for m in self._matchers if (begin := m.find(elements, len(self._held))) is not None]
        self.stopped = bool(found)
        end = min(found) if found else len(text) - max((m.held for m in self._matchers), default=0)
        self._held = b"" if found else text[end:]
        return text[:end]

    def rest(self) -> bytes:
        """What is held back, once it is known that there are no more tokens."""
        rest, self._held = self._held, b""
        return rest


class StoppedText:
    """The text of an answer as it grows: decoded, and cut before the first stop."""

    def __init__(self, stops: Sequence[str], vocab: Any = None, errors: str = "replace") -> None:
        """As :class:`StopFinder`; ``errors`` says what becomes of bytes that are no UTF-8."""
        self._finder = StopFinder(stops, vocab)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    @property
    def stopped(self) -> bool:
        """Whether a stop was found."""
        return self._finder.stopped

    def add(self, piece: bytes, final: bool = False, token: int = 0) -> str:
        """The text that is certain with a token's piece; ``token`` tells control tokens apart, whose piece is empty."""
        text = self._decoder.decode(piece)
        # what the finder is given, and what it gives, are whole characters
        found = "" if piece and not text else self._finder.add(text.encode("utf-8"), token).decode("utf-8")
        return found + self.rest() if final else found

    def rest(self) -> str:
        """What is held back, once it is known that there are no more tokens."""
        text = self._decoder.decode(b"", True)
        found = self._finder.add(text.encode("utf-8")) if text else b""
        return (found + self._finder.rest()).decode("utf-8")


class _Matcher:
    """Finds one stop in what it is given bit by bit (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stop: Sequence[int]) -> None:
        self._stop, self._n = stop, 0  # how much of it is there
        self._shown = [0]  # bytes among the first n of the stop
        self._back = [0, 0]  # where to go on if what follows the first n does not come
        n = 0
        for i, element in enumerate(stop):
            self._shown.append(self._shown[-1] + (element < _CONTROL))
            if i:
                while n and stop[n] != element:
                    n = self._back[n]
                n += stop[n] == element
                self._back.append(n)
        self._named = self._shown[-1] < len(stop)

    @property
    def held(self) -> int:
        """Bytes at the end of the text that may be the beginning of the stop."""
        return self._shown[self._n]

    def find(self, elements: Sequence[int], offset: int) -> int | None:
        """Where the stop begins in the text, of which ``offset`` bytes came before; None while it is not all there."""
        stop, back, n = self._stop, self._back, self._n
        for element in elements:
            if element < _CONTROL:
                offset += 1
            elif not self._named:
                continue  # shows nothing
            while n and stop[n] != element:
                n = back[n]
            if stop[n] == element:
                n += 1
                if n == len(stop):
                    return offset - self._shown[n]
        self._n = n
        return None


def _elements(stop: bytes, vocab: Any) -> list[int]:
    """A stop with control tokens in the place of their names; empty where it has none."""
    elements: list[int] = []
    begin = 0
    for token in core.vocab_tokenize(vocab, stop, add_special=False, parse_special=True):
        name = token_bytes(vocab, token)
        at = stop.find(name, begin)
        if name and at >= 0 and not token_bytes(vocab, token, special=False):
            elements += [*stop[begin:at], _CONTROL + token]
            begin = at + len(name)
    return [*elements, *stop[begin:]] if elements else []

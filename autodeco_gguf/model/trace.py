"""What a generation did, token by token."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.trace_html import marked

if TYPE_CHECKING:
    from autodeco_gguf._native import core

_SHOWN = 60
"""Characters of a text in a repr."""


@dataclass(frozen=True)
class TraceToken:
    """One drawn token.

    Attributes:
        id: token id.
        text: its text piece; bytes, since a piece may end within a UTF-8 character.
        temperature: the T it was drawn with, predicted or fixed.
        top_p: the P it was drawn with.
        entropy: of softmax(raw logits), in nats: how unsure the model was before anything was applied.
        nucleus: tokens left after the cut.
        prob: probability with which it was drawn, among those left.
    """

    id: int
    text: bytes
    temperature: float
    top_p: float
    entropy: float
    nucleus: int
    prob: float


def shortened(text: str) -> str:
    """The repr of a text's beginning."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


class Rows(list[tuple[int, float, float, float, int, float]]):
    """What ``core.Records`` holds, in Python: any thread may read it while it grows, and it can be pickled."""

    def record(self, i: int) -> tuple[int, float, float, float, int, float]:
        """Token, temperature, top-p, entropy, nucleus, probability."""
        return self[i]

    def ids(self) -> list[int]:
        """The token ids."""
        return [row[0] for row in self]

    def parameters(self) -> npt.NDArray[np.float32]:
        """Temperatures and top-p, [2, n]."""
        return np.array([row[1:3] for row in self], np.float32).reshape(-1, 2).T


class Trace(Sequence[TraceToken]):
    """The tokens of one generation; grows while it runs. A copy, pickled or not, does not grow.

    Examples:
        >>> rows = Rows([(5, 0.25, 1.0, 2.0, 9, 0.5), (7, 1.5, 0.75, 2.0, 3, 0.5)])
        >>> Trace(rows, {5: b"Once", 7: b" upon"}.__getitem__)
        <Trace: 2 tokens, T 0.25 to 1.50, P 0.75 to 1.00, 'Once upon'>
    """

    def __init__(
        self, records: core.Records | Rows | None = None, text: Callable[[int], bytes] = lambda _: b""
    ) -> None:
        """Read the native sampler's records, with the text pieces of their tokens; without any, an empty trace."""
        self._records = Rows() if records is None else records
        self._text = text

    def __len__(self) -> int:
        return len(self._records)

    @property
    def ids(self) -> list[int]:
        """The token ids."""
        return self._records.ids()

    @property
    def parameters(self) -> npt.NDArray[np.float32]:
        """What the tokens were drawn with: temperatures and top-p, [2, n]."""
        return self._records.parameters()

    @overload
    def __getitem__(self, index: int) -> TraceToken: ...
    @overload
    def __getitem__(self, index: slice) -> list[TraceToken]: ...
    def __getitem__(self, index: int | slice) -> TraceToken | list[TraceToken]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"token {index} of a trace of {len(self)}")
        id_, temperature, top_p, entropy, nucleus, prob = self._records.record(position)
        return TraceToken(id_, self._text(id_), temperature, top_p, entropy, nucleus, prob)

    def __repr__(self) -> str:
        n = len(self)
        about = f"{n} token{'s' * (n != 1)}"
        if n:
            (t0, p0), (t1, p1) = self.parameters.min(1), self.parameters.max(1)
            text = b"".join(self._text(id_) for id_ in self.ids).decode("utf-8", "replace")
            about += f", T {t0:.2f} to {t1:.2f}, P {p0:.2f} to {p1:.2f}, {shortened(text)}"
        return f"<Trace: {about}>"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self, by: str = "temperature") -> str:
        """The text as HTML, each token coloured ``by`` "temperature" or "top_p"; who points at one sees its values.

        A fragment without scripts, which notebooks show by themselves; ``autodeco-gguf view`` makes pages with charts.

        Raises:
            InvalidInput: ``by`` is something else.
        """
        top = {"temperature": 2.0, "top_p": 1.0}.get(by)
        if top is None:
            raise InvalidInput.of("by", repr(by), '"temperature" or "top_p"')
        tokens = list(self)
        pieces = [(text, getattr(t, by) / top, _values(t)) for t, text in zip(tokens, _texts(tokens), strict=True)]
        return marked(pieces, repr(self).strip("<>"))

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``: a row for each token, a column for each attribute of TraceToken.

        ``text`` is what is certain with the token: a character that two of them share stands at the second.

        Raises:
            AutoDecoError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as e:
            raise AutoDecoError("to_pandas needs pandas; pip install pandas", key="pandas") from e
        tokens = list(self)
        rows = [vars(token) | {"text": text} for token, text in zip(tokens, _texts(tokens), strict=True)]
        return pandas.DataFrame(rows, columns=[field.name for field in fields(TraceToken)])

    def __reduce__(self) -> tuple[Any, ...]:
        rows = Rows(self._records.record(i) for i in range(len(self)))
        return _kept, (rows, {id_: self._text(id_) for id_ in set(rows.ids())})


def _texts(tokens: Sequence[TraceToken]) -> list[str]:
    """The text that is certain with each of them; at the last one what is left."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    return [decode(token.text, token is tokens[-1]) for token in tokens]


def _values(token: TraceToken) -> str:
    entropy = "" if np.isnan(token.entropy) else f", entropy {token.entropy:.3f} nats"
    shown = f"T {token.temperature:.3f}, P {token.top_p:.3f}{entropy}"
    return f"{shown}, nucleus {token.nucleus}, probability {token.prob:.3f}"


def _kept(rows: Rows, texts: dict[int, bytes]) -> Trace:
    return Trace(rows, texts.__getitem__)

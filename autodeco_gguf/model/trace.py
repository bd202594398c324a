"""What a generation did, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

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

    def __reduce__(self) -> tuple[Any, ...]:
        rows = Rows(self._records.record(i) for i in range(len(self)))
        return _kept, (rows, {id_: self._text(id_) for id_ in set(rows.ids())})


def _kept(rows: Rows, texts: dict[int, bytes]) -> Trace:
    return Trace(rows, texts.__getitem__)

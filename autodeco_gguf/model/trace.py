"""What a generation did, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from autodeco_gguf._native import core


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


class Trace(Sequence[TraceToken]):
    """The tokens of one generation; grows while it runs."""

    def __init__(self, records: core.Records | None = None, text: Callable[[int], bytes] = lambda _: b"") -> None:
        """Read the native sampler's records, with the text pieces of their tokens; without any, an empty trace."""
        self._records = records
        self._text = text

    def __len__(self) -> int:
        return len(self._records) if self._records is not None else 0

    @property
    def ids(self) -> list[int]:
        """The token ids."""
        return self._records.ids() if self._records is not None else []

    @property
    def parameters(self) -> npt.NDArray[np.float32]:
        """What the tokens were drawn with: temperatures and top-p, [2, n]."""
        return self._records.parameters() if self._records is not None else np.empty((2, 0), np.float32)

    @overload
    def __getitem__(self, index: int) -> TraceToken: ...
    @overload
    def __getitem__(self, index: slice) -> list[TraceToken]: ...
    def __getitem__(self, index: int | slice) -> TraceToken | list[TraceToken]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if self._records is None or not 0 <= position < len(self):
            raise IndexError(f"token {index} of a trace of {len(self)}")
        id_, temperature, top_p, entropy, nucleus, prob = self._records.record(position)
        return TraceToken(id_, self._text(id_), temperature, top_p, entropy, nucleus, prob)

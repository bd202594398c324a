"""What a generation did, token by token."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import AutoDecoError, InvalidInput

if TYPE_CHECKING:
    from autodeco_gguf._native import core

_SHOWN = 60
"""Characters of a text in a repr."""


Likelihood = tuple[float, tuple[tuple[int, float, float], ...]]
"""A token's log-probability, and the most likely ones: id, log-probability, probability as drawn."""


@dataclass(frozen=True)
class Alternative:
    """A token that the model thought likely at a place.

    Attributes:
        id: token id.
        text: its text piece; bytes, since a piece may end within a UTF-8 character.
        logprob: log of softmax(raw logits), in nats, before penalties, biases and grammar.
        prob: probability with which it would have been drawn, after all of these, T and the cuts; 0 where one of them
            excluded it, NaN in a prompt, where nothing is drawn.
    """

    id: int
    text: bytes
    logprob: float
    prob: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is no UTF-8 as U+FFFD."""
        return _finite(vars(self) | {"text": self.text.decode("utf-8", "replace")})


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt.

    Attributes:
        id: token id.
        text: its text piece, bytes.
        logprob: log of softmax(raw logits) after the tokens before it; None for the first.
        alternatives: the tokens most likely there, the likeliest first, as many as were asked for.
    """

    id: int
    text: bytes
    logprob: float | None
    alternatives: tuple[Alternative, ...] = ()


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
        logprob: log of softmax(raw logits), in nats, before penalties, biases and grammar; NaN where it was not asked
            for.
        alternatives: the most likely by the raw distribution, the likeliest first and of equal ones the lower id, as
            many as were asked for; none with a logit of -inf.
    """

    id: int
    text: bytes
    temperature: float
    top_p: float
    entropy: float
    nucleus: int
    prob: float
    logprob: float = field(default=math.nan, compare=False)  # NaN equals nothing
    alternatives: tuple[Alternative, ...] = ()

    def to_dict(self, text: str) -> dict[str, Any]:
        """As JSON has it, without what was not asked for.

        Args:
            text: what became certain with the token; its own piece may end within a character.
        """
        fields = _finite(vars(self) | {"text": text})
        del fields["alternatives"]
        if self.alternatives:
            fields["alternatives"] = [alternative.to_dict() for alternative in self.alternatives]
        return fields


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Without NaN and infinities, which JSON does not have."""
    return {name: x for name, x in fields.items() if not isinstance(x, float) or math.isfinite(x)}


def alternatives(likelihood: Likelihood, text: Callable[[int], bytes]) -> tuple[Alternative, ...]:
    """With their texts."""
    return tuple(Alternative(id_, text(id_), logprob, prob) for id_, logprob, prob in likelihood[1])


def shortened(text: str) -> str:
    """The repr of a text's beginning."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


Row = tuple[int, float, float, float, int, float]
"""Token, temperature, top-p, entropy, nucleus, probability."""


class Rows(list[Row]):
    """What ``core.Records`` holds, in Python: any thread may read it while it grows, and it can be pickled.

    Attributes:
        likelihoods: of each row, where they were asked for; put there before the row.
    """

    def __init__(self, rows: Iterable[Row] = (), likelihoods: Iterable[Likelihood] = ()) -> None:
        super().__init__(rows)
        self.likelihoods = list(likelihoods)

    def record(self, i: int) -> Row:
        """A row."""
        return self[i]

    def likelihood(self, i: int) -> Likelihood | None:
        """That of a row, None where it was not asked for."""
        return self.likelihoods[i] if i < len(self.likelihoods) else None

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
        token = id_, self._text(id_), temperature, top_p, entropy, nucleus, prob
        likelihood = self._records.likelihood(position)
        if likelihood is None:
            return TraceToken(*token)
        return TraceToken(*token, likelihood[0], alternatives(likelihood, self._text))

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
        pieces = [(text, getattr(t, by) / top, _values(t)) for t, text in zip(tokens, texts(tokens), strict=True)]
        from autodeco_gguf.model.trace_html import marked

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
        rows = [vars(token) | {"text": text} for token, text in zip(tokens, texts(tokens), strict=True)]
        return pandas.DataFrame(rows, columns=[attribute.name for attribute in fields(TraceToken)])

    def __reduce__(self) -> tuple[Any, ...]:
        rows = Rows(self._records.record(i) for i in range(len(self)))
        found = (self._records.likelihood(i) for i in range(len(rows)))
        rows.likelihoods.extend(likelihood for likelihood in found if likelihood is not None)
        ids = {*rows.ids(), *(id_ for _, others in rows.likelihoods for id_, _, _ in others)}
        return _kept, (rows, {id_: self._text(id_) for id_ in ids})


def texts(tokens: Sequence[TraceToken], shown: int | None = None) -> list[str]:
    """The text that is certain with each of them; at the last of the first ``shown`` what is left, and then none."""
    decode, n = codecs.getincrementaldecoder("utf-8")("replace").decode, len(tokens) if shown is None else shown
    return [decode(token.text, i == n - 1) if i < n else "" for i, token in enumerate(tokens)]


def _values(token: TraceToken) -> str:
    entropy = "" if math.isnan(token.entropy) else f", entropy {token.entropy:.3f} nats"
    shown = f"T {token.temperature:.3f}, P {token.top_p:.3f}{entropy}"
    prob = "<0.001" if 0 < token.prob < 0.0005 else f"{token.prob:.3f}"
    return f"{shown}, nucleus {token.nucleus}, probability {prob}"


def _kept(rows: Rows, texts: dict[int, bytes]) -> Trace:
    return Trace(rows, texts.__getitem__)

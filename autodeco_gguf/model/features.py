"""Hidden states and logits of the positions that are predicted, streamed from llama.cpp."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.context import SHARED, Context

Tokens = npt.NDArray[np.int32]
"""Token ids of one sequence; one that is predicted stands as its complement ``~id``."""


@dataclass(frozen=True)
class Features:
    """Some of the predicted positions of a batch: rows of llama.cpp's buffers, good until the next are asked for."""

    sequence: npt.NDArray[np.int64]  # [n] which one of the batch
    target: npt.NDArray[np.int64]  # [n] the token that follows
    hidden: Float32Array  # [n, hidden_size] after the final norm
    logits: Float32Array  # [n, n_vocab] what is drawn from
    raw: Float32Array | None = None  # [n, n_vocab] what the heads read, where the architecture scales or caps it

    def __len__(self) -> int:
        return len(self.target)

    @property
    def read(self) -> Float32Array:
        """The logits that the heads read."""
        return self.logits if self.raw is None else self.raw

    def __getitem__(self, part: slice) -> Features:
        """Some of them, in the same buffers."""
        return self._each(lambda array: array[part])

    def copy(self) -> Features:
        """The same in buffers of their own."""
        return self._each(np.ndarray.copy)

    def _each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Features:
        return Features(*(None if array is None else change(array) for array in vars(self).values()))  # type: ignore[arg-type]


def together(stream: Iterable[Features], floats: int) -> Iterator[Features]:
    """The same positions with about so many logits at a time: joined where there are less, parted where more."""
    held: list[Features] = []
    for features in stream:
        rows = max(1, floats // features.logits.shape[1])
        if len(features) >= rows:
            yield from (features[i : i + rows] for i in range(0, len(features), rows))
            continue
        held.append(features.copy())
        if sum(map(len, held)) >= rows:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(parts: Sequence[Features]) -> Features:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Features(*(None if column[0] is None else np.concatenate(column) for column in columns))  # type: ignore[arg-type]


def stream(context: Context, batch: Sequence[Tokens]) -> Iterator[Features]:
    """The features of every predicted position of some sequences, at most ``context.n_outputs`` at a time.

    As many sequences are decoded together as the context holds. Only predicted positions are outputs of llama.cpp; the
    rest of a text costs no row of logits. What several of them begin with before anything is predicted, as the answers
    to one problem do, or one question with several commands, is decoded once.
    """
    for first in range(0, len(batch), context.n_seq):
        context.clear()
        yield from _together(context, batch[first : first + context.n_seq], first)


def _together(context: Context, sequences: Sequence[Tokens], first: int) -> Iterator[Features]:
    """Alternate between what is only read and what is predicted, for all sequences at once."""
    places = [segments(s) for s in sequences]
    _read_prompts(context, [tokens[: ranges[0][1]] for tokens, ranges in zip(sequences, places, strict=True)])
    for step in range(1, max(map(len, places))):
        rows = [(seq, *ranges[step]) for seq, ranges in enumerate(places) if step < len(ranges)]
        seq = np.concatenate([np.full(end - begin, s) for s, begin, end in rows])
        pos = np.concatenate([np.arange(begin, end) for _, begin, end in rows])
        signed = np.concatenate([sequences[s][begin:end] for s, begin, end in rows])
        ids = np.where(signed < 0, ~signed, signed)
        if step % 2 == 0:
            context.fill(ids, pos, seq)
            continue
        target = np.concatenate([~sequences[s][begin + 1 : end + 1] for s, begin, end in rows]).astype(np.int64)
        for i in range(0, len(ids), context.n_outputs):
            part = slice(i, i + context.n_outputs)
            logits, hidden = context.decode(ids[part], pos[part], seq[part], hidden=True)
            assert hidden is not None
            raw = context.raw(logits)
            yield Features(first + seq[part], target[part], hidden, logits, None if raw is logits else raw)


def _read_prompts(context: Context, prompts: Sequence[Tokens]) -> None:
    """Decode what every sequence begins with; what several have in common once, down the tree that they are."""
    groups = [([*range(len(prompts))], 0)]  # sequences that agree, and how much of each is decoded
    while groups:
        read, deeper = list[tuple[list[int], int, int]](), list[tuple[list[int], int]]()
        for members, begin in groups:
            agree = _agree([prompts[seq] for seq in members])
            ends = any(len(prompts[seq]) == agree for seq in members)
            end = agree if ends or agree - begin >= SHARED else begin
            if begin < end:
                read.append((members, begin, end))
            branches: dict[int, list[int]] = {}
            for seq in members:
                if agree < len(prompts[seq]):
                    branches.setdefault(int(prompts[seq][agree]), []).append(seq)
            deeper += [(branch, end) for branch in branches.values()]
        _fill_first(context, prompts, read)
        groups = deeper


def _agree(prompts: Sequence[Tokens]) -> int:
    """How many tokens all begin with."""
    n = min(map(len, prompts))
    differ = np.flatnonzero((np.stack([prompt[:n] for prompt in prompts]) != prompts[0][:n]).any(axis=0))
    return int(differ[0]) if len(differ) else n


def _fill_first(context: Context, prompts: Sequence[Tokens], groups: Sequence[tuple[list[int], int, int]]) -> None:
    """Decode tokens [begin, end) of the first sequence of each group, which the others then begin with."""
    if not groups:
        return
    ids = np.concatenate([prompts[members[0]][begin:end] for members, begin, end in groups])
    pos = np.concatenate([np.arange(begin, end) for _, begin, end in groups])
    context.fill(
        ids, pos, np.repeat([members[0] for members, _, _ in groups], [end - begin for _, begin, end in groups])
    )
    for (first, *others), _, _ in groups:
        for other in others:
            context.copy(first, other)


def segments(tokens: Tokens) -> list[tuple[int, int]]:
    """Ranges of positions, in turn only read and predicted from; the last token is neither."""
    predicts = (tokens[1:] < 0).astype(np.int8)
    edges = np.flatnonzero(np.diff(predicts, prepend=np.int8(0))).tolist()
    return list(itertools.pairwise([0, *edges, len(predicts)]))

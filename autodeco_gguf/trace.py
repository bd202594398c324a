"""What a generation did, token by token."""

from __future__ import annotations

from dataclasses import dataclass


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

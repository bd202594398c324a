"""One step after another for the heads that are trained, whatever the gradient is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch

from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.heads.format import HEAD_PREFIX
from autodeco_gguf.training.module import HeadsModule


class HeadsOptimizer:
    """AdamW on the parameters of some heads, with a gradient of a norm of ``clip`` at most."""

    def __init__(
        self,
        module: HeadsModule,
        heads: Collection[str],
        *,
        lr: float,
        weight_decay: float,
        clip: float,
        beta_2: float = 0.999,
    ) -> None:
        """Take a module, of which the ``heads`` of "temperature" and "top_p" are trained, and the others stay."""
        trained = tuple(HEAD_PREFIX[head] for head in heads)
        self._parameters = [p for name, p in module.named_parameters() if name.startswith(trained)]
        self._adamw = torch.optim.AdamW(self._parameters, lr=lr, betas=(0.9, beta_2), weight_decay=weight_decay)
        self._clip = clip

    def step(self, what: str, lr: float, backward: Callable[[], None]) -> float:
        """A step along the gradient that ``backward`` adds up, with this learning rate; the norm of the gradient.

        Raises:
            ModelFailed: it is not finite; ``what`` begins the message, and nothing is changed.
        """
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.zero_grad()
        backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip))
        if not math.isfinite(norm):
            raise ModelFailed(f"{what}: the gradient is not finite; lower --lr", key="lr", found=norm)
        self._adamw.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What a training goes on from."""
        state: dict[str, Any] = self._adamw.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; raises what torch raises for a state of another kind."""
        self._adamw.load_state_dict(state)

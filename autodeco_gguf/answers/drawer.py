"""What draws answers: a model in this process, or many of them on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.model.machine import Machine


class Drawer(Protocol):
    """What :class:`autodeco_gguf.engine.engine.Engine` has of this, and means by it."""

    @property
    def n_ctx(self) -> int:
        """Tokens of an answer, its prompt included."""

    @property
    def heads(self) -> frozenset[str]:
        """The heads that predict."""

    @property
    def fingerprint(self) -> str:
        """Of the base model and the heads."""

    @property
    def machine(self) -> Machine:
        """What it runs on, cache and flash attention chosen."""

    @property
    def heads_file(self) -> Path | None:
        """The file that the heads are from, None where they are the model's own."""

    @property
    def model_name(self) -> str:
        """Name of the model's file."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the model's GGUF."""

    @property
    def draws_on(self) -> bool:
        """Whether it goes on while nobody waits, as while an answer is graded."""

    def render(self, message: str) -> str:
        """A user's message as the model expects it."""

    def prompts(self, messages: Iterable[str]) -> Iterator[list[int]]:
        """The tokens of messages, rendered, in their order; raises InvalidInput at the first that is refused."""

    def check(self, request: Request) -> None:
        """Raise InvalidInput for a request that cannot be met."""

    def enable(self, heads: Collection[str]) -> None:
        """Predict with these heads from now on."""

    def as_completed(self, requests: Iterable[Request]) -> Generator[Result, None, None]:
        """The results as they are finished; closing it cancels the rest."""

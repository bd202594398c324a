"""Who decides with what a token is drawn: the request, the heads, the model's file, or the default, in this order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.file_sampling import file_sampling
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import deciding
from autodeco_gguf.model.sampling import MAX_SEED, check_seed
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.schemas import SamplingBody

Source = Literal["client", "heads", "file", "default"]

DEFAULT = 1.0
"""Of temperature and top-p, where nothing else says: the model's own distribution, as in OpenAI's API."""


_OTHERS = {
    name: {"repeat_last_n": "penalty_last_n", "mirostat": "mirostat_mode"}.get(name, name)
    for name in SamplingBody.model_fields
    if name not in ("temperature", "top_p", "seed", "heads")
}
"""Names of ``Sampling`` by the fields of a request that nothing else decides."""


@dataclass(frozen=True)
class Decision:
    """With what the tokens of a request are drawn.

    Attributes:
        sources: who decides "temperature" and "top_p".
        sampling: arguments of a ``Sampling``, without a seed; None for what the heads decide.
        seed: the client's as 32 bits, or a random one.
    """

    sources: dict[str, Source]
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def source(self) -> Source | dict[str, Source]:
        """One word where both have the same."""
        kinds = set(self.sources.values())
        return kinds.pop() if len(kinds) == 1 else self.sources


def seed_of(seed: int | None, i: int = 0) -> int:
    """The engine's 32 bits for choice ``i`` of a client's seed; random for None and -1.

    Modulo 2**32 - 1, because llama.cpp takes that number itself for a random seed.
    """
    return (check_seed(None) if seed in (None, -1) else seed + i) % MAX_SEED


class Decider:
    """Decides for one engine.

    A client's number wins for what it names. One that sends a temperature and no word about the heads decides both:
    its top-p is 1 unless it says otherwise. Where no head decides, the file's other values count as well, but for
    what the request names.
    """

    def __init__(self, engine: Engine, sampling: Literal["client", "heads"]) -> None:
        """Read the file's values; ``sampling``: as the settings have it."""
        self._heads, self._locked, self._n_ctx = engine.heads, sampling == "heads", engine.n_ctx
        self._file = file_sampling(engine.context.file.base())
        if self._locked and not self._heads:
            raise InvalidInput(f"sampling by the heads: {engine.context.file.path} has none", key="sampling")

    def decide(self, body: SamplingBody) -> Decision:
        """What a request leaves open."""
        heads = self._deciding(body)
        numbers = {
            name: value
            for name in ("temperature", "top_p")
            if (value := getattr(body, name)) is not None
            and not (self._locked and body.heads is None and name in self._heads)
        }
        sources: dict[str, Source] = {}
        sampling: dict[str, Any] = {}
        if "temperature" in numbers and body.heads is None:  # as in OpenAI's API; P is predicted for another T
            numbers.setdefault("top_p", DEFAULT)
        for name in ("temperature", "top_p"):
            if name in numbers:
                sources[name], sampling[name] = "client", numbers[name]
            elif name in heads:
                sources[name], sampling[name] = "heads", None
            elif name in self._file:
                sources[name], sampling[name] = "file", float(self._file[name])
            else:
                sources[name], sampling[name] = "default", DEFAULT
        if "heads" not in sources.values():
            sampling = {**self._file, **sampling}
        return Decision(sources, {**sampling, **self._others(body)}, seed_of(body.seed))

    def _deciding(self, body: SamplingBody) -> frozenset[str]:
        try:
            return self._heads if body.heads is None else deciding(body.heads, self._heads)
        except InvalidInput as e:
            raise ApiError(400, f"heads: {e}", param="heads") from e

    def _others(self, body: SamplingBody) -> dict[str, Any]:
        given = {_OTHERS[name]: value for name in _OTHERS if (value := getattr(body, name)) is not None}
        for name in ("top_k", "top_n_sigma"):
            if name in given:
                given[name] = max(0, given[name])
        if given.get("frequency_penalty") or given.get("presence_penalty"):
            given.setdefault("penalty_last_n", self._n_ctx)  # all of the answer, as OpenAI has it
        return given

    def defaults(self) -> dict[str, Any]:
        """What a request without fields gets, for ``/props``."""
        decision = self.decide(SamplingBody())
        values = {name: value for name, value in decision.sampling.items() if value is not None}
        return {"source": decision.source, **values}

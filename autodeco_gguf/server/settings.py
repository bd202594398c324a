"""What a server is told when it starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from autodeco_gguf.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a model is served.

    Attributes:
        model_id: the model's name; None: from its file.
        api_keys: any of these lets a client in; empty: no key is asked for.
        cors_origins: pages of these origins may use the server, "*" for all; empty: none.
        allowed_hosts: names that a request may have in its Host header, beside localhost and addresses; "*": any.
        max_body: bytes of a request's body.
        max_queue: answers that may wait for a sequence, of one request as many as there are sequences; more are refused
            with 503.
        sampling: "client": a number from the client wins. "heads": the heads decide whatever the client sends.

    Raises:
        InvalidInput: an origin that no browser sends, as one without http:// or with a path.
    """

    model_id: str | None = None
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 8 << 20
    max_queue: int = 64
    sampling: Literal["client", "heads"] = "client"

    def __post_init__(self) -> None:
        for given, origin in zip(self.cors_origins, self.origins, strict=True):
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/*\s]+", origin):
                raise InvalidInput.of("cors", repr(given), "an origin, such as http://localhost:3000, or *")

    @property
    def origins(self) -> list[str]:
        """``cors_origins`` as browsers write them."""
        return [origin.lower().rstrip("/") for origin in self.cors_origins]

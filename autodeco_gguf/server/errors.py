"""Errors as answers: a status by the kind of error, and OpenAI's or Ollama's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from autodeco_gguf.errors import AutoDecoError, Busy, Closed, InvalidInput, ModelFailed, printable
from autodeco_gguf.model.template import TEMPLATE_KEY
from autodeco_gguf.server.fields import MAX_ITEMS

RETRY_SECONDS = 1
"""What Retry-After says to who finds the queue full."""

NO_EMBEDDINGS = "embeddings are not supported: the model generates text"

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}
_PARAMS = {TEMPLATE_KEY: "messages", "schema": "response_format", "logit_bias of token": "logit_bias"}
"""Fields of a request by what an error of the engine is about."""


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        message: one line.
        param: the field of the request that it is about.
        code: for programs.
        headers: that go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See the attributes."""
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, printable(message), param, code
        self.headers = dict(headers or {})

    @classmethod
    def bug(cls) -> ApiError:
        """What a client is told where the fault is not its own."""
        return cls(500, "an error of the server, see its log", code="internal")

    @classmethod
    def of(cls, error: AutoDecoError, prompt: str = "messages") -> ApiError:
        """What an error of the engine is to a client; ``prompt`` is the field that holds the prompt."""
        if isinstance(error, Busy):
            return cls(503, str(error), code="queue_full", headers={"Retry-After": str(RETRY_SECONDS)})
        if isinstance(error, Closed):
            return cls(503, "the server is shutting down", code="shutting_down")
        if isinstance(error, ModelFailed) and error.key == "rpc":
            return cls(503, str(error), code="worker_lost", headers={"Retry-After": str(RETRY_SECONDS)})
        if not isinstance(error, InvalidInput):
            return cls(500, str(error), code="model_failed")
        if error.key == "n_ctx":
            text = f"the prompt has {error.found} tokens, the context holds {error.expected}, the answer included"
            return cls(400, text, param=prompt, code="context_length_exceeded")
        if error.key in (TEMPLATE_KEY, "prompt", "text"):
            return cls(400, str(error).rpartition(": its chat ")[2], param=prompt)
        return cls(400, str(error), param=_PARAMS.get(error.key or "", error.key))

    def openai(self) -> dict[str, Any]:
        """OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def ollama(self) -> dict[str, Any]:
        """Ollama's form."""
        return {"error": self.message}

    def response(self, path: str) -> JSONResponse:
        """The answer, in the form that clients of a path expect."""
        content = self.ollama() if path.startswith("/api/") else self.openai()
        return JSONResponse(content, self.status, self.headers)


def param_of(loc: Sequence[int | str]) -> str:
    """A place in a body as OpenAI names it: ("body", "messages", 0, "content") is "messages[0].content"."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".body").removeprefix(".")


_WORDS = {
    "missing": "required",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "list_type": "expected a list",
    "string_type": "expected a text",
    "int_type": "expected a whole number",
    "too_long": f"more than {MAX_ITEMS} items",
    "too_short": "empty",
    "string_too_short": "empty",
}
"""What pydantic's errors are to a client, by their type."""

_SAY_IT = ("missing", "too_long", "too_short", "string_too_short")
"""Types of errors for which the value says nothing more."""


def of_validation(errors: Sequence[Mapping[str, Any]], path: str) -> ApiError:
    """The first of pydantic's errors."""
    first = errors[0]
    about = first.get("ctx", {}).get("param")
    param = param_of([*first["loc"], about] if about is not None else first["loc"])
    if path.startswith("/api/") and first["type"] == "option":
        return ApiError(400, f'option "{param.rpartition(".")[2]}" {first["msg"]}', param=param)
    message = _WORDS.get(first["type"], first["msg"][:1].lower() + first["msg"][1:])
    says_it = first["type"] in _SAY_IT or about is not None or " not " in message
    given = "" if says_it else f", not {shown(first.get('input'))}"
    return ApiError(400, f"{param or 'the body'}: {message}{given}", param=param or None)


def shown(value: Any) -> str:
    """A value of a request for a message, not too much of it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else f"{text[:80]}..."

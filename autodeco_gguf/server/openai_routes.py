"""OpenAI's routes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.server import about
from autodeco_gguf.server.chat import chat_plan
from autodeco_gguf.server.completions import completion_plan
from autodeco_gguf.server.errors import NO_EMBEDDINGS, ApiError
from autodeco_gguf.server.fields import Body, Flag, Text, Whole
from autodeco_gguf.server.json_route import JsonRoute, streams
from autodeco_gguf.server.responses import ResponsesBody, responses_plan
from autodeco_gguf.server.schemas import ChatBody, CompletionBody
from autodeco_gguf.server.service import Service


class TokenizeBody(Body):
    """POST /tokenize."""

    content: Annotated[Text, Field(description="The text.")]
    add_special: Annotated[Flag | None, Field(description="What the vocabulary wants at the beginning.")] = None
    parse_special: Annotated[Flag | None, Field(description="Names of control tokens as these; absent: true.")] = None
    with_pieces: Annotated[Flag | None, Field(description="Objects with id and piece.")] = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: Annotated[list[Whole], Field(description="Token ids.")]


def openai_routes(service: Service) -> APIRouter:
    """The routes of OpenAI's API, and llama-server's for tokens."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", responses=streams("text/event-stream"))
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        return await service.answer(request, partial(chat_plan, service, body), bool(body.stream))

    @router.post("/v1/completions", responses=streams("text/event-stream"))
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Go on with a text."""
        return await service.answer(request, partial(completion_plan, service, body), bool(body.stream))

    @router.post("/v1/responses", responses=streams("text/event-stream"))
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """Answer text with text."""
        return await service.answer(request, partial(responses_plan, service, body), bool(body.stream))

    @router.post("/v1/embeddings")
    async def embeddings() -> Response:
        """Refused."""
        raise ApiError(400, NO_EMBEDDINGS, code="unsupported")

    @router.get("/v1/models")
    async def models() -> JSONResponse:
        """The one model."""
        return JSONResponse({"object": "list", "data": [about.model(service)]})

    @router.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> JSONResponse:
        """The model by its id."""
        if model_id not in (service.model_id, f"{service.model_id}:latest"):
            raise ApiError(404, f"the model {model_id[:200]!r} does not exist", param="model", code="model_not_found")
        return JSONResponse(about.model(service))

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> JSONResponse:
        """The tokens of a text."""
        return JSONResponse(await run_in_threadpool(_tokenize, service, body))

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> JSONResponse:
        """The text of tokens."""
        return JSONResponse({"content": await run_in_threadpool(_detokenize, service, body)})

    return router


def _tokenize(service: Service, body: TokenizeBody) -> dict[str, Any]:
    try:
        special = body.parse_special is not False
        tokens = service.engine.context.tokenize(body.content, add_bos=bool(body.add_special), special=special)
    except AutoDecoError as e:
        raise ApiError.of(e, "content") from e
    if not body.with_pieces:
        return {"tokens": tokens}
    pieces = [(token, service.words.piece(token)) for token in tokens]
    return {"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in pieces]}


def _piece(piece: bytes) -> str | list[int]:
    """As llama-server has it: what is no UTF-8 as numbers."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _detokenize(service: Service, body: DetokenizeBody) -> str:
    try:
        tokens = [check_token(token, service.engine.context.n_vocab) for token in body.tokens]
        return b"".join(map(service.words.piece, tokens)).decode("utf-8", "replace")
    except InvalidInput as e:
        raise ApiError(400, f"tokens: {e}", param="tokens") from e
    except AutoDecoError as e:
        raise ApiError.of(e) from e

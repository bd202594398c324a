"""OpenAI's routes."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from autodeco_gguf.server import about
from autodeco_gguf.server.chat import chat_plan
from autodeco_gguf.server.completions import completion_plan
from autodeco_gguf.server.errors import NO_EMBEDDINGS, ApiError
from autodeco_gguf.server.json_route import JsonRoute, streams
from autodeco_gguf.server.responses import ResponsesBody, responses_plan
from autodeco_gguf.server.schemas import ChatBody, CompletionBody
from autodeco_gguf.server.service import Service


def openai_routes(service: Service) -> APIRouter:
    """The routes of OpenAI's API."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", responses=streams("text/event-stream"))
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        plan = partial(chat_plan, service, body)
        return await service.answer(request, plan, bool(body.stream), has_grammar=body.has_grammar)

    @router.post("/v1/completions", responses=streams("text/event-stream"))
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Go on with a text."""
        plan = partial(completion_plan, service, body)
        return await service.answer(request, plan, bool(body.stream), "prompt", has_grammar=body.has_grammar)

    @router.post("/v1/responses", responses=streams("text/event-stream"))
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """Answer text with text."""
        plan = partial(responses_plan, service, body)
        return await service.answer(request, plan, bool(body.stream), "input", has_grammar=body.has_grammar)

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

    return router

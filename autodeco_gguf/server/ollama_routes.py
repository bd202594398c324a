"""Ollama's routes."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from autodeco_gguf.server import about
from autodeco_gguf.server.errors import NO_EMBEDDINGS, ApiError
from autodeco_gguf.server.json_route import JsonRoute, streams
from autodeco_gguf.server.ollama import check_model, loaded, ollama_chat_plan, ollama_generate_plan
from autodeco_gguf.server.ollama_schemas import OllamaChatBody, OllamaGenerateBody, ShowBody
from autodeco_gguf.server.service import Service

_OLLAMA = "0.9.0"
"""The version of Ollama whose API is spoken, with thoughts."""


def ollama_routes(service: Service) -> APIRouter:
    """The routes of Ollama's API that clients use to find and to ask a model."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/api/chat", responses=streams("application/x-ndjson"))
    async def chat(body: OllamaChatBody, request: Request) -> Response:
        """Answer a conversation."""
        if (at_once := loaded(service, body, await request.json())) is not None:
            return JSONResponse(at_once)
        plan, stream = partial(ollama_chat_plan, service, body), body.stream is not False
        return await service.answer(request, plan, stream, has_grammar=body.format is not None)

    @router.post("/api/generate", responses=streams("application/x-ndjson"))
    async def generate(body: OllamaGenerateBody, request: Request) -> Response:
        """Answer a prompt."""
        if (at_once := loaded(service, body, await request.json())) is not None:
            return JSONResponse(at_once)
        plan, stream = partial(ollama_generate_plan, service, body), body.stream is not False
        return await service.answer(request, plan, stream, "prompt", has_grammar=body.format is not None)

    @router.get("/api/tags")
    async def tags() -> JSONResponse:
        """The one model."""
        return JSONResponse({"models": [about.tag(service)]})

    @router.post("/api/show")
    async def show(body: ShowBody) -> JSONResponse:
        """What is known of a model."""
        name = body.model or body.name
        if not name:
            raise ApiError(400, "model is required", param="model")
        check_model(service, name)
        return JSONResponse(about.show(service))

    @router.get("/api/ps")
    async def ps() -> JSONResponse:
        """The one model, which stays loaded."""
        return JSONResponse({"models": [about.loaded(service)]})

    @router.post("/api/embed")
    @router.post("/api/embeddings")
    async def embed() -> Response:
        """Refused."""
        raise ApiError(400, NO_EMBEDDINGS, code="unsupported")

    @router.post("/api/pull")
    @router.post("/api/push")
    @router.post("/api/create")
    @router.post("/api/copy")
    @router.delete("/api/delete")
    async def manage() -> Response:
        """Refused."""
        raise ApiError(400, f"the one model is {service.model_id}, with which the server began", code="unsupported")

    @router.get("/api/version")
    async def version() -> JSONResponse:
        """Ollama's version whose API this is: clients refuse one that is too old. The server's own is in /props."""
        return JSONResponse({"version": _OLLAMA})

    return router

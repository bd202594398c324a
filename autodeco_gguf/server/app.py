"""The FastAPI application: routes, and errors as answers."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autodeco_gguf import __version__
from autodeco_gguf.server import about, page
from autodeco_gguf.server.errors import ApiError, of_validation
from autodeco_gguf.server.guard import Guard, canonical
from autodeco_gguf.server.json_route import JsonRoute
from autodeco_gguf.server.ollama_routes import ollama_routes
from autodeco_gguf.server.openai_routes import openai_routes
from autodeco_gguf.server.service import Service
from autodeco_gguf.server.streaming import Gone
from autodeco_gguf.server.token_routes import token_routes

ERRORS = {
    400: "What was asked for cannot be done; the message says why, param which field it is.",
    401: "No API key, or a wrong one.",
    403: "A foreign Host header, or a page of another site.",
    404: "No such path or model.",
    405: "Another method; Allow says which.",
    408: "The body did not come.",
    413: "The body is too large.",
    415: "The body is compressed.",
    500: "The model failed.",
    503: "The queue is full, try again after Retry-After seconds; or the server is shutting down.",
}
"""Statuses of errors, and what they mean."""


_ROUTE = "route"
"""Key of a request's state: the path of the route that answers it."""


class _Measured:
    """Counts what is answered, by route and status."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                asked = canonical(scope["path"])  # of what is refused before it has a route
                path = state.get(_ROUTE) or (asked if asked in self._paths else "other")  # never a client's own words
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
                self._service.metrics.requests.labels(method, path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting)


class _Innermost:
    """Says which route answers, and answers where a bug keeps it from that: within CORS, and counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def routed(message: Message) -> None:
            nonlocal started
            started = True
            scope["state"][_ROUTE] = getattr(scope.get("route"), "path", None)
            await send(message)

        try:
            await self._app(scope, receive, routed)
        except Exception:
            if not started:
                await ApiError.bug().response(scope["path"])(scope, receive, routed)
            raise  # for the log


def create_app(service: Service) -> FastAPI:
    """The application that serves a service."""
    app = FastAPI(
        title="autodeco-gguf",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect loses the body of a POST
        version=__version__,
        responses={status: {"description": text} for status, text in ERRORS.items()},
    )
    for router in (about_routes(service), openai_routes(service), token_routes(service), ollama_routes(service)):
        app.include_router(router)
    page.add_page(app)
    for path in (paths := app.openapi()["paths"]).values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # which FastAPI has for what is 400 here
    _add_errors(app, frozenset(paths))
    settings = service.settings
    app.add_middleware(_Innermost)
    app.add_middleware(Guard, settings=settings, files=page.files())
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,  # to a server of this machine, from an origin that is allowed
            expose_headers=["Retry-After"],
            max_age=3600,
        )
    app.add_middleware(_Measured, service=service, paths=frozenset(paths))
    return app


def documented() -> FastAPI:
    """The routes alone, for their schema: nothing answers them."""
    app, nobody = FastAPI(title="autodeco-gguf"), cast("Service", None)
    for router in (openai_routes(nobody), token_routes(nobody), ollama_routes(nobody), about_routes(nobody)):
        app.include_router(router)
    return app


def about_routes(service: Service) -> APIRouter:
    """What the server says of itself."""
    router = APIRouter(route_class=JsonRoute)

    @router.get("/health")
    @router.get("/v1/health")
    async def health() -> JSONResponse:
        """Whether the server works, and how much is under way."""
        return JSONResponse(about.health(service))

    @router.get("/props")
    async def props() -> JSONResponse:
        """The model's id, context and heads, and what a request without fields gets."""
        return JSONResponse(about.props(service))

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _add_errors(app: FastAPI, paths: frozenset[str]) -> None:
    async def api(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response(request.url.path)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error.errors(), request.url.path).response(request.url.path)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        path, message = request.url.path, str(error.detail)
        if error.status_code == 404:
            message = f"there is no {path[:200]}{_hint(path, paths)}"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
            message = f"{path[:200]} does not take {request.method[:20]}, only {allowed}"
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code)
        return ApiError(error.status_code, message, code=code, headers=error.headers).response(path)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def bug(request: Request, error: Exception) -> Response:
        return ApiError.bug().response(request.url.path)

    for kind, handler in (
        (ApiError, api),
        (RequestValidationError, validation),
        (StarletteHTTPException, http),
        (Gone, gone),
        (Exception, bug),
    ):
        app.add_exception_handler(kind, handler)


def _hint(path: str, paths: frozenset[str]) -> str:
    """The route that a path may be meant to be."""
    wanted = path.lower().strip("/").rsplit("v1/", 1)[-1]
    close = sorted(known for known in paths if wanted and known.strip("/").rsplit("v1/", 1)[-1] == wanted)
    return f"; is it {close[0]}?" if close else ""

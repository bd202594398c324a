"""The routes for tokens: llama-server's, and vLLM's, by which lm-evaluation-harness finds the tokenizer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.template import TEMPLATE_KEY
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.fields import Body, Flag, Text, Whole
from autodeco_gguf.server.json_route import JsonRoute
from autodeco_gguf.server.service import MAX_TOLD, Service
from autodeco_gguf.server.streaming import dumps, dumps_in_turn

_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class TokenizeBody(Body):
    """POST /tokenize."""

    content: Annotated[Text | None, Field(description="The text, as llama-server has it.")] = None
    prompt: Annotated[Text | None, Field(description="The text, as vLLM has it.")] = None
    add_special: Annotated[
        Flag | None, Field(description="What the vocabulary wants at the beginning; absent: with `prompt` alone.")
    ] = None
    add_special_tokens: Annotated[Flag | None, Field(description="The same.")] = None
    parse_special: Annotated[Flag | None, Field(description="Names of control tokens as these; absent: true.")] = None
    with_pieces: Annotated[Flag | None, Field(description="Objects with id and piece.")] = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: Annotated[list[Whole], Field(fail_fast=True, description="Token ids.")]


def token_routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        """The tokens of a text."""
        return Response(await run_in_threadpool(_tokenize, service, body), media_type="application/json")

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> JSONResponse:
        """The text of tokens."""
        text = await run_in_threadpool(_detokenize, service, body)
        return JSONResponse({"content": text, "prompt": text})

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> JSONResponse:
        """What vLLM tells of a tokenizer: its special tokens by name, and the chat template."""
        return JSONResponse(await run_in_threadpool(_info, service))

    return router


def _tokenize(service: Service, body: TokenizeBody) -> bytes:
    text, param = (body.content, "content") if body.prompt is None else (body.prompt, "prompt")
    if text is None or (body.content is not None and body.prompt is not None):
        raise ApiError(400, "content: expected a text, either here or in prompt", param="content")
    given = [flag for flag in (body.add_special, body.add_special_tokens) if flag is not None]
    context, add_bos = service.engine.context, given[0] if given else param == "prompt"
    try:
        tokens = context.tokenize(text, add_bos=add_bos, special=body.parse_special is not False)
    except AutoDecoError as e:
        raise service.refusal(e, param) from e
    more = {"count": len(tokens), "max_model_len": service.engine.n_ctx} if param == "prompt" else {}
    if not body.with_pieces:
        return dumps({"tokens": tokens, **more})
    if len(tokens) > MAX_TOLD:
        raise ApiError(400, f"{param}: {len(tokens)} tokens, with_pieces tells of at most {MAX_TOLD}", param=param)
    pieces = ({"id": token, "piece": _piece(service.words.piece(token))} for token in tokens)
    return dumps_in_turn({"tokens": pieces, **more})


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
        raise service.refusal(e) from e


def _info(service: Service) -> dict[str, Any]:
    try:
        return _described(service)
    except AutoDecoError as e:
        raise service.refusal(e) from e


def _described(service: Service) -> dict[str, Any]:
    metadata = service.engine.context.metadata
    texts = {}
    for name, key in _NAMED.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id", "")
        is_one = token.isdecimal() and int(token) < service.engine.context.n_vocab  # llama.cpp loads what is none
        texts[name] = service.words.piece(int(token)).decode("utf-8", "replace") if is_one else None
    return {
        "tokenizer_class": metadata.get("tokenizer.ggml.model"),
        **texts,
        "model_max_length": service.engine.n_ctx,
        "chat_template": metadata.get(TEMPLATE_KEY),
    }

"""What a server says of itself and its model."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from autodeco_gguf import __version__
from autodeco_gguf.files.gguf import TensorInfo
from autodeco_gguf.heads.base_model import parts_of
from autodeco_gguf.server.ollama import rfc3339
from autodeco_gguf.server.service import Service


def health(service: Service) -> dict[str, Any]:
    """Whether it works: "degraded" from a failure of the whole batch to the next answer, and while a worker is lost."""
    running, waiting = service.driver.counts
    failure = service.engine.lost or service.driver.failure
    found: dict[str, Any] = {
        "status": "ok" if failure is None else "degraded",
        "running": running,
        "waiting": waiting,
    }
    return found if failure is None else {**found, "error": failure}


def model(service: Service) -> dict[str, Any]:
    """The model as /v1/models has it."""
    return {
        "id": service.model_id,
        "object": "model",
        "created": int(service.started),
        "owned_by": "autodeco-gguf",
        "meta": {"n_ctx": service.engine.n_ctx, "n_vocab": service.engine.context.n_vocab},
    }


def props(service: Service) -> dict[str, Any]:
    """What a request can count on."""
    engine = service.engine
    return {
        "model": service.model_id,
        "version": __version__,
        "n_ctx": engine.n_ctx,
        "n_parallel": engine.n_parallel,
        "heads": sorted(engine.heads),
        "sampling": service.settings.sampling,
        "defaults": service.decider.defaults(),
        "chat_template": engine.chat is not None,
        "tools": "tools" in service.prompts.reads,
    }


def tag(service: Service) -> dict[str, Any]:
    """The model as /api/tags has it."""
    engine, name = service.engine, service.model_id
    file = engine.context.file
    return {
        "name": name if ":" in name else f"{name}:latest",
        "model": name if ":" in name else f"{name}:latest",
        "modified_at": rfc3339(service.started),
        "size": file.base_nbytes + sum(part.file_size for part in parts_of(file.base())[1:]),
        "digest": hashlib.sha256(engine.fingerprint.encode()).hexdigest(),
        "details": _details(service),
    }


def loaded(service: Service) -> dict[str, Any]:
    """The model as /api/ps has it; it stays."""
    stays = {"expires_at": "9999-01-01T00:00:00+00:00", "context_length": service.engine.n_ctx}
    return {**tag(service), "size_vram": 0, **stays}


def show(service: Service) -> dict[str, Any]:
    """The model as /api/show has it."""
    base = service.engine.context.file.base()
    found = {key: base.get(key, object) for key in base.header.scalar_keys() if not key.startswith("tokenizer.")}
    info = {k: v for k, v in found.items() if not isinstance(v, float) or math.isfinite(v)}  # JSON has no others
    info[f"{base.architecture}.context_length"] = service.engine.n_ctx  # to which clients shorten conversations
    info.setdefault("general.basename", service.model_id)  # by which VS Code names it
    defaults, reads = service.decider.defaults(), service.prompts.reads
    thinks = not reads.isdisjoint(("enable_thinking", "reasoning_effort"))
    return {
        "modelfile": "",
        "parameters": "\n".join(f"{k:<30} {v}" for k, v in defaults.items() if k != "source"),
        "template": service.prompts.template,
        "details": _details(service),
        "model_info": {**info, "general.parameter_count": _parameters(service)},
        "capabilities": ["completion", *["tools"] * ("tools" in reads), *["thinking"] * thinks],
        "modified_at": rfc3339(service.started),
        "license": str(base.get("general.license", object, "")),
    }


def _tensors(service: Service) -> list[TensorInfo]:
    return [tensor for part in parts_of(service.engine.context.file.base()) for tensor in part.tensors]


def _parameters(service: Service) -> int:
    return sum(math.prod(tensor.shape) for tensor in _tensors(service))


def _details(service: Service) -> dict[str, Any]:
    base = service.engine.context.file.base()
    types = [tensor.type for tensor in _tensors(service) if len(tensor.shape) > 1]
    n = _parameters(service)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": base.architecture,
        "families": [base.architecture],
        "parameter_size": f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.1f}M",
        "quantization_level": max(set(types), key=types.count).upper() if types else "",
        "context_length": service.engine.n_ctx,
    }

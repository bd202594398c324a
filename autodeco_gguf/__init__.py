"""AutoDeco on llama.cpp: models that choose their own temperature and top-p at every token.

The names below are imported on first use, so that the command line answers before libllama is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf.errors import AutoDecoError

try:
    from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
except ModuleNotFoundError as e:
    raise ImportError(
        f"{Path(__file__).parent}: sources, of which nothing is compiled: install them with pip install -e . "
        "(as make does), or with pip install . and start Python elsewhere"
    ) from e

if TYPE_CHECKING:
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.generation import Generation
    from autodeco_gguf.engine.request import Piece, Request, Result
    from autodeco_gguf.heads.checkpoint import Checkpoint, read_checkpoint
    from autodeco_gguf.heads.compute import Heads, devices
    from autodeco_gguf.heads.export import export, extract, repack
    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.heads.weights import HeadWeights
    from autodeco_gguf.model.llama import Llama
    from autodeco_gguf.model.sampler import Sampler, draw
    from autodeco_gguf.model.sampling import Sampling
    from autodeco_gguf.model.trace import TraceToken

__version__ = "0.1.0"

_MODULES = {
    "Checkpoint": "heads.checkpoint",
    "Engine": "engine.engine",
    "Generation": "engine.generation",
    "HeadWeights": "heads.weights",
    "Heads": "heads.compute",
    "Llama": "model.llama",
    "ModelFile": "heads.model_file",
    "Piece": "engine.request",
    "Request": "engine.request",
    "Result": "engine.request",
    "Sampler": "model.sampler",
    "Sampling": "model.sampling",
    "TraceToken": "model.trace",
    "devices": "heads.compute",
    "draw": "model.sampler",
    "export": "heads.export",
    "extract": "heads.export",
    "read_checkpoint": "heads.checkpoint",
    "repack": "heads.export",
}

__all__ = [
    "AutoDecoError",
    "Checkpoint",
    "Engine",
    "Generation",
    "HeadWeights",
    "Heads",
    "Llama",
    "ModelFile",
    "Piece",
    "Request",
    "Result",
    "Sampler",
    "Sampling",
    "TraceToken",
    "devices",
    "draw",
    "export",
    "extract",
    "read_checkpoint",
    "repack",
]


def _installed_llama_cpp() -> str:
    """The version of the llama_cpp that an import would give, read from its source without loading it."""
    loaded = sys.modules.get("llama_cpp")
    if loaded is not None:
        return str(getattr(loaded, "__version__", "unknown"))
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return "none"
    match = re.search(r'^__version__\s*=\s*"([^"]+)"', Path(spec.origin).read_text(encoding="utf-8"), re.M)
    return match[1] if match else "unknown"


def _check_llama_cpp() -> None:
    installed = _installed_llama_cpp()
    if installed != LLAMA_CPP_PYTHON_VERSION:
        raise ImportError(
            f"autodeco_gguf was built against llama-cpp-python {LLAMA_CPP_PYTHON_VERSION}, installed is {installed}: "
            "llama.cpp's sampler interface differs between versions; reinstall autodeco-gguf"
        )


_check_llama_cpp()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""AutoDeco on llama.cpp: models that choose their own temperature and top-p at every token.

The names below are imported on first use, so that the command line answers before libllama is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# Python started in a checkout finds these sources before the installed package: what was compiled is there
__path__ = extend_path(__path__, __name__)

from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
from autodeco_gguf.errors import AutoDecoError

if TYPE_CHECKING:
    from autodeco_gguf.checkpoint import Checkpoint, read_checkpoint
    from autodeco_gguf.engine import Engine
    from autodeco_gguf.exporter import export, extract, repack
    from autodeco_gguf.heads import Heads, HeadWeights, devices, draw
    from autodeco_gguf.llama import Llama
    from autodeco_gguf.model_file import ModelFile
    from autodeco_gguf.request import Handle, Piece, Request, Result
    from autodeco_gguf.sampler import Sampler, Sampling
    from autodeco_gguf.trace import TraceToken

__version__ = "0.1.0"

_MODULES = {
    "Checkpoint": "checkpoint",
    "Engine": "engine",
    "Handle": "request",
    "HeadWeights": "heads",
    "Heads": "heads",
    "Llama": "llama",
    "ModelFile": "model_file",
    "Piece": "request",
    "Request": "request",
    "Result": "request",
    "Sampler": "sampler",
    "Sampling": "sampler",
    "TraceToken": "trace",
    "devices": "heads",
    "draw": "heads",
    "export": "exporter",
    "extract": "exporter",
    "read_checkpoint": "checkpoint",
    "repack": "exporter",
}

__all__ = [
    "AutoDecoError",
    "Checkpoint",
    "Engine",
    "Handle",
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

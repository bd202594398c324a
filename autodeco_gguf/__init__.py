"""AutoDeco on llama.cpp: models that choose their own temperature and top-p at every token.

The names below are imported on first use, so that the command line answers before libllama is loaded. Those of
``llama_cpp`` are here as well, so that changing the import is all that a program needs to use :class:`Llama`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, Closed, InvalidInput, ModelFailed

try:
    from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
except ModuleNotFoundError as e:
    raise ImportError(
        f"{Path(__file__).parent}: sources, of which nothing is compiled: install them with pip install -e . "
        "(as make does), or with pip install . and start Python elsewhere"
    ) from e

if TYPE_CHECKING:
    from llama_cpp import *  # noqa: F403

    from autodeco_gguf.engine.conversation import Conversation as Conversation
    from autodeco_gguf.engine.engine import Engine as Engine
    from autodeco_gguf.engine.generation import Generation as Generation
    from autodeco_gguf.engine.request import Piece as Piece
    from autodeco_gguf.engine.request import Request as Request
    from autodeco_gguf.engine.request import Result as Result
    from autodeco_gguf.engine.scheduler import Batching as Batching
    from autodeco_gguf.heads.checkpoint import Checkpoint as Checkpoint
    from autodeco_gguf.heads.checkpoint import read_checkpoint as read_checkpoint
    from autodeco_gguf.heads.compute import Heads as Heads
    from autodeco_gguf.heads.compute import devices as devices
    from autodeco_gguf.heads.export import export as export
    from autodeco_gguf.heads.export import extract as extract
    from autodeco_gguf.heads.export import repack as repack
    from autodeco_gguf.heads.model_file import ModelFile as ModelFile
    from autodeco_gguf.heads.weights import HeadWeights as HeadWeights
    from autodeco_gguf.model.grammar import LlamaGrammar as LlamaGrammar
    from autodeco_gguf.model.grammar import SchemaGrammar as SchemaGrammar
    from autodeco_gguf.model.llama import Llama as Llama
    from autodeco_gguf.model.machine import Machine as Machine
    from autodeco_gguf.model.sampler import Sampler as Sampler
    from autodeco_gguf.model.sampler import draw as draw
    from autodeco_gguf.model.sampling import Sampling as Sampling
    from autodeco_gguf.model.trace import TraceToken as TraceToken

__version__ = "0.1.0"

# How often libgomp's threads, which are ggml's, look for work before they sleep. With its own 300,000 they keep each
# other from the cores where another process is busy too (benchmarks/busy.py). Read when llama_cpp loads libgomp.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

_NAMES = {
    "engine.conversation": ("Conversation",),
    "engine.engine": ("Engine",),
    "engine.generation": ("Generation",),
    "engine.request": ("Piece", "Request", "Result"),
    "engine.scheduler": ("Batching",),
    "heads.checkpoint": ("Checkpoint", "read_checkpoint"),
    "heads.compute": ("Heads", "devices"),
    "heads.export": ("export", "extract", "repack"),
    "heads.model_file": ("ModelFile",),
    "heads.weights": ("HeadWeights",),
    "model.grammar": ("LlamaGrammar", "SchemaGrammar"),
    "model.llama": ("Llama",),
    "model.machine": ("Machine",),
    "model.sampler": ("Sampler", "draw"),
    "model.sampling": ("Sampling",),
    "model.trace": ("TraceToken",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["AutoDecoError", "BadFile", "Busy", "Closed", "InvalidInput", "ModelFailed", *_MODULES]


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
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}" if name in _MODULES else "llama_cpp")
    try:
        value = getattr(module, name)
    except AttributeError as e:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from e
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

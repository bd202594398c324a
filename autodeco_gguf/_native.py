"""The one place that loads the native core, after the libllama that it shares with llama_cpp."""

from __future__ import annotations

import importlib
from typing import Any

import llama_cpp  # noqa: F401  first: the core links to the copy loaded here

core: Any = importlib.import_module("autodeco_gguf._core")

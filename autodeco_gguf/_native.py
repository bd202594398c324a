"""The one place that loads the native core, after the libllama that it shares with llama_cpp."""

from __future__ import annotations

import llama_cpp  # noqa: F401  first: the core links to the copy loaded here

import autodeco_gguf._core as core  # isort: skip

__all__ = ["core"]

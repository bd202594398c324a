"""The one place that loads the native core, after the libllama that it shares with llama_cpp."""

from __future__ import annotations

import llama_cpp as llama_cpp  # first: the core links to the copy loaded here

from autodeco_gguf import _core as core

__all__ = ["core"]

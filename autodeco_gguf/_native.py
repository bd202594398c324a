"""The one place that loads the native core, after the libllama that it shares with llama_cpp."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import _logger  # first: the core links to the copy loaded here

import autodeco_gguf._core as core  # isort: skip

__all__ = ["core"]


class _Logger(type(_logger.logger)):  # type: ignore[misc]
    """llama_cpp's, of whose level the core knows: its callback is called for what it prints alone."""

    def setLevel(self, level: Any) -> None:
        """See ``logging.Logger``."""
        super().setLevel(level)
        numbers = _logger.GGML_LOG_LEVEL_TO_LOGGING_LEVEL.items()
        address = ctypes.cast(_logger.llama_log_callback, ctypes.c_void_p).value or 0
        core.log_levels(sum(1 << of_ggml for of_ggml, number in numbers if self.level <= number), address)


_logger.logger.__class__ = _Logger
_logger.logger.setLevel(_logger.logger.level)

"""The versions of this package and of what it runs on, without loading what is large."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from autodeco_gguf import __version__


def version_text() -> str:
    """ "autodeco-gguf, version 0.1.0 (llama.cpp 0c1e570 with ggml 0.25.3, llama-cpp-python 0.3.36)"."""
    parts = [build] if (build := _llama_build()) else []
    with suppress(PackageNotFoundError):
        parts.append(f"llama-cpp-python {version('llama-cpp-python')}")
    return f"autodeco-gguf, version {__version__}" + (f" ({', '.join(parts)})" if parts else "")


def _llama_build() -> str:
    """llama.cpp's commit and ggml's version, as the smallest of its libraries has them."""
    spec = find_spec("llama_cpp")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "lib").glob("libggml-base.*")):
            with suppress(OSError, AttributeError):
                library = ctypes.CDLL(str(path))
                for name in ("ggml_commit", "ggml_version"):
                    getattr(library, name).restype = ctypes.c_char_p
                return f"llama.cpp {library.ggml_commit().decode()} with ggml {library.ggml_version().decode()}"
    return ""

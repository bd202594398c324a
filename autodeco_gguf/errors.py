"""The error that bad input raises."""

from __future__ import annotations


class AutoDecoError(ValueError):
    """Bad input: a file, an argument or a value, named in one line with what was expected.

    A ``ValueError``, as ``llama_cpp`` raises for a model it cannot load, so that code written for
    ``llama_cpp.Llama`` catches it too.
    """

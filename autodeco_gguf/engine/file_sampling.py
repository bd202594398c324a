"""What a model's file recommends to draw with, for where neither a request nor a head says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.weights import HEADS
from autodeco_gguf.model.sampling import FILE_KEYS, FILE_PREFIX, Sampling, of_file


def file_sampling(base: GgufFile) -> dict[str, Any]:
    """The values of ``general.sampling.*``, by their names in ``Sampling``.

    Raises:
        BadFile: one is out of range.
    """
    found = {name: base.get(FILE_PREFIX + key, object) for key, name in FILE_KEYS.items()}
    given: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    try:
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput.of(name, value, "a number")
            given[name] = of_file(name, value)
        Sampling(**given).check()
    except InvalidInput as e:
        raise BadFile.of(base.path, f"{FILE_PREFIX}*: {e}") from e
    return given


def unnamed(file: Mapping[str, Any], named: Collection[str]) -> dict[str, Any]:
    """Of :func:`file_sampling` what a user has not named."""
    return {name: value for name, value in file.items() if name not in named}


def of_the_file(request: Request, heads: Collection[str], file: Mapping[str, Any]) -> dict[str, Any]:
    """What the file decides of a request: T and P where no head does, and the rest where no head decides anything.

    Args:
        request: whose temperature and top_p of None are left open.
        heads: those that decide what is open.
        file: :func:`unnamed`, of :func:`file_sampling`.
    """
    is_open = {name for name in HEADS if getattr(request, name) is None}
    values = {name: file[name] for name in sorted(is_open - {*heads}) if name in file}
    if not is_open & {*heads}:
        values |= {name: value for name, value in file.items() if name not in HEADS}
    return values


def settled(request: Request, heads: Collection[str], file: Mapping[str, Any]) -> Request:
    """The request with what :func:`of_the_file` decides."""
    return replace(request, **of_the_file(request, heads, file))

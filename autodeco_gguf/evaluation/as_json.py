"""Frozen dataclasses as JSON, and back."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from autodeco_gguf.evaluation.methods import Config, config_of

T = TypeVar("T")
_PLAIN: dict[Any, Any] = {int: int, float: int | float, str: str, bool: bool}
_LARGEST = 2**63 - 1
"""What a whole number can be; numpy knows no larger ones."""
_hints = functools.cache(get_type_hints)
_NAMES = {"pass_1": "pass@1", "pass_k": "pass@k", "distinct_k": "distinct@k", "majority": "maj"}
"""Of fields in a file, where they are no names of Python."""


def to_json(value: Any) -> Any:
    """What ``json`` can write: dataclasses as objects with their fields in order, tuples as lists, configs by key."""
    if isinstance(value, Config):
        return value.key
    if is_dataclass(value):
        return {_NAMES.get(f.name, f.name): to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, tuple) else value


def from_json(kind: type[T], value: Any) -> T:
    """The value of a dataclass that :func:`to_json` gave; names that it does not know are passed over.

    Raises:
        TypeError, KeyError, ValueError, AttributeError: it is something else.
    """
    read: T = _read(kind, value)
    return read


def _read(kind: Any, value: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Config:
        return config_of(value)
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, Mapping):
            raise TypeError(f"found {reprlib.repr(value)}, expected an object")
        names = {name: _NAMES.get(name, name) for name in _hints(kind)}
        needed = (names[f.name] for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
        if missing := [name for name in needed if name not in value]:
            raise TypeError(f"no {', '.join(missing)}")
        return kind(**{name: _read(_hints(kind)[name], value[key]) for name, key in names.items() if key in value})
    if type(None) in args:
        return None if value is None else _read(args[0], value)
    if origin is Mapping:
        return {args[0](key): _read(args[1], part) for key, part in value.items()}
    expected = list if origin is tuple else _PLAIN.get(kind, object)
    if not isinstance(value, expected) or (kind in (int, float) and isinstance(value, bool)):
        raise TypeError(f"found {reprlib.repr(value)}, expected {expected}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("a number is too large")
    return tuple(_read(args[0], part) for part in value) if origin is tuple else value

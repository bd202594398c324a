"""What happens in the process of a program: the names that it finds, and how it is called."""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
from contextlib import suppress
from types import CodeType, ModuleType
from typing import Any, NoReturn

_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""Modules whose public names every program finds, later ones over earlier, as in LiveCodeBench's runner."""

_NAMED = _STARRED[:-2]
"""Those that it finds by their own names."""

_DEPTH, _DIGITS = 50_000, 50_000
"""Calls within each other, and digits of an integer that are converted, also as there."""


def import_names() -> None:
    """Import what every program finds, so that each of them does not have to."""
    for name in _STARRED:
        importlib.import_module(name)


def run(code: str, function: str | None, text: str) -> NoReturn:
    """Run a program and leave by SystemExit, or by what it raises.

    Without a ``function`` it reads standard input. With one, that is called with the arguments that the lines of
    ``text`` are, as JSON, and standard output has what it returns, as JSON; nothing where that is none.
    """
    sys.path_importer_cache.clear()  # other directories are there now
    sys.setrecursionlimit(_DEPTH)
    if hasattr(sys, "set_int_max_str_digits"):  # from Python 3.11 and 3.10.7
        sys.set_int_max_str_digits(_DIGITS)
    random.seed(0)  # the same program has the same verdict
    sys.argv = ["solution.py"]
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    if function is None:
        with suppress(SystemExit):
            exec(_compiled(code), _module("__main__").__dict__)
        sys.exit()
    result = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    arguments = [json.loads(line) for line in text.split("\n")]
    module = _module("solution")
    exec(_compiled(code), module.__dict__)
    owner = module.Solution() if hasattr(module, "Solution") else module
    value = getattr(owner, function)(*arguments)
    with suppress(TypeError, ValueError):
        rest = json.dumps(_plain(list(value) if isinstance(value, tuple) else value)).encode()
        while rest:
            rest = rest[os.write(result, rest) :]
    sys.exit()


def _compiled(code: str) -> CodeType:
    return compile(code, "solution.py", "exec", dont_inherit=True)  # not this file's annotations


def _module(name: str) -> ModuleType:
    """A module with the names that a program finds."""
    module = ModuleType(name)
    for starred in _STARRED:
        source = sys.modules[starred]
        names = getattr(source, "__all__", [name for name in vars(source) if not name.startswith("_")])
        vars(module).update({name: getattr(source, name) for name in names})
    vars(module).update({named: sys.modules[named] for named in _NAMED})
    sys.modules[name] = module
    return module


def _plain(value: Any) -> Any:
    """A value as JSON has it; raises TypeError where nothing that JSON has is equal to it, as to a tuple in a list."""
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a scalar of NumPy
        return value.item()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        raise TypeError
    return value

"""What a chat can change of how it answers: the numbers of a request, by the names they have there."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from autodeco_gguf.cli._common import heads_text
from autodeco_gguf.engine.file_sampling import of_the_file
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import deciding

HEADS = ("temperature", "top_p")
"""What the heads can decide."""

_KINDS: dict[object, Callable[[str], object]] = {
    "int": int, "int | None": int, "float": float, "float | None": float,
}  # fmt: skip

NUMBERS = {f.name: _KINDS[f.type] for f in fields(Request) if f.type in _KINDS and f.name != "n_keep"}
"""Settings that are numbers: the fields of a request, those of ``Sampling`` among them; n_keep is a conversation's."""

_DEFAULTS = {f.name: f.default for f in fields(Request)}

SETTINGS = (*NUMBERS, "stop", "grammar")
"""All that :func:`changed` knows."""

ALIASES = {
    "temp": "temperature",
    "n": "max_tokens",
    "n_predict": "max_tokens",
    "repeat_last_n": "penalty_last_n",
    "mirostat": "mirostat_mode",
}

RESET = ("default", "heads")
"""Values that give a setting back: "heads" only where these can decide."""


def setting_name(text: str) -> str:
    """The name of a setting as a request has it: "top-p" is top_p."""
    name = text.strip().lstrip("-").replace("-", "_").lower()
    return ALIASES.get(name, name)


def changed(request: Request, name: str, value: str) -> Request:
    """A request with another value of a setting.

    Raises:
        InvalidInput: no such setting, or a value that it cannot have.
    """
    new: Any = _DEFAULTS[name] if value in RESET and (value == "default" or name in HEADS) else _parsed(name, value)
    result = replace(request, **{name: new})
    result.check()
    return result


def _parsed(name: str, value: str) -> Any:
    if name == "stop":
        words = shlex.shlex(_escaped(value), posix=True)  # before it takes the backslashes outside of quotes
        words.whitespace_split, words.whitespace, words.commenters = True, " ", ""
        try:
            return tuple(words)
        except ValueError as e:
            raise InvalidInput(f"stop {value}: {e}; quote a text with spaces", key=name) from e
    if name == "grammar":
        return _grammar(value)
    try:
        number: Any = NUMBERS[name](value.replace("_", "?"))  # or 1_0 is 10
    except ValueError as e:
        or_heads = ", or heads" if name in HEADS else ", or default"
        kind = "a whole number" if NUMBERS[name] is int else "a number"
        raise InvalidInput.of(name, value, kind + or_heads) from e
    if isinstance(number, float) and not math.isfinite(number):
        raise InvalidInput.of(name, value, "a finite number")
    return None if name == "max_tokens" and number < 0 else number


def _escaped(text: str) -> str:
    """A text that was typed in one line, with its \\n and \\t."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _grammar(text: str) -> Any:
    from autodeco_gguf.model.gbnf import check_gbnf
    from autodeco_gguf.model.grammar import LlamaGrammar

    check_gbnf(text)
    return LlamaGrammar.from_string(text, verbose=False)


def shown(request: Request, name: str, heads: frozenset[str], file: Mapping[str, Any]) -> str:
    """The value of a setting, for a reader; ``file``: what the model's file recommends."""
    value = getattr(request, name)
    if name in (recommended := of_the_file(request, heads, file)):
        return f"{recommended[name]:g} (by the model's file)"
    if name in HEADS and value is None:
        return "predicted" if name in heads else "1 (no such head)"
    if name == "grammar":
        return "none" if value is None else "given"
    if name == "stop":
        return shlex.join(text.replace("\n", "\\n").replace("\t", "\\t") for text in value) or "none"
    if value is None:
        return "until the end" if name == "max_tokens" else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(request: Request, heads: frozenset[str], file: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Temperature and top-p, and what is not as it is by default."""
    always = {*HEADS, "max_tokens", *of_the_file(request, heads, file)}
    names = [n for n in SETTINGS if n != "seed" and (n in always or getattr(request, n) != _DEFAULTS[n])]
    return [(name, shown(request, name, heads, file)) for name in names]


def with_heads(request: Request, which: str, heads: frozenset[str], file: Mapping[str, Any]) -> Request:
    """A request for which these heads decide, of "on", "off" and the name of one.

    What no head decides is as it was fixed, else as the model's file says, else 1.

    Raises:
        InvalidInput: the model has no such head, or there is none of that name.
    """
    name = setting_name(which)
    if name not in ("on", "off", *HEADS):
        raise InvalidInput.of("heads", which, "on, off, temperature or top_p")
    wanted = deciding(name, heads)
    values: dict[str, Any] = dict.fromkeys(wanted)
    for n in {*HEADS} - wanted:
        if getattr(request, n) is None and n in heads:
            values[n] = float(file.get(n, 1.0))
    return replace(request, **values)


def heads_line(heads: Collection[str], request: Request, file: Mapping[str, Any]) -> str:
    """Which heads decide, what is fixed, and what is as the model's file says."""
    fixed = {name: getattr(request, name) for name in HEADS}
    in_use = [name for name in heads if fixed[name] is None]
    recommended = of_the_file(request, heads, file)
    notes = [f"{heads_text([name])} fixed at {value:g}" for name, value in fixed.items() if value is not None]
    unsaid = [name for name, value in fixed.items() if value is None and name not in {*heads, *recommended}]
    notes += [f"{heads_text([name])} is 1" for name in unsaid]
    notes += [f"{heads_text([name])} {value:g} by the model's file" for name, value in recommended.items()]
    return heads_text(in_use) + (f" ({', '.join(notes)})" if notes else "")

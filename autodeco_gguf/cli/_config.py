"""A user's own defaults: variables ``AUTODECO_VERB_OPTION``, and below them a TOML file with a table for each verb."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.folders import user_folder
from autodeco_gguf.files.jsonl import type_name
from autodeco_gguf.files.reading import read_bytes

_MAX_BYTES = 1 << 20


def config_path() -> Path:
    """The file: AUTODECO_CONFIG, or ``autodeco-gguf/config.toml`` in the user's configuration directory (XDG)."""
    if named := os.environ.get("AUTODECO_CONFIG"):
        return Path(os.path.expanduser(named))
    return user_folder("config") / "config.toml"


def long_names(option: click.Option) -> list[str]:
    """What an option is called with two dashes, without them: ["max-tokens", "n-predict"]; ["k"] where none has two."""
    names = [*option.opts, *option.secondary_opts]
    return [name[2:] for name in names if name.startswith("--")] or [name.lstrip("-") for name in names]


def set_variables(command: click.Command) -> None:
    """Let each option of a command read a variable: --max-tokens of run reads AUTODECO_RUN_MAX_TOKENS."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            names = [name for name in long_names(option) if f"--{name}" not in option.secondary_opts]
            option.envvar = [_variable(command, name) for name in names]


def _variable(command: click.Command, name: str) -> str:
    return f"AUTODECO_{command.name}_{name}".upper().replace("-", "_")


def negative_variables(command: click.Command) -> dict[str, bool]:
    """What variables that say no have for a command's options, by parameter: AUTODECO_RUN_NO_HISTORY=1.

    click reads none for these names of a flag.

    Raises:
        click.UsageError: one that is neither true nor false.
    """
    found = {}
    for option in command.params:
        for variable in (_variable(command, name[2:]) for name in option.secondary_opts):
            if text := os.environ.get(variable):
                try:
                    found[option.name or ""] = not click.BOOL.convert(text, option, None)
                except click.BadParameter as e:
                    raise click.UsageError(f"{variable} in the environment: {e.message}") from e
    return found


def defaults_from_file(command: click.Command, verbs: list[str]) -> dict[str, Any]:
    """The values that the file has for a command's options, by parameter, as if they were typed.

    Args:
        command: whose table is read.
        verbs: the tables that may be there.

    Raises:
        BadFile: not TOML, or a key or value that is none.
    """
    path = config_path()
    if not os.path.exists(path):  # Path.exists raises where a folder may not be entered, as root's by another user
        if os.environ.get("AUTODECO_CONFIG"):
            reason = "no such file, or none that can be reached; AUTODECO_CONFIG names it"
            raise BadFile.of(path, reason, key="AUTODECO_CONFIG")
        return {}
    tables = _parse(path)
    for verb, table in tables.items():
        if verb in verbs and not isinstance(table, dict):
            raise BadFile.of(path, f"{verb} is {type_name(table)}, expected a table, [{verb}]", key=verb)
        if verb not in verbs:
            raise BadFile.of(path, f"[{verb}]: no such verb{_near(verb, verbs)}", key=verb)
    options = {name: o for o in command.params if isinstance(o, click.Option) for name in long_names(o)}
    found: dict[str, Any] = {}
    for key, value in tables.get(command.name or "", {}).items():
        name = key.replace("_", "-")
        if name not in options:
            raise BadFile.of(path, f"[{command.name}] {key}: no such option{_near(name, list(options))}", key=key)
        option = options[name]
        if option.name in found:
            raise BadFile.of(path, f"[{command.name}] {key}: the same option is given twice", key=key)
        negated = f"--{name}" in option.secondary_opts
        found[option.name or name] = _value(path, f"[{command.name}] {key}", option, value, negated)
    return found


def _parse(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    content = read_bytes(path, _MAX_BYTES)
    try:
        tables: dict[str, Any] = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:  # a number that is too long is no TOMLDecodeError
        raise BadFile.of(path, f"not TOML: {e}") from e
    return tables


def _value(path: Path, where: str, option: click.Option, value: Any, negated: bool) -> Any:
    if option.is_flag:
        if not isinstance(value, bool):
            raise BadFile.of(path, f"{where} is {value!r:.40}, expected true or false", key=where)
        return value != negated
    values = value if isinstance(value, list) and option.multiple else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise BadFile.of(path, f"{where} is {one!r:.40}, expected a text or a number", key=where)
    texts = [str(one) for one in values]
    return texts if option.multiple else texts[0]


def source_of(ctx: click.Context, name: str) -> str:
    """Where the value of a parameter that was not typed is from, for a message; empty for one that was."""
    source = ctx.get_parameter_source(name)
    option = next((p for p in ctx.command.params if p.name == name), None)
    if source == ParameterSource.DEFAULT_MAP:
        return f" (in {config_path()})"
    if source == ParameterSource.ENVIRONMENT and option is not None:
        set_ones = [v for v in option.envvar or () if v in os.environ]
        return f" (of {', '.join(set_ones)} in the environment)"
    return ""


def is_typed(name: str) -> bool:
    """Whether a parameter of the command under way was typed; else it has no effect where it would be refused."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


_SOURCES: list[ParameterSource | None] = [
    ParameterSource[name] for name in ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP", "DEFAULT")
]
"""Where values are from; each goes before those after it."""


def gives_way(name: str, *others: str) -> bool:
    """Whether a parameter, which does not go together with others, is from further off than one of these."""
    source = click.get_current_context().get_parameter_source
    return any(_SOURCES.index(source(other)) < _SOURCES.index(source(name)) for other in others)


def near(name: str, names: Iterable[str]) -> str:
    """Advice for a name that is none of these: "; did you mean temperature?"; empty where none is like it."""
    close = difflib.get_close_matches(name.lower(), names, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _near(name: str, names: list[str]) -> str:
    return near(name, names) or f"; there is {', '.join(names)}"

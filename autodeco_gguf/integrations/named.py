"""Models by names of the user's own, in a JSON file: name -> GGUF, adapter, context."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file, write_bytes
from autodeco_gguf.files.jsonl import parse_line, type_name
from autodeco_gguf.heads.hub import PREFIX, is_hub_id
from autodeco_gguf.heads.known import KNOWN, known_model
from autodeco_gguf.model.machine import MAX_CONTEXT
from autodeco_gguf.model.shipped import DEMO_MODEL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


@dataclass(frozen=True)
class Source:
    """What to load.

    Attributes:
        model: a GGUF, the name of a known model, or an id of the Hugging Face hub.
        heads: the adapter with the heads, likewise; None: the model's own.
        ctx: tokens of the context; None: the model's own, within bounds.
    """

    model: str
    heads: str | None = None
    ctx: int | None = None


def shipped() -> dict[str, Source]:
    """The models that need no file of the user's: the demo, and the known ones whose weights are installed."""
    known = {name: Source(name) for name, model in KNOWN.items() if importlib.util.find_spec(model.folder) is not None}
    return {"demo": Source(str(DEMO_MODEL)), **known}


def read_named(path: Path) -> dict[str, Source]:
    """The models that a file names; none where there is no file.

    The file is an object of "name": "model.gguf", or of "name": {"model": "model.gguf", "heads": "heads.gguf",
    "ctx": 4096}. A path that is not absolute begins in the file's folder, or with ~; what is called as a known model or
    an id of the hub is one.

    Raises:
        BadFile: it cannot be read, or says something else.
    """
    if not path.exists():
        return {}
    with bad_file(path, "read"):
        content = path.read_bytes()
    try:
        given = parse_line(content)
        if not isinstance(given, dict):
            raise InvalidInput(f"is {type_name(given)}, expected an object of models by name")
        return {check_name(name): _source(name, value, path.parent) for name, value in given.items()}
    except InvalidInput as e:
        raise BadFile.of(path, e) from e


def write_named(path: Path, sources: Mapping[str, Source]) -> None:
    """Write them; BadFile where the file cannot be written."""
    entries = {name: {k: v for k, v in vars(source).items() if v is not None} for name, source in sources.items()}
    write_bytes(path, (json.dumps(entries, indent=2) + "\n").encode())


def source_of(path: Path) -> str:
    """What is to stand there for a file: its path, or as it is the name of a known model or an id of the hub."""
    return str(path if known_model(path) or is_hub_id(path) else path.resolve())


def check_name(name: str) -> str:
    """The name; InvalidInput for one that cannot be typed as a word, or is taken."""
    if not _NAME.fullmatch(name):
        raise InvalidInput.of("name", repr(name), "letters, digits and . _ : -, with a letter or digit first")
    if name == "demo" or name in KNOWN:
        raise InvalidInput(f"name {name!r} is that of a model that is known already; take another", key="name")
    return name


def _source(name: str, value: object, folder: Path) -> Source:
    entry: Any = {"model": value} if isinstance(value, str) else value
    if not isinstance(entry, dict) or "model" not in entry:
        raise InvalidInput(f'{name}: expected the path of a GGUF, or an object with "model"', key=name)
    for key, found in entry.items():
        if key in ("model", "heads"):
            if not isinstance(found, str):
                raise InvalidInput(f"{name}.{key}: is {type_name(found)}, expected a path", key=f"{name}.{key}")
        elif key != "ctx":
            raise InvalidInput(f"{name}.{key}: no such key, expected model, heads or ctx", key=f"{name}.{key}")
        elif not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= MAX_CONTEXT:
            raise InvalidInput(f"{name}.ctx {found!r}, expected 1 to {MAX_CONTEXT} tokens", key=f"{name}.ctx")
    paths = {key: _path(f"{name}.{key}", entry[key], folder) for key in ("model", "heads") if key in entry}
    return Source(**paths, ctx=entry.get("ctx"))


def _path(key: str, found: str, folder: Path) -> str:
    if "\0" in found:
        raise InvalidInput(f"{key} {found!r}, expected a path without a zero byte", key=key)
    if found in KNOWN or found.startswith(PREFIX):
        return found
    try:
        return str(folder / Path(found).expanduser())
    except RuntimeError as e:
        raise InvalidInput(f"{key} {found!r}: no such user", key=key) from e

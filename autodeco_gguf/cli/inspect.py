"""``autodeco-gguf inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, heads_text, human_size, offline_option
from autodeco_gguf.errors import printable
from autodeco_gguf.heads.format import BASE_SHA256

if TYPE_CHECKING:
    from autodeco_gguf.heads.model_file import ModelFile


_ABOUT = {"base_sha256": BASE_SHA256, "license": "general.license"}


@click.command("inspect", cls=Verb)
@click.argument("file", type=GGUF)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@offline_option
def inspect_command(file: Path, as_json: bool) -> None:
    """Show the heads in a FILE, the base they are for, and whether its base view is fresh.

    Example: autodeco-gguf inspect qwen-autodeco.gguf
    """
    from autodeco_gguf.heads.model_file import ModelFile

    facts = describe(ModelFile.open(file))
    click.echo(json.dumps(facts) if as_json else "\n".join(map(printable, _table(facts))))


def describe(model: ModelFile) -> dict[str, Any]:
    """The facts about a file as plain values; sizes in bytes, shapes row-major."""
    outer = model.outer
    facts: dict[str, Any] = {
        "file": str(model.path),
        "kind": model.kind,
        "size": outer.file_size,
        "architecture": outer.get("general.architecture", str),
        "heads": [],
    }
    source = model.heads_source
    if source is not model:
        facts["heads_file"] = str(source.path)
    if source.kind != "plain":
        facts.update(_head_facts(source))
    if model.kind == "merged":
        facts["base_view"] = "fresh" if model.stale is None else f"stale: {model.stale}"
        facts["base_size"] = sum(t.nbytes for t in model.base_tensors)
        facts["base_tensors"] = len(model.base_tensors)
    return facts


def _head_facts(model: ModelFile) -> dict[str, Any]:
    from autodeco_gguf.heads.format import head_key

    weights = model.read_heads()
    arrays = weights.tensors
    heads = []
    for name, mlp in weights.mlps.items():
        head: dict[str, Any] = {"name": name, "activation": mlp.activation}
        if name == "top_p":
            head["features"] = list(weights.features)
        else:
            head["scale"] = weights.temperature_scale
        head["tensors"] = [
            {"name": t.name, "shape": list(arrays[t.name].shape), "type": t.type, "size": t.nbytes}
            for t in model.head_tensors
            if t.name.startswith(head_key(name, ""))
        ]
        heads.append(head)
    return {
        "version": model.outer.get("autodeco.version", int),
        "base_model": weights.base_model,
        **{name: value for name, key in _ABOUT.items() if (value := model.outer.get(key, str)) is not None},
        "hidden_size": weights.hidden_size,
        "vocab_size": weights.vocab_size,
        "heads": heads,
    }


def _table(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['file']}: {facts['kind']}, {facts['architecture']}, {human_size(facts['size'])}"]
    if not facts["heads"]:
        return [*lines, "heads        none"]
    of = f" of {facts['heads_file']}" if "heads_file" in facts else ""
    lines.append(f"heads        {heads_text(h['name'] for h in facts['heads'])}{of}")
    lines.append(
        f"base         {facts['base_model']}: hidden size {facts['hidden_size']}, vocabulary {facts['vocab_size']}"
    )
    lines += [
        f"{name:<12} {facts[key]}"
        for key, name in (("base_sha256", "base SHA-256"), ("license", "license"))
        if key in facts
    ]
    if "base_view" in facts:
        lines.append(f"base view    {facts['base_view']}")
        lines.append(f"base data    {facts['base_tensors']} tensors, {human_size(facts['base_size'])}")
    for head in facts["heads"]:
        detail = "features " + ", ".join(head["features"]) if "features" in head else f"scale {head['scale']:g}"
        lines.append(f"{head['name']:<12} {head['activation']}, {detail}")
        lines += [f"  {t['name']:<32} {t['type']:<6} {t['shape']}" for t in head["tensors"]]
    return lines

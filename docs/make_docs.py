"""Writes docs/cli.md from the commands' own help, the layers in docs/design.md from the imports' contracts, and the
routes in docs/server.md from the server's own schema.

python docs/make_docs.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import click

from autodeco_gguf.cli import VERBS, cli

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autodeco_gguf"
ROUTES = re.compile(r"(?<=<!-- routes -->\n).*?(?=<!-- /routes -->)", re.S)
LAYERS = re.compile(r"(?<=<!-- layers -->\n).*?(?=<!-- /layers -->)", re.S)


EXIT = """\
Exit status: 0; 1 for a failure; 2 for wrong usage, an argument that will not do included; 130 after Ctrl-C, 143 after
SIGTERM, 129 after SIGHUP. `serve` ends with 0 after the last two, `worker` after all three.
`autodeco-gguf --version` tells what it was built with."""


def cli_reference() -> str:
    """docs/cli.md."""
    lines = ["# Command line", "", "Made by `python docs/make_docs.py` from the commands' own help.", "", EXIT, ""]
    settings = {**cli.context_settings, "terminal_width": 100, "max_content_width": 100}
    group = click.Context(cli, info_name="autodeco-gguf", **settings)
    for verb in VERBS:
        command = cli.get_command(group, verb)
        assert command is not None
        context = click.Context(command, info_name=verb, parent=group, **settings)
        lines += [f"## {verb}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(lines)


def design_page() -> str:
    """docs/design.md with the layers as the contracts in pyproject.toml have them."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    return LAYERS.sub(lambda _: layer_table(), page)


def layer_table() -> str:
    """The layers from top to bottom, with what only some of them may import."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    protected = [contract for contract in contracts if contract["type"] == "protected"]
    lines = ["| layer | | what is in it | it alone imports |", "|---:|---|---|---|"]
    for number, layer in enumerate(layers, 1):
        for name in layer.strip("()").split(" | "):
            text = "Written by the build." if layer.startswith("(") else _document(name)
            lines.append(f"| {number} | `{name}` | {text} | {', '.join(_allowed(protected, name))} |")
    return "\n".join(lines) + "\n"


def _document(name: str) -> str:
    """The first sentence of a module's docstring."""
    path = PACKAGE / name / "__init__.py" if (PACKAGE / name).is_dir() else PACKAGE / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`")


def _allowed(protected: list[dict[str, Any]], name: str) -> list[str]:
    """What the contracts let it import and keep from others; where that is one of its modules only, with its name."""
    found = []
    for contract in protected:
        what = ", ".join(f"`{module.removeprefix('autodeco_gguf.')}`" for module in contract["protected_modules"])
        importers = [module.removeprefix("autodeco_gguf.") for module in contract["allowed_importers"]]
        found += [what if m == name else f"{what} in `{m}`" for m in importers if m.split(".")[0] == name]
    return found


def server_page() -> str:
    """docs/server.md with the routes and the fields of their bodies."""
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    return ROUTES.sub(lambda _: routes(), page)


def routes() -> str:
    """Each route, what it does, and what its body may say."""
    from autodeco_gguf.server.app import documented

    _SHOWN.clear()
    schema = documented().openapi()
    models, lines = schema["components"]["schemas"], []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            lines += [f"### {method.upper()} {path}", "", operation["description"], ""]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if "$ref" in body:
                lines += _fields(models, body["$ref"].rpartition("/")[2])
    return "\n".join(lines)


def _fields(models: dict[str, Any], name: str) -> list[str]:
    """A table of a model's fields, those of the objects in it included."""
    model, lines, inner = models[name], ["| field | type | |", "|---|---|---|"], []
    for field, schema in model["properties"].items():
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        refs = [ref.rpartition("/")[2] for kind in kinds for ref in re.findall(r"'\$ref': '([^']+)'", str(kind))]
        inner += [ref for ref in refs if ref not in inner]
        limits = ", ".join(f"{sign} {k[key]:,.10g}" for k in kinds for key, sign in _LIMITS.items() if key in k)
        about = schema.get("description", "") + (f" {limits[0].upper()}{limits[1:]}." if limits else "")
        star = " (required)" if field in model.get("required", ()) else ""
        lines.append(f"| `{field}`{star} | {' or '.join(map(_kind, kinds))} | {about.strip()} |")
    lines.append("")
    for ref in inner:
        if ref not in _SHOWN:
            _SHOWN.add(ref)
            lines += [f"`{ref}`: {models[ref]['description']}", "", *_fields(models, ref)]
    return lines


_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
_SHOWN: set[str] = set()


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(cli_reference(), encoding="utf-8")
    (ROOT / "docs" / "design.md").write_text(design_page(), encoding="utf-8")
    (ROOT / "docs" / "server.md").write_text(server_page(), encoding="utf-8")

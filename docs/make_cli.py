"""Writes docs/cli.md from the commands' own help: python docs/make_cli.py."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli import VERBS, cli


def render() -> str:
    """The reference as Markdown."""
    lines = ["# Command line", "", "Made by `python docs/make_cli.py` from the commands' own help.", ""]
    settings = {**cli.context_settings, "terminal_width": 100, "max_content_width": 100}
    group = click.Context(cli, info_name="autodeco-gguf", **settings)
    for verb in VERBS:
        command = cli.get_command(group, verb)
        assert command is not None
        context = click.Context(command, info_name=verb, parent=group, **settings)
        lines += [f"## {verb}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(render(), encoding="utf-8")

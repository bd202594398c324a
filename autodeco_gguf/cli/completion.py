"""``autodeco-gguf completion``."""

from __future__ import annotations

import click

from autodeco_gguf.cli._common import Verb

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Verb)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete verbs, options and files; put it where the shell reads it at its start.

    That is ~/.local/share/bash-completion/completions/autodeco-gguf, ~/.config/fish/completions/autodeco-gguf.fish, or
    _autodeco-gguf in a directory of zsh's fpath; the directory has to be there.

    Example: autodeco-gguf completion fish > ~/.config/fish/completions/autodeco-gguf.fish
    """
    from click.shell_completion import get_completion_class

    from autodeco_gguf.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "autodeco-gguf", "_AUTODECO_GGUF_COMPLETE").source())

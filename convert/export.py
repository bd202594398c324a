"""Put trained AutoDeco heads into a GGUF: the command ``autodeco-gguf export``, but that it reads no config.toml."""

from autodeco_gguf.cli import run_command
from autodeco_gguf.cli.export import export_command

if __name__ == "__main__":
    run_command(export_command)

"""Put trained AutoDeco heads into a GGUF: the same command as ``autodeco-gguf export``."""

from autodeco_gguf.cli import run_command
from autodeco_gguf.cli.export import export_command

if __name__ == "__main__":
    run_command(export_command)

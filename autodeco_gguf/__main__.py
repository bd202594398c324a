"""``python -m autodeco_gguf``."""

from autodeco_gguf.cli import main

main()

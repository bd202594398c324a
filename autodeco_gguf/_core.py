"""What csrc/ compiles to, which Python prefers where it is; this file is found only where nothing was compiled."""

raise ImportError("autodeco_gguf._core is not compiled: install the package")

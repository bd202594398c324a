"""Stands where the compiled module does, which Python prefers: found only where nothing was compiled."""

raise ImportError("autodeco_gguf._core is not compiled: install the package")

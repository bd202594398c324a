"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL = Path(__file__).parent.parent / "demo.gguf"
"""The demo that demo/ makes: it tells the stories of :mod:`autodeco_gguf.tasks.stories`."""

DEMO_NAME = "AutoDeco Stories"
"""``general.name`` of the demo and of what is made from it: a model that knows one message and its answer."""

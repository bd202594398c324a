"""Where a user's files go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_DEFAULTS = {"cache": ".cache", "config": ".config", "state": ".local/state"}


def user_folder(kind: Literal["cache", "config", "state"]) -> Path:
    """``autodeco-gguf`` in a user's directory, as the XDG Base Directory specification finds it.

    A relative value of XDG_CACHE_HOME and its like is ignored, as it says. The path is relative where there is no home.
    """
    given = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~"), _DEFAULTS[kind])
    return base / "autodeco-gguf"

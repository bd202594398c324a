"""All kinds of threads at once; ``make threads`` does it with ThreadSanitizer."""

from __future__ import annotations

from pathlib import Path

from hostile.threads import together


def test_all_at_once(merged: Path) -> None:
    assert together(merged) == []

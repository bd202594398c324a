"""What growth.py measures, for a moment, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostile.growth import demo, server, slope, summary, watch


@pytest.mark.parametrize("way", [demo, server])
def test_a_moment_of_it(way: object, tmp_path: Path) -> None:
    """Little is done, so that a leak of a MB a request is what would be seen."""
    record = tmp_path / "x.jsonl"
    with way() as work:  # type: ignore[operator]
        found = watch(work, seed=1, hours=1, requests=20, share=1, record=record, every_s=0)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) >= 3
    assert lines[-1]["requests"] >= 20
    assert found == summary(lines)
    assert lines[-1]["rss_mb"] < lines[0]["rss_mb"] + 20
    assert 0 < lines[-1]["anon_mb"] < lines[-1]["rss_mb"]


def test_slope_is_of_what_comes_after_the_start() -> None:
    grows = [(x / 10, 100 + 3 * x / 10) for x in range(50)]
    assert slope(grows) == pytest.approx(3)
    assert slope([(0.0, 0.0), (1.0, 5.0), (4.0, 14.0)]) == pytest.approx(3)
    assert slope([(0.0, 0.0), (0.1, 90.0), *((x, 100.0) for x in (2.0, 3.0, 4.0))]) == pytest.approx(0, abs=1e-9)


def test_summary_names_both_slopes() -> None:
    lines = [
        {"hours": h, "requests": int(h * 2_000_000), "rss_mb": 100 + 2 * h, "anon_mb": 50 + h}
        for h in (0.0, 1.0, 2.0, 3.0)
    ]
    assert summary(lines) == (
        "6000000 requests in 3.00 hours; "
        "resident 100.0 MB at first, 106.0 at last, +2.00 MB an hour, +1.00 MB a million requests; "
        "allocated 50.0 MB at first, 53.0 at last, +1.00 MB an hour, +0.50 MB a million requests"
    )

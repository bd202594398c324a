"""The device of these tests: the one that AUTODECO_DEVICE names, or one that is made up."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fake_devices import fake_devices

import autodeco_gguf as ad

NAME = os.environ.get("AUTODECO_DEVICE", "FAKE0")

TOLERANCE = {"f32": 1e-5, "f16": 2e-3} if NAME == "FAKE0" else {"f32": 2.5e-3, "f16": 2.5e-3}
"""For T and P, by the type of the cache. A GPU multiplies in lower precision than a CPU."""


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    """It is there, and gone for the tests after these: others take all GPUs that there are."""
    if NAME == "FAKE0":
        with fake_devices(NAME):
            yield
    else:
        assert NAME in ad.devices()
        yield

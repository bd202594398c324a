"""Defaults are safe ones."""

from __future__ import annotations

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.server.settings import ServerSettings


def test_defaults() -> None:
    settings = ServerSettings()
    assert settings.cors_origins == settings.allowed_hosts == settings.api_keys == ()
    assert settings.max_body == 8 * 2**20
    assert settings.sampling == "client"


@pytest.mark.parametrize("origin", ["a.example", "http://a.example/b", "https://*.a.example", "http://", "", "a b"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(InvalidInput, match=r"^cors '.*', expected an origin, such as http://localhost:3000, or \*$"):
        ServerSettings(cors_origins=("*", origin))


@pytest.mark.parametrize("origin", ["*", "null", "HTTPS://A.example:8443/", "http://[::1]:3000", "app://obsidian.md"])
def test_origins(origin: str) -> None:
    assert ServerSettings(cors_origins=(origin,)).origins == [origin.lower().rstrip("/")]

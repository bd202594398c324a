"""Defaults are safe ones."""

from __future__ import annotations

from autodeco_gguf.server.settings import ServerSettings


def test_defaults() -> None:
    settings = ServerSettings()
    assert settings.cors_origins == settings.allowed_hosts == settings.api_keys == ()
    assert settings.max_body == 8 * 2**20
    assert settings.sampling == "client"

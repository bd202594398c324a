"""What is at /."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from server_helpers import Api
from starlette.testclient import TestClient

from autodeco_gguf.server.page import add_page, files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>a page")
    (tmp_path / "sub" / "app.js").write_text("let a")
    return tmp_path


def test_the_page(folder: Path) -> None:
    app = FastAPI()
    add_page(app, folder)
    client = TestClient(app)
    page = client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.text == "<!doctype html>a page"
    assert page.headers["content-type"].startswith("text/html")
    script = client.get("/sub/app.js")
    for one in (page, script):
        policy = one.headers["content-security-policy"]
        assert policy == "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"  # nor within another's page
        assert (one.headers["x-content-type-options"], one.headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert one.headers["cache-control"] == "no-cache"
    assert script.headers["content-type"].startswith("text/javascript")
    assert client.get("/index.html").text == page.text
    text = client.get("/", headers={"Accept": "*/*"})
    assert text.text == "Ollama is running"
    assert (page.headers["vary"], text.headers["vary"]) == ("Accept", "Accept")
    for path in ("/sub", "/sub/", "/..%2fsecret", "/other.js"):
        assert client.get(path).status_code == 404


def test_without_a_page(tmp_path: Path) -> None:
    app = FastAPI()
    add_page(app, tmp_path / "none")
    assert files(tmp_path / "none") == {}
    assert TestClient(app).get("/", headers={"Accept": "text/html"}).text == "Ollama is running"


def test_programs_are_told_that_ollama_runs(api: Api) -> None:
    assert api.get("/").text == "Ollama is running"

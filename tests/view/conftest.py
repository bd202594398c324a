"""A real browser, and a small server that serves the page and says what a test wants."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from http_helpers import serving
from page_helpers import Fake, Handler, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="package")  # while it is there, so is an event loop
def browser() -> Iterator[Browser]:
    """Chromium without a window. Where there is none the tests are skipped, with CI=1 they fail."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("no Chromium on the PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--host-resolver-rules=MAP page.test 127.0.0.1"]
        )
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """Opens pages; at the end the console has to be empty."""
    watched = Watched(browser)
    yield watched
    watched.close()
    assert watched.said == []


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {}))
    fake = server.RequestHandlerClass.fake = Fake(server.server_port)  # type: ignore[attr-defined]
    with serving(server):
        yield fake

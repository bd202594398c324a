"""The page at /: files of the package, under a policy that lets nothing else in."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse

import autodeco_gguf

FOLDER = Path(autodeco_gguf.__file__).parent / "view" / "static"

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

_VARIES = {"Vary": "Accept"}
"""For caches."""

_TYPES = mimetypes.MimeTypes()
"""Without the system's own, which may differ."""
_TYPES.add_type("text/javascript", ".js")  # what Python says of it depends on its version


def files(folder: Path = FOLDER) -> dict[str, Path]:
    """The page's files by their path on the server."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"/{path.relative_to(folder).as_posix()}": path for path in found}


def add_page(app: FastAPI, folder: Path = FOLDER) -> None:
    """Serve the page, and at / a word for clients that do not read HTML, as Ollama has it."""
    known = files(folder)

    async def root(request: Request) -> Response:
        if "/index.html" in known and "text/html" in request.headers.get("accept", ""):
            return FileResponse(known["/index.html"], headers={**_HEADERS, **_VARIES})
        return PlainTextResponse("Ollama is running", headers=_VARIES)

    app.add_api_route("/", root, include_in_schema=False)
    for url, path in known.items():
        app.add_api_route(url, _serve(path), include_in_schema=False)


def _serve(path: Path):  # type: ignore[no-untyped-def]
    media_type = _TYPES.guess_type(path.name)[0] or "application/octet-stream"

    async def file() -> Response:
        return FileResponse(path, media_type=media_type, headers=_HEADERS)

    return file

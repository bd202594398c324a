"""A self-contained HTML page of traces, tables and pictures: the components of the served page, and no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.view.traces import ReadTrace, traces_of

STATIC = Path(__file__).parent / "static"
"""The files of the page that a server has at ``/``; ``index.html`` is that page."""

Section = Mapping[str, Any]
"""What ``view.js`` shows by its "kind": words, table, plot, trace or samples."""

_MODULES = ("tokens.js", "chart.js", "ui.js", "view.js")
"""In the order in which they need each other."""


def page(title: str, sections: Sequence[Section]) -> bytes:
    """The page; all that it shows comes from text of the data, never from markup.

    A content security policy with the digests of its own script and style lets nothing else run, and nothing load.
    """
    style, script = _read("style.css"), "\n".join(map(_inlined, _MODULES))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:"
    before = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{style}</style>",
        '<body><script type="application/json" id="data">',
    ]
    after = f'</script>\n<script type="module">{script}</script></body></html>\n'
    data = as_data({"title": title, "sections": sections})
    return "\n".join(before).encode("utf-8", "replace") + data + after.encode()


def as_data(value: object) -> bytes:
    """JSON in UTF-8 as it stands in a page, where it can neither end a script nor begin a comment.

    Examples:
        >>> print(as_data({"a": "<é\\ud800"}).decode())
        {"a":"\\u003cé\\ud800"}
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode("utf-8", "backslashreplace")


def within(traces: Iterable[ReadTrace], most: int) -> Iterator[ReadTrace]:
    """The first of them that take at most so many bytes of a page together."""
    size = 0
    for trace in traces:
        size += len(as_data(_trace(trace)))
        if size > most:
            return
        yield trace


def trace_page(title: str, traces: Sequence[ReadTrace], left_out: int = 0) -> bytes:
    """The page of traces; ``left_out`` more are named as such."""
    note = f"{left_out:,} more traces were left out, or this page would be too large; name fewer files."
    words: list[Section] = [{"kind": "words", "lines": [note]}] if left_out else []
    return page(title, [*words, *map(_trace, traces)])


def write_page(path: Path, answers: Iterable[Iterable[Mapping[str, Any]]]) -> None:
    """Write the page of some answers, each the lines that ``run --json`` prints of it.

    Raises:
        BadFile: the file cannot be written; InvalidInput: what they are is something else.
    """
    found = [trace for lines in answers for trace in traces_of("", lines)]
    for number, trace in enumerate(found, 1):
        trace.title = f"Answer {number}"
    write_bytes(path, trace_page(path.stem, found))


def _trace(trace: ReadTrace) -> Section:
    shown: dict[str, Any] = {"columns": columns(trace.tokens)} if trace.tokens else {"text": trace.text}
    return {"kind": "trace", "title": trace.title, "prompt": trace.prompt, "about": trace.about, **shown}


def columns(tokens: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Trace JSON, an object a token, as a list for each value that some have: six significant digits will do."""
    names = dict.fromkeys(name for token in tokens for name in token)
    return {"text": [], **{name: [_short(token.get(name)) for token in tokens] for name in names}}


def picture(png: bytes) -> str:
    """The address of a picture that is part of the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [{name: _short(part) for name, part in other.items()} for other in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _inlined(name: str) -> str:
    """A module as part of one script, with nothing to import or export."""
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", _read(name), flags=re.M), flags=re.M)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

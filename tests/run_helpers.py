"""What the tests of the command run share."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import Kind, Outcome, invoke, rewrite
from conftest import Case

import autodeco_gguf as ad

Capture = pytest.CaptureFixture[str]

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"

STATISTICS = (
    r"(\d+) tokens(?: \(([\w :-]+)\))?, \d+\.\d tokens/s, "
    r"mean temperature \d\.\d{3}, mean top-p \d\.\d{3}, seed (\d+)\n"
)


def with_template(qwen2: Case, directory: Path, template: str = TEMPLATE) -> Path:
    """A merged file with a chat template."""
    entry = {"tokenizer.chat_template": (template, Kind.STRING)}
    base = rewrite(qwen2.base, directory / "chat-base.gguf", metadata=entry)
    ad.export(base, qwen2.heads, directory / "chat.gguf")
    return directory / "chat.gguf"


def run(capfd: Capture, *args: object) -> Outcome:
    """autodeco-gguf run with one thread: two wait for each other wherever other work keeps the cores busy."""
    return invoke(capfd, "run", "-t", 1, *args)

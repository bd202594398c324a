"""What a person reads is run: the README's commands and Python, the command line reference."""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import autodeco_gguf as ad
from autodeco_gguf.cli import cli as command_line
from autodeco_gguf.cli import run_command

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)
PAGES = [
    *("README.md", "SECURITY.md", "demo/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [body for lang, flags, body in BLOCK.findall(text) if lang == language and "no-run" not in flags]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the clone's folder that the README names."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example(workplace: Path) -> None:
    """What the README does before its examples: python demo/example.py, cd."""
    lines = [line.partition("#")[0].split() for line in "\n".join(blocks("bash")).splitlines()]
    (made,), (gone,) = ([line[1:] for line in lines if line[:1] == [word]] for word in ("python", "cd"))
    subprocess.run([sys.executable, *made], check=True, capture_output=True)
    os.chdir(workplace / gone[0])


def test_readme_commands_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    example(workplace)
    problems = Path("problems.jsonl")
    problems.write_text("".join(problems.read_text().splitlines(keepends=True)[:6]))  # in less time
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    piped = [line.partition(" | ") for line in lines if re.match(r"(?:echo .* \| )?autodeco-gguf ", line)]
    commands = [(left, right) if right else ("", left) for left, _, right in piped]
    assert len(commands) == 15
    for given, command in commands:
        program, *arguments = shlex.split(command, comments=True)
        stdin = subprocess.check_output(given, shell=True) if given else b""
        if arguments == ["run"]:  # the chat, for which there is no terminal here
            continue
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_info:
            run_command(command_line, arguments)
        assert exit_info.value.code == 0, f"{program} {arguments}: {capfd.readouterr().err}"


def test_readme_python_runs(workplace: Path) -> None:
    example(workplace)
    Path("readme.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    ad.export("small.gguf", "checkpoint", "model.gguf")
    done = subprocess.run([sys.executable, "readme.py"], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") >= 16
    assert len(re.findall(r" (?:stop|length)$", done.stdout, re.M)) == 16


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_what_is_generated_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_docs.py"))
    for page, make in (("cli.md", "cli_reference"), ("design.md", "design_page"), ("server.md", "server_page")):
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made[make](), "run python docs/make_docs.py"


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings in links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    source = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", source.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            path = source.parent / target if target else source
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_sources_that_pages_name_are_there(page: str) -> None:
    named = re.findall(r"`([\w/]+\.(?:py|pyi|cpp|h))`", (ROOT / page).read_text(encoding="utf-8"))
    places = (ROOT, ROOT / "autodeco_gguf", (ROOT / page).parent, *(p for p in (ROOT / "autodeco_gguf").iterdir()))
    elsewhere = {"cli/VERB.py", "_build_info.py"}  # any verb's; written by the build
    assert [name for name in named if name not in elsewhere and not any((p / name).exists() for p in places)] == []

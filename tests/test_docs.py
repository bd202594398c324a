"""What a person reads is run: the README's commands and Python, the command line reference."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Case

import autodeco_gguf as ad
from autodeco_gguf.cli import cli as command_line
from autodeco_gguf.cli import run_command
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [body for lang, flags, body in BLOCK.findall(text) if lang == language and "no-run" not in flags]


@pytest.fixture
def workplace(tmp_path: Path, qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the README names."""
    shutil.copy(qwen2.base, tmp_path / "base.gguf")
    shutil.copytree(qwen2.heads, tmp_path / "checkpoint")
    ad.extract(DEMO_MODEL, base=tmp_path / "small.gguf")
    problems = stories.problems(6, seed="readme", held_out=False)
    lines = [json.dumps({"problem": p.prompt, "gt": p.a + p.b}) for p in problems]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_commands_run(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("autodeco-gguf ")]
    assert len(commands) == 11
    for program, *arguments in commands:
        with pytest.raises(SystemExit) as exit_info:
            run_command(command_line, arguments)
        assert exit_info.value.code == 0, f"{program} {arguments}: {capfd.readouterr().err}"


def test_readme_python_runs(workplace: Path, qwen2: Case) -> None:
    script = workplace / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    subprocess.run(
        ["autodeco-gguf", "export", "--base", "base.gguf", "--heads", "checkpoint", "-o", "model.gguf"],
        executable=shutil.which("autodeco-gguf", path=str(Path(sys.executable).parent)),
        check=True,
        capture_output=True,
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") >= 32
    assert len(re.findall(r" (?:stop|length)$", done.stdout, re.M)) == 16


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_what_is_generated_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_docs.py"))
    for page, make in (("cli.md", "cli_reference"), ("design.md", "design_page")):
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made[make](), "run python docs/make_docs.py"


@pytest.mark.parametrize(
    "page",
    ["README.md", "demo/README.md", "docs/design.md", "docs/evaluation.md", "docs/format.md", "docs/training.md"],
)
def test_links_lead_somewhere(page: str) -> None:
    source = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", source.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (source.parent / target).exists(), target


@pytest.mark.parametrize(
    "page", ["README.md", "demo/README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_sources_that_pages_name_are_there(page: str) -> None:
    named = re.findall(r"`([\w/]+\.(?:py|pyi|cpp|h))`", (ROOT / page).read_text(encoding="utf-8"))
    places = (ROOT, ROOT / "autodeco_gguf", (ROOT / page).parent, *(p for p in (ROOT / "autodeco_gguf").iterdir()))
    elsewhere = {"cli/VERB.py", "_build_info.py"}  # any verb's; written by the build
    assert [name for name in named if name not in elsewhere and not any((p / name).exists() for p in places)] == []

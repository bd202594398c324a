"""Completion in a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from broken import spawn

from autodeco_gguf.cli.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_own(shell: str) -> None:
    outcome = spawn("completion", shell)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"_AUTODECO_GGUF_COMPLETE={shell}_complete" in outcome.out


def test_bash_completes_verbs_and_options(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    program = tmp_path / "autodeco-gguf"
    program.write_text(f"#!{sys.executable}\nfrom autodeco_gguf.__main__ import main\nmain()\n")
    program.chmod(0o755)
    script = """
eval "$(_AUTODECO_GGUF_COMPLETE=bash_source autodeco-gguf)"
for words in "autodeco-gguf ro" "autodeco-gguf run --top-" "autodeco-gguf run --color e"; do
    COMPREPLY=()
    COMP_WORDS=($words) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _autodeco_gguf_completion autodeco-gguf
    echo "${COMPREPLY[@]}"
done
"""
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["rollouts", "--top-p --top-k", "entropy"], done.stderr


def test_after_a_verb_that_is_none_no_error_is_said() -> None:
    """What a shell would write amid the line that is typed; elsewhere it is told which may be meant."""
    asked = {"_AUTODECO_GGUF_COMPLETE": "bash_complete", "COMP_WORDS": "autodeco-gguf rum --", "COMP_CWORD": "2"}
    program = "import sys; sys.argv[0] = 'autodeco-gguf'; from autodeco_gguf.cli import main; main()"
    outcome = spawn(python=("-c", program), env={**os.environ, **asked})
    assert (outcome.status, outcome.err) == (0, "")
    assert "did you mean run?" in spawn("rum").err


COMPLETED = {
    "autodeco-gguf ro": "rollouts",
    "autodeco-gguf run --no-h": "--no-history",
    "autodeco-gguf run --color e": "entropy",
    "autodeco-gguf run --heads mod": "model.gguf",
    "autodeco-gguf run two": "two words.gguf",
    "autodeco-gguf eval --task mod": "model.gguf",
    "autodeco-gguf train two --from mod": "model.gguf",
    "autodeco-gguf export --heads mod": "model.gguf",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With files in it, and a path to the program, with nobody's own defaults."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "autodeco-gguf"
    program.write_text(f"#!{sys.executable}\nfrom autodeco_gguf.__main__ import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "files").mkdir()
    for name in ("model.gguf", "two words.gguf"):
        (tmp_path / "files" / name).write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path


def test_fish_completes(folder: Path) -> None:
    if (fish := shutil.which("fish")) is None:
        pytest.skip("no fish")
    lines = "\n".join(f"complete -C '{line}'; echo ---" for line in COMPLETED)
    script = f"autodeco-gguf completion fish | source\n{lines}"
    command = [fish, "--no-config", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = [block.partition("\t")[0].strip() for block in done.stdout.split("---\n")[:-1]]
    assert found == list(COMPLETED.values()), done.stderr


@pytest.mark.parametrize(
    ("shell", "args", "start"),
    [
        ("bash", ["--norc", "--noprofile", "-i"], "source <(autodeco-gguf completion bash)"),
        ("zsh", ["-f", "-i"], 'autoload -Uz compinit; compinit -D; eval "$(autodeco-gguf completion zsh)"'),
    ],
)
def test_a_shell_completes_at_its_prompt(shell: str, args: list[str], start: str, folder: Path) -> None:
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell}")
    environment = {**os.environ, "TERM": "dumb", "PS1": "$ "}
    with pexpect.spawn(program, args, env=environment, encoding="utf-8", dimensions=(40, 120), timeout=30) as terminal:  # type: ignore[call-overload]
        terminal.sendline(f"{start}; echo rea''dy")
        terminal.expect("ready")
        for line, word in COMPLETED.items():
            terminal.send(f"{line}\t")
            terminal.expect(re.escape(word.replace(" ", "\\ ").removeprefix(line.rpartition(" ")[2])))
            terminal.send("\x15")  # erases the line

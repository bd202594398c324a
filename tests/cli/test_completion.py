"""Completion in a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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

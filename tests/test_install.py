"""What holds the package together: the llama_cpp it was built for, lazy imports, one mapped copy of the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest
from conftest import load

import autodeco_gguf as ad


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def test_import_refuses_another_llama_cpp(tmp_path: Path) -> None:
    fake = tmp_path / "llama_cpp"
    fake.mkdir()
    (fake / "__init__.py").write_text('__version__ = "0.0.99"\n', encoding="utf-8")
    done = run_python("import autodeco_gguf", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "0.0.99" in last
    assert llama_cpp.__version__ in last


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from autodeco_gguf.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print([m for m in ('numpy', 'llama_cpp', 'torch', 'rich', 'huggingface_hub') if m in sys.modules])"
    )
    assert run_python(code).stdout.splitlines()[-1] == "[]"


def test_every_public_name_is_there() -> None:
    assert [name for name in ad.__all__ if not hasattr(ad, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = ad.missing


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_merged_file_is_memory_mapped(merged: Path) -> None:
    llama = load(merged)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(merged))]
    assert len(mapped) > 0
    llama.close()

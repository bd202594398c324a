"""What holds the package together: the llama_cpp it was built for, and names imported on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest

import autodeco_gguf as ad

SPINS = "1000"


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


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is how Linux has OpenMP")
@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_spin_for_a_bounded_time_unless_the_user_says_otherwise(variables: dict[str, str], spins: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import autodeco_gguf; autodeco_gguf.Llama"
    done = run_python(code, **kept, **variables, OMP_DISPLAY_ENV="verbose")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_every_public_name_is_there() -> None:
    assert [name for name in ad.__all__ if not hasattr(ad, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = ad.missing


NAMES = (
    *("Completion", "CreateCompletionResponse", "LLAMA_DEFAULT_SEED", "LlamaCache", "LlamaDiskCache"),
    *("LlamaRAMCache", "LlamaState", "LlamaTokenizer", "LogitsProcessor", "LogitsProcessorList"),
    *(
        "MinTokensLogitsProcessor",
        "StoppingCriteria",
        "StoppingCriteriaList",
        "llama_backend_init",
        "llama_chat_format",
    ),
)


def test_the_names_of_llama_cpp_are_here() -> None:
    for name in NAMES:
        assert getattr(ad, name) is getattr(llama_cpp, name)
    for name in ("Llama", "LlamaGrammar"):
        assert issubclass(getattr(ad, name), getattr(llama_cpp, name))
        assert getattr(ad, name) is not getattr(llama_cpp, name)
    with pytest.raises(ImportError, match="cannot import name 'LlamaGramar'"):
        exec("from autodeco_gguf import LlamaGramar")


def test_they_are_imported_on_use() -> None:
    look = "print('llama_cpp' in sys.modules)"
    code = f"import sys, autodeco_gguf; {look}; autodeco_gguf.LlamaGrammar; {look}"
    done = run_python(code, PYTHONPATH=str(Path(ad.__file__).parent.parent))
    assert done.stdout == "False\nTrue\n", done.stderr


def test_what_is_for_downloads_is_imported_by_them() -> None:
    look = "print([name for name in ('ssl', 'http') if name in sys.modules])"
    code = f"import sys, llama_cpp, autodeco_gguf; autodeco_gguf.Llama; {look}"
    done = run_python(code, PYTHONPATH=str(Path(ad.__file__).parent.parent))
    assert done.stdout == "[]\n", done.stderr

"""Names of architectures, llama.cpp's and transformers'."""

from __future__ import annotations

import pytest
from gguf.constants import MODEL_ARCH_NAMES

from autodeco_gguf.heads.architecture import are_different, transformers_name

LLAMA_CPP = sorted(MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("qwen2", "qwen2"),
        ("llama", "llama"),
        ("gpt-oss", "gpt_oss"),
        ("qwen3moe", "qwen3_moe"),
        ("phi2", "phi"),
        ("phi3", "phi3"),
        ("deepseek2", "deepseek_v3"),
        ("gemma3", "gemma3_text"),
        ("mistral3", "mistral3"),
        ("granite", "granite"),
        ("nemotron_h_moe", "nemotron_h"),
        ("nemotron_h", "nemotron_h"),
    ],
)
def test_transformers_name(ours: str, theirs: str) -> None:
    assert transformers_name(ours) == theirs
    assert not are_different(theirs, ours)


@pytest.mark.parametrize(
    ("name", "architecture", "different"),
    [
        ("mistral", "llama", False),
        ("mistral3", "llama", False),
        ("mistral3", "mistral3", False),
        ("mistral", "mistral3", False),
        ("llama", "mistral3", False),
        ("mistral3", "qwen2", True),
        ("mistral4", "mistral3", True),
        ("deepseek_v2", "deepseek2", False),
        ("GraniteForCausalLM", "granite", False),
        ("phi4", "phi3", False),
        ("phi", "phi3", True),
        ("nemotron_h", "nemotron_h_moe", False),
        ("nemotron_h", "nemotron_h", False),
        ("nemotron_h_moe", "qwen2", True),
        ("nemotron_h", "nemotron", True),
        ("qwen2", "qwen2moe", True),
        ("", "qwen2", False),
        ("something_new", "qwen2", False),
        ("qwen2", "", False),
    ],
)
def test_other_architectures(name: str, architecture: str, different: bool) -> None:
    assert are_different(name, architecture) == different


def test_all_of_llama_cpps_names_are_known() -> None:
    """As of gguf 0.19; what a later one adds is taken for a name that might be the same."""
    same = {"llama", "mistral3"}
    assert {name for name in LLAMA_CPP if are_different(name, "llama")} == set(LLAMA_CPP) - same

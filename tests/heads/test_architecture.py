"""Names of architectures, llama.cpp's and transformers'."""

from __future__ import annotations

import pytest
from gguf.constants import MODEL_ARCH_NAMES

from autodeco_gguf.heads import architecture
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
        ("command-r", "cohere"),
        ("granitehybrid", "granitemoehybrid"),
        ("hunyuan-dense", "hunyuan_v1_dense"),
        ("qwen35", "qwen3_5"),
        ("qwen3next", "qwen3_next"),
        ("starcoder", "gpt_bigcode"),
        ("mimo2", "mimo_v2_flash"),
        ("step35", "step3p5"),
        ("paddleocr", "paddleocr_vl"),
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
        ("mimo_v2", "mimo2", False),
        ("step3p5", "qwen2", True),
        ("deepseek_v2", "deepseek2", False),
        ("GraniteForCausalLM", "granite", False),
        ("granitemoehybrid", "granite", False),
        ("granitemoehybrid", "granitemoe", False),
        ("granitemoehybrid", "qwen2", True),
        ("cohere", "cohere2", True),
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


def test_names_that_are_written_are_transformers() -> None:
    """Those of its own architectures, which llama.cpp names with other hyphens, or otherwise where it is said how."""
    theirs = pytest.importorskip("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    same = {architecture._plain(name) for name in theirs}
    ours = [name for name in LLAMA_CPP if architecture._plain(name) in same or name in architecture._NAMES]
    assert {name for name in ours if transformers_name(name) not in theirs} == set()

"""The names of architectures: llama.cpp's, and those that transformers has for the same."""

from __future__ import annotations

import re

_NAMES = {
    "deepseek2": ("deepseek_v3", "deepseek_v2"),
    "gemma3": ("gemma3_text",),
    "granite": ("granite", "graniteforcausallm"),
    "llama": ("llama", "mistral", "mixtral", "smollm"),
    "phi2": ("phi",),
    "phi3": ("phi3", "phi4"),
    "qwen2moe": ("qwen2_moe",),
    "qwen3moe": ("qwen3_moe",),
}
"""llama.cpp's name -> transformers', where more than a hyphen differs; the first is the one to write."""

_ALIASES = {name.replace("_", ""): ours for ours, names in _NAMES.items() for name in names}


def transformers_name(architecture: str) -> str:
    """transformers' model type of one of llama.cpp's architectures.

    Examples:
        >>> transformers_name("qwen3moe"), transformers_name("gpt-oss")
        ('qwen3_moe', 'gpt_oss')
    """
    return _NAMES.get(architecture, (architecture.replace("-", "_"),))[0]


def are_different(name: str, architecture: str) -> bool:
    """Whether a name, transformers' or llama.cpp's, is that of another architecture; unknown ones might be the same.

    Examples:
        >>> are_different("mixtral", "llama"), are_different("qwen2", "llama"), are_different("new", "llama")
        (False, True, False)
    """
    from gguf.constants import MODEL_ARCH_NAMES

    known = {_plain(arch) for arch in MODEL_ARCH_NAMES.values()}
    ours, theirs = _ALIASES.get(_plain(name), _plain(name)), _plain(architecture)
    return ours in known and theirs in known and ours != theirs


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

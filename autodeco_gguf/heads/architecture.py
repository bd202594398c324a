"""The names of architectures: llama.cpp's, and those that transformers has for the same."""

from __future__ import annotations

import re

_NAMES = {
    "command-r": ("cohere",),
    "deepseek2": ("deepseek_v3", "deepseek_v2"),
    "gemma3": ("gemma3_text",),
    "glm-dsa": ("glm_moe_dsa",),
    "glm4moe": ("glm4_moe",),
    "gptneox": ("gpt_neox",),
    "granitehybrid": ("granitemoehybrid", "granite", "granitemoe", "graniteforcausallm"),  # without Mamba it is these
    "hunyuan-dense": ("hunyuan_v1_dense",),
    "hunyuan-moe": ("hunyuan_v1_moe",),
    "lfm2moe": ("lfm2_moe",),
    "llama": ("llama", "mistral", "mistral3", "mixtral", "smollm"),  # mistral3 until llama.cpp #17644
    "mimo2": ("mimo_v2_flash", "mimo_v2"),
    "modern-bert": ("modernbert",),
    "nemotron_h_moe": ("nemotron_h",),
    "paddleocr": ("paddleocr_vl",),
    "phi2": ("phi",),
    "phi3": ("phi3", "phi4"),
    "qwen2moe": ("qwen2_moe",),
    "qwen2vl": ("qwen2_vl",),
    "qwen35": ("qwen3_5",),
    "qwen35moe": ("qwen3_5_moe",),
    "qwen3moe": ("qwen3_moe",),
    "qwen3next": ("qwen3_next",),
    "qwen3vl": ("qwen3_vl",),
    "qwen3vlmoe": ("qwen3_vl_moe",),
    "starcoder": ("gpt_bigcode",),
    "step35": ("step3p5",),
}
"""llama.cpp's name -> transformers', where more than a hyphen differs; the first is the one to write."""

_LLAMA_CPP = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bert bitnet bloom chameleon chatglm clip codeshell
cogvlm cohere2 command-r dbrx deci deepseek deepseek2 deepseek2-ocr dots1 dream ernie4_5 ernie4_5-moe eurobert
exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe
gpt-oss gpt2 gptj gptneox granite granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl
internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-linear lfm2 lfm2moe llada llada-moe llama llama-embed
llama4 maincoder mamba mamba2 mimo2 minicpm minicpm3 minimax-m2 mistral3 mistral4 modern-bert mpt nemotron
nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded
phi2 phi3 phimoe plamo plamo2 plamo3 plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next
qwen3vl qwen3vlmoe refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 stablelm starcoder starcoder2
step35 t5 t5encoder wavtokenizer-dec xverse
"""
"""llama.cpp's names; of any other it cannot be said that it is a different one."""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_ALIASES = {_plain(name): _plain(ours) for ours, names in _NAMES.items() for name in names}


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
    known = {_plain(arch) for arch in _LLAMA_CPP.split()}
    ours, theirs = (_ALIASES.get(plain, plain) for plain in (_plain(name), _plain(architecture)))
    return ours in known and theirs in known and ours != theirs

"""Names and constants of the AutoDeco GGUF format, version 1 (docs/format.md)."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
PREFIX: Final = "autodeco."

BASE_VIEW: Final = "autodeco.base_view"
"""The I8 tensor that holds the base model's own header."""

BASE_SIZE: Final = "autodeco.base_size"
"""Bytes of the source file, only where it ends before the padding of its last tensor."""

BASE_SHA256: Final = "autodeco.base_sha256"
"""Adapters for a known model only: digest of the file that the heads are for."""

HEAD_PREFIX: Final = {"temperature": "temp_head", "top_p": "top_p_head"}
"""Head -> its name in tensor names, metadata keys and official checkpoints."""

FEATURES: Final = {
    True: ("temperature", "max_prob", "entropy", "prob_variance", "top5_prob"),
    False: ("temperature",),
}
"""use_enhanced_features -> what follows the hidden state in the top-p head's input."""

TEMPERATURE_SCALE: Final = 2.0
ACTIVATIONS: Final = ("relu", "gelu")
HEAD_TYPES: Final = ("f32", "f16", "bf16", "q8_0")


def tensor_name(head: str, layer: int, part: str) -> str:
    """The GGUF name of ``part`` ("weight" or "bias") of a head's layer."""
    return f"{PREFIX}{HEAD_PREFIX[head]}.{layer}.{part}"


def head_key(head: str, name: str) -> str:
    """The metadata key of a head's property: "activation", "scale" or "features"."""
    return f"{PREFIX}{HEAD_PREFIX[head]}.{name}"


def default_activation(n_layers: int) -> str:
    """ReLU for the paper's two linear layers, GELU for deeper heads as the SimpleDeco fork trains them."""
    return "relu" if n_layers <= 2 else "gelu"


def activation_key(head: str) -> str:
    """What a checkpoint's config calls a head's activation, where it is not the one that its depth implies."""
    return f"{HEAD_PREFIX[head]}_activation"

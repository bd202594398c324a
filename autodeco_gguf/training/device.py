"""Where torch works on the losses and the heads."""

from __future__ import annotations

import torch

from autodeco_gguf.errors import InvalidInput


def torch_device(name: str = "auto") -> torch.device:
    """The device of "cpu", "cuda" or "mps"; "auto": cuda, mps or cpu, the first there is.

    Raises:
        InvalidInput: this torch has none of them, or the name is another.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [device for device, is_there in there.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    if name not in usable:
        found = f"{name!r}, which torch {torch.__version__} does not have here"
        raise InvalidInput.of("torch_device", found if name in there else repr(name), f"auto, {', '.join(usable)}")
    return torch.device(name)

"""A device of torch that is made up: tensors that compute as the CPU's, and refuse to meet the CPU's."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""Its name: the autograd engine needs nothing for it."""

_CROSSING = ("aten._to_copy.default", "aten.copy_.default", "aten._local_scalar_dense.default")


class _There(torch.Tensor):
    """A tensor that says it is on :data:`DEVICE`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _There:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(function, args, kwargs or {})


def _dispatched(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if not isinstance(x, _There) and x.dim()]
    there = [x for x in tensors if isinstance(x, _There)]
    if here and there and str(function) not in _CROSSING:
        raise AssertionError(f"{function}: tensors of two devices")
    kwargs = dict(kwargs)
    wanted = kwargs.get("device")
    to_there = wanted == DEVICE if wanted is not None else bool(there)
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    if str(function) == "aten.copy_.default":
        to_there = isinstance(args[0], _There)
    inner = tree_map(lambda x: x.inner if isinstance(x, _There) else x, (args, kwargs))
    result = function(*inner[0], **inner[1])
    if str(function).split(".")[1].endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]  # in place
    return tree_map(lambda x: _There(x) if to_there and isinstance(x, torch.Tensor) else x, result)


class Elsewhere(TorchDispatchMode):
    """Within it tensors can be made on :data:`DEVICE`."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(function, args, kwargs or {})

"""ggml's devices, and which of them a model is put on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput

HOST = ("none", "cpu")
"""Names, in any case, for no device besides the CPU."""


class Device(NamedTuple):
    """A ggml device of this build.

    Attributes:
        name: as ``--device`` takes it.
        description: what it is, as its driver has it.
        kind: "cpu", "gpu", "igpu" (which shares the memory of the host), "accel" (which works for the CPU) or "meta".
        free: bytes of its memory that are free, as far as it says: of the CPU's, all are.
        total: bytes of its memory; 0 where it does not say.
        address: its ``ggml_backend_dev_t``.
    """

    name: str
    description: str
    kind: str
    free: int
    total: int
    address: int

    @property
    def takes_layers(self) -> bool:
        """Whether a model's layers can be put on it: what is of the CPU's kind has the rest anyway."""
        return self.kind in ("gpu", "igpu")


def list_devices() -> list[Device]:
    """The devices there are on this machine now."""
    return [Device(*device) for device in core.devices()]


def layer_devices() -> list[Device]:
    """Those of them that take layers: what a model is put on where nothing else is said."""
    return [device for device in list_devices() if device.takes_layers]


def device_names(
    device: str | Sequence[str] | None, arguments: dict[str, Any], workers: bool = False
) -> tuple[str, ...] | None:
    """Those of "A,B" or ["A", "B"].

    All layers go there, or to the workers where there are some, unless ``llama_cpp.Llama``'s arguments say something
    else.
    """
    if device is not None or workers:
        arguments.setdefault("n_gpu_layers", -1)
    if device is None:
        return None
    return tuple(name.strip() for name in device.split(",")) if isinstance(device, str) else tuple(device)


def find_devices(names: Sequence[str] | None) -> list[Device] | None:
    """The devices of these names, in their order, upper or lower case; none for one of :data:`HOST`; None for None.

    Raises:
        InvalidInput: there is no such device that takes layers, with those there are; or a name twice.
    """
    if names is None:
        return None
    if len(names) == 1 and names[0].casefold() in HOST:
        return []
    usable = {device.name.casefold(): device for device in layer_devices()}
    there = ", ".join([device.name for device in usable.values()] + ["none (the CPU alone)"])
    if not names:
        raise InvalidInput.of("device", "of no name", there)
    found: list[Device] = []
    for name in names:
        device = usable.get(name.casefold())
        if device is None:
            text = f"no device {name!r} that takes layers; there is {there}"
            raise InvalidInput(text, key="device", found=name, expected=there)
        if device in found:
            raise InvalidInput.of("device", f"{name} twice", "each once")
        found.append(device)
    return found


def after_remote(remote: Sequence[Device], names: Sequence[str] | None) -> list[Device] | None:
    """Those of workers first, so that the output layer is at hand, then those of the names, as :func:`find_devices`.

    None where there are neither workers nor names.
    """
    chosen = find_devices(names)
    if chosen is None:
        return [*remote, *layer_devices()] if remote else None
    return [*remote, *chosen]


Choice = Callable[[Sequence[Device]], Sequence[Device] | None]
"""Finds the devices for a model when it is loaded, given those of its workers; None: all GPUs."""


def put_on(params: Any, devices: Sequence[Device] | None) -> None:
    """Have a ``llama_model_params`` use these devices and the CPU, and no others; None: leave it to llama.cpp."""
    if devices is not None:
        array = (ctypes.c_void_p * (len(devices) + 1))(*(device.address for device in devices), None)
        params.devices = ctypes.addressof(array)
        params.devices_array = array  # lives as long as the parameters

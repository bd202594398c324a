"""``autodeco-gguf devices``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from autodeco_gguf.cli._common import Verb, human_size
from autodeco_gguf.errors import printable

if TYPE_CHECKING:
    from autodeco_gguf.model.devices import Device

_COLUMNS = ("name", "kind", "free", "total", "description")


@click.command("devices", cls=Verb)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array; memory in bytes, null where not known.")
def devices_command(as_json: bool) -> None:
    """List the devices that ggml has here, with their memory: names for --device, in the order of --tensor-split.

    A model's layers go on those of kind gpu, and igpu, which shares the host's memory; accel helps the CPU.

    Example: autodeco-gguf devices --json
    """
    from autodeco_gguf.model.devices import list_devices

    found = list_devices()
    if as_json:
        click.echo(json.dumps([_described(device) for device in found], ensure_ascii=False))
        return
    rows = [_COLUMNS, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _described(device: Device) -> dict[str, object]:
    memory = {"free": device.free, "total": device.total} if device.total else {"free": None, "total": None}
    return {"name": device.name, "description": device.description, "kind": device.kind, **memory}


def _row(device: Device) -> tuple[str, ...]:
    free, total = (human_size(n) if device.total else "" for n in (device.free, device.total))
    return printable(device.name), device.kind, free, total, printable(device.description)

"""``autodeco-gguf worker``."""

from __future__ import annotations

import click

from autodeco_gguf.cli._common import Verb, device_option, option
from autodeco_gguf.cli._types import IntRange
from autodeco_gguf.model.machine import default_threads

_LISTEN = "127.0.0.1:50052"


@click.command("worker", cls=Verb)
@option("--listen", metavar="HOST:PORT", default=_LISTEN, help="Where; port 0: any that is free.")
@device_option("What to lend; none: the CPU.  [default: all GPUs, or the CPU]")
@click.option("-t", "--threads", type=IntRange(1, 512), help="CPU threads.  [default: one a core, half above 4]")
@click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log.")
def worker_command(listen: str, device: tuple[str, ...] | None, threads: int | None, verbose: bool) -> None:
    """Lend this machine's devices to a model that runs on another one: its commands take --rpc HOST:PORT.

    It serves one program at a time, with llama.cpp's RPC, until Ctrl-C or SIGTERM. There is no authentication: whoever
    reaches the port can use the devices and what they hold. docs/cluster.md says more.

    Example: autodeco-gguf worker --listen 192.168.1.7:50052
    """
    from autodeco_gguf.model.rpc.address import parse_address
    from autodeco_gguf.model.rpc.worker import Worker, listening_address, stopped_by_sigterm, worker_devices

    address, devices = listening_address(parse_address(listen, key="listen", any_port=True)), worker_devices(device)
    if not address.host.startswith("127."):
        click.echo(f"warning: {address} has no authentication: let nobody but trusted machines reach it", err=True)
    with stopped_by_sigterm():
        worker = Worker(address, devices, threads or default_threads(), verbose=verbose)
        try:
            names = ", ".join(device.name for device in devices)
            click.echo(f"worker on {worker.address}: {names}", err=True)
            worker.run(lambda line: click.echo(line, err=True))
        finally:
            worker.close()

"""What docs/cluster.md shows is run, on ports that are free."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rpc_helpers import LOCAL, needs_rpc

from autodeco_gguf.model.rpc.worker import listening_address

TEXT = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT.split("## Many problems")[0], re.M | re.S)


@needs_rpc
def test_one_model_over_several_machines() -> None:
    ports = {port: str(listening_address(LOCAL).port) for port in ("50052", "50053")}
    workers, (run,) = [line for line in BLOCKS[0].splitlines() if line], BLOCKS[1].splitlines()
    assert [worker.split()[:2] for worker in workers] == [["autodeco-gguf", "worker"]] * 2
    started = []
    try:
        for worker in workers:
            started.append(subprocess.Popen(command(worker, ports), shell=True, stderr=subprocess.PIPE, text=True))
            assert started[-1].stderr is not None
            assert started[-1].stderr.readline().startswith("worker on 127.0.0.1:")
        done = subprocess.run(
            command(run, ports), shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "Mia" in done.stdout
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=30)


def command(line: str, ports: dict[str, str]) -> str:
    """As this Python runs it, without a shell of its own that would have to be ended too."""
    for port, free in ports.items():
        line = line.replace(port, free)
    return f"exec {line.replace('autodeco-gguf', f'{sys.executable} -m autodeco_gguf', 1)}"

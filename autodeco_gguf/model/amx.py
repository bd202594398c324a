"""Whether the CPU's AMX kernels, which some compilers get wrong, do not end the process.

GCC 12 lets the stores of the tile configuration be dropped, so that llama.cpp, compiled by it for a CPU with AMX, dies
of a segmentation fault in ``ggml_backend_amx_mul_mat`` at the first prompt of several tokens of a quantized model.
Where there is AMX, a child process tries; what came of it is remembered for this library on this CPU.
"""

from __future__ import annotations

import functools
import signal
import sys
import warnings
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from llama_cpp import llama_cpp as lib

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.folders import user_folder

_CPUINFO = Path("/proc/cpuinfo")

_LIMIT_S = 60.0
"""For the child, whose work is a second's."""

_WRONG = 3
"""The child's exit status where the products are wrong."""

_FAULTS = {n for n in signal.Signals if n.name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE", "SIGABRT")}
"""What a miscompiled kernel ends a process with; others come from outside."""

_WORKS = "works"


@functools.cache
def kernels_work() -> bool:
    """Whether llama.cpp may use its AMX kernels, or has none; said once, as a warning, where it may not.

    The answer is kept in ``autodeco-gguf/amx`` of the user's cache directory (XDG), unless the child was not to be
    started or ended from outside.
    """
    cpu = _amx_cpu()
    if cpu is None or b"AMX_INT8 = 1" not in lib.llama_print_system_info():
        return True
    remembered = _remembered(cpu)
    with suppress(OSError, UnicodeError):
        outcome = remembered.read_text()
        if outcome:
            return _said(outcome, remembered)
    from autodeco_gguf.tasks import workers  # which imports subprocess: longer than all else here takes on most CPUs

    outcome, is_sure = _tried(workers.python_command(__name__))
    if is_sure:
        with suppress(OSError, AutoDecoError):  # then the next process tries again
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(remembered, outcome.encode())
    return _said(outcome, remembered)


def _said(outcome: str, remembered: Path) -> bool:
    if outcome != _WORKS:
        text = f"llama.cpp's AMX kernels do not work ({outcome}): going on without them, slower; after building "
        text += f"llama-cpp-python as docs/devices.md says, it is tried anew; found out once, in {remembered}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return outcome == _WORKS


def _amx_cpu() -> str | None:
    """The model of this machine's CPU, None where it has no AMX."""
    model = ""
    with suppress(OSError), _CPUINFO.open(errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode"):
                model += line
            elif name.strip() == "flags":
                return model if "amx_tile" in value.split() else None
    return None


def _remembered(cpu: str) -> Path:
    """The file with what came of it for this library on this CPU."""
    folder = Path(lib._lib._name).parent  # noqa: SLF001  where llama_cpp has found it
    digest = sha256(cpu.encode())
    for library in sorted(folder.glob("*ggml*cpu*")):
        with suppress(OSError):
            digest.update(library.read_bytes())
    return user_folder("cache") / "amx" / digest.hexdigest()[:32]


def _tried(command: list[str]) -> tuple[str, bool]:
    """ "works" or what is wrong, by a child process, and whether that would come out again."""
    import subprocess

    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"a child process that tried them did not end within {_LIMIT_S:.0f} s", True
    except OSError as e:
        return f"no child process could try them: {e.strerror or e}", False
    if child.returncode == 0:
        return _WORKS, True
    if child.returncode == _WRONG:
        return f"wrong products: {child.stdout.strip()}", True
    if child.returncode < 0:
        number = -child.returncode
        named = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"a child process that tried them died of {named}", number in _FAULTS
    said = child.stderr.strip().splitlines()
    return f"a child process that tried them failed: {said[-1] if said else child.returncode}", False


def main() -> None:
    """What the child does: products of quantized matrices; it exits with 0, or dies."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, fault = core.extra_buffers_fault()
    if fault:
        print(fault)
        sys.exit(_WRONG)

"""AMX kernels that were miscompiled: found out by a child process, once, and gone on without."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib

import autodeco_gguf as ad
from autodeco_gguf._native import core
from autodeco_gguf.model import amx
from autodeco_gguf.model.amx import kernels_work
from autodeco_gguf.model.context import Context
from autodeco_gguf.tasks import workers

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu {flag} avx512_vnni

processor\t: 1
"""

DIES = "import os, signal; signal.signal(signal.SIGSEGV, signal.SIG_DFL); os.kill(os.getpid(), signal.{})"
"""A sanitizer has a handler of its own."""

Cpu = Callable[..., Path]


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cpu:
    """A machine with AMX, a llama.cpp compiled for it, and a child that runs what is given; the calls of the child."""
    calls = tmp_path / "calls"

    def make(child: str = "", flag: str = "amx_tile", compiled: bool = True, cache: Path = tmp_path / "cache") -> Path:
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(flag=flag))
        monkeypatch.setattr(amx, "_CPUINFO", tmp_path / "cpuinfo")
        info = b"CPU : AVX512_VNNI = 1 | AMX_INT8 = 1 | " if compiled else b"CPU : AVX512_VNNI = 1 | "
        monkeypatch.setattr(lib, "llama_print_system_info", lambda: info)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        code = f"open({str(calls)!r}, 'a').write('x'); {child}"
        monkeypatch.setattr(workers, "python_command", lambda _: [sys.executable, "-S", "-c", code])
        kernels_work.cache_clear()
        return calls

    yield make
    kernels_work.cache_clear()


def times(calls: Path) -> int:
    return len(calls.read_text()) if calls.exists() else 0


@pytest.mark.parametrize(("flag", "compiled"), [("avx512f", True), ("xamx_tile", True), ("amx_tile", False)])
def test_without_amx_nothing_is_tried(cpu: Cpu, flag: str, compiled: bool) -> None:
    calls = cpu(DIES.format("SIGSEGV"), flag, compiled)
    assert kernels_work()
    assert times(calls) == 0


def test_without_cpuinfo_nothing_is_tried(cpu: Cpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = cpu()
    monkeypatch.setattr(amx, "_CPUINFO", tmp_path / "none")
    assert kernels_work()
    assert times(calls) == 0


def test_kernels_that_work_are_remembered(cpu: Cpu) -> None:
    calls = cpu()
    for _ in range(2):
        assert kernels_work()
        kernels_work.cache_clear()
    assert times(calls) == 1


@pytest.mark.parametrize(
    ("child", "words"),
    [
        (DIES.format("SIGSEGV"), "died of SIGSEGV"),
        (DIES.format("SIGILL"), "died of SIGILL"),
        ("print('AMX q4_0'); raise SystemExit(3)", "wrong products: AMX q4_0"),
    ],
)
def test_kernels_that_do_not_are_said_once_and_remembered(cpu: Cpu, child: str, words: str) -> None:
    calls = cpu(child)
    for _ in range(2):  # processes
        with pytest.warns(RuntimeWarning, match=rf"AMX kernels do not work \(.*{words}\): going on") as told:
            assert (kernels_work(), kernels_work()) == (False, False)
        assert len(told) == 1
        assert "\n" not in str(told[0].message)
        kernels_work.cache_clear()
    assert times(calls) == 1


def test_a_child_that_hangs(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = cpu("import time; time.sleep(600)")
    monkeypatch.setattr(amx, "_LIMIT_S", 0.5)
    begin = time.monotonic()
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="did not end within"):
            assert not kernels_work()
        kernels_work.cache_clear()
    assert time.monotonic() - begin < 30
    assert times(calls) == 1


@pytest.mark.parametrize(
    ("child", "words"),
    [
        (DIES.format("SIGKILL"), "died of SIGKILL"),  # from outside, as where memory runs out
        ("raise ImportError('no module')", "failed: ImportError: no module"),
    ],
)
def test_what_may_come_out_otherwise_is_not_remembered(cpu: Cpu, child: str, words: str) -> None:
    calls = cpu(child)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=words):
            assert not kernels_work()
        kernels_work.cache_clear()
    assert times(calls) == 2


def test_no_child_can_be_started(cpu: Cpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu()
    monkeypatch.setattr(workers, "python_command", lambda _: [str(tmp_path / "none")])
    with pytest.warns(RuntimeWarning, match="no child process could try them: No such file"):
        assert not kernels_work()


def test_a_cache_that_cannot_be_written(cpu: Cpu, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calls = cpu(cache=tmp_path / "file")
    for _ in range(2):
        assert kernels_work()
        kernels_work.cache_clear()
    assert times(calls) == 2


def test_another_library_or_cpu_is_tried_anew(cpu: Cpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = cpu()
    assert kernels_work()
    info = (tmp_path / "cpuinfo").read_text()
    (tmp_path / "cpuinfo").write_text(info.replace("8480+", "8592+"))
    kernels_work.cache_clear()
    assert kernels_work()
    assert times(calls) == 2
    (tmp_path / "libggml-cpu.so").write_bytes(b"another build")
    monkeypatch.setattr(lib._lib, "_name", str(tmp_path / "libllama.so"))
    kernels_work.cache_clear()
    assert kernels_work()
    assert times(calls) == 3


@pytest.mark.parametrize(("child", "used"), [("", True), (DIES.format("SIGSEGV"), False)])
def test_whatever_loads_a_model_does_without_them(
    cpu: Cpu, child: str, used: bool, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(child)
    seen = []
    load, load_inside = lib.llama_model_load_from_file, lib.llama_model_load_from_file_ptr

    def watched(function: Callable[..., object]) -> Callable[..., object]:
        return lambda file, params: (seen.append(bool(params.use_extra_bufts)), function(file, params))[1]

    monkeypatch.setattr(lib, "llama_model_load_from_file", watched(load))
    monkeypatch.setattr(lib, "llama_model_load_from_file_ptr", watched(load_inside))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ad.Llama(merged, n_ctx=64, verbose=False).close()
        Context(merged, n_ctx=64).close()
        ad.Engine(merged, n_parallel=1, n_ctx=64).close()
    assert seen == [used] * 3


def test_a_vocabulary_alone_needs_no_kernels(cpu: Cpu, merged: Path) -> None:
    calls = cpu(DIES.format("SIGSEGV"))
    ad.Llama(merged, vocab_only=True, verbose=False).close()
    assert times(calls) == 0


def test_the_child(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on the kernels that this build has, and with products that are wrong."""
    outcome = amx._tried(workers.python_command(amx.__name__))
    assert outcome == ("works", True)
    monkeypatch.setattr(core, "extra_buffers_fault", lambda: (1, "AMX q8_0"))
    with pytest.raises(SystemExit, match=r"^3$"):
        amx.main()
    assert capfd.readouterr().out == "AMX q8_0\n"


def test_what_the_child_compares() -> None:
    n, fault = core.extra_buffers_fault()
    assert fault == ""
    if b"REPACK = 1" in lib.llama_print_system_info() and hasattr(os, "uname") and os.uname().machine == "x86_64":
        assert n > 0


def test_signals_that_are_faults() -> None:
    assert signal.SIGSEGV in amx._FAULTS
    assert not amx._FAULTS & {signal.SIGKILL, signal.SIGTERM, signal.SIGINT}

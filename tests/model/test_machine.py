"""What a model runs on, for an Engine, a Context and a Llama alike."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from broken import write_gguf

import autodeco_gguf as ad
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.model import machine
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine, cpu_quota, default_threads


@pytest.mark.parametrize(("cores", "threads"), [(None, 1), (1, 1), (2, 2), (4, 4), (5, 2), (6, 3), (64, 32)])
def test_default_threads(cores: int | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: math.inf)
    assert default_threads() == threads == Machine().threads
    assert Machine(n_threads=7).threads == 7


@pytest.mark.parametrize(
    ("allowed", "quota", "threads"),
    [(64, 1.5, 1), (64, 0.5, 1), (64, 7.65, 7), (1, math.inf, 1), (3, 2.0, 2), (3, 8.0, 3), (64, 100.0, 32)],
)
def test_default_threads_are_no_more_than_the_process_may_use(
    allowed: int, quota: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert default_threads() == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_of_the_machine_is_one_thread() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from autodeco_gguf.model.machine import default_threads; print(default_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout == b"1\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_model_on_one_core_of_the_machine_runs_and_reads_prompts_with_one_thread(merged: Path) -> None:
    code = f"""if True:
        import os, sys
        os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
        import llama_cpp
        from autodeco_gguf.model import machine
        from autodeco_gguf.model.context import Context
        machine._SMALL_MODEL = 0
        os.cpu_count = lambda: 8
        ctx = Context({str(merged)!r}, n_ctx=64)._ctx.ctx
        print(llama_cpp.llama_n_threads(ctx), llama_cpp.llama_n_threads_batch(ctx))
    """
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout == b"1 1\n"


def test_a_thread_that_is_asked_for_reads_prompts_alone(merged: Path) -> None:
    context = Context(merged, n_ctx=64, machine=Machine(n_threads=1))
    ctx = context._ctx.ctx
    assert (llama_cpp.llama_n_threads(ctx), llama_cpp.llama_n_threads_batch(ctx)) == (1, 1)
    context.close()


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),  # a parent's limit
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3.0),
        ("0::/docker/abc", {"cpu.max": "100000 100000"}, 1.0),  # the host's path, seen within the container
        (
            "5:cpu,cpuacct:/job\n4:cpuset:/\n0::/",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, math.inf),
        ("1:cpu:/x\n0::/y", {"cpu/x/cpu.cfs_quota_us": "100000", "cpu/x/cpu.cfs_period_us": "50000"}, 2.0),
        ("0::/y", {"unified/y/cpu.max": "100000 50000"}, 2.0),
        ("3:cpuset:/z", {"z/cpu.max": "1 1"}, math.inf),  # another controller's group
        ("", {"cpu.max": "100000 100000"}, math.inf),  # no groups: no Linux
        ("0::/", {"cpu.max": ""}, math.inf),
        ("0::/", {"cpu.max": "\xff\xfe nonsense"}, math.inf),
    ],
)
def test_quota_of_control_groups(groups: str, files: dict[str, str], quota: float, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text, encoding="latin-1")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "fs") == quota
    assert cpu_quota(tmp_path / "none", tmp_path / "fs") == math.inf


def test_it_is_a_value() -> None:
    assert Machine(n_threads=2) == Machine(n_threads=2) != Machine()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Machine().verbose = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("split_mode", ["x"], "none, layer, row or tensor"),
        ("rpc_timeout", [-1.0], "seconds, more than 0"),
        ("n_threads", [0, -5, 513, "a", True], "1 to 512"),
        ("cache_type", ["q8_0"], "f16 or f32"),
        ("device", ["none"], "a tuple of names"),
    ],
)
def test_what_it_cannot_be(name: str, wrong: list[Any], expected: str) -> None:
    for value in wrong:
        with pytest.raises(InvalidInput, match=f"^{name} {value!r}, expected {expected}$"):
            Machine(**{name: value})


@pytest.mark.parametrize("cache_type", ["f16", "f32"])
def test_a_llama_takes_it(cache_type: str, merged: Path) -> None:
    one = Machine(n_threads=1, n_gpu_layers=0, cache_type=cache_type)  # type: ignore[arg-type]
    llama = ad.Llama(merged, n_ctx=64, **one.llama_arguments())
    expected = llama_cpp.GGML_TYPE_F32 if cache_type == "f32" else llama_cpp.GGML_TYPE_F16
    params = llama.context_params
    assert (params.type_k, params.type_v, params.n_threads, params.n_threads_batch) == (expected, expected, 1, 1)
    assert (llama.model_params.n_gpu_layers, llama.verbose) == (0, False)


def test_a_context_computes_what_a_llama_does(merged: Path) -> None:
    one = Machine(n_threads=1, cache_type="f32")
    llama = ad.Llama(merged, n_ctx=64, logits_all=True, **one.llama_arguments())
    llama.eval([5, 6, 7])
    context = Context(merged, n_ctx=64, machine=one)
    logits, _ = context.decode([5, 6, 7], range(3), [0] * 3, hidden=False)
    np.testing.assert_array_equal(logits, llama.scores[:3])
    context.close()


def test_a_llama_reads_the_prompt_with_the_threads_that_it_was_given(merged: Path) -> None:
    params = ad.Llama(merged, n_ctx=64, n_threads=1, verbose=False).context_params
    assert (params.n_threads, params.n_threads_batch) == (1, 1)
    params = ad.Llama(merged, n_ctx=64, n_threads=1, n_threads_batch=2, verbose=False).context_params
    assert (params.n_threads, params.n_threads_batch) == (1, 2)


def test_a_small_model_gets_one_thread(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)

    def threads() -> tuple[int, int, int]:
        params = ad.Llama(merged, n_ctx=64, verbose=False).context_params
        assert params.n_threads == params.n_threads_batch
        context = Context(merged, n_ctx=64)
        n_threads = llama_cpp.llama_n_threads(context._ctx.ctx)
        context.close()
        return params.n_threads, n_threads, default_threads(GgufFile(merged))

    assert threads() == (1, 1, 1)
    monkeypatch.setattr(machine, "_SMALL_MODEL", merged.stat().st_size)
    assert threads() == (2, 2, 2)


def test_a_small_first_shard_is_no_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    for shards, threads in ((1, 1), (2, 4)):
        count = (shards, gguf.GGUFValueType.UINT16)
        path = write_gguf(tmp_path / f"{shards}.gguf", {"split.count": count}, [])
        assert default_threads(GgufFile(path)) == threads

"""Loading: what llama.cpp would crash on is refused before, and its own reasons are told."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from broken import Kind, rewrite
from conftest import Case
from llama_cpp import llama_cpp as lib

import autodeco_gguf as ad
from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, Closed
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.loading import freed, watched
from autodeco_gguf.model.shipped import DEMO_MODEL

REFUSED = {
    "blocks": ({"qwen2.block_count": (513, Kind.UINT32)}, "llama.cpp would crash on it: 513 blocks"),
    "another shape": (
        {"qwen2.attention.head_count": None},
        "cannot be loaded: .* 'blk.0.attn_k.weight' has wrong shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, qwen2: Case, tmp_path: Path) -> None:
    metadata, message = REFUSED[name]
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=metadata)
    for load in (lambda: Context(path, n_ctx=32), lambda: ad.Llama(path, heads_enabled=(), verbose=False)):
        with pytest.raises(BadFile, match=f"^{re.escape(str(path))}: {message}") as caught:
            load()
        assert caught.value.file == str(path)


def test_a_merged_file_is_loaded_from_where_the_base_stands(merged: Path, qwen2: Case) -> None:
    contexts = [Context(path, n_ctx=32) for path in (merged, qwen2.base)]
    assert contexts[0].metadata == contexts[1].metadata
    assert contexts[0].hidden_size == contexts[1].hidden_size == 64


def test_prints_of_other_threads_are_not_lost(merged: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """llama_cpp sends the output of the process to /dev/null while it loads."""
    loads, told = 6, threading.Event()

    def tell() -> None:
        while not told.wait(0.0005):
            os.write(1, b"x")
            written.append(1)

    written: list[int] = []
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    streams = sys.stdout, sys.stderr
    for _ in range(loads):
        Context(merged, n_ctx=32).close()
        ad.Llama(merged, n_ctx=32, verbose=False).close()
    told.set()
    thread.join(60)
    assert capfd.readouterr().out == "x" * len(written)
    assert (sys.stdout, sys.stderr) == streams


def test_two_loads_at_once_leave_llama_cpp_as_it_was(merged: Path) -> None:
    before = lib.llama_model_load_from_file, lib.llama_init_from_model, llama_cpp.llama.suppress_stdout_stderr
    threads = [threading.Thread(target=Context, args=(merged,), kwargs={"n_ctx": 32}, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    after = lib.llama_model_load_from_file, lib.llama_init_from_model, llama_cpp.llama.suppress_stdout_stderr
    assert after == before


def test_what_is_freed_says_so(merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    model = context._model
    freed([context._ctx], merged)
    freed([model], merged)
    freed([model], merged)
    for use in (lambda: model.n_vocab(), lambda: model.vocab, lambda: model.model):
        with pytest.raises(Closed, match=r"the model is closed$"):
            use()


def test_a_load_is_watched_and_ends_for_what_is_raised(merged: Path) -> None:
    shares: list[float] = []
    with watched(shares.append):
        Context(merged, n_ctx=32).close()
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)

    def ctrl_c(share: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with watched(ctrl_c), pytest.raises(KeyboardInterrupt):
        Context(merged, n_ctx=32)
    seen = len(shares)
    Context(merged, n_ctx=32).close()
    assert len(shares) == seen


NO_MEMORY = """
import resource, sys
from autodeco_gguf.model.context import Context

context = Context(sys.argv[1], n_ctx=32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), -1))
for make in (lambda: Context(sys.argv[1], n_ctx=10**6), lambda: context.resize(10**6, 1)):
    try:
        make()
    except Exception as e:
        print(type(e).__name__, e, *e.__notes__, sep="\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit, and how much is used")
def test_what_llama_cpp_says_of_a_context_without_memory() -> None:
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, DEMO_MODEL], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    cause = r"insufficient memory \(attempted to allocate .* MB\)"
    assert re.fullmatch(rf"{re.escape(str(DEMO_MODEL))}: cannot be loaded: {cause}", lines[1])
    assert re.fullmatch(rf".*: no context of 1 times 1000000 tokens: {cause}", lines[6])
    assert (lines[0], lines[5]) == ("BadFile", "ModelFailed")
    assert lines[2:5] == lines[7:]
    assert lines[4] == "llama.cpp: failed to initialize the context: failed to allocate buffer for kv cache"
    assert done.stderr == ""


def failed(adapter: Path) -> BadFile:
    """A load that fails for its LoRA adapter; the error holds the frames of what was going on."""
    with pytest.raises(BadFile, match="no LoRA adapter for") as caught:
        ad.Llama(DEMO_MODEL, lora_path=str(adapter), n_ctx=32, verbose=False)
    return caught.value


def opened(function: Callable[[], object]) -> bool:
    """Whether another thread gets through with it."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_an_error_that_is_kept_keeps_no_thread_waiting(tmp_path: Path) -> None:
    error = failed(tmp_path / "none.gguf")
    assert opened(lambda: GgufFile(DEMO_MODEL))
    assert error.file == str(tmp_path / "none.gguf")


def test_errors_may_go_in_any_order_and_thread(tmp_path: Path) -> None:
    errors = [failed(tmp_path / f"{i}.gguf") for i in range(3)]
    del errors[0]
    gc.collect()
    assert opened(lambda: (errors.clear(), gc.collect()))
    assert opened(lambda: GgufFile(DEMO_MODEL))
    failed(tmp_path / "again.gguf")


def test_a_log_that_is_closed_tells_what_it_took_and_no_more(tmp_path: Path) -> None:
    with core.LogCapture(False) as outer:
        with core.LogCapture(False) as inner:
            assert not lib.llama_model_load_from_file(os.fsencode(tmp_path / "a"), lib.llama_model_default_params())
        inner.__exit__(None, None, None)
        assert opened(lambda: inner.__exit__(None, None, None))
        assert not lib.llama_model_load_from_file(os.fsencode(tmp_path / "b"), lib.llama_model_default_params())
    assert (str(tmp_path / "a") in inner.first_error, str(tmp_path / "b") in outer.first_error) == (True, True)
    assert opened(lambda: GgufFile(DEMO_MODEL))


def test_a_log_keeps_the_first_error_and_the_last_ones(tmp_path: Path) -> None:
    with core.LogCapture(False) as log:
        for name in "abcdefgh":
            assert not lib.llama_model_load_from_file(os.fsencode(tmp_path / name), lib.llama_model_default_params())
    named = [name for name in "abcdefgh" if any(str(tmp_path / name) in line for line in log.later_errors)]
    assert (str(tmp_path / "a") in log.first_error, named) == (True, ["h"])
    assert "failed to load model" not in log.later_errors
    with core.LogCapture(True) as log:  # whose lines are printed
        assert not lib.llama_model_load_from_file(os.fsencode(tmp_path / "a"), lib.llama_model_default_params())
    assert (str(tmp_path / "a") in log.first_error, log.later_errors) == (True, [])


FORK = """
import os, signal, threading
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.loading import loading, watched
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.heads.model_file import ModelFile
file, inside, forked = ModelFile.open(DEMO_MODEL).base(), threading.Event(), threading.Event()

def load():
    with watched(lambda _: (inside.set(), forked.wait())):
        print(Context(DEMO_MODEL, n_ctx=32).n_seq, flush=True)

thread = threading.Thread(target=load)
thread.start()
inside.wait()
if os.fork() == 0:
    signal.alarm(30)
    for use in (lambda: ModelFile.open(DEMO_MODEL), lambda: loading(file, False, devices=lambda _: None).__enter__()):
        try:
            use()
        except AutoDecoError as e:
            print(type(e).__name__, e, flush=True)
    os._exit(0)
status = os.wait()[1]
forked.set()
thread.join()
assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_loads() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    error = "ModelFailed the process forked while a model was being loaded"
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [error, error, "1"], done.stderr


def test_a_cause_alone_where_the_log_says_no_more(qwen2: Case, tmp_path: Path) -> None:
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=REFUSED["another shape"][0])
    with pytest.raises(BadFile) as caught:
        Context(path, n_ctx=32)
    assert caught.value.__notes__ == []


class Alarm(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer's signal")
def test_a_signal_while_it_loads_is_not_lost(qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in llama.cpp's callback it comes, before its first line too."""

    def endless(_: bytes, params: Any) -> None:
        for _ in range(300_000):
            if not params.progress_callback(0.5, params.progress_callback_user_data):
                return

    def ring(*_: object) -> None:
        raise Alarm

    monkeypatch.setattr(lib, "llama_model_load_from_file", endless)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for i in range(20):
            signal.setitimer(signal.ITIMER_REAL, 0.05 + 0.0007 * i)
            with pytest.raises(Alarm), watched(lambda _: None):
                ad.Llama(qwen2.base, heads_enabled=(), n_threads=1, verbose=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)

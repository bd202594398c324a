"""A model on workers: it computes the same there, and one that is not there or is lost is an error that names it."""

from __future__ import annotations

import gc
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import conftest
import numpy as np
import pytest
from conftest import Case
from rpc_helpers import (
    GRAPH_COMPUTE,
    GRAPH_RECOMPUTE,
    SET_TENSOR,
    addresses,
    at_command,
    kill,
    listening,
    needs_rpc,
    nobody,
    restarted,
    running,
    stop,
)
from server_helpers import wait_until

import autodeco_gguf as ad
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.rpc import protocol, relay
from autodeco_gguf.model.rpc.remote import NOBODY, connect_workers
from autodeco_gguf.model.rpc.worker import Worker

pytestmark = needs_rpc

PROMPT = [0, 284, 97, 12, 301, 55, 170, 8]


def on(workers: list[Worker], **kwargs: object) -> Machine:
    """A machine whose model is on workers alone."""
    arguments = {"n_threads": 1, "device": ("none",), "cache_type": "f32", "rpc_timeout": 20.0, **kwargs}
    return Machine(rpc=addresses(workers), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two() -> Iterator[list[Worker]]:
    """Two workers that the tests leave as they are."""
    with running(2) as workers:
        yield workers


def computed(patch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many graphs relays pass on to each worker from now on."""
    found: dict[str, int] = {}
    pass_on = relay.Relay._send

    def counting(self: relay.Relay, upstream: socket.socket | None, data: bytes) -> None:
        if len(data) == protocol.HEADER.size and data[0] in (GRAPH_COMPUTE, GRAPH_RECOMPUTE):
            found[str(self.worker)] = found.get(str(self.worker), 0) + 1
        pass_on(self, upstream, data)

    patch.setattr(relay.Relay, "_send", counting)
    return found


# ---- the same as here ----


def test_predictions_are_those_of_the_official_code(
    case: Case, merged_of: Callable[[Case], Path], two: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = computed(monkeypatch)
    llama = conftest.load(merged_of(case), f32_cache=True, rpc=addresses(two), device="none")
    found = llama.predict(case.tokens)
    for name, values in zip(("temperature", "top_p"), found, strict=True):
        expected = case.golden[name] if case.golden[f"has_{name}"] else np.ones(48)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    llama.close()
    assert graphs.keys() == set(addresses(two))


def test_the_heads_in_the_graph_predict_the_same_there(
    case: Case, merged_of: Callable[[Case], Path], two: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = computed(monkeypatch)
    with ad.Engine(merged_of(case), n_parallel=2, n_ctx=64, machine=on(two)) as engine:
        (result, _) = engine.generate([ad.Request(case.tokens[:20], seed=s, max_tokens=20) for s in (3, 4)])
        assert engine._predictor.attached or not engine.heads
    assert graphs.keys() == set(addresses(two))
    tokens = [*case.tokens[:20], *result.trace.ids]
    expected = conftest.load(merged_of(case), f32_cache=True).predict(tokens[:-1])
    for name, values in zip(("temperature", "top_p"), expected, strict=True):
        found = [getattr(token, name) for token in result.trace]
        np.testing.assert_allclose(found, values[19:], rtol=0, atol=1e-5)


def test_the_same_tokens_for_the_same_seed(merged: Path, two: list[Worker]) -> None:
    found = []
    for machine in (on([]), on(two)):
        llama = ad.Llama(merged, n_ctx=64, seed=7, **machine.llama_arguments())
        found.append([token for token, _ in zip(llama.generate(PROMPT), range(20), strict=False)])
        llama.close()
    assert found[0] == found[1]


def test_features_for_training_come_from_there(qwen2: Case, two: list[Worker]) -> None:
    found = []
    for machine in (on([]), on(two)):
        context = Context(qwen2.base, n_ctx=64, n_seq=1, machine=machine)
        logits, hidden = context.decode(qwen2.tokens[:12], range(12), [0] * 12, hidden=True)
        assert hidden is not None
        found.append((logits.copy(), hidden.copy()))
        context.close()
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_shares_of_workers(merged: Path, two: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = computed(monkeypatch)
    for machine, used in (
        (on(two, tensor_split=(0.0, 1.0)), 1),
        (on(two, main_gpu=0), 0),
    ):
        graphs.clear()
        context = Context(merged, n_ctx=64, machine=machine)
        context.decode(PROMPT, range(8), [0] * 8, hidden=False)
        context.close()
        assert graphs.keys() == {addresses(two)[used]}
    for machine, words in (
        (
            on(two, tensor_split=(1.0, 1.0, 1.0)),
            f"^tensor_split of 3 devices, expected at most 2: {', '.join(addresses(two))}$",
        ),
        (on(two, main_gpu=2), "^main_gpu 2, expected the number, from 0, of one of 127"),
    ):
        for load in (lambda m=machine: Context(merged, n_ctx=64, machine=m), machine.llama_arguments):
            with pytest.raises(InvalidInput, match=words):
                load()


def test_a_model_that_names_no_workers_is_not_put_on_them(
    merged: Path, two: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    Context(merged, n_ctx=64, machine=on(two)).close()
    graphs = computed(monkeypatch)
    context = Context(merged, n_ctx=64, machine=Machine(n_threads=1))
    context.decode(PROMPT, range(8), [0] * 8, hidden=False)
    context.close()
    assert graphs == {}
    assert "RPC" not in "".join(device.name for device in ad.model.devices.list_devices())


def test_two_models_on_one_worker(merged: Path, two: list[Worker]) -> None:
    with (
        ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(two)) as first,
        ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(two[:1])) as second,
    ):
        request = ad.Request(PROMPT, seed=1, max_tokens=8)
        assert first.generate([request])[0].trace.ids == second.generate([request])[0].trace.ids


def test_nobody() -> None:
    assert not NOBODY
    assert connect_workers((), 1.0) is NOBODY
    assert NOBODY.lost is None
    with NOBODY.guarding(), pytest.raises(ZeroDivisionError):
        _ = 1 // 0


# ---- not there ----


def refused(words: str, *workers: str) -> None:
    """None of what loads a model goes on without them."""
    machine = Machine(rpc=workers)
    for load in (machine.remote, machine.llama_arguments):
        with pytest.raises(ModelFailed, match=words):
            load()


def test_nothing_listens() -> None:
    with nobody() as address:
        refused(
            rf"^worker {address}: connection refused; start it there: autodeco-gguf worker --listen {address}$", address
        )


def test_the_second_of_two_is_missing(merged: Path, two: list[Worker]) -> None:
    with nobody() as address:
        workers = (*addresses(two[:1]), address)
        for load in (
            lambda: ad.Llama(merged, rpc=workers, verbose=False),
            lambda: Context(merged, n_ctx=8, machine=Machine(rpc=workers)),
        ):
            with pytest.raises(ModelFailed, match=rf"^worker {address}: connection refused"):
                load()


@pytest.mark.parametrize("size", [3, 28])
def test_another_version(size: int) -> None:
    answer = protocol.SIZE.pack(size) + bytes([4, 0, 1]).ljust(size, b"\0")
    with listening(lambda c: (c.recv(100), c.sendall(answer))) as address:
        refused(
            rf"^worker {address}: version 4\.0\.1 of llama.cpp's RPC protocol, expected 7\.0: have the same llama.cpp ",
            address,
        )


def test_an_old_version_that_does_not_know_a_new_hello() -> None:
    def old(connection: socket.socket) -> None:
        if protocol.HEADER.unpack(protocol.receive(connection, 9)) == (protocol.HELLO, 0):
            connection.sendall(protocol.SIZE.pack(3) + bytes([3, 5, 2]))

    with listening(old) as address:
        refused(rf"^worker {address}: version 3\.5\.2 of .*, expected 7\.0", address)


def test_what_is_no_worker() -> None:
    with listening(lambda c: c.recv(4)) as address:
        refused(rf"^worker {address}: it closed the connection: no RPC worker of llama.cpp", address)
    with listening(lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2p1")) as address:
        refused(rf"^worker {address}: what answers is no RPC worker of llama.cpp$", address)


def test_one_that_hangs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_S", 0.3)
    done = threading.Event()
    with listening(lambda c: done.wait(30)) as address:
        with pytest.raises(
            ModelFailed, match=rf"^worker {address}: no answer within .* s: it hangs, or serves another"
        ):
            connect_workers([address], 1.0)
        done.set()


def test_one_that_serves_somebody_else(two: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_S", 0.3)
    with running() as workers, socket.create_connection(workers[0].address, timeout=30) as other:
        protocol.hello(other)
        with pytest.raises(ModelFailed, match=r"serves another program, which it does one at a time$"):
            connect_workers(addresses(workers), 1.0)
        other.close()
        assert connect_workers(addresses(workers), 1.0).lost is None


def test_a_host_that_is_none() -> None:
    with pytest.raises(ModelFailed, match=r"^worker nobody\.invalid:50052: .*(name|address|resolution)"):
        connect_workers("nobody.invalid:50052", 1.0)
    with pytest.raises(InvalidInput, match=r"^rpc 'laptop', expected host:port"):
        connect_workers("laptop", 1.0)


# ---- lost ----

LOST = r"^worker {}: lost: (it closed the connection|the connection was closed|connection reset by peer|broken pipe)$"


def lost(worker: Worker) -> str:
    return LOST.format(re.escape(str(worker.address)))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("n", [1, 9])
def test_lost_while_a_model_is_loaded(n: int, which: int, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(2) as workers:
        at_command(monkeypatch, [SET_TENSOR], n, lambda: kill(workers[which]))
        for load in (
            lambda: Context(merged, n_ctx=64, machine=on(workers)),
            lambda: ad.Llama(merged, n_ctx=64, rpc=addresses(workers), device="none", verbose=False),
        ):
            with pytest.raises(ModelFailed, match=rf"^worker {workers[which].address}: (lost: |connection refused)"):
                load()


def test_lost_while_a_prompt_is_read(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(2) as workers, ad.Engine(merged, n_parallel=2, n_ctx=256, machine=on(workers)) as engine:
        requests = [ad.Request(PROMPT * 20, seed=s, max_tokens=4) for s in (1, 2)]
        engine.generate(requests[:1])
        at_command(monkeypatch, [GRAPH_COMPUTE, GRAPH_RECOMPUTE], 1, lambda: kill(workers[1]))
        with pytest.raises(ModelFailed, match=lost(workers[1])):
            engine.generate([ad.Request([3, *PROMPT * 20], max_tokens=4)])
        with pytest.raises(ModelFailed, match=lost(workers[1])):  # and it stays so
            engine.generate(requests)


@pytest.mark.parametrize("n", range(5, 11))
def test_lost_while_tokens_are_drawn(n: int, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on([]))
    request = ad.Request(PROMPT, seed=5, max_tokens=40, logit_bias=dict.fromkeys((1, 2), -np.inf))
    tokens = expected.generate([request])[0].trace.ids
    expected.close()
    drawn: list[int] = []
    with running(2) as workers, ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers)) as engine:
        # between two tokens there are also inputs that are sent, and the results of each worker
        at_command(monkeypatch, [SET_TENSOR, GRAPH_COMPUTE, protocol.GET_TENSOR], 40 + n, lambda: kill(workers[n % 2]))
        with pytest.raises(ModelFailed, match=lost(workers[n % 2])):
            drawn.extend(piece.token.id for piece in engine.submit(request))
        assert drawn == tokens[: len(drawn)]  # nothing was drawn from what is not there
        assert len(drawn) < 40


def test_lost_between_two_requests_and_there_again(merged: Path) -> None:
    request = ad.Request(PROMPT, seed=5, max_tokens=6)
    with running(2) as workers:
        with ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers)) as engine:
            tokens = engine.generate([request])[0].trace.ids
            kill(workers[0])
            wait_until(lambda: engine.context.lost is not None)  # without anything being asked of it
            assert re.match(lost(workers[0]), engine.context.lost or "")
            with pytest.raises(ModelFailed, match=lost(workers[0])):
                engine.generate([request])
        with pytest.raises(ModelFailed, match=f"^worker {workers[0].address}: connection refused"):
            ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers))
        again = restarted(workers[0])
        try:
            with ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers)) as engine:
                assert engine.generate([request])[0].trace.ids == tokens
                assert engine.context.lost is None
        finally:
            again.close()


def test_another_model_that_is_closed(merged: Path) -> None:
    request = ad.Request(PROMPT, seed=5, max_tokens=6)
    with running(2) as workers, ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers)) as engine:
        expected = engine.generate([request])[0].trace.ids
        Context(merged, n_ctx=64, machine=on(workers)).close()
        assert engine.generate([request])[0].trace.ids == expected


def test_garbage_that_a_relay_collects(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lets go of on a worker would wait for the very thread that is to pass it on."""
    request = ad.Request(PROMPT, seed=5, max_tokens=6)
    done = threading.Event()
    with running(2) as workers, ad.Engine(merged, n_parallel=1, n_ctx=64, machine=on(workers)) as engine:
        expected = engine.generate([request])[0].trace.ids
        dropped = [ad.Engine(merged, n_ctx=64, machine=on(workers)), Context(merged, n_ctx=64, machine=on(workers))]
        dropped.append(ad.Llama(merged, n_ctx=64, n_gpu_layers=-1, rpc=addresses(workers), device="none"))
        gc.disable()  # until a relay's thread does it
        try:
            dropped.append(dropped)
            del dropped
            at_command(monkeypatch, [protocol.GET_TENSOR], 2, lambda: (gc.collect(), done.set()))
            with ThreadPoolExecutor(1) as thread:
                found = thread.submit(lambda: engine.generate([request])[0].trace.ids)
                assert found.result(60.0) == expected
            assert done.is_set()
            assert relay._put_off
            connect_workers(addresses(workers), 10.0)  # as whoever loads the next model
            assert not relay._put_off
            assert engine.generate([request])[0].trace.ids == expected
        finally:
            gc.enable()


def test_one_that_hangs(merged: Path) -> None:
    with running(2) as workers, ad.Engine(merged, n_ctx=64, machine=on(workers, rpc_timeout=1.0)) as engine:
        engine.generate([ad.Request(PROMPT, max_tokens=2)])
        stop(workers[1])
        words = rf"^worker {workers[1].address}: lost: it did not answer within 1 s$"
        with pytest.raises(ModelFailed, match=words):
            engine.generate([ad.Request(PROMPT, max_tokens=2)])


def test_a_llama_says_so_too(merged: Path, qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(1) as (worker,):
        remote = connect_workers(addresses([worker]), 20.0)
        llama = ad.Llama(merged, n_ctx=64, rpc=remote, device="none", verbose=False)
        assert llama.__getstate__()["rpc"] == addresses([worker])
        llama.create_completion(PROMPT, max_tokens=4)
        state = llama.save_state()
        at_command(monkeypatch, [protocol.GET_TENSOR], 5, lambda: kill(worker))
        for use in (
            lambda: llama.create_completion(PROMPT, max_tokens=30, seed=1),
            lambda: llama.predict(qwen2.tokens),
            lambda: llama.eval([5]),
            llama.save_state,
            lambda: llama.load_state(state),
        ):
            with pytest.raises(ModelFailed, match=lost(worker)):
                use()
        llama.close()


@pytest.mark.parametrize("n", range(1, 6))
def test_a_llama_draws_nothing_from_what_is_not_there(n: int, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [
        t for t, _ in zip(conftest.load(merged, f32_cache=True, seed=3).generate(PROMPT), range(9), strict=False)
    ]
    with running(1) as (worker,):
        llama = ad.Llama(merged, seed=3, **on([worker], cache_type="f32").llama_arguments(), n_ctx=64)
        drawn: list[int] = []
        at_command(monkeypatch, [protocol.GET_TENSOR], n, lambda: kill(worker))
        with pytest.raises(ModelFailed, match=lost(worker)):
            drawn.extend(t for t, _ in zip(llama.generate(PROMPT), range(9), strict=False))
        llama.close()
    assert drawn == expected[: len(drawn)]


def test_a_process_that_ends_without_closing(merged: Path) -> None:
    with running(1) as (worker,):
        code = f"""if True:
            import autodeco_gguf as ad
            llama = ad.Llama({str(merged)!r}, n_ctx=64, n_threads=1, rpc="{worker.address}", verbose=False)
            stream = llama.create_completion([5, 6, 7], max_tokens=9, stream=True)
            next(stream)
            engine = ad.Engine({str(merged)!r}, n_ctx=64, machine=ad.Machine(n_threads=1, rpc=("{worker.address}",)))
            print(next(iter(engine.submit(ad.Request([5, 6], seed=1)))).token.id)
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_the_child_of_a_fork(merged: Path) -> None:
    with running(1) as (worker,):
        context = Context(merged, n_ctx=64, machine=on([worker]))
        child = os.fork()
        if child == 0:
            try:
                context.decode([1], [0], [0], hidden=False)
            except ModelFailed as e:
                os._exit(7 if f"workers {worker.address}: the child of a fork cannot use them; start" in str(e) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        context.decode([1], [0], [0], hidden=False)
        context.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("kind", ["Llama(M, **ON, verbose=False,", "Engine(M, machine=ad.Machine(**ON),"])
def test_the_child_of_a_fork_ends_as_any_other(kind: str, merged: Path) -> None:
    """Whether it closes the model, lets go of it, or just ends; and its parent goes on."""
    with running(1) as (worker,):
        code = f"""if True:
            import gc, os, signal, sys
            import autodeco_gguf as ad
            M, A = {str(merged)!r}, "{worker.address}"
            ON = dict(n_threads=1, rpc=[A], device=["none"])
            model = ad.{kind} n_ctx=64)
            for way in ("close", "forget", "end"):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    if way == "close":
                        model.close()
                        try:
                            model.tokenize(b"a") if isinstance(model, ad.Llama) else model.generate([ad.Request("a")])
                        except ad.Closed:
                            pass
                    if way == "forget":
                        del model
                        gc.collect()
                    sys.exit(0)
                print(way, os.waitpid(child, 0)[1], flush=True)
            if isinstance(model, ad.Llama):
                model.create_completion([5, 6], max_tokens=2)
            else:
                model.generate([ad.Request([5, 6], max_tokens=2)])
            model.close()
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["close", "0", "forget", "0", "end", "0"])


def test_with_more_files_open_than_select_takes(merged: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1400:
        pytest.skip("this process may not have so many files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with running(1) as (worker,):
            context = Context(merged, n_ctx=64, machine=on([worker]))
            context.decode([1], [0], [0], hidden=False)
            context.close()
    finally:
        for file in files:
            os.close(file)

"""On which devices a model is put: chosen by name, on GPUs that are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_devices import FakeDevice, fake_devices
from llama_cpp import llama_cpp as lib

import autodeco_gguf as ad
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.devices import device_names, find_devices, list_devices
from autodeco_gguf.model.machine import Machine


@pytest.fixture
def two() -> Iterator[list[FakeDevice]]:
    """FAKE0 and FAKE1, known to ggml for a test."""
    with fake_devices("FAKE0", "FAKE1") as devices:
        yield devices


def used(devices: list[FakeDevice], merged: Path, **machine: object) -> list[bool]:
    """Which of them a Context puts layers on; a Llama of the same machine does alike."""
    arguments = Machine(n_threads=1, **machine)  # type: ignore[arg-type]
    found = []
    for load in (
        lambda: Context(merged, n_ctx=64, machine=arguments).close(),
        lambda: ad.Llama(merged, n_ctx=64, **arguments.llama_arguments()).close(),
    ):
        before = [device.buffers for device in devices]
        load()
        found.append([device.buffers > n for device, n in zip(devices, before, strict=True)])
    assert found[0] == found[1]
    return found[0]


def test_what_there_is(two: list[FakeDevice]) -> None:
    found = {device.name: device for device in list_devices()}
    assert found["CPU"].kind == "cpu"
    assert not found["CPU"].takes_layers
    assert found["CPU"].total > 0
    assert (found["FAKE1"].kind, found["FAKE1"].free, found["FAKE1"].total) == ("gpu", 4 << 30, 8 << 30)
    assert found["FAKE1"].address == two[1].address
    assert ad.devices()["FAKE0"] == "FAKE0"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("FAKE1",), ["FAKE1"]),
        (("fake1", "Fake0"), ["FAKE1", "FAKE0"]),
        (("none",), []),
        (("CPU",), []),
        (None, None),
    ],
)
def test_found_by_name(names: tuple[str, ...] | None, found: list[str] | None, two: list[FakeDevice]) -> None:
    devices = find_devices(names)
    assert (None if devices is None else [device.name for device in devices]) == found


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("FAKE2",), r"^no device 'FAKE2' that takes layers; there is FAKE0, FAKE1, none \(the CPU alone\)$"),
        (("FAKE0", "none"), "^no device 'none'"),
        (("FAKE0", "CPU"), "^no device 'CPU'"),
        (("",), "^no device ''"),
        ((), "^device of no name"),
        (("FAKE0", "fake0"), "^device fake0 twice"),
    ],
)
def test_names_that_will_not_do(names: tuple[str, ...], words: str, two: list[FakeDevice]) -> None:
    with pytest.raises(InvalidInput, match=words):
        find_devices(names)


def test_one_line_from_whatever_loads_a_model(merged: Path) -> None:
    words = r"^no device 'CUDA7' that takes layers; there is .*none \(the CPU alone\)$"
    nowhere = Machine(device=("CUDA7",))
    for load in (
        lambda: ad.Llama(merged, device="CUDA7", verbose=False),
        lambda: ad.Engine(merged, machine=nowhere),
        lambda: Context(merged, n_ctx=64, machine=nowhere),
        nowhere.llama_arguments,
    ):
        with pytest.raises(InvalidInput, match=words):
            load()


def test_names_of_a_llama() -> None:
    arguments: dict[str, object] = {}
    assert device_names("A, B", arguments) == ("A", "B") == device_names(["A", "B"], {})
    assert arguments == {"n_gpu_layers": -1}
    arguments = {"n_gpu_layers": 3}
    device_names("A", arguments)
    assert arguments == {"n_gpu_layers": 3}
    assert device_names(None, {}) is None


def test_layers_go_where_they_are_to(two: list[FakeDevice], merged: Path) -> None:
    assert used(two, merged) == [True, True]
    assert used(two, merged, device=("FAKE1",)) == [False, True]
    assert used(two, merged, device=("none",)) == [False, False]
    assert used(two, merged, main_gpu=1) == [False, True]
    assert used(two, merged, device=("FAKE1", "FAKE0"), split_mode="none", main_gpu=0) == [False, True]
    assert used(two, merged, tensor_split=(0.0, 1.0)) == [False, True]
    assert used(two, merged, tensor_split=(1.0,)) == [True, False]


def test_a_llama_is_loaded_again_where_it_was(two: list[FakeDevice], merged: Path) -> None:
    llama = ad.Llama(merged, device="FAKE1", n_ctx=64, verbose=False)
    assert llama.model_params.n_gpu_layers == 0x7FFFFFFF
    assert llama.__getstate__()["device"] == ("FAKE1",)
    llama.close()


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(tensor_split=(1.0, 2.0, 3.0)), "^tensor_split of 3 devices, expected at most 2: FAKE0, FAKE1$"),
        (Machine(tensor_split=(1.0, 2.0), device=("FAKE0",)), "^tensor_split of 2 devices, expected at most 1: FAKE0$"),
        (Machine(tensor_split=(0.0,)), "^tensor_split .*expected numbers of at least 0, not all of them 0$"),
        (Machine(tensor_split=(1.0, -1.0)), "^tensor_split"),
        (Machine(tensor_split=(float("nan"),)), "^tensor_split"),
        (Machine(main_gpu=2), "^main_gpu 2, expected the number, from 0, of one of FAKE0, FAKE1$"),
        (Machine(main_gpu=0, device=("none",)), "^main_gpu 0, expected .* none besides the CPU$"),
        (Machine(main_gpu=0, split_mode="layer"), "^main_gpu with split_mode layer, expected none or row"),
    ],
)
def test_a_split_over_devices_that_are_not_there(machine: Machine, words: str, two: list[FakeDevice]) -> None:
    with pytest.raises(InvalidInput, match=words):
        machine.devices()


@pytest.mark.parametrize(
    ("machine", "mode"),
    [
        (Machine(mlock=True), lib.LLAMA_LOAD_MODE_MMAP_MLOCK),
        (Machine(mlock=True, mmap=False), lib.LLAMA_LOAD_MODE_MLOCK),
        (Machine(mmap=False), lib.LLAMA_LOAD_MODE_NONE),
        (Machine(), lib.LLAMA_LOAD_MODE_AUTO),
    ],
)
def test_how_the_file_is_read(machine: Machine, mode: int, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    load = lib.llama_model_load_from_file_ptr
    monkeypatch.setattr(lib, "llama_model_load_from_file_ptr", lambda *a: (modes.append(a[1].load_mode), load(*a))[1])
    Context(merged, n_ctx=64, machine=machine).close()
    ad.Llama(merged, n_ctx=64, **machine.llama_arguments()).close()
    assert modes == [mode, mode if mode != lib.LLAMA_LOAD_MODE_AUTO else lib.LLAMA_LOAD_MODE_MMAP]


def answers(merged: Path) -> tuple[list[int], list[list[int]]]:
    """What a Llama and an Engine of two draw by a seed."""
    exact = Machine(n_threads=1, cache_type="f32")
    llama = ad.Llama(merged, n_ctx=64, seed=7, **exact.llama_arguments())
    one = [token for token, _ in zip(llama.generate([5, 6, 7]), range(8), strict=False)]
    llama.close()
    with ad.Engine(merged, n_parallel=2, n_ctx=64, machine=exact) as engine:
        requests = [ad.Request([5, 6, 7], seed=seed, max_tokens=8) for seed in (7, 8)]
        return one, [result.trace.ids for result in engine.generate(requests)]


def test_on_another_device_the_tokens_are_the_same(merged: Path) -> None:
    expected = answers(merged)
    with fake_devices("FAKE0") as (device,):
        assert answers(merged) == expected
        assert device.backends == 2


def test_where_the_device_lacks_an_operation_the_host_computes_the_heads(merged: Path) -> None:
    expected = answers(merged)
    words = "^device FAKE0 has no operation SIGMOID: the heads are computed on the CPU$"
    with fake_devices("FAKE0", lacks=["SIGMOID"]), pytest.warns(RuntimeWarning, match=words) as told:
        assert answers(merged) == expected
    assert len(told) == 2  # of a Llama, and of an Engine


def test_heads_alone_on_a_device_that_lacks_an_operation(merged: Path) -> None:
    heads = ad.Heads.load(merged)
    rng = np.random.default_rng(0)
    hidden, logits = rng.normal(size=(3, heads.hidden_size)), rng.normal(size=(3, heads.vocab_size))
    expected = heads.evaluate(hidden, logits)
    with fake_devices("FAKE0"):
        for a, b in zip(heads.evaluate(hidden, logits, device="FAKE0"), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    words = "^device FAKE0 has no operation SIGMOID: the CPU computes the heads instead$"
    with fake_devices("FAKE0", lacks=["SIGMOID"]), pytest.warns(RuntimeWarning, match=words):
        values = heads.evaluate(hidden, logits, device="FAKE0")
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_array_equal(a, b)

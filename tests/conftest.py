"""Fixtures: the tiny models of tests/fixtures, exported once a session."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from ray_nodes import RayNodes

import autodeco_gguf as ad
from autodeco_gguf.heads.known import KNOWN, KnownModel

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(p.name for p in FIXTURES.iterdir() if p.is_dir())


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings and history of whoever runs the tests stay out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE", "CONFIG", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        for name in [name for name in os.environ if name.startswith("AUTODECO_")]:
            if name not in ("AUTODECO_DRAW", "AUTODECO_DEVICE"):  # which say how the tests are to run
                patch.delenv(name)
        patch.setenv("TERM", "xterm-256color")
        yield


@dataclass(frozen=True)
class Case:
    """One fixture: base GGUF, official checkpoint, and what the official PyTorch code computed."""

    name: str
    base: Path
    heads: Path
    golden: dict[str, np.ndarray[Any, Any]]

    @property
    def tokens(self) -> list[int]:
        return self.golden["tokens"].tolist()


def load_case(name: str, folder: Path = FIXTURES) -> Case:
    directory = folder / name
    with np.load(directory / "golden.npz") as file:
        golden = {key: file[key] for key in file.files}
    return Case(name, directory / "base.gguf", directory / "heads", golden)


@pytest.fixture(scope="session", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every fixture in turn."""
    return load_case(request.param)


@pytest.fixture(scope="session")
def qwen2() -> Case:
    """The plainest fixture: qwen2, both heads, float32."""
    return load_case("qwen2")


@pytest.fixture(scope="session")
def merged_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """The merged file of a case, made once."""
    directory = tmp_path_factory.mktemp("merged")

    def make(case: Case) -> Path:
        path = directory / f"{case.name}.gguf"
        if not path.exists():
            ad.export(case.base, case.heads, path)
        return path

    return make


@pytest.fixture(scope="session")
def merged(qwen2: Case, merged_of: Callable[[Case], Path]) -> Path:
    """The merged file of the qwen2 case."""
    return merged_of(qwen2)


@pytest.fixture
def tiny(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model, "tiny": a package with the qwen2 case's base, and an adapter with its heads."""
    package = tmp_path / "installed" / "tiny_weights"
    package.mkdir(parents=True)
    shutil.copy(qwen2.base, package / "weights.gguf")
    monkeypatch.syspath_prepend(package.parent)
    adapter = tmp_path / "shipped.gguf"
    sha256 = hashlib.sha256(qwen2.base.read_bytes()).hexdigest()
    model = KnownModel(
        "tiny", "tiny-weights==1", "tiny_weights", "weights.gguf", sha256, "someone/tiny", "apache-2.0", adapter
    )
    monkeypatch.setitem(KNOWN, "tiny", model)
    ad.export(qwen2.base, qwen2.heads, adapter, adapter=True)
    return model


def load(path: Path, *, f32_cache: bool = False, **kwargs: Any) -> ad.Llama:
    """A quiet Llama with a small context."""
    if f32_cache:
        kwargs |= {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    defaults = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    return ad.Llama(path, **{**defaults, **kwargs})


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayNodes]:
    """A Ray cluster on this machine, started where a test asks for it; each says which nodes it is to have."""
    if importlib.util.find_spec("ray") is None:  # which is not imported here: it changes the process
        pytest.skip("needs ray, of the extra cluster")
    nodes = RayNodes()
    yield nodes
    nodes.close()

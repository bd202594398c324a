"""Heads by the id of a repository, from a hub on this machine: which files, offline, and what can go wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from broken import Outcome, spawn
from conftest import Case
from hub_helpers import Hub, environment, served
from safetensors.numpy import load, save

from autodeco_gguf.heads import checkpoint

CONFIG, HEADS, INDEX = "config.json", "model.safetensors", "{}.{}.index.json"


@pytest.fixture
def hub(qwen2: Case) -> Iterator[Hub]:
    with served({name: (qwen2.heads / name).read_bytes() for name in (CONFIG, HEADS)}) as server:
        yield server


@pytest.fixture
def export(hub: Hub, qwen2: Case, tmp_path: Path) -> Callable[..., Outcome]:
    def run(*args: str, heads: str = "u/r", **variables: str) -> Outcome:
        env = environment(hub, tmp_path / "home", **variables)
        command = ("export", "--base", qwen2.base, "--heads", heads, "-o", tmp_path / "out.gguf", "--force")
        return spawn(*command, *args, env=env)

    return run


def test_a_download_that_was_cut_off_goes_on(hub: Hub, export: Callable[..., Outcome]) -> None:
    hub.cut, hub.comes_back = 1 << 16, False
    done = export()
    said = r"error: u/r: model\.safetensors: stopped at 0\.1 of 0\.\d MB: .+; the next run goes on from there\n"
    assert (done.status, bool(re.fullmatch(said, done.err))) == (1, True), done.err
    hub.cut, hub.comes_back = None, True
    hub.asked.clear()
    done = export()
    assert (done.status, hub.downloads) == (0, [f"{HEADS} bytes={1 << 16}-"])
    assert "%" not in done.err  # of a bar


def test_what_was_downloaded_is_enough(hub: Hub, export: Callable[..., Outcome]) -> None:
    assert export(heads="hf:u/r").status == 0
    assert sorted(hub.downloads) == [CONFIG, HEADS]
    assert export("--offline").status == 0
    assert hub.asked == []
    assert export(HF_ENDPOINT="http://127.0.0.1:9").status == 0


def test_a_proxy_that_refuses(hub: Hub, export: Callable[..., Outcome]) -> None:
    """As one that wants a password; this one knows no CONNECT."""
    for heads, why in (("u/r", "no such directory, and "), ("hf:u/r", "")):
        done = export(heads=heads, HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=hub.endpoint)
        said = rf"error: {heads}: {why}not to be had from the Hugging Face hub: .+; by the proxy {hub.endpoint} of .+\n"
        assert (done.status, bool(re.fullmatch(said, done.err))) == (1, True), done.err


# ---- layouts ----


def index(hub: Hub, name: str, keys: dict[str, str], kind: str = "safetensors") -> None:
    """Let the hub have an index, of keys and the files that they are in."""
    hub.files[INDEX.format(name, kind)] = json.dumps({"weight_map": keys}).encode()


def base_has_an_index(hub: Hub) -> list[str]:
    """The heads are in a file that it does not name."""
    hub.files["base-00001-of-00001.safetensors"] = save({"llm.x": np.zeros(4, np.float32)})
    index(hub, "base", {"llm.x": "base-00001-of-00001.safetensors"})
    return [HEADS]


def an_index_for_each_head(hub: Hub) -> list[str]:
    arrays = load(hub.files.pop(HEADS))
    names = []
    for head in ("temp_head", "top_p_head"):
        names.append(f"{head}-00001-of-00001.safetensors")
        own = {key: array for key, array in arrays.items() if key.startswith(head)}
        hub.files[names[-1]] = save(own)
        index(hub, head, dict.fromkeys(own, names[-1]))
    return names


def merged_with_the_base(hub: Hub) -> list[str]:
    """Only the shard with heads is downloaded."""
    heads, base = hub.files.pop(HEADS), save({"llm.x": np.zeros(4, np.float32)})
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    hub.files |= dict(zip(names, (base, heads), strict=True))
    index(hub, "model", {"llm.x": names[0], **dict.fromkeys(load(heads), names[1])})
    return names[1:]


def base_in_bins(hub: Hub) -> list[str]:
    hub.files["pytorch_model-00001-of-00001.bin"] = b"gigabytes"
    index(hub, "pytorch_model", {"llm.x": "pytorch_model-00001-of-00001.bin"}, "bin")
    return [HEADS]


def beside_what_a_training_left(hub: Hub) -> list[str]:
    """Which may be gigabytes, and is not read."""
    for name in ("checkpoint-5/model.safetensors", "checkpoint-5/optimizer.bin", "original/x.bin", "training_args.bin"):
        hub.files[name] = b"x"
    hub.files[f"checkpoint-5/{INDEX.format('model', 'safetensors')}"] = b"no index"
    return [HEADS]


LAYOUTS = [
    base_has_an_index,
    an_index_for_each_head,
    merged_with_the_base,
    base_in_bins,
    beside_what_a_training_left,
]


@pytest.mark.parametrize("change", LAYOUTS)
def test_files_with_heads_are_downloaded(
    change: Callable[[Hub], list[str]], hub: Hub, export: Callable[..., Outcome]
) -> None:
    files = change(hub)
    done = export()
    assert (done.status, done.err.startswith("error")) == (0, False), done.err
    weights = [name for name in hub.downloads if not name.endswith(".json")]
    assert weights == files


def test_of_bins_the_shards_with_heads_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = {"llm.x": "1.bin", "temp_head.mlp.0.weight": "2.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    asked: list[list[str]] = []

    def snapshot(name: str, patterns: list[str], but: list[str]) -> Path:
        asked.append(patterns)
        return tmp_path

    monkeypatch.setattr(checkpoint, "snapshot", snapshot)
    checkpoint._download("u/r")
    assert (len(asked), asked[1]) == (2, [*asked[0], "2.bin"])

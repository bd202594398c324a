"""Models of the hub by their id, from a hub on this machine: which file, offline, and what can go wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broken import spawn
from hub_helpers import Hub, environment, run, served

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.heads import hub
from autodeco_gguf.heads.hub import choose, find, is_hub_id


@pytest.fixture
def fake_hub(merged: Path) -> Iterator[Hub]:
    model = merged.read_bytes()
    with served(
        {"README.md": b"x", "m-Q4_K_M.gguf": model, "m-Q8_0.gguf": b"GGUF?", "mmproj-F16.gguf": b"x"}
    ) as server:
        yield server


def test_a_model_of_the_hub_is_downloaded_once(fake_hub: Hub, tmp_path: Path) -> None:
    for model in ("hf:u/r", "hf:u/r:q4_k_m", "hf:u/r/m-Q4_K_M.gguf"):
        outcome = run(fake_hub, tmp_path, model)
        assert (outcome.status, "heads: temperature, top-p" in outcome.err) == (0, True), outcome.err
    assert fake_hub.downloads == ["m-Q4_K_M.gguf"]
    for model in ("hf:u/r:Q4_K_M", "hf:u/r"):
        assert run(fake_hub, tmp_path, model, "--offline").status == 0
    assert fake_hub.asked == []
    outcome = run(fake_hub, tmp_path, "hf:u/r:Q8_0", "--offline")
    assert "error: hf:u/r:Q8_0: no such file among what was downloaded? there is m-Q4_K_M.gguf" in outcome.err
    assert fake_hub.asked == []


def test_offline_takes_what_another_program_has_downloaded(fake_hub: Hub, tmp_path: Path) -> None:
    """Which may know of more files than it took."""
    code = "from huggingface_hub import snapshot_download as s; s('u/r', allow_patterns='*Q4*')"
    done = spawn(python=("-c", code), env=environment(fake_hub, tmp_path))
    assert (done.status, fake_hub.downloads) == (0, ["m-Q4_K_M.gguf"]), done.err
    outcome = run(fake_hub, tmp_path, "hf:u/r:Q4_K_M", "--offline")
    assert (outcome.status, fake_hub.asked) == (0, []), outcome.err


@pytest.mark.parametrize("proxy", ["http://user:secret@127.0.0.1:9", "socks5h://x"])
def test_loopback_is_never_proxied_and_a_broken_proxy_is_named(proxy: str, fake_hub: Hub, tmp_path: Path) -> None:
    variables = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy}
    assert run(fake_hub, tmp_path, "hf:u/r", **variables).status == 0
    outcome = run(fake_hub, tmp_path, "hf:u/other", HF_ENDPOINT="http://hub.invalid", **variables)
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: hf:u/other: not to be had from the Hugging Face hub: ")
    assert proxy.replace("user:secret@", "") in last
    assert (outcome.status, "secret" in outcome.err, "Traceback" in outcome.err) == (1, False, False)


def test_what_is_not_there(fake_hub: Hub, tmp_path: Path) -> None:
    for model, words in (
        ("hf:u/none", "not to be had from the Hugging Face hub: "),
        ("hf:u/r:Q2_K", "no such file? there is m-Q4_K_M.gguf, m-Q8_0.gguf; give hf:user/repo"),
        ("hf:u/r/other.gguf", "not to be had from the Hugging Face hub: "),
    ):
        outcome = run(fake_hub, tmp_path, model)
        assert outcome.err.splitlines()[-1].startswith(f"error: {model}: {words}"), outcome.err
        assert (outcome.status, outcome.out) == (1, "")


def test_a_download_says_nothing_in_a_pipe(fake_hub: Hub, tmp_path: Path) -> None:
    """Neither a bar, nor what huggingface_hub warns of: what the hub would like to tell, a connection that it lost."""
    fake_hub.warning = "auth; you send no token"
    fake_hub.cut = len(fake_hub.files["m-Q4_K_M.gguf"]) * 3 // 4
    outcome = run(fake_hub, tmp_path / "a", "hf:u/r")
    assert (outcome.status, len(fake_hub.downloads)) == (0, 2)
    assert re.fullmatch(r"heads: .+\n2 tokens .+\n", outcome.err)
    told = run(fake_hub, tmp_path / "b", "hf:u/r", HF_HUB_VERBOSITY="warning").err
    assert "you send no token" in told


FILES = ["a-Q8_0.gguf", "a-Q4_K_M.gguf", "IQ1_S/a-00001-of-00002.gguf", "IQ1_S/a-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (FILES, "q8_0", ["a-Q8_0.gguf"]),
        (FILES, None, ["a-Q4_K_M.gguf"]),
        (["x.Q5_0.gguf", "mmproj.gguf", "x.bin"], None, ["x.Q5_0.gguf"]),
        (["b-F16-00001-of-00002.gguf", "b-F16-00002-of-00002.gguf"], "f16",
         ["b-F16-00001-of-00002.gguf", "b-F16-00002-of-00002.gguf"]),
        (["a-00001-of-00000.gguf"], None, ["a-00001-of-00000.gguf"]),  # the first of none is no shard
    ],
)  # fmt: skip
def test_which_file(files: list[str], quant: str | None, chosen: list[str]) -> None:
    assert choose("hf:u/r", files, None, quant) == chosen


@pytest.mark.parametrize(
    ("files", "quant", "words"),
    [(["a-Q8_0.gguf", "a-Q5_0.gguf"], None, "which of them"), (["x.bin"], None, "there is no GGUF"),
     (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", "which of them"), (["a-Q8_0.gguf"], "Q8", "no such file")],
)  # fmt: skip
def test_no_file_or_several(files: list[str], quant: str | None, words: str) -> None:
    with pytest.raises(BadFile, match=words):
        choose("hf:u/r", files, None, quant)


@pytest.mark.parametrize(
    "name", ["hf:", "hf:user", "hf:u/r:", "hf:u/r/../x.gguf", "hf:u/r/x.bin", "hf:u/r:q:8", "hf:/u/r"]
)
def test_what_is_no_id(name: str) -> None:
    assert is_hub_id(name)
    with pytest.raises(InvalidInput, match=r"expected hf:user/repo, hf:user/repo:quant or"):
        find(name)


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("hf:u")
    (tmp_path / "hf:u").write_text("")
    assert not is_hub_id("hf:u")
    assert not is_hub_id(Path("model.gguf"))


def test_offline_is_a_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, offline in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert hub.is_offline() == offline


@pytest.mark.parametrize(
    "wanted", [lambda: find("hf:user/repo"), lambda: hub.snapshot("hf:user/repo", ["*"])], ids=range(2)
)
def test_without_what_downloads(wanted: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        AutoDecoError, match=r"^hf:user/repo: a download takes huggingface_hub; pip install huggingface_"
    ):
        wanted()

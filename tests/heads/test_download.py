"""Downloads that are cut off, from a hub on this machine: the next run goes on, and only what is right counts."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.file_download
import numpy as np
import pytest
from broken import Terminal, spawn, start
from hub_helpers import Hub, environment, served
from huggingface_hub import constants

from autodeco_gguf.errors import BadFile
from autodeco_gguf.heads import download
from autodeco_gguf.heads.hub import find

CONTENT = np.random.default_rng(0).bytes(1 << 20)
ID = "hf:u/r/dir/m.gguf"
FIND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
from autodeco_gguf.heads.hub import find
print(find(sys.argv[1]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with served({"dir/m.gguf": CONTENT, "other.gguf": b"GGUF"}) as server:
        yield server


@pytest.fixture
def home(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's folder, for this process."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "")
    return tmp_path


def blobs(home: Path) -> dict[str, int]:
    """Files beside the blobs, by what follows the etag in their names, and their sizes."""
    return {p.name.partition(".")[2]: p.stat().st_size for p in home.glob("hub/models--u--r/blobs/*")}


def cut_off(hub: Hub, at: int) -> str:
    """Try a download that loses the connection for good; what is said."""
    hub.cut, hub.comes_back = at, False
    with pytest.raises(BadFile) as caught:
        find(ID)
    hub.cut, hub.comes_back = None, True
    assert hub.downloads[-2:] == ["dir/m.gguf", f"dir/m.gguf bytes={at}-"]
    return str(caught.value)


def test_the_next_run_goes_on(hub: Hub, home: Path) -> None:
    said = cut_off(hub, 1 << 19)
    assert re.fullmatch(
        rf"{ID}: dir/m\.gguf: stopped at 0\.5 of 1\.0 MB: Server error '503 .+; the next run goes on from there", said
    )
    assert blobs(home) == {"dir--m.gguf.incomplete": 1 << 19}
    assert find(ID).read_bytes() == CONTENT
    assert hub.downloads == [f"dir/m.gguf bytes={1 << 19}-"]
    assert blobs(home) == {"": 1 << 20}
    find(ID)
    assert hub.downloads == []


def test_an_answer_that_ends_early_is_asked_for_again(hub: Hub, home: Path) -> None:
    hub.cut = 300_000
    assert find(ID).read_bytes() == CONTENT
    assert len(hub.downloads) == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_killed(number: signal.Signals, hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.02
    env = environment(hub, tmp_path)
    with start("run", ID, "-p", "x", env=env) as process:
        wait_for(
            lambda: (tmp_path / "hub/models--u--r").exists() and max(blobs(tmp_path).values(), default=0) > 1 << 17
        )
        hub.pause = 1
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    (kept,) = blobs(tmp_path).values()
    said = rf"\ninterrupted: {ID}: dir/m\.gguf: stopped at 0\.\d of 1\.0 MB; the next run goes on from there\n"
    assert re.fullmatch(said if number == signal.SIGINT else "", err.decode())
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    hub.pause = 0
    assert Path(spawn(ID, python=("-c", FIND), env=env).out.strip()).read_bytes() == CONTENT
    assert (0 < kept < 1 << 20, hub.downloads) == (True, ["dir/m.gguf", f"dir/m.gguf bytes={kept}-"])


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.01
    with Terminal("run", ID, "-p", "x", env=environment(hub, tmp_path)) as terminal:
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        terminal.wait_for(rb"dir/m\.gguf: +[1-9]\d%\|.*/1\.05M \[")
        terminal.send(b"\x03")
        terminal.wait_for(rb"\r\ninterrupted: .* the next run goes on from there\r\n")
        assert terminal.process.wait(timeout=30) == 130


def test_one_process_downloads_and_another_waits(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 1
    env = environment(hub, tmp_path)
    with start(ID, python=FIND, env=env) as first:
        wait_for(lambda: bool(hub.asked) and hub.asked[-1].startswith("GET /u/r/resolve"))
        with start(ID, python=FIND, env=env) as second:
            waits = second.stderr.readline()  # type: ignore[union-attr]
            hub.pause = 0
            found = [process.communicate(timeout=30) for process in (first, second)]
    assert waits.decode() == f"{ID}: dir/m.gguf: another process is downloading it; waiting\n"
    assert found[0] == found[1]
    assert found[0][1] == b""
    assert (hub.downloads, blobs(tmp_path)) == (["dir/m.gguf"], {"": 1 << 20})


def test_one_that_waits_goes_on_when_the_first_is_killed(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.02
    env = environment(hub, tmp_path)
    with start(ID, python=FIND, env=env) as first:
        wait_for(
            lambda: (tmp_path / "hub/models--u--r").exists() and max(blobs(tmp_path).values(), default=0) > 1 << 17
        )
        hub.pause = 1
        with start(ID, python=FIND, env=env) as second:
            assert b"waiting" in second.stderr.readline()  # type: ignore[union-attr]
            first.kill()
            hub.pause = 0
            out, _ = second.communicate(timeout=30)
    assert Path(out.decode().strip()).read_bytes() == CONTENT
    assert re.fullmatch(r"dir/m\.gguf bytes=[1-9]\d+-", hub.downloads[1])


def test_one_that_removes_the_file_before_another_has_its_lock(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = download.lock, list[Path]()

    def late(fd: int, path: Path) -> bool:
        if not removed:
            path.unlink()
            removed.append(path)
        return lock(fd, path)

    monkeypatch.setattr(download, "lock", late)
    assert find(ID).read_bytes() == CONTENT
    assert removed


def test_a_file_that_has_changed_starts_anew(hub: Hub, home: Path) -> None:
    cut_off(hub, 1 << 19)
    hub.files["dir/m.gguf"] = changed = CONTENT[::-1]
    hub.commit = "1" * 40
    assert find(ID).read_bytes() == changed
    assert (hub.downloads, blobs(home)) == (["dir/m.gguf"], {"": 1 << 20})


def test_what_came_of_other_files_stays(hub: Hub, home: Path) -> None:
    cut_off(hub, 1 << 19)
    find("hf:u/r/other.gguf")
    assert blobs(home) == {"": 4, "dir--m.gguf.incomplete": 1 << 19}


def test_a_server_that_has_no_ranges(hub: Hub, home: Path) -> None:
    cut_off(hub, 1 << 19)
    hub.knows_range = False
    assert find(ID).read_bytes() == CONTENT
    assert hub.downloads == [f"dir/m.gguf bytes={1 << 19}-"]


@pytest.mark.parametrize("kept", [b"\0" * (1 << 19), b"\0" * (1 << 20), b"\0" * (3 << 19)], ids=["half", "all", "more"])
def test_what_is_kept_may_be_wrong(kept: bytes, hub: Hub, home: Path) -> None:
    """As after a power failure, which leaves zeros."""
    cut_off(hub, 1 << 19)
    (part,) = (home / "hub/models--u--r/blobs").iterdir()
    part.write_bytes(kept)
    assert find(ID).read_bytes() == CONTENT
    assert (hub.downloads[-1], blobs(home)) == ("dir/m.gguf", {"": 1 << 20})


def test_what_comes_is_wrong(hub: Hub, home: Path) -> None:
    hub.etag = lambda content: "f" * 64
    with pytest.raises(
        BadFile, match=rf"dir/m\.gguf: 1048576 bytes with .+, expected 1048576 with the SHA-256 {'f' * 64}"
    ):
        find(ID)
    assert blobs(home) == {}


def test_an_etag_that_is_no_digest(hub: Hub, home: Path) -> None:
    hub.etag = lambda content: "W-1"
    cut_off(hub, 1 << 19)
    assert find(ID).read_bytes() == CONTENT
    assert hub.downloads == [f"dir/m.gguf bytes={1 << 19}-"]


@pytest.mark.parametrize(("etag", "is_had"), [("a.b", True), ("", False), ("../../x", False)])
def test_an_etag_that_is_no_name_is_left_to_huggingface_hub(
    etag: str, is_had: bool, hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.etag = lambda content: etag
    monkeypatch.setattr(download._Part, "complete", lambda *_: pytest.fail("tried"))
    download.fetch(ID, "u/r", "dir/m.gguf")
    if is_had:
        assert find(ID).read_bytes() == CONTENT


def test_another_huggingface_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a part is missing or takes other arguments, its own download is enough."""
    get = huggingface_hub.file_download.http_get

    def http_get(url: str, temp_file: Any, *, headers: Any, expected_size: Any, tqdm_class: Any) -> None:
        get(url, temp_file, headers=headers, expected_size=expected_size)

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", http_get)
    assert find(ID).read_bytes() == CONTENT
    assert blobs(home) == {"": 1 << 20}
    monkeypatch.delattr(huggingface_hub.file_download, "repo_folder_name")
    hub.asked.clear()
    download.fetch("hf:u/r/other.gguf", "u/r", "other.gguf")
    assert hub.asked == []


def test_a_disk_that_fills_up(hub: Hub, tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))

    env = environment(hub, tmp_path)
    outcome = spawn("run", ID, "-p", "x", env=env, preexec_fn=limited)
    reason = os.strerror(errno.EFBIG)
    said = f"{ID}: dir/m.gguf: stopped at 0.5 of 1.0 MB: {reason}; the next run goes on from there"
    assert (outcome.status, outcome.err) == (1, f"error: {said}\n")
    assert spawn(ID, python=("-c", FIND), env=env).status == 0
    assert hub.downloads == ["dir/m.gguf", f"dir/m.gguf bytes={1 << 19}-"]


def test_a_disk_that_is_full_is_said_at_once(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(hub, 1 << 19)
    for free, is_enough in (((1 << 19) - 1, False), (1 << 19, True)):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if is_enough:
            assert find(ID).read_bytes() == CONTENT
            continue
        words = f"stopped at 0.5 of 1.0 MB: {os.strerror(errno.ENOSPC)}, 0.5 MB are free in {home}"
        with pytest.raises(BadFile, match=re.escape(words)):
            find(ID)
        assert hub.downloads == []


def test_a_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with served(hub.files) as storage:
        hub.storage = storage.endpoint.replace("127.0.0.1", "localhost")
        with pytest.raises(BadFile, match="401"):
            find(ID)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        storage.cut, storage.comes_back = 1 << 19, False
        with pytest.raises(BadFile, match=r"stopped at 0\.5 of 1\.0 MB"):
            find(ID)
        storage.cut, storage.comes_back = None, True
        assert find(ID).read_bytes() == CONTENT
        assert storage.downloads == ["dir/m.gguf", *[f"dir/m.gguf bytes={1 << 19}-"] * 2]
        assert storage.tokens == set()


def test_a_folder_that_cannot_keep_it(hub: Hub, home: Path) -> None:
    """A long name leaves no room for the etag's."""
    hub.files["m" * 200 + ".gguf"] = CONTENT
    assert find(f"hf:u/r/{'m' * 200}.gguf").read_bytes() == CONTENT

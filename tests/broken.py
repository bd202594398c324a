"""Makes GGUFs and checkpoints, whole and broken, with the gguf and safetensors packages; runs the command line."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autodeco_gguf.cli import cli, run_command

Kind = gguf.GGUFValueType
Tensor = tuple[str, np.ndarray[Any, Any], gguf.GGMLQuantizationType]
"""Name, data as GGUFReader gives it (packed bytes for a quantized type), type."""

STRINGS = (Kind.ARRAY, Kind.STRING)


# ---- GGUF ----


def tensors_of(path: Path) -> list[Tensor]:
    return [(t.name, np.array(t.data), t.tensor_type) for t in gguf.GGUFReader(path).tensors]


def metadata_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Key -> (value, type) or (values, ARRAY, type of its items)."""
    fields = gguf.GGUFReader(path).fields
    return {k: (f.contents(), *f.types[:2]) for k, f in fields.items() if not k.startswith("GGUF.")}


def write_gguf(
    path: Path, metadata: Mapping[str, tuple[Any, ...]], tensors: Iterable[Tensor], *, alignment: int | None = None
) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # the architecture comes with the metadata
    for key, entry in metadata.items():
        writer.add_key_value(key, *entry)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for name, data, kind in tensors:
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rewrite(
    source: Path,
    path: Path,
    *,
    metadata: Mapping[str, tuple[Any, ...] | None] | None = None,
    edit: Callable[[list[Tensor]], list[Tensor]] = lambda tensors: tensors,
    alignment: int | None = None,
) -> Path:
    """Another GGUF with changed metadata (None drops a key) or tensors, as any tool would write it."""
    entries = {**metadata_of(source), **(metadata or {})}
    kept = {key: entry for key, entry in entries.items() if entry is not None}
    return write_gguf(path, kept, edit(tensors_of(source)), alignment=alignment)


def without(name: str) -> Callable[[list[Tensor]], list[Tensor]]:
    return lambda tensors: [t for t in tensors if t[0] != name]


def replaced(name: str, data: np.ndarray[Any, Any]) -> Callable[[list[Tensor]], list[Tensor]]:
    kind = {"int8": gguf.GGMLQuantizationType.I8}.get(data.dtype.name, gguf.GGMLQuantizationType.F32)
    return lambda tensors: [(t[0], data, kind) if t[0] == name else t for t in tensors]


def odd_tail(tensors: list[Tensor]) -> list[Tensor]:
    """A last tensor of 12 bytes, so that the file ends in 20 bytes of padding."""
    return [*tensors, ("extra", np.ones(3, np.float32), gguf.GGMLQuantizationType.F32)]


def one_row(tensors: list[Tensor]) -> list[Tensor]:
    """A last tensor of shape [1, 3], which ggml takes for a vector."""
    return [*tensors, ("extra", np.ones((1, 3), np.float32), gguf.GGMLQuantizationType.F32)]


def shards(source: Path, directory: Path, cuts: list[int], alignments: Iterable[int | None] = ()) -> Path:
    """What llama-gguf-split makes: the metadata in the first shard, the tensors cut at the given places."""
    tensors, metadata = tensors_of(source), metadata_of(source)
    bounds = [0, *cuts, len(tensors)]
    n = len(bounds) - 1
    aligned = [*alignments, *[None] * n]
    for i in range(n):
        split = {
            "split.no": (i, Kind.UINT16),
            "split.count": (n, Kind.UINT16),
            "split.tensors.count": (len(tensors), Kind.INT32),
        }
        part = directory / f"base-{i + 1:05}-of-{n:05}.gguf"
        entries = {**metadata, **split} if i == 0 else split
        write_gguf(part, entries, tensors[bounds[i] : bounds[i + 1]], alignment=aligned[i])
    return directory / f"base-00001-of-{n:05}.gguf"


def big_base(path: Path, nbytes: int) -> Path:
    """A sparse file with one I8 tensor, enough of a qwen2 for the exporter."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_embedding_length(64)
    writer.add_vocab_size(384)
    writer.add_tensor_info("token_embd.weight", [nbytes], np.dtype(np.int8), nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + nbytes)
    return path


# ---- checkpoints ----


def checkpoint(
    source: Path,
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
) -> Path:
    """A copy of a checkpoint with changed configuration or tensors; None drops one."""
    shutil.copytree(source, directory)
    if config is not None:
        path = directory / "config.json"
        merged = {**json.loads(path.read_text()), **config}
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    if tensors is not None:
        path = directory / "model.safetensors"
        arrays = {**load_file(path), **tensors}
        save_file({key: np.ascontiguousarray(a) for key, a in arrays.items() if a is not None}, path)
    return directory


def save_raw(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    """A safetensors file from dtype, shape and bytes: for the dtypes that numpy lacks."""
    header, data = {}, b""
    for key, (dtype, shape, raw) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def load_raw(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of an F32 or BF16 safetensors file as float32, without the code under test."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for key, entry in json.loads(content[8:start]).items():
        if key == "__metadata__":
            continue
        raw = content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, "<f4")
        arrays[key] = values.reshape(entry["shape"])
    return arrays


# ---- the command line ----


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


def invoke(capfd: pytest.CaptureFixture[str], *args: object) -> Outcome:
    """autodeco-gguf in this process."""
    capfd.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    status = -1
    try:
        run_command(cli, [str(a) for a in args])
    except SystemExit as e:
        status = int(e.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Outcome(status, *capfd.readouterr())


def spawn(*args: object, python: tuple[str, ...] = ("-m", "autodeco_gguf"), **kwargs: Any) -> Outcome:
    """autodeco-gguf as a process of its own."""
    command = [sys.executable, *python, *map(str, args)]
    pipes = {} if "input" in kwargs else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(command, capture_output=True, check=False, **{"timeout": 60, **pipes, **kwargs})
    return Outcome(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


STRIKE = """
import os, signal, sys
import autodeco_gguf.heads.export
from autodeco_gguf.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
module, name, number = sys.argv.pop(1).split(":")
module = sys.modules[module]
original = getattr(module, name)

def strike(*args, **kwargs):
    setattr(module, name, original)
    os.kill(os.getpid(), int(number))
    return original(*args, **kwargs)

setattr(module, name, strike)
main()
"""
"""autodeco-gguf that sends itself a signal at its first call of a function, "module:function:signal"."""


def assert_refused(outcome: Outcome, *parts: object, status: int = 1) -> None:
    """One line on stderr that begins with "error: " and holds the parts, and nothing on stdout."""
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert str(part) in outcome.err
    assert outcome.out == ""
    assert outcome.status == status


MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
from autodeco_gguf.cli import main
main()
"""


def start(*args: object, python: str = MAIN, **kwargs: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", python, *map(str, args)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, bufsize=0, **{**pipes, **kwargs})


class Terminal:
    """autodeco-gguf on a terminal of its own."""

    def __init__(self, *args: object, **kwargs: Any) -> None:
        import fcntl  # not on Windows, where others use this module
        import pty
        import termios

        self.fd, slave = pty.openpty()
        own = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
        pipes = {**dict.fromkeys(("stdin", "stdout", "stderr"), slave), **kwargs}
        self.process = start(*args, **pipes, start_new_session=True, preexec_fn=own)
        os.close(slave)
        self.seen = self.raw = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)

    def wait_for(self, pattern: bytes) -> str:
        """Read until the pattern stands in the output; gives what came up to it."""
        until = time.monotonic() + 30
        while (match := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < until and self.read(30), f"no {pattern!r} in {self.seen[-400:]!r}"  # noqa: PT018
        text, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return text.decode("utf-8", "replace")

    def read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if ready:
            self.raw += os.read(self.fd, 4096)
            text = re.sub(rb"\x1b\[[0-9;?]*[ -/]*[@-~]", b"", self.raw)
            text, escape, rest = text.partition(b"\x1b")  # which has come in part
            self.seen, self.raw = re.sub(rb"\r+\n", b"\r\n", self.seen + text), escape + rest
        return bool(ready)

    def send(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def ctrl_c_at_prompt(self) -> None:
        """Press Ctrl-C until more than its echo shows: one that comes before keys are waited for does nothing."""
        self.seen = b""
        for _ in range(30):
            self.send(b"\x03")
            while self.read(1):
                if self.seen.strip(b"^C\r\n"):
                    return

    def ctrl_d_ends_it(self) -> None:
        self.send(b"\x04")
        assert self.process.wait(timeout=30) == 0

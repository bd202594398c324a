"""Mutated bytes through everything in Python that reads a file; what is raised must be an error of ours that names it.

``python tests/fuzz/readers.py --count 100000`` changes whole files at random; with ``--atheris``, where that package is
installed, coverage guides the changes, and what follows are libFuzzer's own options.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if "--atheris" in sys.argv:
        import atheris

        with atheris.instrument_imports(include=["autodeco_gguf"]):
            for name in (
                "cli.verify",
                "evaluation.samples",
                "heads.checkpoint",
                "tasks.tasks",
                "training.turns",
                "view.traces",
            ):
                importlib.import_module(f"autodeco_gguf.{name}")

import click
import numpy as np

from autodeco_gguf.cli import VERBS, cli
from autodeco_gguf.cli._config import defaults_from_file
from autodeco_gguf.cli.verify import _read_golden
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.evaluation.samples import Sample
from autodeco_gguf.files.journal import Journal, reading
from autodeco_gguf.files.jsonl import read_lines
from autodeco_gguf.files.reading import parse_json
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.gbnf import check_gbnf
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.tasks import read_task
from autodeco_gguf.training.records import normalize
from autodeco_gguf.training.turns import read_conversation
from autodeco_gguf.view.traces import read_traces
from fuzz.seeds import seeds

FIXTURES = Path(__file__).parent.parent / "fixtures"
QWEN2 = FIXTURES / "qwen2"
TOKEN = {"id": 5, "text": "a", "temperature": 0.7, "top_p": 0.9, "entropy": 1.0, "nucleus": 3, "prob": 0.5}
SAMPLE = {
    "task": "t", "problem": 0, "config": "autodeco", "seed": 0, "sample": 0, "text": "x", "correct": True,
    "error": None, "finish_reason": "stop", "tokens": 3, "temperature": {"mean": 1.0, "sd": 0.0},
    "top_p": {"mean": 1.0, "sd": 0.0},
}  # fmt: skip
RECORDS = [
    {"prompt": "a", "completion": "b"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]},
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        ]
    },
]
GBNF = 'root ::= item ("," item){0,3} # x\nitem ::= [a-z0-9^"\\]]+ | "b\\x41\\n" | (root2)?\nroot2 ::= .\n'
TOML = "[run]\nthreads = 1\ntemperature = 0.5\ndevice = 'none'\n[serve]\napi-key = ['a', 'b']\n"


class Reader(NamedTuple):
    """How a file is read, and whole files to begin with."""

    read: Callable[[Path], object]
    whole: Callable[[], list[bytes]]


def of_lines(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: ["".join(json.dumps(value) + "\n" for value in values).encode()]


def in_checkpoint(path: Path) -> None:
    """The file as one of a checkpoint, beside the others."""
    for name in ("config.json", "model.safetensors"):
        if name != path.name and (name, path.suffix) != ("model.safetensors", ".bin"):
            shutil.copy(QWEN2 / "heads" / name, path.parent)
    try:
        read_checkpoint(path.parent)
    finally:
        for other in path.parent.iterdir():
            if other != path:
                other.unlink()


def small_heads() -> dict[str, np.ndarray[Any, Any]]:
    """Heads of one layer each, for the width that the fixture's config says."""
    widths = {"temp_head": 64, "top_p_head": 69}
    weights = {f"{head}.mlp.0.weight": np.ones((1, n), np.float16) for head, n in widths.items()}
    return {**weights, **{f"{head}.mlp.0.bias": np.ones(1, np.float16) for head in widths}}


def small_safetensors() -> list[bytes]:
    from safetensors.numpy import save

    return [save(small_heads())]


def small_bin() -> list[bytes]:
    import torch

    out = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in small_heads().items()}, out)
    return [out.getvalue()]


def small_golden() -> list[bytes]:
    out = io.BytesIO()
    np.savez_compressed(out, tokens=np.arange(3), temperature=np.ones(3, "f4"), top_p=np.ones(3, "f4"))
    return [out.getvalue()]


def read_gguf(path: Path) -> None:
    file = ModelFile.open(path)
    file.outer.metadata()
    if file.kind != "plain":
        file.read_heads()


def read_journal(path: Path) -> None:
    """As it is looked at, and as it is continued: what is torn is cut off, the rest stays."""
    with reading(path, "kind", 1) as (_, lines):
        values = [line.value for line in lines]
    with Journal(path, {"kind": 1, "seed": 3}, force=True) as journal:
        again = [line.value for line in journal.lines()]
    assert again in (values, []), "a journal that is continued has other lines"


def read_samples(path: Path) -> None:
    with reading(path, None, 0) as (_, lines):
        for line in lines:
            try:
                Sample.from_json(line.value, {"t": {"problems": 1}})
            except InvalidInput as e:
                raise BadFile.of(path, e) from e


def read_records(path: Path) -> None:
    for _, line in read_lines(path):
        try:
            value = parse_json(line)
            if isinstance(value, dict):
                record = normalize(value)
                if "messages" in record:
                    read_conversation(record, text_arguments=False)
        except InvalidInput as e:
            raise BadFile.of(path, e) from e


def read_grammar(path: Path) -> None:
    try:
        check_gbnf(path.read_bytes().decode("utf-8", "replace"))
    except InvalidInput as e:
        raise BadFile.of(path, e) from e


def command_of(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


def read_settings(path: Path) -> None:

    os.environ["AUTODECO_CONFIG"] = str(path)
    try:
        for verb in ("run", "serve"):
            defaults_from_file(command_of(verb), [*VERBS])
    finally:
        del os.environ["AUTODECO_CONFIG"]


PROBLEMS = [{"prompt": "a", "answer": "1"}, {"problem": "b", "gt": "2"}, {"question": "c", "answer": "#### 3"}]
JOURNAL = of_lines({"kind": 1, "seed": 3}, {"a": 1}, [2], "x")

READERS: dict[str, Reader] = {
    "x.gguf": Reader(read_gguf, lambda: list(seeds().values())),
    "config.json": Reader(in_checkpoint, lambda: [(QWEN2 / "heads/config.json").read_bytes()]),
    "model.safetensors": Reader(in_checkpoint, small_safetensors),
    "pytorch_model.bin": Reader(in_checkpoint, small_bin),
    "model.safetensors.index.json": Reader(
        in_checkpoint,
        of_lines({"weight_map": {"temp_head.mlp.0.weight": "model.safetensors"}}),
    ),
    "golden.npz": Reader(_read_golden, small_golden),
    "trace.jsonl": Reader(read_traces, of_lines({"prompt": "a"}, TOKEN, TOKEN, {"tokens": 2}, SAMPLE)),
    "problems.jsonl": Reader(lambda p: read_task(str(p)), of_lines(*PROBLEMS)),
    "problems.json": Reader(lambda p: read_task(str(p)), of_lines(PROBLEMS)),
    "problems.csv": Reader(lambda p: read_task(str(p)), lambda: [b'prompt,answer\n"a, b",1\nc,2\n']),
    "journal.jsonl": Reader(read_journal, JOURNAL),
    "samples.jsonl": Reader(read_samples, of_lines(SAMPLE, SAMPLE)),
    "data.jsonl": Reader(read_records, of_lines(*RECORDS)),
    "commands.json": Reader(lambda path: Commands.read([path]), of_lines({"low": ["a"], "high": ["b"]})),
    "x.gbnf": Reader(read_grammar, lambda: [GBNF.encode()]),
    "config.toml": Reader(read_settings, lambda: [TOML.encode()]),
}

# ---- bytes ----

BITS = [b"\0", b"\xff", b"\x80", b"\n", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"-", b"e999", b"9" * 400]
BITS += [b"null", b"true", b"1e400", b"NaN", b"[" * 3000, b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 8, b'{"a":1}']
BITS += [b"\r", b"\xef\xbb\xbf", b"\\ud800", b"9" * 5000, b"2023-13-45", b"inf"]


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """Some bytes changed, gone, put in, doubled, or swapped."""
    out = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at, n = rng.randrange(len(out) + 1), rng.choice([1, 1, 2, 4, 8, 64])
        choice = rng.randrange(7)
        if choice == 0:
            del out[at : at + n]
        elif choice == 1:
            out[at:at] = rng.choice(BITS)
        elif choice == 2:
            piece = rng.choice(BITS)
            out[at : at + len(piece)] = piece
        elif choice == 3:
            out[at:at] = out[at : at + n] * rng.choice([1, 2, 50])
        elif choice == 4 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 5:
            out[at : at + n] = rng.randbytes(min(n, 8))
        else:
            other = rng.randrange(len(out) + 1)
            out[at : at + n], out[other : other + n] = out[other : other + n], out[at : at + n]
    return bytes(out)


@cache
def whole(name: str) -> list[bytes]:
    return READERS[name].whole()


def run(name: str, content: bytes, directory: Path) -> str:
    """Read these bytes: "read" or "refused"; AssertionError where the error is none of ours, or names no file."""
    path = directory / name
    path.write_bytes(content)
    try:
        READERS[name].read(path)
    except AutoDecoError as e:
        text = str(e)
        assert str(directory) in text, f"{name}: names no file: {text}"
        assert "\n" not in text, f"{name}: {text!r}"
        return "refused"
    finally:
        path.unlink(missing_ok=True)
    return "read"


def trials(name: str, seed: int, count: int) -> Iterator[bytes]:
    rng = random.Random(f"{name} {seed}")
    for _ in range(count):
        yield mutated(rng, rng.choice(whole(name)))


def hunt(seed: int, count: int, directory: Path) -> Counter[str]:
    """So many changed files for each reader."""
    found = Counter[str]()
    for name in READERS:
        for i, content in enumerate(trials(name, seed, count)):
            begin = time.process_time()
            try:
                found[f"{name} {run(name, content, directory)}"] += 1
            except BaseException as e:
                raise AssertionError(f"{name}, seed {seed}, number {i}: {content[:400]!r}") from e
            assert time.process_time() - begin < 5, f"{name}, seed {seed}, number {i}: takes long"
    return found


def guided(directory: Path) -> None:
    """What atheris calls with its bytes, of which the first says which reader they are for."""
    names, files, corpus = list(READERS), directory / "files", directory / "corpus"
    files.mkdir()
    corpus.mkdir()

    def one(data: bytes) -> None:
        if data:
            run(names[data[0] % len(names)], data[1:], files)

    for i, name in enumerate(names):
        for j, content in enumerate(whole(name)):
            (corpus / f"{name}-{j}").write_bytes(bytes([i]) + content)
    atheris.Setup([sys.argv[0], *[a for a in sys.argv[1:] if a != "--atheris"], str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        if "--atheris" in sys.argv:
            guided(Path(directory))
            return
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--count", type=int, default=1000, help="for each reader")
        args = parser.parse_args()
        for name, n in sorted(hunt(args.seed, args.count, Path(directory)).items()):
            print(f"{name}: {n}")


if __name__ == "__main__":
    main()

"""The native core: its stub, what it refuses, and what stays a bug."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import Case, load
from llama_cpp._internals import LlamaSampler

import autodeco_gguf
from autodeco_gguf import AutoDecoError, Sampler
from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, Closed, InvalidInput, ModelFailed

STUB = Path(autodeco_gguf.__file__).with_name("_core.pyi")
SPECIAL = ("__len__", "__enter__", "__exit__")

ZEROS = np.zeros((1, 4), np.float32)


# ---- the stub ----


def arguments(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    """Name and default of every argument, keyword-only ones behind a star."""
    given = function.args
    names = [a.arg for a in given.args]
    values: list[ast.expr | None] = [None] * (len(names) - len(given.defaults)) + list(given.defaults)
    found = [(name, value and ast.unparse(value)) for name, value in zip(names, values, strict=True)]
    return [*found, *([("*", None)] if given.kwonlyargs else []), *((a.arg, None) for a in given.kwonlyargs)]


def declared() -> dict[str, Any]:
    """The stub: "function" or "Class.method" -> arguments, or None for a property."""
    found: dict[str, Any] = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class"
            for part in node.body:
                if isinstance(part, ast.AnnAssign):  # a property that can be set
                    found[f"{node.name}.{ast.unparse(part.target)}"] = None
            for method in (part for part in node.body if isinstance(part, ast.FunctionDef)):
                is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list)
                found[f"{node.name}.{method.name}"] = None if is_property else arguments(method)
    return found


def signature(function: Any) -> list[tuple[str, str | None]]:
    """What pybind11 writes into the docstring's first line."""
    definition = ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body[0]
    assert isinstance(definition, ast.FunctionDef)
    return arguments(definition)


def compiled() -> dict[str, Any]:
    """The same of the module."""
    found: dict[str, Any] = {}
    for name, value in vars(core).items():
        if name.startswith("_"):
            continue
        if not isinstance(value, type):
            found[name] = signature(value)
            continue
        found[name] = "class"
        for key, member in vars(value).items():
            if isinstance(member, property):
                found[f"{name}.{key}"] = None
            elif key in SPECIAL or (key == "__init__" and "self:" in (member.__doc__ or "")) or key[0] != "_":
                found[f"{name}.{key}"] = signature(member)
    return found


def test_the_stub_is_the_module() -> None:
    assert declared() == compiled()


# ---- refusals ----


def heads(**changed: Any) -> Any:
    layer = np.zeros((1, 4), np.float32), np.zeros(1, np.float32)
    given = {"n_embd": 4, "n_vocab": 4, "temp_scale": 2.0, "n_features": 5, "temp": [layer], "temp_gelu": False}
    return core.Heads(**{**given, "top_p": [], "top_p_gelu": False, **changed})


REFUSALS: dict[str, tuple[Callable[[], object], type[AutoDecoError], str]] = {
    "size": (lambda: heads(n_embd=0), InvalidInput, "hidden size 0 or vocabulary 4 is not a size a model has"),
    "features": (lambda: heads(n_features=3), InvalidInput, "top_p_head: 3 features, expected 1 or 5"),
    "layers": (
        lambda: heads(n_embd=3),
        InvalidInput,
        r"temp_head: layer 0 has weight \[1, 4\] and bias \[1\], expected",
    ),
    "device": (
        lambda: heads().evaluate(ZEROS, ZEROS, "TPU", True, True),
        InvalidInput,
        "no device TPU; this build has",
    ),
    "shape": (lambda: heads().evaluate(ZEROS, ZEROS[:, :3], "CPU", True, True), InvalidInput, r"logits is \[1, 3\]"),
    "draw": (lambda: core.draw(ZEROS, 1.0, 1.0, 1, 0), InvalidInput, r"draw: logits is \[1, 4\], expected \[n_vocab\]"),
    "logit": (lambda: core.draw(ZEROS[0] - np.inf, 1.0, 1.0, 1, 0), InvalidInput, "draw: every logit is -inf"),
    "type": (lambda: core.quantize(ZEROS, "q9"), InvalidInput, "ggml has no type q9"),
    "block": (lambda: core.quantize(ZEROS, "q8_0"), InvalidInput, r"an array \[1, 4\] cannot be written as q8_0"),
    "bytes": (lambda: core.dequantize(b"abc", "f32", 1), InvalidInput, "3 bytes are not 1 values of f32"),
    "context": (lambda: core.logits(0, 0), Closed, "the llama_context is NULL: closed, or never made"),
    "no file": (lambda: core.GgufHeader(b"/no/such", 0), BadFile, "cannot be opened: No such file or directory"),
    "no header": (lambda: core.GgufHeader(bytes(STUB), 0), BadFile, "not a GGUF, or a broken one: "),
    "lengths": (lambda: core.decode(1, [5, 6], [0], [0, 0], 1), InvalidInput, "decode: tokens, .* differ in length"),
    "outputs": (lambda: core.decode(1, [5], [0], [0], 2), InvalidInput, "decode: tokens, .* differ in length"),
    "open": (lambda: core.file_open(b"/no/such", 0), BadFile, "cannot be opened: No such file or directory"),
}


@pytest.mark.parametrize(("call", "kind", "match"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal(call: Callable[[], object], kind: type[AutoDecoError], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match) as error:
        call()
    assert error.type is kind


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_no_bytes_are_no_values(kind: str) -> None:
    assert core.dequantize(b"", kind, 0).shape == (0,)


@pytest.mark.parametrize(
    "entry",
    [("k", "str", "\udcff"), ("k", "u32", 2**32), ("k", "u32", -1), ("k", "str", 1), ("k", "f64", 1.0)],
    ids=str,
)
def test_metadata_that_cannot_be_written(qwen2: Case, entry: tuple[str, str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"metadata"):
        core.GgufHeader(bytes(qwen2.base), 0).build([], [entry], [])


def with_entry(base: core.GgufHeader, entry: tuple[str, str, object], path: Path) -> core.GgufHeader:
    path.write_bytes(base.build([entry[0]], [entry], []))
    return core.GgufHeader(bytes(path), 0)


def test_a_whole_number_is_written_as_a_float(qwen2: Case, tmp_path: Path) -> None:
    assert with_entry(core.GgufHeader(bytes(qwen2.base), 0), ("k", "f32", 3), tmp_path / "x.gguf").value("k") == 3.0


def test_a_tensor_without_dimensions_is_one_value(qwen2: Case, tmp_path: Path) -> None:
    data = core.GgufHeader(bytes(qwen2.base), 0).build([], [], [("scalar", "f32", [1])])
    there = data.index(entry := b"scalar" + struct.pack("<IqIQ", 1, 1, 0, 0))
    assert data[there + len(entry) :].strip(b"\0") == b""
    (tmp_path / "x.gguf").write_bytes(data[:there] + b"scalar" + bytes(16 + 96))
    (found,) = core.GgufHeader(bytes(tmp_path / "x.gguf"), 0).tensors()
    assert (found[0], found[2]) == ("scalar", (1,))


def test_what_is_in_one_header_alone_or_another_there_is_a_difference(qwen2: Case, tmp_path: Path) -> None:
    base = core.GgufHeader(bytes(qwen2.base), 0)
    more = with_entry(base, ("k", "u32", 1), tmp_path / "more.gguf")
    other = with_entry(base, ("general.architecture", "str", "llama"), tmp_path / "other.gguf")
    assert base.diff(more, []) == more.diff(base, []) == "k"
    assert base.diff(other, []) == other.diff(base, []) == "general.architecture"
    assert base.diff(more, ["k"]) == base.diff(base, []) == ""


@pytest.mark.parametrize(
    "tensors",
    [
        [("", "f32", [1])],
        [("a" * 64, "f32", [1])],
        [("t", "f32", [])],
        [("t", "f32", [1] * 5)],
        [("t", "f32", [2, 0])],
        [("t", "q8_0", [2, 31])],
        [("t", "f32", [1]), ("t", "f32", [1])],
    ],
    ids=str,
)
def test_tensors_that_cannot_be_written(qwen2: Case, tensors: list[tuple[str, str, list[int]]]) -> None:
    match = (
        r"^two tensors are named t$" if len(tensors) > 1 else r"^tensor a*t? cannot have this name, or this shape as "
    )
    with pytest.raises(InvalidInput, match=match):
        core.GgufHeader(bytes(qwen2.base), 0).build([], [], tensors)


def test_a_header_that_is_not_aligned(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"four" + qwen2.base.read_bytes())
    with pytest.raises(BadFile, match=r"^stands at byte 4, which is not aligned to 32$"):
        core.GgufHeader(bytes(tmp_path / "a.gguf"), 4)


def test_what_a_context_lacks(qwen2: Case) -> None:
    llama = load(qwen2.base, heads_enabled=[])
    with pytest.raises(ModelFailed, match="the last decode has no output -1"):
        Sampler(None).sample(llama.ctx)


def test_what_llama_cpp_throws(qwen2: Case) -> None:
    """A greedy draw does not ask the chain behind T, which then finds a token that its grammar does not allow."""
    llama = load(qwen2.base, heads_enabled=[])
    llama.eval(qwen2.tokens[:4])
    chain, vocab = LlamaSampler(), llama_cpp.llama_model_get_vocab(llama.model)
    grammar = llama_cpp.llama_sampler_init_grammar(vocab, b'root ::= "\xc3\xa9\xc3\xa9\xc3\xa9"', b"root")
    llama_cpp.llama_sampler_chain_add(chain.sampler, grammar)
    with pytest.raises(ModelFailed, match="grammar"):
        Sampler(None, temperature=0.0, chains=(None, chain)).sample(llama.ctx)


# ---- bugs ----


class Unprintable:
    def __repr__(self) -> str:
        return "\udcff"


def test_a_bug_stays_a_bug(qwen2: Case) -> None:
    with pytest.raises(RuntimeError, match="Unable to cast") as error:  # a std::runtime_error
        core.GgufHeader(bytes(qwen2.base), 0).build([], [("k", "str", Unprintable())], [])
    assert error.type is RuntimeError
    with pytest.raises(ValueError, match="vector") as length:  # a std::length_error
        core.draw(ZEROS[0], 1.0, 1.0, 2**62, 0)
    assert length.type is ValueError
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.draw(ZEROS[0], 1.0, 1.0, -1, -1)


class Interrupted:
    def __index__(self) -> int:
        raise KeyboardInterrupt


@pytest.mark.parametrize("place", range(3))
def test_an_interrupt_comes_through(place: int) -> None:
    given: list[Any] = [[1], [0], [0]]
    given[place] = [Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        core.decode(1, *given, 1)


def test_a_token_that_has_no_32_bits() -> None:
    with pytest.raises(InvalidInput, match="decode: 4294967296, expected 32 bits"):
        core.decode(1, [2**32], [0], [0], 1)

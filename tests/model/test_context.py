"""A context of many sequences: its limits, its text, and what it says when it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, metadata_of, rewrite, tensors_of, write_gguf
from conftest import Case, load_case
from family_helpers import FAMILIES
from llama_cpp import llama_cpp as lib

from autodeco_gguf.errors import Closed, InvalidInput, ModelFailed
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.context import Context, default_context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.sampler import Predictor


def test_default_context(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    model = ModelFile.open(merged)
    own = default_context(model, 1 << 30)
    assert own == default_context(ModelFile.open(qwen2.base), own + 1)
    assert default_context(model, own - 1) == own - 1
    missing = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"qwen2.context_length": None})
    assert default_context(ModelFile.open(missing), 77) == 77


def test_what_is_wrong_is_said_by_type(merged: Path) -> None:
    context = Context(merged, n_ctx=32, n_seq=2)
    with pytest.raises(InvalidInput, match=r"^not UTF-8: surrogates not allowed at character 3$") as text:
        context.tokenize("caf\udce9")
    assert text.value.key == "text"
    with pytest.raises(ModelFailed, match=r"llama_decode failed with status -1$") as failed:
        context.decode([1], [7], [99], hidden=False)
    assert failed.value.file == str(merged)
    context.close()
    for use in (context.check_open, lambda: context.tokenize("x"), lambda: context.token_bytes(1)):
        with pytest.raises(Closed, match=rf"^{merged}: the model is closed$") as closed:
            use()
        assert closed.value.file == str(merged)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda c: c.copy(0, 2), "sequence 2, expected 0 to 1"),
        (lambda c: c.copy(-1, 0), "sequence -1, expected 0 to 1"),
        (lambda c: c.remove(2), "sequence 2, expected 0 to 1"),
        (lambda c: c.is_eog(2**40), "token 1099511627776, expected 0 to 383"),
        (lambda c: c.shift(2, 0, 1), "sequence 2, expected 0 to 1"),
        (lambda c: c.shift(0, 0, -2), "shift of -2 tokens from 0 on, expected at least 0"),
        (lambda c: c.shift(0, -3, 2), "shift of 2 tokens from -3 on, expected at least 0"),
        (
            lambda c: c.decode([1] * 17, range(17), [0] * 17, hidden=False),
            "tokens, outputs 17, 17, expected at most 512, 16",
        ),
        (
            lambda c: c.draw([1] * 513, range(513), [0] * 513, [], None),
            "tokens, outputs 513, 0, expected at most 512, 16",
        ),
    ],
)
def test_numbers_for_which_llama_cpp_ends_the_process(
    use: Callable[[Context], Any], message: str, merged: Path
) -> None:
    context = Context(merged, n_ctx=32, n_seq=2, n_outputs=16)
    before = context.decode([5, 6], [0, 1], [0, 0], hidden=False)[0].copy()
    with pytest.raises(InvalidInput, match=f"^{message}"):
        use(context)
    context.remove(0, 1)
    assert np.abs(context.decode([6], [1], [0], hidden=False)[0][0] - before[1]).max() < 1e-4  # as it was


def test_a_context_that_llama_cpp_refuses(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autodeco_gguf.model.context.MAX_SEQUENCES", 1000)
    context = Context(merged, n_ctx=32)
    with pytest.raises(ModelFailed, match=rf"^{merged}: no context of 257 times 32 tokens: .*256"):
        context.resize(32, 257)


def test_more_cells_than_any_model_has(merged: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^n_ctx 2147483648, expected at most 33554432 with sequences: 2$"):
        Context(merged, n_ctx=2**31, n_seq=2)
    context = Context(merged, n_ctx=32)
    with pytest.raises(InvalidInput, match=r"^n_ctx 16777216, expected at most 262144 with sequences: 256$"):
        context.resize(2**24, 256)
    for name, value in (("n_ctx", 0), ("n_ctx", -5), ("n_ctx", 32.5), ("n_seq", 0), ("n_seq", 257), ("n_seq", 1.0)):
        with pytest.raises(InvalidInput, match=f"^{name} {value}, expected "):
            context.resize(**{"n_ctx": 32, "n_seq": 1, name: value})  # type: ignore[arg-type]
    assert context.decode([5], [0], [0], hidden=False)  # as it was


def test_sizes_of_numpy(merged: Path) -> None:
    context = Context(merged, n_ctx=np.uint8(200), n_seq=np.int8(2))  # type: ignore[arg-type]
    assert (context.n_ctx, context.n_seq) == (200, 2)
    context.resize(np.uint64(300), np.int64(3))  # type: ignore[arg-type]
    assert context.decode([5], [299], [2], hidden=False)
    assert all(type(size) is int for size in (context.n_ctx, context.n_seq))


def test_sequences_of_its_own(merged: Path) -> None:
    context = Context(merged, n_ctx=32, n_seq=3)
    alone, _ = context.decode([5], [0], [0], hidden=False)
    alone = alone.copy()
    context.fill([9, 8], range(2), [1, 1])
    context.copy(0, 2)
    after = context.decode([6], [1], [2], hidden=False)[0].copy()
    context.clear()
    context.resize(64, 1)
    np.testing.assert_array_equal(context.decode([5], [0], [0], hidden=False)[0], alone)
    np.testing.assert_array_equal(context.decode([6], [1], [0], hidden=False)[0], after)
    assert (context.n_ctx, context.n_seq) == (64, 1)
    assert context.remove(0, 1)
    logits, hidden = context.decode([6], [1], [0], hidden=True)
    assert hidden is not None
    assert hidden.shape == (1, context.hidden_size)
    np.testing.assert_allclose(logits, after, rtol=0, atol=1e-5)


USES: list[tuple[str, Callable[[Context], Any]]] = [
    ("n_ctx_train", lambda c: c.n_ctx_train),
    ("eos", lambda c: c.eos),
    ("vocab", lambda c: c.vocab),
    ("address", lambda c: c.address),
    ("tokenize", lambda c: c.tokenize("a")),
    ("token_bytes", lambda c: c.token_bytes(5)),
    ("text", lambda c: c.text([5])),
    ("is_eog", lambda c: c.is_eog(5)),
    ("clear", lambda c: c.clear()),
    ("remove", lambda c: c.remove(0)),
    ("copy", lambda c: c.copy(0, 1)),
    ("fill", lambda c: c.fill([5], [0], [0])),
    ("draw", lambda c: c.draw([5], [0], [0], [None], Predictor(None))),
    ("decode", lambda c: c.decode([5], [0], [0], hidden=False)),
    ("resize", lambda c: c.resize(32, 1)),
]


YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 64}
ROPES: dict[str, tuple[str, dict[str, str | float], bool]] = {
    "none": ("qwen2", {}, True),
    "linear": ("qwen2", {"type": "linear", "factor": 4.0}, True),
    "yarn": ("qwen2", YARN, False),
    "yarn, multiplier unread": ("qwen2", YARN | {"yarn_log_multiplier": 0.1}, False),
    "longrope": ("qwen2", {"type": "longrope", "factor": 4.0, "attn_factor": 1.2}, False),
    "deepseek": ("deepseek2", YARN | {"yarn_log_multiplier": 0.0707}, True),
    "deepseek without a multiplier": ("deepseek2", YARN, False),
}


@pytest.mark.parametrize("name", ROPES)
def test_a_shift_changes_no_other_sequence(name: str, qwen2: Case, tmp_path: Path) -> None:
    architecture, scaling, possible = ROPES[name]
    kinds = {str: Kind.STRING, float: Kind.FLOAT32, int: Kind.UINT32}
    metadata = {f"{architecture}.rope.scaling.{k}": (v, kinds[type(v)]) for k, v in scaling.items()}
    source = qwen2.base if architecture == "qwen2" else FAMILIES / "deepseek_v2.gguf"
    rewrite(source, tmp_path / "m.gguf", metadata=metadata)
    context = Context(tmp_path / "m.gguf", n_ctx=64, n_seq=2, machine=Machine(n_threads=1, cache_type="f32"))
    found = []
    for n in (0, 10):
        context.clear()
        for seq in (0, 1):
            context.fill(range(30), range(30), [seq] * 30)
        if n:
            context.shift(1, 0, n)
        found.append(context.decode([7], [30], [0], hidden=False)[0].copy())
    assert context.can_shift is np.array_equal(*found) is possible
    context.close()


@pytest.mark.parametrize(("architecture", "possible"), [("llama", True), ("smollm3", False)])
def test_a_shift_moves_what_has_a_position(architecture: str, possible: bool, tmp_path: Path) -> None:
    """Beside the same without the tokens that go, where they leave a gap; every fourth layer of smollm3 has none."""
    source = load_case("llama").base
    renamed = {key.replace("llama.", f"{architecture}."): entry for key, entry in metadata_of(source).items()}
    renamed |= {"general.architecture": (architecture, Kind.STRING), f"{architecture}.block_count": (4, Kind.UINT32)}
    again = {"blk.0.": "blk.2.", "blk.1.": "blk.3."}
    tensors = tensors_of(source)
    more = [(again[n[:6]] + n[6:], data, kind) for n, data, kind in tensors if n[:6] in again]
    write_gguf(tmp_path / "m.gguf", renamed, [*tensors, *more])
    context = Context(tmp_path / "m.gguf", n_ctx=64, n_seq=1, machine=Machine(n_threads=1, cache_type="f32"))
    found = []
    for position in (30, 20):
        context.clear()
        context.fill(range(10, 40), range(30), [0] * 30)
        if position == 30:
            lib.llama_memory_seq_rm(context._ctx.memory, 0, 0, 10)
        else:
            context.shift(0, 0, 10)
        found.append(context.decode([7], [position], [0], hidden=False)[0].copy())
    assert context.can_shift is possible
    assert bool(np.abs(found[0] - found[1]).max() < 1e-4) is possible
    context.close()


@pytest.mark.parametrize("resized", [False, True], ids=["", "resized"])
@pytest.mark.parametrize("use", [u[1] for u in USES], ids=[u[0] for u in USES])
def test_after_close(merged: Path, use: Callable[[Context], Any], resized: bool) -> None:
    context = Context(merged, n_ctx=32, n_seq=2)
    assert context.token_bytes(5)
    if resized:
        context.resize(64, 2)
    context.close()
    context.close()
    with pytest.raises(Closed, match=r"the model is closed$"):
        use(context)


def test_heads_after_close(merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    predictor = Predictor(Heads.load(merged))
    assert context.takes(predictor)
    context.close()
    for use in (context.attach, context.takes):
        with pytest.raises(Closed):
            use(predictor)

"""The low-level Sampler on a llama_context made with llama_cpp's C functions, and what its trace says."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp as lib
import numpy as np
import pytest
import reference
from conftest import Case, load_case
from llama_cpp._internals import LlamaSampler
from llama_cpp._logger import set_verbose

from autodeco_gguf import AutoDecoError, Heads, InvalidInput, Sampler
from autodeco_gguf.model.sampler import Predictor, build_sampler
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.model.token_text import token_bytes
from autodeco_gguf.model.trace import TraceToken

INF = math.inf
TOLERANCE = 1e-5

Row = tuple[int, int, int, bool]
"""Token, position, sequence, whether its logits are wanted."""


class Context:
    """A llama_context with an F32 cache."""

    def __init__(self, model: Any, n_seq: int = 1, embeddings: bool = False) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = 256, 128, n_seq
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = lib.GGML_TYPE_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.embeddings = embeddings
        self.model = model
        self.ctx = lib.llama_init_from_model(model, params)
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def decode(self, *rows: Row) -> None:
        batch = lib.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        result = lib.llama_decode(self.ctx, batch)
        lib.llama_batch_free(batch)
        assert result == 0

    def prompt(self, tokens: list[int], sequence: int = 0) -> None:
        self.decode(*prompt(tokens, sequence))

    def logits(self, idx: int = -1) -> np.ndarray[Any, Any]:
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.ctx, idx), (self.n_vocab,)).copy()


def prompt(tokens: list[int], sequence: int = 0) -> list[Row]:
    """Rows of a prompt, of which the last has an output."""
    return [(token, i, sequence, i + 1 == len(tokens)) for i, token in enumerate(tokens)]


@pytest.fixture(scope="module")
def model(qwen2: Case) -> Iterator[Any]:
    lib.llama_backend_init()
    set_verbose(False)
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(qwen2.base).encode(), params)
    yield model
    lib.llama_model_free(model)


@pytest.fixture(scope="module")
def heads(merged: Path) -> Heads:
    return Heads.load(merged)


@pytest.fixture
def new_context(model: Any) -> Iterator[Callable[..., Context]]:
    made: list[Context] = []

    def make(*args: Any, **kwargs: Any) -> Context:
        made.append(Context(model, *args, **kwargs))
        return made[-1]

    yield make
    for context in made:
        lib.llama_free(context.ctx)


@pytest.fixture
def context(new_context: Callable[..., Context]) -> Context:
    return new_context()


def assert_predicts(sampler: Sampler, case: Case, *positions: int) -> None:
    """The trace's last tokens follow these positions of the case's text."""
    last = sampler.trace[-len(positions) :]
    found = np.array([(t.temperature, t.top_p) for t in last])
    expected = np.column_stack([case.golden["temperature"], case.golden["top_p"]])[list(positions)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


# ---- one sequence ----


def test_attached(context: Context, heads: Heads, qwen2: Case) -> None:
    sampler = Sampler(heads, seed=1)
    assert sampler.attach(context.ctx)
    assert sampler.predictor.attached
    context.prompt(qwen2.tokens[:10])
    tokens = [sampler.sample(context.ctx)]
    assert sampler.predictor.in_graph()
    for i in range(10, 30):
        context.decode((qwen2.tokens[i], i, 0, True))
        tokens.append(sampler.sample(context.ctx))
    assert_predicts(sampler, qwen2, *range(9, 30))
    assert [t.id for t in sampler.trace] == tokens
    sampler.detach()
    assert not sampler.predictor.attached


def test_host_way(new_context: Callable[..., Context], heads: Heads, qwen2: Case) -> None:
    context = new_context()
    lib.llama_set_embeddings(context.ctx, True)
    context.decode(*[(token, i, 0, True) for i, token in enumerate(qwen2.tokens)])
    sampler = Sampler(heads, seed=1)
    for i in range(48):
        sampler.sample(context.ctx, i)
    assert_predicts(sampler, qwen2, *range(48))
    assert not sampler.predictor.in_graph()


def test_detach_and_attach_again(context: Context, heads: Heads, qwen2: Case) -> None:
    sampler = Sampler(heads, seed=1)
    sampler.detach()  # nothing to do
    for begin in (0, 10, 20):
        sampler.attach(context.ctx)
        context.decode(*[(qwen2.tokens[i], i, 0, i % 10 == 9) for i in range(begin, begin + 10)])
        sampler.sample(context.ctx)
        sampler.detach()
        sampler.detach()
    assert_predicts(sampler, qwen2, 9, 19, 29)


def test_the_address_of_a_context_will_do(context: Context, heads: Heads, qwen2: Case) -> None:
    address = ctypes.cast(context.ctx, ctypes.c_void_p).value
    sampler = Sampler(heads, seed=1)
    sampler.attach(address)
    context.prompt(qwen2.tokens[:10])
    sampler.sample(address)
    assert_predicts(sampler, qwen2, 9)
    sampler.detach()


@pytest.mark.parametrize("other", ["x", b"x", 5.5, object()])
def test_what_is_no_context(other: object, heads: Heads) -> None:
    words = r"^context of \w+, expected a ctypes pointer, or an address$"
    with pytest.raises(InvalidInput, match=words):
        Sampler(heads).attach(other)
    with pytest.raises(InvalidInput, match=words):
        Sampler(heads).sample(other)


@pytest.mark.parametrize("fixed", [{"temperature": 0.7, "top_p": 0.5}, {}], ids=["both", "no heads"])
def test_nothing_to_predict_needs_no_attaching(context: Context, qwen2: Case, fixed: dict[str, float]) -> None:
    context.prompt(qwen2.tokens[:10])
    sampler = Sampler(None, seed=1, **fixed)
    assert sampler.attach(context.ctx)
    sampler.sample(context.ctx)
    found = sampler.trace[0]
    expected = (fixed.get("temperature", 1.0), fixed.get("top_p", 1.0))
    assert (found.temperature, found.top_p) == pytest.approx(expected)


# ---- two sequences, two samplers ----

SHORT, LONG = 8, 12

PROMPTS = [
    ("apart", [[(SHORT, 0)], [(LONG, 1)]], (0, 1)),
    ("sequence 1 first", [[(SHORT, 0)], [(LONG, 1)]], (1, 0)),
    ("prompts together", [[(SHORT, 0), (LONG, 1)]], (0, 1)),
    ("the longer first", [[(LONG, 0), (SHORT, 1)]], (0, 1)),
]


@pytest.mark.parametrize(("prompts", "order"), [p[1:] for p in PROMPTS], ids=[p[0] for p in PROMPTS])
def test_two_sequences(
    new_context: Callable[..., Context], heads: Heads, qwen2: Case, prompts: Any, order: tuple[int, int]
) -> None:
    """Prompts of unequal length, then ten times a token of each in one decode."""
    context, samplers = new_context(2), [Sampler(heads, seed=s) for s in (0, 1)]
    for sequence, sampler in enumerate(samplers):
        sampler.attach(context.ctx, sequence)
    n_past = {s: n for together in prompts for n, s in together}
    decodes = [[row for n, s in together for row in prompt(qwen2.tokens[:n], s)] for together in prompts]
    for i in range(10):
        decodes.append([(qwen2.tokens[n_past[s] + i], n_past[s] + i, s, True) for s in order])
    try:
        for rows in decodes:
            context.decode(*rows)
            for idx, (_, position, sequence, wanted) in enumerate(rows):
                if wanted:
                    samplers[sequence].sample(context.ctx, idx)
                    assert_predicts(samplers[sequence], qwen2, position)
    finally:
        for sampler in samplers:
            sampler.detach()


def test_a_sequence_without_heads_beside_one_with(
    new_context: Callable[..., Context], heads: Heads, qwen2: Case
) -> None:
    context, sampler = new_context(2), Sampler(heads, seed=1)
    sampler.attach(context.ctx, 0)
    try:
        context.decode(*prompt(qwen2.tokens[:10], 0), *prompt(qwen2.tokens[:20], 1))
        sampler.sample(context.ctx, 9)
        assert_predicts(sampler, qwen2, 9)
    finally:
        sampler.detach()


# ---- the trace ----

SIXTEENTHS = np.log(np.array([8, 4, 2, 1, 1]) / 16)


def drawn(context: Context, logits: Any, **kwargs: Any) -> TraceToken:
    """One token drawn from these logits instead of the model's; the rest of the vocabulary is excluded."""
    row = np.full(context.n_vocab, -INF, np.float32)
    row[: len(logits)] = logits
    sampler = Sampler(None, logits_processors=[lambda _, __: row], **{"seed": 1, **kwargs})
    sampler.sample(context.ctx)
    return sampler.trace[0]


def test_the_trace_agrees_with_the_reference(context: Context, heads: Heads, qwen2: Case) -> None:
    sampler = Sampler(heads, seed=3)
    sampler.attach(context.ctx)
    for i, token in enumerate(qwen2.tokens):
        context.decode((token, i, 0, True))
        sampler.sample(context.ctx)
        found, logits = sampler.trace[i], context.logits()
        p = reference.distribution(logits, found.temperature, found.top_p)
        assert found.entropy == pytest.approx(reference.entropy(logits), abs=1e-5)
        assert found.nucleus == np.count_nonzero(p)
        assert found.prob == pytest.approx(p[found.id], rel=1e-4)
    sampler.detach()


def test_the_entropy_is_the_models_own(context: Context, qwen2: Case) -> None:
    context.prompt(qwen2.tokens[:10])
    expected = reference.entropy(qwen2.golden["logits"][9])
    assert drawn(context, [1.0]).entropy == pytest.approx(expected, abs=1e-4)
    assert drawn(context, [1.0], temperature=0.3, top_p=0.1).entropy == pytest.approx(expected, abs=1e-4)


# ---- processors and chains ----


def test_processors_run_in_order_on_the_raw_logits(context: Context, qwen2: Case) -> None:
    context.prompt(qwen2.tokens[:10])
    seen = []

    def double(ids: Any, logits: Any) -> Any:
        seen.append((ids.tolist(), logits[:3].tolist()))
        return logits * 2

    def only_7(_: Any, logits: Any) -> Any:
        seen.append(logits[:3].tolist())
        return np.where(np.arange(len(logits)) == 7, logits, -INF)

    sampler = Sampler(None, seed=1, logits_processors=[double, only_7])
    assert sampler.sample(context.ctx, input_ids=np.array([1, 2], np.intc)) == 7
    raw = context.logits()[:3]
    assert seen == [([1, 2], raw.tolist()), (raw * 2).tolist()]


def test_a_processor_may_write_into_what_it_gets(context: Context, qwen2: Case) -> None:
    context.prompt(qwen2.tokens[:10])
    raw = context.logits()

    def wipe(_: Any, logits: Any) -> Any:
        logits[:] = -INF
        logits[3] = 0.0
        return logits

    assert Sampler(None, logits_processors=[wipe], seed=1).sample(context.ctx) == 3
    np.testing.assert_array_equal(context.logits(), raw)


def chain(**stages: tuple[Any, ...]) -> LlamaSampler:
    result = LlamaSampler()
    for name, args in stages.items():
        getattr(result, f"add_{name}")(*args)
    return result


def pair(stages: dict[str, dict[str, tuple[Any, ...]]]) -> tuple[LlamaSampler | None, LlamaSampler | None]:
    """The chains before and after the division by T."""
    before, after = (chain(**stages[name]) if name in stages else None for name in ("before", "after"))
    return before, after


# p = 1/2, 1/4, 1/8, 1/16, 1/16
CHAINS = [
    ("top_k after", {"after": {"top_k": (2,)}}, {}, 2, {0, 1}),
    ("top_k before", {"before": {"top_k": (2,)}}, {}, 2, {0, 1}),
    ("top_k before and after", {"before": {"top_k": (3,)}, "after": {"top_k": (2,)}}, {}, 2, {0, 1}),
    ("top_k, then the cut", {"after": {"top_k": (2,)}}, {"top_p": 0.6}, 1, {0}),  # 2/3, 1/3
    ("min_p", {"after": {"min_p": (0.3, 1)}}, {}, 2, {0, 1}),
    ("min_p on what is scaled", {"after": {"min_p": (0.3, 1)}}, {"temperature": 0.5}, 1, {0}),
    ("min_p before it is scaled", {"before": {"min_p": (0.3, 1)}}, {"temperature": 0.5}, 2, {0, 1}),
    ("greedy all the same", {"after": {"top_k": (4,)}}, {"temperature": 0.0}, 1, {0}),
    ("almost greedy", {"after": {"top_k": (4,)}}, {"temperature": 1e-39}, 1, {0}),
]


@pytest.mark.parametrize(("chains", "fixed", "nucleus", "tokens"), [c[1:] for c in CHAINS], ids=[c[0] for c in CHAINS])
def test_chains(context: Context, chains: Any, fixed: Any, nucleus: int, tokens: set[int]) -> None:
    context.prompt([0])
    made, fixed = pair(chains), {"temperature": 1.0, "top_p": 1.0, **fixed}
    found = [drawn(context, SIXTEENTHS, seed=s, chains=made, **fixed) for s in range(60)]
    assert {t.nucleus for t in found} == {nucleus}
    assert {t.id for t in found} == tokens


@pytest.mark.parametrize("order", ["autodeco", "llama.cpp"])
@pytest.mark.parametrize(
    ("cut", "tokens"),
    [({"typical_p": 0.2}, {1}), ({"typical_p": 0.2, "top_n_sigma": 2.0}, {1}), ({"mirostat_mode": 1}, {0, 1, 2, 3, 4})],
    ids=str,
)
def test_what_is_excluded_changes_no_cut(context: Context, cut: Any, tokens: set[int], order: Any) -> None:
    """Token 1, a quarter, is the one whose surprise is nearest to the entropy; mirostat begins with all five."""
    context.prompt([0])
    row = np.full(context.n_vocab, -INF, np.float32)
    row[: len(SIXTEENTHS)] = SIXTEENTHS
    found = set()
    for seed in range(60):
        sampling = Sampling(seed=seed, temperature=1.0, top_p=1.0, order=order, **cut)
        model: Any = SimpleNamespace(vocab=lib.llama_model_get_vocab(context.model))
        sampler = build_sampler(Predictor(None), sampling, model, logits_processors=[lambda _, __: row])
        found.add(sampler.sample(context.ctx))
    assert found == tokens


def test_a_chain_sees_what_was_drawn(context: Context, qwen2: Case) -> None:
    """A grammar moves on with every token."""
    vocab = lib.llama_model_get_vocab(context.model)
    sampling = Sampling(seed=1, grammar=lib.LlamaGrammar.from_string('root ::= "a" "b"'))
    context.prompt(qwen2.tokens[:10])
    model = type("Model", (), {"vocab": vocab})()
    sampler = build_sampler(Predictor(None), sampling, model)
    text = b""
    for position in range(10, 14):
        token = sampler.sample(context.ctx)
        if lib.llama_vocab_is_eog(vocab, token):
            break
        text += token_bytes(vocab, token)
        context.decode((token, position, 0, True))
    assert text == b"ab"


@pytest.mark.parametrize(("top", "gate", "sure"), [(0.5, 0.49, True), (0.5, 0.51, False), (0.93, 0.9, True)])
def test_above_the_gate_the_most_likely_token_is_taken(context: Context, top: float, gate: float, sure: bool) -> None:
    """The gate reads the model's own logits, and the greedy token is that of the changed ones."""
    context.prompt([0])
    vocab = lib.llama_model_get_vocab(context.model)
    raw = np.ctypeslib.as_array(lib.llama_get_logits_ith(context.ctx, -1), (context.n_vocab,))
    raw[:] = np.log((1 - top) / (context.n_vocab - 1))
    raw[7] = math.log(top)
    for bias, token in ((None, 7), ({7: -INF, 9: 0.1}, 9)):
        found = []
        for seed in range(40):
            sampling = Sampling(seed=seed, temperature=2.0, top_p=1.0, gate=gate, logit_bias=bias)
            sampler = build_sampler(Predictor(None), sampling, SimpleNamespace(vocab=vocab))
            sampler.sample(context.ctx)
            found.append(sampler.trace[0])
        assert {t.temperature for t in found} == {0.0 if sure else 2.0}
        assert ({t.id for t in found} == {token}) is sure


def test_a_gate_goes_before_what_is_predicted(context: Context, heads: Heads, qwen2: Case) -> None:
    tokens, found = qwen2.tokens[:30], []
    predictor = Predictor(heads)
    predictor.attach(context.ctx)
    sampling = Sampling(seed=3, gate=0.1)
    sampler = build_sampler(predictor, sampling, SimpleNamespace(vocab=lib.llama_model_get_vocab(context.model)))
    for position, token in enumerate(tokens):
        context.decode((token, position, 0, True))
        drawn = sampler.sample(context.ctx)
        logits = context.logits().astype(float)
        top = 1 / np.exp(logits - logits.max()).sum()
        found.append((sampler.trace[-1].temperature, bool(top > 0.1), drawn == logits.argmax()))
    predictor.detach()
    assert {sure for _, sure, _ in found} == {True, False}
    assert all((temperature == 0) is sure and (greedy or not sure) for temperature, sure, greedy in found)


# ---- bad input ----


def test_sampling_needs_a_prediction(context: Context, heads: Heads, qwen2: Case) -> None:
    context.prompt(qwen2.tokens[:10])
    with pytest.raises(AutoDecoError, match=r"no hidden state for output -1 .*attach the heads .*llama_set_embeddings"):
        Sampler(heads).sample(context.ctx)


def test_sampling_needs_a_decode_after_attaching(context: Context, heads: Heads, qwen2: Case) -> None:
    context.prompt(qwen2.tokens[:10])
    sampler = Sampler(heads, seed=1)
    sampler.attach(context.ctx)
    try:
        with pytest.raises(AutoDecoError, match="decode"):
            sampler.sample(context.ctx)
    finally:
        sampler.detach()


def test_a_graph_whose_hidden_state_has_another_name(context: Context, heads: Heads, qwen2: Case) -> None:
    """As llama.cpp gives it one where embeddings are on: what was predicted before is no prediction for this."""
    sampler = Sampler(heads, seed=1)
    sampler.attach(context.ctx)
    context.prompt(qwen2.tokens[:10])
    sampler.sample(context.ctx)
    lib.llama_set_embeddings(context.ctx, True)
    context.decode((5, 10, 0, True))
    with pytest.raises(AutoDecoError, match="graph has no result_norm to read"):
        sampler.sample(context.ctx)
    sampler.detach()
    sampler.sample(context.ctx)


def test_attaching_twice(context: Context, heads: Heads, qwen2: Case) -> None:
    sampler = Sampler(heads, seed=1)
    sampler.attach(context.ctx)
    with pytest.raises(AutoDecoError, match="attached already; detach them first"):
        sampler.attach(context.ctx)
    context.prompt(qwen2.tokens[:10])
    sampler.sample(context.ctx)
    assert_predicts(sampler, qwen2, 9)
    sampler.detach()


def test_a_sequence_takes_one_sampler(context: Context, heads: Heads, qwen2: Case) -> None:
    first, second = Sampler(heads, seed=1), Sampler(heads, seed=2)
    first.attach(context.ctx)
    try:
        with pytest.raises(AutoDecoError, match="already"):
            second.attach(context.ctx)
        context.prompt(qwen2.tokens[:10])
        first.sample(context.ctx)
        assert_predicts(first, qwen2, 9)
    finally:
        second.detach()
        first.detach()


@pytest.mark.parametrize("sequence", [-1, 1, 99])
def test_a_sequence_that_is_none(context: Context, heads: Heads, sequence: int) -> None:
    with pytest.raises(AutoDecoError, match=f"sequence {sequence} is not one of the context's 1"):
        Sampler(heads).attach(context.ctx, sequence)


@pytest.mark.parametrize("ctx", [None, 0])
def test_no_context(heads: Heads, ctx: Any) -> None:
    with pytest.raises(AutoDecoError, match="the llama_context is NULL"):
        Sampler(heads).attach(ctx)
    with pytest.raises(AutoDecoError, match="the llama_context is NULL"):
        Sampler(heads).sample(ctx)


@pytest.mark.parametrize("attach", [True, False], ids=["attached", "not attached"])
@pytest.mark.parametrize("idx", [-2, 3, 10, 10**6])
def test_no_such_output(context: Context, heads: Heads, qwen2: Case, idx: int, attach: bool) -> None:
    sampler = Sampler(heads, seed=1)
    if attach:
        sampler.attach(context.ctx)
    context.prompt(qwen2.tokens[:10])
    with pytest.raises(AutoDecoError, match=f"the last decode has no output {idx}"):
        sampler.sample(context.ctx, idx)
    sampler.detach()


def test_no_decode_yet(context: Context, heads: Heads) -> None:
    with pytest.raises(AutoDecoError, match="the last decode has no output -1"):
        Sampler(heads).sample(context.ctx)


def test_heads_of_another_model(context: Context, qwen2: Case, merged_of: Callable[[Case], Path]) -> None:
    other = Heads.load(merged_of(load_case("llama")))
    message = "heads are for hidden size 96 and vocabulary 512, the model has 64 and 384"
    with pytest.raises(AutoDecoError, match=message):
        Sampler(other).attach(context.ctx)
    context.prompt(qwen2.tokens[:10])
    with pytest.raises(AutoDecoError, match=message):
        Sampler(other).sample(context.ctx)


BAD_LOGITS = [
    ("nan", [0.0, math.nan], "a logit is NaN or \\+inf; no token was drawn"),
    ("+inf", [0.0, INF], "a logit is NaN or \\+inf; no token was drawn"),
    ("nothing allowed", [], "every logit is -inf: the grammar or the biases allow no token"),
]


@pytest.mark.parametrize("stages", [{}, {"after": {"top_k": (4,)}}, {"before": {"top_k": (4,)}}], ids=str)
@pytest.mark.parametrize(("logits", "match"), [b[1:] for b in BAD_LOGITS], ids=[b[0] for b in BAD_LOGITS])
def test_bad_logits(context: Context, logits: Any, match: str, stages: Any) -> None:
    context.prompt([0])
    with pytest.raises(AutoDecoError, match=match):
        drawn(context, logits, chains=pair(stages))


@pytest.mark.parametrize("shape", [(5,), (385,), (1, 384), ()], ids=str)
def test_a_processor_that_returns_another_shape(context: Context, shape: tuple[int, ...]) -> None:
    context.prompt([0])
    sampler = Sampler(None, logits_processors=[lambda _, __: np.zeros(shape)])
    with pytest.raises(AutoDecoError, match=r"the logits processors returned \[.*\], expected \[384\]"):
        sampler.sample(context.ctx)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"temperature": -0.5}, "temperature -0.5, expected a number >= 0"),
        ({"temperature": math.nan}, "temperature nan, expected"),
        ({"top_p": 1.5}, r"top_p 1.5, expected a number in \[0, 1\]"),
        ({"heads_enabled": ["temp"]}, r"heads_enabled: \['temp'\], expected some of \['temperature', 'top_p'\]"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_bad_parameters(heads: Heads, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        Sampler(heads, **kwargs)

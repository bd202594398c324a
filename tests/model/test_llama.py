"""autodeco_gguf.Llama: what is predicted, what is drawn from it, and what it composes with."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest
import llama_cpp
import numpy as np
import pytest
from conftest import Case
from llama_cpp import LlamaGrammar, LogitsProcessorList
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.sampler import Predictor
from autodeco_gguf.model.trace import TraceToken

load = functools.partial(conftest.load, n_threads=1, n_threads_batch=1)

TOLERANCE = 1e-5
PROMPT = [0, 284, 97, 12, 301, 55, 170, 8]
HEADS = ("temperature", "top_p")


@pytest.fixture(scope="module")
def llm(merged: Path) -> ad.Llama:
    """One qwen2 with an F32 cache for tests that leave it as they found it."""
    return load(merged, f32_cache=True)


@pytest.fixture(scope="module")
def adapter(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "heads.gguf"
    ad.export(qwen2.base, qwen2.heads, path, adapter=True)
    return path


def run(llm: ad.Llama, prompt: Any = PROMPT, **kwargs: Any) -> list[TraceToken]:
    """The trace of a completion."""
    llm.create_completion(prompt, **{"max_tokens": 24, "seed": 7, **kwargs})
    return list(llm.trace)


def ids(trace: list[TraceToken]) -> list[int]:
    return [t.id for t in trace]


def assert_trace_is_predicted(
    llm: ad.Llama, trace: list[TraceToken], prompt: list[int] = PROMPT, heads: tuple[str, ...] = HEADS
) -> None:
    """T and P of a trace are what predict gives for the same tokens."""
    assert trace
    predicted = dict(zip(HEADS, llm.predict([*prompt, *ids(trace)[:-1]]), strict=True))
    for head in heads:
        found = [getattr(t, head) for t in trace]
        np.testing.assert_allclose(found, predicted[head][len(prompt) - 1 :], rtol=0, atol=TOLERANCE)


# ---- predict ----


@pytest.mark.parametrize(("f32_cache", "tolerance"), [(True, 1e-5), (False, 2e-3)], ids=["F32 cache", "F16 cache"])
def test_predict_agrees_with_the_official_code(
    case: Case, merged_of: Callable[[Case], Path], f32_cache: bool, tolerance: float
) -> None:
    found = load(merged_of(case), f32_cache=f32_cache).predict(case.tokens)
    for name, values in zip(HEADS, found, strict=True):
        expected = case.golden[name] if case.golden[f"has_{name}"] else np.ones(48)
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n_batch", [1, 7, 31, 33, 512])
@pytest.mark.parametrize("logits_all", [False, True], ids=["in graph", "host way"])
def test_predict_in_any_batches(merged: Path, qwen2: Case, n_batch: int, logits_all: bool) -> None:
    llm = load(merged, f32_cache=True, n_batch=n_batch, n_ubatch=n_batch, logits_all=logits_all)
    np.testing.assert_allclose(llm.predict(qwen2.tokens)[0], qwen2.golden["temperature"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 256])
def test_predict_of_any_length(llm: ad.Llama, n: int) -> None:
    tokens = [(7 * i) % 384 for i in range(n)]
    temperature, top_p = llm.predict(tokens)
    assert temperature.shape == top_p.shape == (n,)
    assert temperature.dtype == top_p.dtype == np.float32
    assert ((temperature > 0) & (temperature < 2) & (top_p > 0) & (top_p < 1)).all()


def test_predict_looks_back_only(llm: ad.Llama, qwen2: Case) -> None:
    whole, part = llm.predict(qwen2.tokens), llm.predict(np.array(qwen2.tokens[:20]))
    np.testing.assert_allclose(whole[0][:20], part[0], rtol=0, atol=TOLERANCE)


BAD_TOKENS = [
    ("too many", [1] * 257, "257 tokens, the context holds 256; raise n_ctx"),
    ("too large", [1, 384], "token 384, expected 0 to 383"),
    ("negative", [-1], "token -1, expected 0 to 383"),
]


@pytest.mark.parametrize(("tokens", "match"), [b[1:] for b in BAD_TOKENS], ids=[b[0] for b in BAD_TOKENS])
def test_predict_of_bad_tokens(llm: ad.Llama, tokens: list[int], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        llm.predict(tokens)


def test_predict_leaves_generation_alone(merged: Path) -> None:
    undisturbed, disturbed = load(merged), load(merged)
    for seed in range(3):
        expected = ids(run(undisturbed, seed=seed))
        assert ids(run(disturbed, seed=seed)) == expected
        disturbed.predict([5, 6, 7] * 20)
        assert [t.id for t in disturbed.trace] == expected


def test_predict_in_the_midst_of_a_generation(llm: ad.Llama) -> None:
    expected = ids(run(llm, max_tokens=12))
    found = []
    for token in llm.generate(PROMPT):
        found.append(token)
        if len(found) == 12:
            break
    assert len(expected) == 12
    llm.predict(PROMPT)
    assert ids(run(llm, max_tokens=12)) == expected


# ---- generation ----


@pytest.mark.parametrize("logits_all", [False, True], ids=["in graph", "host way"])
def test_the_trace_is_what_predict_says(case: Case, merged_of: Callable[[Case], Path], logits_all: bool) -> None:
    llm = load(merged_of(case), f32_cache=True, logits_all=logits_all)
    prompt = case.tokens[:9]
    for seed in range(2):
        assert_trace_is_predicted(llm, run(llm, prompt, seed=seed), prompt)


@pytest.mark.parametrize(
    "other", [{"logits_all": True}, {"n_batch": 3}, {"draft_model": LlamaPromptLookupDecoding()}], ids=lambda o: min(o)
)
def test_the_same_tokens_on_every_way(case: Case, merged_of: Callable[[Case], Path], other: dict[str, Any]) -> None:
    one, another = load(merged_of(case), f32_cache=True), load(merged_of(case), f32_cache=True, **other)
    for seed in range(2):
        assert ids(run(one, seed=seed)) == ids(run(another, seed=seed))


def test_merged_and_adapter_are_the_same(qwen2: Case, merged: Path, adapter: Path) -> None:
    models = [
        load(merged),
        load(qwen2.base, heads=adapter),
        load(merged, heads=adapter),
        load(qwen2.base, heads=merged),
    ]
    traces = [run(llm) for llm in models]
    assert all(t == traces[0] for t in traces)


def test_seeds(merged: Path) -> None:
    def tokens(ctor_seed: int, seed: int | None) -> list[int]:
        return ids(run(load(merged, seed=ctor_seed), seed=seed))

    assert tokens(0, 1) == tokens(3, 1)
    assert tokens(0, 1) != tokens(0, 2)
    assert tokens(5, None) == tokens(5, None)
    assert tokens(5, None) != tokens(6, None)
    assert tokens(0, -1) != tokens(0, -1)
    llm = load(merged)
    numpys = ids(run(llm, seed=np.int64(4)))
    assert numpys == tokens(0, 4)
    assert run(llm)  # with a seed that follows from it


def test_sample_draws_with_its_own_arguments_after_a_generation(merged: Path) -> None:
    llm = load(merged)
    llm.eval(PROMPT)
    greedy = llm.sample(temp=0)
    assert llm.sample(temp=0, logits_processor=LogitsProcessorList([lambda _, z: -z])) != greedy
    run(llm, [1, 2], seed=1)
    llm.reset()
    llm.eval(PROMPT)
    assert {llm.sample(temp=0) for _ in range(8)} == {greedy}


def test_sizes_of_numpy(merged: Path) -> None:
    assert ad.Llama(merged, n_ctx=np.int64(64), n_threads=np.int32(1), verbose=False).n_ctx() == 64
    with pytest.raises(InvalidInput, match=r"^n_ctx 64\.0, expected a whole number, 0 to 16777216$"):
        ad.Llama(merged, n_ctx=64.0)


def test_a_prompt_that_is_cached_already(llm: ad.Llama) -> None:
    """llama_cpp keeps the last text: whole, a part of it, or longer."""
    first = ids(run(llm, max_tokens=10))
    for prompt in (PROMPT, PROMPT + first[:5], PROMPT + first[:9], PROMPT + first, PROMPT[:4]):
        trace = run(llm, prompt, max_tokens=6)
        again = run(llm, prompt, max_tokens=6)
        assert ids(again) == ids(trace)
        assert_trace_is_predicted(llm, again, prompt)


def test_what_the_trace_holds(llm: ad.Llama) -> None:
    completion = llm.create_completion(PROMPT, max_tokens=24, seed=7)
    trace = llm.trace
    assert b"".join(t.text for t in trace).decode(errors="ignore") == completion["choices"][0]["text"]
    assert len(trace) == completion["usage"]["completion_tokens"] == 24
    assert all(0 < t.prob <= 1 and 1 <= t.nucleus <= 384 and 0 < t.entropy < np.log(384) for t in trace)
    assert trace[3] == list(trace)[3]


def test_the_end_token_is_in_the_trace(llm: ad.Llama) -> None:
    trace = run(llm, logit_bias={llm.token_eos(): 1000.0})
    assert ids(trace) == [llm.token_eos()]
    assert llm.token_bytes(llm.token_eos(), special=False) == b""


def test_no_trace(merged: Path, llm: ad.Llama) -> None:
    silent = load(merged, f32_cache=True, trace=False)
    assert silent.trace[:] == []
    completion = silent.create_completion(PROMPT, max_tokens=24, seed=7)
    assert silent.trace[:] == []
    assert (
        completion["choices"][0]["text"] == llm.create_completion(PROMPT, max_tokens=24, seed=7)["choices"][0]["text"]
    )


@pytest.mark.parametrize(
    "fixed", [{"temperature": 0.5}, {"top_p": 0.25}, {"temperature": 0.0}, {"top_p": 0.0}], ids=str
)
def test_one_parameter_fixed(llm: ad.Llama, fixed: dict[str, float]) -> None:
    ((name, value),) = fixed.items()
    trace = run(llm, **fixed)
    assert {getattr(t, name) for t in trace} == {value}
    assert_trace_is_predicted(llm, trace, heads=tuple({*HEADS} - {name}))


def test_both_parameters_fixed(llm: ad.Llama) -> None:
    assert {(t.temperature, t.top_p) for t in run(llm, temperature=0.5, top_p=0.75)} == {(0.5, 0.75)}


@pytest.mark.parametrize("fixed", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}], ids=str)
def test_greedy(case: Case, merged_of: Callable[[Case], Path], fixed: dict[str, float]) -> None:
    trace = run(load(merged_of(case)), **fixed)
    raw = load(merged_of(case), logits_all=True, heads_enabled=())
    raw.eval([*PROMPT, *ids(trace)[:-1]])
    assert ids(trace) == raw.scores[len(PROMPT) - 1 : raw.n_tokens].argmax(axis=1).tolist()
    assert {(t.nucleus, t.prob) for t in trace} == {(1, 1.0)}


ABLATIONS = [
    (None, {*HEADS}),
    (HEADS, {*HEADS}),
    (["temperature"], {"temperature"}),
    ({"top_p"}, {"top_p"}),
    ((), set()),
]


@pytest.mark.parametrize("logits_all", [False, True], ids=["in graph", "host way"])
@pytest.mark.parametrize(("enabled", "names"), ABLATIONS)
def test_ablation(merged: Path, qwen2: Case, enabled: Any, names: set[str], logits_all: bool) -> None:
    llm = load(merged, f32_cache=True, heads_enabled=enabled, logits_all=logits_all)
    trace = run(llm)
    assert llm.heads == names
    assert {name for name in HEADS if {getattr(t, name) for t in trace} != {1.0}} == names
    assert_trace_is_predicted(llm, trace)
    if "temperature" in names:
        np.testing.assert_allclose(llm.predict(qwen2.tokens)[0], qwen2.golden["temperature"], rtol=0, atol=TOLERANCE)


def test_no_heads_enabled_needs_no_heads(qwen2: Case) -> None:
    llm = load(qwen2.base, heads_enabled=())
    assert (llm.heads, [len(a) for a in llm.predict([1, 2])]) == (frozenset(), [2, 2])
    assert {(t.temperature, t.top_p) for t in run(llm)} == {(1.0, 1.0)}


# ---- the graph without result_norm ----


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1]], ids=["a prompt", "one token"])
def test_an_architecture_without_result_norm(merged: Path, monkeypatch: pytest.MonkeyPatch, prompt: list[int]) -> None:
    expected = run(load(merged, f32_cache=True), prompt)
    monkeypatch.setattr(Predictor, "in_graph", lambda _: False)
    llm = load(merged, f32_cache=True)
    trace = run(llm, prompt)
    assert not llm._predictor.attached
    assert ids(trace) == ids(expected)
    assert_trace_is_predicted(llm, trace, prompt)
    assert ids(run(llm, prompt)) == ids(expected)


# ---- what it composes with ----


class Bias:
    """A logits processor that adds to one token, and remembers what it saw."""

    def __init__(self, token: int, value: float) -> None:
        self.token, self.value, self.seen = token, value, 0

    def __call__(self, tokens: Any, scores: Any) -> Any:
        self.seen = len(tokens)
        scores = scores.copy()
        scores[self.token] += self.value
        return scores


DIGITS = LlamaGrammar.from_string("root ::= [0-9]+", verbose=False)

COMPOSED = [
    ("top_k", {"top_k": 5}),
    ("min_p", {"min_p": 0.1}),
    ("typical_p", {"typical_p": 0.5}),
    ("top_k, min_p and typical_p", {"top_k": 50, "min_p": 0.01, "typical_p": 0.9}),
    ("repeat_penalty", {"repeat_penalty": 1.8}),
    ("presence_penalty", {"presence_penalty": 2.0}),
    ("frequency_penalty", {"frequency_penalty": 2.0}),
    ("logit_bias", {"logit_bias": {5: 4.0}}),
    ("logits_processor", {"logits_processor": LogitsProcessorList([Bias(5, 4.0)])}),
    ("bias and processor", {"logit_bias": {5: 4.0}, "logits_processor": LogitsProcessorList([Bias(6, 4.0)])}),
    ("grammar", {"grammar": DIGITS}),
    ("everything", {"grammar": DIGITS, "logit_bias": {20: 2.0}, "repeat_penalty": 1.1, "top_k": 6, "min_p": 0.01}),
    ("mirostat 1", {"mirostat_mode": 1}),
    ("mirostat 2", {"mirostat_mode": 2}),
]


@pytest.mark.parametrize("logits_all", [False, True], ids=["in graph", "host way"])
@pytest.mark.parametrize("kwargs", [c[1] for c in COMPOSED], ids=[c[0] for c in COMPOSED])
def test_the_heads_read_the_raw_logits(merged: Path, kwargs: dict[str, Any], logits_all: bool) -> None:
    llm = load(merged, f32_cache=True, logits_all=logits_all)
    trace = run(llm, **kwargs)
    assert ids(trace) != ids(run(llm)), "it has no effect"
    assert ids(run(llm, **kwargs)) == ids(trace)
    if "mirostat_mode" in kwargs:  # which draws by itself: no P is applied
        assert {t.top_p for t in trace} == {1.0}
        assert_trace_is_predicted(llm, trace, heads=("temperature",))
    else:
        assert_trace_is_predicted(llm, trace)


def test_cuts_bound_the_nucleus(llm: ad.Llama) -> None:
    free = run(llm, top_p=1.0)
    assert min(t.nucleus for t in free) > 100
    assert {t.nucleus for t in run(llm, top_p=1.0, top_k=5)} == {5}
    assert max(t.nucleus for t in run(llm, top_p=1.0, min_p=0.2)) < 30
    assert max(t.nucleus for t in run(llm, top_k=5)) <= 5
    assert {t.nucleus for t in run(llm, temperature=1.0, top_p=1.0, min_p=1.0)} == {1}


def test_bias_and_processor_both_apply(llm: ad.Llama) -> None:
    processor = Bias(6, 1000.0)
    both = {"logit_bias": {5: 1000.0}, "logits_processor": LogitsProcessorList([processor])}
    trace = run(llm, **both, max_tokens=40, temperature=1.0, top_p=1.0)
    assert {t.id for t in trace} == {5, 6}
    assert processor.seen == len(PROMPT) + 39
    assert ids(run(llm, logit_bias={5: 1000.0, 6: -1000.0})) == [5] * 24
    assert len(both["logits_processor"]) == 1, "the caller's list is the caller's"


def test_a_processor_that_raises(llm: ad.Llama) -> None:
    expected = run(llm)

    def fail(_: Any, __: Any) -> Any:
        raise RuntimeError("from the processor")

    with pytest.raises(RuntimeError, match="from the processor"):
        run(llm, logits_processor=LogitsProcessorList([fail]))
    assert ids(run(llm)) == ids(expected)


def test_a_grammar_forces_a_text(llm: ad.Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes, 42"', verbose=False)
    completion = llm.create_completion(PROMPT, max_tokens=24, seed=1, grammar=grammar)
    assert completion["choices"][0]["text"] == "yes, 42"
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert llama_cpp.llama_vocab_is_eog(llm._model.vocab, llm.trace[-1].id)


@pytest.mark.parametrize("text", ['root ::= "ab', "root ::= undefined-rule", 'other ::= "a"'], ids=str)
def test_a_malformed_grammar(llm: ad.Llama, text: str) -> None:
    with pytest.raises(AutoDecoError, match=r"the grammar does not parse: \w"):
        run(llm, grammar=LlamaGrammar(_grammar=text))


@pytest.mark.parametrize("prompt", ["", []], ids=["text", "tokens"])
def test_an_empty_prompt_draws_nothing(merged: Path, prompt: Any) -> None:
    llm = load(merged)
    for _ in range(2):  # the second time there are logits, of another text
        with pytest.raises(AutoDecoError, match=r"prompt|output"):
            run(llm, prompt)
        run(llm)


def test_a_grammar_that_the_bias_leaves_nothing(llm: ad.Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "a"', verbose=False)
    with pytest.raises(AutoDecoError, match="every logit is -inf: the grammar or the biases allow no token"):
        run(llm, grammar=grammar, logit_bias=dict.fromkeys(range(384), -np.inf))


def test_a_temperature_below_0_is_the_models_own_distribution(llm: ad.Llama) -> None:
    trace = run(llm, temperature=-1.0)
    assert {(t.temperature, t.top_p, t.nucleus) for t in trace} == {(1.0, 1.0, 384)}
    assert ids(trace) == ids(run(llm, temperature=1.0, top_p=1.0))


def test_top_p_above_1_is_1(llm: ad.Llama) -> None:
    assert ids(run(llm, top_p=1.5)) == ids(run(llm, top_p=1.0))


BAD_PARAMETERS = [
    ({"temperature": float("nan")}, "temperature nan, expected a number >= 0"),
    ({"temperature": float("inf")}, "temperature inf, expected a number >= 0"),
    ({"top_p": -0.5}, r"top_p -0.5, expected a number in \[0, 1\]"),
    ({"logit_bias": {5: float("nan")}}, r"logit_bias of token 5 is nan, expected a number of at most 1e\+30"),
]


@pytest.mark.parametrize(("kwargs", "match"), BAD_PARAMETERS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_bad_parameters(llm: ad.Llama, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        run(llm, **kwargs)


def test_stop(llm: ad.Llama) -> None:
    whole = llm.create_completion(PROMPT, max_tokens=24, seed=7)["choices"][0]["text"]
    stop = whole[8:10]
    found = llm.create_completion(PROMPT, max_tokens=24, seed=7, stop=[stop])["choices"][0]
    assert (found["text"], found["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_the_trace_grows_while_it_streams(llm: ad.Llama) -> None:
    lengths = []
    for _ in llm.generate(PROMPT):
        lengths.append(len(llm.trace))
        if len(lengths) == 5:
            break
    assert lengths == [1, 2, 3, 4, 5]


def test_a_draft_model(merged: Path) -> None:
    llm = load(merged, f32_cache=True, n_batch=16, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=4))
    prompt = [0, *[5, 9, 11, 300] * 6]
    for kwargs in ({}, {"temperature": 0.0}, {"logit_bias": {5: 9.0, 9: 9.0}}):
        trace = run(llm, prompt, **kwargs)
        assert ids(trace) == ids(run(load(merged, f32_cache=True), prompt, **kwargs))
        assert_trace_is_predicted(llm, trace, prompt, ("top_p",) if "temperature" in kwargs else HEADS)


def test_processors_see_of_a_draft_what_is_decided(merged: Path) -> None:
    prompt, seen = [0, *[5, 9, 11, 300] * 6], dict[bool, list[list[int]]]()
    for drafts in (False, True):
        draft = LlamaPromptLookupDecoding(num_pred_tokens=4) if drafts else None
        llm, of = load(merged, f32_cache=True, draft_model=draft), seen.setdefault(drafts, [])

        def note(ids: Any, logits: Any, of: list[list[int]] = of) -> Any:
            of.append(ids.tolist())
            return logits

        tokens = ids(run(llm, prompt, logit_bias={5: 9.0, 9: 9.0}, logits_processor=LogitsProcessorList([note])))
        assert of[: len(tokens)] == [[*prompt, *tokens[:i]] for i in range(len(tokens))]
    assert seen[True] == seen[False]


def test_sample_after_eval(llm: ad.Llama, merged: Path) -> None:
    llm = load(merged, f32_cache=True)
    llm.eval(PROMPT)
    assert llm.sample(temp=0.0) == ids(run(load(merged, f32_cache=True), temperature=0.0))[0]
    llm.set_seed(7)
    assert llm.sample() == ids(run(load(merged, f32_cache=True), seed=7))[0]
    assert_trace_is_predicted(llm, list(llm.trace))


# ---- embeddings ----


def test_embeddings_do_not_mind_the_heads(merged: Path, qwen2: Case) -> None:
    ours = load(merged, embedding=True, f32_cache=True)
    stock = llama_cpp.Llama(str(qwen2.base), embedding=True, verbose=False, n_ctx=256, type_k=0, type_v=0)
    np.testing.assert_allclose(ours.embed("a text"), stock.embed("a text"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.predict(qwen2.tokens)[0], qwen2.golden["temperature"], rtol=0, atol=TOLERANCE)
    assert_trace_is_predicted(ours, run(ours))


@pytest.mark.parametrize("pooling", ["NONE", "MEAN"])
def test_each_of_several_texts_has_its_own_embedding(pooling: str, merged: Path) -> None:
    kind = getattr(llama_cpp, f"LLAMA_POOLING_TYPE_{pooling}")
    llm = load(merged, embedding=True, pooling_type=kind, f32_cache=True)
    texts = ["a text", "another, longer one", "third"]
    found, count = llm.embed((text for text in texts), normalize=True, return_count=True)
    assert count == sum(len(llm.tokenize(text.encode())) for text in texts)
    for text, vectors in zip(texts, found, strict=True):
        np.testing.assert_allclose(vectors, llm.embed(text, normalize=True), rtol=0, atol=1e-5)
    made = llm.create_embedding(texts)["data"]
    np.testing.assert_allclose(made[2]["embedding"], llm.embed("third"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [[], None, [1, 2], b"abc", [["a"]], 5], ids=repr)
def test_what_is_no_text_to_embed(wrong: Any, merged: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^input .*, expected a text, or a list of texts$"):
        load(merged, embedding=True).embed(wrong)


@pytest.mark.parametrize("nothing", ["", ["a", ""]], ids=repr)
def test_no_tokens_to_embed(nothing: Any, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(merged, embedding=True)
    monkeypatch.setattr(llm, "tokenize", lambda text, *_, **__: [5] * len(text))  # of a vocabulary without BOS
    with pytest.raises(InvalidInput, match=r"^input: a text without tokens, expected at least one$"):
        llm.embed(nothing)


def test_pooled_embeddings_hide_the_hidden_state(merged: Path, qwen2: Case) -> None:
    llm = load(merged, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    assert len(llm.embed("a text")) == 64
    with pytest.raises(AutoDecoError, match="pool"):
        llm.predict(qwen2.tokens)
    with pytest.raises(AutoDecoError, match="pool"):
        run(llm)


# ---- loading ----


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(AutoDecoError, match=r"none\.gguf: .*No such file"):
        ad.Llama(tmp_path / "none.gguf")


def test_no_such_head(merged: Path) -> None:
    with pytest.raises(AutoDecoError, match=r"heads_enabled: \['top_k'\], expected some of \['temperature', 'top_p'\]"):
        load(merged, heads_enabled=["top_k"])


def test_an_unknown_argument(merged: Path) -> None:
    with pytest.warns(RuntimeWarning, match="Llama: unknown argument n_ctxx, which llama_cpp ignores"):
        load(merged, n_ctxx=5)


def test_a_model_without_heads(qwen2: Case) -> None:
    with pytest.raises(BadFile, match=r"no AutoDeco heads in it; .*heads=, or heads_enabled=\(\) for none"):
        load(qwen2.base)


def test_the_vocabulary_alone(merged: Path, qwen2: Case) -> None:
    for path in (merged, qwen2.base):
        words = load(path, vocab_only=True)
        assert (words.heads, words.n_vocab()) == (frozenset(), 384)
        assert words.detokenize(words.tokenize(b"some words")) == b"some words"


def test_what_it_says_of_itself(merged: Path, qwen2: Case) -> None:
    llm = load(merged)
    run(llm, max_tokens=3)
    assert repr(llm) == f"<Llama {merged}: heads temperature and top_p, 10 of 256 tokens>"
    llm.close()
    assert repr(llm) == f"<Llama {merged}: closed>"
    assert repr(load(qwen2.base, heads_enabled=())) == f"<Llama {qwen2.base}: heads none, 0 of 256 tokens>"


# ---- programs that always give a temperature ----


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_the_heads_decide(merged: Path, llm: ad.Llama, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "environment":
        monkeypatch.setenv("AUTODECO_SAMPLING", "heads")
    stubborn = load(merged, f32_cache=True, **({"sampling": "heads"} if by == "argument" else {}))
    expected = ids(run(llm))
    assert ids(run(stubborn)) == expected
    with pytest.warns(
        RuntimeWarning, match=r'sampling "heads" ignores temperature 0.8 and top_p 0.95, here and in later'
    ):
        assert ids(run(stubborn, temperature=0.8, top_p=0.95)) == expected
    assert ids(run(stubborn, temperature=0.0)) == expected  # said once: a warning would be an error here
    assert ids(run(pickle.loads(pickle.dumps(stubborn)))) == expected
    assert ids(run(stubborn, top_k=1)) != expected


def test_the_caller_decides(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_SAMPLING", "heads")
    assert {t.temperature for t in run(load(merged, sampling="caller"), temperature=0.5)} == {0.5}
    monkeypatch.setenv("AUTODECO_SAMPLING", "head")
    with pytest.raises(InvalidInput, match="sampling 'head', expected 'caller' or 'heads'"):
        load(merged)


def test_the_trace_stays_that_of_the_last_generation(merged: Path) -> None:
    """Also where another call is refused: its texts were looked for among those of the new call."""
    llm = load(merged)
    llm([1, 2], max_tokens=3, seed=1)
    before = [token.text for token in llm.trace]
    with pytest.raises(InvalidInput):
        llm([1, 2], max_tokens=3, min_p=2.0)
    assert [token.text for token in llm.trace] == before

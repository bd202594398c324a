"""Drop-in: the same calls, as llama_cpp's README makes them, on llama_cpp.Llama and on ours."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import conftest
import llama_cpp
import numpy as np
import pytest
from conftest import Case
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

import autodeco_gguf as ad

load = functools.partial(conftest.load, n_threads=1, n_threads_batch=1)

QUESTION = "Q: Name the planets in the solar system? A: "
MESSAGES = [
    {"role": "system", "content": "You are an assistant who perfectly describes images."},
    {"role": "user", "content": "Describe this image in detail please."},
]
SCHEMA = {"type": "object", "properties": {"team_name": {"type": "string"}}, "required": ["team_name"]}
DIFFERENT_DEFAULTS = {"temperature": None, "temp": None, "top_p": None, "top_k": 0, "min_p": 0.0}


@functools.cache
def not_ascii() -> Any:
    """Which tokens are not: with halves of UTF-8 characters llama_cpp exceeds max_tokens, and holds text back."""
    words = ad.Llama(conftest.FIXTURES / "qwen2" / "base.gguf", vocab_only=True, verbose=False)
    return np.array([not words.token_bytes(token).isascii() for token in range(words.n_vocab())])


ASCII = [lambda _, scores: np.where(not_ascii(), -np.inf, scores)]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16}
ZERO: dict[str, Any] = {**GREEDY, "logits_processor": LogitsProcessorList(ASCII)}

Make = Callable[..., tuple[llama_cpp.Llama, llama_cpp.Llama]]


@pytest.fixture(scope="module")
def both(qwen2: Case, merged: Path) -> Make:
    """Makes a llama_cpp.Llama of the base and one of ours of the merged file, once for each set of arguments."""
    made: dict[str, tuple[llama_cpp.Llama, llama_cpp.Llama]] = {}

    def make(**kwargs: Any) -> tuple[llama_cpp.Llama, llama_cpp.Llama]:
        kwargs = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **kwargs}
        key = repr(kwargs)
        if key not in made:
            made[key] = llama_cpp.Llama(str(qwen2.base), **kwargs), ad.Llama(str(merged), **kwargs)
        return made[key]

    return make


def types_of(value: Any) -> Any:
    """Keys and types of a result: what code written for llama_cpp relies on."""
    if isinstance(value, dict):
        return {k: types_of(v) for k, v in value.items()}
    if isinstance(value, list):
        return [types_of(v) for v in value]
    return type(value)


def content(value: Any) -> Any:
    """A result without what names the call; numbers to 4 digits."""
    if isinstance(value, dict):
        return {k: content(v) for k, v in value.items() if k not in ("id", "created", "model")}
    if isinstance(value, list):
        return [content(v) for v in value]
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


# ---- calls ----

NEVER = LogitsProcessorList([*ASCII, lambda _, scores: np.where(np.arange(len(scores)) % 2 == 0, -np.inf, scores)])
MIN_TOKENS = LogitsProcessorList([*ASCII, llama_cpp.MinTokensLogitsProcessor(9, 2)])
WORD = LlamaGrammar.from_string('root ::= "a" [a-z]+ " " [0-9]', verbose=False)


def gap(model: llama_cpp.Llama, suffix: str) -> Any:
    """llama_cpp cuts two tokens of a suffix unless the file says that its vocabulary puts no space before a text."""
    with mock.patch.dict(model.metadata, {"tokenizer.ggml.add_space_prefix": "false"}):
        return model(QUESTION, suffix=suffix, **ZERO)


CALLS: list[tuple[str, Callable[[llama_cpp.Llama], Any]]] = [
    ("call", lambda m: m(QUESTION, **ZERO)),
    ("call, README", lambda m: m(QUESTION, stop=["Q:", "\n"], echo=True, **ZERO)),
    ("create_completion", lambda m: m.create_completion(QUESTION, **ZERO)),
    ("positional", lambda m: m.create_completion(QUESTION, None, 5, 0.0)),
    ("all positional", lambda m: m(QUESTION, None, 5, 0.0, 0.9, 0.05, 1.0, None, True, ["x"], 0.1, 0.1, 1.1, 40)),
    ("prompt of tokens", lambda m: m.create_completion([0, 5, 9, 300, 17], **ZERO)),
    ("max_tokens", lambda m: m(QUESTION, temperature=0.0, max_tokens=3)),
    ("max_tokens None", lambda m: m("ab", temperature=0.0, max_tokens=None)),
    ("suffix", lambda m: gap(m, suffix=" the end")),
    ("seed", lambda m: m(QUESTION, seed=3, **ZERO)),
    ("model", lambda m: m(QUESTION, model="a name", **ZERO)),
    ("stop", lambda m: m(QUESTION, stop=["e", "a", "i"], **ZERO)),
    ("stop, one", lambda m: m(QUESTION, stop="e", **ZERO)),
    ("repeat_penalty", lambda m: m(QUESTION, repeat_penalty=1.7, **ZERO)),
    ("presence_penalty", lambda m: m(QUESTION, presence_penalty=1.5, **ZERO)),
    ("frequency_penalty", lambda m: m(QUESTION, frequency_penalty=1.5, **ZERO)),
    ("logit_bias", lambda m: m(QUESTION, logit_bias={74: 30.0, 75: 30.0, 7: -100.0}, **GREEDY)),
    ("logits_processor", lambda m: m(QUESTION, logits_processor=NEVER, **GREEDY)),
    ("grammar", lambda m: m(QUESTION, grammar=WORD, **ZERO)),
    ("min tokens", lambda m: m(QUESTION, logits_processor=MIN_TOKENS, **GREEDY)),
    ("stopping", lambda m: m(QUESTION, stopping_criteria=StoppingCriteriaList([lambda t, _: len(t) > 40]), **ZERO)),
    ("stream", lambda m: list(m(QUESTION, stream=True, **ZERO))),
    ("stream, stop", lambda m: list(m(QUESTION, stream=True, stop=["e", "a"], **ZERO))),
    ("stream, grammar", lambda m: list(m(QUESTION, stream=True, grammar=WORD, **ZERO))),
    ("chat", lambda m: m.create_chat_completion(MESSAGES, **ZERO)),
    ("chat, stream", lambda m: list(m.create_chat_completion(messages=MESSAGES, stream=True, **ZERO))),
    ("chat, stop", lambda m: m.create_chat_completion(MESSAGES, stop=["e"], seed=1, **ZERO)),
    ("tokenize", lambda m: m.tokenize(QUESTION.encode())),
    ("detokenize", lambda m: m.detokenize(m.tokenize(QUESTION.encode(), add_bos=False, special=True))),
    ("tokenizer", lambda m: m.tokenizer().encode("abc")),
    ("sizes", lambda m: [m.n_ctx(), m.n_embd(), m.n_vocab(), m.pooling_type()]),
    ("tokens", lambda m: [m.token_eos(), m.token_bos(), m.token_nl()]),
    ("metadata", lambda m: m.metadata),
]  # fmt: skip


@pytest.mark.parametrize("call", [c[1] for c in CALLS], ids=[c[0] for c in CALLS])
def test_the_same_result(both: Make, call: Callable[[llama_cpp.Llama], Any]) -> None:
    stock, ours = (call(m) for m in both())
    assert types_of(ours) == types_of(stock)
    assert content(ours) == content(stock)


SAMPLED: list[tuple[str, Callable[[llama_cpp.Llama], Any]]] = [
    ("call", lambda m: m(QUESTION, max_tokens=8, seed=1)),
    ("echo", lambda m: m(QUESTION, max_tokens=8, seed=1, echo=True)),
    ("chat", lambda m: m.create_chat_completion(MESSAGES, max_tokens=8, seed=1)),
    ("stream", lambda m: next(iter(m(QUESTION, max_tokens=8, seed=1, stream=True)))),
    ("chat, stream", lambda m: list(m.create_chat_completion(MESSAGES, max_tokens=8, seed=1, stream=True))[:2]),
    ("mirostat", lambda m: m(QUESTION, max_tokens=8, seed=1, mirostat_mode=2)),
    ("fixed", lambda m: m(QUESTION, seed=1, temperature=0.9, top_p=0.9, top_k=9, min_p=0.1, typical_p=0.9)),
]  # fmt: skip


@pytest.mark.parametrize("call", [c[1] for c in SAMPLED], ids=[c[0] for c in SAMPLED])
def test_the_same_structure_where_it_is_drawn(both: Make, call: Callable[[llama_cpp.Llama], Any]) -> None:
    stock, ours = (call(m) for m in both())
    assert types_of(ours) == types_of(stock)


LOGPROBS: list[tuple[str, dict[str, Any]]] = [
    ("3", {"logprobs": 3}),
    ("stream", {"logprobs": 2, "stream": True}),
]


@pytest.mark.parametrize("kwargs", [c[1] for c in LOGPROBS], ids=[c[0] for c in LOGPROBS])
def test_logprobs(both: Make, kwargs: dict[str, Any]) -> None:
    stock, ours = (m(QUESTION, **ZERO, **kwargs) for m in both(logits_all=True))
    stock, ours = (list(r) if kwargs.get("stream") else r for r in (stock, ours))
    assert types_of(ours) == types_of(stock)
    assert content(ours) == content(stock)


def test_logits_of_drawn_tokens_without_heads(merged: Path, both: Make) -> None:
    """Of which no head asks for anything beside them."""
    stock, _ = both(logits_all=True)
    found = []
    for llm in (stock, load(merged, logits_all=True, heads_enabled=())):
        llm.reset()
        stream = llm.generate([1, 2, 3], temp=0.0)
        tokens = [next(stream) for _ in range(4)]
        found.append((tokens, np.array(llm.scores[:6])))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize("text", ["Hello, world!", ["Hello, world!", "Goodbye, world!"]], ids=["one", "two"])
def test_embeddings(both: Make, text: str | list[str]) -> None:
    stock, ours = both(embedding=True)
    theirs, found = stock.create_embedding(text), ours.create_embedding(text)
    assert types_of(found) == types_of(theirs)
    if isinstance(text, list):  # stock's vectors of the second text are the first one's, shifted
        for one, alone in zip(theirs["data"], text, strict=True):
            one["embedding"] = stock.embed(alone)
    assert content(found) == content(theirs)


def test_function_calling(both: Make) -> None:
    function = {"name": "UserDetail", "parameters": SCHEMA}
    kwargs: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "temperature": 0.0,
        "max_tokens": 40,
    }
    choice: Any = {"type": "function", "function": {"name": "UserDetail"}}
    models = both(chat_format="chatml-function-calling", n_ctx=1024)
    stock, ours = (m.create_chat_completion(MESSAGES, tool_choice=choice, **kwargs) for m in models)
    assert ours["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "UserDetail"
    stock_call, our_call = (r["choices"][0]["message"]["tool_calls"][0]["function"] for r in (stock, ours))
    assert our_call.keys() == stock_call.keys()
    assert not re.search(r'"[^"]*[\x00-\x1f]', our_call["arguments"].partition(":")[2].strip())  # stock's has some


@pytest.mark.filterwarnings("ignore:this grammar is what llama_cpp makes:RuntimeWarning")
def test_grammar_from_a_schema(both: Make) -> None:
    grammar = LlamaGrammar.from_json_schema(json.dumps({"enum": ["red", "green"]}), verbose=False)
    stock, ours = (m(QUESTION, grammar=grammar, **ZERO)["choices"][0]["text"] for m in both())
    assert json.loads(ours) in ("red", "green")
    assert ours == stock


def test_generate_and_low_level_calls(both: Make) -> None:
    found = []
    for m in both(seed=5):
        tokens = m.tokenize(b"The quick brown fox jumps")
        generated = [t for t, _ in zip(m.generate(tokens, temp=0.0), range(8), strict=False)]
        m.reset()
        m.eval(tokens)
        m._sampler = None
        found.append((generated, m.sample(temp=0.0), m.n_tokens, list(m.eval_tokens)))
    assert found[0] == found[1]


def test_speculative_decoding(both: Make) -> None:
    draft = LlamaPromptLookupDecoding(num_pred_tokens=10)
    stock, ours = (m(QUESTION * 2, **ZERO) for m in both(draft_model=draft))
    assert content(ours) == content(stock)
    assert content(ours) == content(both()[1](QUESTION * 2, **ZERO))


# ---- what goes wrong goes wrong alike ----

ERRORS = [
    ("too long", lambda m: m([5] * 600), ValueError, r"Requested tokens \(600\) exceed context window of 512"),
    (
        "logprobs",
        lambda m: m("a", logprobs=1),
        ValueError,
        "logprobs is not supported for models created with logits_all",
    ),
    ("embedding", lambda m: m.create_embedding("a"), RuntimeError, "must be created with embedding=True"),
    ("no such argument", lambda m: m("a", temprature=1), TypeError, "temprature"),
    ("too many arguments", lambda m: m(*range(40)), TypeError, "argument"),
]


@pytest.mark.parametrize("index", [0, 1], ids=["llama_cpp", "autodeco_gguf"])
@pytest.mark.parametrize(("call", "error", "match"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(both: Make, index: int, call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(both()[index])


@pytest.mark.parametrize("cls", [llama_cpp.Llama, ad.Llama])
def test_no_such_file_is_a_value_error(cls: type[llama_cpp.Llama], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.gguf"):
        cls(str(tmp_path / "none.gguf"), verbose=False)


# ---- signatures ----

METHODS = [n for n, f in vars(llama_cpp.Llama).items() if inspect.isfunction(f) and not n.startswith("_")] + [
    "__call__"
]


@pytest.mark.parametrize("name", [*METHODS, "__call__"])
def test_signatures(name: str) -> None:
    stock, ours = (inspect.signature(getattr(cls, name)) for cls in (llama_cpp.Llama, ad.Llama))
    names = [n for n, p in stock.parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    bound = [n for n in names if n == "self"]
    ours.bind(*names)
    ours.bind(*bound, **dict.fromkeys(names[len(bound) :]))


@pytest.mark.parametrize("name", ["__call__", "create_completion", "create_chat_completion", "generate"])
def test_defaults(name: str) -> None:
    stock, ours = (inspect.signature(getattr(cls, name)).parameters for cls in (llama_cpp.Llama, ad.Llama))
    assert list(ours) == list(stock)
    differ = {p: ours[p].default for p in stock if ours[p].default != stock[p].default}
    assert differ == {p: v for p, v in DIFFERENT_DEFAULTS.items() if p in stock}
    assert [p.kind for p in ours.values()] == [p.kind for p in stock.values()]


def test_what_an_instance_has(both: Make) -> None:
    stock, ours = both()
    assert isinstance(ours, llama_cpp.Llama)
    assert set(vars(stock)) <= {*vars(ours), *vars(type(ours))}
    assert {n for n in dir(stock) if not n.startswith("_")} <= set(dir(ours))


# ---- the constructor ----

CONSTRUCTOR = inspect.signature(llama_cpp.Llama.__init__).parameters
GIVEN: dict[str, Any] = {
    "n_gpu_layers": -1,
    "use_mmap": False,
    "use_mlock": True,
    "kv_overrides": {"qwen2.context_length": 512},
    "seed": 9,
    "n_batch": 16,
    "n_ubatch": 8,
    "rope_scaling_type": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "rope_freq_base": 5000.0,
    "rope_freq_scale": 0.5,
    "offload_kqv": False,
    "flash_attn": True,
    "op_offload": False,
    "swa_full": True,
    "no_perf": True,
    "last_n_tokens_size": 8,
    "numa": False,
    "chat_format": "chatml",
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
    "spm_infill": True,
    "verbose": True,
    "n_ctx": 0,
}


def test_every_constructor_argument_at_its_default(qwen2: Case, merged: Path) -> None:
    kwargs = {n: p.default for n, p in CONSTRUCTOR.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert len(kwargs) > 40
    stock, ours = llama_cpp.Llama(str(qwen2.base), **kwargs), ad.Llama(str(merged), **kwargs)
    assert content(ours(QUESTION, **ZERO)) == content(stock(QUESTION, **ZERO))


@pytest.mark.parametrize("name", GIVEN)
def test_constructor_arguments(both: Make, name: str) -> None:
    stock, ours = both(**{name: GIVEN[name]})
    theirs, here = stock.__getstate__(), ours.__getstate__()
    assert {k: here[k] for k in theirs if k != "model_path"} == {k: v for k, v in theirs.items() if k != "model_path"}
    kwargs: dict[str, Any] = {"repeat_penalty": 1.3, **ZERO}
    assert content(ours(QUESTION, **kwargs)) == content(stock(QUESTION, **kwargs))


@pytest.mark.parametrize("path", [str, Path], ids=["str", "Path"])
def test_paths(merged: Path, path: Callable[[Path], Any]) -> None:
    llm = ad.Llama(path(merged), n_ctx=64, verbose=False)
    assert (llm.model_path, llm("a", **ZERO)["model"]) == (str(merged), str(merged))
    assert ad.Llama(model_path=path(merged), n_ctx=64, verbose=False).heads == {"temperature", "top_p"}


# ---- what a program keeps, with temperature and top-p predicted ----

PROMPT = [0, 284, 97, 12, 301, 55, 170, 8]


def drawn(llm: llama_cpp.Llama, prompt: list[int] = PROMPT, **kwargs: Any) -> Any:
    """Token, temperature and top-p of each token of a completion."""
    assert isinstance(llm, ad.Llama)
    llm.create_completion(prompt, **{"max_tokens": 24, "seed": 7, **kwargs})
    return np.array([(t.id, t.temperature, t.top_p) for t in llm.trace])


def assert_alike(found: Any, expected: Any) -> None:
    assert len(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


DUPLICATES: list[tuple[str, Callable[[Any], Any]]] = [
    ("pickle", lambda m: pickle.loads(pickle.dumps(m))),
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
]
OURS: list[dict[str, Any]] = [{}, {"logits_all": True}, {"heads_enabled": ["temperature"]}, {"seed": 3, "n_batch": 7}]


@pytest.mark.parametrize("kwargs", OURS, ids=str)
@pytest.mark.parametrize("duplicate", [d[1] for d in DUPLICATES], ids=[d[0] for d in DUPLICATES])
def test_duplicates(merged: Path, duplicate: Callable[[Any], Any], kwargs: dict[str, Any]) -> None:
    llm = load(merged, **kwargs)
    other = duplicate(llm)
    assert (other.heads, other.model_path) == (llm.heads, str(merged))
    assert_alike(drawn(other), drawn(llm))
    assert_alike(drawn(other, seed=None), drawn(llm, seed=None))


def test_a_duplicate_keeps_the_adapter_and_the_trace_off(qwen2: Case, merged: Path) -> None:
    llm = load(qwen2.base, heads=merged, trace=False)
    other = pickle.loads(pickle.dumps(llm))
    assert (other.heads, len(drawn(other))) == ({"temperature", "top_p"}, 0)
    assert content(other(QUESTION, seed=1)) == content(llm(QUESTION, seed=1))


@pytest.mark.parametrize("logits_all", [False, True], ids=["in graph", "host way"])
def test_states(merged: Path, logits_all: bool) -> None:
    llm = load(merged, f32_cache=True, logits_all=logits_all)
    text = PROMPT + drawn(llm)[:, 0].astype(int).tolist()
    state = llm.save_state()
    expected = drawn(llm, text)
    drawn(llm, [9, 9, 9])
    for target in (llm, load(merged, f32_cache=True, logits_all=logits_all)):
        target.load_state(state)
        assert_alike(drawn(target, text), expected)


def test_a_state_is_what_is_drawn_from(merged: Path) -> None:
    """llama_cpp draws from the logits of before."""
    llm = load(merged, f32_cache=True, seed=3)

    def sample() -> tuple[float, ...]:
        llm.sample()
        return llm.trace[0].id, llm.trace[0].temperature, llm.trace[0].top_p

    llm.eval(PROMPT)
    state, expected = llm.save_state(), sample()
    llm.reset()
    llm.eval([9, 9, 9])
    assert sample() != expected
    llm.load_state(state)
    for _ in range(2):
        assert_alike(sample(), expected)
    assert llm.n_tokens == len(PROMPT)


@pytest.mark.parametrize(
    ("of", "to", "fits"),
    [
        ({"n_ctx": 128}, {"n_ctx": 256}, True),
        ({"n_ctx": 256}, {"n_ctx": 128}, True),
        ({"n_batch": 32}, {"n_batch": 16}, True),
        ({"logits_all": True}, {}, True),
        ({}, {"logits_all": True}, False),
        ({}, {"n_ctx": 32}, False),
        ({"f32_cache": False}, {}, False),
    ],
    ids=str,
)
def test_states_of_other_settings(merged: Path, of: dict[str, Any], to: dict[str, Any], fits: bool) -> None:
    llm, target = load(merged, **{"f32_cache": True, **of}), load(merged, **{"f32_cache": True, **to})
    llm.eval(PROMPT * 5)
    state = llm.save_state()
    for _ in range(2):
        with nullcontext() if fits else pytest.raises(ad.ModelFailed, match="a state of 40 tokens does not fit this"):
            target.load_state(state)
        assert (target.n_tokens, len(target.input_ids)) == (40 * fits, target.n_ctx())
        assert_alike(drawn(target, max_tokens=8), drawn(load(merged, f32_cache=True), max_tokens=8))


def test_a_prompt_with_places_of_an_image(merged: Path) -> None:
    """As llama_cpp's chat handlers make it: what is decoded there is no token, and nothing writes to input_ids."""
    llm, image, after = load(merged, f32_cache=True), [5, 6, 7], [12]
    expected = drawn(llm, [*PROMPT, *image, *after])
    llm.input_ids[:] = -5  # memory as it was found, or an earlier text
    llm.reset()
    llm._ctx.kv_cache_clear()
    llm.eval(PROMPT)
    llm._batch.set_batch(batch=image, n_past=llm.n_tokens, logits_all=False)
    llm._ctx.decode(llm._batch)
    llm.n_tokens += len(image)
    llm.eval(after)
    prompt = llm.input_ids[: llm.n_tokens].tolist()
    assert prompt == [*PROMPT, 0, 0, 0, *after]
    assert_alike(drawn(llm, prompt), expected)


def test_a_state_has_the_scores_that_are_kept(merged: Path) -> None:
    for logits_all in (False, True):
        llm = load(merged, logits_all=logits_all)
        llm.eval(PROMPT)
        assert len(llm.save_state().scores) == len(PROMPT) * logits_all


def test_a_cache_of_states(merged: Path) -> None:
    llm = load(merged, f32_cache=True)
    expected = drawn(llm)
    llm.set_cache(llama_cpp.LlamaRAMCache())
    for _ in range(2):
        assert_alike(drawn(llm), expected)
        drawn(llm, [9, 9, 9])


@pytest.mark.parametrize("n_ctx", [32, 256])
def test_a_cache_of_states_of_another_context(merged: Path, n_ctx: int) -> None:
    cache = llama_cpp.LlamaRAMCache()
    for llm in (load(merged, n_ctx=64), load(merged, n_ctx=n_ctx)):
        llm.set_cache(cache)
        endless: dict[str, Any] = {"max_tokens": llm.n_ctx() - len(PROMPT), "logit_bias": {0: -1e9, 2: -1e9}}
        assert_alike(drawn(llm, **endless), drawn(load(merged), **endless))


@pytest.mark.parametrize("kwargs", [{}, {"grammar": WORD}, {"stop": ["a", "e"]}], ids=["free", "grammar", "stop"])
def test_streaming_draws_the_same(merged: Path, kwargs: dict[str, Any]) -> None:
    llm = load(merged)
    kwargs = {"prompt": PROMPT, "max_tokens": 24, **kwargs}
    for seed in range(5):
        whole: Any = llm.create_completion(**kwargs, seed=seed)
        tokens = [t.id for t in llm.trace]
        parts: Any = list(llm.create_completion(**kwargs, seed=seed, stream=True))
        assert "".join(p["choices"][0]["text"] for p in parts) == whole["choices"][0]["text"]
        assert [t.id for t in llm.trace] == tokens


def test_chat_is_predicted(merged: Path) -> None:
    llm = load(merged, chat_format="chatml")
    kwargs: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "seed": 3, "grammar": WORD}
    whole: Any = llm.create_chat_completion(**kwargs)
    tokens = [t.id for t in llm.trace]
    assert len({t.temperature for t in llm.trace}) > 2
    parts: Any = list(llm.create_chat_completion(**kwargs, stream=True))
    text = "".join(p["choices"][0]["delta"].get("content", "") for p in parts)
    assert (text, [t.id for t in llm.trace]) == (whole["choices"][0]["message"]["content"], tokens)
    llm.create_chat_completion(**kwargs, temperature=0.5, top_p=0.5)
    assert {(t.temperature, t.top_p) for t in llm.trace} == {(0.5, 0.5)}


def test_a_chat_handler(merged: Path) -> None:
    """The formatter that a chat template in the GGUF would give."""
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    formatter = Jinja2ChatFormatter(template=template, eos_token="<eos>", bos_token="<bos>")
    llm = load(merged, chat_handler=formatter.to_chat_handler())
    found: Any = llm.create_chat_completion(MESSAGES, max_tokens=6, seed=3)
    text = "".join(f"{m['role']}: {m['content']}\n" for m in MESSAGES).encode()
    assert found["usage"]["prompt_tokens"] == len(llm.tokenize(text, add_bos=False, special=True))
    assert len({t.temperature for t in llm.trace}) > 2


def test_minus_one_stands_for_the_threads_that_are_best(merged: Path) -> None:
    """ggml would take four, of which the guard of forks knows nothing."""
    best, ours = (ad.Llama(merged, n_threads=n, verbose=False) for n in (None, -1))
    assert (ours.n_threads, ours.n_threads_batch) == (best.n_threads, best.n_threads_batch)

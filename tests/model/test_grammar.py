"""JSON schemas: enforced as a whole, or refused; and grammars."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from broken import Kind, rewrite
from conftest import load

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.export import repack
from autodeco_gguf.model import grammar as grammar_module
from autodeco_gguf.model.grammar import LlamaGrammar, SchemaGrammar
from autodeco_gguf.model.llama import Llama
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.sampler import Predictor, Sampler, build_sampler
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.model.shipped import DEMO_MODEL

ZERO: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40}
MESSAGES: Any = [{"role": "user", "content": "hi"}]
EITHER = {"enum": ["red", {"a": [1, None]}]}


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    llm = load(DEMO_MODEL)
    yield llm
    llm.close()


def follows(llm: Llama, grammar: llama_cpp.LlamaGrammar, text: str) -> bool:
    """Whether a text, token by token, is allowed, and may end."""
    sampler = build_sampler(Predictor(None), Sampling(grammar=grammar), llm._model, make=ChainOf)
    assert isinstance(sampler, ChainOf)
    ends = [t for t in range(llm.n_vocab()) if llama_cpp.llama_vocab_is_eog(llm._model.vocab, t)]
    for token in llm.tokenize(text.encode(), add_bos=False):
        if not sampler.allows([token]):
            return False
        llama_cpp.llama_sampler_accept(sampler.chain, token)
    return sampler.allows(ends)


class ChainOf(Sampler):
    """A sampler whose chain is asked by itself."""

    @property
    def chain(self) -> Any:
        chain = self._chains[0]
        assert chain is not None
        return chain.sampler

    def allows(self, tokens: list[int]) -> bool:
        given = (llama_cpp.llama_token_data * len(tokens))(*((token, 0.0, 0.0) for token in tokens))
        llama_cpp.llama_sampler_apply(self.chain, llama_cpp.llama_token_data_array(given, len(tokens), -1, False))
        return any(entry.logit == 0.0 for entry in given)


def test_a_text_that_ends_answers_is_within_none(tmp_path: Path) -> None:
    """RWKV's vocabularies end a turn with two line breaks; here it is one."""
    path = rewrite(DEMO_MODEL, tmp_path / "m.gguf", metadata={"tokenizer.ggml.eot_token_id": (201, Kind.UINT32)})
    repack(path)
    llm = load(path)
    sampler = build_sampler(
        Predictor(None), Sampling(grammar=LlamaGrammar.from_string('root ::= [\\n ] "}"')), llm._model, make=ChainOf
    )
    assert isinstance(sampler, ChainOf)
    space, brace = (llm.tokenize(text, add_bos=False) for text in (b" ", b"}"))
    assert llm.detokenize([201]) == b"\n"
    assert sampler.allows(space)
    assert not sampler.allows([201])
    for (token,) in (space, brace):
        assert not sampler.allows([201])
        llama_cpp.llama_sampler_accept(sampler.chain, token)
    assert sampler.allows([201])
    llm.close()


TREE = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
CASES: list[tuple[Any, str, bool]] = [
    ({"type": "string"}, '"a\\nb é"', True),
    ({"type": "string"}, '"a\nb"', False),
    ({"type": "string"}, '"a\tb"', False),
    ({}, '["a\x01"]', False),
    ({"type": "object"}, '{"a\n": 1}', False),
    (TREE, "[[], [[]]]", True),
    (TREE, "[[], [1]]", False),
    ({"type": "integer", "minimum": 3, "maximum": 12}, "12", True),
    ({"type": "integer", "minimum": 3, "maximum": 12}, "13", False),
    ({"type": "number", "exclusiveMinimum": 0}, "0", False),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0", False),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0.01", True),
    ({"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.5}, "0.25", False),
    ({"type": "object", "minProperties": 1}, "{}", False),
    ({"type": "object", "minProperties": 1}, '{"a":1}', True),
    ({"const": 2**53}, "9007199254740992", True),
    ({"type": "string", "pattern": "b"}, '"abc"', True),
    ({"type": "string", "pattern": "b"}, '"acc"', False),
    ({"type": "string", "pattern": "^hello there!$"}, '"hello there!"', True),
    ({"type": "string", "pattern": "^hello there!$"}, '"hello"', False),
    ({"type": "array", "items": {"type": "null"}, "minItems": 2}, "[null]", False),
    ({"type": "object", "required": ["a"]}, '{"b": 1}', False),
    ({"type": ["string", "null"]}, "null", True),
    (EITHER, '{"a": [1, null]}', True),
    (EITHER, '"green"', False),
]


@pytest.mark.parametrize(("schema", "text", "allowed"), CASES, ids=range(len(CASES)))
def test_what_follows_a_schema(llm: Llama, schema: Any, text: str, allowed: bool) -> None:
    assert follows(llm, SchemaGrammar(schema), text) is allowed


def test_a_schema_that_is_too_deep_for_python() -> None:
    schema: dict[str, Any] = {}
    for _ in range(20_000):
        schema = {"items": schema}
    with pytest.raises(InvalidInput, match=r"^JSON schema: "):
        SchemaGrammar(schema)


@pytest.mark.parametrize("wrap", [lambda ref: ref, lambda ref: {"properties": {"a": ref}, "type": "object"}])
def test_a_long_chain_of_references(wrap: Any) -> None:
    """Followed by recursion, which a small stack does not survive."""
    definitions: dict[str, Any] = {f"d{i}": wrap({"$ref": f"#/$defs/d{i + 1}"}) for i in range(3000)}
    assert SchemaGrammar({"$ref": "#/$defs/d0", "$defs": {**definitions, "d3000": {"type": "string"}}})


def test_threads_that_compile_leave_the_stack_size(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = threading.stack_size(), threading.Thread.start

    def slow(self: threading.Thread) -> None:
        time.sleep(0.02)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", slow)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(SchemaGrammar, [EITHER] * 6))
    assert threading.stack_size(before) == before


def test_a_schema_that_nothing_follows(llm: Llama) -> None:
    with pytest.raises(InvalidInput, match=r"^JSON schema: no text follows it: it refers to itself without end$"):
        llm("hi", grammar=SchemaGrammar({"$ref": "#"}), **ZERO)


def test_an_object_of_many_properties(llm: Llama) -> None:
    names = {f"k{i}": {"type": "integer"} for i in range(1500)}
    schema = {"type": "object", "properties": names, "required": ["k1499"], "additionalProperties": False}
    assert llm("hi", grammar=SchemaGrammar(schema), **ZERO)["choices"][0]["text"].lstrip().startswith("{")


@pytest.mark.parametrize(
    "kwargs", [{}, {"temperature": 0.0}, {"mirostat_mode": 2}, {"logit_bias": {"5": 3.0}}], ids=str
)
def test_a_completion(llm: Llama, kwargs: dict[str, Any]) -> None:
    answer = llm("hi", grammar=LlamaGrammar.from_json_schema(json.dumps(EITHER)), max_tokens=60, seed=1, **kwargs)
    assert json.loads(answer["choices"][0]["text"]) in EITHER["enum"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_in_an_engine() -> None:
    with Engine(DEMO_MODEL, n_parallel=3, n_ctx=64) as engine:
        requests = [Request([5], seed=i, max_tokens=40, grammar=SchemaGrammar(EITHER)) for i in range(6)]
        texts = [result.text for result in engine.generate(requests)]
    assert all(json.loads(text) in EITHER["enum"] for text in texts)


class Raises:
    """In the place of llguidance's matcher."""

    def deep_copy(self) -> Raises:
        return self

    def compute_bitmask(self) -> bytes:
        raise MemoryError("none left")


def test_what_a_matcher_raises_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is a thread of OpenMP's, out of which an exception would end the process."""
    monkeypatch.setattr(grammar_module, "_matcher", lambda model, grammar: Raises())
    with Engine(DEMO_MODEL, n_parallel=16, n_ctx=32, machine=Machine(n_threads=2)) as engine:
        requests = [Request([5], seed=i, max_tokens=2, grammar=SchemaGrammar(EITHER)) for i in range(15)]
        handles = [engine.submit(request) for request in [*requests, Request([5], seed=1, max_tokens=2)]]
        results = [handle.result() for handle in handles]
    assert {str(result.error) for result in results[:-1]} == {"MemoryError: none left"}
    assert (results[-1].error, len(results[-1].tokens)) == (None, 2)


class Fails(Raises):
    def compute_bitmask(self) -> bytes:
        return b""

    def is_error(self) -> bool:
        return True

    def get_error(self) -> str:
        return "too many items\nin a row"


def test_a_matcher_that_fails_says_why_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_matcher", lambda model, grammar: Fails())
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=32) as engine:
        (result,) = engine.generate([Request([5], max_tokens=2, grammar=SchemaGrammar(EITHER))])
    assert result.error == "the grammar or JSON schema: too many items"


@pytest.mark.parametrize(
    "make", [lambda: SchemaGrammar(EITHER), lambda: LlamaGrammar.from_string('root ::= [ab]+ "c"')]
)
def test_is_compiled_once_for_all_answers(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server builds the sampler of each further choice while others wait for their tokens."""

    def texts(grammars: list[llama_cpp.LlamaGrammar]) -> list[str]:
        requests = [Request([5], seed=i, max_tokens=40, grammar=grammar) for i, grammar in enumerate(grammars)]
        return [result.text for result in engine.generate(requests)]

    made: list[object] = []
    with Engine(DEMO_MODEL, n_parallel=2, n_ctx=64) as engine:
        expected, grammar = texts([make() for _ in range(6)]), make()
        monkeypatch.setattr(grammar_module, "_with_room", lambda work: made.append(work) or work())
        assert texts([grammar] * 6) == expected
        assert len(made) == 1


FORMATS: list[Any] = [
    {"type": "json_object", "schema": EITHER},
    {"type": "json_schema", "json_schema": {"name": "n", "schema": EITHER}},
]


@pytest.mark.parametrize("response_format", FORMATS, ids=["json_object", "json_schema"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_format(llm: Llama, response_format: Any, stream: bool) -> None:
    answer = llm.create_chat_completion(MESSAGES, response_format=response_format, stream=stream, **ZERO)
    parts = [c["choices"][0]["delta"].get("content", "") for c in answer] if stream else []
    text = "".join(parts) if stream else answer["choices"][0]["message"]["content"]
    assert json.loads(text) in EITHER["enum"]


def test_any_json_is_an_object(llm: Llama) -> None:
    answer = llm.create_chat_completion(MESSAGES, response_format={"type": "json_object"}, **ZERO)
    assert answer["choices"][0]["message"]["content"].startswith("{")
    free = llm.create_chat_completion(MESSAGES, **ZERO)
    text = llm.create_chat_completion(MESSAGES, response_format={"type": "text"}, **ZERO)
    assert text["choices"] == free["choices"]


@pytest.mark.parametrize(
    ("response_format", "match"),
    [
        ({"type": "xml"}, "response_format {'type': 'xml'}, expected type text, json_object"),
        ({"type": "json_schema"}, "expected type text"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema and an object as the schema in that$"),
        ({"type": "json_schema", "json_schema": {"schema": True}}, "and an object as the schema in that$"),
        ("json", "response_format 'json', expected"),
        ("json_object", "response_format 'json_object', expected type text"),
        ({"typ": "json_object"}, "response_format {'typ': 'json_object'}, expected type text"),
        ({"type": "json_object", "schema": {"not": {}}}, '"not"'),
    ],
)
def test_a_response_format_that_is_none(llm: Llama, response_format: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        llm.create_chat_completion(MESSAGES, response_format=response_format, **ZERO)


def call(llm: Llama, parameters: Any) -> str:
    function = {"name": "paint", "parameters": parameters}
    answer = llm.create_chat_completion(
        MESSAGES,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "paint"}},
        **ZERO,
    )
    return str(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


def test_the_arguments_of_a_function(llm: Llama) -> None:
    assert json.loads(call(llm, EITHER)) in EITHER["enum"]
    with pytest.raises(InvalidInput, match='"not"'):
        call(llm, {"not": {}})


@pytest.mark.parametrize("chat_format", [None, "chatml-function-calling"])
@pytest.mark.parametrize("function", [{"name": "paint"}, {"name": "paint", "parameters": None}], ids=["none", "null"])
def test_a_function_without_parameters(llm: Llama, monkeypatch: Any, chat_format: str | None, function: Any) -> None:
    monkeypatch.setattr(llm, "chat_format", chat_format or llm.chat_format)
    given, chosen = dict(function), {"type": "function", "function": {"name": "paint"}}
    tools: Any = [{"type": "function", "function": given}]
    for seed in range(8):
        likely: Any = {"temperature": 1.0, "logit_bias": {llm.tokenize(b'"', add_bos=False)[0]: 20.0}, "seed": seed}
        answer: Any = llm.create_chat_completion(MESSAGES, tools=tools, tool_choice=chosen, max_tokens=64, **likely)
        (made,) = answer["choices"][0]["message"]["tool_calls"]
        assert json.loads(made["function"]["arguments"]) == {}
    assert given == function
    if chat_format is None:
        answer = llm.create_chat_completion(MESSAGES, functions=[given], function_call={"name": "paint"}, **ZERO)
        assert json.loads(answer["choices"][0]["message"]["function_call"]["arguments"]) == {}


@pytest.mark.parametrize("function", [{}, {"function": "f"}, {"function": None}, {"function": {"name": 5}}])
def test_a_choice_that_names_no_function(llm: Llama, function: dict[str, Any]) -> None:
    tool: Any = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(InvalidInput, match=r"^tool_choice \{.*\}, expected an object that names a function$"):
        llm.create_chat_completion(MESSAGES, tools=[tool], tool_choice={"type": "function", **function})  # type: ignore[arg-type]


@pytest.mark.parametrize("chat_format", [None, "chatml-function-calling"])
def test_a_call_that_is_required(llm: Llama, monkeypatch: pytest.MonkeyPatch, chat_format: str | None) -> None:
    """llama_cpp passes it over, or fails by an assertion."""
    monkeypatch.setattr(llm, "chat_format", chat_format or llm.chat_format)
    tool = {"type": "function", "function": {"name": "paint", "parameters": EITHER}}
    asked: Any = {"messages": MESSAGES, "tool_choice": "required", **ZERO}
    answer = llm.create_chat_completion(tools=[tool], **asked)
    (made,) = answer["choices"][0]["message"]["tool_calls"]
    assert made["function"]["name"] == "paint"
    assert json.loads(made["function"]["arguments"]) in EITHER["enum"]
    for tools in ([], [tool, {"type": "function", "function": {"name": "erase"}}]):
        words = f"^tool_choice 'required' with {len(tools)} tools, expected one, or a tool_choice that names one$"
        with pytest.raises(InvalidInput, match=words):
            llm.create_chat_completion(tools=tools, **asked)


def test_a_grammar_and_a_response_format(llm: Llama) -> None:
    with pytest.raises(InvalidInput, match=r"^grammar and response_format: give one of them$"):
        llm.create_chat_completion(MESSAGES, response_format=FORMATS[0], grammar=SchemaGrammar(EITHER), **ZERO)


def test_llama_cpp_s_own_class_is_not_let_believe_that_it_enforces() -> None:
    with pytest.raises(InvalidInput, match=r"use autodeco_gguf\.Llama"):
        _ = SchemaGrammar({})._grammar


def test_nothing_outlives_the_model() -> None:
    llm = load(DEMO_MODEL)
    grammar = SchemaGrammar(EITHER)
    llm("hi", grammar=grammar, **ZERO)
    model = weakref.ref(llm._model)
    llm.close()
    del llm
    gc.collect()
    assert model() is None


def test_a_grammar(llm: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    assert follows(llm, grammar, "yes")
    assert not follows(llm, grammar, "yesno")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('root ::= "a"{5,2}', "is a reversed range"),
        ('root ::= "\ud800"', "the grammar is not UTF-8"),
    ],
)
def test_a_grammar_that_is_none(llm: Llama, text: str, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        llm("hi", grammar=LlamaGrammar.from_string(text), **ZERO)


def test_a_schema_that_llama_cpp_has_converted(llm: Llama) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}}}'
    with pytest.warns(RuntimeWarning, match="from_json_schema enforces"):
        llm("a", grammar=llama_cpp.LlamaGrammar.from_json_schema(schema, verbose=False), **ZERO)


@pytest.mark.skipif(sys.platform != "linux", reason="waits in C with the interpreter's lock held")
def test_what_a_grammar_waits_for_is_not_its_time() -> None:
    grammar = LlamaGrammar.from_json_schema('{"type": "array", "items": {"type": "integer"}, "minItems": 50}')
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=256) as engine:
        engine.generate([Request([1], max_tokens=1)])
        handle = engine.submit(Request([1, 2, 3], seed=1, max_tokens=200, grammar=grammar))
        handle.sampler.native.patience = 0.5

        def hold() -> None:
            time.sleep(0.02)
            ctypes.PyDLL(None).usleep(1_000_000)

        thread = threading.Thread(target=hold)
        thread.start()
        assert handle.result().error is None
        thread.join()


def test_a_grammar_that_takes_too_long_for_a_token(llm: Llama) -> None:
    """Which leaves more ways to go on with each; so that nobody waits for ever."""
    grammar = LlamaGrammar.from_string("root ::= [a-z ]*")
    sampler = build_sampler(Predictor(None), Sampling(grammar=grammar), llm._model)
    llm.reset()
    llm.eval([1, 2, 3])
    sampler.sample(llm.ctx)
    sampler.native.patience = 0.0
    with pytest.raises(
        ModelFailed, match=r"^the grammar took 0 s for one token; no token was drawn, use one with fewer"
    ):
        sampler.sample(llm.ctx)


class Slow(Raises):
    """It allows every token at once, and takes long to go on from one."""

    def compute_bitmask(self) -> bytes:
        return b"\xff" * 150

    def is_error(self) -> bool:
        return False

    def consume_token(self, _: int) -> None:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass


def test_a_grammar_that_takes_too_long_to_go_on_from_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_matcher", lambda model, grammar: Slow())
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=32) as engine:
        handle = engine.submit(Request([5], max_tokens=2, grammar=SchemaGrammar(EITHER)))
        handle.sampler.native.patience = 0.25
        result = handle.result()
    assert result.error is not None
    assert result.error.startswith("the grammar took 0 s for one token")
    assert result.tokens == []

"""What a text must follow, a grammar (GBNF) or a JSON schema, by way of llguidance: a stage of a chain of samplers."""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import llama_cpp
from llama_cpp._internals import LlamaModel

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.gbnf import to_lark
from autodeco_gguf.model.gbnf_rules import MAX_BYTES
from autodeco_gguf.model.json_schema import compile_schema
from autodeco_gguf.model.token_text import text_bytes, token_bytes

if TYPE_CHECKING:  # 4 MB and 25 ms, for those who use a schema
    from llguidance import LLMatcher, LLTokenizer

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
"""What a function is called with that has no ``parameters``."""

_SCHEMA_LIMITS: dict[str, Any] = {"max_items_in_row": 20_000, "step_max_items": 400_000}
"""Items of llguidance's parser at a place and for a token, some eight times its own limits: with those an object may
have 500 properties that may be left out, with these 5,000, and a token takes up to 0.1 s."""

_GRAMMAR_LIMITS: dict[str, Any] = {
    "max_items_in_row": 5_000, "step_max_items": 200_000, "step_lexer_fuel": 5_000_000, "max_lexer_states": 50_000
}  # fmt: skip
"""For a grammar whose rules lead back to each other, of which each character is an item: it may have 4,500 alternatives
at a place. The slowest take minutes for a token all the same, so that a server has a bound of its own. For one that is
an expression: steps of the lexer for a token, 0.4 s of them, and states that it keeps, of 1 KB each."""

_STACK = 512 << 20
"""Of the thread that compiles a schema: references to references are followed by recursion."""

_CONVERTED = re.compile(r'^space ::= (" "\?|\| " " \|)', re.MULTILINE)
"""What a grammar has in it that llama_cpp has made of a JSON schema."""

FORMATS = "type text, json_object, or json_schema with its json_schema and an object as the schema in that"
"""What a ``response_format`` may be."""

_stack_size = threading.Lock()
"""Held while a thread with a stack of another size is started: the size is the process's."""

_REASONS = {
    "NoExtensionBias": "it refers to itself without end",
    "Too many items": "it has too many alternatives at a time",
    "Current row has": "it has too many properties that may be left out, or too many alternatives",
    "too big": "it is too large",
    "symbols.len()": "it is too large",
    "lexer precomputation failed": "it is too large",
    "too many expressions": "it is too large",
}
"""What llguidance says of a schema or a grammar, and what that means."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_tokenizers: weakref.WeakKeyDictionary[LlamaModel, LLTokenizer] = weakref.WeakKeyDictionary()

_Matchers = weakref.WeakKeyDictionary[llama_cpp.LlamaGrammar, "LLMatcher"]
_matchers: weakref.WeakKeyDictionary[LlamaModel, _Matchers] = weakref.WeakKeyDictionary()
"""At the beginning of a text, never moved on: to make one takes seconds where a schema is large, to copy it 0.1 ms."""


class LlamaGrammar(llama_cpp.LlamaGrammar):
    """``llama_cpp.LlamaGrammar``, but that a JSON schema is enforced as a whole, or refused."""

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> SchemaGrammar:
        """See :class:`SchemaGrammar`; ``verbose`` has no effect, in llama_cpp neither."""
        return SchemaGrammar(json_schema)


class SchemaGrammar(LlamaGrammar):
    """JSON that follows a schema, as llguidance enforces it. For this package's models, not for ``llama_cpp.Llama``.

    Examples:
        >>> _ = SchemaGrammar({"type": "array", "items": {"enum": ["red", "green"]}})
        >>> SchemaGrammar({"not": {"type": "string"}})
        Traceback (most recent call last):
            ...
        autodeco_gguf.errors.InvalidInput: JSON schema: Unimplemented keys: ["not"]
    """

    def __init__(self, schema: str | Mapping[str, Any]) -> None:
        """Check a schema.

        Args:
            schema: as text or as what ``json.loads`` makes of it, up to 256 KiB. A ``$ref`` leads to a place within it.

        Raises:
            InvalidInput: no JSON, or a keyword, reference, type, format or pattern that would not be enforced.
        """
        try:
            text = schema if isinstance(schema, str) else json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as e:
            raise InvalidInput(f"JSON schema: {e}", key="schema") from e
        if len(text) > MAX_BYTES:
            raise InvalidInput.of("JSON schema", f"of {len(text)} characters", f"at most {MAX_BYTES}")
        self.compiled = _with_room(lambda: compile_schema(text))

    @property
    def _grammar(self) -> str:  # what llama_cpp.Llama asks for
        raise InvalidInput("this grammar is a JSON schema, which llama_cpp does not enforce: use autodeco_gguf.Llama")


def _with_room(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, done by a thread with a large stack."""
    from concurrent.futures import Future

    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as e:
            done.set_exception(e)

    with _stack_size:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=run).start()  # no pool: interrupted, its thread would wait for ever
        finally:
            threading.stack_size(before)
    return done.result()


def _of_format(response_format: Any) -> SchemaGrammar | None:
    """The grammar of a ``response_format``, as llama_cpp and OpenAI write it."""
    if response_format is None:
        return None
    form = response_format if isinstance(response_format, Mapping) else {}
    kind, inner = form.get("type"), form.get("json_schema")
    if kind == "text":
        return None
    if kind == "json_object":
        return SchemaGrammar(form.get("schema") or {"type": "object"})
    if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        return SchemaGrammar(inner["schema"])
    raise InvalidInput.of("response_format", repr(response_format), FORMATS)


def _of_tool(arguments: Mapping[str, Any]) -> SchemaGrammar | None:
    """The grammar of the arguments of the one function that must be called; None where there is none."""
    chosen = arguments.get("tool_choice") or arguments.get("function_call")
    if not isinstance(chosen, Mapping):
        return None
    named = chosen.get("function", chosen)
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise InvalidInput.of("tool_choice", repr(chosen), "an object that names a function")
    functions = [*(arguments.get("functions") or ()), *(tool["function"] for tool in arguments.get("tools") or ())]
    found = [function for function in functions if function.get("name") == name]
    return SchemaGrammar(found[0]["parameters"]) if found else None


def _complete_tools(arguments: dict[str, Any]) -> None:
    """Write out for llama_cpp, which is to call one, that functions without ``parameters`` have none."""
    if not any(isinstance(arguments.get(key), Mapping) for key in ("tool_choice", "function_call")):
        return
    functions = [dict(function) for function in arguments.get("functions") or ()]
    tools = [{**tool, "function": dict(tool.get("function", {}))} for tool in arguments.get("tools") or ()]
    for function in (*functions, *(tool["function"] for tool in tools)):
        if function.get("parameters") is None:
            function["parameters"] = NO_ARGUMENTS
    arguments |= {"functions": functions or None, "tools": tools or None}


def _name_tool(arguments: dict[str, Any]) -> None:
    """Have "required" mean the one function that there is, as llama_cpp passes it over."""
    if arguments.get("tool_choice") != "required":
        return
    names = [tool.get("function", {}).get("name") for tool in arguments.get("tools") or ()]
    if len(names) != 1:
        found = f"tool_choice 'required' with {len(names)} tools"
        raise InvalidInput(f"{found}, expected one, or a tool_choice that names one", key="tool_choice")
    arguments["tool_choice"] = {"type": "function", "function": {"name": names[0]}}


_chosen: ContextVar[SchemaGrammar | None] = ContextVar("chosen", default=None)


def in_place_of(grammar: llama_cpp.LlamaGrammar | None) -> llama_cpp.LlamaGrammar | None:
    """The grammar to use for one that a chat handler of llama_cpp has made of a function's schema, or of any JSON."""
    return grammar and (_chosen.get() or grammar)


def with_schemas(create_chat_completion: F) -> F:
    """The method, with ``response_format`` and the function to be called enforced by :class:`SchemaGrammar`."""
    signature = inspect.signature(create_chat_completion)

    @functools.wraps(create_chat_completion)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        grammar = _of_format(given.pop("response_format", None))
        if grammar is not None:
            if given.get("grammar") is not None:
                raise InvalidInput("grammar and response_format: give one of them", key="grammar")
            given["grammar"] = grammar
        _name_tool(given)
        _complete_tools(given)
        token = _chosen.set(_of_tool(given))
        try:
            return create_chat_completion(*bound.args, **bound.kwargs)
        finally:
            _chosen.reset(token)

    return wrapper  # type: ignore[return-value]


def _ends(model: LlamaModel) -> list[int]:
    """The tokens that end a text."""
    tokens = range(llama_cpp.llama_vocab_n_tokens(model.vocab))
    return [token for token in tokens if llama_cpp.llama_vocab_is_eog(model.vocab, token)]


def _tokenizer(model: LlamaModel) -> LLTokenizer:
    """For llguidance; made once a model, which takes a second or two at a vocabulary of 150,000.

    It calls the tokenizer by itself: no Python runs within a draw, where an interrupt would be lost.
    """
    from llguidance import LLTokenizer

    if model not in _tokenizers:
        vocab, ends = model.vocab, _ends(model)
        tokens = range(llama_cpp.llama_vocab_n_tokens(vocab))
        if not ends:
            words = "a grammar or a JSON schema needs a model that can end a text"
            raise InvalidInput(f"{words}; its vocabulary has no such token", key="grammar")
        make: Any = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]  # its stub leaves it out
        _tokenizers[model] = make(
            tokens=[text_bytes(vocab, t) or b"\xff" + token_bytes(vocab, t) for t in tokens],
            vocab_ptr=vocab,
            tokenize_fptr=core.vocab_tokenizer(),
            eos_token=ends,
            slices=LLTokenizer.json_slices(),
        )
    return _tokenizers[model]


def _token_of(model: LlamaModel, text: str) -> int:
    """The id of a token that a grammar names by it, as <[12]>, or by its text, as <think>."""
    if text.startswith("<["):
        digits = text[2:-2].lstrip("0") or "0"
        if len(digits) < 10 and int(digits) < llama_cpp.llama_vocab_n_tokens(model.vocab):
            return int(digits)
    else:
        tokens = model.tokenize(text.encode(), False, True)
        if len(tokens) == 1:
            return int(tokens[0])
    raise InvalidInput(f"the grammar names {text:.40}, which is no token of this vocabulary", key="grammar")


def _lark(model: LlamaModel, grammar: llama_cpp.LlamaGrammar) -> str:
    text = grammar._grammar  # noqa: SLF001  no other door
    if _CONVERTED.search(text):
        warnings.warn(
            "this grammar is what llama_cpp makes of a JSON schema, which lets much through; "
            "autodeco_gguf.LlamaGrammar.from_json_schema enforces all of it, or refuses",
            RuntimeWarning,
            stacklevel=4,
        )
    return to_lark(text, functools.partial(_token_of, model), _ends(model))


def _matcher(model: LlamaModel, grammar: llama_cpp.LlamaGrammar) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    if isinstance(grammar, SchemaGrammar):
        name, key, at_most, compiled = "JSON schema", "schema", _SCHEMA_LIMITS, grammar.compiled
    else:
        name, key, at_most = "grammar", "grammar", _GRAMMAR_LIMITS
        compiled = LLMatcher.grammar_from_lark(_lark(model, grammar))
    limits = LLParserLimits(**at_most, verbose_errors=False)
    matcher = _with_room(lambda: LLMatcher(_tokenizer(model), compiled, log_level=0, limits=limits))
    matcher.compute_bitmask()
    if matcher.is_error():
        reason = matcher.get_error().splitlines()[0]
        why = next((words for found, words in _REASONS.items() if found in reason), reason)
        raise InvalidInput(f"{name}: no text follows it: {why}", key=key)
    return matcher


def grammar_stage(model: LlamaModel, grammar: llama_cpp.LlamaGrammar) -> Any:
    """A grammar as one of llama.cpp's samplers, which the chain that it is added to will own.

    It is compiled once for a model, for as long as both are there.

    Raises:
        InvalidInput: it does not parse, no text follows it, or it is too large.
    """
    if not isinstance(grammar, llama_cpp.LlamaGrammar):
        raise InvalidInput.of("grammar", repr(grammar), "what LlamaGrammar.from_string makes of a text")
    matchers = _matchers.setdefault(model, weakref.WeakKeyDictionary())
    if grammar not in matchers:
        matchers[grammar] = _matcher(model, grammar)
    matcher = matchers[grammar].deep_copy()
    return ctypes.cast(core.matcher_sampler(matcher), llama_cpp.llama_sampler_p_ctypes)

"""What a text must follow, by way of llama.cpp (GBNF) or llguidance (JSON schemas): a stage of a chain of samplers."""

from __future__ import annotations

import ctypes
import functools
import inspect
import itertools
import json
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import llama_cpp
from llama_cpp._internals import LlamaModel

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.gbnf import MAX_BYTES, check_gbnf
from autodeco_gguf.model.token_text import token_bytes

if TYPE_CHECKING:  # 4 MB and 25 ms, for those who use a schema
    from llguidance import LLTokenizer

_OPTIONS: Any = {"lenient": False, "whitespace_pattern": r" ?|\n{1,2}[ \t]{0,20}"}
"""All that a schema says is enforced; the space between tokens of JSON is that of llama.cpp, which has an end."""

_MAX_ROW, _MAX_STEP = 20_000, 400_000
"""Items of llguidance's parser, some eight times its own limits: with those an object may have 500 properties that may
be left out, with these 5,000, and a token takes up to 0.1 s."""

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
}
"""What llguidance says of a schema, and what that means."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_tokenizers: weakref.WeakKeyDictionary[LlamaModel, LLTokenizer] = weakref.WeakKeyDictionary()


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
        self.compiled = _with_room(lambda: _compile(text))

    @property
    def _grammar(self) -> str:  # what llama_cpp.Llama asks for
        raise InvalidInput("this grammar is a JSON schema, which llama_cpp does not enforce: use autodeco_gguf.Llama")


_SCHEMAS = ("additionalProperties", "additionalItems", "items", "not", "allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "patternProperties", "properties")
"""Keywords whose keys are names."""
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEYWORDS = frozenset(
    [
        "$ref",
        "const",
        "enum",
        "type",
        "minItems",
        "maxItems",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "nullable",
        "$anchor",
        "$schema",
        "$id",
        "id",
        "$comment",
        "title",
        "description",
        "default",
        "deprecated",
        "example",
        "examples",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
        "externalDocs",
        "xml",
    ]
) | {*_SCHEMAS, *NAMED}  # what llguidance enforces, and what allows no more than it would without
"""What a schema may say beside what llguidance refuses by itself: it ignores what it does not know, a typo too."""


def _check_keywords(schema: Any) -> None:
    """Raise InvalidInput for a keyword that is none; "x-..." says something to other programs."""
    schemas = [schema]
    while schemas:
        at = schemas.pop()
        if isinstance(at, list):
            schemas += at
        if not isinstance(at, dict):
            continue
        _check_bounds(at)
        _check_keys(at)
        for key, value in at.items():
            if key == "x-guidance" or not (key in _KEYWORDS or key.startswith("x-")):
                raise InvalidInput(f"JSON schema: unknown keyword {key!r}, which would not be enforced", key="schema")
            if key in _SCHEMAS:
                schemas.append(value)
            elif key in NAMED and isinstance(value, dict):
                schemas += value.values()


def _check_numbers(schema: Any) -> None:
    """Raise InvalidInput for numbers that llguidance rounds, or ends the process for."""
    values = [("", schema)]
    for key, value in values:  # which grows meanwhile
        if isinstance(value, dict):
            values += [(key if key in ("const", "enum") else name, part) for name, part in value.items()]
        elif isinstance(value, list):
            values += [(key, part) for part in value]
        elif key in _NUMBERS and _is_number(value):
            if isinstance(value, int) and abs(value) > 2**53:
                what = f"{key} has a whole number beyond 2^53, which would be rounded"
                raise InvalidInput(f"JSON schema: {what}", key="schema")
            if abs(value) > 10**18:
                what = f"{key} has a number beyond 10^18, which would not be enforced"
                raise InvalidInput(f"JSON schema: {what}", key="schema")


def _check_bounds(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a whole number that llguidance lets through although it is excluded."""
    names = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
    parts = [at, *(part for key in ("allOf", "anyOf", "oneOf") for part in _list(at, key) if isinstance(part, dict))]
    low, high = ([(key, part[key]) for part in parts for key in keys if _is_number(part.get(key))] for keys in names)
    for (key, least), (other, most) in itertools.product(low, high):
        lost = [k for k, n in ((key, least), (other, most)) if k.startswith("exclusive") and n == int(n)]
        if lost and abs(most - least) < 1:
            reason = f"{lost[0]} less than 1 from the other bound, which would not be enforced"
            raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _check_keys(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a minProperties that one key could meet by coming twice."""
    n, required = at.get("minProperties", 0), len(_list(at, "required"))
    others = at.get("patternProperties") or at.get("additionalProperties") is not False
    if others and _is_number(n) and n > max(1, required):
        reason = f"minProperties {n}, where a key that properties does not name may come twice"
        raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _list(at: Mapping[str, Any], key: str) -> list[Any]:
    found = at.get(key)
    return found if isinstance(found, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compile(text: str) -> str:
    from llguidance import LLMatcher

    parsed = None
    with suppress(ValueError, RecursionError):  # what is no JSON, or too deep, is refused below
        parsed = json.loads(text)
    _check_numbers(parsed)
    try:
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)
    except ValueError as e:
        raise InvalidInput(f"JSON schema: {e}", key="schema") from e
    _, reasons = LLMatcher.validate_grammar_with_warnings(grammar)
    if reasons:
        raise InvalidInput(f"JSON schema: {' '.join(reasons[0].split())}", key="schema")
    _check_keywords(parsed)  # not deep: llguidance has read it
    return grammar


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
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind is None or kind == "text":
        return None
    if kind == "json_object":
        return SchemaGrammar(response_format.get("schema") or {"type": "object"})
    inner = response_format.get("json_schema") if isinstance(response_format, Mapping) else None
    if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        return SchemaGrammar(inner["schema"])
    raise InvalidInput.of("response_format", repr(response_format), FORMATS)


def _of_tool(arguments: Mapping[str, Any]) -> SchemaGrammar | None:
    """The grammar of the arguments of the one function that must be called; None where there is none."""
    chosen = arguments.get("tool_choice") or arguments.get("function_call")
    if not isinstance(chosen, Mapping):
        return None
    name = chosen.get("function", chosen).get("name")
    functions = [*(arguments.get("functions") or ()), *(t.get("function", {}) for t in arguments.get("tools") or ())]
    found = [function for function in functions if function.get("name") == name]
    return SchemaGrammar(found[0].get("parameters", {})) if found else None


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
        token = _chosen.set(_of_tool(given))
        try:
            return create_chat_completion(*bound.args, **bound.kwargs)
        finally:
            _chosen.reset(token)

    return wrapper  # type: ignore[return-value]


def _tokenizer(model: LlamaModel) -> LLTokenizer:
    """For llguidance; made once a model, which takes a second or two at a vocabulary of 150,000.

    It calls llama.cpp's tokenizer by itself: no Python runs within a draw, where an interrupt would be lost.
    """
    from llguidance import LLTokenizer

    if model not in _tokenizers:
        vocab = model.vocab
        tokens = range(llama_cpp.llama_vocab_n_tokens(vocab))
        ends = [token for token in tokens if llama_cpp.llama_vocab_is_eog(vocab, token)]
        if not ends:
            raise InvalidInput("a JSON schema needs a model that can end a text; its vocabulary has no such token")
        make: Any = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]  # its stub leaves it out
        _tokenizers[model] = make(
            tokens=[token_bytes(vocab, t, special=False) or b"\xff" + token_bytes(vocab, t) for t in tokens],
            vocab_ptr=vocab,
            tokenize_fptr=ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value,  # noqa: SLF001
            eos_token=ends,
            slices=LLTokenizer.json_slices(),
        )
    return _tokenizers[model]


def grammar_stage(model: LlamaModel, grammar: llama_cpp.LlamaGrammar) -> Any:
    """A grammar as one of llama.cpp's samplers, which the chain that it is added to will own.

    Raises:
        InvalidInput: it does not parse, or would crash or hang llama.cpp.
    """
    if isinstance(grammar, SchemaGrammar):
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_items_in_row=_MAX_ROW, step_max_items=_MAX_STEP, verbose_errors=False)
        matcher = _with_room(lambda: LLMatcher(_tokenizer(model), grammar.compiled, log_level=0, limits=limits))
        matcher.compute_bitmask()
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            why = next((words for found, words in _REASONS.items() if found in reason), reason)
            raise InvalidInput(f"JSON schema: no text follows it: {why}", key="schema")
        return ctypes.cast(core.matcher_sampler(matcher), llama_cpp.llama_sampler_p_ctypes)
    if not isinstance(grammar, llama_cpp.LlamaGrammar):
        raise InvalidInput.of("grammar", repr(grammar), "what LlamaGrammar.from_string makes of a text")
    text = grammar._grammar  # noqa: SLF001  no other door
    if _CONVERTED.search(text):
        warnings.warn(
            "this grammar is what llama_cpp makes of a JSON schema, which lets much through; "
            "autodeco_gguf.LlamaGrammar.from_json_schema enforces all of it, or refuses",
            RuntimeWarning,
            stacklevel=2,
        )
    try:
        source = text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InvalidInput(f"the grammar is not UTF-8: {e.reason} at character {e.start}", key="grammar") from e
    if text:
        check_gbnf(text)
    with core.LogCapture(False) as capture:
        sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, source, grammar._root.encode("utf-8"))  # noqa: SLF001
    reason = capture.first_error
    if not sampler:
        if reason == "failed to parse grammar":  # why has gone to stderr; what is left of check_gbnf is one of these
            reason = "a <token> that the vocabulary has not, or repetitions in each other that make too many rules"
        raise InvalidInput(f"the grammar does not parse: {reason}", key="grammar")
    return sampler

"""Chat templates as programs of strangers: run in jinja2's sandbox, and within bounds of time and size."""

from __future__ import annotations

import functools
import inspect
import math
import re
import string
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.thoughts import as_read

TEMPLATE_KEY = "tokenizer.chat_template"
"""The metadata key that holds one."""

MAX_SOURCE = 1 << 17
"""Characters of a template; the longest in use have a quarter of it."""

MAX_SECONDS, SECONDS_PER_BYTE = 0.5, 1e-5
"""Processor time of one rendering, and so much more for each byte of the conversation."""

MAX_BYTES, BYTES_PER_BYTE = 1 << 23, 16
"""Size of one value, and of the text that comes out, and so much more for each byte of the conversation."""

MAX_VALUES = 16
"""How often that size all values together may have that one rendering makes, with what it writes."""

MAX_NUMBER = 100_000
"""What an argument may be that is a width or a count. jinja2's sandbox has the same bound for ranges."""

MAX_SLOW = 1 << 16
"""Size of what is given to a function that takes more time than by its size, or takes a text apart."""

MAX_SEARCHED = 16
"""Characters that are looked for in a text of the largest size, where that takes the product of both."""

MAX_BITS = 1 << 14
"""Of a whole number: more than Python writes out in decimal. Products and quotients take the square of it."""

_GROWING = re.compile(r"batch|center|expandtabs|indent|join|ljust|rjust|round|slice|to_bytes|tojson|zfill")
"""Functions and filters whose results can be as large as the product of their arguments."""

_SLOW = re.compile(r"pprint|striptags|strftime_now|sum|urlize|wordwrap|xmlattr")
"""Those that may take a time that does not grow with the size of their arguments alone."""

_SEARCHING = re.compile(r"[lr]?strip|trim|rfind|rindex|rsplit|rpartition")
"""Those that may compare each character of one text with each of another."""

_WALKING = re.compile(r"batch|groupby|join|list|map|max|min|(?:reject|select)(?:attr)?|slice|sort|title|unique")
"""Those that take a text for a list, of its characters or words."""

_ENCODINGS = frozenset(["utf-8", "utf8", "ascii", "latin-1", "strict", "ignore", "replace"])
"""What a text may be encoded by: Python has others, of which some take the square of its length."""

_OF_JINJA = ("_loop_vars", "_block_vars")
"""What jinja2 hands to its own call beside the arguments, within a loop and a block."""

_TICKS = 256
"""Steps of a loop between two looks at the clock."""

_CONVERSION = re.compile(r"%(?:\([^()]*\))?([-#0 +]*[0-9*]*\.?[0-9*]*[hlL]?.?)", re.DOTALL)
"""What ``%`` replaces in a text, without its key."""

_PERCENT_WIDTHS, _BRACE_WIDTHS = re.compile(r"[0-9]{4}|[*(]"), re.compile(r"\d{4}|\{")
"""What makes one write more than it holds: a width of four digits, or one that is an argument; a key with brackets."""


class TooMuch(Exception):
    """A template goes beyond a bound."""


class _Budget:
    """What is left to one rendering of so many bytes."""

    def __init__(self, nbytes: int) -> None:
        self._at_most = MAX_BYTES + BYTES_PER_BYTE * nbytes
        self._left, self._ticks = MAX_VALUES * self._at_most, 0
        self._at_most_walked = MAX_SLOW + nbytes
        self._end = time.thread_time() + MAX_SECONDS + SECONDS_PER_BYTE * nbytes

    def tick(self, nbytes: int) -> None:
        """A step that writes up to so many bytes."""
        self._take(nbytes)
        self._ticks += 1
        if self._ticks % _TICKS == 0:
            self.look()

    def look(self) -> None:
        if time.thread_time() > self._end:
            raise TooMuch("takes too much time")

    def made(self, value: Any) -> Any:
        """The value, counted."""
        self.look()
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise TooMuch(f"makes a number of more than {MAX_BITS} bits")
        self._take(_size(value, self._at_most))
        return value

    def check(self, nbytes: int) -> None:
        """Refuse a value that would have so many bytes."""
        if nbytes > self._at_most:
            raise TooMuch(f"makes a value of more than {self._at_most} bytes")

    def check_arguments(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments whose result would be far larger than they are, or take far longer."""
        values = (*args, *kwargs.values())
        if _WALKING.fullmatch(name):
            _size([text for text in values if isinstance(text, str | bytes)], self._at_most_walked)
        if _SLOW.fullmatch(name):
            _size(values, MAX_SLOW)
        elif _SEARCHING.fullmatch(name):
            if math.prod(len(text) for text in values if isinstance(text, str | bytes)) > MAX_SEARCHED * self._at_most:
                raise TooMuch(f"gives {name} texts that are too long")
        elif name in ("encode", "decode"):
            if not {str(value).lower() for value in values[1:]} <= _ENCODINGS:
                raise TooMuch(f"gives {name} an encoding beyond UTF-8, ASCII and Latin-1")
        elif name == "replace":
            self._check_replacement(*args, **kwargs)
        elif name == "%" or (name in ("format", "format_map") and isinstance(args[0], str)):
            self._check_format(str(args[0]), name == "%", _size(values[1:], self._at_most))
        elif name == "safe_range":  # numbers beyond 2**61 can all have one hash
            _check_numbers("range", values)
        elif _GROWING.fullmatch(name):
            values = values[name == "round" :]  # what is rounded may be large
            _check_numbers(name, values)
            product = 1
            for value in values:
                factor = 1
                if isinstance(value, int | float):
                    factor = int(abs(value))
                elif name == "tojson":  # which has lists among its settings
                    factor = _size(value, self._at_most)
                elif isinstance(value, str | bytes | list | tuple | dict):
                    factor = len(value)
                product *= max(1, factor)
            self.check(product)

    def _check_replacement(self, text: Any, old: Any, new: Any, count: Any = None) -> None:
        text, old, new = (value if isinstance(value, bytes) else str(value) for value in (text, old, new))
        self.check(len(text) + text.count(old) * len(new))

    def _check_format(self, text: str, percent: bool, nbytes: int) -> None:
        """The same of a format, with ``%`` or with braces, whose values have so many bytes."""
        self.check(len(text) + nbytes * (text.count("%") if percent else max(text.count("{"), text.count("}"))))
        if percent:
            wide = any(map(_PERCENT_WIDTHS.search, _CONVERSION.findall(text)))
        else:
            wide = any(_BRACE_WIDTHS.search(spec or "") for _, _, spec, _ in string.Formatter().parse(text))
        if wide:
            raise TooMuch("formats with a width that is too large, or not written out")

    def _take(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise TooMuch(f"makes values of more than {MAX_VALUES * self._at_most} bytes in all")


def _check_numbers(name: str, values: Iterable[Any]) -> None:
    if any(isinstance(value, int | float) and abs(value) > MAX_NUMBER for value in values):
        raise TooMuch(f"gives {name} a number beyond {MAX_NUMBER}")


def _size(value: Any, at_most: int) -> int:
    """Bytes of a value written out, everything in it counted as often as it stands there."""
    total, rest = 0, [value]
    while rest:
        one = rest.pop()
        total += sys.getsizeof(one) if isinstance(one, str | bytes | int) else 64
        if isinstance(one, dict):
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            rest += one
        if total + 8 * len(rest) > at_most:
            raise TooMuch(f"makes or uses a value of more than {at_most} bytes")
    return total


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, each step and each value of which is counted; nothing is computed while it compiles."""

    intercepted_binops = frozenset(["+", "-", "*", "**", "//", "%"])  # keys of a dict can be subtracted

    def __init__(self, source_size: int) -> None:
        self.source_size = source_size
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Jinja2ChatFormatter.IgnoreGenerationTags, "jinja2.ext.loopcontrols"],
            optimized=False,
            finalize=self._written,
        )
        self._here = threading.local()  # one environment can render in several threads
        self.filters["tojson"] = Jinja2ChatFormatter.tojson
        self.filters = {name: self._bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"_steps": self._steps, "_concat": self._concat, "_made": lambda value: self.budget.made(value)}
        self.filters["_cut"] = self._cut
        del self.globals["lipsum"]

    @property
    def budget(self) -> _Budget:
        budget: _Budget = self._here.budget
        return budget

    def begin(self, values: dict[str, Any]) -> None:
        """A rendering of these values begins in this thread."""
        self._here.budget = _Budget(_size(values, sys.maxsize))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            written = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = _filter("_steps", loop.iter, nodes.Const(written))
        return _Rewriting().visit(tree)  # type: ignore[no-any-return]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in ("translate", "maketrans") and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget, name = __self.budget, getattr(__obj, "__name__", "a function")
        budget.look()
        if isinstance(__obj, Macro):
            budget.tick(__self.source_size)
        else:
            method = inspect.unwrap(__obj) if callable(__obj) else __obj
            owner = getattr(method, "__self__", None)
            named = {key: value for key, value in kwargs.items() if key not in _OF_JINJA}
            budget.check_arguments(name, (owner, *args) if isinstance(owner, str | bytes) else args, named)
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.look()
        if operator == "**" and not (abs(left) <= MAX_NUMBER and abs(right) <= 64):
            raise TooMuch("raises a number to a power that is too large")
        if operator == "*":
            sequence, number = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(number, int) and not isinstance(sequence, int | float):
                self.budget.check(abs(number) * _size(sequence, sys.maxsize))
        if operator == "%" and isinstance(left, str | bytes):
            self.budget.check_arguments("%", (left, right), {})
        return self.budget.made(super().call_binop(context, operator, left, right))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        kind = "%" if name == "format" else name  # which of texts is the method with braces

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.budget.look()
            own = args[1:] if hasattr(function, "jinja_pass_arg") else args
            self.budget.check_arguments(kind, own, kwargs)
            return self.budget.made(function(*args, **kwargs))

        return bounded

    def _steps(self, items: Iterable[Any], written: int) -> Iterator[Any]:
        for item in items:
            self.budget.tick(written)
            yield item

    def _concat(self, parts: list[Any]) -> str:
        return "".join(map(str, self.budget.made(parts)))

    def _cut(self, value: Any) -> Any:
        self.budget.tick(sys.getsizeof(value))
        return value

    def _written(self, value: Any) -> Any:
        if isinstance(value, Namespace):
            raise TooMuch("writes a namespace")
        return self.budget.made(value)


class _Rewriting(NodeTransformer):
    """Has what a template does without a call or an operator counted too.

    It joins and cuts texts, writes lists out, and compares, which may take a while each time.
    """

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filter("_concat", nodes.List(node.nodes))

    def visit_List(self, node: nodes.Expr) -> nodes.Expr:
        return _filter("_made", self.generic_visit(node))

    visit_Dict = visit_Compare = visit_Test = visit_List

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filter("_cut", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self.visit_List(node) if node.ctx == "load" else node


def _filter(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None)


def _environment(source: str) -> _Environment:
    if len(source) > MAX_SOURCE:
        raise TooMuch(f"has {len(source)} characters, more than {MAX_SOURCE}")
    return _Environment(len(source))


@functools.lru_cache(maxsize=8)  # a server asks at each request
def _names(source: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_environment(source).parse(source)))


class _Template:
    """A template, parsed and compiled when it is first used."""

    def __init__(self, source: str, path: Path) -> None:
        self._source, self._path = source, path

    @functools.cached_property
    def _compiled(self) -> tuple[_Environment, jinja2.Template]:
        environment = _environment(self._source)
        return environment, environment.from_string(self._source)

    def names(self) -> set[str]:
        """What it reads that is not its own; InvalidInput where it does not parse."""
        try:
            return set(_names(self._source))
        except Exception as e:
            raise self._failed("does not parse", e) from e

    def render(self, **values: Any) -> str:
        """The text.

        Raises:
            InvalidInput: the template does not parse, refuses, fails, or goes beyond a bound.
        """
        try:
            environment, template = self._compiled
        except Exception as e:
            raise self._failed("does not parse", e) from e
        try:
            environment.begin(values)
            size, pieces = 0, []
            for piece in template.generate(**values):
                size += len(piece)
                environment.budget.check(size)
                pieces.append(piece)
            return "".join(pieces)
        except Exception as e:  # it is a program, and can raise anything
            raise self._failed("refuses", e) from e

    def _failed(self, what: str, error: Exception) -> InvalidInput:
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        return InvalidInput(f"{self._path}: its chat template {what}: {reason}", file=self._path, key=TEMPLATE_KEY)


class Formatter(Jinja2ChatFormatter):
    """What llama_cpp makes of a template, with bounds, and nothing of it compiled before it is used."""

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: list[int] | None = None,
        *,
        path: Path,
    ) -> None:
        """As ``Jinja2ChatFormatter``; calling it raises InvalidInput where the template of the file ``path`` fails."""
        self.template = template
        self.eos_token, self.bos_token = eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else set(stop_token_ids)
        self._environment = _Template(template, path)

    def __call__(self, *, messages: Iterable[Any], **values: Any) -> Any:
        """As ``Jinja2ChatFormatter``, with thoughts as the template reads them; InvalidInput for what is no message."""
        try:
            turns = [dict(message) for message in messages]
        except (TypeError, ValueError) as e:
            raise InvalidInput.of("messages", f"{messages!r:.80}", "a list of objects with role and content") from e
        return super().__call__(messages=[as_read(turn, self.template) for turn in turns], **values)

    def names(self) -> set[str]:
        """What the template reads that is not its own; InvalidInput where it does not parse."""
        return self._environment.names()

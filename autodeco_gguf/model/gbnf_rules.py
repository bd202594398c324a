"""The rules of llama.cpp's grammars (GBNF), read as it reads them, and what is refused of them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from autodeco_gguf.errors import InvalidInput

MAX_BYTES = 1 << 18
"""The longest grammar, and the longest JSON schema."""

_MAX_DEPTH = 100
"""Parentheses in each other, which are written by recursion."""

_MAX_REPEATS = 2000
"""llama.cpp's MAX_REPETITION_THRESHOLD."""

_MAX_TIMES = 16
"""Repetitions of a repetition, which llguidance reads by recursion."""

ESCAPE = r"""\\(?:[tnr\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"""
_BLANK = r"(?:[ \t\r\n]|\#[^\r\n\0]*[\r\n])*"
_TOKEN = re.compile(
    rf"""(?P<space>(?:[ \t]|\#[^\r\n\0]*)+)|(?P<line>[\r\n]+)
    |(?P<text>"(?:[^"\\\0]|{ESCAPE})*"|\[(?:[^\]\\\0]|{ESCAPE})*\]|\.|!?<(?:\[\d+\]|(?!\[)[^>\0]*)>)
    |(?P<rule>[\w-]+[ \t]*::=)|(?P<name>[\w-]+)|(?P<is>::=)|(?P<mark>[|()])
    |(?P<times>[*+?]|\{{{_BLANK}\d+{_BLANK}(?:,{_BLANK}(?:\d+{_BLANK})?)?\}})""",
    re.VERBOSE | re.ASCII,
)


@dataclass(eq=False)
class Item:
    """A text, a token, a name or a group, and how often it may stand there: from each of these, to the other."""

    text: str = ""
    where: str = ""
    name: str | None = None
    group: list[list[Item]] | None = None
    times: list[tuple[int, int | None]] = field(default_factory=list)


Rules = dict[str, list[list[Item]]]
"""The alternatives of each rule, by name."""


def refuse(reason: str) -> InvalidInput:
    """What is raised of a grammar."""
    return InvalidInput(f"the grammar does not parse: {reason}", key="grammar")


def _tokens(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, text and place of each token."""
    at, line, begin = 0, 1, 0
    while at < len(text):
        where = f"line {line}, column {at - begin + 1}"
        found = _TOKEN.match(text, at)
        if found is None:
            raise refuse(f"{where}: unexpected {text[at : at + 20]!r}")
        if found.lastgroup != "space":
            yield found.lastgroup or "", found[0], where
        line += found[0].count("\n")
        begin = at + found[0].rfind("\n") + 1 if "\n" in found[0] else begin
        at = found.end()


def _times(text: str, where: str) -> tuple[int, int | None]:
    if text in "*+?":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    low, comma, high = re.sub(r"#[^\r\n]*", "", text[1:-1]).partition(",")
    bounds = [number.strip().lstrip("0") or "0" for number in (low, high if high.strip() else low)]
    if any(len(bound) > len(str(_MAX_REPEATS)) or int(bound) > _MAX_REPEATS for bound in bounds):
        raise refuse(f"{where}: {text[:40]} is more than {_MAX_REPEATS} times")
    least, most = map(int, bounds)
    if least > most:
        raise refuse(f"{where}: {text} is a reversed range")
    return least, None if comma and not high.strip() else most


def _read(text: str) -> Rules:
    rules: Rules = {}
    opened: list[list[list[Item]]] = []  # the rule's alternatives, then those of each group; none between two rules
    last: Item | None = None  # what a repetition would repeat
    before = ""
    for kind, value, where in _tokens(text):
        if kind == "line":
            if len(opened) == 1 and not before.endswith(("::=", "|")):
                opened = []
            continue
        if kind in ("rule", "name") and "_" in value:
            raise refuse(f"{where}: {value!r:.40}, expected letters, digits and - in a rule's name")
        if kind == "rule":
            if len(opened) > 1:
                raise refuse(f"{where}: a ( is not closed")
            if opened:
                raise refuse(f"{where}: {value!r:.40} within a rule, expected on a new line, not after | or ::=")
            opened, last = [[[]]], None
            rules[value[:-3].rstrip()] = opened[0]
        elif not opened or kind == "is":
            reason = "expected a rule: name ::= ...; a line goes on within ( ), or after | or ::="
            raise refuse(f"{where}: {value!r:.40}, {reason}")
        elif kind in ("text", "name"):
            last = Item(name=value) if kind == "name" else Item(value, where)
            if value in ('""', "[]", "[^]"):
                last = None
            else:
                opened[-1][-1].append(last)
        elif kind == "times":
            if last is None:
                raise refuse(f"{where}: nothing stands before {value!r}")
            if len(opened) == 1 and re.search(r"[\r\n]", value):
                raise refuse(f"{where}: {value!r:.40} in several lines, expected within ( )")
            if len(last.times) == _MAX_TIMES:
                raise refuse(f"{where}: more than {_MAX_TIMES} repetitions of each other")
            last.times.append(_times(value, where))
            if last.times[-1] == (0, 0):
                opened[-1][-1].pop()
                last = None
        elif value == "(":
            if len(opened) > _MAX_DEPTH:
                raise refuse(f"{where}: more than {_MAX_DEPTH} parentheses in each other")
            group: list[list[Item]] = [[]]
            opened[-1][-1].append(Item(group=group))
            opened.append(group)
            last = None
        elif value == ")":
            if len(opened) == 1:
                raise refuse(f"{where}: a ) without its (")
            opened.pop()
            last = opened[-1][-1][-1]
        else:
            opened[-1].append([])
            last = None
        before = value
    if len(opened) > 1:
        raise refuse("at the end: a ( is not closed")
    return rules


class _Empty:
    """Whether each rule may be empty; none begins with itself, as llama.cpp has it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._empty: dict[str, bool | None] = {}  # None: being looked at
        self.may_be_empty = functools.cache(self._may_be_empty)  # groups in groups would be looked at once a depth

    def check(self) -> None:
        for name, alternatives in self._rules.items():
            self._rule(name)
            self._check(alternatives)

    def _may_be_empty(self, item: Item) -> bool:
        empty = self._any(item.group or []) if item.name is None else self._rule(item.name)
        return empty or any(least == 0 for least, _ in item.times)

    def _check(self, alternatives: list[list[Item]]) -> None:
        """See to all that stands in a rule or a group, not only to what it begins with."""
        for item in itertools.chain.from_iterable(alternatives):
            self.may_be_empty(item)
            self._check(item.group or [])

    def _rule(self, name: str) -> bool:
        if name not in self._rules:
            raise refuse(f"rule {name!r} is not defined")
        if name not in self._empty:
            self._empty[name] = None
            self._empty[name] = self._any(self._rules[name])
        empty = self._empty[name]
        if empty is None:
            raise refuse(f"rule {name!r} begins with itself (left recursion)")
        return empty

    def _any(self, alternatives: list[list[Item]]) -> bool:
        found = [all(map(self.may_be_empty, items)) for items in alternatives]  # of each, that all are looked at
        return any(found)


class _Begins(NamedTuple):
    """What may come at a place."""

    characters: bool = False
    token: Item | None = None  # a !<token>

    def or_(self, other: _Begins) -> _Begins:
        """What is in any of both.

        Raises:
            InvalidInput: a !<token> and characters: llguidance takes each token for the former then, and the answer
                might never find its end.
        """
        both = _Begins(self.characters or other.characters, self.token or other.token)
        if both.characters and both.token:
            where, text = both.token.where, both.token.text
            raise refuse(f"{where}: {text!r:.40} where characters may stand too, expected one or the other")
        return both


class _Places:
    """What may come at each place of the rules: !<token>s, or characters."""

    def __init__(self, rules: Rules, known: _Empty) -> None:
        self._rules = rules
        self._may_be_empty = known.may_be_empty
        self._known: dict[str | int, _Begins] = {}  # by name, or by id of a group
        self._after: dict[str, _Begins] = {}  # what may come after a rule
        self._left: list[str] = []  # of these rules

    def check(self) -> None:
        for alternatives in self._rules.values():
            self._check(alternatives, _Begins())
        for name in self._left:  # which grows meanwhile
            self._check(self._rules[name], self._after[name])

    def _check(self, alternatives: list[list[Item]], after: _Begins) -> None:
        together = _Begins()
        for items in alternatives:
            at = after
            for item in reversed(items):
                first = self._first(item)
                again = any(most is None or most > 1 for _, most in item.times)
                self._item(item, at.or_(first) if again else at)
                at = first.or_(at) if self._may_be_empty(item) else first
            together = together.or_(at)

    def _item(self, item: Item, after: _Begins) -> None:
        if item.group is not None:
            self._check(item.group, after)
        elif item.name is not None:
            before = self._after.get(item.name, _Begins())
            if before.or_(after) != before:
                self._after[item.name] = before.or_(after)
                self._left.append(item.name)

    def _first(self, item: Item) -> _Begins:
        if item.name is None and item.group is None:
            return _Begins(item.text[0] not in "!<", item if item.text[0] == "!" else None)
        key = item.name or id(item)
        if key not in self._known:
            self._known[key] = self._any(item.group or self._rules[item.name or ""])
        return self._known[key]

    def _any(self, alternatives: list[list[Item]]) -> _Begins:
        begins = _Begins()
        for items in alternatives:
            for item in items:
                begins = begins.or_(self._first(item))
                if not self._may_be_empty(item):
                    break
        return begins


def read_rules(text: str) -> Rules:
    """The rules of a grammar, of up to 256 KiB.

    Raises:
        InvalidInput: what llama.cpp refuses or crashes of; a repetition of more than 2,000 times, or 17 of each other;
            characters where a !<token> may stand too.
        RecursionError: they lie too deep in each other.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInput.of("grammar", f"of {len(text)} characters", f"at most {MAX_BYTES}")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidInput(f"the grammar is not UTF-8: {e.reason} at character {e.start}", key="grammar") from e
    rules = _read(text)
    if "root" not in rules:
        raise refuse("it has no rule 'root'")
    known = _Empty(rules)
    known.check()
    _Places(rules, known).check()
    return rules

"""What is refused of a GBNF grammar before llama.cpp reads it, which crashes, hangs or says nothing for these."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from autodeco_gguf.errors import InvalidInput

MAX_BYTES = 1 << 18
"""The longest grammar, and the longest JSON schema."""

_MAX_DEPTH = 100
"""Parentheses in each other: llama.cpp reads them by recursion."""

_MAX_REPEATS = 2000
"""llama.cpp's MAX_REPETITION_THRESHOLD."""

_MAX_SIZE = 1 << 20
"""Characters after repetitions are written out, as llama.cpp does."""

_MAX_WAYS = 4096
"""Ways to begin a rule: llama.cpp keeps a stack for each, and compares it with all others."""

_MAX_EMPTY = 100
"""Items in a row that may be empty: of these the time grows with the fourth power."""

_ESCAPE = r"""\\(?:[tnr\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"""
_SURROGATE = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u|U0000)[dD][89a-fA-F]")
_BLANK = r"(?:[ \t\r\n]|\#[^\r\n\0]*[\r\n])*"
_TOKEN = re.compile(
    rf"""(?P<space>(?:[ \t]|\#[^\r\n\0]*)+)|(?P<line>[\r\n]+)
    |(?P<text>"(?:[^"\\\0]|{_ESCAPE})*"|\[(?:[^\]\\\0]|{_ESCAPE})*\]|\.|!?<(?:\[\d+\]|(?!\[)[^>\0]*)>)
    |(?P<rule>[\w-]+[ \t]*::=)|(?P<name>[\w-]+)|(?P<is>::=)|(?P<mark>[|()])
    |(?P<times>[*+?]|\{{{_BLANK}\d+{_BLANK}(?:,{_BLANK}(?:\d+{_BLANK})?)?\}})""",
    re.VERBOSE | re.ASCII,
)


@dataclass
class _Item:
    """A text, a token, a name or a group, and how often it may stand there: from each of these, to the other."""

    size: int = 1
    text: str = ""
    where: str = ""
    name: str | None = None
    group: list[list[_Item]] | None = None
    times: list[tuple[int, int | None]] = field(default_factory=list)


Ways = tuple[int, int]
"""Ways to the first character, and ways to be empty."""


def _refuse(reason: str) -> InvalidInput:
    return InvalidInput(f"the grammar does not parse: {reason}", key="grammar")


def _tokens(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, text and place of each token."""
    at, line, begin = 0, 1, 0
    while at < len(text):
        where = f"line {line}, column {at - begin + 1}"
        found = _TOKEN.match(text, at)
        if found is None:
            raise _refuse(f"{where}: unexpected {text[at : at + 20]!r}")
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
        raise _refuse(f"{where}: {text[:40]} is more than {_MAX_REPEATS} times")
    least, most = map(int, bounds)
    if least > most:
        raise _refuse(f"{where}: {text} is a reversed range")
    return least, None if comma and not high.strip() else most


def _read(text: str) -> dict[str, list[list[_Item]]]:
    """The alternatives of each rule."""
    rules: dict[str, list[list[_Item]]] = {}
    opened: list[list[list[_Item]]] = []  # the rule's alternatives, then those of each group; none between two rules
    last: _Item | None = None  # what a repetition would repeat
    before, size = "", 0
    for kind, value, where in _tokens(text):
        if kind == "line":
            if len(opened) == 1 and not before.endswith(("::=", "|")):
                opened = []
            continue
        if kind in ("rule", "name") and "_" in value:
            raise _refuse(f"{where}: {value!r:.40}, expected letters, digits and - in a rule's name")
        if kind == "rule":
            if len(opened) > 1:
                raise _refuse(f"{where}: a ( is not closed")
            if opened:
                raise _refuse(f"{where}: {value!r:.40} within a rule, expected on a new line, not after | or ::=")
            opened, last = [[[]]], None
            rules[value[:-3].rstrip()] = opened[0]
        elif not opened or kind == "is":
            reason = "expected a rule: name ::= ...; a line goes on within ( ), or after | or ::="
            raise _refuse(f"{where}: {value!r:.40}, {reason}")
        elif kind == "text" and value[0] == '"' and _SURROGATE.search(value):
            raise _refuse(f"{where}: {value!r:.40} has half of a surrogate pair, which no text has")
        elif kind in ("text", "name"):
            last = _Item(name=value) if kind == "name" else _Item(max(len(value) - 2, 1), value, where)
            if value in ('""', "[]", "[^]"):
                last = None
            else:
                opened[-1][-1].append(last)
                size += last.size
        elif kind == "times":
            if last is None:
                raise _refuse(f"{where}: nothing stands before {value!r}")
            if len(opened) == 1 and re.search(r"[\r\n]", value):
                raise _refuse(f"{where}: {value!r:.40} in several lines, expected within ( )")
            size += _repeat(last, *_times(value, where))
            if size > _MAX_SIZE:
                raise _refuse(f"{where}: more than {_MAX_SIZE} characters with its repetitions written out")
            last = last if last.times[-1] != (0, 0) else None
        elif value == "(":
            if len(opened) > _MAX_DEPTH:
                raise _refuse(f"{where}: more than {_MAX_DEPTH} parentheses in each other")
            group: list[list[_Item]] = [[]]
            opened[-1][-1].append(_Item(group=group))
            opened.append(group)
            last = None
        elif value == ")":
            if len(opened) == 1:
                raise _refuse(f"{where}: a ) without its (")
            opened.pop()
            last = opened[-1][-1][-1]
        else:
            opened[-1].append([])
            last = None
        before = value
    if len(opened) > 1:
        raise _refuse("at the end: a ( is not closed")
    return rules


def _repeat(item: _Item, least: int, most: int | None) -> int:
    """By how much it is larger thereafter."""
    before = item.size
    item.times.append((least, most))
    item.size *= max(least, most or 0, 1)
    return item.size - before


class _Rules:
    """The ways to begin each rule, none of which may lead back to the rule."""

    def __init__(self, rules: dict[str, list[list[_Item]]]) -> None:
        self._rules = rules
        self._known: dict[str, Ways | None] = {}  # None: being looked at

    def check(self) -> None:
        for name in self._rules:
            self._rule(name)
        for alternatives in self._rules.values():
            self._check(alternatives)

    def may_be_empty(self, item: _Item) -> bool:
        return self._item(item)[1] > 0

    def _check(self, alternatives: list[list[_Item]]) -> None:
        """See to all that stands in a rule or a group, not only to what it begins with."""
        for item in itertools.chain.from_iterable(alternatives):
            self._item(item)
            if item.group is not None:
                self._check(item.group)

    def _rule(self, name: str) -> Ways:
        if name not in self._known:
            self._known[name] = None
            self._known[name] = self._any(self._rules[name])
        ways = self._known[name]
        if ways is None:
            raise _refuse(f"rule {name!r} begins with itself (left recursion)")
        return ways

    def _any(self, alternatives: list[list[_Item]]) -> Ways:
        ways, empty = map(sum, zip(*map(self._all, alternatives), strict=True))
        if max(ways, empty) > _MAX_WAYS:
            raise _refuse(f"more than {_MAX_WAYS} ways to begin: too many alternatives, or ranges in each other")
        return ways, empty

    def _all(self, items: list[_Item]) -> Ways:
        ways, empty = 0, 1
        for item in items:
            if empty:
                first, nothing = self._item(item)
                ways, empty = ways + empty * first, empty * nothing
        return ways, empty

    def _item(self, item: _Item) -> Ways:
        if item.name is not None:
            ways, empty = self._rule(item.name)
        else:
            ways, empty = (1, 0) if item.group is None else self._any(item.group)
        for least, most in item.times:
            if empty > 1:  # so many ways to be empty that a few times are enough to see it
                least, most = min(least, 12), min(least + 1 if most is None else most, 12)
            powers = [empty**i for i in range((least + 1 if most is None else most) + 1)]
            ways, empty = ways * sum(powers[:-1]), sum(powers[least:])
        return ways, empty


class _Borders:
    """What comes right after characters: no !<token>, as which llama.cpp lets a token's rest pass, and then fails."""

    def __init__(self, rules: dict[str, list[list[_Item]]], ways: _Rules) -> None:
        self._rules = rules
        self._ways = ways
        self._known: dict[str | int, _Item | None] = {}  # by name, or by id of a group
        self._empty: dict[int, bool] = {}
        self._followed: dict[str, _Item] = {}  # by rule, the !<token> that may come after it
        self._left: list[str] = []  # of these rules

    def check(self) -> None:
        for alternatives in self._rules.values():
            self._check(alternatives, None)
        for name in self._left:  # which grows meanwhile
            self._check(self._rules[name], self._followed[name])

    def _check(self, alternatives: list[list[_Item]], after: _Item | None) -> None:
        for items in alternatives:
            following = after
            for item in reversed(items):
                first = self._first(item)
                again = any(most is None or most > 1 for _, most in item.times)
                self._item(item, (first if again else None) or following)
                following = first or (following if self._may_be_empty(item) else None)

    def _item(self, item: _Item, after: _Item | None) -> None:
        if item.group is not None:
            self._check(item.group, after)
        elif after is None or item.text.startswith(("!", "<")):
            return
        elif item.name is None:
            reason = "right after characters, expected at the beginning or after a <token>"
            raise _refuse(f"{after.where}: {after.text!r:.40} {reason}")
        elif item.name not in self._followed:
            self._followed[item.name] = after
            self._left.append(item.name)

    def _first(self, item: _Item) -> _Item | None:
        """A !<token> that an item may begin with."""
        if item.name is None and item.group is None:
            return item if item.text.startswith("!") else None
        key = item.name or id(item)
        if key not in self._known:
            self._known[key] = self._any(item.group or self._rules[item.name or ""])
        return self._known[key]

    def _may_be_empty(self, item: _Item) -> bool:
        if id(item) not in self._empty:
            self._empty[id(item)] = self._ways.may_be_empty(item)
        return self._empty[id(item)]

    def _any(self, alternatives: list[list[_Item]]) -> _Item | None:
        for items in alternatives:
            for item in items:
                if first := self._first(item):
                    return first
                if not self._may_be_empty(item):
                    break
        return None


class _Row(NamedTuple):
    """Items that may be empty and follow each other: at its beginning, at its end, the most; and whether all are.

    Each is compared with those after it, so that of alternatives the squares add up.
    """

    first: float = 0
    last: float = 0
    most: float = 0
    empty: bool = False

    def then(self, other: _Row) -> _Row:
        return _Row(
            self.first + other.first * self.empty,
            other.last + self.last * other.empty,
            max(self.most, other.most, self.last + other.first),
            self.empty and other.empty,
        )

    def repeated(self, least: int, most: int | None) -> _Row:
        n = least + 1 if most is None else most
        if n == 0:
            return _NOTHING
        if self.empty:
            return _Row(self.first * n, self.last * n, max(self.most, self.last * n), True)
        row = self.then(self) if n > 1 else self
        return row if least > 0 else _Row(row.first + 1, row.last + 1, max(row.most, row.first + 1), True)


_NOTHING = _Row(empty=True)


class _Rows:
    """The items in a row that may be empty, of each rule."""

    def __init__(self, rules: dict[str, list[list[_Item]]]) -> None:
        """Raise InvalidInput for a name that no rule has."""
        self._rules = rules
        self._known: dict[str, _Row] = {}
        for name in rules:
            self._rule(name)

    def check(self) -> None:
        for row in self._known.values():
            if row.most > _MAX_EMPTY:
                raise _refuse(f"more than {_MAX_EMPTY} items in a row that may be empty")

    def _rule(self, name: str) -> _Row:
        if name not in self._rules:
            raise _refuse(f"rule {name!r} is not defined")
        if name not in self._known:
            self._known[name] = _Row()  # within itself: how deep shows only when it is used
            self._known[name] = self._any(self._rules[name])
        return self._known[name]

    def _any(self, alternatives: list[list[_Item]]) -> _Row:
        rows = [self._all(items) for items in alternatives]
        first, last = math.hypot(*(row.first for row in rows)), math.hypot(*(row.last for row in rows))
        return _Row(first, last, max(first, last, *(row.most for row in rows)), any(row.empty for row in rows))

    def _all(self, items: list[_Item]) -> _Row:
        return functools.reduce(_Row.then, map(self._item, items), _NOTHING)

    def _item(self, item: _Item) -> _Row:
        if item.name is not None:
            row = self._rule(item.name)
        else:
            row = _Row() if item.group is None else self._any(item.group)
        for least, most in item.times:
            row = row.repeated(least, most)
        return row


@functools.lru_cache(maxsize=64)
def check_gbnf(text: str) -> None:
    """Raise InvalidInput, with the reason, for a grammar that llama.cpp refuses, or should."""
    if len(text) > MAX_BYTES:
        raise InvalidInput.of("grammar", f"of {len(text)} characters", f"at most {MAX_BYTES}")
    rules = _read(text)
    if "root" not in rules:
        raise _refuse("it has no rule 'root'")
    try:
        rows = _Rows(rules)
        ways = _Rules(rules)
        ways.check()
        rows.check()
        _Borders(rules, ways).check()
    except RecursionError:
        raise _refuse("its rules lie too deep in each other") from None

"""llama.cpp's grammars (GBNF), written for llguidance, whose parser has bounds where llama.cpp's own hangs."""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.gbnf_rules import ESCAPE, Item, Rules, read_rules, refuse

_NUL = r"\x{0}"
"""No token that begins with it is one to llama.cpp."""

_PIECE = re.compile(rf"{ESCAPE}|[^\\]", re.DOTALL)


_MOST_ITEMS = 100_000
"""Of rules that end with each other, as they are written: more stay as they are."""

Way = tuple[list[Item], str | None]
"""An alternative: what comes before the rule that ends it, if one does, and that."""


def _ways(items: list[Item], before: list[Item]) -> Iterator[Way]:
    """The alternatives that one is by what it ends with."""
    if not items or items[-1].times not in ([], [(0, 1)]) or not (items[-1].name or items[-1].group):
        yield [*before, *items], None
        return
    before, last = [*before, *items[:-1]], items[-1]
    if last.times:
        yield before, None
    if last.name is not None:
        yield before, last.name
    for alternative in last.group or ():
        yield from _ways(alternative, before)


def _whole(before: list[Item], to: str | None) -> list[Item]:
    """The items of a way."""
    return [*before, Item(name=to)] if to else before


def _looped(name: str, alternatives: list[list[Item]]) -> list[list[Item]]:
    """Alternatives of a rule that may end with itself, with a repetition in place of that."""
    if name not in _ends(alternatives):
        return alternatives
    ways = _all_ways({name: alternatives}).get(name, [])
    again = [before for before, to in ways if to == name]
    last = [_whole(before, to) for before, to in ways if to != name]
    if not again or not last:  # where nothing else ends it, it goes on without end
        return alternatives
    return [[Item(group=again, times=[(0, None)]), Item(group=last)]]


def _names_in(alternatives: list[list[Item]]) -> set[str]:
    """The rules that are named in alternatives, and each <token>."""
    found, groups = set(), [alternatives]
    for group in groups:  # which grows meanwhile
        for item in itertools.chain.from_iterable(group):
            if item.text.startswith(("!", "<")):
                found.add(item.text)
            elif item.name is not None:
                found.add(item.name)
            elif item.group:
                groups.append(item.group)
    return found


def _all_ways(rules: Rules) -> dict[str, list[Way]]:
    """Those of all rules, or nothing where these are too many."""
    found: dict[str, list[Way]] = {name: [] for name in rules}
    left = _MOST_ITEMS
    for name, alternatives in rules.items():
        for way in itertools.chain.from_iterable(_ways(items, []) for items in alternatives):
            left -= 1 + len(way[0])
            if left < 0:
                return {}
            found[name].append(way)
    return found


def _n_ways(rules: Rules) -> int:
    """Alternatives, references to rules and groups, and repetitions."""
    n, groups = 0, [*rules.values()]
    for alternatives in groups:  # which grow meanwhile
        n += len(alternatives)
        for item in itertools.chain.from_iterable(alternatives):
            n += (not item.text) + len(item.times)
            groups += [item.group] if item.group else []
    return n


def _ends(alternatives: list[list[Item]]) -> set[str]:
    """The rules that alternatives end with."""
    found, groups = set(), [alternatives]
    for items in itertools.chain.from_iterable(groups):  # which grow meanwhile
        if items and items[-1].times in ([], [(0, 1)]):
            if items[-1].name is not None:
                found.add(items[-1].name)
            elif items[-1].group:
                groups.append(items[-1].group)
    return found


def _in_cycles(edges: Mapping[str, Collection[str]]) -> set[str]:
    """The names from which edges lead back to them, and those between two such."""
    kept = set(edges)
    for _ in range(2):  # with what leads to a name taken for what it leads to, the second time
        back: dict[str, list[str]] = {name: [] for name in edges}
        for name in kept:
            for to in edges[name]:
                back[to].append(name)
        n = {name: sum(to in kept for to in edges[name]) for name in kept}
        left = [name for name in kept if not n[name]]
        for name in left:  # which grows meanwhile
            kept.discard(name)
            for other in back[name]:
                n[other] -= 1
                if not n[other]:
                    left.append(other)
        edges = back
    return kept


class _Writer:
    """Lark, as llguidance reads it.

    What no rule leads back to is one regular expression, whatever the number of ways to read a text. Else it is written
    by single characters, since of several expressions its lexer would take the longest text that fits. Where rules
    end with each other or themselves, as ``a ::= "x" a | ""``, its parser keeps all that are not at their end, and the
    more the longer the text is: they become repetitions, or begin with each other instead.
    """

    def __init__(self, token: Callable[[str], int], ends: Sequence[int]) -> None:
        self._token = token
        self._ends = "".join(f",{end}" for end in ends)
        self._lines = ['%llguidance {"no_forcing": true}']  # the model says how a text is cut into tokens
        self._characters: dict[str, str] = {}  # regular expression -> name
        self._left = _MOST_ITEMS
        self._kind = str.lower  # rules; in capitals they are parts of a regular expression

    @property
    def is_expression(self) -> bool:
        """Whether what was written is one, in which no rules lead back to each other."""
        return self._kind is str.upper

    def write(self, rules: Rules) -> str:
        rules = {name: _looped(name, alternatives) for name, alternatives in rules.items()}
        named = {name: _names_in(alternatives) for name, alternatives in rules.items()}
        used = {"root": named["root"]}
        left = ["root"]
        for name in left:  # which grows meanwhile
            more = sorted(named[name] & rules.keys() - used.keys())
            used |= {to: named[to] for to in more}
            left += more
        rules = {name: rules[name] for name in used}
        if all(names <= rules.keys() for names in used.values()) and not _in_cycles(used):
            self._kind = str.upper
        self._names = {name: self._kind(f"r{i}") for i, name in enumerate(rules)}
        self._lines.append(f"start: {self._names['root']}")
        cycles = _in_cycles({name: _ends(alternatives) for name, alternatives in rules.items()})
        ways = _all_ways({name: rules[name] for name in cycles})
        for name, alternatives in rules.items():
            if name not in ways or not self._from_the_left(name, ways):
                self._rule(self._names[name], alternatives)
        return "\n".join([*self._lines, *(f"{name}: /{regex}/" for regex, name in self._characters.items()), ""])

    def _rule(self, name: str, alternatives: list[list[Item]]) -> str:
        self._lines.append("")
        at = len(self._lines) - 1  # before the groups in it
        self._lines[at] = f"{name}: " + " | ".join(" ".join(map(self._item, items)) or '""' for items in alternatives)
        return name

    def _from_the_left(self, entry: str, ways: Mapping[str, list[Way]]) -> bool:
        """Write a rule by what leads from its beginning to that of each other one; whether that can be done."""
        into: dict[str, list[tuple[str, list[Item]]]] = {entry: []}
        last: list[tuple[str, list[Item]]] = []
        found = [entry]
        for at in found:  # which grows meanwhile
            for before, to in ways[at]:
                if to is None or to not in ways:
                    last.append((at, _whole(before, to)))
                    continue
                if to not in into:
                    found.append(to)
                into.setdefault(to, []).append((at, before))
        self._left -= sum(1 + len(items) for way in (last, *into.values()) for _, items in way)
        if not last or self._left < 0:  # without an end, or too many
            return False
        name = self._names[entry]

        def written(at: str, items: list[Item]) -> str:
            return " ".join([f"{name}_{self._names[at]}", *map(self._item, items)])

        self._lines.append(f"{name}: " + " | ".join(written(*way) for way in last))
        for at in found:
            begun = ['""'] if at == entry else []
            self._lines.append(
                f"{name}_{self._names[at]}: " + " | ".join([*begun, *(written(*way) for way in into[at])])
            )
        return True

    def _item(self, item: Item) -> str:
        if item.name is not None:
            written = self._names[item.name]
        elif item.group is not None:
            written = self._rule(self._kind(f"g{len(self._lines)}"), item.group)
        else:
            written = self._text(item)
        for least, most in item.times:
            written = f"({written}){{{least},{'' if most is None else most}}}"
        return written

    def _text(self, item: Item) -> str:
        text = item.text
        if text[0] == "!":  # no end of a text is one of the others
            return f"<[^{self._token(text[1:])}{self._ends}]>"
        if text[0] == "<":
            return f"<[{self._token(text)}]>"
        if text == ".":
            return self._character(f"[^{_NUL}]")
        if text[0] == "[":
            return self._character(_class(text, item.where))
        codes = list(map(_code, _PIECE.findall(text[1:-1])))
        if any(0xD800 <= code <= 0xDFFF or code > sys.maxunicode for code in codes):
            raise refuse(f"{item.where}: {text!r:.40} has what is no character, as half of a surrogate pair")
        return "(" + " ".join(self._character(rf"\x{{{code:x}}}") for code in codes) + ")"

    def _character(self, regex: str) -> str:
        return self._characters.setdefault(regex, f"C{len(self._characters)}")


def _code(piece: str) -> int:
    """The character that a piece of a text or a class stands for."""
    if piece[0] != "\\":
        return ord(piece)
    if piece[1] in "xuU":
        return int(piece[2:], 16)
    return ord({"t": "\t", "r": "\r", "n": "\n"}.get(piece[1], piece[1]))


def _class(text: str, where: str) -> str:
    """A regular expression of a class of characters."""
    inside = "^" * text.startswith("[^")
    pieces, ranges, at = _PIECE.findall(text[1 + len(inside) : -1]), "", 0
    while at < len(pieces):
        n = 3 if pieces[at + 1 : at + 2] == ["-"] and at + 2 < len(pieces) else 1
        low, high = _code(pieces[at]), _code(pieces[at + n - 1])
        if low > high or high > sys.maxunicode:
            raise refuse(f"{where}: {''.join(pieces[at : at + n])} is no range of characters")
        for first, last in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):  # without halves of surrogate pairs
            ranges += rf"\x{{{first:x}}}-\x{{{last:x}}}" if first <= last else ""
        at += n
    if not inside and not ranges:
        raise refuse(f"{where}: {text!r:.40} has no character")
    return f"[{inside}{_NUL if inside else ''}{ranges}]"


def to_lark(text: str, token: Callable[[str], int], ends: Sequence[int]) -> str:
    """A grammar as llguidance reads it, which has bounds of its own.

    Args:
        text: in GBNF, up to 256 KiB.
        token: the id of a <token>, as it stands there; may raise InvalidInput.
        ends: of the tokens that end a text: no !<token> is one of these.

    Raises:
        InvalidInput: what llama.cpp refuses or crashes of; a repetition of more than 2,000 times, or 17 of each other;
            characters where a !<token> may stand too.
    """
    return _written(text, _Writer(token, ends))[0]


def _written(text: str, writer: _Writer) -> tuple[str, Rules]:
    try:
        rules = read_rules(text)
        return writer.write(rules), rules
    except RecursionError:
        raise refuse("its rules lie too deep in each other") from None


@functools.lru_cache(maxsize=64)
def check_gbnf(text: str, most: int | None = None) -> None:
    """Raise InvalidInput, with the reason, for a text that no model takes as a grammar; see :func:`to_lark`.

    ``most``: so many alternatives, repetitions, and references to rules and groups, may be in rules of which some lead
    back to each other. What llguidance has to do at a token grows with the third power of it.
    """
    writer = _Writer(lambda name: 0, ())
    _, rules = _written(text, writer)
    if most is not None and not writer.is_expression and (n := _n_ways(rules)) > most:
        found = f"the grammar's rules lead back to each other and have {n} alternatives, references and repetitions"
        raise InvalidInput(f"{found}, at most {most}", key="grammar")

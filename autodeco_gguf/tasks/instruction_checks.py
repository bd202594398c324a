"""Responses to prompts with instructions that programs check: what the benchmarks of this kind have in common."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.jsonl import parse_line, type_name

_FORM = '[["ID", {"ARGUMENT": VALUE, ...}], ...]'


def encode(ids: Sequence[str], arguments: Sequence[Mapping[str, object]]) -> str:
    """The answer that ``check`` takes: ``[["ID", {"ARGUMENT": VALUE, ...}], ...]`` as JSON, null arguments left out."""
    pairs = zip(ids, arguments, strict=True)
    return json.dumps([[i, {k: v for k, v in a.items() if v is not None}] for i, a in pairs], ensure_ascii=False)


@dataclass(frozen=True)
class Kind:
    """What an argument has to be: whether a value is that, and what to say of one that is not."""

    valid: Callable[[object], bool]
    description: str


def is_count(value: object) -> bool:
    """Whether it is a whole number >= 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: object) -> bool:
    """Whether it is a string that is not blank."""
    return isinstance(value, str) and bool(value.strip())


COUNT = Kind(is_count, "a whole number >= 0")
POSITION = Kind(lambda value: is_count(value) and value != 0, "a whole number >= 1")
TEXT = Kind(is_text, "a string that is not blank")


@dataclass(frozen=True)
class Instructions:
    """The instructions of a benchmark.

    Attributes:
        checks: by id, (text of a response, arguments by their published names) -> followed?; the parameters of the
            function are the arguments that an instruction must have.
        arguments: the kind of each; under "ID ARGUMENT" that of one instruction alone.
        packages: by id, what imports the package that a check needs; AutoDecoError where it is not installed.
    """

    checks: Mapping[str, Callable[..., bool]]
    arguments: Mapping[str, Kind]
    packages: Mapping[str, Callable[[], object]] = field(default_factory=dict)

    def check(self, text: str, answer: str) -> bool:
        """Whether a response that is not blank follows all instructions of ``answer``, the JSON that ``encode`` writes.

        Raises:
            InvalidInput: an ``answer`` of another form, an unknown instruction, an argument that is missing or wrong;
                whatever ``text`` is.
            AutoDecoError: a package that an instruction needs is not installed.
        """
        return all(self.followed([text], answer))

    def check_loose(self, text: str, answer: str) -> bool:
        """Whether, for every instruction, one of ``loosened(text)`` follows it; raises as ``check`` does."""
        return all(self.followed(loosened(text), answer))

    def followed(self, texts: Sequence[str], answer: str) -> list[bool]:
        """For each instruction of an answer, whether one of the texts follows it; raises as ``check`` does."""
        instructions = self.parse(answer)
        texts = [text for text in texts if text.strip()]
        return [any(self.checks[i](text, **arguments) for text in texts) for i, arguments in instructions]

    def parse(self, answer: str) -> list[tuple[str, dict[str, Any]]]:
        """The instructions of an answer with their arguments; raises as ``check`` does."""
        pairs = parse_line(answer.encode("utf-8", "surrogatepass"))
        if not isinstance(pairs, list) or not pairs:
            found = "empty" if pairs == [] else type_name(pairs)
            raise InvalidInput(f"instructions: {found}, expected {_FORM}", key="answer", found=pairs, expected=_FORM)
        for pair in pairs:
            if not (isinstance(pair, list) and [type(part) for part in pair] == [str, dict]):
                message = f"instructions: {json.dumps(pair)} in the list, expected {_FORM}"
                raise InvalidInput(message, key="answer", found=pair, expected=_FORM)
            pair[1] = {key: _whole(value) for key, value in pair[1].items()}
            self._validate(*pair)
        return pairs

    def _validate(self, name: str, arguments: Mapping[str, object]) -> None:
        if name not in self.checks:
            message = f"instruction {name!r}: unknown, expected one of {', '.join(self.checks)}"
            raise InvalidInput(message, key="instruction", found=name, expected=tuple(self.checks))
        expected = list(inspect.signature(self.checks[name]).parameters)[1:]
        if sorted(arguments) != sorted(expected):
            has, takes = (", ".join(keys) or "none" for keys in (arguments, expected))
            message = f"instruction {name}: has the arguments {has}, expected {takes}"
            raise InvalidInput(message, key=name, found=list(arguments), expected=expected)
        for key, value in arguments.items():
            kind = self.arguments.get(f"{name} {key}") or self.arguments[key]
            if not kind.valid(value):
                message = f"instruction {name}: {key} is {json.dumps(value)}, expected {kind.description}"
                raise InvalidInput(message, key=key, found=value, expected=kind.description)
        if name in self.packages:
            self.packages[name]()


def _whole(value: object) -> object:
    """5 for 5.0, as data sets have it that were tables of floats once."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def loosened(text: str) -> list[str]:
    """The eight texts of the published loose evaluations: with or without the first line, the last line, asterisks."""
    lines = text.split("\n")
    whole = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return whole + [part.replace("*", "") for part in whole]

"""Ways to decode, by the names that the command line takes, and how each of them samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.sampling import FILE_KEYS, FILE_PREFIX, WHOLE, Sampling, of_file

TEMPERATURES = tuple(round(0.1 * i, 1) for i in range(1, 21))
TOP_PS = tuple(round(0.1 * i, 1) for i in range(1, 11))
"""The grid of the searches."""

COARSE_PROBLEMS, FINALISTS = 8, 8
"""Of ``distinct``: the first problems of every task on which the grid is tried, and the pairs tried on all of them."""

Kind = Literal["predicted", "constant", "peer"]
"""T and P predicted by the heads, or constant; or another way, of llama.cpp."""


@dataclass(frozen=True, order=True)
class Config:
    """How answers are sampled, which several methods may share. Two are the same where their keys are.

    ``key`` stands in files, exact: "static:0.6,0.95". ``pair`` is T and P of a static pair. ``values`` are None where
    the model's metadata tells, or nothing. ``heads`` are those that are there; None: all.
    """

    key: str
    pair: tuple[float, float] | None = field(default=None, compare=False)
    values: Sampling | None = field(default=None, compare=False, repr=False)
    heads: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def static(cls, temperature: float, top_p: float) -> Config:
        """That of a static pair; at T = 0 the cut does nothing.

        Examples:
            >>> Config.static(0.60, 0.95)
            Config(key='static:0.6,0.95', pair=(0.6, 0.95))
            >>> Config.static(0.0, 0.5).deterministic
            True
        """
        top_p = 1.0 if temperature == 0 else top_p
        values = Sampling(temperature=temperature, top_p=top_p)
        return cls(f"static:{temperature:g},{top_p:g}", (temperature, top_p), values)

    def __str__(self) -> str:
        return self.key

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a problem are the same."""
        return self.pair is not None and self.pair[0] == 0

    def sampling(self, metadata: Mapping[str, str]) -> Sampling:
        """How it samples, without a seed; ``metadata`` is that of the model's GGUF.

        Raises:
            InvalidInput: a config of which nothing is known but its key.
            BadFile: metadata that is malformed or out of range.
        """
        if self.key == "model":
            return _of_model(metadata)
        if self.values is None:
            raise InvalidInput(f"config {self.key!r}: nothing that samples", key="config", found=self.key)
        return self.values


@dataclass(frozen=True)
class Method:
    """A row of the table, by the name that was asked for; ``config`` is None until a search has found it."""

    name: str
    kind: Kind
    config: Config | None

    @property
    def of_heads(self) -> str | None:
        """Which heads it is AutoDeco with, "" where there are no others; None for another method."""
        return heads_of(self.name)

    @property
    def found(self) -> Config:
        """How it samples. Raises InvalidInput where its search has not been made."""
        if self.config is None:
            raise InvalidInput(f"method {self.name}: has no config yet, expected what its search found", key=self.name)
        return self.config


# ---- names ----


def heads_of(name: str) -> str | None:
    """What :attr:`Method.of_heads` is by the name.

    Examples:
        >>> heads_of("autodeco"), heads_of("autodeco (by reward)"), heads_of("autodeco:top_p")
        ('', ' (by reward)', None)
    """
    base, space, rest = name.partition(" ")
    return space + rest if base == "autodeco" else None


class _Number(NamedTuple):
    """A parameter after the colon: how the help calls it, default, largest value, and whether it may be 0."""

    name: str
    default: float
    most: float
    zero: bool = False


class _Numbered(NamedTuple):
    """A method with parameters, and how it samples with these."""

    numbers: tuple[_Number, ...]
    sampling: Callable[..., Sampling]


_LLAMA_CPP = Sampling(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05, order="llama.cpp")
"""common_params_sampling of llama.cpp; penalties, typical, XTC and DRY are off."""

_TOP_P_ALONE = Config("autodeco:top_p-alone", values=Sampling(temperature=1.0), heads=("top_p",))
"""Its key is not its name, which samples of earlier versions have that were drawn as autodeco:fixed-t is."""

_DIRECT: dict[str, tuple[Kind, Config]] = {
    "autodeco": ("predicted", Config("autodeco", values=Sampling())),
    "autodeco:temperature": ("predicted", Config("autodeco:temperature", values=Sampling(top_p=1.0))),
    "autodeco:top_p": ("predicted", _TOP_P_ALONE),
    "autodeco:fixed-t": ("predicted", Config("autodeco:top_p", values=Sampling(temperature=1.0))),
    "greedy": ("constant", Config.static(0.0, 1.0)),
    "default": ("constant", Config.static(1.0, 1.0)),
    "llama.cpp": ("peer", Config("llama.cpp", values=_LLAMA_CPP)),
    "model": ("peer", Config("model")),
}
AUTODECO = _DIRECT["autodeco"][1]
"""What the other configs are compared with."""

SEARCHED: dict[str, Kind] = {"oracle": "constant", "distinct": "constant", "mean-shift": "constant", "shuffle": "peer"}
"""Methods that follow from the samples of others."""

_PLAIN = Sampling(temperature=1.0, top_p=1.0)
_WARM = Sampling(temperature=0.8, top_p=1.0, order="llama.cpp")
_NUMBERED = {
    "dynatemp": _Numbered((_Number("RANGE", 0.5, 10.0),), lambda x: replace(_WARM, dynatemp_range=x)),
    "entropy": _Numbered((_Number("A", 0.5, 100.0, True), _Number("B", 1.5, 100.0)), lambda a, b: _linear(a, b)),
    "gated": _Numbered(
        (_Number("T_HIGH", 1.0, 100.0), _Number("THRESHOLD", 0.9, 1.0)),
        lambda temperature, gate: replace(_PLAIN, temperature=temperature, gate=gate),
    ),
    "min-p": _Numbered((_Number("P", 0.05, 1.0),), lambda x: replace(_PLAIN, min_p=x)),
    "top-n-sigma": _Numbered((_Number("N", 1.0, 100.0),), lambda x: replace(_PLAIN, top_n_sigma=x)),
    "mirostat2": _Numbered(
        (_Number("TAU", 5.0, 100.0),),
        lambda x: replace(_WARM, mirostat_mode=2, mirostat_eta=0.1, mirostat_tau=x),
    ),
}


def _linear(a: float, b: float) -> Sampling:
    """T by the entropy's share of the largest there can be, from a to b: dynatemp of exponent 1 and nothing else."""
    if a > b:
        raise InvalidInput(f"method entropy:{a:g},{b:g}: A is {a:g}, expected at most B", key="A", found=a, expected=b)
    return replace(_WARM, temperature=(a + b) / 2, dynatemp_range=(b - a) / 2)


_STATIC, _ALL = "static:T,P", "all"

HELP = {
    "autodeco": "T and P predicted",
    "autodeco:temperature": "T predicted, P = 1",
    "autodeco:top_p": "P predicted by the top-p head alone, which sees T = 1; T = 1",
    "autodeco:fixed-t": "P predicted, by a top-p head that sees the predicted T; T = 1 when drawing",
    "greedy": "T = 0",
    "default": "T = 1, P = 1",
    _STATIC: "any pair, T 0 to 100 and P 0 to 1",
    "oracle": "tuned on the test problems by pass@1: the best T of 0.1 to 2.0 at P = 1, then the best P of 0.1 to 1.0",
    "distinct": "tuned on the test problems: the pair of these T and P with the most distinct right answers; all pairs "
    f"on the first {COARSE_PROBLEMS} problems of every task, the best {FINALISTS} of them on all problems",
    "mean-shift": "the mean T and P of autodeco's own samples, here or with --mean-shift-from, as constants",
    "shuffle": "each token with a T and P that autodeco had at some token of its other answers to the same problem",
    "gated[:T_HIGH,THRESHOLD]": "T_HIGH (1), but T = 0 where the largest probability is above THRESHOLD (0.9)",
    "entropy[:A,B]": "T linear in the entropy, from A (0.5) where it is 0 to B (1.5) where all tokens are as likely",
    "llama.cpp": "its defaults: top-k 40, top-p 0.95, min-p 0.05, then T = 0.8",
    "dynatemp[:RANGE]": "llama.cpp's T by entropy, nothing else: that of entropy from 0.8 - RANGE (0.5) to 0.8 + RANGE",
    "min-p[:P]": "min-p P (0.05) at T = 1",
    "top-n-sigma[:N]": "top-n-sigma N (1) at T = 1",
    "mirostat2[:TAU]": "llama.cpp's --mirostat 2: target surprise TAU (5), learning rate 0.1, T = 0.8",
    "model": "llama.cpp's defaults, changed by the general.sampling.* of the model",
    _ALL: "every one of these that applies, but static:T,P",
}
"""What can be asked for -> what it is."""

_UNUSUAL = ("distinct", "autodeco:fixed-t")
_DEFAULTS = [usage.partition("[")[0] for usage in HELP if usage not in (_STATIC, *_UNUSUAL, _ALL)]


_TWO = ("static:", *(f"{name}:" for name, of in _NUMBERED.items() if len(of.numbers) == 2))


def split_names(text: str) -> list[str]:
    """The names in a list with commas, where those of two parameters have one themselves.

    Examples:
        >>> split_names("greedy,static:0.6,0.95,oracle")
        ['greedy', 'static:0.6,0.95', 'oracle']
    """
    names: list[str] = []
    for part in text.split(","):
        if names and names[-1].startswith(_TWO) and "," not in names[-1] and _to_float(part) is not None:
            names[-1] += f",{part.strip()}"
        else:
            names.append(part.strip())
    return names


def _to_float(text: str) -> float | None:
    try:
        return float(text.replace("_", "?"))  # or 1_0 is 10
    except ValueError:
        return None


def check_names(names: Sequence[str]) -> None:
    """Raise InvalidInput for a name that no model knows, a malformed parameter, or nothing at all."""
    if not names:
        raise InvalidInput(f"no method, expected some of {', '.join(HELP)}", key="method")
    for name in names:
        if name != _ALL:
            _method(name)


def parse_methods(names: Sequence[str] | None, heads: Collection[str], metadata: Mapping[str, str]) -> list[Method]:
    """The methods of these names, each once; for None the usual ones, as far as they apply to the model.

    Of the model it takes the heads, "temperature" or "top_p" or both, and the ``metadata`` of its GGUF.

    Raises:
        InvalidInput: an unknown name, or a malformed parameter.
        BadFile: a method that the model is not made for.
    """
    usual = [name for name in _DEFAULTS if _obstacle(name, heads, metadata) is None]
    if names is None:
        return [_method(name) for name in usual]
    check_names(names)
    every = (*usual, *(name for name in _UNUSUAL if _obstacle(name, heads, metadata) is None))
    names = [name for asked in names for name in (every if asked == _ALL else (asked,))]
    for name in names:
        obstacle = _obstacle(name, heads, metadata)
        if obstacle is not None:
            allowed = (usage for usage in HELP if _obstacle(usage, heads, metadata) is None)
            raise BadFile(f"method {name}: {obstacle}; this model allows {', '.join(allowed)}", key=name)
    return [_method(name) for name in dict.fromkeys(names)]


def _obstacle(name: str, heads: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """Why a method does not apply to a model."""
    if name.startswith("autodeco:") and len(heads) < 2:
        return f"leaves one of two heads out, the model has {' and '.join(sorted(heads)) or 'none'}"
    if name in ("autodeco", "mean-shift", "shuffle") and not heads:
        return "needs heads, the model has none"
    if name == "model":
        if not any(key in metadata for key in _MODEL_KEYS):
            return f"needs metadata {FILE_PREFIX}*, the model has none"
        sequence = metadata.get(_SEQUENCE, _DEFAULT_SEQUENCE)
        if sequence != _DEFAULT_SEQUENCE:
            return f"{_SEQUENCE} {sequence!r} cannot be followed, only {_DEFAULT_SEQUENCE!r}"
    return None


def _method(name: str) -> Method:
    if name in _DIRECT:
        return Method(name, *_DIRECT[name])
    if name in SEARCHED:
        return Method(name, SEARCHED[name], None)
    kind, colon, argument = name.partition(":")
    if kind == "static" and colon:
        pair = argument.split(",")
        if len(pair) != 2:
            message = f"method {name}: expected {_STATIC}, such as static:0.6,0.95"
            raise InvalidInput(message, key="method", found=name, expected=_STATIC)
        temperature = _number(name, "T", pair[0], 100.0, zero=True)
        return Method(name, "constant", Config.static(temperature, _number(name, "P", pair[1], 1.0, zero=True)))
    if kind in _NUMBERED:
        numbers, sampling = _NUMBERED[kind]
        values = [number.default for number in numbers]
        if colon:
            texts = argument.split(",")
            if len(texts) != len(numbers):
                expected = f"{kind}:{','.join(number.name for number in numbers)}"
                raise InvalidInput(f"method {name}: expected {expected}", key="method", found=name, expected=expected)
            values = [_number(name, n.name, text, n.most, n.zero) for n, text in zip(numbers, texts, strict=True)]
        key = "mirostat2" if name == "mirostat2" else f"{kind}:{','.join(f'{value:g}' for value in values)}"
        return Method(name, "peer", Config(key, values=sampling(*values)))
    raise InvalidInput(f"method {name!r}, expected one of {', '.join(HELP)}", key="method", found=name)


@functools.cache
def config_of(key: str) -> Config:
    """The config of a key in a file. One that no method has is kept, as another version may have written it."""
    direct = {config.key: config for _, config in _DIRECT.values()}
    try:
        config = direct.get(key) or _method(key).config
    except InvalidInput:
        config = None
    return config if config is not None and config.key == key else Config(key)


def _number(name: str, what: str, text: str, most: float, zero: bool) -> float:
    """A parameter in [0, most], without 0 or with it, of at most six digits, so that its config names it exactly."""
    expected = f"a number {'from' if zero else 'above'} 0 to {most:g}, of at most 6 digits"
    value = _to_float(text)
    if value is None or not 0 <= value <= most or not (value or zero) or float(f"{value:g}") != value:
        found = text.strip() or "missing"
        message = f"method {name}: {what} is {found}, expected {expected}"
        raise InvalidInput(message, key=what, found=found, expected=expected)
    return value + 0.0  # no -0


# ---- the model's own ----

_SEQUENCE = f"{FILE_PREFIX}sequence"
_DEFAULT_SEQUENCE = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
_MODEL_KEYS = {FILE_PREFIX + key: name for key, name in FILE_KEYS.items()}


def _of_model(metadata: Mapping[str, str]) -> Sampling:
    values: dict[str, Any] = {}
    given = {key: name for key, name in _MODEL_KEYS.items() if key in metadata}
    for key, name in given.items():
        value = _to_float(metadata[key])
        if value is None or not math.isfinite(value):
            message = f"method model: {key} is {metadata[key]!r}, expected a number"
            raise BadFile(message, key=key, found=metadata[key], expected="a number")
        value = of_file(name, value)
        values[name] = int(value) if name in WHOLE else value
    sampling = replace(_LLAMA_CPP, **values)
    try:
        sampling.check()
    except InvalidInput as e:
        raise BadFile(f"method model: {FILE_PREFIX}*: {e}", key=e.key, found=e.found) from e
    return sampling


# ---- searches ----


class Points(NamedTuple):
    """How many samples of a config are right, and how many different right answers there are, over all problems."""

    correct: int
    distinct: int


Score = Callable[[Config, bool], Points]
"""(config, on the first problems of every task only) -> points."""


def shuffle(seeds: int, k: int) -> Config:
    """That of shuffle, whose pairs are those of so many answers."""
    return Config(f"shuffle:{seeds},{k}", values=Sampling())


def find_oracle(score: Score) -> Config:
    """The paper's expert tuning by pass@1: the best T at P = 1, then the best P at that T. The first of equals."""
    static = Config.static
    best = max(TEMPERATURES, key=lambda temperature: score(static(temperature, 1.0), False).correct)
    return static(best, max(TOP_PS, key=lambda top_p: score(static(best, top_p), False).correct))


def find_distinct(score: Score) -> Config:
    """The static pair with the most distinct right answers; the first of equals."""
    pairs = [Config.static(temperature, top_p) for temperature in TEMPERATURES for top_p in TOP_PS]
    finalists = sorted(pairs, key=lambda config: -score(config, True).distinct)[:FINALISTS]
    return max(finalists, key=lambda config: score(config, False).distinct)

"""Ways to decode, by the names that the command line takes, and how each of them samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from autodeco_gguf.errors import AutoDecoError

if TYPE_CHECKING:
    from autodeco_gguf.model.sampling import Sampling

TEMPERATURES = tuple(round(0.1 * i, 1) for i in range(1, 21))
TOP_PS = tuple(round(0.1 * i, 1) for i in range(1, 11))
"""The grid of the searches."""

COARSE_PROBLEMS, FINALISTS = 8, 8
"""Of ``distinct``: the first problems of every task on which the grid is tried, and the pairs tried on all of them."""

Kind = Literal["predicted", "constant", "peer"]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as it was asked for.
        kind: T and P "predicted" by the heads, or "constant"; "peer": another way, of llama.cpp.
        config: the canonical key of how it samples, which several methods may share; None until a search has found it.
    """

    name: str
    kind: Kind
    config: str | None


# ---- names ----


class _Number(NamedTuple):
    """A parameter after the colon: how the help calls it, default, largest value, and the field of Sampling it sets."""

    name: str
    default: float
    most: float
    field: str


_DIRECT: dict[str, tuple[Kind, str]] = {
    "autodeco": ("predicted", "autodeco"),
    "autodeco:temperature": ("predicted", "autodeco:temperature"),
    "autodeco:top_p": ("predicted", "autodeco:top_p"),
    "greedy": ("constant", "static:0,1"),
    "default": ("constant", "static:1,1"),
    "llama.cpp": ("peer", "llama.cpp"),
    "model": ("peer", "model"),
}
SEARCHED = ("oracle", "distinct", "mean-shift")
"""Methods that follow from the samples of others."""

_NUMBERED = {
    "dynatemp": _Number("RANGE", 0.5, 10.0, "dynatemp_range"),
    "min-p": _Number("P", 0.05, 1.0, "min_p"),
    "top-n-sigma": _Number("N", 1.0, 100.0, "top_n_sigma"),
    "mirostat2": _Number("TAU", 5.0, 100.0, "mirostat_tau"),
}
_STATIC, _ALL = "static:T,P", "all"
_DEFAULTS = (
    *("autodeco", "autodeco:temperature", "autodeco:top_p", "greedy", "default", "oracle", "mean-shift"),
    *("llama.cpp", "dynatemp", "min-p", "top-n-sigma", "mirostat2", "model"),
)

HELP = {
    "autodeco": "T and P predicted",
    "autodeco:temperature": "T predicted, P = 1",
    "autodeco:top_p": "T = 1, P predicted",
    "greedy": "T = 0",
    "default": "T = 1, P = 1",
    _STATIC: "any pair, T 0 to 100 and P 0 to 1",
    "oracle": "tuned on the test problems by pass@1: the best T of 0.1 to 2.0 at P = 1, then the best P of 0.1 to 1.0",
    "distinct": "tuned on the test problems: the pair of these T and P with the most distinct right answers; all pairs "
    f"on the first {COARSE_PROBLEMS} problems of every task, the best {FINALISTS} of them on all problems",
    "mean-shift": "the mean T and P of autodeco's own samples, as constants",
    "llama.cpp": "its defaults: top-k 40, top-p 0.95, min-p 0.05, then T = 0.8",
    "dynatemp[:RANGE]": "llama.cpp's T by entropy, 0.8 +- RANGE (0.5), nothing else",
    "min-p[:P]": "min-p P (0.05) at T = 1",
    "top-n-sigma[:N]": "top-n-sigma N (1) at T = 1",
    "mirostat2[:TAU]": "llama.cpp's --mirostat 2: target surprise TAU (5), learning rate 0.1, T = 0.8",
    "model": "llama.cpp's defaults, changed by the general.sampling.* of the model",
    _ALL: "every one of these that applies, but static:T,P",
}
"""What can be asked for -> what it is."""


def split_names(text: str) -> list[str]:
    """The names in a list with commas, where that of a static pair has one itself.

    Examples:
        >>> split_names("greedy,static:0.6,0.95,oracle")
        ['greedy', 'static:0.6,0.95', 'oracle']
    """
    names: list[str] = []
    for part in text.split(","):
        if names and names[-1].startswith("static:") and "," not in names[-1] and _is_number(part):
            names[-1] += f",{part.strip()}"
        else:
            names.append(part.strip())
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_names(names: Sequence[str]) -> None:
    """Raise AutoDecoError for a name that no model knows, a malformed parameter, or nothing at all."""
    if not names:
        raise AutoDecoError(f"no method, expected some of {', '.join(HELP)}")
    for name in names:
        if name != _ALL:
            _method(name)


def parse_methods(names: Sequence[str] | None, heads: Collection[str], metadata: Mapping[str, str]) -> list[Method]:
    """The methods of these names, each once; for None the usual ones, as far as they apply to the model.

    Args:
        names: such as :data:`HELP` lists.
        heads: what the model predicts, of "temperature" and "top_p".
        metadata: of the model's GGUF.

    Raises:
        AutoDecoError: an unknown name, a malformed parameter, or a method that the model is not made for.
    """
    usual = [name for name in _DEFAULTS if _obstacle(name, heads, metadata) is None]
    if names is None:
        return [_method(name) for name in usual]
    check_names(names)
    names = [name for asked in names for name in ((*usual, "distinct") if asked == _ALL else (asked,))]
    for name in names:
        obstacle = _obstacle(name, heads, metadata)
        if obstacle is not None:
            allowed = (usage for usage in HELP if _obstacle(usage, heads, metadata) is None)
            raise AutoDecoError(f"method {name}: {obstacle}; this model allows {', '.join(allowed)}")
    return [_method(name) for name in dict.fromkeys(names)]


def _obstacle(name: str, heads: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """Why a method does not apply to a model."""
    if name.startswith("autodeco:") and len(heads) < 2:
        return f"leaves one of two heads out, the model has {' and '.join(sorted(heads)) or 'none'}"
    if name in ("autodeco", "mean-shift") and not heads:
        return "needs heads, the model has none"
    if name == "model":
        if not any(key in metadata for key in _MODEL_KEYS):
            return f"needs metadata {_PREFIX}*, the model has none"
        sequence = metadata.get(_SEQUENCE, _DEFAULT_SEQUENCE)
        if sequence != _DEFAULT_SEQUENCE:
            return f"{_SEQUENCE} {sequence!r} cannot be followed, only {_DEFAULT_SEQUENCE!r}"
    return None


def _method(name: str) -> Method:
    if name in _DIRECT:
        return Method(name, *_DIRECT[name])
    if name in SEARCHED:
        return Method(name, "constant", None)
    kind, colon, argument = name.partition(":")
    if kind == "static" and colon:
        return Method(name, "constant", static(*_pair(name, argument)))
    if kind in _NUMBERED:
        number = _NUMBERED[kind]
        value = _number(name, number.name, argument, number.most, above=0.0) if colon else number.default
        return Method(name, "peer", "mirostat2" if name == "mirostat2" else f"{kind}:{value:g}")
    raise AutoDecoError(f"method {name!r}, expected one of {', '.join(HELP)}")


def _pair(name: str, argument: str) -> tuple[float, float]:
    parts = argument.split(",")
    if len(parts) != 2:
        raise AutoDecoError(f"method {name}: expected {_STATIC}, such as static:0.6,0.95")
    return _number(name, "T", parts[0], 100.0), _number(name, "P", parts[1], 1.0)


def _number(name: str, what: str, text: str, most: float, above: float | None = None) -> float:
    """A parameter in [0, most], or above ``above``, of at most six digits, so that its config names it exactly."""
    expected = f"a number {'from 0' if above is None else f'above {above:g}'} to {most:g}, of at most 6 digits"
    value = float(text) if _is_number(text) else math.nan
    low = value >= 0 if above is None else value > above
    if not (low and value <= most and float(f"{value:g}") == value):
        raise AutoDecoError(f"method {name}: {what} is {text.strip() or 'missing'}, expected {expected}")
    return value + 0.0  # no -0


# ---- configs ----


def static(temperature: float, top_p: float) -> str:
    """The config of a static pair; at T = 0 the cut does nothing."""
    return "static:0,1" if temperature == 0 else f"static:{temperature:g},{top_p:g}"


def static_pair(config: str) -> tuple[float, float] | None:
    """T and P of a static pair's config, None for another."""
    if not config.startswith("static:"):
        return None
    temperature, top_p = map(float, config.removeprefix("static:").split(","))
    return temperature, top_p


def is_deterministic(config: str) -> bool:
    """Whether all samples of a problem are the same."""
    pair = static_pair(config)
    return pair is not None and pair[0] == 0


_PREFIX = "general.sampling."
_SEQUENCE = f"{_PREFIX}sequence"
_DEFAULT_SEQUENCE = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
_MODEL_KEYS: dict[str, tuple[str, Callable[[float], float]]] = {
    f"{_PREFIX}{key}": names
    for key, names in {
        "top_k": ("top_k", int),
        "top_p": ("top_p", float),
        "min_p": ("min_p", float),
        "temp": ("temperature", float),
        "xtc_probability": ("xtc_probability", float),
        "xtc_threshold": ("xtc_threshold", float),
        "penalty_last_n": ("penalty_last_n", int),
        "penalty_repeat": ("repeat_penalty", float),
        "mirostat": ("mirostat_mode", int),
        "mirostat_tau": ("mirostat_tau", float),
        "mirostat_eta": ("mirostat_eta", float),
    }.items()
}
"""As llama.cpp's common_init_sampler_from_model reads them: metadata key -> field of Sampling and its type."""

_LLAMA_CPP: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "order": "llama.cpp"}
"""common_params_sampling of llama.cpp; penalties, typical, XTC and DRY are off."""


_SAMPLING: dict[str, dict[str, Any]] = {
    "autodeco": {},
    "autodeco:temperature": {"top_p": 1.0},
    "autodeco:top_p": {"temperature": 1.0},
    "llama.cpp": _LLAMA_CPP,
    "dynatemp": {"temperature": 0.8, "top_p": 1.0, "order": "llama.cpp"},
    "min-p": {"temperature": 1.0, "top_p": 1.0},
    "top-n-sigma": {"temperature": 1.0, "top_p": 1.0},
    "mirostat2": {"temperature": 0.8, "top_p": 1.0, "mirostat_mode": 2, "mirostat_eta": 0.1, "order": "llama.cpp"},
}


def sampling_of(config: str, metadata: Mapping[str, str]) -> Sampling:
    """How a config samples, without a seed.

    Raises:
        AutoDecoError: no such config; metadata of the model that is malformed or out of range.
    """
    from autodeco_gguf.model.sampling import Sampling

    pair = static_pair(config)
    if pair is not None:
        return Sampling(temperature=pair[0], top_p=pair[1])
    if config == "model":
        return _of_model(metadata)
    if config in _DIRECT:
        return Sampling(**_SAMPLING[config])
    kind, _, argument = config.partition(":")
    if kind not in _NUMBERED:
        raise AutoDecoError(f"config {config!r}: nothing that samples")
    number = _NUMBERED[kind]
    value = float(argument) if argument else number.default
    return Sampling(**{**_SAMPLING[kind], number.field: value})


def _of_model(metadata: Mapping[str, str]) -> Sampling:
    from autodeco_gguf.model.sampling import Sampling

    values = dict(_LLAMA_CPP)
    for key, (field, convert) in _MODEL_KEYS.items():
        if key in metadata:
            values[field] = convert(_metadata_number(key, metadata[key]))
    for field in ("temperature", "top_k"):  # llama.cpp takes what is below 0 for 0
        values[field] = max(0, values[field])
    sampling = Sampling(**values)
    try:
        sampling.check()
    except AutoDecoError as e:
        raise AutoDecoError(f"method model: {_PREFIX}*: {e}") from e
    return sampling


def _metadata_number(key: str, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise AutoDecoError(f"method model: {key} is {text!r}, expected a number")
    return value


# ---- searches ----


class Points(NamedTuple):
    """How many samples of a config are right, and how many different right answers there are, over all problems."""

    correct: int
    distinct: int


Score = Callable[[str, bool], Points]
"""(config, on the first problems of every task only) -> points."""


def find_oracle(score: Score) -> str:
    """The paper's expert tuning by pass@1: the best T at P = 1, then the best P at that T. The first of equals."""
    best = max(TEMPERATURES, key=lambda temperature: score(static(temperature, 1.0), False).correct)
    return static(best, max(TOP_PS, key=lambda top_p: score(static(best, top_p), False).correct))


def find_distinct(score: Score) -> str:
    """The static pair with the most distinct right answers; the first of equals."""
    pairs = [static(temperature, top_p) for temperature in TEMPERATURES for top_p in TOP_PS]
    finalists = sorted(pairs, key=lambda config: -score(config, True).distinct)[:FINALISTS]
    return max(finalists, key=lambda config: score(config, False).distinct)

"""How tokens are drawn: values, checked, without llama.cpp."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from autodeco_gguf.errors import InvalidInput

if TYPE_CHECKING:
    import llama_cpp


def _number(value: Any) -> float:
    """As a float, of numpy's shorter ones too, with which a bound may not be compared; infinity beyond floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_temperature(value: float) -> None:
    """Raise InvalidInput unless value is a temperature: 0 to a million, beyond which float32 has no use for it."""
    if not isinstance(value, Real) or not 0.0 <= _number(value) <= 1e6:
        raise InvalidInput.of("temperature", _shown(value), "a number >= 0 (0 is greedy) and <= 1e6")


def check_top_p(value: float) -> None:
    """Raise InvalidInput unless value is a probability mass in [0, 1]."""
    if not isinstance(value, Real) or not 0.0 <= _number(value) <= 1.0:
        raise InvalidInput.of("top_p", _shown(value), "a number in [0, 1]")


def _shown(value: object) -> object:
    """As a message has it: what looks like a number and is none, as a text or a Decimal, with its type."""
    return value if isinstance(value, Real) else repr(value)


def check_size(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number of a range, of numpy too, as Python's own, which has no end. InvalidInput for what is none."""
    expected = f"at least {least}" if most is None else f"{least} to {most}"
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise InvalidInput.of(name, repr(value), f"a whole number, {expected}")
    if index(value) < least or (most is not None and index(value) > most):
        raise InvalidInput.of(name, value, expected)
    return index(value)


def check_bias(token: object, bias: object) -> None:
    """Raise InvalidInput unless a logit stays a number with it, or -inf."""
    if not isinstance(bias, Real):
        raise InvalidInput.of(f"logit_bias of token {token}", repr(bias), "a number")
    if not _number(bias) <= _MAX_BIAS:  # NaN is not either
        reason = f"logit_bias of token {token} is {bias}, expected a number of at most {_MAX_BIAS:g} or -inf"
        raise InvalidInput(reason, key="logit_bias")


MAX_LAST_N = 2**20
"""Tokens that penalties look back on at most."""

MAX_TOP = 64
"""Most alternatives of a token."""

MAX_SEED = 2**32 - 1
"""The largest seed."""


def check_seed_range(seed: int) -> None:
    """Raise InvalidInput unless a seed has 32 bits."""
    check_whole(seed)
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput.of("seed", seed, "0 to 2**32 - 1")


def check_whole(seed: int) -> None:
    """Raise InvalidInput for a seed that is no whole number."""
    if not isinstance(seed, Integral):
        raise InvalidInput.of("seed", repr(seed), "a whole number")


def check_seed(seed: int | None) -> int:
    """A seed modulo 2**32; a random one for None and for 2**32 - 1, which is llama.cpp's LLAMA_DEFAULT_SEED."""
    if seed is not None:
        check_whole(seed)
        seed = index(seed)  # of numpy's, which may be narrower
    if seed is None or seed & 0xFFFFFFFF == 0xFFFFFFFF:
        return random.SystemRandom().getrandbits(32)
    return seed & 0xFFFFFFFF


_UNBOUNDED = 1e6
"""Above it a parameter of a sampler has no sense; float32 must hold it."""

_MAX_BIAS = 1e30
"""Above it a logit, divided by T, is more than float32 holds."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one sequence are drawn.

    Order "autodeco": biases, penalties, grammar, scale by T, top-n-sigma, top-k, typical, min-p, XTC, cut at P, draw.
    Order "llama.cpp", the default chain of its programs: biases, penalties, grammar, top-n-sigma, top-k, typical,
    top-p, min-p, XTC, scale by T, draw; T and P are fixed there, 1 where they are None, and a trace shows 1 and 1.
    Mirostat takes the place of the cuts, after T.

    Attributes:
        seed: 32 bits; random when None, and when 2**32 - 1, which is llama.cpp's LLAMA_DEFAULT_SEED. The same seed
            gives the same tokens.
        temperature: a number fixes it, 0 is greedy; None: predicted, 1 where there is no such head.
        top_p: likewise, in [0, 1].
        top_k: tokens kept; 0: all.
        min_p: least probability, as a share of the largest; 0: off.
        typical_p: locally typical sampling; 1: off.
        top_n_sigma: logits kept, in standard deviations below the largest; 0: off.
        xtc_probability: of leaving out all but the least likely of the tokens above ``xtc_threshold``; 0: off.
        xtc_threshold: a probability; above 0.5: off.
        repeat_penalty: on the logits of tokens drawn before; 1: off.
        frequency_penalty: taken off for each time; 0: off.
        presence_penalty: taken off once; 0: off.
        penalty_last_n: tokens that these look back; -1: all.
        mirostat_mode: 0: off, 1 or 2: the version.
        mirostat_tau: its target surprise, in bits.
        mirostat_eta: its learning rate.
        dynatemp_range: T by entropy, in [T - range, T + range]; order "llama.cpp" only; 0: off.
        dynatemp_exponent: how entropy maps to T.
        gate: T is 0 where the model's largest probability is above it; 1: off.
        logit_bias: added to the logits, by token.
        grammar: what the text must follow.
        order: of the steps.
    """

    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    gate: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    grammar: llama_cpp.LlamaGrammar | None = None
    order: Literal["autodeco", "llama.cpp"] = "autodeco"

    def check(self) -> None:
        """Raise InvalidInput for a parameter out of range."""
        if self.temperature is not None:
            check_temperature(self.temperature)
        if self.top_p is not None:
            check_top_p(self.top_p)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            kind: Any
            kind, what = (Integral, "a whole number") if name in WHOLE else (Real, "a number")
            if not isinstance(value, kind) or not low <= _number(value) <= high:
                raise InvalidInput.of(name, _shown(value), f"{what} in [{low:g}, {high:g}]")
        if self.order not in ("autodeco", "llama.cpp"):
            raise InvalidInput.of("order", repr(self.order), "'autodeco' or 'llama.cpp'")
        if self.dynatemp_range and self.order != "llama.cpp":
            raise InvalidInput(f"dynatemp_range {self.dynatemp_range} needs order 'llama.cpp'", key="dynatemp_range")
        if not isinstance(self.logit_bias, Mapping | None):
            raise InvalidInput.of("logit_bias", repr(self.logit_bias), "numbers by token")
        for token, bias in (self.logit_bias or {}).items():
            check_bias(token, bias)


WHOLE = ("top_k", "penalty_last_n", "mirostat_mode")
"""Parameters of ``Sampling`` that are whole numbers."""

_RANGES = (
    ("top_k", 0, 2**31 - 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("top_n_sigma", 0, _UNBOUNDED),
    ("xtc_probability", 0, 1),
    ("xtc_threshold", 0, 1),
    ("repeat_penalty", 1e-6, _UNBOUNDED),
    ("frequency_penalty", -_UNBOUNDED, _UNBOUNDED),
    ("presence_penalty", -_UNBOUNDED, _UNBOUNDED),
    ("penalty_last_n", -1, MAX_LAST_N),
    ("mirostat_mode", 0, 2),
    ("mirostat_tau", 0, _UNBOUNDED),
    ("mirostat_eta", 0, _UNBOUNDED),
    ("dynatemp_range", 0, _UNBOUNDED),
    ("dynatemp_exponent", 0, _UNBOUNDED),
    ("gate", 0, 1),
)


def seed_from(text: str) -> int:
    """A seed of 31 bits for what a text names: the same everywhere, and as good as independent for different texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little") >> 1


FILE_PREFIX = "general.sampling."

FILE_KEYS = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "penalty_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat_mode",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
"""Names of ``Sampling`` by llama.cpp's, as its common_init_sampler_from_model reads them behind ``FILE_PREFIX``."""


def of_file(name: str, value: float) -> float:
    """A file's value of a parameter: llama.cpp takes a temperature or top-k below 0 for 0."""
    return max(0, value) if name in ("temperature", "top_k") else value

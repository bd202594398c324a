"""The findings in words."""

from __future__ import annotations

from autodeco_gguf.evaluation.report import count
from autodeco_gguf.explain.findings import Estimate, Findings, TemperatureFindings, TopPFindings

LEAST_ANSWERS, LEAST_TOKENS = 10, 200
"""For a verdict: the standard error of fewer says little itself."""

LEAST_PROBLEMS = 2
"""For a standard error at all: the tokens of a problem go together."""

_LITTLE = 0.01
"""Nats a token that are little to gain: a hundredth of the probability of each right token."""

_WEAK = 0.1
"""A correlation below which deviations hardly know where they help."""

_TIMID = 2.0
"""How many times as large deviations had better be, for them to be called small."""

_OFF = 0.5
"""Share of the second-order gain's parts that the remainder may be before the local picture is said to fail."""


def verdict(found: Findings) -> str:
    """A paragraph for each head: whether it pays, and why."""
    if found.answers < LEAST_ANSWERS or found.tokens < LEAST_TOKENS:
        few = f"{count(found.tokens, 'token')} of {count(found.answers, 'answer')} are too few for a verdict"
        return f"{few}: at least {LEAST_TOKENS} of {LEAST_ANSWERS} are needed."
    if found.problems < LEAST_PROBLEMS:
        few = f"{count(found.answers, 'answer')} to {count(found.problems, 'problem')} are too few for a verdict"
        return f"{few}: errors are over problems, at least {LEAST_PROBLEMS} are needed."
    parts = []
    if found.temperature is not None:
        parts.append(_temperature(found.temperature))
    if found.top_p is not None:
        parts.append(_top_p(found.top_p))
    return "\n".join(parts)


_OF_T = {
    (1, 1): "T pays",
    (1, 0): "T pays over the constant with the mean of its 1/T, but the best single T does as well",
    (1, -1): "T pays over the constant with the mean of its 1/T, but the best single T does better",
    (0, 0): "T is not shown to pay",
    (0, -1): "T does not pay",
    (-1, -1): "T costs more than it gains",
}
"""By the signs of the heads' gain over that constant, and of the smaller of that and the one over the best single T."""

_OF_P = {
    (1, 1): "P pays: it loses fewer right tokens than its mean as a constant, and cuts more around those it keeps",
    (1, 0): "P pays: it loses fewer right tokens than its mean as a constant",
    (0, 1): "P pays: it cuts more than its mean as a constant, and is not shown to lose more right tokens",
    (1, -1): "P trades: it loses fewer right tokens than its mean as a constant, and cuts less around those it keeps",
    (-1, 1): "P trades: it cuts more than its mean as a constant, and loses more right tokens",
    (0, 0): "P is not shown to matter",
}
"""By the signs of what it loses less, and of what it gains where both keep the right token."""


def _temperature(t: TemperatureFindings) -> str:
    words = [f"{_OF_T[t.gain.sign, min(t.gain.sign, t.gain_over_best.sign)]}."]
    words.append(f"Over the constant with the mean of their 1/T ({t.constant:.2f}) the heads gain {nats(t.gain)},")
    words.append(f"{_share(t.share)} of what the best T at every token would ({t.oracle_gain:.4f}); over the mean of")
    words.append(f"their T ({t.mean:.2f}) {nats(t.gain_over_mean)}, over the best single T ({t.best_constant:.3g})")
    words.append(f"{nats(t.gain_over_best)}.")
    words.append(_why(t))
    if t.leverage.half is not None and t.leverage.ninety is not None:
        half, ninety = f"{100 * t.leverage.half:.1f} %", f"{100 * t.leverage.ninety:.1f} %"
        words.append(f"Half of the leverage lies on {half} of the tokens, 90 % of it on {ninety}.")
    return " ".join(words)


def _why(t: TemperatureFindings) -> str:
    """What the gain is made of."""
    if t.oracle_gain < _LITTLE:
        return "There is little to gain: another T at each token could hardly make these answers likelier."
    if t.correlation is None or t.best_scale is None or t.scaled_gain is None:
        return "The heads give every token the same T, so there is nothing to gain from."
    parts = f"first order {t.first_order:+.4f}, curvature {-t.penalty:+.4f}, the rest {t.remainder:+.4f}"
    words = f"1/T deviates where it helps with a correlation of {t.correlation:+.2f} ({parts})."
    if t.correlation < -_WEAK:
        words += " It goes the wrong way."
    elif t.correlation < _WEAK:
        words += " It hardly knows where it helps."
    elif t.best_scale < 0.5:
        words += (
            f" The direction is right, the deviations are too large: {t.best_scale:.2f} times theirs would do best."
        )
    elif t.best_scale > _TIMID:
        words += f" The direction is right, the deviations are small: {t.best_scale:.1f} times theirs would do best"
        words += f", and gain {t.scaled_gain:.4f}, if the curvature stayed as it is."
    if abs(t.remainder) > _OFF * max(abs(t.first_order), t.penalty):
        words += " The deviations are too large for the second order alone: the rest counts."
    return words


def _top_p(p: TopPFindings) -> str:
    signs = p.lost_less.sign, 0 if p.gain is None else p.gain.sign
    words = [f"{_OF_P.get(signs, 'P costs more than it gains')}."]
    words.append(f"At {_share(p.changed)} of the tokens it leaves another set than the constant ({p.constant:.2f}); at")
    words.append(f"{_share(p.without_breakpoint)} no P from {p.low:.2f} to {p.high:.2f}, the range that the heads use,")
    words.append(f"makes a difference. The right token is left out at {100 * p.lost:.2f} % of the tokens, by the")
    words.append(f"constant at {100 * p.constant_lost:.2f} %.")
    if p.gain is not None:
        words.append(f"Where both keep it, the difference of the cuts is worth {nats(p.gain)}.")
    if p.share is not None and p.over_no_cut is not None:
        words.append(f"Over no cut the heads' gains {nats(p.over_no_cut)} where it keeps the right token,")
        words.append(f"{_share(p.share)} of what the smallest set with that token would.")
    return " ".join(words)


def nats(e: Estimate) -> str:
    """An estimate of log-likelihood."""
    error = "" if e.se is None else f" ± {e.se:.4f}"
    return f"{e.value:+.4f}{error} nats a token"


def _share(value: float | None) -> str:
    return "no share" if value is None else f"{100 * value:.0f} %"

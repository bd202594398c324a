"""The findings as tables, and with their plots as a page."""

from __future__ import annotations

from collections.abc import Sequence

from autodeco_gguf.explain.findings import Estimate, Findings, Spread, TemperatureFindings, TopPFindings
from autodeco_gguf.view.page import Section, page, picture

Line = tuple[str, str, str]
"""What, how much, and what that is."""

_READ = (
    "- Alignment, curvature and the rest add up to what the heads gain; the best T at every token, which nobody can "
    "know beforehand, is the most there is to gain.",
    "- A single T for all tokens is the grey curve; the heads are worth having where their line is above all of it.",
    "- Tokens in ten groups by the heads' 1/T: where the slope is above 0 a sharper distribution would help, below 0 a "
    "flatter one.",
    "- The heads' T where another T would have been best; the dashed line is the constant.",
    "- The tokens that count most first: where the curve is at 90 % early, a few tokens decide.",
    "- P makes a difference only where a token's place in the cumulative mass lies between two values of P.",
)


def render(found: Findings, facts: Sequence[str], png: bytes | None) -> bytes:
    """The page: verdict, plots, tables."""
    sections: list[Section] = [{"kind": "words", "lines": [*facts, *found.verdict.splitlines()]}]
    if png is not None:
        sections.append({"kind": "plot", "title": "what T and P are worth, in panels", "src": picture(png)})
    if png is not None and found.temperature is not None and found.top_p is not None:
        sections.append({"kind": "words", "lines": ["The panels, from the upper left:", *_READ]})
    for title, lines in tables(found):
        sections.append(
            {"kind": "table", "title": title, "head": ["figure", "value", "what it is"], "rows": list(map(list, lines))}
        )
    return page("Why the heads do or don't pay", sections)


def tables(found: Findings) -> list[tuple[str, list[Line]]]:
    """A table for each head, with its title."""
    result = []
    if found.temperature is not None:
        result.append(("Temperature, nats a token of log-likelihood", _temperature(found.temperature)))
    if found.top_p is not None:
        result.append(("Top-p, at the heads' T", _top_p(found.top_p)))
    return result


def _temperature(t: TemperatureFindings) -> list[Line]:
    constant = f"T = {t.constant:.3f}, whose 1/T is the mean of theirs"
    return [
        ("gain of the heads", _estimate(t.gain), f"over the constant {constant}"),
        ("first order", f"{t.first_order:+.4f}", "slope times deviation: what pointing the right way brings"),
        ("curvature", f"{-t.penalty:+.4f}", "what deviating costs, wherever it points"),
        ("the rest", f"{t.remainder:+.4f}", "of higher order"),
        ("correlation", _number(t.correlation, "+.3f"), "of the heads' 1/T with the slope at the constant"),
        ("cosine", _number(t.cosine, "+.3f"), "the same without taking the mean slope off"),
        ("deviation of 1/T", f"{t.deviation:.3f}", "standard deviation over tokens"),
        ("deviation of the slope", f"{t.gradient_sd:.3f}", "standard deviation over tokens"),
        ("best size", _number(t.best_scale, ".2f"), "times the heads' deviations, by first and second order"),
        ("gain over the mean T", _estimate(t.gain_over_mean), f"T = {t.mean:.3f}, the constant of mean-shift"),
        ("gain over the best single T", _estimate(t.gain_over_best), f"T = {t.best_constant:.3g}, chosen here"),
        ("most to gain", f"{t.oracle_gain:.4f}", f"by the best T at every token, {t.lowest:.2g} to {t.highest:.2g}"),
        ("share reached", _percent(t.share), "gain of the heads, of the most to gain"),
        ("share over the best single T", _percent(t.share_over_best), "the same over that constant"),
        ("best T is the lowest", _percent(t.at_lowest), "of tokens: mostly those where the likeliest token is right"),
        ("best T is the highest", _percent(t.at_highest), "of tokens: the right one is unlikely"),
        ("leverage", _spread(t.leverage), "tokens that hold 50 and 90 % of the slopes' sizes"),
        ("headroom", _spread(t.headroom), "tokens that hold 50 and 90 % of the most to gain"),
    ]


def _top_p(p: TopPFindings) -> list[Line]:
    used = f"{p.low:.3f} to {p.high:.3f}"
    return [
        ("changed", _percent(p.changed), f"tokens where P leaves another set than its mean, {p.constant:.3f}"),
        ("smaller, larger", f"{_percent(p.smaller)}, {_percent(p.larger)}", "of tokens"),
        ("no breakpoint", _percent(p.without_breakpoint), f"tokens where no P of {used} makes a difference"),
        ("breakpoints", f"{p.breakpoints:.2f}", "a token in that range, in the mean"),
        ("one token left", _percent(p.single), "of tokens"),
        ("right token lost", _percent(p.lost), "by the heads' cut"),
        ("by the constant", _percent(p.constant_lost), "by a cut at the mean"),
        ("gain where kept", "" if p.gain is None else _estimate(p.gain), "nats a token over the mean, kept by both"),
        ("gain over no cut", "" if p.over_no_cut is None else _estimate(p.over_no_cut), "where the heads keep it"),
        ("most to gain", _number(p.oracle_over_no_cut, ".4f"), "there, by the smallest set with the right token"),
        ("share reached", _percent(p.share), "of that"),
    ]


def _estimate(e: Estimate) -> str:
    return f"{e.value:+.4f}" if e.se is None else f"{e.value:+.4f} ± {e.se:.4f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _spread(s: Spread) -> str:
    return f"{_percent(s.half)}, {_percent(s.ninety)}"

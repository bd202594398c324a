"""What an evaluation found: the values of results.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autodeco_gguf.evaluation.methods import SEARCHED, Config, Kind
from autodeco_gguf.evaluation.settings import EvalSettings

RESULTS, REPORT = "results.json", "report.md"
"""Where they stand in the directory of an evaluation, as values and for a reader."""


@dataclass(frozen=True)
class Origin:
    """What was evaluated, with what, and when."""

    model: str  # name of its file
    model_digest: str  # 16 hexadecimal digits, as in evaluation.jsonl
    heads: tuple[str, ...]  # of "temperature" and "top_p"
    heads_file: str | None  # name; None where they are the model's own
    heads_digest: str | None
    context: int  # tokens
    cache_type: str
    flash_attn: bool
    version: str  # of this package
    llama_cpp_python: str
    date: str | None = None  # UTC, when the last samples were drawn


@dataclass(frozen=True)
class Moments:
    """T or P over all tokens."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Stats:
    """What the samples of a method come to, on one task or on all; errors are standard errors, None for one value."""

    problems: int
    samples: int
    pass_1: float
    se_seeds: float | None  # of pass_1, over seeds
    se_problems: float | None  # of pass_1, over problems
    pass_k: Mapping[int, float]  # by k
    distinct: float  # different right answers among the settings' k
    distinct_se: float | None
    distinct_k: Mapping[int, float]  # by k
    tokens_mean: float  # of an answer
    temperature: Moments | None  # None where nobody can tell
    top_p: Moments | None
    tokens_s: float | None  # None where it was not measured
    truncated: float  # share of the samples
    ungraded: int
    failed: int
    boxes: Mapping[str, tuple[float, ...]]  # least value, quartiles and greatest value of what was predicted
    majority: float | None = None  # maj of the settings' k; None where answers are whole texts
    majority_se: float | None = None
    formless: int = 0  # samples without the form that the checker looks for
    sd_seeds: float | None = None  # of pass_1, the standard deviation over seeds that the official evaluation gives
    mean_of_tasks: float | None = None  # of pass_1 over all tasks, every task the same; pass_1: every problem
    mean_of_tasks_sd: float | None = None  # over seeds


@dataclass(frozen=True)
class Row:
    """A method and its results, over all tasks and for each."""

    name: str
    kind: Kind
    config: Config
    deterministic: bool
    temperature: Moments | None
    top_p: Moments | None
    overall: Stats
    tasks: Mapping[str, Stats]

    @property
    def label(self) -> str:
        """The method's name, with the constants that a search found for it."""
        pair = self.config.pair
        if pair is None or self.name.partition(" (")[0] not in SEARCHED:
            return self.name
        return f"{self.name}: T = {pair[0]:g}, P = {pair[1]:g}"


@dataclass(frozen=True)
class Comparison:
    """How far AutoDeco is ahead of a method, problem by problem; ``ahead`` is which, where there are several heads.

    ``metric`` is "pass@1", "distinct" or "maj", or "distinct@N" of the N samples that several seeds come to.
    """

    method: str
    config: Config
    metric: str
    difference: float
    ci: tuple[float, ...]  # of 95 %
    p: float
    ahead: str = "autodeco"


@dataclass(frozen=True)
class Point:
    """What the samples of a static pair come to."""

    problems: int
    pass_1: float
    se: float | None
    distinct: float  # among k
    k: int  # that of the settings, or as many as every problem has


@dataclass(frozen=True)
class GridRow:
    """A static pair, on as many problems and from as many samples as it has, over all tasks and for each."""

    config: Config
    temperature: float
    top_p: float
    problems: int
    pass_1: float
    se: float | None
    distinct: float
    k: int
    tasks: Mapping[str, Point]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that stands in results.json; ``tasks`` are the problems of each, ``verdict`` what it says in words.

    ``origin`` is None where an older version wrote them. ``unfinished`` are the methods that were asked for as well.
    """

    origin: Origin | None = None
    settings: EvalSettings
    tasks: Mapping[str, int]
    methods: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    grid: tuple[GridRow, ...]
    verdict: str = ""
    unfinished: tuple[str, ...] = ()

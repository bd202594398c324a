"""The report, as a person reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from broken import Kind, rewrite
from tuning_helpers import task

from autodeco_gguf import extract
from autodeco_gguf.evaluation.methods import Config
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tuning.plan import TRAININGS, Plan, Speed
from autodeco_gguf.tuning.report import Tuned, needed, page, plan_lines, values
from autodeco_gguf.tuning.scores import Row
from autodeco_gguf.tuning.search import Found, Rung
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import split
from autodeco_gguf.tuning.verdict import decide

PLAN = Plan(1700.0, False, (Rung(31, 20), Rung(10, 60), Rung(4, 150)), TRAININGS[1], 20, 40, 4, 400.0, 800.0, 380.0)
CONFIGS = {
    "greedy": Config.static(0, 1),
    "default": Config.static(1, 1),
    "llama.cpp": Config("llama.cpp"),
    "pair": Config.static(0.7, 0.85),
    "heads": Config("autodeco"),
    "mean of heads": Config.static(0.5717, 0.7312),
    "own heads": Config("autodeco"),
    "mean of own heads": Config.static(0.5717, 0.7312),
}
CHAT = """--chat-template-kwargs '{"enable_thinking": false}'"""
LLAMA_CPP = '--samplers "top_k;top_p;min_p;temperature" --top-k 40 --top-p 0.95 --min-p 0.05 --temp 0.8'
MEANS = {"greedy": 0.4, "default": 0.3, "llama.cpp": 0.42, "pair": 0.46}


def made(means: dict[str, float], measure: str = "correct", n: int = 40, **changed: object) -> Tuned:
    rng = np.random.default_rng(0)
    rows = {}
    for name, mean in means.items():
        noise = rng.normal(0, 0.05, n)
        t, p = CONFIGS[name].pair or (None if name == "llama.cpp" else 0.614, None if name == "llama.cpp" else 0.8)
        rows[name] = Row(name, CONFIGS[name], mean + noise - noise.mean(), 21.4, t, p)
    tested = ["sums"] * n
    tuned = Tuned(
        model=Path("my models/m.gguf"),
        settings=TuneSettings(reward=measure),
        parts=split([task("sums", 100)], 0),
        plan=PLAN,
        speed=Speed(0.1, 30.0, 300.0),
        found=[Found(Config.static(0.7, 0.85), 0.471, 0.02, 230), Found(Config.static(0, 1), 0.4, 0.02, 230)],
        rows=rows,
        pair="pair",
        verdict=decide(rows, "pair", tested, 1.0),
        tested=tested,
        seconds=1712.0,
        trained=Path("tuned/heads.gguf") if "heads" in means else None,
    )
    return replace(tuned, **changed)  # type: ignore[arg-type]


def test_a_pair() -> None:
    text = page(made(MEANS, plan=replace(PLAN, training=None, rounds=0, heads_s=4000.0)))
    assert text.startswith(
        "# How to decode with m.gguf on sums\n\n"
        "Take T = 0.7, P = 0.85.\n\n"
        "    autodeco-gguf run 'my models/m.gguf' --temperature 0.7 --top-p 0.85\n\n"
        "Elsewhere: temperature 0.7, top_p 0.85, no other cut. "
        'llama.cpp: `--samplers "temperature;top_p" --temp 0.7 --top-p 0.85`, in this order.\n\n'
        "- T = 0.7, P = 0.85 is better than greedy (T = 0): +6.0 points ("
    )
    assert (
        "- No heads were trained: 30 minutes are too few for this model; --minutes 67 would be enough for it." in text
    )
    assert "| T = 0.7, P = 0.85 <- | 46.0 ± 0.8 | 0.70 | 0.85 |     21 |" in text
    assert "| llama.cpp's defaults | 42.0 ± 0.7 |      |      |     21 |" in text
    assert "The search on 60 other problems, the best of 2 pairs:" in text
    assert "| 0.7 | 0.85 |      47.1 |      230 |" in text
    assert text.endswith(
        "100 problems, split by seed 0: 60 to search and train on, 40 to compare on. 29 minutes of 30 minutes, "
        "300 tokens/s.\n"
    )


def test_not_all_are_compared_on_where_time_is_short() -> None:
    assert "60 to search and train on, 12 of 40 to compare on." in page(made(MEANS, n=12))


def test_the_same_problem_again_is_none_more_to_compare_on() -> None:
    parts = split([task("sums", 100), task("sums", 100)], 0)
    assert "60 to search and train on, 40 to compare on." in page(made(MEANS, parts=parts))


def test_heads() -> None:
    tuned = made({**MEANS, "heads": 0.53, "mean of heads": 0.4})
    text = page(tuned)
    assert text.startswith(
        "# How to decode with m.gguf on sums\n\nTake the trained heads.\n\n"
        "    autodeco-gguf run 'my models/m.gguf' --heads tuned/heads.gguf\n\n- "
    )
    assert "- The trained heads are better than T = 0.7, P = 0.85: +7.0 points" in text
    assert "| the trained heads <-" in text
    assert "- T and P of heads: their means over all tokens.\n- p is corrected for 8 comparisons (Holm)" in text
    assert "No heads were trained" not in text
    assert ", 20 rounds of training, 300 tokens/s." in text
    told = json.loads(json.dumps(values(tuned)))
    assert (told["chosen"], told["adapter"], told["temperature"]) == ("heads", "tuned/heads.gguf", None)
    assert told["rows"]["heads"]["mean"] == pytest.approx(0.53)
    assert [c["ahead"] for c in told["claims"]] == ["pair"] * 3 + ["heads"] * 5


@pytest.mark.parametrize(
    ("own", "option"), [(Path("own.gguf"), " --heads own.gguf"), (None, "")], ids=["given", "in the model"]
)
def test_own_heads_are_named_where_they_were_given(own: Path | None, option: str) -> None:
    told = values(made({**MEANS, "own heads": 0.53, "mean of own heads": 0.4}, own=own))
    assert (told["chosen"], told["temperature"], told["top_p"]) == ("own heads", None, None)
    assert told["adapter"] == (None if own is None else "own.gguf")
    assert told["command"] == f"autodeco-gguf run 'my models/m.gguf'{option}"


def test_heads_that_lost_are_named_and_the_pair_is_taken() -> None:
    tuned = made({**MEANS, "heads": 0.461, "mean of heads": 0.4})
    assert page(tuned).splitlines()[2] == "Take T = 0.7, P = 0.85."
    assert "- The trained heads are not shown to differ from T = 0.7, P = 0.85: +0.1 points" in page(tuned)
    assert values(tuned)["adapter"] is None


def test_the_mean_of_heads_is_a_pair() -> None:
    tuned = made({**MEANS, "heads": 0.53, "mean of heads": 0.53})
    assert page(tuned).splitlines()[2:5:2] == [
        "Take T = 0.57, P = 0.73, the mean of heads.",
        "    autodeco-gguf run 'my models/m.gguf' --temperature 0.5717 --top-p 0.7312",
    ]
    assert values(tuned)["temperature"] == 0.5717


def test_what_the_file_recommends_besides_is_put_off(tmp_path: Path) -> None:
    keys = {"top_k": (1, Kind.INT32), "penalty_repeat": (1.5, Kind.FLOAT32), "temp": (0.5, Kind.FLOAT32)}
    extract(DEMO_MODEL, base=tmp_path / "base.gguf")
    metadata = {f"general.sampling.{key}": value for key, value in keys.items()}
    model = rewrite(tmp_path / "base.gguf", tmp_path / "m.gguf", metadata=metadata)
    line, off = f"autodeco-gguf run {model} --temperature", "--top-k 0 --repeat-penalty 1"
    assert made(MEANS, model=model).command == f"{line} 0.7 --top-p 0.85 {off}"
    assert made({**MEANS, "greedy": 0.6}, model=model).command == f"{line} 0 {off}"
    known = made(MEANS, model=Path("known"), file=model)
    assert known.command == f"autodeco-gguf run known --temperature 0.7 --top-p 0.85 {off}"
    assert "This draws with" not in page(known)


def test_what_the_file_recommends_besides_and_nothing_puts_off_is_said(tmp_path: Path) -> None:
    extract(DEMO_MODEL, base=tmp_path / "base.gguf")
    metadata = {"general.sampling.mirostat": (2, Kind.INT32), "general.sampling.xtc_probability": (0.5, Kind.FLOAT32)}
    model = rewrite(tmp_path / "base.gguf", tmp_path / "m.gguf", metadata=metadata)
    said = "This draws with xtc_probability and mirostat_mode too, as the model's file recommends: the comparison was"
    assert page(made(MEANS, model=model)).splitlines()[6].startswith(said)
    assert "This draws with" not in page(made({**MEANS, "greedy": 0.6}, model=model))


def test_greedy() -> None:
    text = page(made({**MEANS, "greedy": 0.6}))
    assert text.splitlines()[2:7:2] == [
        "Take greedy (T = 0).",
        "    autodeco-gguf run 'my models/m.gguf' --temperature 0",
        "Elsewhere: temperature 0.",
    ]


def test_llama_cpp_reads_a_plain_file(tmp_path: Path) -> None:
    plain = tmp_path / "a model.gguf"
    extract(DEMO_MODEL, base=plain)
    tuned = made({**MEANS, "llama.cpp": 0.6}, model=Path("known"), file=plain)
    line = f"llama-cli -m '{plain}' {LLAMA_CPP}"
    assert page(tuned).splitlines()[2:5:2] == ["Take llama.cpp's defaults.", f"    {line}"]
    assert values(tuned)["command"] == line
    assert replace(tuned, model=plain, file=None).command == line
    settings = replace(tuned.settings, chat_template_kwargs={"enable_thinking": False})
    assert replace(tuned, settings=settings).command == f"{line} --jinja {CHAT}"


@pytest.mark.parametrize("model", ["smollm2", "hf:user/repo:Q4_K_M", "none.gguf", str(DEMO_MODEL)])
def test_without_a_plain_file_no_line_draws_as_llama_cpp_does(model: str) -> None:
    tuned = made({**MEANS, "llama.cpp": 0.6}, model=Path(model))
    text = page(tuned)
    assert "llama-cli" not in text
    assert text.splitlines()[2:7:2] == [
        "Take llama.cpp's defaults.",
        "`autodeco-gguf run` cannot draw so: it scales by T before it cuts. llama.cpp can, with a plain GGUF "
        "(`autodeco-gguf extract MODEL --base OUT` makes one of a merged file) and these options:",
        f"    {LLAMA_CPP}",
    ]
    assert values(tuned)["command"] is None


@pytest.mark.parametrize(
    ("best", "command"),
    [
        ("pair", f"autodeco-gguf run 'my models/m.gguf' {CHAT} --temperature 0.7 --top-p 0.85"),
        ("heads", f"autodeco-gguf run 'my models/m.gguf' {CHAT} --heads tuned/heads.gguf"),
    ],
)
def test_the_line_has_what_the_chat_template_reads(best: str, command: str) -> None:
    found = made({**MEANS, "heads": 0.4, "mean of heads": 0.4, best: 0.7})
    settings = replace(found.settings, chat_template_kwargs={"enable_thinking": False})
    assert replace(found, settings=settings).command == command


@pytest.mark.parametrize(
    ("reward", "head", "note"),
    [
        ("correct", "pass@1, %", "pass@1: share of right answers, ± standard error over problems."),
        ("any", "pass@16, %", "pass@16: share of problems of which at least one of 16 answers is right, ± standard"),
        ("distinct", "distinct@16", "distinct@16: different right answers among 16, ± standard"),
        ("own:score", "mean own:score", "mean own:score: of the answers, ± standard"),
    ],
)
def test_the_measure_is_named(reward: str, head: str, note: str) -> None:
    text = page(made(MEANS, reward))
    assert f" {head} |" in text
    assert f"- {note}" in text
    assert ("points" in text) is ("pass@" in head)


def test_small_values_can_be_told_apart() -> None:
    text = page(made({name: mean / 1000 for name, mean in MEANS.items()}, "own:score"))
    assert "| 0.00040 ± " in text
    assert "| 0.00046 ± " in text


def test_digits_are_those_of_the_value_furthest_from_0() -> None:
    text = page(made({**{name: -mean for name, mean in MEANS.items()}, "pair": -0.00005}, "own:score"))
    assert " -0.40 ± 0.01 |" in text


def test_why_there_are_no_heads() -> None:
    text = page(made(MEANS, obstacle="training needs torch; pip install torch"))
    assert "- No heads were trained: training needs torch; pip install torch.\n" in text


def test_the_plan_is_told() -> None:
    speed = Speed(0.1, 30.2, 300.0)
    assert plan_lines(PLAN, speed) == [
        "an answer: 30 tokens, 100 ms (300 tokens/s)",
        "search: 31 pairs, 7 minutes",
        "training: 20 rounds of 12 x 16 answers, 13 minutes",
        "test: 40 problems, 6 minutes",
    ]
    short = replace(PLAN, training=None, rounds=0, heads_s=4000.0)
    assert plan_lines(short, speed)[2] == ("training: no time for it; with --minutes 67 heads would be trained too")
    assert needed(short) == 67

"""The same answers after each command: on hand-made lines, and on the demo model against Llama."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from family_helpers import Family

from autodeco_gguf.answers.items import Item, make_item
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.evaluation.forced import (
    Lines,
    along,
    forced_table,
    read_forced,
    summarize_forced,
    write_forced,
)
from autodeco_gguf.evaluation.samples import Key
from autodeco_gguf.model.llama import Llama
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.problems import Problem


def line(problem: int, plain: list[float], low: list[float], high: list[float], sample: int = 0) -> Lines:
    values = {kind: np.array(v, np.float32) for kind, v in (("plain", plain), ("low", low), ("high", high))}
    return Lines(Key("t", problem, 0, sample), ("a",) * len(plain), {"temperature": values})


HAND = [
    line(0, [1, 1, 1, 1], [0.5, 0.5, 0.5, 1.5], [1.5, 1.5, 1.5, 1.5]),
    line(0, [1, 1], [0.5, 1], [1, 1], sample=1),
    line(1, [1, 1], [1, 1], [2, 0.5]),
]


def test_means_over_tokens_then_problems() -> None:
    found = summarize_forced(HAND)
    assert (found.answers, found.tokens) == (3, 8)
    low, high = found.moved["low"]["temperature"], found.moved["high"]["temperature"]
    assert low.difference == pytest.approx(np.mean([-1.5 / 6, 0]))
    assert low.share == pytest.approx(np.mean([4 / 6, 0]))
    assert high.difference == pytest.approx(np.mean([2 / 6, 0.25]))
    assert high.share == pytest.approx(np.mean([4 / 6, 0.5]))
    assert low.difference_se == pytest.approx(np.std([-1.5 / 6, 0], ddof=1) / np.sqrt(2))
    alone = summarize_forced(HAND[:1]).moved["low"]["temperature"]
    assert (alone.difference_se, alone.share_se) == (None, None)
    assert (low.problems, high.problems) == (0.5, 1.0)  # the second is left where it was by low


def test_table() -> None:
    assert forced_table(summarize_forced(HAND)).splitlines() == [
        "| same answer, command | T to plain | tokens moved so | problems |",
        "|---|---:|---:|---:|",
        "| low | -0.1250 ± 0.1250 | 33.3 ± 33.3 % | 50 % |",
        "| high | +0.2917 ± 0.0417 | 58.3 ± 8.3 % | 100 % |",
        "",
        "- the 3 plain answers, 8 tokens, read again under each command; ± standard error over problems. 50 % of the "
        "tokens move so by chance; problems: share whose mean over these tokens does.",
    ]


def test_along_an_answer() -> None:
    assert along(np.arange(40, dtype=np.float32)).tolist() == [float(i) for i in range(1, 40, 2)]
    assert along(np.array([1, 2], np.float32)).tolist() == [1.0] * 10 + [2.0] * 10


def test_what_is_written(tmp_path: Path) -> None:
    write_forced(tmp_path, HAND, plots=True)
    lines = [json.loads(text) for text in (tmp_path / "control_tokens.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "task": "t",
        "problem": 0,
        "sample": 1,
        "text": ["a", "a"],
        "temperature": {"plain": [1.0, 1.0], "low": [0.5, 1.0], "high": [1.0, 1.0]},
    }
    assert (tmp_path / "control.png").read_bytes().startswith(b"\x89PNG")
    write_forced(tmp_path, HAND, plots=False)
    assert [path.name for path in tmp_path.iterdir()] == ["control_tokens.jsonl"]


def test_each_line_is_what_llama_predicts() -> None:
    """Of answers of different lengths, one of them cut by what fits after the longest prompt."""
    machine = Machine(n_threads=1, cache_type="f32", flash_attn=False)
    said = "Tell a story about Mia with 47 and 38."
    messages = {"plain": said, "low": f"{said} Keep it predictable.", "high": f"{said} Surprise me, be wild."}
    with Engine(DEMO_MODEL, n_parallel=2, n_ctx=48, machine=machine) as engine:
        kinds = {kind: [make_item(engine, "t", 0, Problem(text, "", 1, "t"), None)] for kind, text in messages.items()}
        longest = max(len(items[0].tokens) for items in kinds.values())
        rng = np.random.default_rng(1)
        answers = {Key("t", 0, 0, i): rng.integers(3, 60, n).tolist() for i, n in enumerate((9, 60, 3))}
        found = list(read_forced(engine, kinds, answers))
    assert [len(one.text) for one in found] == [9, 48 - longest, 3]
    llama = Llama(DEMO_MODEL, n_ctx=64, verbose=False, n_threads=1, type_k=0, type_v=0)
    for one, answer in zip(found, answers.values(), strict=True):
        for kind, (item,) in kinds.items():
            llama.reset()
            n = len(one.text)
            for values, name in zip(llama.predict([*item.tokens, *answer[:n]]), ("temperature", "top_p"), strict=True):
                expected = values[len(item.tokens) - 1 :][:n]
                np.testing.assert_allclose(one.values[name][kind], expected, atol=1e-4, err_msg=f"{kind} {name}")
    llama.close()


# gemma2's activation is a table of F16
@pytest.mark.parametrize(("name", "near"), [("gemma2", 2e-3), ("cohere", 1e-5), ("granite", 1e-5)])
def test_the_heads_read_the_logits_before_a_cap_or_a_scale(name: str, near: float, tmp_path: Path) -> None:
    """T and P are those that the answers are drawn with."""
    family = Family(name, tmp_path)
    item = Item("t", 0, Problem("", "", 1, "t"), family.tokens[:4])
    with family.engine(2) as engine:
        drawn = engine.generate([Request(item.tokens, seed=seed, max_tokens=20) for seed in (1, 2)])
        answers = {Key("t", 0, 0, i): [t.id for t in one.trace] for i, one in enumerate(drawn)}
        found = list(read_forced(engine, {"plain": [item]}, answers))
    for line, one in zip(found, drawn, strict=True):
        for head in ("temperature", "top_p"):
            expected = [getattr(t, head) for t in one.trace]
            np.testing.assert_allclose(line.values[head]["plain"], expected, rtol=0, atol=near, err_msg=head)

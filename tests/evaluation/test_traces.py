"""The tokens of samples, kept beside them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, run, samples_of

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.methods import AUTODECO
from autodeco_gguf.evaluation.samples import Drawn, Key, Sample
from autodeco_gguf.evaluation.shards import join
from autodeco_gguf.evaluation.traces import TRACES, read_traces, trace_line

KEY = Key("sums", 1, 0, 2)


def sample(mean: float | None = 0.5) -> Sample:
    drawn = Drawn(mean, 0.0)
    return Sample(**KEY._asdict(), config=AUTODECO, text="é.", correct=True, error=None, finish_reason="stop", tokens=4,
                  temperature=drawn, top_p=Drawn(0.9, 0.0))  # fmt: skip


def result() -> Any:
    trace = [SimpleNamespace(text=text) for text in (b"\xc3", b"\xa9", b".", b"<|im_end|>")]
    values = np.float32([0.25, 1 / 3, 1, 2])
    return SimpleNamespace(trace=trace, tokens=[1, 2, 3], temperature=values, top_p=values / 2)


def test_a_line_has_what_is_certain_with_each_token() -> None:
    line = trace_line(sample(), result())
    assert line == {
        "task": "sums", "problem": 1, "seed": 0, "sample": 2, "config": "autodeco",
        "tokens": {
            "text": ["", "é", ".", ""], "temperature": [0.25, 0.3333, 1.0, 2.0], "top_p": [0.125, 0.1667, 0.5, 1.0],
        },
    }  # fmt: skip


def test_what_nobody_can_tell_is_left_out() -> None:
    assert "temperature" not in trace_line(sample(mean=None), result())["tokens"]


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / TRACES).read_text().splitlines()]


def test_they_are_kept_on_request_only(tmp_path: Path) -> None:
    run(tmp_path / "without", ["autodeco", "greedy"])
    assert not (tmp_path / "without" / TRACES).exists()
    run(tmp_path / "with", ["autodeco", "greedy"], also=["traces"])
    samples = {(s["config"], Key(*(s[n] for n in Key._fields))): s for s in samples_of(tmp_path / "with")}
    traces = read_traces(tmp_path / "with", set(samples))
    assert set(traces) == set(samples)
    for place, tokens in traces.items():
        assert "".join(token["text"] for token in tokens) == samples[place]["text"]
        mean = np.mean([token["temperature"] for token in tokens])
        assert mean == pytest.approx(samples[place]["temperature"]["mean"], abs=1e-3)


def test_an_evaluation_goes_on_with_them(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["autodeco"], engine=FakeEngine(stop_after=7), also=["traces"])
    run(tmp_path, ["autodeco", "greedy"], also=["traces"])
    lines = lines_of(tmp_path)
    assert len(lines) == len(samples_of(tmp_path)) == 25
    assert len({json.dumps([line["config"], *(line[n] for n in Key._fields)]) for line in lines}) == 25
    run(tmp_path, ["autodeco", "greedy", "default"])  # and without
    assert len(lines_of(tmp_path)) == 25


def test_join_takes_them_along(tmp_path: Path) -> None:
    from autodeco_gguf.evaluation.settings import Shard

    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        run(part, ["autodeco"], shard=Shard(number, 2), also=["traces"])
    join(parts, tmp_path / "all", plots=False)
    assert lines_of(tmp_path / "all") == lines_of(parts[0]) + lines_of(parts[1])


def test_only_those_that_are_wanted_are_read(tmp_path: Path) -> None:
    assert read_traces(tmp_path, {("autodeco", KEY)}) == {}
    line = json.dumps(trace_line(sample(), result()))
    (tmp_path / TRACES).write_text(f"{line}\n{line}\n")
    assert read_traces(tmp_path, set()) == {}
    ((place, tokens),) = read_traces(tmp_path, {("autodeco", KEY)}).items()
    assert (place, tokens[1]) == (("autodeco", KEY), {"text": "é", "temperature": 0.3333, "top_p": 0.1667})


@pytest.mark.parametrize(
    "line",
    [
        "{}", "[]", '{"config": "autodeco"}',
        '{"config": "autodeco", "task": "sums", "problem": 1, "seed": 0, "sample": 2, "tokens": {"text": 5}}',
        '{"config": ["autodeco"], "task": "sums", "problem": 1, "seed": 0, "sample": 2, "tokens": {}}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / TRACES).write_text(f"{json.dumps(trace_line(sample(), result()))}\n{line}\n")
    with pytest.raises(BadFile, match=r"traces\.jsonl:2: damaged: no tokens of a sample"):
        read_traces(tmp_path, {("autodeco", KEY)})

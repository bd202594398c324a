"""Samples: what a line holds, which seed it has, and which lines are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import (
    BOTH,
    FakeEngine,
    place,
    run,
    samples_of,
)

from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.samples import Key, Sample, drawn, sample_seed
from autodeco_gguf.model.sampling import Sampling


def test_a_line_of_samples(tmp_path: Path) -> None:
    run(tmp_path, ["autodeco", "autodeco:top_p", "autodeco:fixed-t", "default", "llama.cpp", "dynatemp", "mirostat2"])
    header, *sessions = (tmp_path / "evaluation.jsonl").read_text().splitlines()
    assert [json.loads(line)["config"] for line in sessions] == [
        *("autodeco", "autodeco:top_p-alone", "autodeco:top_p", "static:1,1", "llama.cpp", "dynatemp:0.5", "mirostat2"),
    ]
    assert json.loads(header) == {
        "evaluation": 1, "model": "0123456789abcdef", "heads": "fedcba9876543210", "ctx": 48,
        "cache_type": "f16", "flash_attn": True, "seed": 0, "max_tokens": None,
        "tasks": {
            "sums": {"problems": 3, "checker": "exact", "digest": json.loads(header)["tasks"]["sums"]["digest"]},
            "words": {"problems": 2, "checker": "exact", "digest": json.loads(header)["tasks"]["words"]["digest"]},
        },
        "shard": None,
    }  # fmt: skip
    found = {place(sample): sample for sample in samples_of(tmp_path)}
    at = ("words", 1, 1, 0)
    seed = sample_seed(0, Key("words", 1, 1, 0))
    engine = FakeEngine()
    drawn = engine._result(0, Request(list(b"<words 1>"), seed=seed))
    sample = found[("autodeco", *at)]
    assert list(sample) == [
        *("task", "problem", "config", "seed", "sample", "text", "correct", "error", "finish_reason", "tokens"),
        *("temperature", "top_p"),
    ]
    assert (sample["text"], sample["correct"], sample["error"]) == (drawn.text, not drawn.text.startswith("no"), None)
    assert (sample["finish_reason"], sample["tokens"]) == ("stop", len(drawn.temperature))
    for name, top in (("temperature", 2.0), ("top_p", 1.0)):
        values = getattr(drawn, name)
        assert sample[name]["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert sample[name]["sd"] == pytest.approx(values.std(), abs=1e-6)
        expected = [0] * 40
        for value in values.tolist():
            expected[min(39, int(value / top * 40))] += 1
        assert sample[name]["bins"] == expected
    for key in ("autodeco:top_p", "autodeco:top_p-alone"):
        assert found[(key, *at)]["temperature"] == {"mean": 1.0, "sd": 0.0}
        assert "bins" in found[(key, *at)]["top_p"]
    assert found[("static:1,1", *at)]["top_p"] == {"mean": 1.0, "sd": 0.0}
    # of llama.cpp's order a trace tells nothing: what is set, or nothing where it moves
    assert found[("llama.cpp", *at)]["temperature"] == {"mean": 0.8, "sd": 0.0}
    assert found[("llama.cpp", *at)]["top_p"] == {"mean": 0.95, "sd": 0.0}
    assert found[("dynatemp:0.5", *at)]["temperature"] == {"mean": None, "sd": None}
    assert found[("mirostat2", *at)]["top_p"] == {"mean": None, "sd": None}


def test_every_line_is_a_sample_so_that_it_reads_as_a_table(undisturbed: Path) -> None:
    """As pandas.read_json(path, lines=True) does it: one set of columns, each with values of one type."""
    rows = [json.loads(line) for line in (undisturbed / "samples.jsonl").read_bytes().splitlines()]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    types = {name: {type(row[name]) for row in rows} - {type(None)} for name in rows[0]}
    assert all(len(found) <= 1 for found in types.values()), types
    assert types["correct"] == {bool}


@pytest.mark.parametrize(
    ("value", "name", "place"),
    [
        (2.0, "temperature", 39),
        (2.5, "temperature", 39),
        (0.0, "temperature", 0),
        (1.0, "top_p", 39),
        (0.3, "top_p", 12),
    ],
)
def test_where_a_value_is_counted(value: float, name: str, place: int) -> None:
    result: Any = SimpleNamespace(**{name: np.full(3, value, np.float32)})
    found = drawn(name, Sampling(), result, BOTH)
    assert found.bins is not None
    assert [(i, n) for i, n in enumerate(found.bins) if n] == [(place, 3)]
    assert drawn(name, Sampling(), result, BOTH - {name}).bins is None
    assert drawn(name, Sampling(temperature=value, top_p=0.5), result, BOTH).bins is None


def test_seeds_of_samples() -> None:
    keys = [Key(t, p, s, n) for t in ("a", "b") for p in range(6) for s in range(6) for n in range(6)]
    seeds = [sample_seed(0, key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert max(seeds) < 1 << 31
    assert max(seeds) > 1 << 30
    assert not set(seeds) & {sample_seed(1, key) for key in keys}
    assert sample_seed(0, Key("aime24", 3, 0, 5)) == SEED_OF_ONE  # or the samples of older directories would change


SEED_OF_ONE = 1548637624


# ---- damaged lines ----

DRAWN = {"mean": 1.0, "sd": 0.0}
SAMPLE = {
    "task": "sums", "problem": 2, "config": "autodeco", "seed": 1, "sample": 0, "text": "x", "correct": True,
    "error": None, "finish_reason": "stop", "tokens": 3, "temperature": DRAWN, "top_p": DRAWN,
}  # fmt: skip
STRANGE = [
    json.dumps({**SAMPLE, **changed}).encode()
    for changed in (
        {"task": "others"}, {"problem": 3}, {"problem": -1}, {"seed": None}, {"sample": "1"}, {"correct": "yes"},
        {"seed": True}, {"text": 1}, {"tokens": None}, {"tokens": -3}, {"top_p": None}, {"top_p": {}},
        {"temperature": {**DRAWN, "bins": [1]}},
    )
]  # fmt: skip


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"task": 1', b"\xff", b'"x"', b"", b'{"config": []}', *STRANGE])
def test_damaged_lines_are_named(line: bytes, undisturbed: Path, tmp_path: Path) -> None:
    lines = (undisturbed / "samples.jsonl").read_bytes().splitlines()
    shutil.copy(undisturbed / "evaluation.jsonl", tmp_path)
    (tmp_path / "samples.jsonl").write_bytes(b"\n".join([*lines[:7], line, *lines[8:]]) + b"\n")
    with pytest.raises(AutoDecoError, match=r"samples\.jsonl:8: damaged: "):
        run(tmp_path)


def test_what_is_changed_in_them_is_what_is_wrong_with_them() -> None:
    assert Sample.from_json(SAMPLE, {"sums": {"problems": 3}}).key == ("sums", 2, 1, 0)

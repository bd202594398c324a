"""The whole explanation on the demo model: what is written, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import Case

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.explain.explain import check_outputs, draw_answers, explain
from autodeco_gguf.explain.findings import Findings
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.tasks import read_task
from autodeco_gguf.training.data import Counts
from autodeco_gguf.training.rollouts import RolloutSettings

ONE_THREAD = Machine(n_threads=1)


def test_the_demo_by_answers_drawn(tmp_path: Path) -> None:
    with (
        Engine(DEMO_MODEL, n_parallel=8, n_ctx=96, machine=ONE_THREAD) as engine,
        GradedTasks([read_task("demo", limit=12)]) as tasks,
    ):
        path = draw_answers(engine, tasks, tmp_path, RolloutSettings(k=3))
        counts = Counts()
        found = explain(engine, [path], tmp_path, counted=counts)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("answers.jsonl", "explain.html", "explain.json", "explain.png"),
    ]
    written = json.loads((tmp_path / "explain.json").read_text())
    assert (written["model"], written["heads"], written["data"]) == ("demo.gguf", "the model's own", ["answers.jsonl"])
    assert from_json(Findings, written) == found
    assert found.answers == counts.examples == len(path.read_text().splitlines())
    assert found.tokens == counts.predicted
    assert found.temperature is not None
    assert found.top_p is not None
    # these heads are known to sharpen where the model is unsure of what it must not be, and to cut there
    assert found.temperature.gain.sign == 1
    assert 0.3 < (found.temperature.share or 0) < 1
    assert found.top_p.lost < found.top_p.constant_lost
    with pytest.raises(AutoDecoError, match=r"explain\.json.*exists.*--force"):
        check_outputs(tmp_path, drawn=False, force=False)
    check_outputs(tmp_path, drawn=True, force=True)


def test_one_that_was_interrupted_goes_on_with_its_answers(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        Engine(DEMO_MODEL, n_parallel=4, n_ctx=96, machine=ONE_THREAD) as engine,
        GradedTasks([read_task("demo", limit=4)]) as tasks,
    ):
        path = draw_answers(engine, tasks, tmp_path, RolloutSettings(k=2))
        drawn = path.read_bytes()
        with pytest.raises(KeyboardInterrupt):
            explain(engine, [path], tmp_path, plots=False, watch=interrupt)
        check_outputs(tmp_path, drawn=True, force=False)
        with pytest.raises(AutoDecoError, match=r"partial: begun with k 2, this run has 3; delete it, or use --force"):
            draw_answers(engine, tasks, tmp_path, RolloutSettings(k=3))
        said: list[tuple[int, int]] = []
        draw_answers(
            *(engine, tasks, tmp_path, RolloutSettings(k=2)), watch=lambda s, total: said.append((s.continued, total))
        )
        assert (said, path.read_bytes()) == ([(4, 4)], drawn)  # nothing was drawn
        explain(engine, [path], tmp_path, plots=False)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.jsonl", "explain.html", "explain.json"]
        (tmp_path / "explain.json").unlink()
        (tmp_path / "explain.html").unlink()
        with pytest.raises(AutoDecoError, match=r"answers\.jsonl.*exists.*--force"):
            check_outputs(tmp_path, drawn=True, force=False)
        with pytest.raises(AutoDecoError, match=r"answers\.jsonl.*exists.*--force"):
            draw_answers(engine, tasks, tmp_path, RolloutSettings(k=2))


def test_one_head_has_one_part(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "Tell a story about Mia with 47 and 38.", "completion": " Mia has 85 shells."}\n')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "explain.png").write_bytes(b"of an earlier one")
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, heads_enabled=["top_p"], machine=ONE_THREAD) as engine:
        found = explain(engine, [data], tmp_path / "out", plots=False)
    assert found.temperature is None
    assert found.top_p is not None
    assert found.verdict.endswith("1 answer are too few for a verdict: at least 200 of 10 are needed.")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["explain.html", "explain.json"]


def test_without_matplotlib_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        monkeypatch.setattr(engine.context, "fill", None)
        with pytest.raises(AutoDecoError, match=r'^matplotlib is not installed; pip install .*"\.\[eval\]"$'):
            explain(engine, [data], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_refused(qwen2: Case, tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n')
    with (
        Engine(qwen2.base, n_parallel=1, n_ctx=32, machine=ONE_THREAD) as plain,
        pytest.raises(AutoDecoError, match=r"base\.gguf: has no heads to explain; give some with --heads"),
    ):
        explain(plain, [data], tmp_path / "out")
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        with pytest.raises(AutoDecoError, match=r"a\.jsonl:2: "):
            explain(engine, [data], tmp_path / "out")
        problems = tmp_path / "p.jsonl"
        problems.write_text('{"prompt": "Tell a story", "answer": "1"}\n')
        with (
            GradedTasks([read_task(str(problems), checker="exact")]) as tasks,
            pytest.raises(AutoDecoError, match=r"none of 2 samples is correct"),
        ):
            draw_answers(engine, tasks, tmp_path / "out", RolloutSettings(k=2, max_tokens=4))
    assert not (tmp_path / "out").exists()


def test_texts_are_problems_of_their_own(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    said = ("Near the harbour lives Mia.", "Near the river lives Tom.", "Mia has 85 shells.")
    data.write_text("".join(f"{json.dumps({'text': text})}\n" for text in said))
    with Engine(DEMO_MODEL, n_parallel=2, n_ctx=96, machine=ONE_THREAD) as engine:
        found = explain(engine, [data], tmp_path, plots=False)
    assert (found.answers, found.problems) == (3, 3)
    assert found.temperature is not None
    assert (found.temperature.gain.se or 0) > 0


def test_answers_to_one_prompt_are_of_one_problem(tmp_path: Path) -> None:
    """Whatever they begin with: " harbour" is one token with the space that the prompt ends in."""
    data = tmp_path / "a.jsonl"
    said = [("Near the ", "harbour lives Mia."), ("Near the ", "12 shells lie."), ("Near a ", "river lives Tom.")]
    data.write_text("".join(f"{json.dumps({'prompt': prompt, 'completion': text})}\n" for prompt, text in said))
    with Engine(DEMO_MODEL, n_parallel=2, n_ctx=96, machine=ONE_THREAD) as engine:
        found = explain(engine, [data], tmp_path, plots=False)
    assert (found.answers, found.problems) == (3, 2)


def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        explain(engine, [data], tmp_path / "out", plots=False)
    assert json.loads((tmp_path / "out" / "explain.json").read_text("utf-8"))["data"] == ["caf\ufffd.jsonl"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped from /proc")
def test_no_file_that_goes_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows would not remove it."""
    mapped = []

    class Looking(TemporaryDirectory[str]):
        def cleanup(self) -> None:
            mapped.append(self.name in Path("/proc/self/maps").read_text())
            super().cleanup()

    monkeypatch.setattr("autodeco_gguf.explain.explain.TemporaryDirectory", Looking)
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        explain(engine, [data], tmp_path / "out", plots=False)
    assert mapped == [False]


def test_a_directory_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    """And one that is made goes again with what it lies in, where nothing comes of the work."""
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "out"):
        with pytest.raises(AutoDecoError, match=r"file: is a file; give a directory"):
            check_outputs(out, drawn=True, force=True)
    check_outputs(tmp_path / "new" / "out", drawn=True, force=False)
    missing = tmp_path / "missing.jsonl"
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        for out in (file, file / "out"):
            with pytest.raises(AutoDecoError, match=r"file: cannot be made: "):
                explain(engine, [missing], out)
        with pytest.raises(AutoDecoError, match=r"missing\.jsonl: "):
            explain(engine, [missing], tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_all_is_written_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "Tell a story about Mia with 47 and 38.", "completion": " Mia has 85 shells."}\n')
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=96, machine=ONE_THREAD) as engine:
        monkeypatch.setattr(engine.context, "fill", None)  # nothing is read
        for name in ("explain.html", "explain.png"):
            out = tmp_path / name
            (out / name).mkdir(parents=True)
            with pytest.raises(AutoDecoError, match=f"{name}: is a directory; give a file name"):
                explain(engine, [data], out, plots=False)
            with pytest.raises(AutoDecoError, match=f"{name}: is a directory; give a file name"):
                check_outputs(out, drawn=True, force=True)
            assert [path.name for path in out.iterdir()] == [name]

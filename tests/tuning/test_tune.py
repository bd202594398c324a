"""Whole tunings on an engine that is made up: the winner is found, nothing is drawn twice, an end is an end."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_engine import FakeGrader
from tuning_helpers import MODEL, SETTINGS, SPEED, TASKS, TuneEngine, task, tuned

from autodeco_gguf.answers import items
from autodeco_gguf.errors import BadFile, Busy, InvalidInput
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.tuning import tune as module
from autodeco_gguf.tuning.plan import TRAININGS, Plan, Speed
from autodeco_gguf.tuning.search import Rung
from autodeco_gguf.tuning.tune import TuneProgress, TuneWatch

pytestmark = pytest.mark.usefixtures("made_up")

TRAINING = ("problems", "k", "validations", "start_rounds", "start_steps")


def result(output: Path) -> Any:
    values = json.loads((output / "result.json").read_text())
    del values["seconds"]
    return values


def test_the_best_pair_is_found(tmp_path: Path) -> None:
    found = tuned(tmp_path)
    assert found.verdict.chosen == "pair"
    assert found.chosen.config.pair == (0.7, 0.85)
    values = result(tmp_path)
    assert (values["temperature"], values["top_p"], values["adapter"]) == (0.7, 0.85, None)
    assert values["command"] == "autodeco-gguf run m.gguf --temperature 0.7 --top-p 0.85"
    assert values["rows"]["pair"]["mean"] == pytest.approx(0.9, abs=0.05)
    assert values["rows"]["llama.cpp"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert (tmp_path / "report.md").read_text().startswith("# How to decode with m.gguf on sums, words\n\nTake T = 0.7")
    assert [arguments["heads_enabled"] for arguments in TuneEngine.opened] == [()]


def test_what_the_chat_template_reads_besides(tmp_path: Path) -> None:
    tuned(tmp_path, replace(SETTINGS, chat_template_kwargs={"enable_thinking": False}))
    assert [arguments["chat_template_kwargs"] for arguments in TuneEngine.opened] == [{"enable_thinking": False}]


def test_test_problems_are_asked_in_the_test_only(tmp_path: Path) -> None:
    found = tuned(tmp_path)
    tested = {p.text for t in found.parts.test for p in t.problems}
    assert len(tested) == 24
    assert not tested & {p.text for t in found.parts.search for p in t.problems}
    right = {p.answer for t in found.parts.search for p in t.problems}
    for path in (tmp_path / "search").rglob("samples.jsonl"):
        assert {s["text"].rstrip("!") for s in map(json.loads, path.read_text().splitlines()) if s["correct"]} <= right


def test_greedy_where_nothing_is_better(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(TuneEngine, "CHANCE", staticmethod(lambda t, p: 0.5))
    assert tuned(tmp_path).verdict.chosen == "greedy"
    assert result(tmp_path)["command"] == "autodeco-gguf run m.gguf --temperature 0"


def test_what_is_different_and_right_wants_heat(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(TuneEngine, "CHANCE", staticmethod(lambda t, p: 0.9 if t <= 0.7 else 0.1))
    found = tuned(tmp_path, replace(SETTINGS, reward="distinct", k=4))
    assert found.verdict.chosen == "pair"
    assert found.chosen.config.pair is not None
    assert found.chosen.config.pair[0] == 0.7  # of those that are right, it has the most forms
    assert result(tmp_path)["measure"] == "distinct@4"


def test_the_plan_has_the_time_that_a_function_takes(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    """It is asked of the answers that are looked at first, as of all others."""

    def look(engine: object, grade: Callable[[items.Item, str], object], of: list[items.Item], **_: object) -> Speed:
        grade(of[0], "the first look")
        return SPEED

    (tmp_path / "noted.py").write_text(
        "def score(prompt, text, answer):\n"
        "    with open('asked', 'a') as f:\n"
        "        print(prompt, text, sep=': ', file=f)\n"
        "    return 1.0\n"
    )
    made_up.chdir(tmp_path)
    made_up.setattr(module, "measure_speed", look)
    tuned(tmp_path / "out", replace(SETTINGS, reward="noted:score"))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert re.fullmatch(r"(sums|words) \d+: the first look", asked[0])
    assert len(asked) > 1


def test_own_heads_are_compared(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(TuneEngine, "HEADS", 0.99)
    made_up.setattr(module, "_own_heads", lambda model, heads: Heads())
    found = tuned(tmp_path, heads=Path("own.gguf"))
    assert found.verdict.chosen == "own heads"
    assert result(tmp_path)["command"] == "autodeco-gguf run m.gguf --heads own.gguf"
    assert [arguments["heads_enabled"] for arguments in TuneEngine.opened] == [(), None]


@pytest.fixture
def trained(made_up: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """There is time for heads, whose training takes none; what it is told."""
    told: list[tuple[Any, ...]] = []

    def train(model: Path, start: Path | None, tasks: Any, output: Path, *rest: Any) -> Path:
        told.append((model, start, [len(task.problems) for task in tasks.tasks], output, rest[1]))
        return output / "heads.gguf"

    rungs = Rung(31, 12), Rung(10, 30), Rung(4, 60)
    plan = Plan(60.0, False, rungs, TRAININGS[1], 20, 24, 6, 20.0, 20.0, 20.0)
    made_up.setattr(module, "train_heads", train)
    made_up.setattr(module, "obstacle", lambda settings: None)
    made_up.setattr(module, "validation_problems", lambda n: 8)
    made_up.setattr(module, "make_plan", lambda *args, **kwargs: plan)
    return told


def test_trained_heads_win(tmp_path: Path, trained: list[tuple[Any, ...]], made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(TuneEngine, "HEADS", 0.995)
    made_up.setattr(TuneEngine, "CHANCE", staticmethod(lambda t, p: 0.7 if (t, p) == (0.7, 0.85) else 0.4))
    found = tuned(tmp_path)
    assert found.verdict.chosen == "heads"
    assert result(tmp_path)["adapter"] == str(tmp_path / "heads.gguf")
    assert result(tmp_path)["rows"]["mean of heads"]["mean"] == pytest.approx(0.4, abs=0.1)
    assert [(call[0], call[1], call[2], call[3]) for call in trained] == [(MODEL, None, [24, 12], tmp_path)]
    assert trained[0][4].rounds == 20
    assert [arguments["heads"] for arguments in TuneEngine.opened] == [None, tmp_path / "heads.gguf"]


def test_the_model_is_loaded_once_at_a_time(
    tmp_path: Path, trained: list[tuple[Any, ...]], made_up: pytest.MonkeyPatch
) -> None:
    """A training loads it for itself, and takes as much memory."""
    loaded: list[int] = []
    made_up.setattr(TuneEngine, "close", lambda self: loaded.append(len(trained)))
    tuned(tmp_path)
    assert loaded[0] == 0  # that of the search, before anything is trained


def test_trained_heads_lose(tmp_path: Path, trained: list[tuple[Any, ...]], made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(module, "_own_heads", lambda model, heads: Heads())
    found = tuned(tmp_path, heads=Path("own.gguf"))
    assert found.verdict.chosen == "pair"
    assert set(found.rows) == {
        *("greedy", "default", "llama.cpp", "pair"),
        *("own heads", "mean of own heads", "heads", "mean of heads"),
    }
    assert trained[0][1] == (Path("own.gguf"), ("temperature", "top_p"))  # what training starts from
    assert result(tmp_path)["adapter"] is None


class Heads:
    mlps: ClassVar = {"top_p": None, "temperature": None}

    def fingerprint(self) -> str:
        return "feed" * 16


def test_any_interruption_leads_to_the_same_end(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    tuned(tmp_path / "whole")
    total = TuneEngine.total
    assert total > 900
    for stop in (1, total // 2, total):
        TuneEngine.total = 0
        made_up.setattr(TuneEngine, "stop_at", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "cut")
        made_up.setattr(
            module, "measure_speed", lambda *args, **kwargs: Speed(7.0, 1.0, 1.0)
        )  # it is not planned again
        tuned(tmp_path / "cut")
        assert TuneEngine.total - total <= SETTINGS.n_parallel  # what was under way
        assert result(tmp_path / "cut") == result(tmp_path / "whole")
        made_up.setattr(module, "measure_speed", lambda *args, **kwargs: SPEED)
        shutil.rmtree(tmp_path / "cut")


def test_what_is_finished_is_not_drawn_again(tmp_path: Path) -> None:
    tuned(tmp_path)
    before, total = result(tmp_path), TuneEngine.total
    assert tuned(tmp_path).seconds > 0
    assert TuneEngine.total == total
    assert result(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"minutes": 2.0}, "begun with minutes 1.0, this run has 2.0; use the same settings, or another directory"),
        ({"reward": "any"}, "begun with reward correct, this run has any"),
        ({"seed": 1}, "begun with seed 0, this run has 1"),
        ({"n_parallel": 8}, "begun with parallel 4, this run has 8"),
        ({"chat_template_kwargs": {"a": 1}}, r"begun with chat_template_kwargs\.a none, this run has 1"),
    ],
)
def test_another_tuning_in_the_directory(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    tuned(tmp_path)
    with pytest.raises(BadFile, match=message):
        tuned(tmp_path, replace(SETTINGS, **changed))


def test_two_at_once(tmp_path: Path) -> None:
    tuned(tmp_path)
    with Journal(tmp_path / "tune.jsonl", None), pytest.raises(Busy, match="in use by another run"):
        tuned(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        lambda plan: plan.pop("rungs"),
        lambda plan: plan["rungs"].clear(),
        lambda plan: plan["rungs"][-1].update(candidates=0),
        lambda plan: plan["rungs"][0].update(problems=0),
        lambda plan: plan.update(test_times=0),
        lambda plan: plan.update(test_problems=-1),
        lambda plan: plan.update(
            training={"problems": 0, "k": 1, "validations": 1, "start_rounds": 1, "start_steps": 1}
        ),
    ],
    ids=range(7),
)
def test_a_damaged_plan(changed: Callable[[Any], object], tmp_path: Path) -> None:
    tuned(tmp_path)
    path = tmp_path / "tune.jsonl"
    header, line, *rest = path.read_text().splitlines()
    planned = json.loads(line)
    changed(planned["plan"])
    path.write_text("\n".join([header, json.dumps(planned), *rest]) + "\n")
    with pytest.raises(BadFile, match=r"tune\.jsonl:2: damaged: no plan; use the same settings, or another directory"):
        tuned(tmp_path)


@pytest.mark.parametrize("name", ["report.md", "result.json", "heads.gguf", "heads", "search"])
def test_what_is_there_without_a_plan_is_not_of_this_tuning(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadFile, match=rf"/{name}: is there without the tune\.jsonl that it would be of; use the same"):
        tuned(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_plan_that_is_cut_off_leaves_what_there_is(tmp_path: Path) -> None:
    tuned(tmp_path)
    path = tmp_path / "tune.jsonl"
    header = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(header)
    with pytest.raises(BadFile, match=r"/search: is there without the tune\.jsonl that it would be of; use the same"):
        tuned(tmp_path)
    assert path.read_bytes().startswith(header)


@pytest.mark.parametrize(
    "line",
    ["5", "[]", '"seconds"', '{"seconds": null}', '{"seconds": "5"}', '{"seconds": -1}', f'{{"seconds": {10**400}}}'],
)
def test_damaged_seconds(tmp_path: Path, line: str) -> None:
    tuned(tmp_path)
    path = tmp_path / "tune.jsonl"
    header, *lines = path.read_text().splitlines()
    path.write_text("".join(f"{text}\n" for text in (header, line, *lines)))
    message = r"tune\.jsonl:2: damaged: no seconds; use the same settings, or another directory"
    with pytest.raises(BadFile, match=message):
        tuned(tmp_path)


def test_how_programs_may_run(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    """It is for the graders to refuse, and no part of what a tuning depends on."""
    allowed: list[object] = []

    class Grader(FakeGrader):
        def __init__(self, checker: str, time_limit: float, allow_code: object = None) -> None:
            allowed.append(allow_code)

    made_up.setattr(items, "Grader", Grader)
    tuned(tmp_path, replace(SETTINGS, allow_code="unisolated"))
    total = TuneEngine.total
    tuned(tmp_path, replace(SETTINGS, allow_code="isolated"))
    tuned(tmp_path)
    assert allowed == ["unisolated", "isolated", None]
    assert TuneEngine.total == total


def test_where_the_model_lies_is_kept(tmp_path: Path) -> None:
    assert tuned(tmp_path).file == Path("here/m.gguf")


def test_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="24 different problems, expected at least 25"):
        module.tune(MODEL, [task("sums", 24)], tmp_path, SETTINGS)
    with pytest.raises(InvalidInput, match=r"^minutes 0\.001: "):
        tuned(tmp_path / "short", replace(SETTINGS, minutes=0.001))
    assert not (tmp_path / "short").exists()
    (tmp_path / "short").mkdir()
    with pytest.raises(InvalidInput, match=r"^minutes 0\.001: "):
        tuned(tmp_path / "short", replace(SETTINGS, minutes=0.001))
    assert list((tmp_path / "short").iterdir()) == []  # so that more minutes may be given
    assert TuneEngine.total == 0


def test_progress_and_plan_are_told(tmp_path: Path) -> None:
    plans: list[tuple[Plan, Speed]] = []
    said: list[TuneProgress] = []
    tuned(tmp_path, watch=TuneWatch(plan=lambda *args: plans.append(args), progress=said.append))
    ((plan, speed),) = plans
    assert speed == SPEED
    assert plan.rounds == 0
    assert plan.heads_s is None
    assert {p.total for p in said} == {60.0}
    assert [p.seconds for p in said] == sorted(p.seconds for p in said)
    stages = list(dict.fromkeys(p.text.partition(", static")[0].partition(", llama")[0] for p in said))
    assert stages[:3] == ["reading problems", "measuring", "search, round 1 of 3"]
    assert stages[-1] == "test of pairs"


def test_seconds_of_all_runs_count(tmp_path: Path, made_up: pytest.MonkeyPatch) -> None:
    made_up.setattr(TuneEngine, "stop_at", 600)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    first = sum(line.get("seconds", 0.0) for line in lines)
    assert first > 0.3
    made_up.setattr(TuneEngine, "stop_at", None)
    assert tuned(tmp_path).seconds > first + 0.1


def test_seconds_of_a_run_that_was_killed_count(tmp_path: Path) -> None:
    seconds: list[float] = []
    killed = tmp_path / "killed"

    def kill(progress: TuneProgress) -> None:
        if progress.text.startswith("test of pairs") and not killed.exists():
            shutil.copytree(tmp_path / "run", killed)  # as it lies there at that moment
            seconds.append(progress.seconds)

    passed = itertools.count(0.0, 0.01)
    module.tune(MODEL, TASKS, tmp_path / "run", SETTINGS, clock=lambda: next(passed), watch=TuneWatch(progress=kill))
    assert seconds[0] > 2 * module.WRITTEN_S
    goes_on = module.tune(MODEL, TASKS, killed, SETTINGS, clock=lambda: 0.0)
    assert goes_on.seconds > seconds[0] - module.WRITTEN_S


def test_a_problem_that_is_there_again_is_no_evidence_of_its_own(tmp_path: Path) -> None:
    """Each of 30 problems stands in one task four times, and in another once more."""
    many = task("sums", 30)
    tasks = (replace(many, problems=many.problems * 4), replace(many, name="again"))
    ticks = itertools.count()
    found = module.tune(MODEL, tasks, tmp_path, SETTINGS, clock=lambda: next(ticks) / 1000)
    assert (found.plan.test_problems, len(found.tested), set(found.tested)) == (60, 12, {"sums"})
    assert {row.values.shape for row in found.rows.values()} == {(12,)}
    assert max(one.problems for one in found.found) == 18
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# How to decode with m.gguf on sums, again\n")
    assert "With 12 problems to compare on only large differences show." in text
    assert "30 problems, split by seed 0: 18 to search and train on, 12 to compare on." in text


def test_a_problem_of_two_tasks_counts_once_where_time_is_short(tmp_path: Path) -> None:
    tasks = (task("sums", 30), replace(task("sums", 30), name="again"))
    settings = replace(SETTINGS, minutes=0.01, reward="distinct")
    with pytest.raises(InvalidInput) as refused:
        module.tune(MODEL, tasks, tmp_path, settings, clock=lambda: 0.0)
    enough: Any = refused.value.expected
    found = module.tune(MODEL, tasks, tmp_path, replace(settings, minutes=enough), clock=lambda: 0.0)
    assert 10 <= len(found.tested) < found.plan.test_problems < 24

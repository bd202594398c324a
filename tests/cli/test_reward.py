"""autodeco-gguf train --reward: what it prints, and a line for what does not go together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken import assert_refused, invoke
from conftest import Case
from training_helpers import jsonl, tame

from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL as DEMO
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.policy import Limits
from autodeco_gguf.training.reward import RewardOptions
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.settings import Objective

Capture = pytest.CaptureFixture[str]

QUICK = (
    *("--checker", "even", "-k", 4, "--rounds", 2, "--batch", 3, "-n", 6, "-c", 64, "--parallel", 4, "-t", 1),
    *("--evaluations", 1, "--from", "new"),
)


@pytest.fixture(scope="module", autouse=True)
def _tame() -> Iterator[None]:
    with tame():
        yield


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "p.jsonl", *({"prompt": f"Hello {i}", "answer": 1} for i in range(8)))


def test_what_it_prints(qwen2: Case, problems: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "my heads"
    done = invoke(capfd, "train", qwen2.base, "--reward", "correct", "--task", problems, "-o", out, *QUICK)
    assert done.status == 0, done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    start, first, second, validation, checkpoint, adapter = lines
    number = r"\d+\.\d\d"
    shown = (
        rf"reward \d\.\d{{3}}, pass@1 \d\.\d{{3}}, distinct {number}, T {number} \+- {number}, "
        rf"P {number} \+- {number}, "
        r"\d tokens, \d+% of the problems differ"
    )
    assert re.fullmatch(rf"validation of the start: {shown}", start)
    assert re.fullmatch(rf"round 1 of 2: {shown}, \d+ s", first)
    assert re.fullmatch(rf"round 2 of 2: {shown}, \d+ s", second)
    assert re.fullmatch(rf"validation: {shown}", validation)
    assert re.fullmatch(rf"{out}: the checkpoint, after round [02]", checkpoint)
    base = shlex.quote(str(qwen2.base))
    assert adapter == f"{out}.gguf: the adapter, for autodeco-gguf run {base} --heads '{out}.gguf'"
    head, columns, *rows, verdict = done.out.splitlines()
    assert head == "4 answers to each of 2 validation problems:"
    assert columns.split() == ["reward", "pass@1", "pass@k", "distinct", "T", "P", "tokens"]
    assert [row[:10].strip() for row in rows] == ["start", "round 2"]
    assert sum(row.endswith("  kept") for row in rows) == 1
    assert re.match(r"Round 2 is kept: reward|No round was better than the start", verdict)
    again = invoke(capfd, "train", qwen2.base, "--reward", "correct", "--task", problems, "-o", out, *QUICK)
    assert_refused(again, f"{out}/config.json: exists; use --force to replace it")


def test_chat_template_kwargs_reach_the_model(qwen2: Case, problems: Path, tmp_path: Path, capfd: Capture) -> None:
    command = ("train", qwen2.base, "--reward", "correct", "--task", problems, "-o", tmp_path / "o", *QUICK)
    refused = invoke(capfd, *command, "--chat-template-kwargs", '{"enable_thinking": false}')
    assert_refused(refused, f"chat template kwargs: {qwen2.base} has no chat template", status=2)


def test_a_reward_of_ones_own(
    qwen2: Case, problems: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, text and answer reach it; where it fails, the problem is named, and a mended one goes on."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "my_reward.py"
    command = ("train", qwen2.base, "--reward", "my_reward:score", "--task", problems, "-o", tmp_path / "o", *QUICK)
    own.write_text("def score(prompt, text, answer):\n    return 1 / (len(text) - len(text))\n")
    failed = invoke(capfd, *command)
    assert failed.status == 1
    assert re.search(r"\nerror: .*p\.jsonl:\d: reward my_reward:score: ZeroDivisionError: ", "\n" + failed.err)
    own.write_text(
        "def score(prompt, text, answer):\n    assert prompt[:6] == 'Hello ' and answer == '1'\n    return len(text)\n"
    )
    done = invoke(capfd, *command)
    assert done.status == 0, done.err
    assert float(re.findall(r"reward (\d+\.\d+)", done.err)[0]) > 1


def test_every_option_reaches_its_setting(
    problems: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def spy(base: Path, tasks: object, output: Path, settings: RewardSettings, **how: Any) -> None:
        calls.append((settings, how["options"], how["force"], how["machine"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("autodeco_gguf.training.reward.train_reward", spy)
    given = ("train", "x.gguf", "--reward", "any", "--task", problems, "--checker", "even", "-o", tmp_path / "o")
    assert invoke(capfd, *given).status == 130
    options = (
        *("-k", 8, "--rounds", 3, "--batch", 5, "-n", 9, "-c", 99, "--parallel", 2, "--pull", 0.5, "--alpha", 20),
        *("--t-range", "0.2,1", "--p-range", "0.3,0.9", "--sort-tolerance", 0.5, "--lr", 0.1, "--weight-decay", 0.2),
        *("--clip", 2, "--validation", 0.3, "--evaluations", 2, "--patience", 1, "--seed", 4, "--time-limit", 7),
        *("--from", "new", "--head-widths", 8, "--heads", "top-p", "--base-name", "b", "--force", "-t", 1),
    )
    assert invoke(capfd, *given, *options).status == 130
    assert calls[0] == (RewardSettings("any"), RewardOptions(n_parallel=32), False, Machine())
    settings = RewardSettings(
        *("any", Objective(("top_p",), alpha=20.0, sort_tolerance=0.5), HeadKind((8,)), 8, 3, 5, 9, 0.1, 0.2, 2.0),
        limits=Limits(0.5, (0.2, 1.0), (0.3, 0.9)), validation=0.3, evaluations=2, patience=1, seed=4,
    )  # fmt: skip
    how = RewardOptions("new", n_ctx=99, n_parallel=2, time_limit=7.0, base_name="b")
    assert calls[1] == (settings, how, True, Machine(n_threads=1))


ARGS: list[object] = ["x.gguf", "-o", "o"]
REWARD: list[object] = [*ARGS, "--reward", "correct", "--task", "p.jsonl"]
USAGE: dict[str, tuple[list[object], str]] = {
    "neither": (ARGS, "Missing option '--data', or '--reward' and '--task'."),
    "no task": ([*ARGS, "--reward", "correct"], "Missing option '--task'."),
    "no such reward": (
        [*REWARD, "--reward", "best"],
        "reward 'best', expected one of correct, any, distinct, or module",
    ),
    "k": ([*REWARD, "-k", 1], "k 1, expected at least 2: an answer is weighed against the others to its problem"),
    "no k": ([*REWARD, "-k", 0], "k 0, expected 2 to"),
    "rounds": ([*REWARD, "--rounds", 0], "rounds 0, expected 1 to"),
    "problems": ([*REWARD, "--batch", 0], "problems 0, expected 1 to"),
    "validation": ([*REWARD, "--validation", 0.9], "validation 0.9, expected 0 to 0.5"),
    "t": ([*REWARD, "--t-range", "0.1,3"], "t_range 0.1,3, expected two numbers LOW,HIGH from 0 to 2"),
    "p": ([*REWARD, "--p-range", "0.9,0.1"], "p_range 0.9,0.1, expected two numbers LOW,HIGH from 0 to 1"),
    "no range": ([*REWARD, "--p-range", "low"], "--p-range 'low', expected two numbers LOW,HIGH"),
    "pull": ([*REWARD, "--pull", -1], "pull -1, expected 0 to"),
    "own": ([*REWARD, "--reward", "nowhere:f"], "reward 'nowhere:f': 'nowhere' cannot be imported"),
    "data": ([*REWARD, "--data", "d"], "--data has no effect with --reward"),
    "epochs": ([*REWARD, "--epochs", 2], "--epochs has no effect with --reward"),
    "steps": ([*REWARD, "--steps", 2], "--steps has no effect with --reward"),
    "mask": ([*REWARD, "--easy-mask", 0], "--easy-mask has no effect with --reward"),
    "dft": ([*REWARD, "--no-dft"], "--dft has no effect with --reward"),
    "control": ([*REWARD, "--control"], "--control has no effect with --reward"),
    "task without": ([*ARGS, "--data", "d", "--task", "p"], "--task needs --reward"),
    "pull without": ([*ARGS, "--data", "d", "--pull", 1], "--pull needs --reward"),
    "tokens without": ([*ARGS, "--data", "d", "-n", 5], "--max-tokens needs --reward"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(
    name: str, problems: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args, message = USAGE[name]
    if "nowhere" in message:
        args = [DEMO if x == "x.gguf" else x for x in args] + ["--checker", "exact"]
    assert_refused(invoke(capfd, "train", *args), message, "--help)", status=2)
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]

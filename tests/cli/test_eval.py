"""autodeco-gguf eval: what it prints and where, and one line for every kind of bad input."""

from __future__ import annotations

import json
import math
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken import STRIKE, Outcome, Terminal, assert_refused, invoke, spawn
from conftest import Case
from fake_engine import Loaded, samples_of
from training_helpers import chat_base

from autodeco_gguf.cli import cli
from autodeco_gguf.cli import eval as eval_module
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.evaluation.drawing import Progress
from autodeco_gguf.evaluation.methods import HELP, config_of
from autodeco_gguf.model.machine import Machine

Capture = pytest.CaptureFixture[str]
Invoke = Callable[..., Outcome]

# ---- what they print ----


def test_what_it_prints(run: Invoke) -> None:
    done = run()
    assert done.status == 0, done.err
    results = json.loads(Path("out/results.json").read_text())
    assert done.out.startswith("sums, 3 problems:\n\nmethod ")
    assert " ".join(done.out.split()).endswith(" ".join(results["verdict"].split()))
    assert max(map(len, done.out.splitlines())) <= 80
    greedy, left, default, where = done.err.splitlines()
    assert re.fullmatch(r"method 1 of 2, greedy: static:0,1, 3 of 3 right, \d+ tokens/s", greedy)
    assert re.fullmatch(r"left: about 12 answers, \d+ tokens at \d+ tokens/s: 0 minutes", left)
    right = sum(s["correct"] for s in samples_of(Path("out")) if s["config"] == "static:1,1")
    assert re.fullmatch(rf"method 2 of 2, default: static:1,1, {right} of 12 right, \d+ tokens/s", default)
    assert where == "out: report.md, results.json, samples.jsonl"
    assert sorted(p.name for p in Path("out").iterdir()) == [
        *("evaluation.jsonl", "problems.jsonl", "report.md", "results.json", "samples.jsonl"),
    ]


def test_the_wide_table(run: Invoke) -> None:
    narrow, wide = run(), run("--wide")
    assert wide.status == 0, wide.err
    assert wide.out != narrow.out
    assert wide.out.rstrip() in Path("out/report.md").read_text().replace("\n\nWhich", "\nWhich")
    assert wide.out.startswith("sums, 3 problems:\n\n| method ")


def test_the_same_again_draws_nothing_and_prints_the_same(run: Invoke) -> None:
    first, again = run(), run()
    assert (again.status, again.out) == (0, first.out)
    assert again.err == "out: report.md, results.json, samples.jsonl\n"
    assert Loaded.last.drawn == []


def test_all_options_have_an_effect(run: Invoke, tasks: Path) -> None:
    (tasks / "more.jsonl").write_text('{"problem": "more", "gt": "more"}\n' * 3)
    done = run(
        "--task", "more.jsonl", "--limit", 2, "--seed", 7, "-n", 9, "-c", 40, "--parallel", 3, "--heads", "h.gguf",
        "--search-samples", 1, "-t", 5, "--gpu-layers", 6, "-v", "--time-limit", 4,
        "--chat-template-kwargs", '{"a": 1}', "--traces", methods="oracle",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert Loaded.model == Path("m.gguf")
    assert Loaded.arguments == {
        "n_parallel": 3, "batching": Batching(batch_invariant=True),
        "n_ctx": 40, "heads": Path("h.gguf"), "machine": Machine(n_threads=5, n_gpu_layers=6, verbose=True),
        "chat_template_kwargs": {"a": 1},
    }  # fmt: skip
    results = json.loads((tasks / "out" / "results.json").read_text())
    assert results["settings"] == {
        "tasks": ["sums", "more"], "k": 2, "seeds": 2, "seed": 7, "max_tokens": 9, "search_samples": 1,
            "validation": None,
    }  # fmt: skip
    assert results["tasks"] == {"sums": 2, "more": 2}
    assert {r.max_tokens for r in Loaded.last.drawn} == {9}
    assert (tasks / "out" / "traces.jsonl").read_text().count("\n") == len(Loaded.last.drawn)
    assert len(Loaded.last.drawn) == 28 * 4 * 1 + 4 * 2 * 2  # the search, and the pair that was found


def test_the_default_methods_and_plots(tasks: Path, capfd: Capture) -> None:
    done = invoke(
        capfd, "eval", "m.gguf", "--task", "sums.jsonl", "--checker", "exact", "-o", "o", "-k", 1, "--seeds", 2
    )
    assert done.status == 0, done.err
    rows = json.loads(Path("o/results.json").read_text())["methods"]
    assert [row["name"] for row in rows] == [name.partition("[")[0] for name in HELP if name not in NOT_BY_DEFAULT]
    assert done.err.endswith("o: report.md, results.json, samples.jsonl and plots\n")
    assert {"accuracy.png", "pass_at_1.png", "pass_at_k.png", "parameters.png"} <= {p.name for p in Path("o").iterdir()}


NOT_BY_DEFAULT = ("static:T,P", "distinct", "autodeco:fixed-t", "model", "all")


def test_without_a_model_it_is_the_demo_on_its_task(tasks: Path, capfd: Capture) -> None:
    from autodeco_gguf.model.shipped import DEMO_MODEL

    command = ("-o", "o", "-k", 1, "--seeds", 1, "--limit", 2, "--methods", "greedy", "--no-plots")
    done = invoke(capfd, "eval", *command)
    assert done.status == 1  # its prompts are too long for what is made up
    assert Loaded.model == DEMO_MODEL
    assert done.err.startswith("model: the demo that comes with the package\nerror: demo:1: the prompt has")


@pytest.fixture
def demo_commands() -> list[object]:
    return ["-k", 2, "--seeds", 1, "--limit", 2, "-c", 160, "--no-plots", "-t", 1]


def test_the_demo_itself(demo_commands: list[object], tmp_path: Path, capfd: Capture) -> None:
    done = invoke(capfd, "eval", "-o", tmp_path / "o", *demo_commands, "--methods", "autodeco,greedy,mirostat2,min-p")
    assert done.status == 0, done.err
    samples = {config: [] for config in ("autodeco", "static:0,1", "mirostat2", "min-p:0.05")}
    for sample in samples_of(tmp_path / "o"):
        samples[sample["config"]].append(sample)
    assert {config: len(found) for config, found in samples.items()} == {
        "autodeco": 4, "static:0,1": 2, "mirostat2": 4, "min-p:0.05": 4,
    }  # fmt: skip
    for sample in samples["autodeco"]:
        assert sample["finish_reason"] == "stop"
        assert sum(sample["temperature"]["bins"]) == sum(sample["top_p"]["bins"]) == sample["tokens"]
        assert 0 < sample["temperature"]["mean"] < 2
    assert all(s["temperature"] == {"mean": 1.0, "sd": 0.0} for s in samples["min-p:0.05"])
    assert sum(s["correct"] for s in samples["static:0,1"]) == 2


def test_mean_shift_from_elsewhere_without_mean_shift(run: Invoke) -> None:
    words = "--mean-shift-from needs mean-shift among the methods"
    assert_refused(run("--mean-shift-from", "other", "--methods", "autodeco,greedy"), words, status=2)


def test_mean_shift_from_elsewhere(run: Invoke) -> None:
    assert run("-o", "held", methods="autodeco").status == 0
    (row,) = json.loads(Path("held/results.json").read_text())["methods"]
    done = run("--mean-shift-from", "held", methods="autodeco,mean-shift")
    assert done.status == 0, done.err
    results = json.loads(Path("out/results.json").read_text())
    constants = (f"{row[name]['mean']:.4f}" for name in ("temperature", "top_p"))
    assert results["methods"][1]["config"] == f"static:{','.join(f'{float(text):g}' for text in constants)}"
    assert results["settings"]["validation"] == "sums"


def test_how_often_the_graders_differ(tasks: Path, capfd: Capture) -> None:
    given = ("--task", "sums.jsonl", "--methods", "default", "-k", 2, "--seeds", 1, "--no-plots", "-o", "o")
    done = invoke(capfd, "eval", "m.gguf", *given, "--grader", "official")
    assert done.status == 0, done.err
    assert done.out.endswith(
        "\n\n- sums: official and math-verify differ on 0 of 6 answers (0.0 %); 0 are right by official alone, "
        "0 by math-verify alone\n"
    )
    found = {"task": "sums", "samples": 6, "official_only": 0, "math_verify_only": 0}
    assert json.loads(Path("o/graders.json").read_text()) == [found]
    header = json.loads(Path("o/evaluation.jsonl").read_text().splitlines()[0])
    assert header["tasks"]["sums"]["checker"] == "official"
    given = ("--checker", "exact", *given[:-1], "p")  # no boxed answers
    assert invoke(capfd, "eval", "m.gguf", *given, "--grader", "official").status == 0
    assert json.loads(Path("p/graders.json").read_text()) == []


# ---- as long as there is time ----


def test_a_budget_holds_for_control(demo_commands: list[object], tmp_path: Path, capfd: Capture) -> None:
    done = invoke(capfd, "eval", "-o", tmp_path / "o", *demo_commands, "--control", "--budget", 1e-9)
    assert done.status == 0
    for left in ("control is not finished", "no method is complete"):
        assert f"o: {left}; the same command goes on from there" in done.err
    assert len((tmp_path / "o" / "control.jsonl").read_text().splitlines()) < 10  # 2 problems, 5 kinds, a header


def test_a_control_that_is_finished_is_shown_whatever_the_budget(
    demo_commands: list[object], tmp_path: Path, capfd: Capture
) -> None:
    command = ("eval", "-o", tmp_path / "o", *demo_commands, "--methods", "greedy", "--control")
    first = invoke(capfd, *command)
    again = invoke(capfd, *command, "--budget", 1e-9)
    table = first.out[first.out.index("| command |") :]
    assert table.strip() in again.out
    assert "control is not finished" not in again.err


def test_the_time_left() -> None:
    progress = Progress("greedy", 1, 3, config_of("static:0,1"), 30, 100, left=1470, drawn=30, tokens=600, seconds=6.0)
    assert eval_module._estimate(progress) == "left: about 1,470 answers, 29,400 tokens at 100 tokens/s: 5 minutes"
    for left, words in ((29_700, "99 minutes"), (30_000, "1.7 hours")):
        assert eval_module._estimate(replace(progress, left=left)).endswith(f": {words}")


def test_when_the_time_left_is_told(capfd: Capture) -> None:
    """Once, after four answers for each that is drawn at a time."""
    progress = Progress("greedy", 1, 1, config_of("static:0,1"), 0, 100, left=100, tokens=10, seconds=1.0)
    told = []
    with eval_module._progress(math.inf, 2) as (watch, _):
        for drawn in (0, 7, 8, 9):
            watch(replace(progress, drawn=drawn, done=drawn))
            told.append(capfd.readouterr().err.count("left: about"))
    assert told == [0, 0, 1, 0]


def test_a_budget(run: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for each look at the clock: ten samples or so."""
    ticks = iter(range(1000))
    monkeypatch.setattr(eval_module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    done = run("--budget", 10 / 60)
    assert done.status == 0, done.err
    assert "out: not finished: default; the same command goes on from there" in done.err.splitlines()
    assert "greedy" in done.out
    assert "- not finished, and not in the table: default; the same command goes on." in done.out
    assert 3 < len(samples_of(Path("out"))) < 15
    monkeypatch.undo()


def test_a_budget_for_nothing(run: Invoke) -> None:
    done = run("--budget", 1e-9)
    assert (done.status, done.out) == (0, "")
    assert done.err == "out: no method is complete; the same command goes on from there\n"
    assert_refused(run("--budget", 0), "Invalid value for '--budget': 0.0 is not in the range x>0", status=2)


# ---- control ----


def test_control_is_printed_as_well(run: Invoke, tasks: Path) -> None:
    (tasks / "c.json").write_text(json.dumps({"low": ["be dull"], "high": ["be wild"]}))
    done = run("--control", "--commands", "c.json")
    assert done.status == 0, done.err
    table = done.out.partition("| command ")[2]
    assert table.splitlines()[0] == "| mean T | to plain | moved so | mean P | to plain | moved so |"
    assert done.out.index("method") < done.out.index("| command")
    prompts = {bytes(r.prompt).decode() for r in Loaded.last.drawn}  # type: ignore[arg-type]
    assert {"<sums 0>", "<sums 0 be dull>", "<sums 0 be wild>"} <= prompts
    assert json.loads(Path("out/control.json").read_text())["problems"] == 3


def test_control_of_a_model_without_heads(run: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loaded, "heads", property(lambda self: frozenset(), lambda self, value: None), raising=False)
    assert_refused(run("--control"), "control: the model has no heads")
    assert Loaded.last.drawn == []


# ---- shards ----


# ---- bad input ----

USAGE: dict[str, tuple[list[object], str]] = {
    "k": (["-k", 0], "Invalid value for '-k': 0 is not in the range x>=1"),
    "long time": (["--time-limit", 1e10], "Invalid value for '--time-limit': 10000000000.0 is not in the range"),
    "seeds": (["--seeds", 0], "Invalid value for '--seeds': 0 is not in the range x>=1"),
    "seed": (["--seed", -1], "Invalid value for '--seed': -1 is not in the range"),
    "limit": (["--limit", 0], "Invalid value for '--limit': 0 is not in the range x>=1"),
    "tokens": (["-n", 0], "Invalid value for '-n' / '--max-tokens': 0"),
    "context": (["-c", 0], "Invalid value for '-c' / '--ctx': 0"),
    "parallel": (["--parallel", 0], "Invalid value for '--parallel': 0"),
    "time": (["--time-limit", 0], "Invalid value for '--time-limit': 0"),
    "threads": (["-t", 0], "Invalid value for '-t' / '--threads': 0"),
    "layers": (["--gpu-layers", -2], "Invalid value for '-ngl' / '--gpu-layers'"),
    "search": (["--search-samples", 3], "search_samples 3, expected at most k, which is 2"),
    "shard": (["--shard", "3/2"], "shard '3/2', expected I/N with I from 1 to N, such as 1/4"),
    "method": (["--methods", "greedy,best"], "method 'best', expected one of autodeco, "),
    "no method": (["--methods", ""], "method '', expected one of"),
    "pair": (["--methods", "static:0.6"], "method static:0.6: expected static:T,P, such as static:0.6,0.95"),
    "number": (["--methods", "static:0.6,1.5"], "method static:0.6,1.5: P is 1.5, expected a number from 0 to 1"),
    "checker": (["--checker", "vibes"], "checker 'vibes', expected one of boxed, "),
    "commands": (["--commands", "c.json"], "--commands needs --control"),
    "control": (["--control", "--shard", "1/2"], "--control needs all problems: leave --shard out, or evaluate"),
    "same task": (["--task", "sums.jsonl"], "two tasks are called 'sums'; rename a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(case: str, run: Invoke) -> None:
    arguments, words = USAGE[case]
    assert_refused(run(*arguments), words, "eval --help)", status=2)
    assert Loaded.model is None
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.gguf", "--task", "sums.jsonl"], "Missing option '-o' / '--output'"),
        (["m.gguf", "-o", "out"], "MODEL needs a --task"),
        (["--heads", "h.gguf", "-o", "out"], "--heads needs the MODEL they go with"),
        (["m.gguf", "n.gguf", "--task", "sums.jsonl", "-o", "out"], "unexpected extra argument (n.gguf)"),
    ],
)
def test_what_does_not_go_together(arguments: list[object], words: str, tasks: Path, capfd: Capture) -> None:
    assert_refused(invoke(capfd, "eval", *arguments), words, status=2)
    assert Loaded.model is None


Make = Callable[[Path], list[object]]


def a_line(text: str) -> Make:
    def make(directory: Path) -> list[object]:
        (directory / "bad.jsonl").write_text(text)
        return ["--task", "bad.jsonl"]

    return make


def a_file(name: str, *arguments: object) -> Make:
    def make(directory: Path) -> list[object]:
        (directory / name).write_text("{}")
        return list(arguments)

    return make


FAILURES: dict[str, tuple[Make, str]] = {
    "no task": (lambda d: ["--task", "nothing.jsonl"], "nothing.jsonl: no such file"),
    "no format": (lambda d: ["--task", "aim:sums.jsonl"], "task aim:sums.jsonl: format 'aim', expected one of"),
    "task": (a_line('{"prompt": "x", "answer": "y"}\n{"prompt": 1}\n'), "bad.jsonl:2: "),
    "answer": (
        lambda d: [*a_line('{"prompt": "x", "answer": "y"}\n')(d), "--checker", "story"],
        "sums.jsonl:1: answer 'sums0': not of the form \"NAME A B\"",
    ),
    "own checker": (
        lambda d: ["--checker", "nothing:at_all"],
        "checker 'nothing:at_all': 'nothing' cannot be imported",
    ),
    "directory": (a_file("f", "-o", "f"), "f: is no directory; give another name"),
    "commands": (a_file("c.json", "--control", "--commands", "c.json"), "c.json: low: expected a list of sentences"),
}


ARGUMENTS = {"no task", "no format", "own checker"}
"""Of which it is the argument that will not do, and no file."""


@pytest.mark.parametrize("case", FAILURES)
def test_bad_files_are_named_before_the_model_is_loaded(case: str, run: Invoke, tasks: Path) -> None:
    make, words = FAILURES[case]
    assert_refused(run(*make(tasks)), words, status=2 if case in ARGUMENTS else 1)
    assert Loaded.model is None


NO_PLOTS = '".[eval]"; or use --no-plots'


def test_no_matplotlib(tasks: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = invoke(capfd, "eval", "m.gguf", "--task", "sums.jsonl", "--checker", "exact", "-o", "o")
    assert_refused(done, "matplotlib is not installed; pip install matplotlib, or ", NO_PLOTS)
    assert_refused(invoke(capfd, "join", "part1", "part2", "-o", "o"), "matplotlib is not installed; ", NO_PLOTS)
    assert not Path("o").exists()
    assert Loaded.model is None


def test_methods_that_the_model_does_not_allow(run: Invoke) -> None:
    assert_refused(
        run(methods="greedy,model"), "method model: needs metadata general.sampling.*, the model has none; this"
    )
    assert Loaded.last.drawn == []


def test_other_settings(run: Invoke) -> None:
    assert run().status == 0
    words = "out/evaluation.jsonl: begun with seed 0, this run has 1; use the same settings, or another directory"
    assert_refused(run("--seed", 1), words)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ["problems.jsonl", "pairs.jsonl", "control.json"])
def test_no_input_is_written_over(name: str, begun: bool, run: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "x"
    if begun:
        assert run("-o", out).status == 0
    out.mkdir(exist_ok=True)
    is_task = name.endswith("l")
    given = {"prompt": "sums 0", "answer": "sums0"} if is_task else {"low": ["a"], "high": ["b"]}
    (out / name).write_text(json.dumps(given))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    how = ["--task"] if is_task else ["--control", "--commands"]
    outcome = run("-o", out, *how, f"x/{name}", methods="autodeco,shuffle")
    assert_refused(outcome, f"x/{name}: is an input and would be written; use another directory for -o")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("name", "of"), [("pairs.jsonl", "evaluation"), ("control.json", "control")])
def test_what_is_in_the_way_is_named_before_anything_is_written(
    name: str, of: str, run: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    refused = f"out/{name}: is there without the {of}.jsonl that it would be of; use the same settings, or"
    assert_refused(run("--control"), refused)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert Loaded.model is None


def test_a_model_that_is_none(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "m.gguf").write_text("GGUF")
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    arguments = ("--task", tmp_path / "t.jsonl", "--checker", "exact", "-o", tmp_path / "o", "--no-plots")
    assert_refused(invoke(capfd, "eval", tmp_path / "m.gguf", *arguments), "m.gguf: ")
    assert_refused(invoke(capfd, "eval", tmp_path / "n.gguf", *arguments), "n.gguf")
    assert not (tmp_path / "o").exists()


def test_a_prompt_that_is_too_long(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "x " * 99, "answer": "y"}))
    arguments = ("--task", tmp_path / "t.jsonl", "--checker", "exact", "-o", tmp_path / "o", "--no-plots", "-c", 32)
    assert_refused(invoke(capfd, "eval", qwen2.base, *arguments), "t.jsonl:1: the prompt has", "the context holds 32")


# ---- interruptions ----


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: int, status: int, demo_commands: list[object], tmp_path: Path, capfd: Capture) -> None:
    command = ["eval", "-o", tmp_path / "o", *demo_commands, "--methods", "autodeco,greedy"]
    strike = STRIKE.replace("import autodeco_gguf.heads.export", "import autodeco_gguf.evaluation.drawing")
    at = f"autodeco_gguf.evaluation.drawing:make_sample:{int(number)}"
    done = spawn(at, *command, python=("-c", strike))
    assert done.status == status, done.err
    assert f"{tmp_path / 'o'}: what is finished is kept; the same command goes on from there" in done.err
    assert "Traceback" not in done.err
    again = invoke(capfd, *command)
    assert again.status == 0, again.err
    assert len(samples_of(tmp_path / "o")) == 4 + 2


def test_a_bar_on_a_terminal(demo_commands: list[object], tmp_path: Path) -> None:
    command = ["eval", "-o", tmp_path / "o", *demo_commands, "--methods", "autodeco"]
    with Terminal(*command) as terminal:
        terminal.wait_for(rb"4/4.{0,40}method 1 of 1, autodeco, \d of 4 right, \d+ tokens/s")
        terminal.wait_for(rb"pass@1")
        assert terminal.process.wait(timeout=30) == 0


# ---- help ----


def test_help_names_every_method_and_ends_with_an_example(capfd: Capture) -> None:
    helps = {verb: invoke(capfd, verb, "--help") for verb in ("eval", "join")}
    for verb, done in helps.items():
        assert done.status == 0
        before, _, _ = done.out.partition("\nOptions:\n")
        assert before.split("\n\n")[-1].strip().startswith(f"Example: autodeco-gguf {verb} ")
    assert [name for name in HELP if name not in helps["eval"].out] == []
    assert {"eval", "join"} <= set(cli.list_commands(None))  # type: ignore[arg-type]


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['x', 'eval', '--help']\n"
        "from autodeco_gguf.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('numpy', 'torch', 'llama_cpp', 'matplotlib') if m in sys.modules])"
    )
    assert spawn(python=("-c", program)).out.endswith("[]\n")


# ---- killed ----

KILLS = 10
COMMAND = [
    *(sys.executable, "-m", "autodeco_gguf", "eval", "--limit", "12", "-k", "8", "--seeds", "2", "--parallel", "16"),
    *("--methods", "autodeco,default,greedy,mean-shift,mirostat2", "-c", "160", "-t", "1", "--no-plots", "-o"),
]


def start(output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, output], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(output: Path) -> tuple[dict[str, Any], set[str]]:
    """Results without what depends on time, and the samples in any order."""
    _, err = (process := start(output)).communicate(timeout=200)
    assert process.returncode == 0, err.decode()
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    results["origin"].pop("date")
    for row in results["methods"]:
        for stats in (row["overall"], *row["tasks"].values()):
            stats.pop("tokens_s")
    lines = (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 4 * 12 * 16 + 12
    return results, set(lines)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path / "undisturbed")
    output, kept, rng = tmp_path / "killed", 0, random.Random(5)
    kills = 0
    while kills < KILLS:
        process = start(output)
        wanted = kept + rng.randrange(40, 75)  # lines: the time to start up differs from machine to machine
        samples = output / "samples.jsonl"
        while process.poll() is None and (not samples.exists() or samples.read_bytes().count(b"\n") < wanted):
            continue
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kills += 1
        kept = samples.read_bytes().count(b"\n")
        assert kept >= wanted
    assert kept < len(undisturbed[1])
    assert finish(output) == undisturbed


def test_another_prompt_by_the_chat_template_is_another_evaluation(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}!{% endif %}"
    model = chat_base(qwen2.base, tmp_path / "m.gguf", template)
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')

    def run(*more: object) -> Outcome:
        arguments = ("--task", tmp_path / "t.jsonl", "--checker", "exact", "-o", tmp_path / "o", "--no-plots")
        small = ("-k", 1, "--seeds", 1, "-n", 2, "-c", 64, "-t", 1, "--methods", "greedy")
        return invoke(capfd, "eval", model, *arguments, *small, *more)

    assert run("--chat-template-kwargs", '{"enable_thinking": true}').status == 0
    assert run().status == 0, "the prompt is the same"
    assert_refused(run("--chat-template-kwargs", '{"enable_thinking": false}'), "o/evaluation.jsonl: begun with ")
    words = "chat template kwargs: messages is what the template gets by itself"
    assert_refused(run("--chat-template-kwargs", '{"messages": []}'), words, status=2)

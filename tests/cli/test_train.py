"""autodeco-gguf train: what it prints and where, and its one line for every kind of bad input."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken import assert_refused, invoke, start
from conftest import Case
from training_helpers import constant_losses, jsonl

import autodeco_gguf
from autodeco_gguf import training
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.export import export

Capture = pytest.CaptureFixture[str]

EXAMPLES = [{"prompt": f"One {i}", "completion": f" and {i} more"} for i in range(12)]
QUICK = ("--steps", 2, "--batch", 4, "--evaluations", 1, "--validation", 0.25, "-t", 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "d.jsonl", *EXAMPLES)


def test_what_it_prints(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "heads"
    done = invoke(capfd, "train", qwen2.base, "--data", data, "-o", out, *QUICK)
    assert done.status == 0, done.err
    counts, few_steps, few_tokens, step, checkpoint, adapter = done.err.splitlines()
    assert re.fullmatch(r"12 examples, \d+ tokens, \d+ of them predicted", counts)
    assert few_steps.startswith("warning: only 2 steps of up to 4 examples: ")
    assert re.match(r"warning: only \d+ tokens of 3 examples to validate on: too few for a verdict", few_tokens)
    number = r"\d+\.\d+"
    losses = rf"loss {number}, T {number}, P {number}"
    assert re.fullmatch(rf"step 2 of 2: {losses}, \d+ tokens/s; validation {losses}", step)
    assert checkpoint == f"{out}: the checkpoint, after step 2"
    assert adapter == f"{out}.gguf: the adapter, for autodeco-gguf run {qwen2.base} --heads {out}.gguf"
    report = json.loads((out / "report.json").read_text())
    head, columns, *rows, verdict = done.out.splitlines()
    assert head == f"on 3 validation examples, {report['tokens']} tokens:"
    assert columns.split() == ["mean", "T", "mean", "P", "NLL", "heads", "better", "by"]
    assert verdict == report["verdict"]
    for row, method in zip(rows, report["methods"], strict=True):
        numbers = [f"{method['temperature']:.3f}", f"{method['top_p']:.3f}", f"{method['nll']:.4f}"]
        if method["name"] != "heads":
            numbers += [f"{method['difference']:+.4f}", "+-", f"{method['standard_error']:.4f}"]
        assert row.split() == [*method["name"].split(), *numbers]


def test_every_count_is_told(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    path = jsonl(
        tmp_path / "d.jsonl", *EXAMPLES, 1, {"text": "Hello " * 40}, {"prompt": "Hello " * 40, "completion": "a"}, 2
    )
    done = invoke(
        capfd, "train", qwen2.base, "--data", path, "-o", tmp_path / "o", *QUICK, "--skip-bad", "-c", 64, "--control",
        "--control-share", 1,
    )  # fmt: skip
    assert done.status == 0, done.err
    line = done.err.splitlines()[0]
    assert line.startswith("13 examples, ")
    assert re.search(
        r"; \d+ examples with commands; \d+ cut to 64 tokens, by \d+: their ends are not learnt; 1 left out: ", line
    )
    assert line.endswith(f"; 2 malformed lines skipped, the first: {path}:13: is a number, expected an object with "
                         '{"prompt", "completion"}, {"messages"}, {"conversations"}, {"instruction", "output"} '
                         'or {"text"}')  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([3.0, 2.0, 2.5, 2.0], ["stopped early at step 4, kept step 2", "{out}: the checkpoint, after step 2"]),
        (
            [3.0, 2.0, 2.5, 1.5, 1.6],
            ["kept step 4, whose validation was the best", "{out}: the checkpoint, after step 4"],
        ),
    ],
)
def test_which_step_is_kept(
    losses: list[float], words: list[str], qwen2: Case, data: Path, tmp_path: Path, capfd: Capture
) -> None:
    out = tmp_path / "heads"
    options = ("--steps", 5, "--batch", 4, "--evaluations", 5, "--validation", 0.25, "-t", 1, "--patience", 2)
    with pytest.MonkeyPatch.context() as patch:
        constant_losses(patch, losses)
        done = invoke(capfd, "train", qwen2.base, "--data", data, "-o", out, *options)
    assert done.status == 0, done.err
    assert done.err.splitlines()[-3:-1] == [line.format(out=out) for line in words]


def test_no_validation_no_report(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    done = invoke(capfd, "train", qwen2.base, "--data", data, "-o", tmp_path / "o", *QUICK, "--validation", 0)
    assert (done.status, done.out) == (0, "")
    assert "the checkpoint, after step 2" in done.err


def test_pairs_of_commands(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    predicted = []
    for pairs in (1, 2, 3):
        done = invoke(
            capfd, "train", qwen2.base, "--data", data, "-o", tmp_path / f"{pairs}", *QUICK, "--control",
            "--control-share", 1, "--control-pairs", pairs, "--commands", "grammar", "--commands", "free",
        )  # fmt: skip
        assert done.status == 0, done.err
        (found,) = re.findall(r"examples, \d+ tokens, (\d+) of them predicted", done.err)
        predicted.append(int(found))
    assert predicted[2] - predicted[1] == predicted[1] - predicted[0] > 0


def test_several_files_and_every_option(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    """What the options say reaches the state, from which a resumed training would notice another value."""
    import torch

    values = {
        "--lr": 0.002, "--weight-decay": 0.1, "--warmup": 0.5, "--clip": 2.0, "--easy-mask": 0.3, "--alpha": 20.0,
        "--sort-tolerance": 0.01, "--control-weight": 2.0, "--control-margin": 0.2, "--patience": 7,
        "--seed": 5, "--steps": 2, "--batch": 4, "--evaluations": 1, "--validation": 0.25,
    }  # fmt: skip
    options = [x for pair in values.items() for x in pair]
    (tmp_path / "more").mkdir()
    more = jsonl(tmp_path / "more" / "d.jsonl", *EXAMPLES)
    saved = {}

    import autodeco_gguf.training.train as module

    def spy(model: BaseModel, output: Path, *args: Any, **kwargs: Any) -> None:
        saved.update(torch.load(output / ".training" / "state.pt"))
        export(model, output, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "export", spy)
        done = invoke(
            capfd, "train", qwen2.base, "--data", data, "--data", more, "-o", tmp_path / "o", *options, "-t", 1,
            "--no-dft", "--heads", "top-p", "--control", "--base-name", "org/name", "--gpu-layers", 0,
        )  # fmt: skip
    assert done.status == 0, done.err
    assert done.err.startswith("24 examples, ")
    identity = saved["identity"]
    flat = {**identity, **identity["objective"]}
    assert {name: flat[name[2:].replace("-", "_")] for name in values} == values
    assert (flat["heads"], flat["dynamic_fine_tuning"]) == (["top_p"], False)
    assert json.loads((tmp_path / "o" / "config.json").read_text())["base_model_name_or_path"] == "org/name"


def test_the_machine_has_an_effect(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    heads = set()
    for i, options in enumerate(((), ("--cache-type", "f32"), ("--flash-attn",))):
        out = tmp_path / f"{i}"
        done = invoke(capfd, "train", qwen2.base, "--data", data, "-o", out, *QUICK, *options)
        assert done.status == 0, done.err
        heads.add((out / "model.safetensors").read_bytes())
    assert len(heads) == 3


Make = Callable[[Path, Case], list[object]]

USAGE: dict[str, tuple[list[object], str]] = {
    "no data": (["x.gguf", "-o", "o"], "Missing option '--data'"),
    "no output": (["x.gguf", "--data", "d"], "Missing option '-o' / '--output'"),
    "no base": (["--data", "d", "-o", "o"], "Missing argument 'BASE'"),
    "heads": (["x.gguf", "--data", "d", "-o", "o", "--heads", "all"], "'all' is not one of"),
    "steps": (["x.gguf", "--data", "d", "-o", "o", "--steps", "0"], "steps 0, expected 1 to"),
    "batch": (["x.gguf", "--data", "d", "-o", "o", "--batch", "0"], "batch 0, expected 1 to 65536"),
    "lr": (["x.gguf", "--data", "d", "-o", "o", "--lr", "nan"], "lr nan, expected 0 to 10"),
    "epochs": (["x.gguf", "--data", "d", "-o", "o", "--epochs", "-1"], "epochs -1, expected 1e-09 to 1e+06"),
    "mask": (["x.gguf", "--data", "d", "-o", "o", "--easy-mask", "1.5"], "easy_mask 1.5, expected 0 to 1"),
    "validation": (["x.gguf", "--data", "d", "-o", "o", "--validation", "1"], "validation 1, expected 0 to 0.5"),
    "weight": (["x.gguf", "--data", "d", "-o", "o", "--control-weight", "2"], "--control-weight needs --control"),
    "share": (["x.gguf", "--data", "d", "-o", "o", "--control-share", "2"], "2.0 is not in the range 0<=x<=1"),
    "context": (["x.gguf", "--data", "d", "-o", "o", "-c", "1"], "'--ctx': 1 is not in the range"),
    "threads": (["x.gguf", "--data", "d", "-o", "o", "-t", "0"], "0 is not in the range"),
    "seed": (["x.gguf", "--data", "d", "-o", "o", "--seed", "-1"], "seed -1, expected 0 to"),
    "commands": (["x.gguf", "--data", "d", "-o", "o", "--commands", "c"], "--commands needs --control"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(name: str, capfd: Capture) -> None:
    args, message = USAGE[name]
    assert_refused(invoke(capfd, "train", *args), message, "--help)", status=2)


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


FAILURES: dict[str, tuple[Make, str]] = {
    "no base": (lambda d, c: [d / "none.gguf", "--data", d / "d.jsonl", "-o", d / "o"], "{dir}/none.gguf: "),
    "base no GGUF": (lambda d, c: [d / "d.jsonl", "--data", d / "d.jsonl", "-o", d / "o"], "{dir}/d.jsonl: "),
    "no such data": (
        lambda d, c: [c.base, "--data", d / "none", "-o", d / "o"],
        "{dir}/none: cannot be read: No such file or directory",
    ),
    "bad line": (
        lambda d, c: [c.base, "--data", lines(d / "b", '{"text": "a"}', "{"), "-o", d / "o"],
        "{dir}/b:2: not JSON: Expecting property name enclosed in double quotes at column 2",
    ),
    "no template": (
        lambda d, c: [c.base, "--data", lines(d / "b", '{"messages": [{"role": "assistant", "content": "a"}]}'),
                      "-o", d / "o"],
        "{dir}/b:1: has messages, but the model has no chat template; give prompt and completion",
    ),
    "nothing in it": (
        lambda d, c: [c.base, "--data", lines(d / "b", ""), "-o", d / "o"],
        "{dir}/b: no example to train on (0 malformed lines, 0 with nothing to predict)",
    ),
    "output a file": (
        lambda d, c: [c.base, "--data", d / "d.jsonl", "-o", lines(d / "o", "x")],
        "{dir}/o: is a file; give a directory",
    ),
    "no parent": (
        lambda d, c: [c.base, "--data", d / "d.jsonl", "-o", d / "a" / "b"],
        "{dir}/a/b: no such directory as {dir}/a",
    ),
    "root": (lambda d, c: [c.base, "--data", d / "d.jsonl", "-o", "/"], "/: /.gguf cannot be the adapter"),
    "no commands": (
        lambda d, c: [c.base, "--data", d / "d.jsonl", "-o", d / "o", "--control", "--commands", d / "none"],
        "{dir}/none: cannot be read: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_failures(name: str, qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    make, message = FAILURES[name]
    refused = invoke(capfd, "train", *make(tmp_path, qwen2), *QUICK)
    assert_refused(refused, message.format(dir=tmp_path))
    assert not (tmp_path / "o.gguf").exists()


def test_finished_and_another_setting(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    command = ("train", qwen2.base, "--data", data, "-o", tmp_path / "o", *QUICK)
    assert invoke(capfd, *command).status == 0
    assert_refused(invoke(capfd, *command), f"{tmp_path}/o/config.json: exists; use --force to replace it")
    assert invoke(capfd, *command, "--force").status == 0


def test_without_the_packages(
    qwen2: Case, data: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autodeco_gguf, "training", training)  # each import sets it anew
    for package in ("torch", "matplotlib"):
        for name in [m for m in sys.modules if m.startswith("autodeco_gguf.training")]:
            monkeypatch.delitem(sys.modules, name)
        for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
            monkeypatch.delitem(sys.modules, name)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            refused = invoke(capfd, "train", qwen2.base, "--data", data, "-o", tmp_path / "o")
            assert_refused(refused, f"training needs {package}; pip install {package}, or ", '".[train]"')
    assert not (tmp_path / "o").exists()


def test_ctrl_c_and_on(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    """One line, status 130, and the next call goes on."""
    options = (
        "--data",
        data,
        "-o",
        tmp_path / "o",
        "--steps",
        100000,
        "--evaluations",
        100000,
        "--patience",
        0,
        "-t",
        1,
    )
    process = start("train", qwen2.base, *options)
    log = tmp_path / "o" / "log.jsonl"
    assert process.stderr is not None
    for _ in range(4):
        assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"interrupted\n")
    assert b"Traceback" not in err
    assert log.stat().st_size > 0
    refused = invoke(capfd, "train", qwen2.base, *options, "--lr", 0.5)
    assert refused.status == 1
    state = tmp_path / "o" / ".training" / "state.pt"
    assert f"error: {state}: of a training with lr 0.0015625, now 0.5; start anew" in refused.err

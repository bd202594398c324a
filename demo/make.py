"""Makes the embedded demo model, from a seed to autodeco_gguf/demo.gguf: python demo/make.py, or make demo

Every stage keeps its result in build/demo and is skipped where that is there; one that was interrupted goes on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import picture
import pretrain
import publish
import to_gguf
import torch

from autodeco_gguf.tasks import stories

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "demo"
SHIPPED = ROOT / "autodeco_gguf" / "demo.gguf"
N_CTX = 160

PROBLEMS, SAMPLES = 1500, 4
HEADS_STEPS, HEADS_LR = 600, 2e-3
CANDIDATES = {
    "paper": [],
    "no-dft": ["--no-dft"],
    "no-dft-no-mask": ["--no-dft", "--easy-mask", "0"],
}
"""Objectives that validation chooses from, as options of autodeco-gguf train."""

VALIDATION_PROMPTS = 48
EVAL = f"--parallel 32 -c {N_CTX} -k 16"


def stage(name: str, result: Path, make: Callable[[], None]) -> None:
    """Run a stage unless its result is there, and note how long it took."""
    if result.exists():
        click.echo(f"{name}: done before")
        return
    click.echo(f"{name} ...")
    begin = time.monotonic()
    make()
    seconds = json.loads(_times().read_text()) if _times().exists() else {}
    seconds[name] = round(time.monotonic() - begin, 1)
    _times().write_text(json.dumps(seconds, indent=1) + "\n")
    click.echo(f"{name}: {seconds[name]:.0f} s")


def verb(*arguments: str | Path) -> None:
    """Run a verb of autodeco-gguf, by the command beside this Python: ``-m`` would take the sources in a checkout."""
    click.echo("  autodeco-gguf " + " ".join(map(str, arguments)))
    subprocess.run([Path(sys.executable).with_name("autodeco-gguf"), *map(str, arguments)], check=True)


def main() -> None:
    """All stages."""
    WORK.mkdir(parents=True, exist_ok=True)
    base, problems, rollouts = WORK / "base.gguf", WORK / "problems.jsonl", WORK / "rollouts.jsonl"
    evaluation = WORK / "evaluation"
    torch.set_num_threads(2)
    stage("pretrain", WORK / "base" / "model.safetensors", lambda: pretrain.pretrain(WORK / "base"))
    stage("convert", base, lambda: to_gguf.convert(WORK / "base", base))
    stage("problems", problems, lambda: write_problems(problems))
    stage("rollouts", rollouts, lambda: sample(base, problems, rollouts))
    for name, options in CANDIDATES.items():
        stage(f"heads {name}", WORK / f"{name}.gguf", lambda n=name, o=options: train(base, rollouts, n, o))
    stage("choose", WORK / "choice.json", choose)
    choice = json.loads((WORK / "choice.json").read_text())["chosen"]
    stage("export", WORK / "demo.gguf", lambda: export(base, WORK / choice))
    stage("evaluate", evaluation / "results.json", lambda: evaluate(WORK / "demo.gguf", evaluation))
    shutil.copyfile(WORK / "demo.gguf", SHIPPED)
    publish.publish(
        evaluation, **{name: json.loads((WORK / f"{name}.json").read_text()) for name in ("choice", "seconds")}
    )
    picture.draw(ROOT / "docs" / "trace.svg", SHIPPED)


def write_problems(path: Path) -> None:
    """What the heads are trained on: number pairs that pre-training saw, half of them with a command."""
    plain = stories.problems(PROBLEMS // 2, seed="heads", held_out=False)
    commanded = stories.problems(PROBLEMS // 2, seed="heads, commands", held_out=False, command="mixed")
    write(path, [*plain, *commanded])


def write(path: Path, problems: list[stories.StoryProblem]) -> None:
    """As JSONL."""
    lines = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in problems]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sample(base: Path, problems: Path, output: Path) -> None:
    """Rejection sampling at T = 1."""
    how = f"--checker story -k {SAMPLES} --parallel 64 -c {N_CTX}"
    verb("rollouts", base, "--problems", problems, "-o", output, *how.split())


def train(base: Path, data: Path, name: str, options: list[str]) -> None:
    """One candidate."""
    how = f"--steps {HEADS_STEPS} --lr {HEADS_LR} --patience 0 --control --control-share 0.5 -c {N_CTX}"
    verb("train", base, "--data", data, "-o", WORK / name, "--base-name", "autodeco-stories", *how.split(), *options)


def choose() -> None:
    """The candidate with the most distinct correct stories on validation prompts, of those within a point of the
    best pass@1."""
    problems, scores = WORK / "validation.jsonl", {}
    write(problems, stories.problems(VALIDATION_PROMPTS, seed="validation", held_out=True))
    for name in CANDIDATES:
        merged, output = WORK / f"{name}-merged.gguf", WORK / f"validation-{name}"
        export(WORK / "base.gguf", WORK / name, merged)
        how = f"--checker story --methods autodeco --seeds 1 --no-plots {EVAL}"
        verb("eval", merged, "--task", problems, "-o", output, *how.split())
        (row,) = json.loads((output / "results.json").read_text())["methods"]
        scores[name] = {key: row["overall"][key] for key in ("pass@1", "distinct")}
    best = max(s["pass@1"] for s in scores.values())
    chosen = max(
        (name for name, s in scores.items() if s["pass@1"] >= best - 0.01), key=lambda n: scores[n]["distinct"]
    )
    text = json.dumps({"chosen": chosen, "scores": scores}, indent=1)
    (WORK / "choice.json").write_text(text + "\n", encoding="utf-8")


def export(base: Path, heads: Path, output: Path = WORK / "demo.gguf") -> None:
    """Merge, with heads of 16 bits."""
    verb("export", "--base", base, "--heads", heads, "--head-type", "f16", "-o", output, "--force")


def evaluate(model: Path, output: Path) -> None:
    """Every method on the test prompts, and commands."""
    verb(
        "eval",
        model,
        "--task",
        "demo",
        "-o",
        output,
        *f"--methods all --control --seeds 4 --search-samples 8 {EVAL}".split(),
    )


def _times() -> Path:
    return WORK / "seconds.json"


if __name__ == "__main__":
    main()

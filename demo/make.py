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
import evaluate
import picture
import pretrain
import to_gguf
import torch

from autodeco_gguf import stories

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "demo"
SHIPPED = ROOT / "autodeco_gguf" / "demo.gguf"
EVALUATION = ROOT / "demo" / "evaluation.json"
PAGES = (ROOT / "README.md", ROOT / "demo" / "README.md")

PROBLEMS, SAMPLES = 1500, 4
HEADS_STEPS, HEADS_LR = 600, 2e-3
CANDIDATES = {
    "paper": [],
    "no-dft": ["--no-dft"],
    "no-dft-no-mask": ["--no-dft", "--easy-mask", "0"],
}
"""Objectives that validation chooses from, as options of autodeco-gguf train."""

VALIDATION_PROMPTS, TEST_PROMPTS = 48, 100


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
    """Run a verb of autodeco-gguf."""
    command = [sys.executable, "-m", "autodeco_gguf", *map(str, arguments)]
    click.echo("  autodeco-gguf " + " ".join(map(str, arguments)))
    subprocess.run(command, check=True)


def main() -> None:
    """All stages."""
    WORK.mkdir(parents=True, exist_ok=True)
    base, problems, rollouts = WORK / "base.gguf", WORK / "problems.jsonl", WORK / "rollouts.jsonl"
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
    stage("evaluate", WORK / "evaluation.json", evaluate_model)
    shutil.copyfile(WORK / "demo.gguf", SHIPPED)
    publish()


def write_problems(path: Path) -> None:
    """What the heads are trained on: number pairs that pre-training saw, half of them with a command."""
    plain = stories.problems(PROBLEMS // 2, seed="heads", held_out=False)
    commanded = stories.problems(PROBLEMS // 2, seed="heads, commands", held_out=False, command="mixed")
    lines = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in (*plain, *commanded)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sample(base: Path, problems: Path, output: Path) -> None:
    """Rejection sampling at T = 1."""
    how = f"--checker story -k {SAMPLES} --parallel 64 -c {evaluate.N_CTX}"
    verb("rollouts", base, "--problems", problems, "-o", output, *how.split())


def train(base: Path, data: Path, name: str, options: list[str]) -> None:
    """One candidate."""
    how = f"--steps {HEADS_STEPS} --lr {HEADS_LR} --patience 0 --control --control-share 0.5 -c {evaluate.N_CTX}"
    verb("train", base, "--data", data, "-o", WORK / name, "--base-name", "autodeco-stories", *how.split(), *options)


def choose() -> None:
    """The candidate with the most distinct correct stories on validation prompts, of those within a point of the
    best pass@1."""
    problems = stories.problems(VALIDATION_PROMPTS, seed="validation", held_out=True)
    scores = {}
    for name in CANDIDATES:
        merged = WORK / f"{name}-merged.gguf"
        export(WORK / "base.gguf", WORK / name, merged)
        engine = evaluate.make_engine(merged)
        scores[name] = evaluate.score(engine, problems, name, seed=7)
        engine.close()
        click.echo(f"  {name}: pass@1 {scores[name].pass_at_1:.3f}, distinct correct {scores[name].distinct:.2f}")
    best = max(s.pass_at_1 for s in scores.values())
    chosen = max((s for s in scores.values() if s.pass_at_1 >= best - 0.01), key=lambda s: s.distinct)
    text = json.dumps({"chosen": chosen.name, "scores": {n: vars(s) for n, s in scores.items()}}, indent=1)
    (WORK / "choice.json").write_text(text + "\n", encoding="utf-8")


def export(base: Path, heads: Path, output: Path = WORK / "demo.gguf") -> None:
    """Merge, with heads of 16 bits."""
    verb("export", "--base", base, "--heads", heads, "--head-type", "f16", "-o", output, "--force")


def evaluate_model() -> None:
    """Held-out prompts; in a process of its own, where torch's threads do not get in the way of llama.cpp's."""
    script = [sys.executable, str(ROOT / "demo" / "evaluate.py"), str(WORK / "demo.gguf")]
    files = ["-o", str(WORK / "evaluation.json"), "--kept", str(WORK / "scores.jsonl")]
    subprocess.run([*script, *files, "--prompts", str(TEST_PROMPTS)], check=True)


def _times() -> Path:
    return WORK / "seconds.json"


def publish() -> None:
    """Put the figures into demo/evaluation.json and both READMEs, and draw the picture."""
    result = json.loads((WORK / "evaluation.json").read_text())
    result["choice"] = json.loads((WORK / "choice.json").read_text())
    result["seconds"] = json.loads(_times().read_text())
    EVALUATION.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        before, begin, rest = text.partition("<!-- demo table -->\n")
        _, end, after = rest.partition("<!-- /demo table -->\n")
        page.write_text(f"{before}{begin}{evaluate.table(result)}\n{end}{after}", encoding="utf-8")
    picture.draw(ROOT / "docs" / "trace.svg", SHIPPED)


if __name__ == "__main__":
    main()

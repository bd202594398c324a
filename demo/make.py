"""Makes the embedded demo model, from a seed to autodeco_gguf/demo.gguf: python demo/make.py, or make demo

Every stage keeps its result in build/demo and is skipped where that is there; one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import picture
import pretrain
import publish
import to_gguf
import torch
from stages import Stages, verb

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "demo"
SHIPPED = ROOT / "autodeco_gguf" / "demo.gguf"
N_CTX = 160

TRAIN = (
    f"--task demo@train --reward distinct --from new --pull 0 --rounds 32 --evaluations 1 --parallel 64 -c {N_CTX} -t 2"
)
"""New heads, by the reward of their own stories, on number pairs that pre-training saw."""
METHODS = "all,static:0.8,1,static:0.9,1,static:1,0.9"
"""``distinct`` is searched with 8 answers to a problem; these pairs are likely to have the most among 128."""
EVAL = f"-k 128 --seeds 1 --search-samples 8 --parallel 64 -c {N_CTX} -t 2"


def main() -> None:
    """All stages."""
    stages = Stages(WORK)
    base, heads, evaluation = WORK / "base.gguf", WORK / "heads", WORK / "evaluation"
    torch.set_num_threads(2)
    stages.run("pretrain", WORK / "base" / "pretrain.json", lambda: pretrain.pretrain(WORK / "base"))
    stages.run("convert", base, lambda: to_gguf.convert(WORK / "base", base))
    stages.run("heads", WORK / "heads.gguf", lambda: train(base, heads))
    stages.run("export", WORK / "demo.gguf", lambda: export(base, heads))
    stages.run("evaluate", evaluation / "results.json", lambda: evaluate(WORK / "demo.gguf", evaluation))
    shutil.copyfile(WORK / "demo.gguf", SHIPPED)
    publish.publish(evaluation, seconds=stages.seconds)
    picture.draw(ROOT / "docs" / "trace.svg", SHIPPED)


def train(base: Path, output: Path) -> None:
    """The heads."""
    verb("train", base, "-o", output, "--base-name", "autodeco-stories", *TRAIN.split())


def export(base: Path, heads: Path) -> None:
    """Merge, with heads of 16 bits."""
    verb("export", "--base", base, "--heads", heads, "--head-type", "f16", "-o", WORK / "demo.gguf", "--force")


def evaluate(model: Path, output: Path) -> None:
    """Every method on the test prompts, and commands."""
    verb("eval", model, "--task", "demo", "-o", output, "--methods", METHODS, "--control", *EVAL.split())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()

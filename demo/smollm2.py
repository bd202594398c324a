"""Trains the heads of smollm2 and measures what they are worth: python demo/smollm2.py, or make smollm2

Every stage keeps its result in build/smollm2 and is skipped where that is there; one that was interrupted goes on. All
of it takes some hours on two cores. IFEval, IFBench and GSM8K come from the Hugging Face hub, or from a directory with
ifeval.jsonl, ifbench.jsonl and gsm8k_test.jsonl; nothing is trained on them.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import click
import llama_cpp
from publish import replace_parts
from stages import Stages, verb

from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.compare import compare
from autodeco_gguf.evaluation.report import table, verdict
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.heads.known import KNOWN
from autodeco_gguf.model.machine import default_threads

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "smollm2"
MODEL = KNOWN["smollm2"]
EVALUATION = ROOT / "demo" / "smollm2.json"

ASKED = "--task questions@train --task instructions@train --limit 310"
DRAWN = "-k 4 --keep all -n 96 -c 256 --parallel 128"
BY_REWARD = "--task questions@train --limit 310 -n 24 -c 128 --parallel 128 --rounds 30 --evaluations 3 -t 1"
REWARDS = {"distinct": "-k 16 --batch 16", "any": "-k 4 --batch 64", "correct": "-k 16 --batch 16"}
"""Heads are trained by each, from those by likelihood. ``any`` learns from groups with one right answer alone, of which
there are hardly any among 16."""

SHIPPED = "distinct"
OURS = f"autodeco ({SHIPPED})"
"""Which of them the package brings, and what the tables call it."""


@dataclass(frozen=True)
class Measured:
    """A task of the table: its source on the hub, its file in a directory, and how it is drawn."""

    source: str
    file: str | None
    how: str

    def spec(self, data: Path | None) -> str:
        """As ``--task`` takes it."""
        if data is None or self.file is None:
            return self.source
        return f"{self.source.partition(':')[0]}:{data / self.file}"


MEASURED = {
    "questions": Measured("questions", None, "--limit 155 -k 4 --seeds 4 -n 24 -c 128"),
    "instructions": Measured("instructions", None, "--limit 100 -k 1 --seeds 4 -n 192 -c 384"),
    "ifeval": Measured("ifeval:google/IFEval", "ifeval.jsonl", "--limit 250 -k 1 --seeds 4 -n 192 -c 768"),
    "ifbench": Measured("ifbench:allenai/IFBench_test", "ifbench.jsonl", "--limit 60 -k 1 --seeds 4 -n 192 -c 1024"),
    "gsm8k": Measured("gsm8k:openai/gsm8k:main", "gsm8k_test.jsonl", "--limit 60 -k 1 --seeds 4 -n 192 -c 512"),
}
CONSTANTS = "greedy,llama.cpp,default,static:0.3,1,static:0.5,1,static:0.7,1"
OF_SHIPPED = "autodeco,autodeco:temperature,mean-shift,shuffle"


def convert(source: Path, target: Path) -> None:
    """To F16, which llama.cpp computes twice as fast as Q4_1 on a CPU without AVX-512; the weights are the same."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True
    part = target.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params)):
        raise click.ClickException(f"{source}: cannot be converted")
    part.rename(target)


def train(stages: Stages, base: Path) -> None:
    """The heads by likelihood, on right answers at T = 1, and from there by each reward."""
    rollouts, likelihood = WORK / "rollouts.jsonl", WORK / "likelihood"
    name = f"--base-name {MODEL.base}".split()
    stages.run("rollouts", rollouts, lambda: verb("rollouts", base, *f"{ASKED} {DRAWN}".split(), "-o", rollouts))
    stages.run(
        "likelihood",
        likelihood.with_suffix(".gguf"),
        lambda: verb("train", base, "--data", rollouts, "-o", likelihood, *name),
    )

    def by(reward: str) -> None:
        how = f"--reward {reward} {BY_REWARD} {REWARDS[reward]}".split()
        verb("train", base, *how, "--from", likelihood, *name, "-o", WORK / reward)

    for reward in REWARDS:
        stages.run(reward, WORK / f"{reward}.gguf", lambda reward=reward: by(reward))


def evaluate(base: Path, data: Path | None) -> dict[str, Results]:
    """All heads on all tasks, as many at a time as this process has cores: a thread each is faster than all for one."""

    def directory(task: str, name: str) -> Path:
        return WORK / "evaluation" / task / (name or "constants")

    def measure(task: str, name: str, methods: str) -> None:
        adapter = ["--heads", WORK / f"{name}.gguf"] if name else []
        how = f"{MEASURED[task].how} --parallel 128 -t 1 --no-plots --methods {methods}".split()
        verb("eval", base, *adapter, "--task", MEASURED[task].spec(data), *how, "-o", directory(task, name))

    heads = methods_of_heads()
    with ThreadPoolExecutor(default_threads()) as pool:
        list(pool.map(lambda job: measure(*job), [(task, *of) for task in MEASURED for of in heads.items()]))
    return {task: compare([(name, directory(task, name)) for name in heads]) for task in MEASURED}


def methods_of_heads() -> dict[str, str]:
    """What is evaluated with which heads, "" for none."""
    return {"": CONSTANTS, **{name: OF_SHIPPED if name == SHIPPED else "autodeco" for name in ("likelihood", *REWARDS)}}


def tables(found: Mapping[str, Results]) -> dict[str, dict[str, str]]:
    """What stands between which marks of which page."""
    parts = {}
    for task, results in found.items():
        ours = replace(results, comparisons=tuple(c for c in results.comparisons if c.ahead == OURS))
        others = {c.ahead for c in results.comparisons} - {OURS}
        alone = replace(ours, methods=tuple(row for row in results.methods if row.name not in others))
        parts[task] = f"{table(ours)}\n\n**{verdict(alone)}**"
    parts["of 16"] = of_sixteen(found["questions"])
    parts["of 4"] = of_four(found)
    return {"docs/smollm2.md": parts, "README.md": {"smollm2 table": short_table(found)}}


def of_sixteen(results: Results) -> str:
    """Different right answers among all 16 of a question, and how far ours are ahead, as Markdown."""
    ahead = {c.config: c for c in results.comparisons if (c.ahead, c.metric) == (OURS, "distinct@16")}
    lines = [f"| | pass@1, % | different of 16 | {OURS} ahead by |", "|---|---|---|---|"]
    for row in results.methods:
        by = ahead.get(row.config)
        lead = "" if by is None else f"{by.difference:+.2f} [{by.ci[0]:+.2f}, {by.ci[1]:+.2f}], p = {by.p:.4f}"
        lines.append(f"| {row.label} | {100 * row.overall.pass_1:.1f} | {row.overall.distinct_k[16]:.2f} | {lead} |")
    return "\n".join(lines)


def of_four(found: Mapping[str, Results]) -> str:
    """Problems of which at least one of four answers is right, in percent by task, as Markdown."""
    lines = [f"| pass@4, % | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    for row in found["questions"].methods:
        same = (next(other for other in results.methods if other.label == row.label) for results in found.values())
        lines.append(f"| {row.label} | {' | '.join(f'{100 * other.overall.pass_k[4]:.1f}' for other in same)} |")
    return "\n".join(lines)


def short_table(found: Mapping[str, Results]) -> str:
    """Right answers in percent by task, and different right ones among 16 to the open questions."""
    names = {OURS: "AutoDeco", "greedy": "greedy", "default": "T = 1", "llama.cpp": "llama.cpp's defaults"}
    lines = [f"| | {' | '.join(found)} | different of 16 |", f"|---|{'---|' * (len(found) + 1)}"]
    rows = {task: {row.name: row.overall for row in results.methods} for task, results in found.items()}
    for name, shown in names.items():
        cells = [f"{100 * row[name].pass_1:.1f} ± {100 * (row[name].se_problems or 0):.1f}" for row in rows.values()]
        lines.append(f"| {shown} | {' | '.join(cells)} | {rows['questions'][name].distinct_k[16]:.2f} |")
    return "\n".join(lines)


def published() -> dict[str, Results]:
    """The results that are kept, by task."""
    kept = json.loads(EVALUATION.read_text(encoding="utf-8"))
    return {task: from_json(Results, results) for task, results in kept.items()}


def publish(found: Mapping[str, Results]) -> None:
    """Put the results beside this script and into the pages, and the heads into the package."""
    EVALUATION.write_text(json.dumps({k: to_json(v) for k, v in found.items()}, indent=1) + "\n", encoding="utf-8")
    for name, parts in tables(published()).items():
        replace_parts(ROOT / name, parts)
    verb(
        "export", "--base", MODEL.name, "--heads", WORK / SHIPPED, "--adapter", "--head-type", "f16",
        "-o", MODEL.heads, "--force",
    )  # fmt: skip


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Directory with the files of the benchmarks.")
def main(data: Path | None) -> None:
    """All stages."""
    base, stages = WORK / "smollm2-f16.gguf", Stages(WORK)
    stages.run("convert", base, lambda: convert(MODEL.find(), base))
    train(stages, base)
    publish(evaluate(base, data))


if __name__ == "__main__":
    main()

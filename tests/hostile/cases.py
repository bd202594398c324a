"""Which file a seed breaks, and by which door it goes in."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from hostile.broken_gguf import broken_gguf
from hostile.broken_small import broken_bin, broken_json, broken_lines, broken_npz, broken_safetensors
from hostile.gguf_bytes import STRING, Gguf, text

FIXTURES = Path(__file__).parent.parent
TEMPLATE = (
    b"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
QUICK = ["-t", "1", "-c", "64"]
PROBLEMS = [
    {"prompt": "How much is 1 and 2?", "answer": "3"},
    {"question": "And 2 and 2?", "answer": "#### 4"},
    {"problem": "Half of 1?", "solution": "It is \\boxed{\\frac12}.", "level": 1},
]
EXAMPLES = [
    {"prompt": "a b", "completion": " c d e"},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y z"}]},
    {"text": "once upon a time"},
] * 2


GGUF_ALONE = re.compile(r"^(model\.gguf|adapter)\b.*: (run|inspect|export|repack) ")
"""What a case says that does something with a GGUF alone."""


@dataclass
class Call:
    """What a case does: a file, and a door."""

    what: str
    run: Callable[[], object]


def prepare(made: Path) -> None:
    """Make the whole files that are broken later: merged ones, adapters, an evaluation's directory."""
    import autodeco_gguf as ad

    for directory in (
        "fixtures/qwen2",
        "fixtures/llama",
        "fixtures/qwen3_moe",
        "fixtures/qwen2_temp_only",
        "more_fixtures/gpt_oss",
    ):
        name, base = directory.rsplit("/", 1)[-1], FIXTURES / directory / "base.gguf"
        chat = Gguf.read(base)
        chat.set(b"tokenizer.chat_template", STRING, text(TEMPLATE))
        (made / f"{name}.gguf").write_bytes(chat.bytes())
        ad.export(made / f"{name}.gguf", FIXTURES / directory / "heads", made / f"{name}-merged.gguf")
        ad.export(base, FIXTURES / directory / "heads", made / f"{name}-adapter.gguf", adapter=True)
    shutil.copy(FIXTURES / "fixtures/qwen2/base-q8_0.gguf", made / "q8.gguf")
    (made / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS[:1]))
    evaluate(made / "qwen2-merged.gguf", made / "problems.jsonl", made / "evaluation")
    (made / "data.jsonl").write_text("".join(json.dumps(e) + "\n" for e in EXAMPLES))


def warm_up() -> None:
    """Load what a first case would load."""
    import autodeco_gguf.cli
    import autodeco_gguf.evaluation.runner
    import autodeco_gguf.heads.export
    import autodeco_gguf.training.train  # noqa: F401


def command(*args: object) -> None:
    from autodeco_gguf.cli import cli, run_command

    run_command(cli, [str(a) for a in args])


def evaluate(model: Path, problems: Path, output: Path, *more: str) -> None:
    try:
        command(
            "eval",
            model,
            "--task",
            problems,
            "--methods",
            "autodeco,greedy",
            "-k",
            1,
            "--seeds",
            1,
            "-n",
            4,
            "--parallel",
            2,
            "--no-plots",
            "-o",
            output,
            "--time-limit",
            2,
            *QUICK,
            *more,
        )
    except SystemExit as e:
        if e.code or more:
            raise


def engine_answers(path: Path, heads: Path | None) -> None:
    """An Engine of the file, as a program would use it."""
    import autodeco_gguf as ad

    try:
        with ad.Engine(path, heads=heads, n_parallel=2, n_ctx=32) as engine:
            engine.generate([ad.Request("a b", seed=1, max_tokens=3)])
            if engine.chat is not None:
                engine.chat.render([{"role": "user", "content": "Hi"}])
    except ad.AutoDecoError as e:
        raise SystemExit(f"error: {e}") from e


def llama_answers(path: Path, heads: Path | None) -> None:
    """A Llama of the file, as a program would use it."""
    import autodeco_gguf as ad

    try:
        llm = ad.Llama(path, heads=heads, n_ctx=64, n_threads=1, verbose=False)
        llm("a b", max_tokens=3, seed=1)
        llm.create_chat_completion([{"role": "user", "content": "Hi"}], max_tokens=2, seed=1)
        llm.close()
    except (ad.AutoDecoError, ValueError) as e:
        raise SystemExit(f"error: {e}") from e


# ---- kinds ----


@cache
def whole(path: Path) -> Any:
    return Gguf.read(path)


def model_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """A model, plain or merged, through everything that takes one."""
    name = rng.choice(["qwen2", "qwen2", "llama", "qwen3_moe", "gpt_oss", "qwen2_temp_only"])
    source = made / (f"{name}.gguf" if rng.random() < 0.65 else f"{name}-merged.gguf")
    if rng.random() < 0.1:
        source = made / "q8.gguf"
    path = directory / "model.gguf"
    path.write_bytes(broken_gguf(rng, Gguf.read(source)))
    heads = ["--heads", made / f"{name}-adapter.gguf"] if "merged" not in source.name else []
    run = ["run", path, *heads, "-n", 3, "--seed", 1, *QUICK, "-p", "a b"]
    fixture = next(d for d in ("fixtures", "more_fixtures") if (FIXTURES / d / name).exists())
    doors: list[tuple[int, list[object] | Callable[[], object]]] = [
        (6, run),
        (3, [*run, "--raw", "--json"]),
        (2, [*run, "--temperature", 1, "--top-p", 1]),
        (3, partial(engine_answers, path, heads[1] if heads else None)),
        (3, partial(llama_answers, path, heads[1] if heads else None)),
        (3, ["export", "--base", path, "--heads", FIXTURES / fixture / name / "heads", "-o", directory / "out.gguf"]),
        (
            1,
            [
                "export",
                "--base",
                path,
                "--heads",
                FIXTURES / fixture / name / "heads",
                "--adapter",
                "-o",
                directory / "out.gguf",
            ],
        ),
        (2, ["extract", path, "--base", directory / "b.gguf", "--adapter", directory / "a.gguf"]),
        (2, ["inspect", path]),
        (1, ["inspect", path, "--json"]),
        (2, ["repack", path]),
        (1, ["verify", path, *heads, "--golden", FIXTURES / fixture / name / "golden.npz", "--tolerance", 3, "-t", 1]),
        (1, partial(evaluate, path, made / "problems.jsonl", directory / "e", *map(str, heads))),
        (
            1,
            [
                "rollouts",
                path,
                "--problems",
                made / "problems.jsonl",
                "-k",
                1,
                "-n",
                3,
                "-o",
                directory / "r.jsonl",
                *QUICK,
            ],
        ),
    ]
    return by_door(rng, doors, path.name + f" from {source.name}")


def by_door(rng: random.Random, doors: list[tuple[int, Any]], what: str) -> Call:
    door = rng.choices([d for _, d in doors], [w for w, _ in doors])[0]
    if callable(door):
        return Call(f"{what}: {door.func.__name__ if isinstance(door, partial) else door}", door)
    return Call(f"{what}: {' '.join(map(str, door))}", partial(command, *door))


def adapter_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """A broken adapter beside a whole model."""
    path = directory / "heads.gguf"
    path.write_bytes(broken_gguf(rng, Gguf.read(made / "qwen2-adapter.gguf")))
    run = ["run", made / "qwen2.gguf", "--heads", path, "-n", 3, "-p", "a", *QUICK]
    return by_door(rng, [(3, run), (1, ["inspect", path])], "adapter")


def checkpoint_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """A checkpoint with a broken config, index or weights file."""
    heads = directory / "heads"
    shutil.copytree(FIXTURES / "fixtures/qwen2/heads", heads)
    weights, config = heads / "model.safetensors", heads / "config.json"
    choice = rng.random()
    if choice < 0.4:
        config.write_bytes(broken_json(rng, json.loads(config.read_bytes())))
    elif choice < 0.75:
        weights.write_bytes(broken_safetensors(rng, weights.read_bytes()))
    elif choice < 0.85:
        index = {"metadata": {}, "weight_map": {"temp_head.mlp.0.weight": "model.safetensors", "x": "y"}}
        (heads / "model.safetensors.index.json").write_bytes(broken_json(rng, index))
    else:
        import torch
        from safetensors.torch import load_file

        (heads / "pytorch_model.bin").write_bytes(broken_bin(rng, torch.save, load_file(weights)))
        weights.unlink()
    export = ["export", "--base", made / "qwen2.gguf", "--heads", heads, "-o", directory / "out.gguf"]
    return by_door(rng, [(2, export), (1, [*export, "--adapter"])], "checkpoint")


def golden_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """Recorded predictions."""
    with np.load(FIXTURES / "fixtures/qwen2/golden.npz") as file:
        arrays = {name: file[name] for name in ("tokens", "temperature", "top_p")}
    path = directory / "golden.npz"
    path.write_bytes(broken_npz(rng, arrays))
    return by_door(rng, [(1, ["verify", made / "qwen2-merged.gguf", "--golden", path, "-t", 1])], "golden")


def problems_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """Problems, for eval and for rollouts."""
    path = directory / "problems.jsonl"
    if rng.random() < 0.3:
        path = path.with_suffix(".json")
        path.write_bytes(broken_json(rng, PROBLEMS))
    else:
        path.write_bytes(broken_lines(rng, PROBLEMS))
    model = made / "qwen2-merged.gguf"
    checker = rng.choice([[], [], ["--checker", "boxed"], ["--checker", "number"], ["--checker", "exact"]])
    rollouts = ["rollouts", model, "--problems", path, "-k", 1, "-n", 3, "-o", directory / "r.jsonl", *QUICK]
    return by_door(rng, [(1, partial(evaluate, model, path, directory / "e", *checker)), (1, rollouts)], "problems")


def data_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """Training data."""
    path = directory / "data.jsonl"
    path.write_bytes(broken_lines(rng, EXAMPLES))
    more = rng.choice([[], [], ["--skip-bad"]])
    train = [
        "train",
        made / "qwen2.gguf",
        "--data",
        path,
        "-o",
        directory / "t",
        "-c",
        32,
        "-t",
        1,
        "--steps",
        1,
        "--batch",
        2,
        *more,
    ]
    return by_door(rng, [(1, train)], "data")


def evaluation_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """A journal or results of an evaluation that is continued or joined."""
    output = directory / "e"
    shutil.copytree(made / "evaluation", output)
    path = output / rng.choice(["samples.jsonl", "samples.jsonl", "evaluation.jsonl", "results.json"])
    if path.suffix == ".jsonl":
        path.write_bytes(broken_lines(rng, [json.loads(line) for line in path.read_bytes().splitlines()]))
    else:
        path.write_bytes(broken_json(rng, json.loads(path.read_bytes())))
    again = partial(evaluate, made / "qwen2-merged.gguf", made / "problems.jsonl", output, "--seed", "0")
    return by_door(
        rng, [(1, again), (1, ["join", output, "-o", directory / "j", "--no-plots"])], f"evaluation {path.name}"
    )


def commands_case(rng: random.Random, directory: Path, made: Path) -> Call:
    """Commands for the decoding control."""
    path = directory / "commands.json"
    path.write_bytes(broken_json(rng, {"low": ["Be exact.", "Be dull."], "high": ["Be wild."]}))
    return by_door(
        rng,
        [
            (
                1,
                partial(
                    evaluate,
                    made / "qwen2-merged.gguf",
                    made / "problems.jsonl",
                    directory / "e",
                    "--control",
                    "--commands",
                    str(path),
                ),
            )
        ],
        "commands",
    )


KINDS = [
    (60, model_case),
    (6, adapter_case),
    (10, checkpoint_case),
    (6, golden_case),
    (5, problems_case),
    (4, data_case),
    (5, evaluation_case),
    (1, commands_case),
]


def kind_of(rng: random.Random) -> Callable[[random.Random, Path, Path], Call]:
    """The kind of a seed, the first thing that its numbers decide."""
    return rng.choices([k for _, k in KINDS], [w for w, _ in KINDS])[0]


def is_gguf(seed: int) -> bool:
    """Whether a seed's file is a model or an adapter."""
    return kind_of(random.Random(seed)) in (model_case, adapter_case)


def case_of(seed: int, directory: Path, made: Path) -> Call:
    """Write the broken file of a seed, and say what to do with it."""
    rng = random.Random(seed)
    call = kind_of(rng)(rng, directory, made)
    if rng.random() < 0.04:
        path = rng.choice(sorted(p for p in directory.rglob("*") if p.is_file()))
        call.what += f" (another kind of file: {path.name})"
        replace(rng, path)
    return call


def replace(rng: random.Random, path: Path) -> None:
    """Put there what is no file, or one that is nearly all holes."""
    choice = rng.randrange(7)
    if choice == 0:
        os.truncate(path, 120 << 20)
        return
    path.unlink()
    if choice == 1:
        path.mkdir()
    elif choice == 2:
        os.mkfifo(path)
    elif choice == 3:
        path.touch()
    else:
        path.symlink_to(["/dev/zero", path.name, "nowhere"][choice - 4])

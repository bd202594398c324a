"""The command run: what it prints and where, its chat, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken import (
    Kind,
    Outcome,
    Terminal,
    assert_refused,
    invoke,
    metadata_of,
    replaced,
    rewrite,
    spawn,
    start,
    without,
)
from conftest import Case, load_case

import autodeco_gguf as ad

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


Capture = pytest.CaptureFixture[str]


def with_template(qwen2: Case, directory: Path, template: str = TEMPLATE) -> Path:
    """A merged file with a chat template."""
    entry = {"tokenizer.chat_template": (template, Kind.STRING)}
    base = rewrite(qwen2.base, directory / "chat-base.gguf", metadata=entry)
    ad.export(base, qwen2.heads, directory / "chat.gguf")
    return directory / "chat.gguf"


# ---- run ----

STATISTICS = r"(\d+) tokens, \d+\.\d tokens/s, mean temperature \d\.\d{3}, mean top-p \d\.\d{3}, seed (\d+)\n"


TOKEN_KEYS = ["id", "text", "temperature", "top_p", "entropy", "nucleus", "prob"]


SUMMARY_KEYS = [
    "tokens", "tok_s", "prompt_tokens", "prompt_tok_s", "mean_temperature", "mean_top_p", "finish_reason", "seed",
]  # fmt: skip


def run(capfd: Capture, *args: object) -> Outcome:
    """autodeco-gguf run with one thread: two wait for each other wherever other work keeps the cores busy."""
    return invoke(capfd, "run", "-t", 1, *args)


def test_run_text(merged: Path, capfd: Capture) -> None:
    outcome = run(capfd, merged, "--raw", "-p", "Hello", "-n", 12, "--seed", 7)
    statistics = re.fullmatch(r"heads: temperature, top-p\n" + STATISTICS, outcome.err)
    assert statistics is not None
    assert statistics.groups() == ("12", "7")
    assert outcome.out.endswith("\n")
    assert outcome.status == 0


def test_run_json_tells_the_same_as_text(merged: Path, capfd: Capture) -> None:
    args = (merged, "--raw", "-p", "Hello é", "-n", 40, "--seed", 7)
    text = run(capfd, *args).out
    prompt, *tokens, summary = map(json.loads, run(capfd, *args, "--json").out.splitlines())
    assert prompt == {"prompt": "Hello é", "ids": prompt["ids"]}
    assert [list(token) for token in tokens] == [TOKEN_KEYS] * 40
    assert "".join(token["text"] for token in tokens) + "\n" == text
    assert list(summary) == ["summary"]
    assert list(summary["summary"]) == SUMMARY_KEYS
    assert summary["summary"]["tokens"] == len(tokens)
    assert summary["summary"]["prompt_tokens"] == len(prompt["ids"])
    assert summary["summary"]["mean_temperature"] == pytest.approx(np.mean([t["temperature"] for t in tokens]))
    assert (summary["summary"]["finish_reason"], summary["summary"]["seed"]) == ("length", 7)


def run_ids(capfd: Capture, *args: object) -> list[int]:
    lines = run(capfd, *args, "--json").out.splitlines()
    return [json.loads(line)["id"] for line in lines[1:-1]]


def test_run_seed(merged: Path, capfd: Capture) -> None:
    ids = {seed: run_ids(capfd, merged, "-p", "Hello", "-n", 20, "--seed", seed) for seed in (1, 2)}
    assert ids[1] == run_ids(capfd, merged, "-p", "Hello", "-n", 20, "--seed", 1)
    assert ids[1] != ids[2]


def test_run_greedy(merged: Path, capfd: Capture) -> None:
    greedy = [run_ids(capfd, merged, "-p", "Hello", "-n", 20, "--temperature", 0, "--seed", seed) for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_run_reads_stdin(merged: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    expected = run(capfd, merged, "-p", "Hello", "-n", 12, "--seed", 7).out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello")))
    assert run(capfd, merged, "-n", 12, "--seed", 7).out == expected


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("qwen2", [], "temperature, top-p"),
        ("qwen2_temp_only", [], "temperature (top-p is 1)"),
        ("qwen2", ["--temperature", "0.5"], "top-p (temperature fixed at 0.5)"),
        ("qwen2", ["--top-p", "0.9"], "temperature (top-p fixed at 0.9)"),
        ("qwen2", ["--temperature", "0.5", "--top-p", "0.9"], "none (temperature fixed at 0.5, top-p fixed at 0.9)"),
        ("qwen2_temp_only", ["--temperature", "1"], "none (temperature fixed at 1, top-p is 1)"),
    ],
)
def test_run_says_which_heads(
    name: str, options: list[str], line: str, merged_of: Callable[[Case], Path], capfd: Capture
) -> None:
    outcome = run(capfd, merged_of(load_case(name)), "--raw", "-p", "Hello", "-n", 2, *options)
    assert outcome.err.startswith(f"heads: {line}\n")


def test_run_with_an_adapter(qwen2: Case, merged: Path, adapter: Path, capfd: Capture) -> None:
    options = ("-p", "Hello", "-n", 12, "--seed", 7)
    assert run_ids(capfd, qwen2.base, "--heads", adapter, *options) == run_ids(capfd, merged, *options)


def test_run_uses_the_chat_template(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    path = with_template(qwen2, tmp_path)
    for options, expected in (
        ([], "<user>Hi<assistant>"),
        (["--system", "Be kind."], "<system>Be kind.<user>Hi<assistant>"),
        (["--raw"], "Hi"),
    ):
        outcome = run(capfd, path, "-p", "Hi", "-n", 1, "--json", *options)
        assert json.loads(outcome.out.splitlines()[0])["prompt"] == expected
        assert outcome.err.count("\n") == 2  # heads, statistics


def test_llama_cpp_is_silent_unless_verbose(merged: Path) -> None:
    quiet, loud = (
        spawn("run", "-t", 1, merged, "--raw", "-p", "x", "-n", 2),
        spawn("run", "-t", 1, merged, "--raw", "-p", "x", "-n", 2, "-v"),
    )
    assert quiet.err.count("\n") == 2
    assert "llama_model_loader" in loud.err
    assert loud.out.count("\n") >= 1


@pytest.mark.parametrize(
    ("options", "stdin", "message"),
    [
        (["-p", "word " * 200], b"", r"the prompt has \d+ tokens, the context holds 256; raise --ctx"),
        (["-p", ""], b"", "the prompt is empty"),
        ([], b"caf\xe9", "standard input: not UTF-8"),
        (["-p", b"caf\xe9"], b"", "not UTF-8"),
        (["-p", "x", "--temperature", "nan"], b"", "temperature nan, expected a number"),
    ],
    ids=["too long", "empty", "stdin", "argument", "not a number"],
)
def test_bad_prompts(options: list[str | bytes], stdin: bytes, message: str, merged: Path) -> None:
    command = [sys.executable, "-m", "autodeco_gguf", "run", "-t", "1", str(merged), "--raw", *options]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    last = done.stderr.decode().splitlines()[-1]
    assert re.match(f"error: .*{message}", last)
    assert last.endswith(" (see python -m autodeco_gguf run --help)")
    assert (done.returncode, done.stdout, b"Traceback" in done.stderr) == (2, b"", False)


BAD_TEMPLATES = {
    "syntax": "{% if %}",
    "undefined": "{{ a.b.c }}",
    "refuses": "{{ raise_exception('no system message') }}",
    "type error": "{{ 1 + 'a' }}",
    "zero division": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_bad_chat_templates(name: str, qwen2: Case, tmp_path: Path) -> None:
    outcome = spawn("run", "-t", 1, with_template(qwen2, tmp_path, BAD_TEMPLATES[name]), "-p", "x", "-n", 2)
    assert re.match(r"error: .*chat template", outcome.err.splitlines()[-1])
    assert (outcome.status, outcome.out, "Traceback" in outcome.err) == (2, "", False)


# ---- Ctrl-C, pipes, terminals ----

ENDLESS = ("--raw", "-p", "Hello", "--temperature", "0", "-c", "100000", "--seed", "7")


def test_ctrl_c_ends_the_generation(merged: Path) -> None:
    process = start("run", "-t", 1, merged, *ENDLESS, "--json")
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    lines = [json.loads(line) for line in (*first, *out.splitlines())]
    assert process.returncode == 0
    assert lines[-1]["summary"]["finish_reason"] == "interrupt"
    drawn, printed = lines[-1]["summary"]["tokens"], len(lines) - 2
    assert printed <= drawn <= printed + 1 < 90_000  # the last one may have been drawn, but not yet printed
    assert re.search(STATISTICS, err.decode())


def test_a_reader_that_goes_away(merged: Path) -> None:
    process = start("run", "-t", 1, merged, *ENDLESS)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == b"heads: top-p (temperature fixed at 0)\n"
    process.stderr.close()


LINE = re.sub(r"\\n$", "", STATISTICS).encode()


def test_chat(qwen2: Case, tmp_path: Path) -> None:
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "-n", 8, "--seed", 7) as terminal:
        assert "heads: temperature, top-p" in terminal.wait_for(b"> ")
        for _ in range(2):
            terminal.send(b"Hello\r")
            terminal.wait_for(LINE)
            terminal.wait_for(b"> ")
        terminal.send(b"\r")  # an empty line is no message
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()


def test_chat_ctrl_c_ends_the_answer_only(qwen2: Case, tmp_path: Path) -> None:
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "--temperature", 0, "-c", 100_000) as terminal:
        for message in (b"Hello", b"Again"):
            terminal.wait_for(b"> ")
            terminal.send(message + b"\r")
            terminal.wait_for(re.escape(message) + rb"\r\n(.|\n){40}")  # the answer has begun
            terminal.send(b"\x03")
            terminal.wait_for(LINE)
        terminal.wait_for(b"> ")
        terminal.ctrl_c_at_prompt()
        terminal.wait_for(rb"\(Ctrl-D ends\)\r\n> ")
        terminal.ctrl_d_ends_it()


def test_chat_remembers_and_survives_a_refusal(qwen2: Case, tmp_path: Path) -> None:
    refusing = (
        "{% if messages | length > 2 %}{{ raise_exception(messages | length ~ ' messages') }}{% endif %}" + TEMPLATE
    )
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path, refusing), "-n", 4) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"One\r")
        terminal.wait_for(LINE)
        terminal.wait_for(b"> ")
        terminal.send(b"Two\r")
        terminal.wait_for(b"error: .*3 messages")  # user, assistant, user
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()


# ---- bad input ----


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def twice_the_same_token(base: Path, path: Path) -> Path:
    tokens, *kinds = metadata_of(base)["tokenizer.ggml.tokens"]
    return rewrite(base, path, metadata={"tokenizer.ggml.tokens": ([*tokens[:-1], tokens[5]], *kinds)})


NAN = np.full((256, 64), np.nan, np.float32)


TEMP0 = "autodeco.temp_head.0.weight"


BAD_MODELS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "no GGUF": (lambda m, d: write(d / "x.gguf", b"hello"), "not a GGUF"),
    "empty": (lambda m, d: write(d / "x.gguf", b""), "not a GGUF"),
    "directory": (lambda m, d: d, "is a directory"),
    "missing": (lambda m, d: d / "x.gguf", "cannot be opened: No such file or directory"),
    "cut in the header": (lambda m, d: write(d / "x.gguf", m.read_bytes()[:5000]), "not a GGUF"),
    "cut in the data": (lambda m, d: write(d / "x.gguf", m.read_bytes()[:-100]), "truncated: tensor autodeco."),
    "newer": (
        lambda m, d: rewrite(m, d / "x.gguf", metadata={"autodeco.version": (2, Kind.UINT32)}),
        "autodeco.version 2, this program reads up to 1; update autodeco-gguf",
    ),
    "stale": (
        lambda m, d: rewrite(m, d / "x.gguf", metadata={"general.name": ("Other", Kind.STRING)}),
        "run: autodeco-gguf repack",
    ),
    "an adapter": (lambda m, d: ad.extract(m, adapter=d / "a.gguf")[0].path, "give the base model and --heads a.gguf"),
    "no heads": (lambda m, d: ad.extract(m, base=d / "b.gguf")[0].path, "give some with --heads ADAPTER.gguf"),
}


BAD_HEADS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "no GGUF": BAD_MODELS["no GGUF"],
    "missing": BAD_MODELS["missing"],
    "no heads": BAD_MODELS["no heads"],
    "NaN": (lambda a, d: rewrite(a, d / "x.gguf", edit=replaced(TEMP0, NAN)), "temp_head: weight of layer 0 holds NaN"),
    "missing tensor": (
        lambda a, d: rewrite(a, d / "x.gguf", edit=without("autodeco.temp_head.0.bias")),
        "tensor autodeco.temp_head.0.bias is missing",
    ),
    "other hidden size": (
        lambda a, d: ad.export(*paths_of("llama"), d / "x.gguf", adapter=True).path,
        "heads for hidden size 96, the base model",
    ),
    "other vocabulary": (
        lambda a, d: rewrite(a, d / "x.gguf", metadata={"autodeco.vocab_size": (512, Kind.UINT32)}),
        "heads for vocabulary 512, the base model",
    ),
}  # fmt: skip


def paths_of(name: str) -> tuple[Path, Path]:
    return load_case(name).base, load_case(name).heads


@pytest.mark.parametrize("name", BAD_MODELS)
def test_run_refuses_a_model(name: str, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    make, message = BAD_MODELS[name]
    path = make(merged, tmp_path)
    assert_refused(run(capfd, path, "-p", "x", "-n", 2), path, message)


@pytest.mark.parametrize("name", BAD_HEADS)
def test_run_refuses_heads(name: str, qwen2: Case, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    make, message = BAD_HEADS[name]
    path = make(merged, tmp_path)
    assert_refused(run(capfd, qwen2.base, "--heads", path, "-p", "x", "-n", 2), path, message)


def test_a_token_that_stands_twice(qwen2: Case, tmp_path: Path) -> None:
    base = twice_the_same_token(qwen2.base, tmp_path / "twice.gguf")
    assert invoked_twice(base, qwen2, tmp_path) == [1, 1]


def invoked_twice(base: Path, qwen2: Case, directory: Path) -> list[int]:
    """llama.cpp would abort the process on the plain and on the merged file."""
    ad.export(base, qwen2.heads, directory / "merged.gguf")
    plain = spawn("run", "-t", 1, base, "-p", "x", "--temperature", 1, "--top-p", 1)
    merged = spawn("run", "-t", 1, directory / "merged.gguf", "-p", "x")
    for outcome, path in ((plain, base), (merged, directory / "merged.gguf")):
        assert_refused(outcome, path, "token 383 of tokenizer.ggml.tokens stands there twice")
    return [plain.status, merged.status]

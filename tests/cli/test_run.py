"""The command run: what it prints and where, its chat, and what it refuses."""

from __future__ import annotations

import io
import json
import os
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
    assert_refused,
    metadata_of,
    replaced,
    rewrite,
    spawn,
    start,
    without,
)
from conftest import Case, load_case
from run_helpers import STATISTICS, Capture, run, with_template

import autodeco_gguf as ad

# ---- run ----

TOKEN_KEYS = ["id", "text", "temperature", "top_p", "entropy", "nucleus", "prob"]


SUMMARY_KEYS = [
    "tokens", "tok_s", "prompt_tokens", "prompt_tok_s", "mean_temperature", "mean_top_p", "min_temperature",
    "max_temperature", "min_top_p", "max_top_p", "finish_reason", "seed",
]  # fmt: skip


def test_run_text(merged: Path, capfd: Capture) -> None:
    outcome = run(capfd, merged, "--raw", "-p", "Hello", "-n", 12, "--seed", 7)
    statistics = re.fullmatch(r"heads: temperature, top-p\n" + STATISTICS, outcome.err)
    assert statistics is not None
    assert statistics.groups() == ("12", "cut by -n", "7")
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


def test_a_file_without_heads_that_says_what_to_draw_with(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    keys = {"temp": (0.5, Kind.FLOAT32), "top_p": (0.75, Kind.FLOAT32), "top_k": (3, Kind.INT32)}
    model = rewrite(qwen2.base, tmp_path / "m.gguf", metadata={f"general.sampling.{k}": v for k, v in keys.items()})
    prompt = ("--raw", "-p", "Hello", "-n", 20, "--seed", 5)
    outcome = run(capfd, model, *prompt)
    said = (f"{name} by the model's file" for name in ("temperature 0.5", "top-p 0.75", "top-k 3"))
    assert outcome.err.startswith(f"heads: none ({', '.join(said)})\n")
    fixed = ("--temp", 0.5, "--top-p", 0.75)
    assert outcome.out == run(capfd, qwen2.base, *prompt, *fixed, "--top-k", 3).out
    assert run(capfd, model, *prompt, "--top-k", 0).out == run(capfd, qwen2.base, *prompt, *fixed).out != outcome.out
    (tmp_path / "n").mkdir()
    only = rewrite(qwen2.base, tmp_path / "n" / "m.gguf", metadata={"general.sampling.top_k": (3, Kind.INT32)})
    assert_refused(run(capfd, only, *prompt), only, "no AutoDeco heads in it")
    assert run(capfd, only, *prompt, "--temp", 0).out == run(capfd, qwen2.base, *prompt, "--temp", 0, "--top-p", 1).out


def test_a_prompt_beside_a_model_that_an_option_names_is_taken_as_it_stands(merged: Path, capfd: Capture) -> None:
    for prompt in ("see https://a//b/./c/", "./", " a "):
        outcome = run(capfd, "-m", merged, prompt, "--raw", "--json", "-n", 1)
        assert json.loads(outcome.out.splitlines()[0])["prompt"] == prompt
    assert_refused(run(capfd, "-m", merged, ""), "the prompt is empty", status=2)


def test_heads_by_default_go_with_the_model_by_default(
    qwen2: Case, merged: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    config, options = tmp_path / "config.toml", ("-p", "Hello", "-n", 2)
    monkeypatch.setenv("AUTODECO_CONFIG", str(config))
    config.write_text(f"[run]\nmodel = '{merged}'\nheads = '/nowhere.gguf'\n")
    for named in ((), (merged,), ("-m", merged)):
        assert_refused(run(capfd, *named, *options), "/nowhere.gguf: cannot be opened")
    assert_refused(run(capfd, qwen2.base, *options), qwen2.base, "no AutoDeco heads in it")
    assert_refused(run(capfd, "-m", qwen2.base, *options), qwen2.base, "no AutoDeco heads in it")
    assert run(capfd, qwen2.base, "--heads", adapter, *options).status == 0
    monkeypatch.setenv("AUTODECO_RUN_MODEL", str(qwen2.base))
    assert_refused(run(capfd, *options), qwen2.base, "no AutoDeco heads in it")
    monkeypatch.setenv("AUTODECO_RUN_HEADS", "/of-a-variable.gguf")
    assert_refused(run(capfd, *options), "/of-a-variable.gguf: cannot be opened")
    assert run(capfd, merged, *options).status == 0
    monkeypatch.delenv("AUTODECO_RUN_HEADS")
    monkeypatch.delenv("AUTODECO_RUN_MODEL")
    config.write_text("[run]\nheads = '/nowhere.gguf'\n")
    assert_refused(run(capfd, qwen2.base, *options), "/nowhere.gguf: cannot be opened")


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
        (["-p", "x", "--temperature", "nan"], b"", "nan is no number"),
    ],
    ids=["too long", "empty", "not a number"],
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


def test_what_a_chat_template_reads_besides(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}!{% endif %}"
    model = with_template(qwen2, tmp_path, template)
    ids = []
    for value in ("true", "false"):
        given = ("--chat-template-kwargs", f'{{"enable_thinking": {value}}}', "-p", "Hello", "-n", 1, "--json")
        ids.append(json.loads(run(capfd, model, *given).out.splitlines()[0])["ids"])
    assert ids[1][:-1] == ids[0]
    outcome = run(capfd, model, "--raw", "--chat-template-kwargs", "{}", "-p", "x", "-n", 1)
    assert outcome.status == 0
    outcome = run(capfd, model, "--raw", "--chat-template-kwargs", '{"enable_thinking": true}', "-p", "x")
    assert "--chat-template-kwargs needs the chat template, which --raw leaves out" in outcome.err
    assert (outcome.status, outcome.out) == (2, "")


# ---- the context ----


def test_the_context_is_what_was_asked_for(merged: Path, capfd: Capture) -> None:
    arguments = (merged, "--raw", "-p", "Hello", "--temp", 0, "-c", 30, "--repeat-penalty", 1.5, "--json")
    outcome = run(capfd, *arguments)
    prompt, *tokens, summary = map(json.loads, outcome.out.splitlines())
    assert len(prompt["ids"]) + len(tokens) == 30
    assert summary["summary"]["finish_reason"] == "length"
    assert re.search(r"^\d+ tokens \(cut: the context is full\), ", outcome.err, re.M)
    shifted = run(capfd, *arguments, "-n", 60, "--context-overflow", "shift")
    assert len(shifted.out.splitlines()) == 60 + 2
    assert shifted.out.splitlines()[1:-1][: len(tokens)] == outcome.out.splitlines()[1:-1]
    assert re.search(r"^the context was full: the oldest \d\d tokens were left out on the way$", shifted.err, re.M)
    too_long = run(capfd, merged, "--raw", "-p", "word " * 20, "-c", 30)
    assert re.search(r"the prompt has \d+ tokens, the context holds 30; raise --ctx", too_long.err)


@pytest.mark.parametrize(("size", "lines"), [(257, 1), (256, 0), (0, 0)])
def test_more_than_the_model_was_trained_for_is_said_once(size: int, lines: int, merged: Path, capfd: Capture) -> None:
    outcome = run(capfd, merged, "--raw", "-p", "Hello", "-n", 2, "-c", size)
    assert outcome.err.count("context: ") == lines
    assert lines == 0 or "context: 257 tokens; beyond 256, what it was trained for, it may fail\n" in outcome.err


def test_context_0_is_the_model_s_own(qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    metadata = {"qwen2.context_length": (5000, Kind.UINT32)}
    ad.export(rewrite(qwen2.base, tmp_path / "b.gguf", metadata=metadata), qwen2.heads, tmp_path / "m.gguf")
    for options, expected in (((), 4096), (("-c", "0"), 5000)):
        outcome = run(capfd, tmp_path / "m.gguf", "--raw", "-p", "word " * 5000, *options)
        assert f"the context holds {expected}; raise --ctx" in outcome.err


# ---- what users of other programs type ----


def same_as(capfd: Capture, model: Path, *args: object) -> bool:
    """Whether these arguments give what -p "Hello you" -n 6 --temperature 0 --top-p 0.5 does."""
    expected = run(capfd, model, "--raw", "-p", "Hello you", "-n", 6, "--temperature", 0, "--seed", 3)
    outcome = run(capfd, *args, "--raw", "-n", 6)
    assert outcome.status == 0, outcome.err
    return outcome.out == expected.out and len(outcome.out) > 6


def test_ways_to_give_a_prompt(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "prompt.txt").write_text("Hello you\n")
    (tmp_path / "first.txt").write_text("Hello")
    greedy = ("--temp", 0, "-s", 3)
    for arguments in (
        (merged, "Hello you"),
        (merged, "Hello", "you"),
        ("-m", merged, "Hello", "you"),
        ("--model", merged, "-p", "Hello you"),
        ("-m", merged, "-f", tmp_path / "prompt.txt"),
    ):
        assert same_as(capfd, merged, *arguments, *greedy), arguments
    both = run(capfd, merged, "--raw", "-f", tmp_path / "first.txt", "-p", "you", "-n", 1, "--json")
    assert json.loads(both.out.splitlines()[0])["prompt"] == "Hello\nyou"


def test_numbers_of_other_programs(merged: Path, capfd: Capture) -> None:
    seeds = set()
    for n in (-1, -2):
        outcome = run(capfd, merged, "--raw", "-p", "Hello", "-n", n, "--seed", -1, "-ngl", 99, "-c", 40)
        statistics = re.search(STATISTICS, outcome.err)
        assert outcome.status == 0
        assert statistics is not None
        assert statistics[2] in (None, "cut: the context is full")
        seeds.add(statistics[3])
    assert len(seeds) == 2


def test_sampling_options_have_an_effect(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    options = (merged, "--raw", "-p", "Hello", "-n", 20, "--temp", 1.9, "--top-p", 1, "--seed", 5)
    plain, greedy = run_ids(capfd, *options), run_ids(capfd, *options, "--temp", 0)
    assert plain != greedy
    assert run_ids(capfd, *options, "--top-k", 1) == run_ids(capfd, *options, "--min-p", 1) == greedy
    assert run_ids(capfd, *options, "--temp", 0, "--repeat-penalty", 9) != greedy
    (tmp_path / "yes.gbnf").write_text('root ::= "yes"\n')
    for way in (("--grammar", 'root ::= "yes"'), ("--grammar-file", tmp_path / "yes.gbnf")):
        assert run(capfd, *options, *way).out == "yes\n"
    schema = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
    given = json.loads(run(capfd, *options, "-n", -1, "--json-schema", schema).out)
    assert list(given) == ["a"]
    assert given["a"] in (True, False)


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--grammar", 'root ::= "a'], "the grammar does not parse", 2),
        (["--grammar", 'root ::= "a"', "--json-schema", "{}"], "give one of --grammar, --grammar-file and", 2),
        (["--json-schema", "{"], "JSON schema: ", 2),
        (["--grammar-file", "nowhere.gbnf"], "nowhere.gbnf: cannot be read: No such file", 1),
        (["--top-k", str(2**40)], "top_k 1099511627776, expected", 2),
        (["-f", "nowhere.txt"], "nowhere.txt: cannot be read: No such file", 1),
    ],
)
def test_what_will_not_do(options: list[str], message: str, status: int, merged: Path, capfd: Capture) -> None:
    outcome = run(capfd, merged, "-p", "x", "-n", 2, *options)
    assert outcome.err.splitlines()[-1].startswith(f"error: {message}")
    assert (outcome.status, outcome.out, "Traceback" in outcome.err) == (status, "", False)


def test_a_prompt_that_is_taken_for_the_model(capfd: Capture) -> None:
    for arguments in (("Why is the sky blue?",), ("llama3", "Why?")):
        message = (
            f"{arguments[0]}: cannot be opened: No such file or directory; the first argument is the MODEL, a file or "
            "smollm2; a prompt alone goes with -p"
        )
        assert_refused(run(capfd, *arguments), message)


@pytest.mark.parametrize("given", [("-p", ""), ("-f", os.devnull), ()])
def test_an_empty_prompt(given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert_refused(run(capfd, *given), "the prompt is empty", status=2)


def test_json_is_not_of_a_chat(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr("autodeco_gguf.cli.run.is_chat", lambda *_: True)
    assert_refused(run(capfd, "--json"), "--json needs a prompt: give -p or standard input", status=2)


# ---- Ctrl-C, pipes, terminals ----


def test_a_pipe_gets_the_answer_as_it_is(merged: Path, capfd: Capture) -> None:
    options = ("--raw", "-p", "x", "--grammar", r'root ::= "a\x1b[31mb"')
    assert run(capfd, merged, *options).out == "a\x1b[31mb\n"


def test_standard_input_goes_before_the_prompt(merged: Path) -> None:
    outcome = spawn("run", "-t", 1, merged, "--raw", "-p", "you", "-n", 1, "--json", input=b"Hello\n")
    assert json.loads(outcome.out.splitlines()[0])["prompt"] == "Hello\nyou"


def test_bytes_that_are_no_text_are_replaced(merged: Path) -> None:
    options = ("run", "-t", 1, merged, "--raw", "-n", 1, "--json")
    for arguments, stdin, what in (((), b"caf\xe9 x", "standard input"), (("-p", b"caf\xe9 x"), b"", "the prompt")):
        command = [sys.executable, "-m", "autodeco_gguf", *(a if isinstance(a, bytes) else str(a) for a in options)]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, check=False, timeout=60)
        assert json.loads(done.stdout.splitlines()[0])["prompt"] == "caf\ufffd x"
        assert f"{what}: not UTF-8 at byte 3; what is not is replaced by U+FFFD" in done.stderr.decode()
        assert done.returncode == 0


@pytest.mark.parametrize(
    ("environment", "written"),
    [({"PYTHONIOENCODING": "cp1252"}, "?a\n"), ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "日a\n")],  # click's way with ASCII
    ids=["code page", "C"],
)
def test_what_the_terminal_cannot_write_is_replaced(environment: dict[str, str], written: str, merged: Path) -> None:
    env = {**os.environ, "PYTHONCOERCECLOCALE": "0", **environment}
    grammar = 'root ::= "日a"'
    outcome = spawn("run", "-t", 1, merged, "--raw", "-p", "x", "--grammar", grammar, "--trace", env=env)
    assert outcome.out.startswith(written)
    assert len(re.findall("^[TP] ", outcome.out, re.M)) == 2
    assert (outcome.status, "Traceback" in outcome.err) == (0, False)


@pytest.mark.parametrize("columns", ["0", "7", "x"])
def test_a_trace_on_a_terminal_of_any_width(
    columns: str, merged: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = run(capfd, merged, "--raw", "-p", "x", "--grammar", 'root ::= "abcdefghij"', "--trace").out
    answer, *trace = out.splitlines()
    assert answer == "abcdefghij"
    assert "".join(line for line in trace[1::4]).replace(" ", "").startswith(answer)
    assert [line[0] for line in trace if line[:1].strip()] == ["T", "P"] * (len(trace) // 4)


ENDLESS = ("--raw", "-p", "Hello", "--temperature", "0", "-c", "100000", "--seed", "7")


def test_ctrl_c_ends_the_generation(merged: Path) -> None:
    process = start("run", "-t", 1, merged, *ENDLESS, "--json")
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    lines = [json.loads(line) for line in (*first, *out.splitlines())]
    assert process.returncode == 130
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
    assert process.wait(timeout=30) == 0
    context, heads = process.stderr.read().decode().splitlines()
    assert context == "context: 100000 tokens; beyond 256, what it was trained for, it may fail"
    assert heads == "heads: top-p (temperature fixed at 0)"
    process.stderr.close()


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
    "no heads": (BAD_MODELS["no heads"][0], "no AutoDeco heads in it; give an adapter, or a merged file"),
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

"""Every bad input that the command line knows: what it says, how it exits, and that nothing is left of it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from broken import assert_refused, invoke, spawn

from bad_input.things import Here

EXPORT = "export --base {base} --heads {heads} -o {out}"


def base(name: str) -> str:
    return EXPORT.replace("{base}", f"{{{name}}}")


def heads(name: str) -> str:
    return EXPORT.replace("{heads}", f"{{{name}}}")


def model(name: str) -> str:
    return f"run {{{name}}} --heads {{adapter}} -c 32 -t 1 -p a"


def adapter(name: str) -> str:
    return f"run {{base}} --heads {{{name}}} -c 32 -t 1 -p a"


def option(text: str) -> str:
    return f"run {{merged}} -c 32 -t 1 -p a {text}"


def task(text: str) -> str:
    return f"eval {{merged}} -o {{out}} --no-plots -t 1 --task {text}"


def data(text: str) -> str:
    return f"train {{base}} -o {{out}} -t 1 --data {text}"


Row = tuple[str, str]
"""A command, with the names of things (things.py) for paths, and what its line holds: these too can be named."""

FAILURES: list[Row] = [
    # a file that is no GGUF, or half of one
    (base("empty"), "{empty}: not a GGUF, or a broken one: failed to read magic"),
    (base("hello"), "{hello}: not a GGUF, or a broken one: invalid magic characters: 'hell', expected 'GGUF'"),
    (base("old"), "{old}: not a GGUF, or a broken one: GGUFv1 is no longer supported"),
    (base("new"), "{new}: not a GGUF, or a broken one: this GGUF file is version 99"),
    (
        base("big_endian"),
        "{big_endian}: not a GGUF, or a broken one: failed to load model: this GGUF file",
    ),
    (base("many_keys"), "{many_keys}: not a GGUF, or a broken one: number of key value pairs is 4611686018427387904"),
    (base("many_tensors"), "{many_tensors}: not a GGUF, or a broken one: number of tensors is 4611686018427387904"),
    (base("long_key"), "{long_key}: not a GGUF, or a broken one: string length 1099511627776 exceeds maximum"),
    (base("cut_header"), "{cut_header}: not a GGUF, or a broken one: string length 17 exceeds remaining file size"),
    (base("cut_data"), "{cut_data}: truncated: tensor output_norm.weight ends at byte 503392, the file at 503391"),
    (base("tail"), "{tail}: 100 bytes follow the last tensor, expected the file to end there"),
    (base("alignment"), "{alignment}: general.alignment is 131072, expected at most 65536"),
    (base("folder"), "{folder}: is a directory"),
    (base("pipe"), "{pipe}: is no regular file"),
    (base("missing"), "{missing}: cannot be opened: No such file or directory"),
    (base("adapter"), "{adapter}: an adapter holds heads only; give the base model and --heads adapter.gguf"),
    (base("other_base"), "{heads}: heads for architecture qwen2, the base model {other_base} is qwen3moe"),
    (base("shard"), "{d}/base-00002-of-00002.gguf: cannot be opened: No such file or directory"),
    # a checkpoint
    (heads("missing"), "{missing}: no such directory"),
    (heads("base"), "{base}: is a file; give the checkpoint's directory"),
    (heads("folder"), "{folder}/config.json: missing; a checkpoint has one"),
    (heads("no_config"), "{no_config}/config.json: missing; a checkpoint has one"),
    (heads("config_list"), "{config_list}/config.json: is a list, expected an object"),
    (heads("config_cut"), "{config_cut}/config.json: not JSON: Expecting value at column 7"),
    (heads("config_deep"), "{config_deep}/config.json: not JSON: nested too deeply"),
    (heads("config_utf8"), "{config_utf8}/config.json: not UTF-8 at byte 7"),
    (heads("config_large"), "{config_large}/config.json: larger than 16777216 bytes"),
    (heads("both_off"), "{both_off}/config.json: both heads are disabled; nothing to export"),
    (heads("flag"), "{flag}/config.json: enable_top_p_head is 'yes', expected true or false"),
    (
        heads("config_size"),
        "{config_size}: config.json says temperature_hidden_size 63, temp_head.mlp.0.weight has 64 inputs",
    ),
    (heads("config_act"), "{config_act}/config.json: temp_head_activation is 'tanh', expected one of relu, gelu"),
    (heads("config_features"), "{config_features}: config.json says use_enhanced_features false, but top_p_head"),
    (heads("no_tensors"), "{no_tensors}: tensor temp_head.mlp.0.weight is missing"),
    (heads("nan_tensor"), "{nan_tensor}: temp_head: weight of layer 0 holds NaN or infinity"),
    (heads("vector"), "{vector}: temp_head.mlp.0.weight is [64], expected a matrix"),
    (heads("layer_1"), "{layer_1}: temp_head.mlp.1.weight is unexpected: a head is of weight and bias of mlp.0, 2, 4"),
    (heads("narrow"), "{narrow}: top_p_head.mlp.0.weight has 66 inputs, expected hidden size 64 + 1 or 5"),
    (heads("int_tensor"), "{int_tensor}/model.safetensors: temp_head.mlp.0.weight is I64, expected one of F32, F16"),
    (heads("safetensors_cut"), "{safetensors_cut}/model.safetensors: not a safetensors file, or a broken one: Error"),
    (heads("safetensors_huge"), "{safetensors_huge}/model.safetensors: not a safetensors file, or a broken one: a hea"),
    (
        heads("index"),
        "{index}/model.safetensors.index.json: says temp_head.mlp.9.bias is in b, which lacks it",
    ),
    (heads("bin_runs"), "{bin_runs}/pytorch_model.bin: not a PyTorch file, or a broken one: holds "),
    (heads("bin_list"), "{bin_list}/pytorch_model.bin: holds a list, expected tensors by name"),
    (heads("bin_sparse"), "{bin_sparse}/pytorch_model.bin: not a PyTorch file, or a broken one: holds torch._utils."),
    (heads("bin_text"), "{bin_text}/pytorch_model.bin: not a PyTorch file, or a broken one, or not of tensors"),
    # an output
    ("export --base {base} --heads {heads} -o {existing}", "{existing}: exists; use --force to replace it"),
    ("export --base {base} --heads {heads} -o {folder}", "{folder}: is a directory; give a file name"),
    ("export --base {base} --heads {heads} -o {base} --force", "{base}: is the input {base}; choose another output"),
    (
        "export --base {base} --heads {heads} -o {heads}/model.safetensors --force",
        "{heads}/model.safetensors: is the input {heads}/model.safetensors; choose another output",
    ),
    ("export --base {base} --heads {heads} -o {pipe}", "{pipe}: is no regular file; give another name"),
    ("export --base {base} --heads {heads} -o {missing}/x", "{missing}/x: no such directory as {missing}"),
    ("export --base {base} --heads {heads} -o /dev/full", "/dev/full: is no regular file; give another name"),
    ("extract {merged} --base {existing}", "{existing}: exists; use --force to replace it"),
    ("extract {merged} --checkpoint {full}", "{full}: is not empty (mine.txt); use --force to write into it"),
    ("rollouts {merged} --task {problem} -o {existing}", "{existing}: exists; use --force to replace it"),
    ("eval {merged} --task {problem} -o {existing}", "{existing}: is no directory; give another name"),
    ("train {base} --data {data} -o {existing}", "{existing}: is a file; give a directory"),
    # before a model is looked for
    ("eval {missing} --task {problem} -o -", "-: is not standard output here; give another name"),
    ("train {missing} --data {data} -o -", "-: is not standard output here; give another name"),
    ("tune {missing} --task {problem} -o -", "-: is not standard output here; give another name"),
    ("explain {missing} --data {data} -o -", "-: is not standard output here; give another name"),
    ("join {missing} {out} -o -", "-: is not standard output here; give another name"),
    ("view {problem} -o {out}.html", "{problem}: no trace in it"),
    # a merged file or an adapter
    ("extract {base} --adapter {out}", "{base}: no AutoDeco heads in it; extract takes a merged file"),
    ("extract {adapter} --base {out}", "{adapter}: is an adapter; extract takes a merged file"),
    (
        "extract {stale} --base {out}",
        "{stale}: stale base view (metadata key general.name differs); run: autodeco",
    ),
    ("extract {no_view} --base {out}", "{no_view}: stale base view (no tensor autodeco.base_view); run: autodeco"),
    ("inspect {newer}", "{newer}: autodeco.version 9, this program reads up to 1; update autodeco-gguf"),
    ("inspect {no_version}", "{no_version}: no autodeco.version, this program reads up to 1; update autodeco-gguf"),
    ("inspect {hello}", "{hello}: not a GGUF, or a broken one"),
    ("inspect {pipe}", "{pipe}: is no regular file"),
    ("repack {base}", "{base}: no AutoDeco heads in it; only a merged file has a base view"),
    ("repack {adapter}", "{adapter}: is an adapter; only a merged file has a base view"),
    ("repack {missing}", "{missing}: cannot be opened: No such file or directory"),
    ("run {missing} -p a", "{missing}: cannot be opened: No such file or directory; the first argument is the MODEL"),
    ("run {base} -p a", "{base}: no AutoDeco heads in it; give some with --heads ADAPTER.gguf"),
    ("run {adapter} -p a", "{adapter}: an adapter holds heads only; give the base model and --heads adapter.gguf"),
    ("run {stale} -p a", "{stale}: stale base view (metadata key general.name differs); run: autodeco-gguf repack"),
    ("serve {missing}", "{missing}: cannot be opened: No such file or directory"),
    ("train {adapter} --data {data} -o {out}", "{adapter}: an adapter holds heads only; give the base model"),
    (adapter("base"), "{base}: no AutoDeco heads in it"),
    (adapter("missing"), "{missing}: cannot be opened: No such file or directory"),
    (adapter("no_size"), "{no_size}: metadata key autodeco.hidden_size is missing"),
    (adapter("size_text"), "{size_text}: autodeco.hidden_size is 'x', expected int"),
    (adapter("other_size"), "{other_size}: temp_head: weight of layer 0 is [256, 64], expected [256, 63]"),
    (adapter("other_vocab"), "{other_vocab}: heads for vocabulary 385, the base model {base} has 384; use the heads"),
    (adapter("activation"), "{activation}: temp_head: activation 'tanh', expected one of relu, gelu"),
    (adapter("scale"), "{scale}: temperature scale 0.0, expected a number > 0"),
    (adapter("features"), "{features}: top-p features ['x'], expected ['temperature', "),
    (adapter("no_bias"), "{no_bias}: tensor autodeco.temp_head.0.bias is missing"),
    (adapter("nan_head"), "{nan_head}: temp_head: weight of layer 0 holds NaN or infinity"),
    (adapter("odd_head"), "{odd_head}: temp_head: weight of layer 0 is [256, 9], expected [256, 64]"),
    # a model that llama.cpp does not take, or would not survive
    (model("no_arch"), "{no_arch}: cannot be loaded: error loading model: unknown model architecture: ''"),
    (model("odd_arch"), "{odd_arch}: cannot be loaded: error loading model: unknown model architecture: 'nonsense'"),
    (model("no_blocks"), "{no_blocks}: llama.cpp would crash on it: 0 blocks"),
    (model("blocks_text"), "{blocks_text}: qwen2.block_count is 'two', expected int"),
    (model("context"), "{context}: llama.cpp would crash on it: context_length 4294967295"),
    (model("epsilon"), "{epsilon}: llama.cpp would crash on it: layer_norm_rms_epsilon nan"),
    (model("wide_head"), "{wide_head}: llama.cpp would crash on it: value_length 1048576, larger than any tensor"),
    (model("rwkv"), "{rwkv}: llama.cpp would crash on it: tokenizer.ggml.tokens has no token for a byte"),
    (
        model("no_vocab"),
        "{no_vocab}: cannot be loaded: error loading model: error loading model vocabulary: ",
    ),
    (
        model("few_scores"),
        "{few_scores}: llama.cpp would crash on it: tokenizer.ggml.scores has fewer entries",
    ),
    (model("twice"), "{twice}: llama.cpp would crash on it: token 1 of tokenizer.ggml.tokens stands there twice: a"),
    (model("integers"), "{integers}: llama.cpp would crash on it: tensor token_embd.weight is i32"),
    (
        model("no_output"),
        "{no_output}: cannot be loaded: error loading model: check_tensor_dims: tensor 'blk.0.attn_q",
    ),
    # recorded predictions
    ("verify {merged} --golden {golden_text}", "{golden_text}: no recorded predictions: File is not a zip file"),
    ("verify {merged} --golden {golden_pickle}", "{golden_pickle}: no recorded predictions: tokens.npy has "),
    (
        "verify {merged} --golden {golden_no_tokens}",
        "{golden_no_tokens}: no recorded predictions: There is no item",
    ),
    ("verify {merged} --golden {golden_floats}", "{golden_floats}: tokens holds float32, expected numbers"),
    ("verify {merged} --golden {golden_short}", "{golden_short}: temperature is [3], expected [48]"),
    ("verify {merged} --golden {golden_token} -t 1", "{golden_token}: token 999, expected 0 to 383"),
    ("verify {merged} --golden {missing}", "{missing}: no such file"),
    ("verify {base} --golden {golden} -t 1", "{base}: no AutoDeco heads in it"),
    # problems and data
    (task("{no_lines}"), "{no_lines}: no record in it"),
    (task("{no_json}"), "{no_json}:1: has the keys [], expected "),
    (task("{a_list}"), "{a_list}:1: is a list, expected an object"),
    (task("{odd_keys}"), "{odd_keys}:1: has the keys ['x'], expected "),
    (task("{no_answer}"), "{no_answer}:1: answer is missing, expected "),
    (task("{empty_prompt}"), "{empty_prompt}:1: prompt is empty"),
    (task("{bad_number} --checker number"), "{bad_number}:1: answer 'x': expected a number"),
    (task("{bad_regex} --checker regex"), "{bad_regex}:1: answer '(': not a regular expression: missing )"),
    (task("{suffix}"), "{suffix}: has the suffix '.yaml', expected one of .jsonl, .json, .csv, .parquet"),
    (task("{cells}"), "{cells}: record 1: has more cells than the header"),
    (task("{folder}"), "{folder}: is not a regular file"),
    (task("{problem} --control --commands {hello}"), "{hello}: not JSON: Expecting value at column 1"),
    (
        "eval {merged} --task {problem} --checker exact --no-plots -o {other_journal}",
        "{other_journal}/evaluation.jsonl: missing beside samples.jsonl, whose settings it tells",
    ),
    ("tune {merged} --task {problem} --checker exact -o {out}", "{problem}: 1 different problem, expected at least 5"),
    (data("{missing}"), "{missing}: cannot be read: No such file or directory"),
    (data("{no_json}"), "{no_json}:1: has the keys [], expected "),
    (data("{a_list}"), "{a_list}:1: is a list, expected an object with "),
    (data("{odd_keys}"), "{odd_keys}:1: has the keys ['x'], expected "),
    (data("{no_completion}"), "{no_completion}:1: completion is missing; expected "),
    (data("{messages}"), "{messages}:1: has messages, but the model has no chat template; give prompt and completion"),
    (data("{data} --from {missing}"), "{missing}: no such directory"),
    (data("{data} --from {hello}"), "{hello}: not a GGUF, or a broken one: invalid magic characters"),
    # traces and evaluations
    ("view {hello}", "{hello}:1: no line of a trace: not JSON: Expecting value at column 1"),
    ("view {no_json}", "{no_json}:2: no line of a trace: not JSON: Expecting property name"),
    ("view {missing}", "{missing}: cannot be read: No such file or directory"),
    ("report {folder}", "{folder}: has no results.json; give the directory of an evaluation that is finished"),
    ("join {folder} -o {out}", "{folder}/evaluation.jsonl: cannot be read: No such file or directory"),
    # what goes with a prompt
    (option("--grammar-file {missing}"), "{missing}: cannot be read: No such file or directory"),
    ("run {merged} -f {missing}", "{missing}: cannot be read: No such file or directory"),
    ("run {merged} -f {folder}", "{folder}: cannot be read: Is a directory"),
]

USAGE: list[Row] = [
    ("export --heads {heads} -o {out}", "Missing option '--base'"),
    (
        f"{EXPORT} --head-type q4_0",
        "Invalid value for '--head-type': 'q4_0' is not one of 'f32', 'f16', 'bf16'",
    ),
    (f"{EXPORT} --activation tanh", "Invalid value for '--activation': 'tanh' is not one of 'relu', 'gelu'"),
    (f"{EXPORT} --frobnicate", "No such option '--frobnicate'. Did you mean '--force'?"),
    ("extract {merged}", "nothing to extract: give --base OUT, --adapter OUT, --checkpoint DIR or several of them"),
    ("extract {merged} --base {out} --adapter {out}", "{out}: given as both outputs"),
    ("run {merged} -p ''", "the prompt is empty"),
    ("run {merged} a -p b", "two prompts: 'a', and the one of -p"),
    (
        "run hf:a/b/c/d/e -p a",
        "model id hf:a/b/c/d/e, expected hf:user/repo, hf:user/repo:quant or hf:user",
    ),
    (option("-n 0"), "'-n' / '--max-tokens' / '--n-predict': 0 tokens; give at least 1, or -1: until the end"),
    (option("-n -3"), "-3 is not in the range x>=-2"),
    (option("-c -1"), "-1 is not in the range 0<=x<=16777216"),
    (option("-t 0"), "0 is not in the range 1<=x<=512"),
    (option("-s -2"), "-2 is not in the range -1<=x<=4294967295"),
    (option("--temperature -1"), "'--temperature' / '--temp': -1.0 is not in the range x>=0"),
    (option("--temperature nan"), "'--temperature' / '--temp': nan is no number"),
    (option("--temperature inf"), "temperature inf, expected a number >= 0 (0 is greedy) and <= 1e6"),
    (option("--top-p 1.5"), "'--top-p': 1.5 is not in the range 0<=x<=1"),
    (option("--top-p nan"), "'--top-p': nan is no number"),
    (option("--top-k -1"), "'--top-k': -1 is not in the range x>=0"),
    (option("--min-p 2"), "'--min-p': 2.0 is not in the range 0<=x<=1"),
    (option("--repeat-penalty 0"), "'--repeat-penalty': 0.0 is not in the range x>0"),
    (option("--device TPU"), "no device 'TPU' that takes layers"),
    (option("--tensor-split x"), "'-ts' / '--tensor-split': 'x', expected numbers as 3,1"),
    (option("--tensor-split 1_0"), "'-ts' / '--tensor-split': '1_0', expected numbers as 3,1"),
    (option("--main-gpu 9"), "main_gpu 9, expected the number, from 0, of one of "),
    (option("--cache-type q9"), "'--cache-type': 'q9' is not one of 'f32', 'f16'"),
    (option("--grammar 'root ::= ('"), "the grammar does not parse: at the end: a ( is not closed"),
    (option("--grammar 'a ::= b'"), "the grammar does not parse: it has no rule 'root'"),
    (
        option("--grammar 'root ::= root'"),
        "the grammar does not parse: rule 'root' begins with itself",
    ),
    (option("--grammar-file {grammar}"), "the grammar does not parse: at the end: a ( is not closed"),
    (option("--json-schema '{{'"), "JSON schema: EOF while parsing an object at line 1 column 1"),
    (option("""--json-schema '{{"type": 3}}'"""), "JSON schema: type must be a string or array of strings"),
    (option("""--json-schema '{{"x": 3}}'"""), "JSON schema: unknown keyword 'x', which would not be enforced"),
    (option("--grammar a --json-schema '{{}}'"), "give one of --grammar, --grammar-file and --json-schema"),
    (option("--chat-template-kwargs [1]"), "'--chat-template-kwargs': [1]: is a list, expected an object"),
    (option("""--chat-template-kwargs '{{"x": 1}}'"""), "chat template kwargs: {merged} has no chat template"),
    (option("--top 99 --json"), "'--top': 99 is not in the range 0<=x<=64"),
    ("verify {merged}", "Missing option '--golden'"),
    ("verify {merged} --golden {golden} --tolerance -1", "'--tolerance': -1.0 is not in the range x>=0"),
    (task("{missing}"), "{missing}: no such file; a task is demo, questions, instructions, or [FORMAT:]FILE"),
    (task("{problem} --checker nonsense"), "checker 'nonsense', expected one of boxed, choice, code, exact"),
    (task("{problem} --checker no.module:f"), "checker 'no.module:f': 'no.module' cannot be imported"),
    (task("{problem} --methods nonsense"), "method 'nonsense', expected one of autodeco"),
    (task("{problem} --methods static:3"), "method static:3: expected static:T,P, such as static:0.6,0.95"),
    (task("{problem} --shard 3/2"), "shard '3/2', expected I/N with I from 1 to N, such as 1/4"),
    (task("{problem} -k 0"), "'-k': 0 is not in the range x>=1"),
    (task("{problem} --commands {hello}"), "--commands needs --control"),
    ("eval {merged} -o {out}", "MODEL needs a --task"),
    ("rollouts {merged} --task {problem} -k 0 -o {out}", "'-k': 0 is not in the range x>=1"),
    ("train {base} -o {out}", "Missing option '--data', or '--reward' and '--task'"),
    (data("{data} --lr -1"), "lr -1, expected 0 to 10"),
    (data("{data} --head-widths x"), "'--head-widths': 'x', expected numbers such as 256 or 256,128,64"),
    (data("{data} --batch 0"), "batch 0, expected 1 to 65536"),
    (data("{data} --validation 0.9"), "validation 0.9, expected 0 to 0.5"),
    (data("{data} --initial-top-p 2"), "initial_top_p 2, expected a number between 0 and 1"),
    ("view {problem} -o {out}", "{out}: ends in nothing, expected .html or .png"),
    ("explain {merged} -o {out}", "MODEL needs right answers: --data, or --task to draw some"),
    ("explain --heads {adapter} -o {out}", "--heads, --data and --task need the MODEL they go with"),
    ("tune {merged} --task {problem} --minutes 0 -o {out}", "'--minutes': 0.0 is not in the range x>0"),
    ("serve {merged} --port 99999", "'--port': 99999 is not in the range 0<=x<=65535"),
    ("serve {merged} --api-key ''", "--api-key is empty"),
    ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ("frobnicate", "No such command 'frobnicate'"),
    ("inspect", "Missing argument 'FILE'"),
]

SECOND_LINE: list[Row] = [
    (f"{model('template')}", "{template}: its chat template does not parse: Expected an expression"),
    (f"{model('slow_template')}", "{slow_template}: its chat template refuses: gives range a number beyond 100000"),
    (option("--system x"), "a system message needs a chat template, and there is none"),
    (f"run {{merged}} -p '{'a b ' * 40}' -c 8 -t 1", "the context holds 8; raise --ctx"),
]
"""What is wrong only with the prompt, of usage too: the model has said what its heads are before."""


def contents(directory: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


def words(row: Row, here: Here) -> tuple[list[str], str]:
    line, part = row
    args = [word.format_map(here) for word in shlex.split(line)]
    return args, part.format_map(here)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Here(tmp_path)


CASES = [(row, status) for rows, status in ((FAILURES, 1), (USAGE, 2)) for row in rows]


@pytest.mark.parametrize(("row", "status"), CASES, ids=[row[0] for row, _ in CASES])
def test_bad_command(row: Row, status: int, here: Here, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args, part = words(row, here)
    before = contents(tmp_path)
    assert_refused(invoke(capfd, *args), part, status=status)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("row", SECOND_LINE, ids=[row[0][:60] for row in SECOND_LINE])
def test_bad_prompt(row: Row, here: Here, capfd: pytest.CaptureFixture[str]) -> None:
    args, part = words(row, here)
    outcome = invoke(capfd, *args)
    assert (outcome.status, outcome.out) == (2, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert part in last
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("row", [FAILURES[1], FAILURES[40], USAGE[3]], ids=["file", "pickle", "usage"])
def test_bad_command_in_a_process_of_its_own(row: Row, here: Here, tmp_path: Path) -> None:
    args, part = words(row, here)
    before = contents(tmp_path)
    assert_refused(spawn(*args, cwd=tmp_path, env=os.environ), part, status=1 if row in FAILURES else 2)
    assert contents(tmp_path) == before


def test_there_are_many_rows() -> None:
    assert len({row for row, _ in CASES}) == len(CASES) >= 200

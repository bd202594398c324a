"""The routes for tokens, and lm-evaluation-harness, which finds the tokenizer by them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from family_helpers import FAMILIES
from server_helpers import Api, Loop, ok, refused, served, serving

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.server import token_routes
from autodeco_gguf.server.service import Service

TASK = """\
task: harbour
dataset_path: json
dataset_kwargs: {data_files: {test: DIRECTORY/problems.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

PROBLEMS = [
    {"question": "Near the", "choices": [" harbour lives Mia", " zzz", " 12"], "answer": 0},
    {"question": "Near the harbour lives", "choices": [" the", " Mia", " 30"], "answer": 1},
    {"question": "Near the harbour", "choices": [" lives", " lives", " lives Mia"], "answer": 2},
]


def test_pieces_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_routes, "MAX_TOLD", 5)
    n = len(ok(api.post("/tokenize", {"content": "a b c d e f", "with_pieces": False}))["tokens"])
    says = f"{n} tokens, with_pieces tells of at most 5"
    refused(api.post("/tokenize", {"content": "a b c d e f", "with_pieces": True}), "content", says=says)
    assert len(ok(api.post("/tokenize", {"content": "a", "with_pieces": True}))["tokens"]) < 5


def test_tokens(api: Api, service: Service) -> None:
    text = "Tell <|im_end|> é"
    tokens = ok(api.post("/tokenize", {"content": text}))["tokens"]
    assert tokens == service.engine.context.tokenize(text)
    assert ok(api.post("/detokenize", {"tokens": tokens})) == {"content": text, "prompt": text}
    plain = ok(api.post("/tokenize", {"content": text, "parse_special": False}))["tokens"]
    assert len(plain) > len(tokens)
    pieces = ok(api.post("/tokenize", {"content": "a é", "with_pieces": True}))["tokens"]
    assert [piece["piece"] for piece in pieces[-2:]] == [[0xC3], [0xA9]]
    assert ok(api.post("/tokenize", {"content": ""})) == {"tokens": []}
    for body in ({"content": 7}, {}, {"content": "x", "prompt": "x"}):
        refused(api.post("/tokenize", body), "content")
    refused(api.post("/tokenize", {"prompt": 7}), "prompt")
    refused(api.post("/detokenize", {"tokens": ["a"]}), "tokens[0]")
    for token in (-1, 99999, 2**70):
        refused(api.post("/detokenize", {"tokens": [token]}), "tokens")


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"content": "a"}, False),  # as llama-server's add_special
        ({"prompt": "a"}, True),  # as vLLM's add_special_tokens
        ({"content": "a", "add_special": True}, True),
        ({"prompt": "a", "add_special_tokens": False}, False),
    ],
)
def test_the_beginning_of_a_vocabulary_that_wants_one(body: dict[str, Any], begins: bool, loop: Loop) -> None:
    with Engine(FAMILIES / "mistral.gguf", n_parallel=1, n_ctx=64, heads_enabled=()) as engine:
        service = serving(engine)
        tokens = ok(Api(service, loop).post("/tokenize", body))["tokens"]
        service.driver.close()
    assert (tokens[0] == 1) == begins


def test_tokens_as_vllm_has_them(api: Api, service: Service) -> None:
    context, text = service.engine.context, "Tell a story"
    for flags, add_bos in (({}, True), ({"add_special_tokens": False}, False), ({"add_special": False}, False)):
        tokens = context.tokenize(text, add_bos=add_bos)
        expected = {"tokens": tokens, "count": len(tokens), "max_model_len": service.engine.n_ctx}
        assert ok(api.post("/tokenize", {"prompt": text, **flags})) == expected
    info = ok(api.get("/tokenizer_info"))
    assert context.tokenize(info["eos_token"]) == [context.eos]
    assert info["chat_template"] == context.metadata["tokenizer.chat_template"]
    assert (info["model_max_length"], info["pad_token"]) == (service.engine.n_ctx, "<|endoftext|>")


@pytest.mark.parametrize("token", ["4294967295", "1200", "-1", "0.5"])
def test_a_token_that_the_vocabulary_has_not(api: Api, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """llama.cpp loads such a file."""
    metadata = {**api.service.engine.context.metadata, "tokenizer.ggml.unknown_token_id": token}
    monkeypatch.setattr(type(api.service.engine.context), "metadata", metadata)
    assert ok(api.get("/tokenizer_info"))["unk_token"] is None


def sum_of_logs(service: Service, context: str, continuation: str) -> tuple[float, bool]:
    """The log-probability of a continuation, and whether its tokens are the likeliest, by the engine."""
    engine = service.engine
    n = len(engine.context.tokenize(context))
    tokens = engine.context.tokenize(context + continuation)
    (result,) = engine.generate([Request(tokens, max_tokens=0, prompt_logprobs=True, top=1)])
    assert result.prompt_logprobs is not None
    scored = result.prompt_logprobs[n:]
    return sum(t.logprob or 0.0 for t in scored), all(t.id == t.alternatives[0].id for t in scored)


def test_lm_evaluation_harness(service: Service, tmp_path: Path) -> None:
    """Its own program, given the address and nothing else: log-likelihoods as the engine has them."""
    (tmp_path / "task.yaml").write_text(TASK.replace("DIRECTORY", str(tmp_path)), encoding="utf-8")
    (tmp_path / "problems.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in PROBLEMS), encoding="utf-8")
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with served(serving(service.engine)) as url:  # whose end closes its driver
        model = f"base_url={url}/v1/completions,model=demo,num_concurrent=4,max_retries=1"
        program = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", model]
        options = ["--tasks", "harbour", "--include_path", ".", "--output_path", "out", "--log_samples"]
        child = [*program, *options]
        done = subprocess.run(child, cwd=tmp_path, env=os.environ | home, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = tmp_path.glob("out/*/samples_harbour_*.jsonl")
    samples = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert len(samples) == len(PROBLEMS)
    for sample in samples:
        doc, found = sample["doc"], sample["filtered_resps"]
        for choice, (logprob, greedy) in zip(doc["choices"], found, strict=True):
            expected = sum_of_logs(service, doc["question"], choice)
            assert float(logprob) == pytest.approx(expected[0], abs=1e-4)
            assert (str(greedy) == "True") == expected[1]
            assert math.isfinite(float(logprob))

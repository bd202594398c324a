"""/v1/chat/completions: chunks, log-probabilities, stops, broken characters, failures in the middle."""

from __future__ import annotations

from typing import Any

import pytest
from server_helpers import STORY, Api, events, failing, ok, refused, text_of

from autodeco_gguf.engine.request import Request
from autodeco_gguf.server.service import Service

EMOJI = {"messages": [{"role": "user", "content": "Reply with a single emoji, nothing else"}]}


def streamed(api: Api, **body: Any) -> list[Any]:
    return events(api.chat(body.pop("body", STORY), stream=True, **body))


def choices(chunks: list[Any]) -> list[Any]:
    return [chunk["choices"][0] for chunk in chunks if chunk != "[DONE]" and chunk["choices"]]


def joined(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in choices(chunks))


# ---- the form of a stream ----


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}, "absent"])
def test_no_usage_unless_asked_for(api: Api, options: Any) -> None:
    fields = {} if options == "absent" else {"stream_options": options}
    *chunks, done = streamed(api, seed=1, **fields)
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)


def test_usage_comes_last(api: Api) -> None:
    *chunks, last, done = streamed(api, seed=1, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 22, "completion_tokens": 53, "total_tokens": 75}


def test_stream_options_without_a_stream_are_passed_over(api: Api) -> None:
    whole = ok(api.chat(STORY, seed=1, stream=False, stream_options={"include_usage": True}))
    assert whole["choices"] == ok(api.chat(STORY, seed=1, stream=None))["choices"]


def test_the_deltas(api: Api) -> None:
    chunks = streamed(api, seed=1, max_tokens=3)
    first, *middle, last = choices(chunks)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert [set(choice["delta"]) for choice in middle] == [{"content"}] * 3
    assert all(choice["finish_reason"] is None for choice in (first, *middle))
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks[:-1]} == {
        ("chat.completion.chunk", "demo", chunks[0]["id"])
    }


def test_streamed_is_unstreamed(api: Api) -> None:
    for seed in range(5):
        assert joined(streamed(api, seed=seed)) == text_of(api.chat(STORY, seed=seed))


def test_the_answer_is_the_engine_s(api: Api, service: Service) -> None:
    engine = service.engine
    tokens = engine.prompt(STORY["messages"][0]["content"])
    result = engine.submit(Request(tokens, seed=7)).result()
    answer = ok(api.chat(STORY, seed=7, autodeco=True))["choices"][0]
    assert answer["message"]["content"] == result.text
    assert answer["autodeco"]["temperature"] == result.temperature.tolist()
    assert answer["autodeco"]["top_p"] == result.top_p.tolist()


def test_several_choices(api: Api) -> None:
    answer = ok(api.chat(STORY, seed=3, n=6))  # more than have a sequence
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    for i, choice in enumerate(answer["choices"]):
        assert choice["message"]["content"] == text_of(api.chat(STORY, seed=3 + i))
    chunks = streamed(api, seed=3, n=6)
    for i in range(6):
        mine = [c for chunk in chunks if chunk != "[DONE]" for c in chunk["choices"] if c["index"] == i]
        assert "".join(c["delta"].get("content", "") for c in mine) == answer["choices"][i]["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]


# ---- T, P and log-probabilities ----


def test_autodeco_goes_with_its_tokens(api: Api) -> None:
    whole = ok(api.chat(STORY, seed=1, autodeco={"tokens": True, "top": 2}))["choices"][0]["autodeco"]
    chunks = choices(streamed(api, seed=1, autodeco={"tokens": True, "top": 2}))
    parts = [choice["autodeco"] for choice in chunks]
    for name in ("temperature", "top_p", "tokens"):
        assert [x for part in parts for x in part[name]] == whole[name]
    assert all(part["source"] == "heads" and part["seed"] == 1 for part in parts)
    assert len(whole["temperature"]) == 53
    assert "".join(token["text"] for token in whole["tokens"]) == text_of(api.chat(STORY, seed=1))
    for token in whole["tokens"]:
        names = {"id", "text", "temperature", "top_p", "entropy", "nucleus", "prob", "logprob", "alternatives"}
        assert set(token) == names
        assert len(token["alternatives"]) == 2
    for choice in chunks[1:-1]:
        assert choice["delta"]["content"] == "".join(t["text"] for t in choice["autodeco"]["tokens"])


def test_only_what_is_asked_for(api: Api) -> None:
    plain = ok(api.chat(STORY, seed=1))["choices"][0]
    assert "autodeco" not in plain
    assert "autodeco" not in ok(api.chat(STORY, seed=1, autodeco=False))["choices"][0]
    assert set(ok(api.chat(STORY, autodeco=True))["choices"][0]["autodeco"]) == {
        "temperature",
        "top_p",
        "source",
        "seed",
    }


@pytest.mark.parametrize(("top", "n"), [(None, 0), ("absent", 0), (0, 0), (2, 2), (20, 20)])
def test_top_logprobs(api: Api, top: Any, n: int) -> None:
    fields = {} if top == "absent" else {"top_logprobs": top}
    content = ok(api.chat(STORY, seed=1, logprobs=True, max_tokens=4, **fields))["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in content] == [n] * 4
    for entry in content:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert tops == sorted(tops, reverse=True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_top_logprobs_refused(api: Api, fields: Any, param: str) -> None:
    refused(api.chat(**fields), param)


def test_at_temperature_0_the_values_are_raw(api: Api) -> None:
    content = ok(api.chat(STORY, temperature=0, logprobs=True, top_logprobs=5))["choices"][0]["logprobs"]["content"]
    for entry in content:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]
        assert entry["token"] == entry["top_logprobs"][0]["token"]
        assert -50 < entry["top_logprobs"][4]["logprob"] < entry["logprob"] <= 0


EMOJI_GRAMMAR = 'root ::= "🙂" "é" "🙂"'


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_are_the_token_s_own(api: Api, stream: bool) -> None:
    fields = {"grammar": EMOJI_GRAMMAR, "logprobs": True, "top_logprobs": 2, "autodeco": True}
    if stream:
        chunks = streamed(api, body=EMOJI, **fields)
        parts = choices(chunks)
        text, content = joined(chunks), [e for c in parts if c["logprobs"] for e in c["logprobs"]["content"]]
        n_autodeco = sum(len(choice["autodeco"]["temperature"]) for choice in parts)
        assert all(part["logprobs"] is None or part["logprobs"]["content"] for part in parts)  # the end has no text
    else:
        (choice,) = ok(api.chat(EMOJI, **fields))["choices"]
        text, content = choice["message"]["content"], choice["logprobs"]["content"]
        n_autodeco = len(choice["autodeco"]["temperature"])
    assert text == "🙂é🙂"
    assert b"".join(bytes(entry["bytes"]) for entry in content) == text.encode()
    assert len(content) == 10  # this vocabulary has a token a byte for these
    assert n_autodeco == 11  # and the one that ends it
    assert content[0]["token"] == "bytes:\\xf0"
    for entry in content:
        assert all(top["bytes"] for top in entry["top_logprobs"])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_cut_within_a_character(api: Api, n: int) -> None:
    fields = {"grammar": EMOJI_GRAMMAR, "max_tokens": n}
    whole = text_of(api.chat(EMOJI, **fields))
    chunks = streamed(api, body=EMOJI, autodeco=True, **fields)
    assert joined(chunks) == whole == ("🙂" if n >= 4 else "") + "�"
    assert sum(len(choice["autodeco"]["top_p"]) for choice in choices(chunks)) == n


def test_an_emoji_in_the_prompt(api: Api) -> None:
    body = {"messages": [{"role": "user", "content": "🙂"}]}
    chunks = streamed(api, body=body, seed=1)
    assert joined(chunks) == text_of(api.chat(body, seed=1))
    assert "�" not in joined(chunks)


# ---- stops over several tokens ----


def test_a_stop_over_several_tokens(api: Api) -> None:
    fields = {"seed": 1, "logprobs": True, "autodeco": True}
    plain = ok(api.chat(STORY, **fields))["choices"][0]
    tokens = [bytes(entry["bytes"]).decode() for entry in plain["logprobs"]["content"]]
    stop, before = "".join(tokens[3:6]), "".join(tokens[:3])
    choice = ok(api.chat(STORY, stop=[stop], **fields))["choices"][0]
    assert choice["message"]["content"] == before
    assert choice["finish_reason"] == "stop"
    assert [bytes(e["bytes"]).decode() for e in choice["logprobs"]["content"]] == tokens[:3]
    assert choice["autodeco"]["temperature"] == plain["autodeco"]["temperature"][:6]  # all that was drawn
    chunks = streamed(api, stop=[stop], **fields)
    assert joined(chunks) == before
    parts = choices(chunks)
    assert [t for part in parts for t in part["autodeco"]["temperature"]] == choice["autodeco"]["temperature"]
    entries = [e for part in parts if part["logprobs"] for e in part["logprobs"]["content"]]
    assert entries == choice["logprobs"]["content"]


def test_half_a_stop_is_released(api: Api) -> None:
    fields = {"seed": 1, "logprobs": True, "autodeco": True}
    plain = ok(api.chat(STORY, **fields))["choices"][0]
    tokens = [bytes(entry["bytes"]).decode() for entry in plain["logprobs"]["content"]]
    chunks = streamed(api, stop=["".join(tokens[3:5]) + "never"], **fields)
    assert joined(chunks) == plain["message"]["content"]
    sizes = []
    for choice in choices(chunks)[1:-1]:
        content = choice["logprobs"]["content"] if choice["logprobs"] else []  # a token's text may be released in part
        assert len(choice["autodeco"]["temperature"]) - len(content) in (0, 1)  # that which ends it has no text
        sizes.append(len(content))
    assert sum(sizes) == len(tokens)
    assert max(sizes) > 1  # those that were held came together


# ---- failures ----


def test_a_failure_in_the_middle(api: Api, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(service, patch, after=5)
        *chunks, last = streamed(api, seed=1)
    assert set(last) == {"error"}
    assert last["error"]["message"] == "the model failed: the device is gone"
    assert last["error"]["type"] == "server_error"
    assert [choice["finish_reason"] for choice in choices(chunks)] == [None] * 6
    assert api.get("/health").json()["status"] == "degraded"
    assert joined(streamed(api, seed=1)) == text_of(api.chat(STORY, seed=1))  # it goes on
    assert api.get("/health").json()["status"] == "ok"


def test_a_failure_before_anything_is_sent(api: Api, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(service, patch, after=0)
        refused(api.chat(STORY), status=500, says="the device is gone")
    ok(api.chat(STORY))


# ---- the context ----


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fills_the_context(api: Api, service: Service, stream: bool) -> None:
    rest = len(service.engine.prompt(""))

    def prompt(n: int) -> dict[str, Any]:
        text = "1" * (n - rest)
        assert len(service.engine.prompt(text)) == n
        return {"messages": [{"role": "user", "content": text}]}

    for n in (512, 513, 2000):
        error = refused(api.chat(prompt(n), stream=stream), "messages")
        assert error["code"] == "context_length_exceeded"
        assert str(n) in error["message"]
        assert "512" in error["message"]
    if stream:
        assert choices(streamed(api, body=prompt(511)))[-1]["finish_reason"] == "length"
    else:
        answer = ok(api.chat(prompt(511)))
        assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 1)


@pytest.mark.parametrize(("top_logprobs", "top"), [(2, 5), (5, 2), (0, 3), (3, 0), (2, None)])
def test_each_has_the_alternatives_that_it_asks_for(api: Api, top_logprobs: int, top: int | None) -> None:
    fields = {"logprobs": True, "top_logprobs": top_logprobs, "autodeco": {"tokens": True, "top": top}}
    choice = ok(api.chat(STORY, seed=1, max_tokens=4, **fields))["choices"][0]
    assert {len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]} == {top_logprobs}
    assert {len(token.get("alternatives", ())) for token in choice["autodeco"]["tokens"]} == {top or 0}

"""Bodies of requests to OpenAI's API: what is taken, and what is refused by the name of its field."""

from __future__ import annotations

from typing import Any

import pytest
from server_helpers import STORY, Api, U, ok, refused, text_of

from autodeco_gguf.server import app
from autodeco_gguf.server.errors import ApiError, of_validation
from autodeco_gguf.server.fields import MAX_ITEMS
from autodeco_gguf.server.schemas import ChatBody

MAX = 2**63 - 1


# ---- stop ----


@pytest.mark.parametrize("stop", [None, [], "", [""]])
def test_no_stop_is_none(api: Api, stop: Any) -> None:
    plain = ok(api.chat(STORY, seed=1))["choices"][0]
    same = ok(api.chat(STORY, seed=1, stop=stop))["choices"][0]
    assert same == plain
    assert plain["finish_reason"] == "stop"  # the model's own end of turn


@pytest.mark.parametrize("stop", ["coins", ["coins"], ["a1", "b2", "c3", "d4", "coins"]])
def test_stops(api: Api, stop: Any) -> None:
    plain = text_of(api.chat(STORY, seed=1))
    assert text_of(api.chat(STORY, seed=1, stop=stop)) == plain.partition("coins")[0]


@pytest.mark.parametrize("stop", [7, [7], [None], {"a": 1}, True])
def test_what_is_no_stop(api: Api, stop: Any) -> None:
    refused(api.chat(stop=stop), "stop")


# ---- messages ----


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [0] * 100_000}),
        ("/v1/chat/completions", {**U, "tools": [0] * 100_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [0] * 100_000}]}),
        ("/v1/responses", {"input": [0] * 100_000}),
        ("/api/chat", {"model": "demo", "messages": [0] * 100_000}),
        ("/detokenize", {"tokens": ["a"] * 100_000}),
    ],
)
def test_of_many_mistakes_the_first_is_looked_for(
    api: Api, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with each of millions would take gigabytes, and the server's time."""
    found: list[int] = []

    def counted(errors: Any, path: str) -> ApiError:
        found.append(len(errors))
        return of_validation(errors, path)

    monkeypatch.setattr(app, "of_validation", counted)
    assert api.post(path, body).status_code == 400
    assert found == [1]


def test_so_many_messages_are_no_conversation(api: Api) -> None:
    message = {"role": "user", "content": "a"}
    refused(api.chat({"messages": [message] * (MAX_ITEMS + 1)}), "messages", says="messages: more than 16384 items")


CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def test_parts_are_one_text(api: Api) -> None:
    parts = [{"type": "text", "text": "tell me a "}, {"type": "text", "text": "riddle"}]
    texts = {
        text_of(api.chat({"messages": [{"role": "user", "content": content}]}, seed=1))
        for content in (parts, "tell me a riddle")
    }
    assert len(texts) == 1


def test_no_parts_are_no_text(api: Api) -> None:
    texts = {text_of(api.chat({"messages": [{"role": "user", "content": c}]}, seed=1)) for c in ([], "")}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:,"}}], "messages[0].content[0]"),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], "messages[0].content[1]"),
        ([{"type": "text"}], "messages[0].content[0].text"),
        ([{"type": "text", "text": 7}], "messages[0].content[0].text"),
        ([{}], "messages[0].content[0].type"),
        ([7], "messages[0].content[0]"),
        (["a", "b"], "messages[0].content[0]"),
        ([{"type": "text", "text": None}], "messages[0].content[0].text"),
        (7, "messages[0].content"),
        (None, "messages[0].content"),
        ({"type": "text"}, "messages[0].content"),
    ],
)
def test_content_that_is_no_text(api: Api, content: Any, param: str) -> None:
    refused(api.chat({"messages": [{"role": "user", "content": content}]}), param)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (None, "messages"),
        ("hi", "messages"),
        ({}, "messages"),
        ([None], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": 1, "content": "x"}], "messages[0].role"),
        ([{"role": "User", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x", "name": 7}], "messages[0].name"),
        ([{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}], "messages[0].function_call"),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages[0].audio"),
        ([{"role": "assistant", "refusal": "no"}], "messages[0].refusal"),
        ([{"role": "assistant", "content": "x", "reasoning_content": 7}], "messages[0].reasoning_content"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
    ],
)
def test_what_is_no_conversation(api: Api, messages: Any, param: str) -> None:
    refused(api.chat({"messages": messages}), param)


def test_messages_are_required(api: Api) -> None:
    refused(api.chat({}), "messages", says="required")


def test_developer_is_system(api: Api) -> None:
    texts = {
        text_of(api.chat({"messages": [{"role": role, "content": "Be brief."}, *U["messages"]]}, seed=1))
        for role in ("system", "developer")
    }
    assert len(texts) == 1


# ---- lengths ----


@pytest.mark.parametrize("n", [None, -1, 1e9, 10**9])
def test_to_the_end(api: Api, n: Any) -> None:
    plain, same = api.chat(STORY, seed=1), api.chat(STORY, seed=1, max_tokens=n)
    assert ok(plain)["choices"] == ok(same)["choices"]
    assert ok(same)["usage"]["completion_tokens"] == 53


def test_a_huge_length_is_capped_by_the_context(api: Api) -> None:
    answer = ok(api.chat(max_tokens=1e9, logit_bias={"0": -100, "2": -100}))  # what would end it
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 512


@pytest.mark.parametrize("n", [1, 1.0])
def test_one_token(api: Api, n: Any) -> None:
    answer = ok(api.chat(max_tokens=n))
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("n", [0, -2, 1.5, "5", True, [], 1e-3])
def test_what_is_no_length(api: Api, name: str, n: Any) -> None:
    refused(api.chat(**{name: n}), name)


def test_the_new_name_of_the_length(api: Api) -> None:
    def drawn(**fields: Any) -> int:
        return int(ok(api.chat(STORY, seed=1, **fields))["usage"]["completion_tokens"])

    assert drawn(max_completion_tokens=5) == 5
    assert drawn(max_completion_tokens=5, max_tokens=50) == 5  # it counts, whichever is larger
    assert drawn(max_completion_tokens=9, max_tokens=2) == 9
    assert drawn(max_completion_tokens=None, max_tokens=2) == 2
    assert ok(api.compl(prompt="Tell", max_completion_tokens=3, temperature=0))["usage"]["completion_tokens"] == 3


# ---- seed ----


@pytest.mark.parametrize("seed", [0, 4294967294, 4294967295, 4294967296, MAX, -MAX - 1, -2, 1.0])
def test_a_seed_repeats_the_answer(api: Api, seed: Any) -> None:
    assert text_of(api.chat(seed=seed)) == text_of(api.chat(seed=seed))


@pytest.mark.parametrize("seed", [None, -1])
def test_a_random_seed(api: Api, seed: Any) -> None:
    assert (
        len({ok(api.chat(seed=seed, max_tokens=1, autodeco=True))["choices"][0]["autodeco"]["seed"] for _ in range(8)})
        == 8
    )


@pytest.mark.parametrize("seed", [MAX + 1, 2**64 - 1, -MAX - 2, 1.5, True, "42", [1], 1e300])
def test_what_is_no_seed(api: Api, seed: Any) -> None:
    refused(api.chat(seed=seed), "seed")


def test_a_seed_that_is_infinite(api: Api) -> None:
    refused(api.raw("/v1/chat/completions", b'{"messages":[{"role":"user","content":"hi"}],"seed":1e400}'), "seed")


def test_the_rule_of_seeds(api: Api) -> None:
    for given, engine in ((5, 5), (2**32 - 1, 0), (2**32, 1), (-2, 2**32 - 3)):
        assert ok(api.chat(seed=given, max_tokens=1, autodeco=True))["choices"][0]["autodeco"]["seed"] == engine


# ---- temperature, top_p and others ----


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", [-1, "0.7", 1e7, True, [], 10**30]),
        ("top_p", [1.0001, -0.1, "1"]),
        ("top_k", [-2, 1.5, "3"]),
        ("min_p", [-1, 2]),
        ("frequency_penalty", [3, "x"]),
        ("presence_penalty", [-2.5]),
        ("repeat_penalty", [0, -1, 1e-7]),
        ("n", [0, 129, 1.5, "2", True]),
        ("stream", ["false", 1, []]),
        ("stream_options", [7, "x"]),
        ("user", []),
        ("model", [7, []]),
        ("logprobs", [1, "true"]),
        ("heads", ["all", 1]),
        ("autodeco", ["yes", 1]),
        ("tools", ["x", [{"type": "web"}], [{}], [{"function": {"name": ""}}], [None], {}]),
        ("response_format", ["json", [], {"type": "xml"}, {"type": "json_schema"}, {}]),
        ("response_format", [{"type": "json_object", "schema": s} for s in ("x", [])]),
        ("reasoning_effort", ["very", 7, []]),
        ("repeat_last_n", [-2, 1.5, "64"]),
        ("typical_p", [-0.1, 1.1, "1"]),
        ("top_n_sigma", [-2, "1"]),
        ("xtc_probability", [-0.1, 2]),
        ("xtc_threshold", [-0.1, 2]),
        ("mirostat", [3, -1, "2"]),
        ("mirostat_tau", [-1]),
        ("web_search_options", [{}]),
        ("prompt", ["x"]),
        ("echo", [True]),
        ("suffix", ["x"]),
        ("prediction", [{"type": "content", "content": "x"}]),
        ("chat_template_kwargs", [[], "x", {"nonsense": 1}, {"messages": []}]),
        ("logit_bias", [[], {"x": 1}, {"1": "a"}, {"1": 101}, {"-1": 1}, {"99999": 1}, {"1": None}, {"1" * 30: 1}]),
        ("functions", [[{"name": "f"}]]),
        ("best_of", [2]),
        ("modalities", [["audio"], "text"]),
        ("top_logprobs", [0, 2]),
    ],
)
def test_values_out_of_range(api: Api, field: str, values: list[Any]) -> None:
    for value in values:
        error = refused(api.chat(**{field: value}))
        assert str(error["param"]).startswith(field), (value, error)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_not(api: Api, number: str) -> None:
    body = '{"messages":[{"role":"user","content":"hi"}],"temperature":' + number + "}"
    refused(api.raw("/v1/chat/completions", body.encode()), says="not JSON")


def test_a_temperature_of_a_million_is_near_uniform(api: Api) -> None:
    answer = ok(api.compl(prompt="x", temperature=1000000, max_tokens=20, n=8, seed=1, autodeco={"tokens": True}))
    tokens = [token for choice in answer["choices"] for token in choice["autodeco"]["tokens"]]
    assert len({token["id"] for token in tokens}) > 0.9 * len(tokens)
    assert all(token["prob"] < 2 / 1158 for token in tokens)


def test_top_p_of_0_is_the_top_token(api: Api) -> None:
    assert text_of(api.chat(STORY, top_p=0, seed=1)) == text_of(api.chat(STORY, temperature=0, seed=2))


def test_null_is_absent(api: Api) -> None:
    names = "temperature top_p top_k min_p stop tools tool_choice functions function_call logprobs top_logprobs n user"
    names += " stream stream_options response_format grammar logit_bias max_tokens max_completion_tokens model heads"
    names += " frequency_penalty presence_penalty repeat_penalty autodeco parallel_tool_calls modalities metadata"
    nulls = dict.fromkeys(names.split())
    assert text_of(api.chat(STORY, seed=1, **nulls)) == text_of(api.chat(STORY, seed=1))


def test_logit_bias_by_id_as_text(api: Api) -> None:
    (near,) = ok(api.post("/tokenize", {"content": "Near"}))["tokens"]
    assert text_of(api.chat(logit_bias={str(near): 100}, max_tokens=2)) == "NearNear"


def test_penalties_have_an_effect(api: Api) -> None:
    plain = text_of(api.chat(STORY, temperature=1, seed=1))
    for field in ("frequency_penalty", "presence_penalty", "repeat_penalty"):
        assert text_of(api.chat(STORY, temperature=1, seed=1, **{field: 2})) != plain


def test_other_ways_to_draw_have_an_effect(api: Api) -> None:
    base: dict[str, Any] = {"temperature": 1.5, "seed": 1}
    plain = text_of(api.chat(STORY, **base))
    for fields in (
        {"typical_p": 0.2},
        {"top_n_sigma": 0.5},
        {"xtc_probability": 1, "xtc_threshold": 0.05},
        {"mirostat": 2, "mirostat_tau": 1},
        {"mirostat": 1, "mirostat_eta": 0.9},
    ):
        assert text_of(api.chat(STORY, **base, **fields)) != plain, fields
    off = {"typical_p": 1, "top_n_sigma": -1, "xtc_probability": 0, "mirostat": 0, "repeat_last_n": 64}
    assert text_of(api.chat(STORY, **base, **off)) == plain
    assert text_of(api.chat(STORY, **base, top_n_sigma=-0.5)) == plain
    assert text_of(api.chat(STORY, **base, repeat_penalty=2, repeat_last_n=0)) == plain
    assert text_of(api.chat(STORY, **base, repeat_penalty=2)) != plain


def test_tokens_as_whole_floats(api: Api) -> None:
    for prompt in ([5.0, 6], [[5.0, 6.0]]):
        answers = [ok(api.compl(prompt=p, max_tokens=3, seed=1))["choices"] for p in (prompt, [5, 6])]
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "body",
    [[], 7, "x", None, {"messages": [7]}, {"messages": 7}, {"messages": []}, {"messages": [{"role": "user"}]}],
)
def test_words_of_errors(api: Api, body: Any) -> None:
    """None of pydantic's own, and what was given is named once."""
    message = refused(api.post("/v1/chat/completions", body))["message"]
    assert not any(word in message for word in ("dictionary", "input should", "field required", "validation"))
    assert message.count(", not ") <= 1


def test_a_body_that_is_none(api: Api) -> None:
    for body in ([], 7, "x", None):
        refused(api.post("/v1/chat/completions", body))
    refused(api.raw("/v1/chat/completions", b""))


# ---- prompts of completions ----


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [999999999]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt[1]"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [1.0, "a"]}, "prompt"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"prompt": "x", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"prompt": "x", "top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "x", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["x"] * 1025}, "prompt"),
        ({"prompt": ["x"] * 65, "n": 64, "max_tokens": 1}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "logprobs": -1}, "logprobs"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "echo": 1}, "echo"),
        ({"prompt": "x", "echo": True, "logprobs": 1, "stream": True}, "stream"),
    ],
)
def test_what_is_no_completion(api: Api, fields: dict[str, Any], param: str) -> None:
    refused(api.compl(**fields), param)


@pytest.mark.parametrize(("name", "given", "form"), [("stop", "x", "string"), ("autodeco", True, "boolean")])
def test_the_schema_has_a_short_form_too(name: str, given: Any, form: str) -> None:
    assert ChatBody.model_validate({**U, name: given})
    assert {"type": form} in ChatBody.model_json_schema()["properties"][name]["anyOf"]

"""/v1/responses in its text form."""

from __future__ import annotations

from typing import Any

import pytest
from server_helpers import STORY, Api, events, failing, ok, refused, text_of

EVENTS = ["created", "in_progress", "output_item.added", "content_part.added"]
LAST = ["output_text.done", "content_part.done", "output_item.done"]


def output(answer: Any) -> str:
    return str(answer["output"][0]["content"][0]["text"])


def test_a_text_is_a_message(api: Api) -> None:
    text = STORY["messages"][0]["content"]
    expected = text_of(api.chat(STORY, seed=1))
    parts = [{"role": "user", "content": [{"type": "input_text", "text": text}], "type": "message"}]
    for given in (text, STORY["messages"], parts):
        answer = ok(api.resp(input=given, seed=1))
        assert output(answer) == expected
    assert answer["status"] == "completed"
    assert answer["usage"]["total_tokens"] == 75
    assert answer["incomplete_details"] is None


def test_instructions_are_a_system_message(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert output(ok(api.resp(input="hi", instructions="Be brief.", seed=1))) == text_of(
        api.chat({"messages": messages}, seed=1)
    )
    given: list[Any] = []
    chat = api.service.prompts.chat
    monkeypatch.setattr(api.service.prompts, "chat", lambda said, **more: given.append(said) or chat(said, **more))
    ok(api.resp(input="hi", instructions="Be brief.", max_output_tokens=1))
    assert given == [messages]


def test_the_events(api: Api) -> None:
    found = events(api.resp(input="What is 2 + 2?", stream=True, seed=1))
    kinds = [event["type"].removeprefix("response.") for event in found]
    n = len(kinds) - 8
    assert kinds == [*EVENTS, *["output_text.delta"] * n, *LAST, "completed"]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert len({event["item_id"] for event in found if "item_id" in event}) == 1
    for event in found:
        if event["type"].startswith(("response.output_text", "response.content_part")):
            assert (event["output_index"], event["content_index"]) == (0, 0)
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    whole = ok(api.resp(input="What is 2 + 2?", seed=1))
    assert text == found[-4]["text"] == output(found[-1]["response"]) == output(whole)
    assert found[-1]["response"]["usage"] == whole["usage"]


def test_cut_off(api: Api) -> None:
    found = events(api.resp(input="What is 2 + 2?", stream=True, max_output_tokens=1))
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["status"] == "incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_failure_has_its_number_among_the_events(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(api.service, monkeypatch, after=3)
    monkeypatch.setattr(api.service.driver, "failure", None)  # nor afterwards
    found = events(api.resp(input="hi", stream=True, seed=1))
    assert (found[-1]["type"], len(found)) == ("error", len(EVENTS) + 4)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


def test_a_format(api: Api) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "n", "schema": schema}
    for given in (form, {**form, "json_schema": None}, {"type": "json_schema", "json_schema": form}):
        text = output(ok(api.resp(input="hi", text={"format": given}, seed=1)))
        assert text.replace(" ", "").replace("\n", "") in ('{"a":1}', '{"a":2}')


@pytest.mark.parametrize("more", [{}, {"schema": None}, {"schema": "x"}, {"json_schema": {}}])
def test_a_format_without_a_schema(api: Api, more: dict[str, Any]) -> None:
    form = {"type": "json_schema", "name": "n", **more}
    refused(api.resp(input="hi", text={"format": form}), "text.format", says="an object as the schema beside it")


def test_autodeco(api: Api) -> None:
    whole = ok(api.resp(input="hi", seed=1, autodeco=True))["autodeco"]
    found = events(api.resp(input="hi", seed=1, stream=True, autodeco=True))
    deltas = [event["autodeco"] for event in found if event["type"] == "response.output_text.delta"]
    assert [t for delta in deltas for t in delta["temperature"]] == whole["temperature"]
    assert all(delta["temperature"] for delta in deltas)
    assert found[-1]["response"]["autodeco"] == whole


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"type": "function_call_output"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "reasoning"}]}, "input[1]"),
        ({"input": [{"content": "x"}]}, "input[0]"),
        ({"input": ["x"]}, "input[0]"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"input": "x", "previous_response_id": "r"}, "previous_response_id"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "text.format"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "schema": {"$ref": "#"}}}}, "text.format"),
        ({"input": "x", "text": "x"}, "text"),
        ({"input": "x", "response_format": {"type": "json_object"}}, "response_format"),
        ({"input": "x", "stop": "a"}, "stop"),
        ({"input": "x", "n": 2}, "n"),
        ({"input": "x", "logprobs": True}, "logprobs"),
        ({"input": "x", "grammar": 'root ::= "a"'}, "grammar"),
        ({"input": "x", "max_tokens": 5}, "max_tokens"),
        ({"input": "x", "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"input": "x", "truncation": "auto"}, "truncation"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"input": "x", "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"input": "x", "reasoning": "low"}, "reasoning"),
        ({"input": "x", "reasoning": {"effort": "very"}}, "reasoning.effort"),
        ({"input": "x", "include": ["reasoning.encrypted_content"]}, "include"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "instructions": 7}, "instructions"),
        ({"input": "x", "metadata": 7}, "metadata"),
        ({"input": "x", "metadata": {"a": 1}}, "metadata.a"),
        ({"input": "x", "temperature": -1}, "temperature"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": "1" * 600}, "input"),
    ],
)
def test_refused(api: Api, fields: Any, param: str) -> None:
    for stream in (False, True):
        refused(api.resp(stream=stream, **fields), param)


@pytest.mark.parametrize(
    ("field", "param"),
    [('"metadata": {"a": 1e999}', "metadata.a"), ('"text": {"format": {"type": "text", "a": 1e999}}', "text.format")],
)
def test_a_number_that_cannot_be_sent_back(api: Api, field: str, param: str) -> None:
    for stream in ("false", "true"):
        body = f'{{"input": "x", "stream": {stream}, {field}}}'
        refused(api.raw("/v1/responses", body.encode()), param)


def test_metadata_comes_back(api: Api) -> None:
    assert ok(api.resp(input="x", metadata={"a": "1"}, max_output_tokens=1))["metadata"] == {"a": "1"}


def test_what_changes_nothing(api: Api) -> None:
    plain = output(ok(api.resp(input="hi", seed=1)))
    fields = {"n": 1, "truncation": "disabled", "tool_choice": "auto", "tools": [], "include": [], "store": True}
    fields |= {"reasoning": {"effort": "low"}, "service_tier": "auto", "previous_response_id": None}
    assert output(ok(api.resp(input="hi", seed=1, **fields))) == plain

"""Calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from server_helpers import Api, Loop, U, demo_engine, events, ok, refused, serving, text_of

from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.server import tools as module
from autodeco_gguf.server.chat import chat_plan
from autodeco_gguf.server.choice import Choice
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.ollama import ollama_chat_plan
from autodeco_gguf.server.ollama_schemas import OllamaChatBody
from autodeco_gguf.server.schemas import ChatBody, Message
from autodeco_gguf.server.tools import CallFinder, ToolUse, template_messages

TEMPLATE = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}as <tool_call>{"name": .., "arguments": ..}</tool_call><|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>{{ {"name": call.function.name,
"arguments": call.function.arguments} | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{# tool #}"""

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": None,
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":2,"b":3}'}}


def conversation(**assistant: Any) -> dict[str, Any]:
    turn = {"role": "assistant", "tool_calls": [CALL], **assistant}
    return {
        "messages": [
            {"role": "user", "content": "2+3?"},
            turn,
            {"role": "tool", "tool_call_id": "c1", "content": "5"},
        ]
    }


@pytest.fixture(scope="module")
def with_tools(loop: Loop) -> Iterator[Api]:
    with demo_engine() as engine:
        engine.chat = Chat(TEMPLATE, engine.context.vocab, engine.context.file.path)
        service = serving(engine)
        yield Api(service, loop)
        service.driver.close()


def test_the_server_s_own_answer_comes_back(with_tools: Api) -> None:
    bodies = (conversation(content=None), conversation(), conversation(content=""))
    answers = [ok(with_tools.chat(body, seed=1)) for body in bodies]
    assert len({json.dumps([a["choices"], a["usage"]]) for a in answers}) == 1
    left_out = {"messages": [m for m in bodies[0]["messages"] if "tool_calls" not in m]}
    assert ok(with_tools.chat(left_out, seed=1))["usage"]["prompt_tokens"] < answers[0]["usage"]["prompt_tokens"]


def test_null_ids(with_tools: Api) -> None:
    call = {**CALL, "id": None, "type": None}
    body = conversation(content=None, tool_calls=[call])
    body["messages"][2]["tool_call_id"] = None
    ok(with_tools.chat(body, stream=False, max_tokens=1))


@pytest.mark.parametrize("arguments", ['{"a":2,"b":3}', {"a": 2, "b": 3}])
def test_both_forms_of_arguments(with_tools: Api, arguments: Any) -> None:
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    expected = ok(with_tools.chat(conversation(), seed=1))["choices"]
    assert ok(with_tools.chat(conversation(tool_calls=[call]), seed=1))["choices"] == expected


def test_a_template_that_joins_arguments_as_text(loop: Loop) -> None:
    template = TEMPLATE.replace(
        '{"name": call.function.name,\n"arguments": call.function.arguments} | tojson', "'x' + call.function.arguments"
    )
    assert template != TEMPLATE
    with demo_engine() as engine:
        engine.chat = Chat(template, engine.context.vocab, engine.context.file.path)
        service = serving(engine)
        ok(Api(service, loop).chat(conversation(), max_tokens=1))
        service.driver.close()


def test_a_template_without_tools(api: Api) -> None:
    refused(api.chat(conversation(content=None)), "messages[1]", says="tool_calls")
    refused(api.chat({"messages": [*U["messages"], {"role": "tool", "content": "5"}]}), "messages[1]", says="tool")
    refused(api.chat(tools=[TOOL]), "tools", says="no tools")
    ok(api.chat(tools=[TOOL], tool_choice="none", max_tokens=1))
    ok(api.chat(tools=[], max_tokens=1))


def test_the_template_gets_them(with_tools: Api) -> None:
    plain, told = (ok(with_tools.chat(max_tokens=1, **f))["usage"]["prompt_tokens"] for f in ({}, {"tools": [TOOL]}))
    assert told > plain + 20
    answers = events(with_tools.chat(stream=True, tools=[TOOL], tool_choice=None, max_tokens=2))
    assert answers[-1] == "[DONE]"


def test_a_call_in_an_answer(with_tools: Api) -> None:
    text = '"Well <tool_call>\\n" "{\\"name\\": \\"add\\", \\"arguments\\": {\\"a\\": 2}}" "\\n</tool_call>"'
    fields: dict[str, Any] = {"tools": [TOOL], "grammar": f"root ::= {text}", "logprobs": True}
    choice = ok(with_tools.chat(**fields))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Well"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    assert json.loads(call["function"]["arguments"]) == {"a": 2}
    chunks = events(with_tools.chat(stream=True, **fields))[:-1]
    parts = [chunk["choices"][0] for chunk in chunks]
    deltas = [call for part in parts for call in part["delta"].get("tool_calls", [])]
    assert [(d["index"], d["function"]["name"]) for d in deltas] == [(0, "add")]
    assert "".join(part["delta"].get("content") or "" for part in parts).strip() == "Well"
    assert parts[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_behind_a_whole_one(with_tools: Api) -> None:
    call = '"<tool_call>{\\"name\\": \\"add\\", \\"arguments\\": {\\"a\\": 1}}</tool_call>"'
    fields: dict[str, Any] = {"tools": [TOOL], "grammar": f'root ::= {call} "\\n" {call}', "seed": 1}
    n = ok(with_tools.chat(**fields))["usage"]["completion_tokens"]
    for more, reason in (({"max_tokens": n - 10}, "length"), ({"stop": ["\n"]}, "tool_calls")):
        choice = ok(with_tools.chat(**fields, **more))["choices"][0]
        assert len(choice["message"]["tool_calls"]) == 1
        assert choice["finish_reason"] == reason


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be(with_tools: Api, choice: Any, stream: bool) -> None:
    response = with_tools.chat(tools=[TOOL], tool_choice=choice, seed=3, stream=stream, temperature=0)
    if stream:
        parts = [chunk["choices"][0] for chunk in events(response)[:-1]]
        (call,) = [call for part in parts for call in part["delta"].get("tool_calls", [])]
        assert parts[-1]["finish_reason"] == "tool_calls"
    else:
        (call,) = ok(response)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"])["a"] in (1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_call_without_arguments(with_tools: Api, seed: int) -> None:
    (quote,) = ok(with_tools.post("/tokenize", {"content": '"'}))["tokens"]
    likely = {"temperature": 1.0, "logit_bias": {str(quote): 20}, "seed": seed, "max_tokens": 64}
    answer = ok(
        with_tools.chat(tools=[{"type": "function", "function": {"name": "now"}}], tool_choice="required", **likely)
    )
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("now", {})


@pytest.mark.parametrize("choice", ["sometimes", {"type": "function", "function": {"name": "none"}}, 7, {}, []])
def test_choices_that_are_none(with_tools: Api, choice: Any) -> None:
    refused(with_tools.chat(tools=[TOOL], tool_choice=choice), "tool_choice")


def test_messages_as_templates_read_them(loop: Loop) -> None:
    template = "{% for m in messages %}{{ m.role }}{{ m.thinking }}{{ m.content }}{% endfor %}"
    effort = "{{ reasoning_effort or 'none' }}"
    with demo_engine() as engine:
        engine.chat = Chat(template + effort, engine.context.vocab, engine.context.file.path)
        service = serving(engine)
        api = Api(service, loop)

        def n_prompt(path: str, body: dict[str, Any]) -> int:
            answer = ok(api.post(path, body))
            return int(answer["usage"]["prompt_tokens"] if "usage" in answer else answer["prompt_eval_count"])

        turn = {"role": "assistant", "content": "x"}
        for path, short, name in (
            ("/v1/chat/completions", {"max_tokens": 1}, "reasoning_content"),
            ("/api/chat", {"model": "demo", "stream": False, "options": {"num_predict": 1}}, "thinking"),
        ):
            counts = [n_prompt(path, {**short, "messages": [{**turn, **more}]}) for more in ({}, {name: "1" * 50})]
            assert counts[1] == counts[0] + 50
        for path, short, field in (
            ("/v1/chat/completions", {"max_tokens": 1, **U}, lambda effort: {"reasoning_effort": effort}),
            ("/v1/responses", {"max_output_tokens": 1, "input": "x"}, lambda e: {"reasoning": {"effort": e}}),
        ):
            bodies = [{**short, **field(effort)} for effort in ("low", "medium")]
            answers = [ok(api.post(path, body))["usage"] for body in bodies]
            assert len({usage.get("prompt_tokens", usage.get("input_tokens")) for usage in answers}) == 2
        service.driver.close()


def test_roles_and_calls_as_templates_read_them() -> None:
    """What is no JSON stands as the model wrote it."""
    deep = "[" * 100_000
    calls = [{"function": {"name": "f", "arguments": text}} for text in ('{"a": 1}', deep, "x")]
    said: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": calls}]
    said += [{"role": role, "content": "5"} for role in ("function", "developer")]
    messages = list(map(Message.model_validate, said))
    turn, *others = template_messages(messages, "tool_calls tool")
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == [{"a": 1}, deep, "x"]
    assert turn["tool_calls"][0]["type"] == "function"
    assert [turn["role"] for turn in others] == ["tool", "system"]
    with pytest.raises(ApiError, match="knows no messages of role tool"):
        template_messages(messages[1:], "{{ tools }}")


@pytest.mark.parametrize("role", ["assistant", "user"])
@pytest.mark.parametrize("thoughts", [None, "Own"])
def test_thoughts_within_what_comes_back(role: str, thoughts: str | None) -> None:
    """Those of an answer are taken apart, unless the client has done so."""
    template = "{% for m in messages %}<think>{{ m.reasoning_content }}</think>{{ m.content }}{% endfor %}"
    text = "<think>Hm</think>\n\nHo"
    message = Message.model_validate({"role": role, "content": text, "reasoning_content": thoughts})
    (turn,) = template_messages([message], template)
    expected = ("Ho", "Hm") if role == "assistant" and thoughts is None else (text, thoughts)
    assert (turn["content"], turn.get("reasoning_content")) == expected


@pytest.mark.parametrize(
    "parameters", [{"type": "nonsense"}, {"properties": {"a": {"type": "string", "pattern": "("}}}]
)
def test_parameters_that_cannot_be_enforced(with_tools: Api, parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    refused(with_tools.chat(tools=[tool], tool_choice="required"), "tools")


def test_a_type_of_null_is_as_if_it_were_not_there(with_tools: Api) -> None:
    ok(with_tools.chat(tools=[{**TOOL, "type": None}], max_tokens=1))


def test_a_choice_needs_tools(with_tools: Api) -> None:
    refused(with_tools.chat(tool_choice="required"), "tool_choice", says="expected tools beside required")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{broken</tool_call> and on",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": "\\ud83d"}}</tool_call>',
        '<tool_call>{"name": "\\ud83d", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "no JSON"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        "a < b, <tool_cal",
        "<tool_call>{}",
        "</tool_call>",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    for size in (1, 7, len(text)):
        finder, found = CallFinder(), ""
        for i in range(0, len(text), size):
            shown, calls = finder.add(text[i : i + size])
            assert not calls
            found += shown
            if size == 1 and i > 50:
                found += finder.add(text[i + 1 :])[0]
                break
        assert found + finder.rest() == text


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    "broken",
    [
        '<tool_call>{"name":"f}</tool_call>',
        '<tool_call>{"name":"f","arguments":{"a":"b}}</tool_call>',
        '<tool_call>{"name":"f}</tool_call><tool_call>{"name</tool_call>',
        "<tool_call>{'name':'f'}</tool_call>",
    ],
)
def test_a_call_behind_what_is_none(broken: str, size: int) -> None:
    text = f'{broken}\n<tool_call>{{"name":"g","arguments":{{"a":"</tool_call>"}}}}</tool_call>z'
    finder = CallFinder()
    found = [finder.add(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join(shown for shown, _ in found) + finder.rest() == f"{broken}\nz"
    assert [(call.name, call.arguments) for _, calls in found for call in calls] == [("g", '{"a": "</tool_call>"}')]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("prompt", "thought", "n"),
    [
        ("assistant\n", "<think>I could {call} but no.</think>Hello {call}", 1),
        ("assistant\n", " \n<think>{call}<think>{call}</think>\n{call}<think>{call}", 2),
        ("assistant\n", "<thin{call}</think><think>{call}", 2),
        ("assistant\n", "I strip the <think> tags.\n{call}", 1),
        ("<think>\n", "Or {call}?\n</think>{call}", 1),
        ("<think>", "Or {call}", 0),
        ("<think>\n\n</think>\n\n", "{call} \n", 1),
    ],
)
def test_thoughts_hold_no_calls(prompt: str, thought: str, n: int, size: int) -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": "<think>"}}</tool_call>'
    text = thought.replace("{call}", call)
    finder = ToolUse(ChatBody.model_validate({"tools": [TOOL], **U}), TEMPLATE, {"tools"}).finder(prompt)
    assert finder is not None
    found = [finder.add(text[i : i + size]) for i in range(0, len(text), size)]
    shown = "".join(part for part, _ in found) + finder.rest()
    assert sum(len(calls) for _, calls in found) == n
    assert shown.count(call) == thought.count("{call}") - n
    assert shown.replace(call, "") == thought.replace("{call}", "")


def test_a_prompt_may_begin_the_thought(loop: Loop) -> None:
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    grammar = f"root ::= {json.dumps(call)}"
    found = []
    for begins in ("", "<think>\n"):
        with demo_engine() as engine:
            engine.chat = Chat(TEMPLATE + begins, engine.context.vocab, engine.context.file.path)
            service = serving(engine)
            choice = ok(Api(service, loop).chat(tools=[TOOL], grammar=grammar))["choices"][0]
            found.append((choice["finish_reason"], choice["message"]["content"]))
            service.driver.close()
    assert found == [("tool_calls", None), ("stop", call)]


@pytest.mark.parametrize("arguments", ['{"c": "a\n\tb"}', '"{\\"c\\": \\"a\\n\tb\\"}"'])
@pytest.mark.parametrize("whole", [False, True])
def test_lines_of_code_within_arguments(arguments: str, whole: bool) -> None:
    call = f'{{"name": "f", "arguments": {arguments}}}'
    text, (found,) = CallFinder(whole).add(call if whole else f"<tool_call>{call}</tool_call>")
    assert (text, json.loads(found.arguments)) == ("", {"c": "a\n\tb"})


def test_arguments_that_are_called_parameters() -> None:
    """As Llama's models write them."""
    _, (call,) = CallFinder().add('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>')
    assert (call.name, call.arguments) == ("f", '{"a": 1}')


def test_what_an_answer_follows(with_tools: Api) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"const": 1}}}
    bodies = [{"tools": [TOOL], "tool_choice": "required"}, {"response_format": form}]
    plans = [chat_plan(with_tools.service, ChatBody.model_validate({**U, **body}))[0] for body in bodies]
    ollama = OllamaChatBody.model_validate({"model": "demo", **U, "format": "json"})
    plans.append(ollama_chat_plan(with_tools.service, ollama)[0])
    assert [plan.follows for plan in plans] == ["tools", "response_format", "format"]


def test_a_call_in_ollama_s_answer(with_tools: Api) -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    body = {"model": "demo", **U, "tools": [TOOL], "stream": False}
    service = with_tools.service
    plan, voice = ollama_chat_plan(service, OllamaChatBody.model_validate(body))
    choice = Choice(0, service.words, plan.finder())
    tokens = service.engine.context.tokenize(text)
    (result,) = service.engine.generate([Request(service.engine.prompt("hi"), max_tokens=1)])
    choice.end(replace(result, text=text, tokens=tokens, finish_reason="stop"))
    answer = voice.whole([choice])
    (call,) = answer["message"]["tool_calls"]
    assert call == {"id": call["id"], "function": {"name": "add", "arguments": {"a": 2}}}
    assert call["id"].startswith("call_")
    assert (answer["message"]["content"], answer["done_reason"]) == ("", "stop")


def test_two_calls_and_text_between() -> None:
    text = 'x<tool_call>{"name":"f"}</tool_call>y<tool_call>{"name":"g","arguments":{}}</tool_call>z'
    finder = CallFinder()
    found = [finder.add(c) for c in text]
    assert "".join(shown for shown, _ in found) + finder.rest() == "xyz"
    assert [call.name for _, calls in found for call in calls] == ["f", "g"]
    finder, long = CallFinder(), '<tool_call>{"name":"long","arguments":{"a":"and longer"}}</tool_call>'
    parts = [*long, '<tool_call>{"name":"f"}</tool_call>']
    assert [call.name for part in parts for call in finder.add(part)[1]] == ["long", "f"]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_text_that_holds_the_end_of_a_call(size: int) -> None:
    arguments = {"html": 'a</tool_call>b " </tool_call>'}
    text = f"x<tool_call>{json.dumps({'name': 'f', 'arguments': arguments})}</tool_call>y"
    finder = CallFinder()
    found = [finder.add(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join(shown for shown, _ in found) + finder.rest() == "xy"
    (call,) = [call for _, calls in found for call in calls]
    assert (call.name, json.loads(call.arguments)) == ("f", arguments)


def test_what_was_looked_at_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of many ends within a text it would be read anew with every token."""
    looks: list[int] = []
    within = module._ends_within_text
    monkeypatch.setattr(module, "_ends_within_text", lambda text: looks.append(len(text)) or within(text))
    finder, ends = CallFinder(), ["<", "/tool", "_call>"] * 200
    for part in ['x<tool_call>{"name": "f", "arguments": {"a": "', *ends]:
        finder.add(part)
    assert len(looks) == 200
    text, (call,) = finder.add('"}}</tool_call>y')
    assert (text, json.loads(call.arguments)) == ("y", {"a": "</tool_call>" * 200})
    assert len(looks) == 201


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_call_that_must_be_is_read_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be read anew with every token."""
    read: list[str] = []
    of = module._call
    monkeypatch.setattr(module, "_call", lambda text: read.append(text) or of(text))
    arguments = {"a": [{"k": i} for i in range(100)], '"}{\\': '}\\"}{'}
    text, finder = json.dumps({"name": "f", "arguments": arguments}), CallFinder(whole=True)
    found = [finder.add(text[i : i + size]) for i in range(0, len(text), size)]
    (call,) = found[-1][1]
    assert json.loads(call.arguments) == arguments
    assert [calls for _, calls in found[:-1] if calls] == []
    assert read == [text]
    assert (finder.add("\n"), finder.rest()) == (("", ()), "\n")


@pytest.mark.parametrize("number", ["1e999", "9" * 4400, "9" * 400 + ".5"], ids=len)
def test_numbers_that_python_has_not_in_a_call_that_must_be(number: str) -> None:
    finder, arguments = CallFinder(whole=True), f'{{ "x": [{number}], "y": "}}}}" }}'
    text, (call,) = finder.add(f'{{"name": "f" , "arguments": {arguments} }}')
    assert (text, call.name, call.arguments, finder.rest()) == ("", "f", arguments, "")


def test_parameters_that_refer_to_themselves(with_tools: Api) -> None:
    """As pydantic writes them; they stand within another schema. What only looks like a reference stays."""
    parameters = {
        "type": "object",
        "$defs": {"Letter": {"enum": ["q", "r"]}, "Same": {"$ref": "#/$defs/Letter"}},
        "properties": {"$ref": {"$ref": "#/$defs/Same"}, "c": {"const": {"$ref": "#/$defs/Letter"}}},
        "required": ["$ref", "c"],
        "additionalProperties": False,
    }
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "f"}}
    for tools, wanted in (([other, tool], choice), ([tool], "required")):
        (call,) = ok(with_tools.chat(tools=tools, tool_choice=wanted, seed=1))["choices"][0]["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert arguments["$ref"] in ("q", "r")
        assert arguments["c"] == {"$ref": "#/$defs/Letter"}


def test_plain_chats_with_such_a_template(with_tools: Api) -> None:
    assert text_of(with_tools.chat(seed=1)) == text_of(with_tools.chat(seed=1, tools=None))

"""Thoughts of messages, as chat templates read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.model.template import Formatter
from autodeco_gguf.model.thoughts import apart, names

CHANNELS = """{% for m in messages %}
{% if '<|channel|>analysis<|message|>' in m.content or '<|channel|>final<|message|>' in m.content %}
{{ raise_exception('tags') }}
{% elif m.content and m.thinking and m.tool_calls %}{{ raise_exception('both') }}{% endif -%}
[{{ m.thinking }}|{{ m.content }}]{% endfor %}"""
ANALYSIS = "<|channel|>analysis<|message|>Greets."
FINAL = "<|start|>assistant<|channel|>final"


def rendered(source: str, **message: Any) -> str:
    formatter = Formatter(source, "</s>", "<s>", path=Path("x.gguf"))
    return str(formatter(messages=[{"role": "assistant", **message}]).prompt)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f"{ANALYSIS}<|end|>{FINAL}<|message|>Hello", "[Greets.|Hello]"),
        (f"{ANALYSIS}<|end|>{FINAL} <|constrain|>json<|message|>{{}}<|end|>", "[Greets.|{}]"),
        (f" {ANALYSIS}<|end|>{FINAL}<|message|>One<|end|>{FINAL}<|message|>Two\n<|return|>", "[Greets.|Two\n]"),
        ("<|channel|>final<|message|>a < b", "[|a < b]"),
        (ANALYSIS, "[Greets.|]"),
        ("<|channel|>ana", "[|]"),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "[|]"),
        ("Its mark is <|channel|>, and so on", "[|Its mark is <|channel|>, and so on]"),
        ("", "[|]"),
    ],
)
def test_an_answer_in_channels(content: str, text: str) -> None:
    """As gpt-oss' is, whose own template refuses it as it stands."""
    assert rendered(CHANNELS, content=content) == text
    other = "{{ messages[0].content }}"
    assert rendered(other, content=content) == content


def test_thoughts_beside_channels_stay() -> None:
    content = f"{ANALYSIS}<|end|>{FINAL}<|message|>Hello"
    assert rendered(CHANNELS, content=content, reasoning_content="Other.") == "[Other.|Hello]"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_the_template_s_name(name: str) -> None:
    for reads in ("m.reasoning_content", "m['reasoning']", 'm.get("thinking", "")', "m.reasoning or m.thinking"):
        source = f"{{% set m = messages[0] %}}{{{{ {reads} }}}}|{{{{ m.content }}}}{{# unthinking #}}"
        assert rendered(source, content="Ho", **{name: "Hm"}) == "Hm|Ho"
        assert rendered(source, content="Ho", **{name: None}).endswith("|Ho")
    assert rendered("{{ messages[0] }}", content="Ho", **{name: "Hm"}) == str(
        {"role": "assistant", "content": "Ho", name: "Hm"}
    )


def test_thoughts_stay_where_the_template_reads_them() -> None:
    assert names("{{ m.thinking }}{{ m.reasoning }}{{ enable_thinking }}") == ("reasoning", "thinking")
    assert rendered("{{ messages[0].reasoning }}{{ messages[0].thinking }}", content="", thinking="Hm") == "Hm"


def test_thoughts_and_words_beside_a_call() -> None:
    """gpt-oss' template takes one of them, others both."""
    call = {"function": {"name": "f", "arguments": {}}}
    both = {"content": "Well", "reasoning_content": "Hm", "tool_calls": [call]}
    assert rendered(CHANNELS, **both) == "[|Well]"
    assert rendered(CHANNELS, **both | {"content": ""}) == "[Hm|]"
    assert rendered("{{ messages[0].thinking }}|{{ messages[0].content }}", **both) == "Hm|Well"


QWEN3 = """{% for m in messages %}{% set content, r = m.content, '' %}{% if m.reasoning_content is string %}
{% set r = m.reasoning_content %}{% elif '</think>' in content %}
{% set r = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif -%}
[{{ r.strip('\\n') }}|{{ content.lstrip('\\n') }}]{% endfor %}"""


OPEN = "{% for m in messages %}<think>{{ m.reasoning_content }}</think>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "content",
    ["<think>\nHm\n</think>\n\nHo\n", "Hm</think>Ho\n", "\nHm\n</think>\nHo\n", "\n<think>Hm</think>Ho\n"],
)
def test_a_template_that_takes_thoughts_apart_itself(content: str) -> None:
    """As Qwen3's, which looks for the last mark: it is left alone, and writes the same as with thoughts apart."""
    message = {"role": "assistant", "content": content}
    assert apart(message, QWEN3) == message
    found = apart(message, OPEN)
    assert found == {"role": "assistant", "content": "Ho\n", "reasoning_content": "Hm"}
    assert rendered(QWEN3, **found) == rendered(QWEN3, content=content) == "[Hm|Ho\n]"


@pytest.mark.parametrize(
    ("role", "content", "template"),
    [
        ("user", "a</think>b", OPEN),
        ("assistant", "<think>a", OPEN),
        ("assistant", "a</think>b", "<think>{{ m.content }}"),
        ("assistant", "Put `</think>` there.", "{{ m.reasoning_content }}"),  # a model that has no such mark
    ],
)
def test_nothing_to_take_apart(role: str, content: str, template: str) -> None:
    message = {"role": role, "content": content}
    assert apart(message, template) == message
    told = {"role": "assistant", "content": "a</think>b", "thinking": "Hm"}
    assert apart(told, OPEN) == told

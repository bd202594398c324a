"""What a message was thought with, in the form that a chat template reads."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What a message was thought with, under the names that templates and services have for it."""

_CHANNELS = re.compile(
    r"<\|channel\|>(\w*)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|(?:channel|start|end|return|call)\|>|\Z)",
    re.DOTALL,
)
"""The parts of an answer of gpt-oss, whose marks llama.cpp shows: analysis, commentary, final."""


@functools.lru_cache(maxsize=8)
def names(template: str) -> tuple[str, ...]:
    """Those of :data:`THOUGHTS` under which a template's source reads thoughts."""
    return tuple(name for name in THOUGHTS if re.search(rf"""\.{name}\b|["']{name}["']""", template))


def as_read(message: Mapping[str, Any], template: str) -> dict[str, Any]:
    """A message whose thoughts have the name that a template's source reads.

    For gpt-oss' template, which refuses an answer's channels in its content: the last final is the content, empty where
    there is none, and the last analysis the thoughts.

    Examples:
        >>> as_read({"role": "assistant", "content": "Ho", "reasoning_content": "Hm"}, "{{ m.thinking }}")["thinking"]
        'Hm'
    """
    turn = dict(message)
    thoughts, content = next(filter(None, map(turn.get, THOUGHTS)), None), turn.get("content")
    channels = "<|channel|>analysis<|message|>" in template and turn.get("role") == "assistant"
    if channels and isinstance(content, str) and content.lstrip().startswith("<|channel|>"):
        parts = dict(_CHANNELS.findall(content))
        turn["content"], thoughts = parts.get("final", ""), thoughts or parts.get("analysis")
    both = channels and turn.get("content") and turn.get("tool_calls")  # and thoughts, which gpt-oss' template refuses
    if thoughts and not both and (reads := names(template)) and not any(map(turn.get, reads)):
        turn[reads[0]] = thoughts
    return turn


def apart(message: Mapping[str, Any], template: str) -> Mapping[str, Any]:
    """An answer with what stands before ``</think>`` as its thoughts, for a template's source that reads such.

    Where the template has no ``<think>``, the mark is a word of the answer; one that splits there is left alone.

    Examples:
        >>> apart({"role": "assistant", "content": "<think>Hm</think>\\n\\nHo"}, "<think>{{ m.reasoning_content }}")
        {'role': 'assistant', 'content': 'Ho', 'reasoning_content': 'Hm'}
    """
    thoughts, mark, content = message["content"].partition("</think>")
    if not mark or message["role"] != "assistant" or any(map(message.get, THOUGHTS)):
        return message
    reads = names(template)
    if not reads or "<think>" not in template or re.search(r"""split\(\s*["']</think>""", template):
        return message
    said = thoughts.lstrip().removeprefix("<think>").strip("\n")
    return {**message, "content": content.lstrip("\n"), reads[0]: said}

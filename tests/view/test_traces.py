"""Traces from files."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import STORY, story, token

from autodeco_gguf.errors import BadFile
from autodeco_gguf.view import traces as module
from autodeco_gguf.view.traces import STDIN, ReadTrace, read_traces, sample_title


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts(trace: ReadTrace) -> str:
    return "".join(t["text"] for t in trace.tokens)


def test_what_run_prints(path: Path) -> None:
    prompt, summary = {"prompt": "Tell", "ids": [1, 2]}, {"summary": {"tokens": 5, "seed": 7, "finish_reason": "stop"}}
    first, second = read_traces(written(path, prompt, *STORY, summary, prompt, token("x")))
    assert (first.title, first.prompt, first.about) == ("a.jsonl, answer 1", "Tell", ["seed 7", "ended by stop"])
    assert first.tokens == STORY
    assert (second.title, texts(second), second.about) == ("a.jsonl, answer 2", "x", [])


def test_a_server_s_log(path: Path) -> None:
    summary = {"finish_reason": "length", "seed": 0, "model": "demo", "date": "2026-01-02", "source": "heads", "x": []}
    both = {"source": {"temperature": "client", "top_p": "heads"}, "seed": None, "model": ["x"]}
    lines = [{"prompt": "<Tell", "tokens": STORY, "summary": s} for s in (summary, both, None, {"source": 7})]
    traces = read_traces(written(path, *lines))
    assert [(trace.title, trace.prompt, trace.tokens) for trace in traces] == [
        (f"a.jsonl, answer {i}", "<Tell", STORY) for i in (1, 2, 3, 4)
    ]
    assert [trace.about for trace in traces] == [
        ["seed 0", "ended by length", "model demo", "on 2026-01-02", "T and P by heads"],
        ["T by client, P by heads"], [], [],
    ]  # fmt: skip


def test_tokens_alone(path: Path) -> None:
    (only,) = read_traces(written(path, *STORY))
    assert only.tokens == STORY


def test_answers_of_the_server(path: Path) -> None:
    choices = [{"index": i, "message": {"content": "x"}, "autodeco": {"tokens": [token(f"{i}")]}} for i in range(2)]
    pairs = {"choices": [{"text": "x", "autodeco": {"temperature": [0.5, 0.25], "top_p": [1, 0.5], "source": "heads"}}]}
    unasked = {"choices": [{"text": "x"}]}
    traces = read_traces(written(path, {"choices": choices}, unasked, {"status": 200}, pairs, {"tokens": STORY}))
    assert [texts(trace) for trace in traces] == ["0", "1", "", "Near the café 🙂."]
    assert traces[2].tokens == [
        {"text": "", "temperature": 0.5, "top_p": 1}, {"text": "", "temperature": 0.25, "top_p": 0.5},
    ]  # fmt: skip


def test_a_stream_as_curl_has_it(path: Path) -> None:
    def piece(id_: str, index: int, text: str) -> bytes:
        choice = {"index": index, "delta": {"content": text}, "autodeco": {"tokens": [token(text)]}}
        return b"data: " + json.dumps({"id": id_, "choices": [choice]}).encode() + b"\r\n\r\n"

    mixed = [piece("a", 0, "A"), piece("a", 1, "B"), piece("a", 0, "a"), b": ping\n", piece("b", 0, "C")]
    path.write_bytes(b"".join(mixed) + b"data: [DONE]\n")
    assert [texts(trace) for trace in read_traces(path)] == ["Aa", "B", "C"]
    path.write_bytes(b"".join(story().pieces))
    assert [texts(trace) for trace in read_traces(path)] == ["Near the café 🙂."]
    path.write_bytes(b"data:\n\n".join([piece("a", 0, "A"), piece("a", 0, "a"), b"data:[DONE]\n"]))
    assert [texts(trace) for trace in read_traces(path)] == ["Aa"]


def test_a_stream_without_an_id_that_was_broken_off_goes_on_in_no_other(path: Path) -> None:
    piece: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, **traced("a")}]}
    path.write_bytes(sse(piece, piece) + sse(piece))
    assert [texts(trace) for trace in read_traces(path)] == ["aa", "a"]
    path.write_bytes(sse({**piece, "id": "x"}, piece) + sse({**piece, "id": "x"}))  # of two at once
    assert [texts(trace) for trace in read_traces(path)] == ["aa", "a"]


def traced(text: str, seed: int = 7) -> dict[str, Any]:
    """What the server says of tokens, one a letter."""
    tokens = [token(letter) for letter in text]
    columns = {key: [t[key] for t in tokens] for key in ("temperature", "top_p")}
    return {"autodeco": {**columns, "source": "heads", "seed": seed, "tokens": tokens}}


def sse(*values: dict[str, Any], done: bool = True) -> bytes:
    """As the server sends it; the events of a response have names, and no end."""
    names = [f"event: {value['type']}\n" if "type" in value else "" for value in values]
    texts = [f"{name}data: {json.dumps(value)}\n\n" for name, value in zip(names, values, strict=True)]
    return "".join(texts).encode() + (b"data: [DONE]\n\n" if done else b"")


def ndjson(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def completion(id_: str, *choices: tuple[int, str, str | None]) -> dict[str, Any]:
    """Of /v1/completions, or a chunk of it: choices by index, text and reason."""
    found = [{"index": i, "text": text, "logprobs": None, "finish_reason": r, **traced(text)} for i, text, r in choices]
    return {"id": id_, "object": "text_completion", "model": "demo", "choices": found}


def chunks(id_: str, *texts: str) -> list[dict[str, Any]]:
    """A stream of choices, a letter a chunk, turn by turn."""
    turns = [(i, text[at]) for at in range(max(map(len, texts))) for i, text in enumerate(texts) if at < len(text)]
    ends = [(i, "", "stop") for i in range(len(texts))]
    return [completion(id_, choice) for choice in (*((i, letter, None) for i, letter in turns), *ends)]


def response(id_: str, text: str | None, *, asked: bool = True) -> dict[str, Any]:
    """Of /v1/responses; None: it has just begun."""
    content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"id": f"msg_{id_}", "type": "message", "role": "assistant", "content": content}
    head = {"id": f"resp_{id_}", "object": "response", "error": None, "output": [] if text is None else [message]}
    settings: dict[str, Any] = {"temperature": None, "top_p": None, "text": {"format": {"type": "text"}}, "tools": []}
    return {**head, **settings, **(traced(text) if text is not None and asked else {})}


def events(id_: str, text: str, *, asked: bool = True) -> list[dict[str, Any]]:
    """The stream of a response, a letter a piece, and all of it at the end."""
    place = {"item_id": f"msg_{id_}", "output_index": 0, "content_index": 0}
    kind = "response.output_text"
    deltas = [{"type": f"{kind}.delta", **place, "delta": t, **(traced(t) if asked else {})} for t in text]
    (message,) = response(id_, text)["output"]
    found: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(id_, None)},
        {"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": ""}},
        *deltas,
        {"type": f"{kind}.done", **place, "text": text},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": response(id_, text, asked=asked)},
    ]
    return [{**event, "sequence_number": i} for i, event in enumerate(found)]


def said(content: dict[str, Any], text: str, *, done: bool, seed: int = 7) -> dict[str, Any]:
    """A line of Ollama's; one without tokens has no "autodeco"."""
    more = {"done_reason": "stop", "eval_count": 3} if done else {}
    found = {"model": "demo", "created_at": "2026-11-27T20:48:21+00:00", **content}
    return {**found, **(traced(text, seed) if text else {}), "done": done, **more}


def chat_line(text: str, *, done: bool = False, seed: int = 7) -> dict[str, Any]:
    return said({"message": {"role": "assistant", "content": text}}, text, done=done, seed=seed)


def generated(text: str, *, done: bool = False) -> dict[str, Any]:
    return said({"response": text}, text, done=done)


CHATTED = [*map(chat_line, "abc"), chat_line("", done=True)]
GENERATED = [*map(generated, "ab"), generated("c", done=True)]
COMPLETED = completion("a", (0, "abc", "stop"), (1, "d", "length"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ndjson(COMPLETED), ["abc", "d"]),
        (ndjson(COMPLETED, COMPLETED), ["abc", "d"] * 2),
        (sse(*chunks("a", "abc")), ["abc"]),
        (sse(*chunks("a", "abc", "d", "ef", "")), ["abc", "d", "ef", ""]),
        (sse(*chunks("a", "abc")) + sse(*chunks("b", "def")), ["abc", "def"]),
        (sse(*chunks("a", "abc")) * 2, ["abc"] * 2),
        (sse(*chunks("a", "abc")[:2], done=False) + sse(*chunks("b", "def")), ["ab", "def"]),
        (ndjson(response("a", "abc")), ["abc"]),
        (ndjson(*[response("a", "abc")] * 2, response("b", "d")), ["abc", "abc", "d"]),
        (ndjson(response("a", "abc", asked=False), response("b", "d")), ["d"]),
        (sse(*events("a", "abc"), done=False), ["abc"]),
        (sse(*events("a", "abc")[:4], done=False), ["ab"]),
        (sse(*events("a", "abc")[3:], done=False), ["abc"]),
        (sse(*events("a", "abc")[-1:], done=False), ["abc"]),
        (sse(*events("a", "abc"), *events("b", "def"), done=False), ["abc", "def"]),
        (sse(*events("a", "abc"), done=False) * 2, ["abc"] * 2),
        (sse(*events("a", "abc")[:4], *events("b", "def"), done=False), ["ab", "def"]),
        (sse(*events("a", "abc", asked=False), *events("b", "d"), done=False), ["d"]),
        (ndjson(chat_line("abc", done=True)), ["abc"]),
        (ndjson(generated("abc", done=True)), ["abc"]),
        (ndjson(*[generated("abc", done=True)] * 2), ["abc"] * 2),
        (ndjson(*CHATTED), ["abc"]),
        (ndjson(*GENERATED), ["abc"]),
        (ndjson(*CHATTED, *CHATTED, *GENERATED), ["abc"] * 3),
        (ndjson(*CHATTED[:2], *(chat_line(t, seed=8) for t in "de")), ["ab", "de"]),
        (ndjson({"id": {}, "choices": [{"index": [], "delta": {}, **traced("a")}]}, generated("b")), ["a", "b"]),
        (ndjson(*CHATTED[:2], {"error": "the model failed: x"}, *CHATTED), ["ab", "abc"]),
        (ndjson(generated("", done=True), COMPLETED, *GENERATED, response("a", "e")), ["abc", "d", "abc", "e"]),
    ],
)  # fmt: skip
def test_a_trace_for_each_answer_of_the_server(path: Path, content: bytes, found: list[str]) -> None:
    path.write_bytes(content)
    assert [texts(trace) for trace in read_traces(path)] == found


def test_a_file_that_is_one_value(path: Path) -> None:
    answer = {"choices": [{"index": 0, "message": {}, "autodeco": {"tokens": STORY}}]}
    for value, n in ((answer, 1), ([answer, answer], 2)):
        for indent in (None, 2):
            path.write_text(json.dumps(value, indent=indent))
            assert [texts(trace) for trace in read_traces(path)] == ["Near the café 🙂."] * n
    path.write_text("[1,\n2]")
    with pytest.raises(BadFile, match=r"a\.jsonl:1: no line of a trace: is a number, expected an object"):
        read_traces(path)
    path.write_text('[{"tokens":\n [7]}]')
    with pytest.raises(BadFile, match=r"a\.jsonl:1: no line of a trace: .*no token with a text"):
        read_traces(path)


SAMPLE = {"task": "sums", "problem": 0, "seed": 0, "sample": 2}


def test_lines_of_an_evaluation(path: Path) -> None:
    pairs = base64.b64encode(np.array([[0.5, 1.0], [0.25, 0.5]], "<f4").tobytes()).decode()
    drawn = {"temperature": {"mean": 0.456, "sd": 0.1}, "top_p": {"mean": None, "sd": None}}
    columns = {"text": ["a", "b"], "temperature": [0.5, 1.0], "top_p": [1.0, None]}
    sample, paired, traced = read_traces(
        written(
            path,
            {**SAMPLE, "config": "autodeco", "text": "It is 85.", "correct": False, "tokens": 3, **drawn},
            {**SAMPLE, "pairs": pairs},
            {**SAMPLE, "config": "autodeco", "tokens": columns},
        )
    )
    assert (sample.title, sample.text, sample.tokens) == (
        "sums, problem 1: autodeco, seed 1, sample 3: wrong", "It is 85.", [],
    )  # fmt: skip
    assert sample.about == ["mean T 0.46", "the file has no values of single tokens; eval --traces keeps them"]
    assert paired.tokens == [
        {"text": "", "temperature": 0.5, "top_p": 1.0}, {"text": "", "temperature": 0.25, "top_p": 0.5},
    ]  # fmt: skip
    assert paired.about == ["the file has T and P alone, no text"]
    assert traced.tokens == [{"text": "a", "temperature": 0.5, "top_p": 1.0}, {"text": "b", "temperature": 1.0}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", 'a.jsonl: no trace in it; one comes from run --json, or an answer asked with "autodeco"'),
        (b'{"choices": []}\n', "a.jsonl: no trace in it"),
        (b"Once upon a time\n", "a.jsonl:1: no line of a trace: not JSON: Expecting value at column 1"),
        (b'{}\n\n{"text": "a", "temperature": "hot"}\n', 'a.jsonl:3: no line of a trace: temperature "hot", expec'),
        (b'{"text": "a", "temperature": NaN}\n', "a.jsonl:1: no line of a trace: temperature NaN, expected a number"),
        (b'{"text": "a", "temperature": 1, "prob": 1e999}\n', "prob Infinity, expected a number"),
        (b'{}\n{"text": "a", "temperature": 1, "id": 1' + b"0" * 400 + b"}", "a.jsonl:2: no line of a trace: id 1000"),
        (b'{"text": 5, "temperature": 1}\n', "no token with a text"),
        (b'{"tokens": [7]}\n', "a.jsonl:1: no line of a trace: 7: no token with a text"),
        (b'{"text": "", "temperature": 1, "alternatives": {}}', "alternatives {}, expected a list"),
        (b'{"choices": [{"autodeco": {"temperature": 5}}]}', "autodeco has 5, expected lists of temperature and top_p"),
        (b'{"done": true, "autodeco": {"top_p": {"a": 1}}}', "autodeco has {"),
        (ndjson(response("a", "abc", asked=False)), "a.jsonl: no trace in it"),
        (b"7\n", "a.jsonl:1: no line of a trace: is a number, expected an object"),
        (b"{}\n[1]\n", "a.jsonl:2: no line of a trace: is a list, expected an object"),
        (b'{"task": "a", "sample": "x"}\n', "no numbers of problem, seed and sample"),
        (b'{"task": "a", "problem": ' + b"9" * 4300 + b', "seed": 1, "sample": 1}', "no numbers of problem, seed and"),
        (b'{"task": "a", "problem": 1, "seed": 1, "sample": 1, "pairs": "AAA="}\n', "pairs are no base64 of T and P"),
        (b'{"task": "a", "problem": 1, "seed": 1, "sample": 1, "pairs": "AADAfwAAgD8="}\n', "pairs out of range"),
        (b'{"task": "a", "problem": 1, "seed": 1, "sample": 1, "pairs": "AACAPwAAAEA="}\n', "pairs out of range"),
        (b'{"task": "a", "problem": 1, "seed": 1, "sample": 1, "pairs": "*AACAPwAAgD8="}\n', "pairs are no base64"),
        (b'{"text": "a", "temperature": 1}\noops\n', "a.jsonl:2: no line of a trace: not JSON"),
        (b'{"task": "a", "problem": 1, "seed": 1, "sample": 1, "tokens": {"text": ["a"], "id": []}}\n', "same length"),
        (b"{\"text\": \"\xff\"}", "a.jsonl:1: no line of a trace: not UTF-8 at byte 10"),
    ],
)  # fmt: skip
def test_what_is_none_is_named_in_a_line(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(BadFile) as e:
        read_traces(path)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"text": "a", "temperature": 1}\n\n{"text": "b", "temperature": 1}\n', ["ab"]),
        (b'[{"tokens": []},\n {"tokens": [{"text": "x"}]}]', ["", "x"]),
        (b"{}\n\noops\n", "standard input:3: no line of a trace: not JSON"),
        (b"", "standard input: no trace in it"),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, found: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    if isinstance(found, str):
        with pytest.raises(BadFile, match=found):
            read_traces(STDIN)
    else:
        assert [texts(trace) for trace in read_traces(STDIN)] == found
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BadFile, match="standard input: no trace in it"):
        read_traces(STDIN)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n" * 3_000_000)))
    monkeypatch.setattr(module, "MAX_BYTES", 2 << 20)
    with pytest.raises(BadFile, match=r"^standard input: more than 2 MiB; give a file$"):
        read_traces(STDIN)


def test_an_answer_of_32_768_tokens_with_alternatives(path: Path) -> None:
    """As a server logs one that was asked on its page."""
    long = [{**token("a"), "alternatives": [token("b")] * 5}] * 32_768
    traces = read_traces(written(path, {"tokens": STORY}, {"tokens": long}, {"tokens": STORY}), pytest.fail)
    assert path.stat().st_size > 16 << 20
    assert [len(trace.tokens) for trace in traces] == [len(STORY), 32_768, len(STORY)]


def test_a_line_that_is_too_long_is_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"tokens": STORY}, {"tokens": [token("a" * 5000)]}, {"tokens": STORY * 4}, {"tokens": [token("x")]}]
    written(path, *lines, {"tokens": [token("a" * 5000)]})
    monkeypatch.setattr(module, "MAX_BYTES", 4500)
    said: list[str] = []
    assert list(map(texts, read_traces(path, said.append))) == ["Near the café 🙂.", "Near the café 🙂." * 4, "x"]
    assert said == [f"{path}: lines passed over: 2; the first: {path}:2: longer than 4500 bytes"]
    monkeypatch.setattr(module, "MAX_VALUES", 150)
    assert list(map(texts, read_traces(path, said.append))) == ["Near the café 🙂.", "x"]
    assert said[1].startswith(f"{path}: lines passed over: 3; the first: {path}:2: longer than ")
    with pytest.raises(BadFile, match=r"a\.jsonl:1: no line of a trace: not JSON that can be .*more than 150 values"):
        read_traces(written(path, lines[2]))


def test_a_file_that_is_missing(path: Path) -> None:
    with pytest.raises(BadFile, match=r"a\.jsonl: cannot be read"):
        read_traces(path)


def test_alternatives_of_alternatives_are_none(path: Path) -> None:
    """However deep."""
    path.write_text('{"tokens":[' + '{"text":"a","alternatives":[' * 400 + "]}" * 400 + "]}")
    (trace,) = read_traces(path)
    assert trace.tokens == [{"text": "a", "alternatives": [{"text": "a"}]}]


def test_a_title_says_which_sample() -> None:
    for correct in ({"a": 1}, [1], 1, "yes"):
        assert sample_title({**SAMPLE, "correct": correct}) == "sums, problem 1: seed 1, sample 3"
    assert sample_title({**SAMPLE, "correct": None}) == "sums, problem 1: seed 1, sample 3"

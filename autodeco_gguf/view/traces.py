"""Traces from files: of ``run --json``, of a server's answers, of an evaluation."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.jsonl import parse_line, read_lines, type_name
from autodeco_gguf.files.reading import parse_json, read_bytes

_VALUES = ("id", "temperature", "top_p", "entropy", "nucleus", "prob", "logprob")
_SSE = (b":", b"event:", b"id:", b"retry:")
_END = object()
"""Of a stream."""

Token = dict[str, Any]
"""Trace JSON: "text", and what is known of "id", "temperature", "top_p", "entropy", "nucleus", "prob", "logprob" and
"alternatives"."""

Pairs = NDArray[np.float32]
"""[n, 2] T and P of the tokens of an answer."""

STDIN = Path("-")
"""Standard input, in the place of a file."""


@dataclass
class ReadTrace:
    """A trace and what a file says of it. Without tokens, ``text`` is the answer."""

    title: str
    prompt: str | None = None
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    about: list[str] = field(default_factory=list)


def read_traces(path: Path, warning: Callable[[str], None] = lambda text: None) -> list[ReadTrace]:
    """All traces of a file; lines that are none, such as a server's other answers, are passed over.

    It may have lines of ``run --json`` and of a server's log, answers of the server or their streams, of OpenAI's API
    and of Ollama's, objects with "tokens", and lines of the samples.jsonl, pairs.jsonl and traces.jsonl of an
    evaluation. ``STDIN`` is read to its end. Torn lines, as a server leaves that is killed, and those of more than
    ``MAX_BYTES`` or ``MAX_VALUES`` are passed over with a warning.

    Raises:
        BadFile: it cannot be read, a line is no JSON object or damaged, or there is no trace in it.
    """
    stdin = _stdin() if path == STDIN else None
    path = path if stdin is None else Path("standard input")
    reader = _Reader(path.name)
    passed: list[BadFile] = []
    for number, value in _values(path, stdin, passed):
        try:
            if value is _END:
                reader.end()
                continue
            if not isinstance(value, dict):
                raise InvalidInput(f"is {type_name(value)}, expected an object")
            reader.take(value)
        except InvalidInput as e:
            raise _refused(path, number, e) from e
    if passed and not reader.found:
        raise passed[0]
    if passed:
        warning(f"{path}: lines passed over: {len(passed)}; the first: {passed[0]}")
    if not reader.found:
        raise BadFile.of(path, 'no trace in it; one comes from run --json, or an answer asked with "autodeco"')
    return reader.found


MAX_BYTES, MAX_VALUES = 256 << 20, 16 << 20
"""Of a line, a file that is one value, or standard input: 400,000 tokens with five alternatives each."""


def _stdin() -> bytes:
    content = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise BadFile.of("standard input", f"more than {MAX_BYTES >> 20} MiB; give a file")
    return content


def _values(path: Path, content: bytes | None, passed: list[BadFile]) -> Iterator[tuple[int, object]]:
    """Values of a file, with the number of the line: one a line, or one or a list over as many lines as it likes.

    ``content``: what is in it, where it is no file. ``passed`` gets why, for a line that is too long, or begins an
    object and is no JSON that can be read.
    """
    with suppress(BadFile, InvalidInput):
        whole = parse_json(read_bytes(path, MAX_BYTES) if content is None else content, MAX_VALUES)
        yield from ((1, value) for value in (whole if isinstance(whole, list) else [whole]))
        return
    numbered = ((n, line) for n, line in enumerate(io.BytesIO(content or b""), 1) if line.strip())
    for number, line in read_lines(path, MAX_BYTES, passed) if content is None else numbered:
        data = line.removeprefix(b"data:")
        if line.startswith(_SSE) or not data.strip():
            continue
        try:
            value = _END if data != line and data.strip() == b"[DONE]" else parse_line(data, MAX_VALUES)
        except InvalidInput as e:
            if not data.lstrip().startswith(b"{"):
                raise _refused(path, number, e) from e
            passed.append(_refused(path, number, e))
            continue
        yield number, value


def _refused(path: Path, number: int, reason: InvalidInput) -> BadFile:
    return BadFile(f"{path}:{number}: no line of a trace: {reason}", file=path)


def traces_of(name: str, lines: Iterable[Mapping[str, Any]]) -> list[ReadTrace]:
    """The traces of lines, as :func:`read_traces` has them; InvalidInput where one is no line of a trace."""
    reader = _Reader(name)
    for line in lines:
        reader.take(line)
    return reader.found


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[ReadTrace] = []
        self._streams: dict[tuple[object, ...], ReadTrace] = {}  # of which more may come
        self._ended = 0  # answers of Ollama's

    def end(self) -> None:
        """The end of a stream: what it left without an id goes on in no other."""
        self._streams = {key: trace for key, trace in self._streams.items() if key[1] is not None}

    def take(self, line: Mapping[str, Any]) -> None:
        """A line, by what is in it."""
        if isinstance(line.get("choices"), list):
            for choice in line["choices"]:
                self._choice(line, choice if isinstance(choice, dict) else {})
        elif line.get("object") == "response" or "sequence_number" in line:
            self._response(line)
        elif "task" in line and "sample" in line:
            self._sample(line)
        elif "tokens" in line and isinstance(line["tokens"], list):
            trace = self._new(line.get("prompt"))
            trace.tokens += map(token_of, line["tokens"])
            trace.about += _facts(line.get("summary"))
        elif isinstance(line.get("summary"), dict) and self.found:
            self.found[-1].about += _facts(line["summary"])
        elif isinstance(line.get("prompt"), str) and isinstance(line.get("ids"), list):
            self._new(line["prompt"])
        elif isinstance(line.get("done"), bool) or line.keys() == {"error"}:
            self._ollama(line)
        elif "text" in line and "temperature" in line:
            if not self.found:
                self._new(None)
            self.found[-1].tokens.append(token_of(line))

    def _new(self, prompt: Any, title: str | None = None) -> ReadTrace:
        title = f"{self.name}, answer {len(self.found) + 1}" if title is None else title
        self.found.append(ReadTrace(title, prompt if isinstance(prompt, str) else None))
        return self.found[-1]

    def _choice(self, answer: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """A choice of an answer, or of a piece of one that is streamed; of the pieces only the last has a reason."""
        reason = choice.get("finish_reason", None if "delta" in choice else "unknown")
        key = ("choice", answer.get("id"), choice.get("index"))
        self._answer(choice, key, ends=reason is not None, prompt=answer.get("prompt"))

    def _response(self, line: Mapping[str, Any]) -> None:
        """OpenAI's response, or an event of one that is streamed; the last event has the whole once more."""
        if "item_id" in line:
            self._answer(line, ("item", line["item_id"]), ends=False)
            return
        whole = line["response"] if isinstance(line.get("response"), dict) else line
        items = whole.get("output")
        first = items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
        self._answer(whole, ("item", first.get("id")), ends=True, again=True)

    def _ollama(self, line: Mapping[str, Any]) -> None:
        """Ollama's answer, or a line of one that is streamed: without an id, up to one that is done, or an error."""
        traced = line.get("autodeco")
        seed = traced.get("seed") if isinstance(traced, dict) else None  # another, where one was broken off
        self._answer(line, ("line", self._ended, seed), ends=False)
        self._ended += line.get("done") is not False

    def _answer(
        self, part: Mapping[str, Any], key: tuple[object, ...], *, ends: bool, again: bool = False, prompt: Any = None
    ) -> None:
        """What "autodeco" says in an answer or in a piece of one, whose others have the same key.

        ``again``: it has the tokens of all pieces.
        """
        traced = part.get("autodeco")
        if not isinstance(traced, dict):
            return
        tokens = _traced(traced)
        key = tuple(name if isinstance(name, str | int) else None for name in key)
        trace = self._streams.pop(key, None) or self._new(prompt)
        if again:
            trace.tokens.clear()
        trace.tokens += tokens
        if not ends:
            self._streams[key] = trace

    def _sample(self, line: Mapping[str, Any]) -> None:
        """A line of an evaluation: a sample with its means, the tokens of one, or their T and P alone."""
        trace = self._new(None, sample_title(line))
        if isinstance(line.get("tokens"), dict):
            trace.tokens = tokens_of(line["tokens"])
        elif isinstance(line.get("pairs"), str):
            trace.tokens = [
                token_of({"text": "", "temperature": t, "top_p": p}) for t, p in pairs_of(line["pairs"]).tolist()
            ]
            trace.about.append("the file has T and P alone, no text")
        else:
            trace.text = str(line.get("text", ""))
            trace.about = [*means(line), "the file has no values of single tokens; eval --traces keeps them"]


def _traced(traced: Mapping[str, Any]) -> list[Token]:
    """The tokens of "autodeco" in an answer, or their T and P alone."""
    if isinstance(traced.get("tokens"), list):
        return [token_of(token) for token in traced["tokens"]]
    columns = [traced.get(key) or [] for key in ("temperature", "top_p")]
    wrong = next((column for column in columns if not isinstance(column, list)), None)
    if wrong is not None:
        raise InvalidInput(f"autodeco has {_shown(wrong)}, expected lists of temperature and top_p", key="autodeco")
    return [token_of({"text": "", "temperature": t, "top_p": p}) for t, p in zip(*columns, strict=False)]


_FACTS = {"seed": "seed", "finish_reason": "ended by", "model": "model", "date": "on"}
"""Of a summary of run --json, or in a server's log, with words for them."""


def _facts(summary: Any) -> list[str]:
    """A summary for a reader."""
    known = summary if isinstance(summary, dict) else {}
    found = [f"{words} {known[key]}" for key, words in _FACTS.items() if isinstance(known.get(key), str | int)]
    source = known.get("source")
    if isinstance(source, dict):
        return [*found, f"T by {source.get('temperature')}, P by {source.get('top_p')}"]
    return [*found, f"T and P by {source}"] if isinstance(source, str) else found


def means(line: Mapping[str, Any]) -> list[str]:
    """Mean T and P of a sample, for a reader."""
    found = {name: line.get(key) for name, key in (("T", "temperature"), ("P", "top_p"))}
    known = {name: drawn.get("mean") for name, drawn in found.items() if isinstance(drawn, dict)}
    return [f"mean {name} {value:.2f}" for name, value in known.items() if _is_number(value)]


def sample_title(line: Mapping[str, Any]) -> str:
    """Which sample of an evaluation a line is, for a reader.

    Examples:
        >>> sample_title({"task": "sums", "problem": 4, "config": "greedy", "seed": 0, "sample": 1, "correct": True})
        'sums, problem 5: greedy, seed 1, sample 2: right'
    """
    problem, seed, sample = (line.get(k) for k in ("problem", "seed", "sample"))
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (problem, seed, sample)):
        raise InvalidInput("no numbers of problem, seed and sample")
    config = f"{line['config']}, " if isinstance(line.get("config"), str) else ""
    correct = line.get("correct")
    verdict = (": right" if correct else ": wrong") if isinstance(correct, bool) else ""
    return f"{line['task']}, problem {problem + 1}: {config}seed {seed + 1}, sample {sample + 1}{verdict}"  # type: ignore[operator]


def token_of(value: Any, *, alternative: bool = False) -> Token:
    """Trace JSON with nothing in it that a page does not know; InvalidInput else. An alternative has none."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InvalidInput(f"{_shown(value)}: no token with a text")
    wrong = next((k for k in _VALUES if value.get(k) is not None and not _is_number(value[k])), None)
    if wrong is not None:
        raise InvalidInput(f"{wrong} {_shown(value[wrong])}, expected a number", key=wrong)
    token = {"text": value["text"], **{k: value[k] for k in _VALUES if value.get(k) is not None}}
    others = value.get("alternatives")
    if others is not None and not alternative:
        if not isinstance(others, list):
            raise InvalidInput(f"alternatives {_shown(others)}, expected a list", key="alternatives")
        token["alternatives"] = [token_of(other, alternative=True) for other in others]
    return token


def tokens_of(columns: Mapping[str, Any]) -> list[Token]:
    """The tokens of lists, one for each value; InvalidInput where they are none."""
    texts = columns.get("text")
    if not isinstance(texts, list) or any(not isinstance(c, list) or len(c) != len(texts) for c in columns.values()):
        raise InvalidInput("tokens are no lists of the same length")
    return [token_of(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def pairs_of(text: str) -> Pairs:
    """T and P of each token, from base64 of float32 [n, 2]; InvalidInput for anything else, and for values like NaN."""
    try:
        pairs = np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(-1, 2)
    except ValueError as e:
        raise InvalidInput(f"pairs are no base64 of T and P: {e}", key="pairs") from e
    if not ((pairs >= 0) & (pairs <= (1e6, 1.0))).all():  # NaN is not
        raise InvalidInput("pairs out of range", key="pairs")
    return pairs


def _is_number(value: object) -> TypeGuard[float]:
    """Finite, as a float too: whole numbers of JSON have no bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

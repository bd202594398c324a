"""Training data: JSONL examples to tokens on disk, so that memory does not grow with them."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.jsonl import parse_line, read_lines, type_name
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Tokens
from autodeco_gguf.model.thoughts import THOUGHTS
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.problems import located
from autodeco_gguf.training.records import KINDS, normalize
from autodeco_gguf.training.turns import read_conversation, read_weight

Ids = npt.NDArray[np.uint32]
"""Numbers of examples."""

FILES = {"tokens": np.int32, "ends": np.int64, "firsts": np.int64, "prompts": np.uint64}
"""Of a data set: the sequences, one after the other; where each of them ends, after a 0; where the sequences of each
example begin among those, and a last one would; a digest of each example's prompt."""

_SHOWN = ("developer", "system", "user")
"""Roles whose content a template shows as it stands; what a tool says it may write as JSON."""

_STRINGS = "give prompt and completion"
"""What always can be read, for messages."""


@dataclass
class Counts:
    """What became of the lines of a data set."""

    examples: int = 0
    controlled: int = 0
    tokens: int = 0
    predicted: int = 0
    bad_lines: list[str] = field(default_factory=list)
    bad: int = 0
    longest: int = 0
    cut: int = 0
    cut_tokens: int = 0
    too_long: int = 0
    empty: int = 0


@dataclass(frozen=True)
class Example:
    """One line of data: a text, and which parts of it, as character ranges, the model says."""

    text: str
    spans: tuple[tuple[int, int], ...]
    add_bos: bool
    answer: bool = True
    """Each part ends with the first token that ends a generation; a text as such may hold many."""
    cut: bool = False
    """Cut by length, so that no token ends it."""

    @property
    def prompt(self) -> bytes:
        """A digest of what precedes all that is predicted, as text: an answer may change its last token. Of all of a
        text where nothing does."""
        return hashlib.blake2b((self.text[: self.spans[0][0]] or self.text).encode(), digest_size=8).digest()


class Encoder:
    """Turns records, as :func:`normalize` reads them, into tokens, by the model's own tokenizer and chat template."""

    def __init__(
        self,
        context: Context,
        max_tokens: int,
        commands: Commands | None = None,
        chat: Chat | None = None,
        *,
        too_long: Literal["cut", "leave-out"] = "cut",
    ) -> None:
        """Cut sequences to ``max_tokens``, or leave examples out; with commands, give some their variants too.

        ``chat`` is the model's chat template, where it is to read more than by default.
        """
        self._context = context
        self._chat = chat or context.chat()
        self._max_tokens, self._too_long = max_tokens, too_long
        self._commands = commands
        self._suffix, self._end = self._around_answer()
        self._text_arguments = self._chat is not None and self._chat.takes_text_arguments

    def encode(self, record: object, index: int, counts: Counts) -> tuple[list[Tokens], bytes]:
        """The sequences of one record, none where nothing to predict is left, and :attr:`Example.prompt`.

        They are it, and its variants with commands, ``commands.VARIANTS[1:]`` again and again.

        Raises InvalidInput where the record is malformed; the message says how.
        """
        if not isinstance(record, dict):
            raise InvalidInput(f"is {type_name(record)}, expected an object with {KINDS}")
        record = normalize(record)
        if not read_weight(record):
            counts.empty += 1
            return [], b""
        examples = [self._example(record)]
        asks = "messages" in record or "prompt" in record  # a text beside them, as Alpaca's, is not read
        pairs = self._commands.draw(index, examples[0].text) if self._commands and asks else []
        examples += [self._example(self._command(record, command)) for pair in pairs for command in pair]
        sequences = [self._tokens(example) for example in examples]
        too_many = len(sequences[0]) - self._max_tokens
        if too_many > 0:
            if self._too_long == "leave-out":
                counts.too_long += 1
                return [], b""
            sequences = [s[: self._max_tokens] for s in sequences]
        elif max(map(len, sequences)) > self._max_tokens:
            sequences = sequences[:1]  # a command makes it too long
        predicted = [int((s < 0).sum()) for s in sequences]
        if len(set(predicted)) > 1 or any(np.array_equal(s, sequences[0]) for s in sequences[1:]):
            sequences = sequences[:1]  # cut differently, so no longer the same answer; or no user to command
        if not predicted[0]:
            counts.empty += 1
            return [], b""
        counts.examples += 1
        counts.cut += too_many > 0
        counts.cut_tokens += max(0, too_many)
        counts.controlled += len(sequences) > 1
        counts.tokens += sum(map(len, sequences))
        counts.longest = max(counts.longest, *map(len, sequences))
        counts.predicted += predicted[0] * len(sequences)
        return sequences, examples[0].prompt

    # ---- records ----

    def _example(self, record: dict[str, object]) -> Example:
        if "messages" in record:
            return self._conversation(record)
        if record.get("tools"):
            raise InvalidInput("has tools, which only a chat template can show; give messages")
        if "prompt" in record or "completion" in record:
            prompt = _string(record, "prompt", may_be_empty=True)
            text = prompt + _string(record, "completion")
            # what the chat template wrote has the beginning of sequence if the model wants one, as in generation
            rendered = bool(self._suffix) and prompt.endswith(self._suffix)
            cut = record.get("finish_reason") == "length"
            return Example(text, ((len(prompt), len(text)),), add_bos=not rendered, cut=cut)
        if "text" in record:
            text = _string(record, "text")
            return Example(text, ((0, len(text)),), add_bos=True, answer=False)
        raise InvalidInput(f"has the keys {sorted(record)}, expected {KINDS}")

    def _conversation(self, record: dict[str, object]) -> Example:
        if self._chat is None:
            raise InvalidInput(f"has messages, but the model has no chat template; {_STRINGS}")
        conversation = read_conversation(record, text_arguments=self._text_arguments)
        turns, tools = conversation.turns, conversation.tools
        whole = self._chat.render(turns, generation=False, tools=tools)
        if tools and whole == self._chat.render(turns, generation=False):
            raise InvalidInput("has tools, which the model's chat template does not show")
        spans = []
        for i, turn in enumerate(turns):
            if not conversation.learnt[i]:
                if turn["role"] in _SHOWN:
                    _check_shown(turn, i, whole)
                continue
            before = self._chat.render(turns[:i], tools=tools)
            after = self._chat.render(turns[: i + 1], generation=False, tools=tools)
            if not (whole.startswith(before) and whole.startswith(after) and len(before) < len(after)):
                if turn is turns[-1]:
                    what, advice = f"writes something else before an answer than it shows before turn {i + 1}", _STRINGS
                else:
                    what, advice = f"renders turn {i + 1} differently when others follow", "give one answer a line"
                raise InvalidInput(f"messages: the chat template {what}; {advice}")
            said = whole[len(before) : len(after)]
            _check_shown(turn, i, said, *THOUGHTS)
            if not all(call["function"]["name"] in said for call in turn.get("tool_calls", ())):
                raise InvalidInput(
                    f"messages: turn {i + 1} has tool calls, which the model's chat template does not show"
                )
            spans.append((len(before), len(after)))
        cut = record.get("finish_reason") == "length" and conversation.learnt[-1]
        if cut and (said := turns[-1]["content"].strip()):
            begin, end = spans.pop()
            whole = whole[: whole.rindex(said, begin, end) + len(said)]
            spans.append((begin, len(whole)))
        return Example(whole, tuple(spans), add_bos=False, cut=cut)

    # ---- tokens ----

    def _tokens(self, example: Example) -> Tokens:
        """Tokenized as a whole; what is predicted begins where the tokens of what precedes it end."""
        tokens = np.array(self._context.tokenize(example.text, add_bos=example.add_bos), np.int32)
        for begin, end in example.spans:
            first = max(1, self._boundary(example, begin, tokens))
            last = len(tokens) if end == len(example.text) else self._boundary(example, end, tokens)
            behind = min(last + 1, len(tokens))  # where what follows begins with the end, as GLM-4's <|user|>
            ends = range(first if example.answer else max(first, last - 1), behind)
            stop = next((j for j in ends if self._context.is_eog(int(tokens[j]))), None)
            eos = self._context.eos if example.add_bos else self._end
            if stop is None and end == len(example.text) and eos >= 0 and not example.cut:
                tokens = np.append(tokens, np.int32(eos))
                stop = len(tokens) - 1
            last = last if stop is None else stop + 1
            tokens[first:last] = ~tokens[first:last]
        last_predicted = np.flatnonzero(tokens < 0)
        return tokens[: last_predicted[-1] + 1] if len(last_predicted) else tokens

    def _boundary(self, example: Example, place: int, tokens: Tokens) -> int:
        """How many tokens the text before ``place`` has in common with the whole."""
        if place == 0:
            return 0
        head = np.array(self._context.tokenize(example.text[:place], add_bos=example.add_bos), np.int32)
        n = min(len(head), len(tokens))
        plain = np.where(tokens < 0, ~tokens, tokens)
        different = np.flatnonzero(head[:n] != plain[:n])
        return int(different[0]) if len(different) else n

    # ---- commands ----

    def _command(self, record: dict[str, Any], command: str) -> dict[str, object]:
        """The record, which is well formed, with a command at the end of what the user says first."""
        if "messages" in record:
            messages = copy.deepcopy(record["messages"])
            users = [m for m in messages if m["role"] == "user"]
            if users:
                users[0]["content"] += f" {command}"
            return {**record, "messages": messages}
        prompt = _string(record, "prompt", may_be_empty=True)
        said = prompt.removesuffix(self._suffix).rstrip()
        return {**record, "prompt": f"{said} {command}{prompt[len(said) :]}"}

    def _around_answer(self) -> tuple[str, int]:
        """What the chat template puts between a user's words and the answer, and the token that ends that."""
        if self._chat is None:
            return "", self._context.eos
        mark = "\x02"
        turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
        try:
            before = self._chat.render(turns[:1]).partition(mark)[2]
            behind = self._chat.render(turns, generation=False).rpartition(mark)[2]
        except AutoDecoError:
            return "", self._context.eos
        ends = filter(self._context.is_eog, self._context.tokenize(behind))
        return before, next(ends, self._context.eos)


def _check_shown(turn: dict[str, Any], i: int, text: str, *more: str) -> None:
    for key in ("content", *more):
        value = turn.get(key)
        if isinstance(value, str) and value.strip() not in text:
            what = f"{key} that the model's chat template does not show as it stands"
            raise InvalidInput(f"messages: turn {i + 1} has {what}; {_STRINGS}")


def _string(record: dict[str, object], key: str, *, may_be_empty: bool = False) -> str:
    if key not in record:
        raise InvalidInput(f"{key} is missing; expected {KINDS}")
    value = record[key]
    if not isinstance(value, str):
        raise InvalidInput(f"{key} is {type_name(value)}, expected a string")
    if not (value or may_be_empty):
        raise InvalidInput(f"{key} is empty")
    return value


# ---- files ----


class Dataset:
    """Encoded examples on disk, memory-mapped until it is closed."""

    def __init__(self, directory: Path, counts: Counts, digest: str) -> None:
        self.counts, self.digest = counts, digest
        self._files = {name: np.memmap(directory / name, kind, "r") for name, kind in FILES.items()}

    def close(self) -> None:
        """Let go of the files, which NFS and Windows do not remove before."""
        self._files.clear()

    def __len__(self) -> int:
        return len(self._files["firsts"]) - 1

    def __getitem__(self, index: int) -> list[Tokens]:
        """The sequences of an example, as :meth:`Encoder.encode` has them."""
        begin, end = self._files["firsts"][index : index + 2]
        ends = self._files["ends"][begin : end + 1]
        return [np.array(self._files["tokens"][a:b]) for a, b in itertools.pairwise(ends)]

    def prompts(self) -> Ids:
        """For each example the first one with the same prompt."""
        _, firsts, groups = np.unique(np.array(self._files["prompts"]), return_index=True, return_inverse=True)
        return firsts[groups].astype(np.uint32)


def held_out(n: int, share: float, most: int, seed: int, groups: Ids | None = None) -> tuple[Ids, Ids]:
    """Of n examples those to validate on, and those to train on, both in an order that is drawn.

    At most ``most`` are held out; where a share is and there are two examples, at least one, and one stays. Examples
    that have the same first one in ``groups`` stay together, unless the smallest group is more than half of all; each
    group is as likely to be held out, whatever its size. What ``most`` cuts off the smallest group is in neither part.
    """
    order = np.random.default_rng([seed, 1]).permutation(n).astype(np.uint32)
    n_held = min(round(share * n), most, n - 1)
    if share > 0 and n > 1:
        n_held = max(1, n_held)
    inside = np.arange(n) < n_held
    if groups is not None:
        sizes, drawn = np.bincount(groups), order[np.isin(order, groups)].tolist()  # of each its first example
        held, size = list[int](), 0
        for group in drawn:
            if size + sizes[group] <= n_held:
                held.append(group)
                size += int(sizes[group])
        smallest = min(drawn, key=lambda group: int(sizes[group]))
        if n_held and not held and sizes[smallest] <= n // 2:
            held = [smallest]
        inside = np.isin(groups[order], held) if held else inside
    return order[inside][:most], order[~inside]


class NoExample(BadFile):
    """Files that hold nothing to train on."""


def encode_files(
    paths: Sequence[Path],
    encoder: Encoder,
    directory: Path,
    *,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Dataset:
    """Encode JSONL files into ``directory``, which exists, line by line; ``progress`` gets the number of lines so far.

    Raises BadFile for a malformed line, named as file:line, which ``skip_bad`` only counts; for a file that cannot be
    read; and NoExample where there is nothing to train on.
    """
    counts, digest = Counts(), hashlib.sha256()
    n_sequences, n_tokens = 0, 0
    with ExitStack() as stack:
        tokens, ends, firsts, prompts = (stack.enter_context((directory / name).open("wb")) for name in FILES)
        for f in (ends, firsts):
            f.write(np.int64(0).tobytes())
        overlong: list[BadFile] | None = [] if skip_bad else None
        lines = ((path, number, line) for path in paths for number, line in read_lines(path, too_long=overlong))
        for index, (path, number, line) in enumerate(lines):
            try:
                with located(path, number):
                    sequences, prompt = encoder.encode(parse_line(line), index, counts)
            except BadFile as e:
                if not skip_bad:
                    raise
                counts.bad += 1
                counts.bad_lines += [str(e)] if counts.bad <= 3 else []
                continue
            for sequence in sequences:
                n_tokens += len(sequence)
                data = sequence.tobytes()
                digest.update(data + b"|")
                tokens.write(data)
                ends.write(np.int64(n_tokens).tobytes())
            if sequences:
                n_sequences += len(sequences)
                firsts.write(np.int64(n_sequences).tobytes())
                prompts.write(prompt)
            progress(index + 1)
    counts.bad += len(overlong or ())
    counts.bad_lines += [str(e) for e in overlong or ()][: max(0, 3 - len(counts.bad_lines))]
    if not counts.examples:
        names = ", ".join(map(str, paths))
        too_long = f", {counts.too_long} too long" if counts.too_long else ""
        raise NoExample(
            f"{names}: no example to train on ({counts.bad} malformed lines, {counts.empty} with nothing to predict"
            f"{too_long})",
            file=paths[0],
        )
    return Dataset(directory, counts, digest.hexdigest())

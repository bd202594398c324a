"""Training data: which tokens a line becomes, which of them are predicted, and what is said of a bad line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case
from training_helpers import CHATML, chat_base, jsonl

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Tokens
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training.data import Counts, Dataset, Encoder, encode_files, held_out
from autodeco_gguf.training.records import KINDS

COMMANDS = Commands(low=("Be exact.",), high=("Be wild.",))
HELLO = [42, 71, 78, 78, 81, 280, 262, 78, 70]
"""Hello world, by the fixture's tokenizer; its "or" is one token."""
START, END = 1, 2
"""<|im_start|> and <|im_end|>, which is the end of sequence."""


@pytest.fixture(scope="module")
def open_context() -> Iterator[Callable[[Path], Context]]:
    contexts: dict[Path, Context] = {}

    def make(path: Path) -> Context:
        if path not in contexts:
            contexts[path] = Context(path, n_ctx=512, machine=Machine(n_threads=1))
        return contexts[path]

    yield make
    for context in contexts.values():
        context.close()


@pytest.fixture(scope="module")
def plain(qwen2: Case, open_context: Callable[[Path], Context]) -> Context:
    """No chat template, no BOS."""
    return open_context(qwen2.base)


@pytest.fixture(scope="module")
def chat(qwen2: Case, open_context: Callable[[Path], Context], tmp_path_factory: pytest.TempPathFactory) -> Context:
    return open_context(chat_base(qwen2.base, tmp_path_factory.mktemp("chat") / "chat.gguf"))


@pytest.fixture(scope="module")
def bos(qwen2: Case, open_context: Callable[[Path], Context], tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Wants <|endoftext|> at the beginning; it stands in the template too."""
    path = tmp_path_factory.mktemp("bos") / "bos.gguf"
    template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    return open_context(chat_base(qwen2.base, path, template, add_bos_token=(True, Kind.BOOL)))


def encode(context: Context, record: object, max_tokens: int = 256, commands: Commands | None = None) -> list[Tokens]:
    return Encoder(context, max_tokens, commands).encode(record, 0, Counts())[0]


def one(context: Context, record: object, max_tokens: int = 256) -> list[int]:
    (sequence,) = encode(context, record, max_tokens)
    return sequence.tolist()


def text(context: Context, tokens: Tokens) -> str:
    return b"".join(context.token_bytes(int(t if t >= 0 else ~t)) for t in tokens).decode()


def said(context: Context, tokens: Tokens) -> list[str]:
    """The text of every run of predicted tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], tokens < 0, [0]])))
    return [text(context, tokens[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def c(*tokens: int) -> list[int]:
    return [~t for t in tokens]


# ---- prompt and completion ----

PAIRS: dict[str, tuple[str, str, list[int]]] = {
    "between tokens": ("Hello", " world", [*HELLO[:5], *c(*HELLO[5:], END)]),
    "a token across the boundary is predicted": ("Hello wo", "rld", [*HELLO[:6], *c(*HELLO[6:], END)]),
    "the end is there already": ("Hello", " world<|im_end|>", [*HELLO[:5], *c(*HELLO[5:], END)]),
    "nothing is predicted after the end": ("Hello", " world<|im_end|>\nHello", [*HELLO[:5], *c(*HELLO[5:], END)]),
    "any token that ends a generation": ("Hello", " world<|endoftext|>", [*HELLO[:5], *c(*HELLO[5:], 0)]),
    "an end within the prompt": ("Hello<|im_end|>", " world", [*HELLO[:5], END, *c(*HELLO[5:], END)]),
    "no prompt: nothing precedes the first token": ("", "Hello world", [HELLO[0], *c(*HELLO[1:], END)]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_prompt_and_completion(name: str, plain: Context) -> None:
    prompt, completion, tokens = PAIRS[name]
    assert one(plain, {"prompt": prompt, "completion": completion}) == tokens


def test_nothing_ends_an_answer_that_was_cut(plain: Context) -> None:
    record = {"prompt": "Hello", "completion": " world"}
    assert one(plain, {**record, "finish_reason": "length"}) == [*HELLO[:5], *c(*HELLO[5:])]
    assert one(plain, {**record, "finish_reason": "stop"}) == [*HELLO[:5], *c(*HELLO[5:], END)]


def test_nothing_ends_a_conversation_that_was_cut(chat: Context) -> None:
    """But its earlier answers end."""
    record = turns(("user", "One?"), ("assistant", "Two."), ("user", "And?"), ("assistant", "Three"))
    whole, cut = (encode(chat, {**record, **more})[0] for more in ({}, {"finish_reason": "length"}))
    assert said(chat, whole) == ["Two.<|im_end|>", "Three<|im_end|>"]
    assert said(chat, cut) == ["Two.<|im_end|>", "Three"]
    as_lists = {"prompt": record["messages"][:3], "completion": record["messages"][3:], "finish_reason": "length"}
    assert encode(chat, as_lists)[0].tolist()[-2:] == cut.tolist()[-2:]


@pytest.mark.parametrize("prompt", ["Hello", "<|endoftext|>Hello"])
def test_bos_stands_once(prompt: str, bos: Context) -> None:
    tokens = [0, *HELLO[:5], *c(*HELLO[5:], END)]
    assert one(bos, {"prompt": prompt, "completion": " world"}) == tokens


def test_after_a_bos_all_is_predicted(bos: Context) -> None:
    assert one(bos, {"prompt": "", "completion": "Hello world"}) == [0, *c(*HELLO, END)]
    assert one(bos, {"text": "Hello world"}) == [0, *c(*HELLO, END)]


def test_a_vocabulary_without_eos(qwen2: Case, tmp_path: Path, open_context: Callable[[Path], Context]) -> None:
    """llama.cpp then takes one of its own; nothing is predicted that is no token."""
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"tokenizer.ggml.eos_token_id": None})
    context = open_context(path)
    tokens = one(context, {"prompt": "Hello", "completion": " world"})
    end = c(context.eos) if context.eos >= 0 else []
    assert tokens == [*HELLO[:5], *c(*HELLO[5:]), *end]


def test_an_answer_ends_as_the_chat_template_ends_it(
    qwen2: Case, tmp_path: Path, open_context: Callable[[Path], Context]
) -> None:
    """<|im_end|>, also where that is not the vocabulary's end, as in models that end turns by another."""
    context = open_context(chat_base(qwen2.base, tmp_path / "chat.gguf", eos_token_id=(0, Kind.UINT32)))
    assert context.eos == 0
    user, answer = turns(("user", "One?"), ("assistant", "Two."))["messages"]
    prompt = context.chat().render([user])  # type: ignore[union-attr]
    tokens = one(context, {"prompt": prompt, "completion": answer["content"]})
    messages = one(context, {"messages": [user, answer]})
    assert said(context, encode(context, {"messages": [user, answer]})[0]) == ["Two.<|im_end|>"]
    assert tokens == messages
    assert one(context, {"prompt": "One?", "completion": "Two."})[-1] == ~0  # no turn of the template


# ---- text ----


def test_text(plain: Context) -> None:
    assert one(plain, {"text": "Hello world"}) == [HELLO[0], *c(*HELLO[1:], END)]
    assert one(plain, {"text": "Hello<|im_end|>"}) == [HELLO[0], *c(*HELLO[1:5], END)]


def test_all_of_a_text_is_predicted_whatever_ends_in_it(plain: Context) -> None:
    whole = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHello world"
    (tokens,) = encode(plain, {"text": whole})
    assert said(plain, tokens) == [whole.removeprefix("<|im_start|>") + "<|im_end|>"]


# ---- messages ----


def turns(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_only_the_assistants_turns_are_predicted(chat: Context) -> None:
    record = turns(
        ("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "And?"), ("assistant", "Three.")
    )
    (tokens,) = encode(chat, record)
    assert said(chat, tokens) == ["Two.<|im_end|>", "Three.<|im_end|>"]
    assert text(chat, tokens) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
        "Two.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>"
    )
    special = [t if t >= 0 else ~t for t in tokens.tolist()]
    assert (special.count(START), special.count(END)) == (5, 5)


def test_an_end_that_is_written_with_the_next_turn(
    qwen2: Case, open_context: Callable[[Path], Context], tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ '<|im_end|>' if m.role == 'user' else ':' }}{{ m.content }}{% endfor %}"
    path = chat_base(qwen2.base, tmp_path / "end.gguf", template + "{{ ':' if add_generation_prompt }}")
    (tokens,) = encode(open_context(path), turns(*[("user", "a"), ("assistant", "b")] * 2))
    assert said(open_context(path), tokens) == ["b<|im_end|>"] * 2


def test_what_follows_the_last_answer_is_dropped(chat: Context) -> None:
    (tokens,) = encode(chat, turns(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert said(chat, tokens) == ["b<|im_end|>"]
    assert tokens[-1] == ~END


def test_an_answer_first(chat: Context) -> None:
    (tokens,) = encode(chat, turns(("assistant", "Hi"), ("user", "b"), ("assistant", "c")))
    assert said(chat, tokens) == ["Hi<|im_end|>", "c<|im_end|>"]


def test_a_template_without_an_end_of_turn(bos: Context) -> None:
    """The last answer gets the end of sequence; BOS comes from the template, once."""
    (tokens,) = encode(bos, turns(("user", "Hello"), ("assistant", " world")))
    assert text(bos, tokens) == "<|endoftext|><user>Hello<assistant> world<|im_end|>"
    assert np.flatnonzero(tokens == 0).tolist() == [0]
    assert said(bos, tokens) == ["<assistant> world<|im_end|>"]  # it has no prompt of its own for an answer


# ---- cutting ----


def test_cutting_and_its_counts(plain: Context) -> None:
    encoder, counts = Encoder(plain, 8), Counts()
    record = {"prompt": "Hello", "completion": " world"}  # 10 tokens, the last 5 predicted
    ((tokens,), _) = encoder.encode(record, 0, counts)
    assert tokens.tolist() == [*HELLO[:5], *c(*HELLO[5:8])]
    assert encoder.encode({"prompt": "Hello world", "completion": "Hello"}, 1, counts)[0] == []
    assert (counts.examples, counts.cut, counts.cut_tokens, counts.empty) == (1, 1, 2, 1)
    assert (counts.tokens, counts.predicted) == (8, 3)


def test_an_example_that_just_fits(plain: Context) -> None:
    record, counts = {"prompt": "Hello", "completion": " world"}, Counts()
    lengths = [len(Encoder(plain, n).encode(record, 0, counts)[0][0]) for n in (10, 12)]
    assert (lengths, counts.cut, counts.cut_tokens) == ([10, 10], 0, 0)


# ---- control ----


def test_commands_go_to_the_end_of_a_prompt(plain: Context) -> None:
    sequences = encode(plain, {"prompt": "Hello?\n\n", "completion": "World"}, commands=COMMANDS)
    prompts = [text(plain, s).partition("World")[0] for s in sequences]
    assert prompts == ["Hello?\n\n", "Hello? Be exact.\n\n", "Hello? Be wild.\n\n"]
    assert len({(s < 0).sum() for s in sequences}) == 1


def test_commands_go_before_what_the_template_puts_behind_a_prompt(chat: Context) -> None:
    prompt = "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
    sequences = encode(chat, {"prompt": prompt, "completion": "World<|im_end|>"}, commands=COMMANDS)
    prompts = [text(chat, s[s >= 0]) for s in sequences]
    assert prompts == [prompt, *(prompt.replace("Hello?", f"Hello? {x}") for x in ("Be exact.", "Be wild."))]


def test_commands_go_to_the_first_user_of_a_conversation(chat: Context) -> None:
    record = turns(("system", "s"), ("user", "One?"), ("assistant", "Two."), ("user", "And?"), ("assistant", "Three."))
    sequences = encode(chat, record, commands=COMMANDS)
    plain_text = text(chat, sequences[0])
    assert [text(chat, s) for s in sequences[1:]] == [
        plain_text.replace("One?", f"One? {x}") for x in ("Be exact.", "Be wild.")
    ]
    assert record == turns(
        ("system", "s"), ("user", "One?"), ("assistant", "Two."), ("user", "And?"), ("assistant", "Three.")
    )


def test_a_text_beside_a_prompt_is_not_read(plain: Context) -> None:
    """Alpaca's records have both."""
    record = {"prompt": "Hello?", "completion": "World", "text": "Hello? World"}
    assert len(encode(plain, record, commands=COMMANDS)) == 3


@pytest.mark.parametrize("too_long", ["cut", "leave-out"])
def test_what_only_a_command_makes_too_long(plain: Context, too_long: Any) -> None:
    counts = Counts()
    record = {"prompt": "Hello?", "completion": "World"}
    n = len(encode(plain, record)[0])
    ((found,), _) = Encoder(plain, n + 1, COMMANDS, too_long=too_long).encode(record, 0, counts)
    assert found.tolist() == one(plain, record)
    assert (counts.examples, counts.cut, counts.too_long) == (1, 0, 0)


def test_a_command_is_known_between_quotes_of_both_kinds(plain: Context) -> None:
    commands = Commands(low=("Don't guess.",), high=("Be wild.",))
    for prompt, n in (('Say "Hello".', 3), ('Say "Hello". Don\'t guess.', 1)):
        assert len(encode(plain, {"prompt": prompt, "completion": "Hello"}, commands=commands)) == n


def test_several_commands_of_each_kind(plain: Context) -> None:
    commands = Commands(("Be exact.", "Be dull."), ("Be wild.",), pairs=4)
    sequences = encode(plain, {"prompt": "Hello?", "completion": "World"}, commands=commands)
    prompts = [text(plain, s).partition("World")[0] for s in sequences]
    assert prompts[:1] == ["Hello?"]
    assert prompts[2::2] == ["Hello? Be wild."] * 4
    assert {*prompts[1::2]} == {"Hello? Be exact.", "Hello? Be dull."}


NO_VARIANTS: dict[str, dict[str, Any]] = {
    "a text": {"text": "Hello world"},
    "no user": turns(("system", "Hello"), ("assistant", "world")),
    "a command already": {"prompt": "Hello. Be wild.", "completion": "Hello"},
    "cut differently": {"prompt": "Hello", "completion": " world" * 8},
}


@pytest.mark.parametrize("name", NO_VARIANTS)
def test_no_variants(name: str, chat: Context) -> None:
    counts = Counts()
    assert len(Encoder(chat, 35, COMMANDS).encode(NO_VARIANTS[name], 0, counts)[0]) == 1
    assert (counts.examples, counts.controlled) == (1, 0)


# ---- malformed lines ----

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b'{"prompt": "a",}', "not JSON: "),
    "half a line": (b'{"prompt": "a', "not JSON: Unterminated string starting at column 12"),
    "not UTF-8": (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
    "too deep": (b"[" * 100000, "not JSON: nested too deeply"),
    "a number too long": (b'{"text": ' + b"1" * 5000 + b"}", "not JSON that can be read: a number is too long"),
    "a list": (b"[]", f"is a list, expected an object with {KINDS}"),
    "a string": (b'"x"', f"is a string, expected an object with {KINDS}"),
    "null": (b"null", f"is null, expected an object with {KINDS}"),
    "NaN": (b"NaN", f"is a number, expected an object with {KINDS}"),
    "other keys": (b'{"b": 1, "a": 2}', f"has the keys ['a', 'b'], expected {KINDS}"),
    "no keys": (b"{}", f"has the keys [], expected {KINDS}"),
    "no completion": (b'{"prompt": "a"}', f"completion is missing; expected {KINDS}"),
    "no prompt": (b'{"completion": "a"}', f"prompt is missing; expected {KINDS}"),
    "prompt null": (b'{"prompt": null, "completion": "a"}', f"prompt is missing; expected {KINDS}"),
    "completion true": (b'{"prompt": "a", "completion": true}', "completion is a boolean, expected a string"),
    "completion NaN": (b'{"prompt": "a", "completion": NaN}', "completion is a number, expected a string"),
    "completion empty": (b'{"prompt": "a", "completion": ""}', "completion is empty"),
    "text empty": (b'{"text": ""}', "text is empty"),
    "text a list": (b'{"text": ["a"]}', "text is a list, expected a string"),
    "half a surrogate": (b'{"text": "a\\ud800"}', "not UTF-8: surrogates not allowed at character 1"),
    "messages a string": (b'{"messages": "a"}', "messages: expected a list of objects with role and content"),
    "messages empty": (b'{"messages": []}', "messages: expected a list of objects with role and content"),
    "a turn a string": (
        b'{"messages": ["a"]}',
        "messages: turn 1 is a string, expected an object with role and content",
    ),
    "no content": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}',
        "messages: turn 2 lacks a role or content that is a string",
    ),
    "no answer": (
        b'{"messages": [{"role": "user", "content": "a"}]}',
        "messages: no turn of the assistant, so nothing to predict",
    ),
}


@pytest.mark.parametrize("commands", [None, COMMANDS], ids=["plain", "control"])
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_malformed_line(name: str, commands: Commands | None, chat: Context, tmp_path: Path) -> None:
    line, message = BAD_LINES[name]
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "Hello"}\n\n' + line + b"\n")
    with pytest.raises(BadFile) as refused:
        encode_files([path], Encoder(chat, 64, commands), tmp_path)
    assert str(refused.value).startswith(f"{path}:3: {message}")
    assert refused.value.file == str(path)
    counts = encode_files([path], Encoder(chat, 64, commands), tmp_path, skip_bad=True).counts
    assert (counts.examples, counts.bad, counts.bad_lines) == (1, 1, [str(refused.value)])


def test_a_template_that_begins_an_answer_with_what_it_does_not_show(
    qwen2: Case, open_context: Callable[[Path], Context], tmp_path: Path
) -> None:
    """As those of models that reason, of which an answer has no reasoning."""
    template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    context = open_context(chat_base(qwen2.base, tmp_path / "x.gguf", template))
    what = "writes something else before an answer than it shows before turn 2; give prompt and completion"
    with pytest.raises(InvalidInput, match=f"^messages: the chat template {what}$"):
        encode(context, turns(("user", "a"), ("assistant", "b")))
    assert one(context, {"prompt": "Hello", "completion": " world"})


TEMPLATES: dict[str, tuple[str, str]] = {
    "refuses": ("{{ raise_exception('no') }}", r"\S+x\.gguf: its chat template refuses: no"),
    "rewrites": (
        "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}",
        "messages: the chat template renders turn 2 differently when others follow; give one answer a line",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_does_not_do(name: str, qwen2: Case, tmp_path: Path) -> None:
    template, message = TEMPLATES[name]
    context = Context(chat_base(qwen2.base, tmp_path / "x.gguf", template), n_ctx=64, machine=Machine(n_threads=1))
    with pytest.raises(AutoDecoError, match=f"^{message}"):
        encode(context, turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    one(context, {"prompt": "Hello", "completion": " world"})
    context.close()


def test_messages_need_a_template(plain: Context) -> None:
    with pytest.raises(InvalidInput, match=r"^has messages, but the model has no chat template; give prompt and comp"):
        encode(plain, turns(("user", "a"), ("assistant", "b")))


# ---- files ----


def test_a_line_that_is_too_long_is_bad(plain: Context, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "Hello world"}, {"text": "x" * (17 << 20)}, {"text": "Hello you"})
    counts = encode_files([path], Encoder(plain, 64), tmp_path, skip_bad=True).counts
    assert (counts.examples, counts.bad, counts.bad_lines) == (2, 1, [f"{path}:2: longer than 16777216 bytes"])


def test_many_bad_lines_are_counted_and_three_are_named(plain: Context, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *([1] * 9), {"text": "Hello"})
    counts = encode_files([path], Encoder(plain, 64), tmp_path, skip_bad=True).counts
    assert counts.bad == 9
    assert [line.split(": ")[0] for line in counts.bad_lines] == [f"{path}:{i}" for i in (1, 2, 3)]


def sequences_of(data: Dataset) -> list[list[list[int]]]:
    return [[s.tolist() for s in data[i]] for i in range(len(data))]


ENDINGS: dict[str, bytes] = {
    "unix": b'{"text": "Hello"}\n{"text": "Hello world"}\n',
    "no newline at the end": b'{"text": "Hello"}\n{"text": "Hello world"}',
    "windows": b'{"text": "Hello"}\r\n{"text": "Hello world"}\r\n',
    "blank lines": b'\n  \n{"text": "Hello"}\n\r\n\t\n{"text": "Hello world"}\n\n',
    "byte order mark": b'\xef\xbb\xbf{"text": "Hello"}\n{"text": "Hello world"}\n',
}


@pytest.mark.parametrize("name", ENDINGS)
def test_lines(name: str, plain: Context, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(ENDINGS[name])
    data = encode_files([tmp_path / "d.jsonl"], Encoder(plain, 64), tmp_path)
    assert sequences_of(data) == [[[42, *c(*HELLO[1:5], END)]], [[42, *c(*HELLO[1:], END)]]]
    assert (data.counts.examples, data.counts.tokens, data.counts.predicted) == (2, 16, 14)


def test_several_files_many_lines_and_variants(plain: Context, tmp_path: Path) -> None:
    pairs = [{"prompt": "Hello" * (i % 5), "completion": f" world {i}"} for i in range(400)]
    paths = [jsonl(tmp_path / "a.jsonl", *pairs[:250]), jsonl(tmp_path / "b.jsonl", *pairs[250:])]
    encoder = Encoder(plain, 64, Commands.read([], share=0.5))
    seen: list[int] = []
    data = encode_files(paths, encoder, tmp_path, progress=seen.append)
    expected = [[s.tolist() for s in encoder.encode(pair, i, Counts())[0]] for i, pair in enumerate(pairs)]
    assert sequences_of(data) == expected
    assert {len(e) for e in expected} == {1, 3}
    assert data.counts.controlled == sum(len(e) == 3 for e in expected)
    assert data.counts.tokens == sum(len(s) for e in expected for s in e)
    assert seen == list(range(1, 401))
    assert encode_files(paths, encoder, tmp_path).digest == data.digest
    assert encode_files(paths[::-1], encoder, tmp_path).digest != data.digest


def test_examples_left_empty_take_no_place(plain: Context, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "Hello" * 30, "completion": "a"}, {"text": "Hello"})
    data = encode_files([path], Encoder(plain, 16), tmp_path)
    assert sequences_of(data) == [[[42, *c(*HELLO[1:5], END)]]]
    assert (data.counts.empty, data.counts.cut) == (1, 0)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (lambda p: p.mkdir(), "{path}: cannot be read: Is a directory"),
    "missing": (lambda p: None, "{path}: cannot be read: No such file or directory"),
    "empty": (lambda p: p.touch(), "{path}: no example to train on (0 malformed lines, 0 with nothing to predict)"),
    "blank": (
        lambda p: p.write_text("\n\n"),
        "{path}: no example to train on (0 malformed lines, 0 with nothing to predict)",
    ),
    "bad and empty": (
        lambda p: jsonl(p, 1, {"prompt": "Hello" * 30, "completion": "a"}),
        "{path}: no example to train on (1 malformed lines, 1 with nothing to predict)",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_do(name: str, plain: Context, tmp_path: Path) -> None:
    make, message = FILES[name]
    path = tmp_path / "data.jsonl"
    make(path)
    with pytest.raises(BadFile) as refused:
        encode_files([path], Encoder(plain, 16), tmp_path, skip_bad=True)
    assert refused.value.file == str(path)
    assert str(refused.value) == message.format(path=path)


# ---- as people have them ----

OTHERS: dict[str, dict[str, Any]] = {
    "TRL": {
        "prompt": [{"role": "user", "content": "Hello"}],
        "completion": [{"role": "assistant", "content": "world", "tool_calls": None}],
    },
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "world"}], "id": None},
    "roles": {"conversations": turns(("user", "Hello"), ("assistant", "world"))["messages"]},
    "Alpaca": {"instruction": "Hello", "input": "", "output": "world"},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "world"}]},
        ]
    },
    "null columns": {**turns(("user", "Hello"), ("assistant", "world")), "prompt": None, "text": None, "tools": None},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_records_become_the_same_tokens(name: str, chat: Context) -> None:
    expected = one(chat, turns(("user", "Hello"), ("assistant", "world")))
    assert one(chat, OTHERS[name]) == expected
    always = Commands(low=("Be exact.",), high=("Be wild.",), share=1.0)
    plain, *commanded = encode(chat, OTHERS[name], commands=always)
    assert plain.tolist() == expected
    asked = [text(chat, sequence) for sequence in commanded]
    assert ["Hello Be exact." in asked[0], "Hello Be wild." in asked[1]] == [True, True]
    assert [said(chat, sequence) for sequence in commanded] == [said(chat, plain)] * 2


def test_of_a_prompt_in_messages_no_answer_is_learnt(chat: Context) -> None:
    record = {
        "prompt": turns(("user", "a"), ("assistant", "b"), ("user", "c"))["messages"],
        "completion": turns(("assistant", "d"))["messages"],
    }
    (tokens,) = encode(chat, record)
    assert said(chat, tokens) == ["d<|im_end|>"]


@pytest.mark.parametrize(
    ("n", "share", "most", "expected"),
    [(20, 0.25, 100, 5), (20, 0.5, 4, 4), (20, 0.0, 4, 0), (20, 0.01, 4, 1), (2, 0.5, 4, 1), (1, 0.5, 4, 0)],
)
def test_held_out(n: int, share: float, most: int, expected: int) -> None:
    validation, training = held_out(n, share, most, 3)
    assert (len(validation), sorted([*validation, *training])) == (expected, list(range(n)))
    again, other = held_out(n, share, most, 3)[1], held_out(n, share, most, 4)[1]
    assert (again.tolist(), n < 3 or other.tolist() != again.tolist()) == (training.tolist(), True)


@pytest.mark.parametrize(
    ("groups", "share", "most", "sizes"),
    [
        ([0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8], 0.25, 100, {4}),
        ([0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8], 0.4, 100, {4}),
        ([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10], 0.5, 100, {6}),
        ([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10], 0.4, 5, {4}),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11], 0.25, 100, {1}),
        ([0] * 12, 0.25, 100, {3}),  # nothing else is possible
        ([0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8], 0.4, 3, {3}),  # the fourth is in neither part
    ],
)
def test_answers_to_one_prompt_stay_together(groups: list[int], share: float, most: int, sizes: set[int]) -> None:
    for seed in range(8):
        validation, training = held_out(12, share, most, seed, np.array(groups, np.uint32))
        assert len({*validation, *training}) == len(validation) + len(training) == (12 if most > 3 else 11)
        assert len(validation) in sizes
        if len(set(groups)) > 1:
            assert not {groups[i] for i in validation} & {groups[i] for i in training}


def test_a_prompt_of_many_answers_is_as_likely_to_be_held_out_as_one_of_few() -> None:
    groups = np.array([4 * (i // 4) for i in range(200)] + list(range(200, 400)), np.uint32)
    many = [int((held_out(400, 0.25, 400, seed, groups)[0] < 200).sum()) for seed in range(300)]
    assert abs(np.mean(many) / 100 - 0.5) < 0.03


def test_the_same_prompt_is_known_by_its_text(plain: Context, tmp_path: Path) -> None:
    """The last token of "Hello wo" is another where the answer begins with "rld"."""
    lines = [
        {"prompt": "Hello wo", "completion": "rld"},
        {"prompt": "Hello wo", "completion": "man"},
        {"prompt": "Hello", "completion": " world"},
        {"prompt": "", "completion": "Hello you"},  # no prompt, so all of it is its own
        {"text": "Hello world"},
        {"prompt": "Hello", "completion": " wo"},
        {"text": "Hello world"},
    ]
    data = encode_files([jsonl(tmp_path / "d.jsonl", *lines)], Encoder(plain, 64), tmp_path)
    assert int((data[0][0] >= 0).sum()) < int((data[1][0] >= 0).sum())
    assert data.prompts().tolist() == [0, 0, 2, 3, 4, 2, 4]


def test_what_the_chat_template_reads_besides(
    qwen2: Case, open_context: Callable[[Path], Context], tmp_path: Path
) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and enable_thinking is false %}()"
        "{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}(){% endif %}{% endif %}"
    )
    context = open_context(chat_base(qwen2.base, tmp_path / "thinking.gguf", template))
    record = turns(("user", "Hello"), ("assistant", "world"))
    texts = []
    for kwargs in (None, {"enable_thinking": False}):
        ((tokens,), _) = Encoder(context, 256, chat=context.chat(kwargs)).encode(record, 0, Counts())
        texts.append(text(context, tokens))
        assert said(context, tokens) == ["world<|im_end|>"]
    assert texts == [f"<user>Hello<|im_end|><assistant>{thought}world<|im_end|>" for thought in ("", "()")]

"""Conversations: what the model is given, with which seed, and what stays of an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case
from engine_helpers import make, no_end

import autodeco_gguf as ad
from autodeco_gguf.engine.conversation import Conversation
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, Closed, InvalidInput, ModelFailed
from autodeco_gguf.model.chat import Chat

TEMPLATE = (
    "{% if messages | length > 6 %}{{ raise_exception('too long') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


@pytest.fixture(scope="module")
def chatting(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with one sequence and a chat template."""
    directory = tmp_path_factory.mktemp("chat")
    base = rewrite(qwen2.base, directory / "b.gguf", metadata={"tokenizer.chat_template": (TEMPLATE, Kind.STRING)})
    with make(ad.export(base, qwen2.heads, directory / "chat.gguf").path, n_parallel=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def long(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Another, whose template takes any number of messages."""
    directory = tmp_path_factory.mktemp("long")
    template = TEMPLATE.partition("{% endif %}")[2]
    base = rewrite(qwen2.base, directory / "b.gguf", metadata={"tokenizer.chat_template": (template, Kind.STRING)})
    with make(ad.export(base, qwen2.heads, directory / "chat.gguf").path, n_parallel=1) as engine:
        yield engine


def said(conversation: Conversation, message: str, **kwargs: Any) -> tuple[str, list[int]]:
    """The prompt and the tokens of an answer that is kept."""
    answer = conversation.ask(Request(message, **{"max_tokens": 4, **kwargs}))
    tokens = [piece.token.id for piece in answer]
    conversation.keep(answer)
    return answer.prompt, tokens


def test_what_was_said_is_in_the_next_prompt(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.", seed=1)
    first, _ = said(conversation, "One")
    assert first == "<system>Be kind.<user>One<assistant>"
    answer = conversation.messages[-1]["content"]
    second, _ = said(conversation, "Two")
    assert second == f"<system>Be kind.<user>One<assistant>{answer}<user>Two<assistant>"
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 2]


def test_what_the_context_holds_of_a_prompt_is_known(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind, and say nothing else at all.", seed=1)
    answers = [conversation.ask(Request(text, max_tokens=2)) for text in ("*", "One", "One")]
    for answer in answers:
        list(answer)
    n = len(answers[1].generation.prompt)
    assert 0 < answers[1].generation.n_reused < n - 1 == answers[2].generation.n_reused


def test_the_prompt_s_tokens_are_its_text(chatting: Engine) -> None:
    answer = Conversation(chatting, seed=1).ask(Request("Hi", max_tokens=1))
    assert b"".join(map(chatting.context.token_bytes, answer.generation.prompt)).decode() == answer.prompt
    assert list(answer.generation.prompt) == chatting.prompt("Hi")
    assert chatting.render("Hi") == answer.prompt
    list(answer)


def test_every_answer_has_a_seed_of_its_own(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=(1 << 32) - 2)
    for expected in (2**32 - 2, 0, 1):  # 2**32 - 1 is llama.cpp's name for a random one
        told, answer = conversation.next_seed, conversation.ask(Request("Hello", max_tokens=2))
        assert told == answer.seed == answer.generation.request.seed == expected
        list(answer)
        conversation.keep(answer)
    assert said(Conversation(chatting, seed=7), "Hello") == said(Conversation(chatting, seed=8), "Hello", seed=7)
    assert said(Conversation(chatting, seed=7), "Hello") != said(Conversation(chatting, seed=8), "Hello")


def test_the_seed_of_an_answer_repeats_it(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=(1 << 32) - 2)
    said(conversation, "One")
    answer = conversation.ask(Request("Two", max_tokens=8))
    tokens = [piece.token.id for piece in answer]
    again = chatting.submit(Request(answer.generation.prompt, max_tokens=8, seed=answer.seed))
    assert [piece.token.id for piece in again] == tokens


def test_the_seed_of_an_answer_that_asks_for_a_random_one_repeats_it(chatting: Engine) -> None:
    free = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8, "logit_bias": no_end(chatting)}
    answer = Conversation(chatting).ask(Request("Two", seed=(1 << 32) - 1, **free))
    tokens = [piece.token.id for piece in answer]
    again = chatting.submit(Request(answer.generation.prompt, seed=answer.seed, **free))
    assert [piece.token.id for piece in again] == tokens


@pytest.mark.parametrize("message", [[1, 2], b"hi", None])
def test_a_message_is_a_text(message: Any, chatting: Engine) -> None:
    conversation = Conversation(chatting)
    with pytest.raises(InvalidInput, match=r"^prompt of (list|bytes|NoneType), expected a text$"):
        conversation.ask(Request(message))
    with pytest.raises(InvalidInput, match=r"^max_tokens 'a', expected a whole number, at least 1$"):
        conversation.ask(Request("x", max_tokens="a"))  # type: ignore[arg-type]


def test_old_messages_make_room_with_their_answers(long: Engine) -> None:
    conversation = Conversation(long, system="Be kind.", seed=1)
    left_out = []
    for i in range(6):
        answer = conversation.ask(Request(f"Message {i} has words", max_tokens=8, logit_bias=no_end(long)))
        assert len(answer.generation.prompt) + 8 <= long.n_ctx
        left_out.append(answer.n_left_out)
        list(answer)
        conversation.keep(answer)
        assert conversation.messages[0] == {"role": "system", "content": "Be kind."}
        assert [m["role"] for m in conversation.messages[1:]] == ["user", "assistant"] * (i + 1 - sum(left_out))
    assert left_out[0] == 0
    assert sum(left_out) > 1
    assert conversation.messages[-2]["content"] == "Message 5 has words"
    assert "Message 0" not in str(conversation.messages)
    system, *said = conversation.said
    assert (system["content"], [m["role"] for m in said]) == ("Be kind.", ["user", "assistant"] * 6)
    assert [m["content"] for m in said[::2]] == [f"Message {i} has words" for i in range(6)]
    conversation.clear()
    assert conversation.said == [system]


def test_as_few_go_as_make_room(long: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in a few renderings of the template, not in one for each message that goes."""
    conversation = Conversation(long, system="Be kind.")
    messages = [{"role": role, "content": f"{role} {i}"} for i in range(100) for role in ("user", "assistant")]
    conversation.resume([{"role": "system", "content": "Be kind."}, *messages])
    rendered: list[int] = []
    tokens = Conversation._tokens

    def counted(self: Conversation, messages: list[dict[str, str]]) -> tuple[str, list[int]]:
        rendered.append(len(messages))
        return tokens(self, messages)

    monkeypatch.setattr(Conversation, "_tokens", counted)
    answer = conversation.ask(Request("Go on", max_tokens=4))
    assert len(rendered) <= 9
    system, n = conversation.messages[0], 2 * answer.n_left_out
    assert answer.messages == [system, *messages[n:], {"role": "user", "content": "Go on"}]
    assert answer.left_out == messages[:n]
    one_more = [system, *messages[n - 2 :], answer.messages[-1]]
    assert len(answer.generation.prompt) + 4 <= long.n_ctx < len(tokens(conversation, one_more)[1]) + 4


def test_what_was_said_to_a_model_that_is_given_each_message_alone(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.", remembers=False)
    talk = [{"role": role, "content": role} for role in ("user", "assistant")]
    conversation.resume(talk)
    assert (conversation.messages, conversation.said) == ([], talk)
    told(conversation, "One")
    assert [m["content"] for m in conversation.said[:3]] == ["user", "assistant", "One"]
    assert (conversation.reopen(), conversation.said) == ("One", talk)
    assert (conversation.reopen(), conversation.said) == ("user", [])
    conversation.resume([{"role": "system", "content": "Be brief."}, *talk])
    assert conversation.said == [*conversation.messages, *talk] == [*conversation._beginning, *talk]


def test_a_message_that_does_not_fit_alone_costs_nothing(long: Engine) -> None:
    conversation = Conversation(long, seed=1)
    said(conversation, "Hello")
    before = list(conversation.messages)
    with pytest.raises(InvalidInput, match=r"^the prompt has \d+ tokens, the context holds 128; raise it$"):
        conversation.ask(Request("word " * 200))
    assert conversation.messages == before


def test_what_was_said_is_forgotten_on_request(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.", seed=1)
    said(conversation, "One")
    conversation.clear()
    assert said(conversation, "Two")[0] == "<system>Be kind.<user>Two<assistant>"


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_messages_that_are_added_are_no_system_message(system: str | None, chatting: Engine) -> None:
    conversation = Conversation(chatting, system=system)
    for change in (conversation.clear, lambda: conversation.resume(conversation.messages[:0])):
        conversation.messages += [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
        assert conversation.ask(Request("Three", max_tokens=1)).prompt.endswith(
            "<user>One<assistant>Two<user>Three<assistant>"
        )
        assert conversation.system == system
        change()
        assert "One" not in conversation.ask(Request("Three", max_tokens=1)).prompt


def test_a_conversation_that_does_not_remember(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=5, remembers=False)
    for i, message in enumerate(("One", "Two")):
        answer = conversation.ask(Request(message, max_tokens=2))
        assert (answer.prompt, answer.seed) == (f"<user>{message}<assistant>", 5 + i)
        list(answer)
        conversation.keep(answer)
    conversation.resume([{"role": "user", "content": "Three"}, {"role": "assistant", "content": "Four"}])
    assert conversation.reopen() == "Three"
    assert conversation.ask(Request("Five", max_tokens=2)).prompt == "<user>Five<assistant>"


def test_pieces_are_those_of_the_engine(chatting: Engine) -> None:
    answer = Conversation(chatting, seed=3).ask(Request("Hello", max_tokens=12))
    pieces = list(answer)
    assert pieces == answer.pieces == list(answer.generation)
    assert answer.text == answer.generation.result().text


def test_an_answer_that_is_read_anew_is_noted_once(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=3)
    answer = conversation.ask(Request("Hello", max_tokens=50, logit_bias=no_end(chatting)))
    first = list(islice(answer, 3))
    assert list(islice(answer, 5))[:3] == first
    assert answer.pieces == list(islice(answer.generation, 5))
    conversation.keep(answer)
    assert conversation.messages[-1]["content"] == "".join(piece.text for piece in answer.pieces)
    answer.generation.cancel()


def test_an_answer_that_is_not_kept_is_forgotten(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=3)
    expected = said(Conversation(chatting, seed=3), "Hello")
    list(conversation.ask(Request("Something else", max_tokens=3)))
    assert said(conversation, "Hello") == expected


def test_an_answer_that_was_cancelled_is_kept_as_far_as_it_came(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=3)
    answer = conversation.ask(Request("Hello", max_tokens=50, logit_bias=no_end(chatting)))
    came = "".join(piece.text for piece in islice(answer, 5))
    answer.generation.cancel()
    assert answer.text == came
    conversation.keep(answer)
    assert conversation.messages[-1] == {"role": "assistant", "content": came}
    assert said(conversation, "Again")[0] == f"<user>Hello<assistant>{came}<user>Again<assistant>"


def test_what_was_held_back_of_a_cancelled_answer_is_kept(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=3)
    first = conversation.ask(Request("Hello", max_tokens=8, logit_bias=no_end(chatting)))
    list(first)
    stop = [f"{first.text[-3:]}?never"]
    answer = conversation.ask(Request("Hello", max_tokens=50, stop=stop, logit_bias=no_end(chatting)))
    for piece in answer:
        if len(answer.pieces) == 8:
            assert not piece.text
            answer.generation.cancel()
    assert answer.text == answer.generation.result().text == first.text
    conversation.keep(answer)
    assert conversation.messages[-1]["content"] == first.text


def test_an_answer_without_text_ends_no_talk(chatting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled before its first token: there are templates that refuse it, as Ministral 3's."""
    refusing = "{% for m in messages %}{% if not m.content %}{{ raise_exception('no text') }}{% endif %}{% endfor %}"
    other = Chat(refusing + TEMPLATE, chatting.context.vocab, chatting.context.file.path)
    for chat, text in ((chatting.chat, ""), (other, " ")):
        monkeypatch.setattr(chatting, "chat", chat)
        conversation = Conversation(chatting, seed=3)
        answer = conversation.ask(Request("Hello", max_tokens=50))
        answer.generation.cancel()
        conversation.keep(answer)
        assert conversation.messages[-1] == {"role": "assistant", "content": ""}
        assert said(conversation, "Again", max_tokens=1)[0] == f"<user>Hello<assistant>{text}<user>Again<assistant>"
        assert conversation.reopen() == "Again"
    with pytest.raises(InvalidInput, match=r"refuses: no text$"):
        conversation.ask(Request(""))


THOUGHT = "<think>\nHm\n</think>\n\nHo"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("m.content", THOUGHT),
        ("m.content if m.reasoning_content else 'x'", "Ho"),
        ("(m.reasoning or '') + m.content", "HmHo"),
    ],
)
def test_thoughts_are_given_apart(content: str, text: str, chatting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """To templates that read them, which may leave earlier ones out, as DeepSeek's and Kimi's."""
    template = "{# <think> #}{% for m in messages %}<{{ m.role }}>{{ " + content + " }}{% endfor %}"
    monkeypatch.setattr(chatting, "chat", Chat(template, chatting.context.vocab, chatting.context.file.path))
    conversation = Conversation(chatting, seed=3)
    kept = [{"role": "user", "content": "x"}, {"role": "assistant", "content": THOUGHT}]
    conversation.resume(kept)
    assert said(conversation, "x", max_tokens=1)[0] == f"<user>x<assistant>{text}<user>x"
    assert conversation.messages[:2] == kept


def test_raw_is_the_message_alone(chatting: Engine, qwen2: Case) -> None:
    conversation = Conversation(chatting, raw=True, seed=1)
    for message in ("One <|im_end|>", "Two"):
        prompt, _ = said(conversation, message)
        assert prompt == message
    answer = conversation.ask(Request("One <|im_end|>", max_tokens=1))
    expected = chatting.context.tokenize("One <|im_end|>", add_bos=True, special=False)
    assert list(answer.generation.prompt) == expected
    list(answer)


def test_a_model_without_a_template_completes(merged: Path) -> None:
    with make(merged, n_parallel=1) as engine:
        assert Conversation(engine).chat is None
        assert said(Conversation(engine, seed=1), "Hello")[0] == "Hello"
        with pytest.raises(InvalidInput, match=r"^a system message needs a chat template, and there is none$"):
            Conversation(engine, system="Be kind.")


REFUSED: dict[str, tuple[Callable[[Conversation], Any], str, str]] = {
    "long": (lambda c: c.ask(Request("word " * 200)), "n_ctx", r"the prompt has \d+ tokens, the context holds 128"),
    "not UTF-8": (lambda c: c.ask(Request("caf\udce9")), "prompt", "the prompt is not UTF-8"),
    "temperature": (lambda c: c.ask(Request("x", temperature=-1.0)), "temperature", "temperature -1.0, expected"),
    "seed": (lambda c: c.ask(Request("x", seed=-1)), "seed", "seed -1, expected"),
}


def test_what_to_do_with_a_full_context_is_one_of_three(chatting: Engine) -> None:
    with pytest.raises(InvalidInput, match=r"^overflow 'Stop', expected 'forget', 'shift' or 'stop'$"):
        Conversation(chatting, overflow="Stop")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, chatting: Engine) -> None:
    ask, key, message = REFUSED[name]
    conversation = Conversation(chatting, seed=1)
    with pytest.raises(InvalidInput, match=f"^{message}") as caught:
        ask(conversation)
    assert caught.value.key == key
    assert (conversation.messages, conversation.n_answers) == ([], 0)


def test_a_template_that_refuses(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=1)
    for _ in range(3):
        said(conversation, "x", max_tokens=1)
    with pytest.raises(InvalidInput, match=r"\.gguf: its chat template refuses: too long$") as caught:
        conversation.ask(Request("x"))
    assert caught.value.key == "tokenizer.chat_template"
    assert conversation.n_answers == 3


def test_an_answer_that_fails(chatting: Engine) -> None:
    nothing = dict.fromkeys(range(chatting.context.n_vocab), -np.inf)
    answer = Conversation(chatting, seed=1).ask(Request("x", logit_bias=nothing))
    with pytest.raises(ModelFailed, match=r"^every logit is -inf: the grammar or the biases allow no token$"):
        list(answer)


def test_an_engine_that_is_closed(merged: Path) -> None:
    engine = make(merged, n_parallel=1)
    conversation = Conversation(engine, seed=1)
    engine.close()
    with pytest.raises(Closed, match=r"the model is closed$"):
        conversation.ask(Request("x"))
    assert issubclass(Closed, AutoDecoError)


def told(conversation: Conversation, text: str, **values: Any) -> None:
    answer = conversation.ask(Request(text, max_tokens=2, temperature=0, **values))
    list(answer)
    conversation.keep(answer)


def test_the_last_message_is_asked_again_with_the_system_message_of_now(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.", seed=5)
    with pytest.raises(InvalidInput, match="there is no message yet"):
        conversation.reopen()
    told(conversation, "One")
    told(conversation, "Two")
    conversation.system = "Be brief."
    assert conversation.messages[0] == {"role": "system", "content": "Be brief."}
    kept = conversation.messages
    assert (conversation.reopen(), conversation.reopen()) == ("Two", "One")
    with pytest.raises(InvalidInput, match="there is no message yet"):
        conversation.reopen()
    conversation.messages = kept  # as where the answer failed
    assert conversation.reopen() == "Two"
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]
    conversation.system = None
    assert (conversation.system, conversation.messages[0]["content"]) == (None, "One")
    conversation.clear()
    assert conversation.n_tokens == 0
    with pytest.raises(InvalidInput, match="there is no message yet"):
        conversation.reopen()


def test_what_is_changed_while_an_answer_is_under_way_holds(chatting: Engine) -> None:
    """Only the message and its answer are added to what was said by then."""

    def said(changed: Callable[[Conversation], object], system: str | None) -> list[str]:
        conversation = Conversation(chatting, system=system, seed=1)
        for text in ("One.", "Two."):
            answer = conversation.ask(Request(text, max_tokens=2))
            if text == "Two.":
                changed(conversation)
            list(answer)
            conversation.keep(answer)
        assert conversation.said == conversation.messages
        return [message["content"] for message in conversation.said if message["role"] != "assistant"]

    assert said(lambda c: setattr(c, "system", "S"), None) == ["S", "One.", "Two."]
    assert said(lambda c: setattr(c, "system", None), "S") == ["One.", "Two."]
    assert said(lambda c: setattr(c, "system", "S"), "R") == ["S", "One.", "Two."]
    assert said(lambda c: c.clear(), "S") == ["S", "Two."]


def test_two_answers_to_the_same_talk_are_both_kept(long: Engine) -> None:
    conversation = Conversation(long, seed=1)
    told(conversation, "One")
    answers = [conversation.ask(Request(text, max_tokens=2)) for text in ("Two", "Three")]
    for answer in answers:
        list(answer)
        conversation.keep(answer)
    assert [m["content"] for m in conversation.messages[::2]] == ["One", "Two", "Three"]
    assert not conversation.gone


def test_a_message_that_is_gone_is_asked_again_too(long: Engine) -> None:
    conversation = Conversation(long, system="Be kind.", seed=1)
    for i in range(6):
        told(conversation, f"Message {i} has words " + "and words " * 5)
    assert conversation.gone
    assert [conversation.reopen()[:9] for _ in range(6)] == [f"Message {i}" for i in reversed(range(6))]
    assert conversation.said == conversation.messages == [{"role": "system", "content": "Be kind."}]
    with pytest.raises(InvalidInput, match="there is no message yet"):
        conversation.reopen()


def test_a_conversation_goes_on_from_other_messages(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.")
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    conversation.resume([{**messages[0], "name": "x"}, *messages[1:]])
    assert (conversation.messages, conversation.system) == (messages, "system")
    assert conversation.n_tokens == len(
        chatting.context.tokenize("<system>system<user>user<assistant>assistant<assistant>")
    )
    assert conversation.reopen() == "user"
    conversation.resume(iter(messages[1:]))
    assert conversation.system is None
    no_text = [{"role": "user", "content": "caf\udce9"}]
    for wrong in ([{"role": "tool", "content": "x"}], [{"role": "user"}], ["x"], [messages[1], messages[0]], no_text):
        with pytest.raises(InvalidInput, match=r"message \d .*expected an object with a"):
            conversation.resume(wrong)  # type: ignore[arg-type]
    assert conversation.messages == messages[1:]


def test_a_seed_is_given_anew(chatting: Engine) -> None:
    conversation = Conversation(chatting, seed=5)
    told(conversation, "One")
    conversation.reseed(40)
    assert [conversation.ask(Request("x", max_tokens=1)).seed, conversation.n_answers] == [40, 0]


def test_a_full_context_stops_where_that_is_wanted(long: Engine) -> None:
    conversation = Conversation(long, overflow="stop")
    words = rf"the conversation has \d+ tokens, the context holds {long.n_ctx}; raise it"
    refused = ""
    for i in range(100):
        try:
            told(conversation, f"Message {i}")
        except InvalidInput as e:
            refused = str(e)
            break
    assert re.fullmatch(words, refused)
    assert conversation.messages[0]["content"] == "Message 0"
    assert len(conversation.messages) > 4
    with pytest.raises(InvalidInput, match=r"^the prompt has \d+ tokens, the context holds 128; raise it$"):
        Conversation(long, overflow="stop").ask(Request("word " * 200))  # a message alone


def test_the_oldest_make_room_for_a_number_of_numpy_too(long: Engine) -> None:
    conversation = Conversation(long)
    conversation.resume([{"role": "user", "content": "a" * 90}, {"role": "assistant", "content": "b"}])
    for max_tokens in (20, np.int8(20)):
        answer = conversation.ask(Request("Two", max_tokens=max_tokens))
        answer.generation.cancel()
        assert len(answer.left_out) == 2


def test_a_talk_that_fills_the_context_to_the_last_token(long: Engine) -> None:
    conversation = Conversation(long, overflow="stop")
    told(conversation, "One")

    def size(text: str) -> int:
        return len(conversation._tokens([*conversation.messages, {"role": "user", "content": text}])[1])

    texts = {size("a" * n): "a" * n for n in range(2 * long.n_ctx)}
    answer = conversation.ask(Request(texts[long.n_ctx - 1]))
    answer.generation.cancel()
    assert answer.generation.prompt
    with pytest.raises(InvalidInput, match=r"^the conversation has 128 tokens, the context holds 128; raise it$"):
        conversation.ask(Request(texts[long.n_ctx]))


def test_an_answer_goes_on_where_the_context_is_full(chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.", overflow="shift")
    only = conversation.ask(Request("Zero", max_tokens=1))
    assert only.generation.request.n_keep == len(only.generation.prompt) <= chatting.n_ctx // 2
    told(conversation, "Zero")
    bias = {token: -math.inf for token in range(chatting.context.n_vocab) if chatting.context.is_eog(token)}
    answer = conversation.ask(Request("One", temperature=0, max_tokens=2 * chatting.n_ctx, logit_bias=bias))
    assert len(list(answer)) == 2 * chatting.n_ctx
    kept = chatting.context.tokenize("<system>Be kind.<user>")
    assert answer.generation.request.n_keep == len(kept)
    assert answer.generation.n_forgotten > chatting.n_ctx
    conversation.keep(answer)
    told(conversation, "Two")  # for which the long answer is left out
    assert [m["content"] for m in conversation.messages][:2] == ["Be kind.", "Two"]


@pytest.mark.parametrize("wrong", [5, b"Be kind.", "caf\udce9"])
def test_a_system_message_is_a_text(wrong: Any, chatting: Engine) -> None:
    conversation = Conversation(chatting, system="Be kind.")
    for use in (lambda: Conversation(chatting, system=wrong), lambda: setattr(conversation, "system", wrong)):
        with pytest.raises(InvalidInput, match=r"^system .*, expected a text that can be written as UTF-8$"):
            use()
    assert conversation.system == "Be kind."


def test_what_an_answer_that_goes_on_does_not_forget(long: Engine) -> None:
    """At most half of the context, and the first tokens where nothing comes before the messages."""
    answer = Conversation(long, overflow="shift").ask(Request("word " * 30, max_tokens=1))
    assert len(answer.generation.prompt) > long.n_ctx // 2 == answer.generation.request.n_keep
    conversation = Conversation(long, overflow="shift")
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    conversation.chat = Chat(bare, long.context.vocab, long.context.file.path)
    told(conversation, "One two three four five")
    other = conversation.ask(Request("Six", max_tokens=1))
    assert other.generation.request.n_keep == 4
    for one in (answer, other):
        one.generation.cancel()


def test_a_long_message_that_is_given_alone_leaves_nothing_out(long: Engine) -> None:
    conversation = Conversation(long, raw=True)
    told(conversation, "One")
    answer = conversation.ask(Request("word " * 40))
    answer.generation.cancel()
    assert len(answer.generation.prompt) > 0.75 * long.n_ctx
    assert answer.left_out == []


def test_a_system_message_needs_a_template(merged: Path) -> None:
    with make(merged, n_parallel=1) as engine:
        conversation = Conversation(engine)
        with pytest.raises(InvalidInput, match="a system message needs a chat template"):
            conversation.system = "Be kind."
        with pytest.raises(InvalidInput, match="a system message needs a chat template"):
            conversation.resume([{"role": "system", "content": "x"}])

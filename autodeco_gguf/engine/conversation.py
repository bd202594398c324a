"""A conversation with a model: what it is given for each message, and its answers as they come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index as as_int
from typing import Literal, get_args

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Piece, Request
from autodeco_gguf.engine.scheduler import common_beginning
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.model.sampling import MAX_SEED, check_seed
from autodeco_gguf.model.thoughts import apart

Message = dict[str, str]
"""With "role" and "content"."""

Overflow = Literal["forget", "shift", "stop"]

_ROOM = 0.25
"""Share of the context that old messages leave to an answer."""

_SINKS = 4
"""First tokens that always stay: much of the attention goes to them (arXiv 2309.17453)."""


class Answer:
    """An answer to a message; iterating gives its pieces as they come, and notes them.

    Attributes:
        messages: the conversation that it answers.
        prompt: their text, as the model is given it.
        generation: what draws it.
        seed: what it is drawn with; as the seed of a request with the same prompt it repeats the answer.
        left_out: what had to go of the conversation, oldest first, so that the context holds the others.
        pieces: what has come so far.
    """

    def __init__(
        self, messages: list[Message], prompt: str, generation: Generation, *, seed: int, left_out: list[Message]
    ) -> None:
        """Made by :meth:`Conversation.ask`."""
        self.messages, self.prompt, self.generation = messages, prompt, generation
        self.seed, self.left_out = seed, left_out
        self.pieces: list[Piece] = []

    @property
    def n_left_out(self) -> int:
        """Messages of the user that had to go, with their answers."""
        return sum(message["role"] == "user" for message in self.left_out)

    @property
    def text(self) -> str:
        """What has come so far; once it has ended, all of it, with what was held back till then."""
        if self.generation.finish_reason is not None:
            return self.generation.result().text
        return "".join(piece.text for piece in self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        """Wait for the pieces, from the first on.

        Raises:
            ModelFailed: llama.cpp fails, or nothing can be drawn.
        """
        for i, piece in enumerate(self.generation):
            if i == len(self.pieces):  # else it is noted: this is not the first to read it
                self.pieces.append(piece)
            yield piece
        if self.generation.finish_reason == "error":
            raise ModelFailed(str(self.generation.error))


class Conversation:
    """Messages that follow each other, each answered by a model that is given all of them.

    Where the context does not hold them all, the oldest go: a message of the user together with its answer, for good.
    The system message stays. With ``overflow="shift"`` an answer that fills the context goes on too: the older half of
    what is there is forgotten, but for the system message and, where it is the only one, the message. With "stop"
    nothing goes: the message is refused.

    Attributes:
        chat: the template they are written with; None: the model completes the last message as it stands.
        messages: what the model is given; an answer is part of it once it is kept.
        gone: what was said before and it is not given any more.
        remembers: whether a message follows what was said before; if not, each one begins anew.
        overflow: what to do where the context does not hold all: "forget" the oldest messages, "shift" as
            well in the midst of an answer, or "stop".
        seed: of the first answer; the next one's is larger by one, 0 after 2**32 - 2.
        n_answers: answers kept.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> with Engine(DEMO_MODEL, n_parallel=1) as engine:
        ...     conversation = Conversation(engine, seed=1)
        ...     answer = conversation.ask(Request("Tell a story about Mia", temperature=0, max_tokens=4))
        ...     text = "".join(piece.text for piece in answer)
        ...     conversation.keep(answer)
        >>> [message["role"] for message in conversation.messages]
        ['user', 'assistant']
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str | None = None,
        raw: bool = False,
        seed: int | None = None,
        remembers: bool = True,
        overflow: Overflow = "forget",
    ) -> None:
        """Begin one.

        Args:
            engine: what answers.
            system: a system message, which comes first.
            raw: leave the model's chat template out.
            seed: 32 bits; random when None.
            remembers: see the attribute; False for a model that was trained on one message and its answer.
            overflow: see the attribute.

        Raises:
            InvalidInput: a system message without a chat template or that is no text, or another ``overflow``.
        """
        if overflow not in get_args(Overflow):
            raise InvalidInput.of("overflow", repr(overflow), "'forget', 'shift' or 'stop'")
        self._engine = engine
        self.chat = None if raw else engine.chat
        self._beginning = self._begun(system)
        self.messages, self.remembers, self.overflow = [*self._beginning], remembers, overflow
        self.gone: list[Message] = []
        self.reseed(seed)

    def reseed(self, seed: int | None) -> None:
        """Give the next answer this seed, the one after it a seed larger by one; random when None."""
        self.seed, self.n_answers = check_seed(seed), 0

    @property
    def next_seed(self) -> int:
        """What the next answer is drawn with."""
        return (self.seed + self.n_answers) % MAX_SEED

    @property
    def system(self) -> str | None:
        """The system message; another one takes its place for what is said from then on.

        Raises:
            InvalidInput: set without a chat template, or to what is no text.
        """
        return self._beginning[0]["content"] if self._beginning else None

    @system.setter
    def system(self, text: str | None) -> None:
        said, self._beginning = self.messages[len(self._beginning) :], self._begun(text)
        self.messages = [*self._beginning, *said]

    def _begun(self, system: str | None) -> list[Message]:
        """What comes first: the system message, if there is one."""
        if system is None:
            return []
        if self.chat is None:
            raise InvalidInput("a system message needs a chat template, and there is none", key="system")
        if not isinstance(system, str) or not _is_utf8(system):
            raise InvalidInput.of("system", f"{system!r:.80}", "a text that can be written as UTF-8")
        return [{"role": "system", "content": system}]

    @property
    def said(self) -> list[Message]:
        """All that was said, the system message of now first."""
        n = len(self._beginning)
        return [*self._beginning, *self.gone, *self.messages[n:]]

    def resume(self, messages: Iterable[Message]) -> None:
        """Go on from other messages, a system message first where they have one, in the place of what was said.

        Raises:
            InvalidInput: a message that is none, or a system message that is not the first or has no chat template.
        """
        messages = [*messages]  # an iterator can be read only once
        for i, message in enumerate(messages):
            texts = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
            if (
                not texts
                or not _is_utf8(message["content"])
                or message["role"] not in (("system", "user", "assistant") if i == 0 else ("user", "assistant"))
            ):
                expected = (
                    'an object with a "role", user or assistant (of the first also system), and a "content", a text'
                )
                raise InvalidInput.of(f"message {i + 1}", f"{message!r:.80}", expected)
        kept = [{"role": message["role"], "content": message["content"]} for message in messages]
        begins = kept[:1] if kept and kept[0]["role"] == "system" else []
        if begins and self.chat is None:
            raise InvalidInput("a system message needs a chat template, and there is none", key="system")
        self._beginning, self.messages = begins, kept if self.remembers else [*begins]
        self.gone = [] if self.remembers else kept[len(begins) :]

    @property
    def n_tokens(self) -> int:
        """Tokens of what was said, as the model would be given it; 0 before anything was."""
        return len(self._tokens(self.messages)[1]) if self.messages != self._beginning else 0

    def ask(self, request: Request) -> Answer:
        """Begin to answer a message.

        Args:
            request: the message as its prompt, and how to answer. Without a seed, it gets the conversation's.

        Raises:
            InvalidInput: the chat template refuses, the message alone does not fit into the context (or, with
                ``overflow="stop"``, all of them), it is not to be written as UTF-8, or a value is out of range.
            Busy: too many wait already.
        """
        if not isinstance(request.prompt, str):
            raise InvalidInput.of("prompt", f"of {type(request.prompt).__name__}", "a text")
        request.check()
        seed = self.next_seed if request.seed is None else check_seed(request.seed)
        new, said = {"role": "user", "content": request.prompt}, self.messages
        text, tokens = self._tokens([*said, new])
        room = min(as_int(request.max_tokens or self._engine.n_ctx), int(_ROOM * self._engine.n_ctx))
        if self.overflow == "stop" and said != self._beginning and len(tokens) >= self._engine.n_ctx:
            reason = f"the conversation has {len(tokens)} tokens, the context holds {self._engine.n_ctx}; raise it"
            raise InvalidInput(reason, key="n_ctx", found=len(tokens), expected=self._engine.n_ctx)
        forgets = self.chat is not None and self.overflow != "stop"
        if forgets and said != self._beginning and len(tokens) + room > self._engine.n_ctx:
            said = self._newest(new, self._engine.n_ctx - room)
            text, tokens = self._tokens([*said, new])
        n_keep = self._n_kept(said, tokens) if self.overflow == "shift" else None
        generation = self._engine.submit(replace(request, prompt=tokens, seed=seed, n_keep=n_keep))
        n = len(self._beginning)
        left_out = self.messages[n : n + len(self.messages) - len(said)]
        return Answer([*said, new], text, generation, seed=seed, left_out=left_out)

    def _n_kept(self, said: list[Message], tokens: list[int]) -> int:
        """How much of a prompt an answer does not forget: all of a first one, else what comes before any message."""
        n = len(tokens)
        if self.chat is not None and said != self._beginning:
            empty = [*self._beginning, {"role": "user", "content": ""}]
            n = max(_SINKS, common_beginning(self._tokens(empty)[1], tokens))
        return min(n, self._engine.n_ctx // 2)

    def _tokens(self, messages: list[Message]) -> tuple[str, list[int]]:
        """What the model is given for messages, as text and as tokens."""
        text = messages[-1]["content"] if self.chat is None else _rendered(self.chat, messages)
        try:
            return text, self._engine.context.tokenize(text, add_bos=self.chat is None, special=self.chat is not None)
        except InvalidInput as e:
            raise InvalidInput("the prompt is not UTF-8", key="prompt") from e

    def _newest(self, new: Message, most: int) -> list[Message]:
        """What was said without the oldest message of the user and what follows it, or as many as have to go.

        So few that the rest has at most so many tokens together with a new message; all, where that is not enough.
        """
        begin, said = len(self._beginning), self.messages
        starts = [i for i in range(begin + 1, len(said)) if said[i]["role"] == "user"]

        def fits(start: int) -> bool:
            return len(self._tokens([*self._beginning, *said[start:], new])[1]) <= most

        start = [*starts, len(said)][bisect_left(starts, True, key=fits)]
        return [*self._beginning, *said[start:]]

    def keep(self, answer: Answer) -> None:
        """Let what comes next follow an answer, as far as it has come, after the system message of now."""
        reply = {"role": "assistant", "content": answer.text}
        if self.remembers:
            said = self.messages[len(self._beginning) :]  # as they are now, cleared meanwhile or not
            left_out = set(map(id, answer.left_out))
            self.gone = [*self.gone, *(message for message in said if id(message) in left_out)]
            said = [message for message in said if id(message) not in left_out]
            self.messages = [*self._beginning, *said, answer.messages[-1], reply]
        else:
            self.gone = [*self.gone, answer.messages[-1], reply]
        self.n_answers += 1

    def reopen(self) -> str:
        """Forget the last message and its answer, of those that are gone where no other is left; gives the message.

        Raises:
            InvalidInput: there is none.
        """
        given = self.remembers and any(message["role"] == "user" for message in self.messages)
        kept = self.messages if given else self.gone
        last = max((i for i, message in enumerate(kept) if message["role"] == "user"), default=None)
        if last is None:
            raise InvalidInput("there is no message yet")
        if given:
            self.messages = kept[:last]
        else:
            self.gone = kept[:last]
        return kept[last]["content"]

    def clear(self) -> None:
        """Forget what was said; the system message stays, and the seeds go on."""
        self.messages, self.gone = [*self._beginning], []


def _rendered(chat: Chat, messages: Sequence[Message]) -> str:
    """The text of a conversation; an answer without text is a space where the template refuses it, as Ministral 3's."""
    turns = [apart(message, chat.source) for message in messages]
    try:
        return chat.render(turns)
    except InvalidInput:
        said = [m if m["content"] or m["role"] != "assistant" else {**m, "content": " "} for m in turns]
        if said == turns:
            raise
        return chat.render(said)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

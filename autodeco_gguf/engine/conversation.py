"""A conversation with a model: what it is given for each message, and its answers as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Piece, Request
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.model.sampling import MAX_SEED, check_seed

Message = dict[str, str]
"""With "role" and "content"."""


class Answer:
    """An answer to a message; iterating gives its pieces as they come, and notes them.

    Attributes:
        messages: the conversation that it answers.
        prompt: their text, as the model is given it.
        generation: what draws it.
        pieces: what has come so far.
    """

    def __init__(self, messages: list[Message], prompt: str, generation: Generation) -> None:
        """Made by :meth:`Conversation.ask`."""
        self.messages, self.prompt, self.generation = messages, prompt, generation
        self.pieces: list[Piece] = []

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(piece.text for piece in self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        """Wait for the pieces.

        Raises:
            ModelFailed: llama.cpp fails, or nothing can be drawn.
        """
        for piece in self.generation:
            self.pieces.append(piece)
            yield piece
        if self.generation.finish_reason == "error":
            raise ModelFailed(str(self.generation.error))


class Conversation:
    """Messages that follow each other, each answered by a model that is given all of them.

    Attributes:
        chat: the template they are written with; None: the model completes the last message as it stands.
        messages: what was said; an answer is part of it once it is kept.
        seed: of the first answer; the next one's is larger by one.
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
        self, engine: Engine, *, system: str | None = None, raw: bool = False, seed: int | None = None
    ) -> None:
        """Begin one.

        Args:
            engine: what answers.
            system: a system message, which comes first.
            raw: leave the model's chat template out.
            seed: 32 bits; random when None.

        Raises:
            InvalidInput: a system message without a chat template.
        """
        self._engine = engine
        self.chat = None if raw else engine.chat
        if system is not None and self.chat is None:
            raise InvalidInput("a system message needs a chat template, and the model has none", key="system")
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.seed, self.n_answers = check_seed(seed), 0

    def ask(self, request: Request) -> Answer:
        """Begin to answer a message.

        Args:
            request: the message as its prompt, and how to answer. Without a seed, it gets the conversation's.

        Raises:
            InvalidInput: the chat template refuses, the text does not fit into the context or is not to be written as
                UTF-8, or a value is out of range.
            Busy: too many wait already.
        """
        messages = [*self.messages, {"role": "user", "content": str(request.prompt)}]
        text = messages[-1]["content"] if self.chat is None else self.chat.render(messages)
        seed = (self.seed + self.n_answers) & MAX_SEED if request.seed is None else request.seed
        return Answer(messages, text, self._engine.submit(replace(request, prompt=self._tokens(text), seed=seed)))

    def _tokens(self, text: str) -> list[int]:
        """Its tokens, if all of them fit: nothing that was said is ever left out."""
        try:
            tokens = self._engine.context.tokenize(text, add_bos=self.chat is None, special=self.chat is not None)
        except InvalidInput as e:
            raise InvalidInput("the prompt is not UTF-8", key="prompt") from e
        n, most = len(tokens), self._engine.n_ctx
        if n >= most:
            raise InvalidInput(
                f"the prompt has {n} tokens, the context holds {most}", key="n_ctx", found=n, expected=most
            )
        return tokens

    def keep(self, answer: Answer) -> None:
        """Let what comes next follow an answer, as far as it has come."""
        self.messages = [*answer.messages, {"role": "assistant", "content": answer.text}]
        self.n_answers += 1

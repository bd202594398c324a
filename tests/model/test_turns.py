"""Turns at a context: threads, streams, closing, the interpreter's end, and forks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import conftest
import pytest
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

import autodeco_gguf as ad
from autodeco_gguf.errors import Busy, Closed
from autodeco_gguf.model import token_text
from autodeco_gguf.model import turns as module
from autodeco_gguf.model.sampler import Sampler
from autodeco_gguf.model.turns import Turns, locked, undoing

load = functools.partial(conftest.load, n_threads=1, n_threads_batch=1)

PROMPT = [0, 284, 97, 12]
SECONDS = 60


@pytest.fixture(scope="module")
def llm(merged: Path) -> ad.Llama:
    return load(merged)


def text(llm: ad.Llama, seed: int, n: int = 12) -> str:
    found: Any = llm(PROMPT, max_tokens=n, seed=seed)
    return str(found["choices"][0]["text"])


def stream(llm: ad.Llama, seed: int, n: int = 12) -> Any:
    return llm(PROMPT, max_tokens=n, seed=seed, stream=True)


def joined(chunks: Any) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def in_thread(function: Callable[[], Any]) -> list[Any]:
    """What it returns or raises in another thread."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(function())
        except ad.AutoDecoError as e:
            found.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for ever"
    return found


def run_python(code: str, *args: Any, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), **env},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


# ---- threads and streams ----


def test_threads_are_served_one_after_the_other(llm: ad.Llama) -> None:
    alone = [text(llm, seed) for seed in range(4)]
    found: dict[int, set[str]] = {seed: set() for seed in range(4)}

    def work(seed: int) -> None:
        for i in range(6):
            found[seed].add(joined(stream(llm, seed)) if i % 2 else text(llm, seed))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [found[seed] for seed in range(4)] == [{one} for one in alone]


def test_nobody_is_passed_over() -> None:
    turns, order = Turns("a model"), []
    waiting: list[threading.Thread] = []

    def wait(name: str) -> None:
        turns.run(lambda: order.append(name))

    def begin() -> None:
        for name in "abc":
            waiting.append(threading.Thread(target=wait, args=(name,), daemon=True))
            waiting[-1].start()
            while len(turns._queue) < len(waiting):
                pass

    turns.run(begin)
    wait("d")  # which comes after them, though they must wake up first
    for thread in waiting:
        thread.join(SECONDS)
    assert order == ["a", "b", "c", "d"]


def test_two_streams_read_in_turn(llm: ad.Llama) -> None:
    first, second = stream(llm, 1), stream(llm, 2)
    next(first)
    whole = joined(second)
    with pytest.raises(Busy, match="this stream cannot go on, since the model was used for something else"):
        list(first)
    assert whole == text(llm, 2)
    with pytest.raises(Busy):
        list(zip(stream(llm, 1), stream(llm, 2), strict=False))


CHANGES: list[tuple[str, Callable[[ad.Llama], Any]]] = [
    ("reset", lambda m: m.reset()),
    ("eval", lambda m: m.eval([5])),
    ("predict", lambda m: m.predict([5])),
    ("load_state", lambda m: m.load_state(m.save_state())),
]


@pytest.mark.parametrize("change", [c[1] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_stream_whose_context_is_changed(llm: ad.Llama, change: Callable[[ad.Llama], Any]) -> None:
    tokens = llm.generate(PROMPT)
    next(tokens)
    change(llm)
    with pytest.raises(Busy):
        next(tokens)


def test_what_leaves_a_stream_alone(llm: ad.Llama) -> None:
    alone = text(llm, 3)
    chunks = stream(llm, 3)
    parts = [next(chunks)]
    llm.save_state()
    llm.tokenize(b"a")
    llm.set_seed(5)
    assert joined([*parts, *chunks]) == alone


def test_a_generator_that_is_read_after_another_was_made(llm: ad.Llama) -> None:
    """It was drawn with a new sampler for each token: the same random number, no grammar, no penalties."""

    def drawn(between: Callable[[], object]) -> list[int]:
        llm.set_seed(3)
        generator = llm.generate(PROMPT, temp=1.0, frequency_penalty=2.0)
        other = between()
        llm.set_seed(3)
        found = [next(generator) for _ in range(12)]
        del other
        return found

    alone = drawn(lambda: None)
    assert len(set(alone)) > 6
    assert drawn(lambda: llm.generate([1, 2])) == alone
    assert drawn(lambda: text(llm, 4)) == alone


def test_what_leaves_a_stream_alone_does_not_wait_for_it(llm: ad.Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OWN_SECONDS", 60.0)
    chunks = stream(llm, 3)
    next(chunks)
    begin = time.monotonic()
    llm.save_state()
    assert time.monotonic() - begin < 30
    chunks.close()


def test_a_stream_that_is_left_holds_nobody_up(llm: ad.Llama) -> None:
    for chunk in stream(llm, 1):
        assert chunk
        break
    assert in_thread(lambda: text(llm, 2)) == [text(llm, 2)]


def test_a_stream_of_another_thread_comes_first(llm: ad.Llama) -> None:
    alone = text(llm, 1)
    chunks = stream(llm, 1)
    begun = [next(chunks)]
    other: list[str] = []
    thread = threading.Thread(target=lambda: other.append(text(llm, 2)), daemon=True)
    thread.start()
    thread.join(0.05)
    assert not other
    assert joined([*begun, *chunks]) == alone
    thread.join(SECONDS)
    assert other == [text(llm, 2)]


def test_a_stream_that_threads_of_a_pool_read(llm: ad.Llama) -> None:
    """A request that comes to the thread of the last piece waits, as all do, while others read on."""
    alone, chunks = text(llm, 1), stream(llm, 1)
    parts = [next(chunks)]

    def read() -> None:
        while (chunk := next(chunks, None)) is not None:
            parts.append(chunk)
            time.sleep(0.01)

    reader = threading.Thread(target=read, daemon=True)
    threading.Timer(0.02, reader.start).start()
    assert text(llm, 2) != alone
    reader.join(SECONDS)
    assert joined(parts) == alone


def test_an_eval_of_another_thread_waits(llm: ad.Llama) -> None:
    """It ended the completion, though it only waited for its turn."""
    alone, others = text(llm, 1), list[threading.Thread]()

    def begin(_: Any, scores: Any) -> Any:
        if not others:
            others.append(threading.Thread(target=llm.eval, args=([5, 6],), daemon=True))
            others[0].start()
            while not llm._turns._queue:
                time.sleep(0.001)
        return scores

    found: Any = llm(PROMPT, max_tokens=12, seed=1, logits_processor=LogitsProcessorList([begin]))
    assert found["choices"][0]["text"] == alone
    others[0].join(SECONDS)
    assert not others[0].is_alive()


def test_a_stream_that_nobody_reads_on(llm: ad.Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    chunks = stream(llm, 1)
    next(chunks)
    (error,) = in_thread(lambda: text(llm, 2))
    assert isinstance(error, Busy)
    assert str(error).endswith("a stream of another thread is not read on; read it to its end, or close() it")
    chunks.close()
    assert in_thread(lambda: text(llm, 2)) == [text(llm, 2)]


def test_a_stream_of_a_thread_that_has_ended(llm: ad.Llama) -> None:
    chunks = stream(llm, 1)
    in_thread(lambda: next(chunks))
    assert text(llm, 2)
    with pytest.raises(Busy):
        next(chunks)


@pytest.mark.parametrize("use", [lambda m: text(m, 1), lambda m: m.reset(), lambda m: list(stream(m, 1))], ids=range(3))
def test_what_is_called_back_cannot_compute(llm: ad.Llama, use: Callable[[ad.Llama], Any]) -> None:
    def processor(_: Any, scores: Any) -> Any:
        use(llm)
        return scores

    def criterion(*_: Any) -> bool:
        use(llm)
        return False

    expected = text(llm, 4)
    words = r"what it calls while it generates, or a signal's handler, cannot use the same model to compute$"
    with pytest.raises(Busy, match=words):
        llm(PROMPT, logits_processor=LogitsProcessorList([processor]))
    with pytest.raises(Busy):
        llm(PROMPT, stopping_criteria=StoppingCriteriaList([criterion]))
    assert text(llm, 4) == expected


def test_what_is_called_back_may_look(llm: ad.Llama) -> None:
    def processor(ids: Any, scores: Any) -> Any:
        assert llm.detokenize(ids.tolist())
        assert llm.save_state().n_tokens == len(ids)
        return scores

    found: Any = llm(PROMPT, max_tokens=12, seed=4, logits_processor=LogitsProcessorList([processor]))
    assert found["choices"][0]["text"] == text(llm, 4)


def test_an_interrupt_leaves_no_turn_taken(llm: ad.Llama) -> None:
    def interrupt(_: Any, __: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm(PROMPT, logits_processor=LogitsProcessorList([interrupt]))
    assert in_thread(lambda: text(llm, 1)) == [text(llm, 1)]


def test_another_thread_may_look_at_the_trace(llm: ad.Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native record comes before the token's text."""
    seen: list[Any] = []

    def sample(*args: Any) -> int:
        token = draw(*args)
        seen.extend(in_thread(lambda: (llm.trace[-1].id, repr(llm.trace), llm.trace[-1].text)))
        return token

    draw = Sampler.sample
    monkeypatch.setattr(Sampler, "sample", sample)
    text(llm, 1, 3)
    assert [(id_, piece) for id_, _, piece in seen] == [(t.id, t.text) for t in llm.trace]


# ---- closing ----

USES: list[tuple[str, Callable[[ad.Llama], Any]]] = [
    ("call", lambda m: m("a")),
    ("stream", lambda m: list(m("a", stream=True))),
    ("create_completion", lambda m: m.create_completion([1])),
    ("chat", lambda m: m.create_chat_completion([{"role": "user", "content": "a"}])),
    ("generate", lambda m: next(m.generate([1]))),
    ("sample", lambda m: m.sample()),
    ("eval", lambda m: m.eval([1])),
    ("reset", lambda m: m.reset()),
    ("predict", lambda m: m.predict([1])),
    ("embed", lambda m: m.embed("a")),
    ("create_embedding", lambda m: m.create_embedding("a")),
    ("save_state", lambda m: m.save_state()),
    ("tokenize", lambda m: m.tokenize(b"a")),
    ("detokenize", lambda m: m.detokenize([1])),
    ("token_bytes", lambda m: m.token_bytes(1)),
    ("tokenizer", lambda m: m.tokenizer().encode("a")),
    ("tokenizer_", lambda m: m.tokenizer_.encode("a")),
    ("sizes", lambda m: m.n_ctx()),
    ("n_embd", lambda m: m.n_embd()),
    ("n_vocab", lambda m: m.n_vocab()),
    ("token_eos", lambda m: m.token_eos()),
    ("token_bos", lambda m: m.token_bos()),
    ("token_nl", lambda m: m.token_nl()),
    ("pooling_type", lambda m: m.pooling_type()),
    ("ctx", lambda m: m.ctx),
    ("model", lambda m: m.model),
]


@pytest.fixture(scope="module")
def closed(merged: Path) -> ad.Llama:
    """Without the checks that this is about, many of the calls above end the process."""
    llm = load(merged, embedding=True)
    llm(PROMPT, max_tokens=2)
    llm.close()
    llm.close()
    return llm


@pytest.mark.parametrize("use", [u[1] for u in USES], ids=[u[0] for u in USES])
def test_after_close(closed: ad.Llama, use: Callable[[ad.Llama], Any]) -> None:
    with pytest.raises(Closed, match=r"the model is closed$") as caught:
        use(closed)
    assert caught.value.file == closed.model_path


def test_a_state_after_close(merged: Path) -> None:
    llm = load(merged)
    state = llm.save_state()
    llm.close()
    with pytest.raises(Closed):
        llm.load_state(state)


def test_the_trace_outlives_the_model(merged: Path) -> None:
    llm = load(merged)
    shown = text(llm, 5)
    before = list(llm.trace)
    llm.close()
    assert list(llm.trace) == before
    assert b"".join(token.text for token in before).decode(errors="ignore") == shown


def test_close_while_another_thread_tokenizes(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, tokenizing, freed = load(merged), threading.Event(), threading.Event()
    tokenize = token_text.core.vocab_tokenize

    def slow(*args: Any) -> Any:
        tokenizing.set()
        assert not freed.wait(0.1)
        return tokenize(*args)

    monkeypatch.setattr(token_text.core, "vocab_tokenize", slow)
    llm._stack.callback(freed.set)
    closing = threading.Thread(target=lambda: tokenizing.wait() and llm.close(), daemon=True)
    closing.start()
    assert llm.tokenize(b"abc")
    closing.join(SECONDS)
    with pytest.raises(Closed):
        llm.tokenize(b"abc")


@pytest.mark.parametrize(
    "use", [lambda m: m.pooling_type(), lambda m: m.n_vocab(), lambda m: m.token_bos()], ids=range(3)
)
def test_what_is_asked_while_it_is_freed(merged: Path, use: Callable[[ad.Llama], Any]) -> None:
    """It read memory that was freed already."""
    llm, asked = load(merged), list[Any]()
    llm._stack.callback(lambda: asked.extend(in_thread(lambda: use(llm))))
    assert use(llm) is not None
    llm.close()
    assert [type(answer) for answer in asked] == [Closed]


def test_close_while_another_thread_generates(merged: Path) -> None:
    llm = load(merged)
    begun = threading.Event()
    found: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                text(llm, 1, 200)
                begun.set()
        except Closed as e:
            found.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(SECONDS)
    llm.close()
    thread.join(SECONDS)
    assert [str(e) for e in found] == [f"{llm.model_path}: the model is closed"]


def test_close_while_another_thread_begins(merged: Path) -> None:
    llm = load(merged)
    begun, goes_on = threading.Event(), threading.Event()
    found: list[object] = []

    class Slow(dict[str, float]):
        def items(self) -> Any:
            begun.set()
            assert goes_on.wait(SECONDS)
            return super().items()

    def work() -> None:
        try:
            found.append(llm("x", max_tokens=1, logit_bias=Slow({"5": 1.0})))
        except Closed as e:
            found.append(str(e))

    threads = [threading.Thread(target=target, daemon=True) for target in (work, llm.close)]
    threads[0].start()
    assert begun.wait(SECONDS)
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive()  # what the other reads is still there
    goes_on.set()
    for thread in threads:
        thread.join(SECONDS)
    assert found == [f"{llm.model_path}: the model is closed"]
    with pytest.raises(Closed):
        llm("x", max_tokens=1)


def test_close_in_the_midst_of_a_stream(merged: Path) -> None:
    llm = load(merged)
    chunks = stream(llm, 1)
    next(chunks)
    llm.close()
    with pytest.raises(Closed):
        next(chunks)


def test_close_by_what_is_called_back(merged: Path) -> None:
    """As a handler of a signal may do it: freed when the call ends, not under its feet."""
    llm = load(merged)

    def processor(_: Any, scores: Any) -> Any:
        llm.close()
        return scores

    with pytest.raises(Closed):
        llm(PROMPT, max_tokens=4, logits_processor=LogitsProcessorList([processor]))
    with pytest.raises(Closed):
        llm.n_ctx()


# ---- the process ----

EXIT = """
import sys, threading
from conftest import load
llm = load(sys.argv[1])
begun = threading.Event()
def work():
    while True:
        for token in llm.generate([0, 284, 97] * 60):
            begun.set()
            if llm.n_tokens > 220:
                break
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_the_interpreter_ends_while_a_thread_generates(merged: Path) -> None:
    done = run_python(EXIT, merged)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_at_the_end_nobody_has_another_turn() -> None:
    turns = Turns("a model")
    turns.at_exit()
    thread = threading.Thread(target=lambda: turns.run(lambda: None), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    turns._stopped = False  # let it go
    turns._gate.release()
    thread.join(SECONDS)
    assert not thread.is_alive()


FORK = """
import os, signal, sys
from conftest import load
from autodeco_gguf import AutoDecoError
two, one = {"n_threads": 2, "n_threads_batch": 2}, {}
llm, single = load(sys.argv[1], **two), load(sys.argv[1])
for model in (llm, single):
    model([0, 284, 97] * 9, max_tokens=3, seed=1)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(30)
for make in (lambda: llm, lambda: load(sys.argv[1], **two), lambda: single, lambda: load(sys.argv[1])):
    try:
        print(make()([1])["usage"]["prompt_tokens"])
    except AutoDecoError as e:
        print(type(e).__name__, e)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork(merged: Path) -> None:
    done = run_python(FORK, merged, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr[-500:]
    lines = done.stdout.splitlines()
    expected = (
        "ModelFailed llama.cpp ran with several threads before this process forked, and would hang here with 2; start "
        "processes with multiprocessing.get_context('spawn'), or load with n_threads=1 and n_threads_batch=1"
    )
    assert lines == [expected, expected, "1", "1"]


def test_a_fork_in_the_midst_of_another_threads_turn() -> None:
    turns = Turns("a model")
    turns.run(lambda: in_thread(turns.after_fork))  # what the child of a fork by that thread runs
    with pytest.raises(ad.ModelFailed, match="the process forked while the model was computing; start processes with"):
        turns.check()


def test_a_stream_that_goes_on_in_the_child_of_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns("a model")
    turns.n_threads = 2
    stream = turns.stream(i for i in range(3))
    assert next(stream) == 0
    monkeypatch.setattr(module, "_threads_lost", True)
    with pytest.raises(ad.ModelFailed, match="would hang here with 2; start processes with"):
        next(stream)


# ---- interrupts, of which test_interrupts.py has more ----


def test_undoing_comes_after_all() -> None:
    order: list[str] = []
    assert undoing(lambda: order.append("do") or 5, lambda: order.append("undo")) == 5  # type: ignore[func-returns-value]
    assert order == ["do", "undo", "undo"]
    with pytest.raises(ZeroDivisionError):
        undoing(lambda: 1 // 0, lambda: order.append("undone"))
    assert order[3:] == ["undone", "undone"]


def test_a_handler_leaves_the_lock_to_whom_it_came_upon() -> None:
    changed = threading.Condition()

    def work() -> bool:
        locked(changed, changed.notify_all)
        return bool(in_thread(lambda: changed.acquire(blocking=False))[0])

    assert not locked(changed, work)
    assert in_thread(lambda: changed.acquire(blocking=False)) == [True]


# ---- generators ----


def test_a_stream_passes_on_what_it_is_sent() -> None:
    def steps() -> Generator[Any, Any, None]:
        yield (yield 1)

    found = Turns("a model").stream(steps())
    assert [next(found), found.send("sent")] == [1, "sent"]
    assert list(found) == []

"""/v1/completions: prompts in all forms, echo, and scoring as lm-eval does it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from family_helpers import FAMILIES
from server_helpers import Api, Loop, events, ok, refused, serving, text_of

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.server.completions import _mean_logprob, _n_unseen

PROMPT = "Tell a story about Mia"


def tokens_of(api: Api, text: str) -> list[int]:
    return list(ok(api.post("/tokenize", {"content": text}))["tokens"])


def test_choices_by_prompt(api: Api) -> None:
    fields: dict[str, Any] = {"n": 2, "best_of": 4, "max_tokens": 3, "seed": 1}
    answer = ok(api.compl(prompt=["example 1", "example 2"], **fields))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for i, prompt in enumerate(["example 1", "example 2"]):
        alone = ok(api.compl(prompt=prompt, **fields))["choices"]
        assert [c["text"] for c in answer["choices"][2 * i : 2 * i + 2]] == [c["text"] for c in alone]
    assert answer["usage"]["completion_tokens"] > 4 * 3  # all that was drawn


def test_the_best_are_the_most_probable(api: Api) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "seed": 2, "temperature": 1.5, "max_tokens": 8}

    def mean(choice: Any) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    drawn = ok(api.compl(**fields, n=6, logprobs=0))["choices"]
    wanted = sorted(drawn, key=mean, reverse=True)[:2]
    assert wanted != drawn[:2]
    best = ok(api.compl(**fields, n=2, best_of=6, logprobs=0))["choices"]
    assert list(map(mean, best)) == pytest.approx(list(map(mean, wanted)), abs=1e-3)
    unasked = ok(api.compl(**fields, n=2, best_of=6))["choices"]  # without logprobs
    assert [choice["text"] for choice in unasked] == [choice["text"] for choice in wanted]


def test_prompts_as_tokens(api: Api) -> None:
    tokens = tokens_of(api, PROMPT)
    as_text, as_tokens = (text_of(api.compl(prompt=p, seed=1)) for p in (PROMPT, tokens))
    assert as_text == as_tokens
    several = ok(api.compl(prompt=[tokens, [5, 6]], seed=1))["choices"]
    assert [choice["text"] for choice in several] == [as_text, text_of(api.compl(prompt=[5, 6], seed=1))]
    assert ok(api.compl(prompt=[[1, 2], [3]], max_tokens=1))["usage"]["prompt_tokens"] == 3


def test_many_prompts_with_few_sequences(api: Api) -> None:
    prompts = [f"Tell a story about {name}" for name in ("Mia", "Hugo", "Hanna")] * 7
    answer = ok(api.compl(prompt=prompts, seed=1, max_tokens=4))
    assert len(answer["choices"]) == 21
    assert len({choice["text"] for choice in answer["choices"][::3]}) == 1


def test_greedy_and_its_alternatives(api: Api) -> None:
    body: dict[str, Any] = {
        "prompt": "Choose between A, B and C.\n\n",
        "max_tokens": 1,
        "logprobs": 5,
        "temperature": 0,
    }
    (choice,) = ok(api.compl(**body, autodeco=True))["choices"]
    assert choice["autodeco"]["source"] == "client"
    logprobs = choice["logprobs"]
    (top,) = logprobs["top_logprobs"]
    assert list(top.values()) == sorted(top.values())
    assert len(top) == 5
    assert top[choice["text"]] == logprobs["token_logprobs"][0] == max(top.values())
    assert all(-100 < value < 0 for value in top.values())


@pytest.mark.parametrize(("n", "tops"), [(0, None), (1, 1), (5, 5)])
def test_the_number_of_alternatives(api: Api, n: int, tops: int | None) -> None:
    logprobs = ok(api.compl(prompt=PROMPT, logprobs=n, max_tokens=2, temperature=0))["choices"][0]["logprobs"]
    assert [top and len(top) for top in logprobs["top_logprobs"]] == [tops, tops]
    assert logprobs["text_offset"][0] == 0


def test_no_logprobs(api: Api) -> None:
    assert ok(api.compl(prompt=PROMPT, logprobs=None, max_tokens=2))["choices"][0]["logprobs"] is None


def test_scoring_a_text(api: Api) -> None:
    body = {"prompt": "Your answer: Yes", "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = ok(api.compl(**body))
    (choice,) = answer["choices"]
    logprobs, n = choice["logprobs"], len(tokens_of(api, "Your answer: Yes"))
    assert {len(logprobs[name]) for name in logprobs} == {n}
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(isinstance(value, float) for value in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]) == choice["text"] == "Your answer: Yes"
    assert answer["usage"] == {"prompt_tokens": n, "completion_tokens": 0, "total_tokens": n}
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)


def test_lm_eval_s_own_body(api: Api) -> None:
    """lm-evaluation-harness sums token_logprobs[ctxlen:-1], and calls a token greedy if it equals max(top.values())."""
    context = tokens_of(api, "Tell a story about Mia with 4")
    texts = [[*context, tokens_of(api, word)[0]] for word in ("7", " and")]
    body = {"prompt": texts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    choices = ok(api.compl(**body))["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    sums = []
    for choice, text in zip(choices, texts, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(text) + 1  # no beginning of sequence was added
        sums.append(sum(logprobs["token_logprobs"][len(context) : -1]))
        for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
            assert value <= max(top.values())
        assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())  # greedy: equal floats
    assert sums[0] > sums[1]  # a number goes on with a digit


def test_a_scored_token_is_the_drawn_one(api: Api) -> None:
    """What is drawn, and the same text as a prompt, have the same log-probabilities."""
    drawn = ok(api.compl(prompt=PROMPT, seed=1, max_tokens=6, logprobs=3))["choices"][0]["logprobs"]
    text = PROMPT + "".join(drawn["tokens"])
    scored = ok(api.compl(prompt=text, echo=True, logprobs=3, max_tokens=0))["choices"][0]["logprobs"]
    n = len(drawn["tokens"])
    assert scored["tokens"][-n:] == drawn["tokens"]
    assert scored["token_logprobs"][-n:] == pytest.approx(drawn["token_logprobs"], abs=5e-2)


def test_echo(api: Api) -> None:
    plain = text_of(api.compl(prompt=PROMPT, seed=1, max_tokens=4))
    assert text_of(api.compl(prompt=PROMPT, seed=1, max_tokens=4, echo=True)) == PROMPT + plain
    chunks = events(api.compl(prompt=PROMPT, seed=1, max_tokens=4, echo=True, stream=True))[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == PROMPT + plain
    assert text_of(api.compl(prompt=PROMPT, max_tokens=0, echo=True)) == PROMPT
    assert text_of(api.compl(prompt=PROMPT, max_tokens=0)) == ""
    assert text_of(api.compl(prompt=tokens_of(api, PROMPT), max_tokens=0, echo=True)) == PROMPT


def test_an_echo_of_several_prompts(api: Api) -> None:
    prompts = ["example 1", "another 2"]
    choices = ok(api.compl(prompt=prompts, n=2, max_tokens=0, echo=True))["choices"]
    assert [choice["text"] for choice in choices] == [prompts[0]] * 2 + [prompts[1]] * 2


@pytest.mark.parametrize("prompt", [["a", ""], [[5], []]])
def test_which_of_several_prompts_is_empty(api: Api, prompt: Any) -> None:
    refused(api.compl(prompt=prompt), "prompt[1]", says="prompt[1]: the prompt is empty")


def test_a_prompt_that_its_tokens_do_not_spell() -> None:
    assert (_n_unseen([b"<s>", b" a"], "a"), _n_unseen([b"<s>", b"A"], "a")) == (4, 0)


def test_of_answers_of_different_lengths_the_mean_counts() -> None:
    def answer(*logprobs: float) -> Any:
        return SimpleNamespace(result=SimpleNamespace(trace=[SimpleNamespace(logprob=p) for p in logprobs]))

    answers = [answer(-2.0), answer(-1.0, -1.0, -1.0), answer()]
    assert list(map(_mean_logprob, answers)) == [-2.0, -1.0, 0.0]


def test_echo_of_an_emoji(api: Api) -> None:
    choice = ok(api.compl(prompt="🙂 é", echo=True, logprobs=2, max_tokens=0))["choices"][0]
    assert choice["text"] == "🙂 é"
    assert choice["logprobs"]["tokens"][0] == "bytes:\\xf0"
    offsets = dict(zip(choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"], strict=True))
    assert [*offsets] == [0, 1, 2]  # the last token that begins there
    assert offsets[1] == " "


def test_offsets_behind_a_beginning_that_is_no_text(loop: Loop) -> None:
    with Engine(FAMILIES / "mistral.gguf", n_parallel=1, n_ctx=64, heads_enabled=()) as engine:
        service = serving(engine)
        choice = ok(Api(service, loop).compl(prompt="hello", echo=True, logprobs=0, max_tokens=0))["choices"][0]
        service.driver.close()
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert choice["text"] == "hello"
    assert tokens[0] == "<s>"  # and a space, which the text has not either
    assert [(t, o) for t, o in zip(tokens, offsets, strict=True) if t.isalpha()] == [
        (c, i) for i, c in enumerate("hello")
    ]


def test_a_stream(api: Api) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "seed": 1, "logprobs": 1, "autodeco": True}
    whole = ok(api.compl(**fields))["choices"][0]
    *chunks, done = events(api.compl(**fields, stream=True))
    assert done == "[DONE]"
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["finish_reason"] == whole["finish_reason"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [x for part in parts for x in part["logprobs"][name]] == whole["logprobs"][name]
    assert [x for part in parts for x in part["autodeco"]["top_p"]] == whole["autodeco"]["top_p"]


def test_usage_of_a_stream(api: Api) -> None:
    options = {"include_usage": True}
    *_, usage, _done = events(api.compl(prompt=PROMPT, max_tokens=2, stream=True, stream_options=options))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2


def test_a_stop_that_does_not_come(api: Api) -> None:
    body = {"prompt": "Here is the English alphabet: ABC", "stop": ["DEFGHIJ"], "temperature": 0, "max_tokens": 20}
    chunks = events(api.compl(**body, stream=True, logprobs=1, autodeco=True))[:-1]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == text_of(api.compl(**{**body, "stop": None}))


@pytest.mark.parametrize("echo", [False, True])
def test_alternatives_beside_those_of_a_trace(echo: bool, api: Api) -> None:
    body = {"prompt": "Tell a story", "max_tokens": 3, "echo": echo, "autodeco": {"tokens": True, "top": 5}}
    for n in (0, 2):
        choice = ok(api.compl(**body, logprobs=n))["choices"][0]
        assert {len(top or ()) for top in choice["logprobs"]["top_logprobs"][echo:]} == {n}
        assert {len(token["alternatives"]) for token in choice["autodeco"]["tokens"]} == {5}

"""Who decides: request, heads, file, default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_helpers import STORY, Api, Loop, ok, refused, serving, text_of

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.server.decide import Decider, seed_of
from autodeco_gguf.server.schemas import SamplingBody

T_HEADS_P_CLIENT = {"temperature": "heads", "top_p": "client"}
CLIENT, HEADS = "client", "heads"


def decided(api: Api, **fields: Any) -> dict[str, Any]:
    return dict(ok(api.chat(STORY, seed=1, autodeco=True, **fields))["choices"][0]["autodeco"])


@pytest.mark.parametrize(
    ("fields", "source", "temperature", "top_p"),
    [
        ({}, HEADS, None, None),
        ({"temperature": None}, HEADS, None, None),
        ({"temperature": None, "top_p": None}, HEADS, None, None),
        ({"temperature": 0}, CLIENT, 0, 1),
        ({"temperature": 0.75}, CLIENT, 0.75, 1),
        ({"temperature": 0.75, "top_p": 0.5}, CLIENT, 0.75, 0.5),
        ({"top_p": 0.5}, T_HEADS_P_CLIENT, None, 0.5),
        ({"heads": "on", "temperature": 0.75}, {"temperature": CLIENT, "top_p": HEADS}, 0.75, None),
        ({"heads": "off"}, "default", 1, 1),
        ({"heads": "off", "temperature": 0.5}, {"temperature": CLIENT, "top_p": "default"}, 0.5, 1),
        ({"heads": "temperature"}, {"temperature": HEADS, "top_p": "default"}, None, 1),
        ({"heads": "top_p"}, {"temperature": "default", "top_p": HEADS}, 1, None),
        ({"heads": "top_p", "temperature": 0.5}, {"temperature": CLIENT, "top_p": HEADS}, 0.5, None),
    ],
)
def test_precedence(api: Api, fields: Any, source: Any, temperature: float | None, top_p: float | None) -> None:
    found = decided(api, **fields)
    assert found["source"] == source
    for name, fixed in (("temperature", temperature), ("top_p", top_p)):
        if fixed is None:
            assert len(set(found[name])) > 10  # predicted
        else:
            assert set(found[name]) == {fixed}


def test_the_heads_are_locked_in(engine: Engine, loop: Loop) -> None:
    service = serving(engine, sampling="heads")
    api = Api(service, loop)
    expected = decided(api)
    assert expected["source"] == HEADS
    for fields in ({"temperature": 0}, {"temperature": 0.7}, {"top_p": 0.9}, {"temperature": 1, "top_p": 1}):
        assert decided(api, **fields) == expected
    assert decided(api, heads="off", temperature=0.5)["temperature"][0] == 0.5  # from a client that knows of them
    assert ok(api.get("/props"))["sampling"] == "heads"
    service.driver.close()


@pytest.fixture
def with_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Without heads, of a file that recommends something."""
    with Engine(DEMO_MODEL, n_parallel=2, heads_enabled=()) as engine:
        given = {"general.sampling.temp": 0.5, "general.sampling.top_k": 3, "general.sampling.top_p": 0.75}
        base = engine.context.file.base()
        get = base.get
        monkeypatch.setattr(type(base), "get", lambda self, key, *rest: given.get(key, get(key, *rest)))
        engine.given = given  # type: ignore[attr-defined]
        yield engine


def test_the_file_decides_where_no_head_does(with_file: Engine, loop: Loop) -> None:
    service = serving(with_file)
    api = Api(service, loop)
    found = decided(api)
    assert (found["source"], set(found["temperature"]), set(found["top_p"])) == ("file", {0.5}, {0.75})
    assert decided(api, temperature=0)["source"] == CLIENT
    assert decided(api, top_p=1)["source"] == {"temperature": "file", "top_p": CLIENT}
    assert ok(api.get("/props"))["defaults"] == {"source": "file", "temperature": 0.5, "top_p": 0.75, "top_k": 3}
    explicit = {"temperature": 0.5, "top_p": 0.75, "top_k": 3}
    assert text_of(api.chat(STORY, seed=5)) == text_of(api.chat(STORY, seed=5, **explicit))
    refused(api.chat(heads="on"), "heads", says="the model has no heads")
    service.driver.close()


def test_a_file_that_recommends_nonsense(with_file: Engine) -> None:
    with_file.given["general.sampling.temp"] = 1e9  # type: ignore[attr-defined]
    with pytest.raises(BadFile, match=r"general\.sampling.*temperature 1000000000"):
        Decider(with_file, "client")


def test_heads_that_are_not_there_cannot_be_locked_in(with_file: Engine) -> None:
    with pytest.raises(InvalidInput, match="has none"):
        Decider(with_file, "heads")


def test_the_file_counts_only_without_heads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autodeco_gguf.server.decide.file_sampling", lambda _: {"top_k": 3, "temperature": 0.5})
    decider = Decider(engine, "client")
    assert "top_k" not in decider.decide(SamplingBody()).sampling
    off = decider.decide(SamplingBody(heads="off"))
    assert (off.sampling["top_k"], off.sampling["temperature"]) == (3, 0.5)
    assert off.sources == {"temperature": "file", "top_p": "default"}


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_openai_s_penalties_look_at_all_of_the_answer(engine: Engine, name: str) -> None:
    def last_n(**fields: Any) -> int | None:
        return Decider(engine, "client").decide(SamplingBody(**fields)).sampling.get("penalty_last_n")

    assert last_n(**{name: 0.5}) == engine.n_ctx
    assert last_n(**{name: 0.5}, repeat_last_n=8) == 8
    assert last_n(**{name: 0}) is last_n(repeat_penalty=1.1) is None


def test_seeds() -> None:
    assert [seed_of(5, i) for i in range(3)] == [5, 6, 7]
    assert seed_of(2**32 - 2, 1) == 0
    assert 0 <= seed_of(None) < 2**32 - 1

"""Fields of other servers' APIs: refused with what to use, never passed over where they would change the answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_core import PydanticCustomError
from server_helpers import STORY, Api, ok, refused, text_of

from autodeco_gguf.server.foreign import ELSEWHERE, refuse_fields

ASKING: dict[str, Any] = {
    "guided_json": {"type": "object"},
    "guided_choice": ["a", "b"],
    "guided_regex": "a+",
    "guided_grammar": 'root ::= "a"',
    "structured_outputs": {"json": {"type": "object"}},
    "json_schema": {"type": "object"},
    "format": "json",
    "regex": "a+",
    "ebnf": 'root ::= "a"',
    "repetition_penalty": 1.2,
    "penalty_last_n": 8,
    "mirostat_mode": 2,
    "typical": 0.5,
    "length_penalty": 2.0,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "smoothing_factor": 0.3,
    "skip_special_tokens": False,
    "t_max_predict_ms": 100,
    "enable_thinking": False,
    "thinking_budget": 0,
    "lora": [{"id": 0, "scale": 1.0}],
    "n_predict": 5,
    "num_predict": 5,
    "max_new_tokens": 5,
    "n_probs": 3,
    "min_tokens": 5,
    "ignore_eos": True,
    "stop_token_ids": [1],
    "bad_words": ["a"],
    "allowed_token_ids": [1],
    "tfs_z": 0.5,
    "top_a": 0.1,
    "dry_multiplier": 0.8,
    "dynatemp_range": 0.5,
    "use_beam_search": True,
    "prompt_logprobs": 1,
    "truncate_prompt_tokens": 8,
    "include_stop_str_in_output": True,
    "continue_final_message": True,
    "add_generation_prompt": False,
    "chat_template": "{{ messages }}",
    "documents": [{"title": "a"}],
}

ASKING_NOTHING: dict[str, Any] = {
    **dict.fromkeys(ELSEWHERE),
    "guided_choice": [],
    "guided_json": {},
    "repetition_penalty": 1.0,
    "n_predict": -1,
    "min_tokens": 0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "tfs_z": 1,
    "typical": 1.0,
    "length_penalty": 1.0,
    "mirostat_mode": 0,
    "skip_special_tokens": True,
    "t_max_predict_ms": -1,
    "lora": [],
    "add_generation_prompt": True,
    "continue_final_message": False,
    "documents": [],
}


def test_the_table_is_whole() -> None:
    assert set(ASKING) == set(ELSEWHERE)


@pytest.mark.parametrize("name", sorted(ASKING))
def test_what_would_change_the_answer(api: Api, name: str) -> None:
    fields = {name: ASKING[name]}
    for response in (api.chat(**fields), api.compl(prompt="x", **fields), api.resp(input="x", **fields)):
        refused(response, name, says=f"not supported: {ELSEWHERE[name]}")


def test_what_asks_for_nothing(api: Api) -> None:
    assert text_of(api.chat(STORY, seed=1, **ASKING_NOTHING)) == text_of(api.chat(STORY, seed=1))
    ok(api.chat(STORY, max_tokens=1, best_of=1))
    ok(api.compl(prompt="x", max_tokens=1, **ASKING_NOTHING))
    ok(api.resp(input="x", max_output_tokens=1, **ASKING_NOTHING))


def test_what_asks_for_something_with_0(api: Api) -> None:
    refused(api.chat(prompt_logprobs=0), "prompt_logprobs")
    refused(api.chat(best_of=2), "best_of")


def test_unknown_fields_are_passed_over(api: Api) -> None:
    others = {"foo": 1, "cache_prompt": True, "service_tier": "auto", "store": True, "metadata": {"a": "b"}}
    assert text_of(api.chat(STORY, seed=1, **others)) == text_of(api.chat(STORY, seed=1))


@pytest.mark.parametrize(
    "body", [None, [], "x", {}, {"a": None}, {"a": []}, {"a": False}, {"a": 0}, {"truncation": "disabled"}]
)
def test_bodies_that_pass(body: Any) -> None:
    assert refuse_fields(body, {"a": "no", "truncation": "no"}) == body


def test_a_reason() -> None:
    with pytest.raises(PydanticCustomError, match="not supported: use b"):
        refuse_fields({"a": 1}, {"a": "use b"})

"""Fields that ask for what there is not: refused, with what to use, rather than passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autodeco_gguf.server.fields import refused

FORMAT = "use response_format, or grammar"
IN_CHAT = "use /v1/chat/completions"
_NO_SUCH_STEP = "tokens are not drawn that way here"
_MODEL_ENDS = "the model ends an answer, or a limit of tokens does"

ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("guided_json", "guided_choice", "guided_regex", "guided_grammar", "structured_outputs"), FORMAT),
    **dict.fromkeys(("json_schema", "format", "regex", "ebnf"), FORMAT),
    "repetition_penalty": "use repeat_penalty",
    "penalty_last_n": "use repeat_last_n",
    "mirostat_mode": "use mirostat",
    "typical": "use typical_p",
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "use max_tokens"),
    "n_probs": "use logprobs",
    **dict.fromkeys(("min_tokens", "ignore_eos"), _MODEL_ENDS),
    "stop_token_ids": "use stop",
    **dict.fromkeys(("bad_words", "allowed_token_ids"), "use logit_bias"),
    **dict.fromkeys(("tfs_z", "top_a", "dry_multiplier", "dynatemp_range", "use_beam_search"), _NO_SUCH_STEP),
    **dict.fromkeys(("length_penalty", "epsilon_cutoff", "eta_cutoff", "smoothing_factor"), _NO_SUCH_STEP),
    "skip_special_tokens": "they never stand in an answer",
    "t_max_predict_ms": _MODEL_ENDS,
    **dict.fromkeys(("enable_thinking", "thinking_budget"), "use chat_template_kwargs, or reasoning_effort"),
    "lora": "there are no adapters of that kind",
    "prompt_logprobs": "use /v1/completions with echo and logprobs",
    "truncate_prompt_tokens": "a prompt is never cut",
    "include_stop_str_in_output": "a stop never ends in the text",
    "continue_final_message": "an answer is a message of its own; use /v1/completions",
    "add_generation_prompt": "an answer is a message of its own; use /v1/completions",
    "chat_template": "the model's own is used",
    "documents": "put them into a message",
}
"""Fields of other servers' OpenAI routes that would change the answer."""

_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("n_predict", "num_predict", "t_max_predict_ms"), -1),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "tfs_z", "length_penalty", "typical", "typical_p"), 1),
    **dict.fromkeys(("n", "best_of"), 1),
    "tool_choice": "auto",
    "skip_special_tokens": True,
    # where 0, or false, asks for something
    **dict.fromkeys(("temperature", "top_p", "top_k", "seed", "prompt_logprobs", "enable_thinking", "thinking_budget")),
    "add_generation_prompt": True,
    "truncation": "disabled",
}
"""Values that ask for nothing, beside null and what is empty, and beside false and 0 for all others."""


def refuse_fields(values: Any, reasons: Mapping[str, str]) -> Any:
    """Return a body as it came.

    Raises:
        PydanticCustomError: it has a field of these with a value that asks for something.
    """
    for name, reason in reasons.items():
        if isinstance(values, dict) and values.get(name) not in (None, [], {}, "", _NEUTRAL.get(name, False)):
            raise refused(f"not supported: {reason}", name)
    return values

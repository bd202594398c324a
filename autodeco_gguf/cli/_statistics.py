"""What is said about an answer once it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Answer


def summarize(given: Answer, prompt_s: float, total_s: float) -> dict[str, Any]:
    """An answer in numbers, None where there are none.

    Args:
        given: the answer.
        prompt_s: seconds until its first token.
        total_s: until its last.
    """
    tokens, n_prompt = [piece.token for piece in given.pieces], len(given.generation.prompt)
    n, generation_s = len(tokens), total_s - prompt_s  # of all tokens but the first, which the prompt's decode gave
    temperatures, top_ps = ([getattr(token, name) for token in tokens] for name in ("temperature", "top_p"))
    n_read = n_prompt - given.generation.n_reused
    reason = given.generation.finish_reason
    return {
        "tokens": n,
        "tok_s": (n - 1) / generation_s if n > 1 and generation_s > 0 else 0.0,
        "prompt_tokens": n_prompt,
        "prompt_tok_s": n_read / prompt_s if prompt_s > 0 else 0.0,
        "mean_temperature": sum(temperatures) / n if n else None,
        "mean_top_p": sum(top_ps) / n if n else None,
        "min_temperature": min(temperatures, default=None),
        "max_temperature": max(temperatures, default=None),
        "min_top_p": min(top_ps, default=None),
        "max_top_p": max(top_ps, default=None),
        "finish_reason": "interrupt" if reason == "cancelled" else reason,
        "seed": given.seed,
    }


def line(summary: dict[str, Any], max_tokens: int | None) -> str:
    """The summary in a line."""
    n, seed, how = summary["tokens"], summary["seed"], _end(summary, max_tokens)
    if not n:
        return f"0 tokens{how}, seed {seed}"
    return (
        f"{n} tokens{how}, {summary['tok_s']:.1f} tokens/s, mean temperature "
        f"{summary['mean_temperature']:.3f}, mean top-p {summary['mean_top_p']:.3f}, seed {seed}"
    )


def table(summary: dict[str, Any], max_tokens: int | None) -> str:
    """All of it, a line each."""
    rows = [
        ("prompt", f"{summary['prompt_tokens']} tokens, {summary['prompt_tok_s']:.1f} tokens/s"),
        ("answer", f"{summary['tokens']} tokens{_end(summary, max_tokens)}, {summary['tok_s']:.1f} tokens/s"),
    ]
    if summary["tokens"]:
        for name, key in (("temperature", "temperature"), ("top-p", "top_p")):
            mean, least, most = (summary[f"{what}_{key}"] for what in ("mean", "min", "max"))
            rows.append((name, f"mean {mean:.3f}, {least:.3f} to {most:.3f}"))
    rows.append(("seed", str(summary["seed"])))
    return "\n".join(f"{name:13}{text}" for name, text in rows)


def _end(summary: dict[str, Any], max_tokens: int | None) -> str:
    cut = "cut by -n" if summary["tokens"] == max_tokens else "cut: the context is full"
    return {"length": f" ({cut})", "interrupt": " (stopped)"}.get(summary["finish_reason"], "")

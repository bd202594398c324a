"""What a grammar takes for a token: the masks of llama.cpp's own sampler, and ours.

Each follows the same text, token by token, one after the other; before a time counts, the texts of whole characters
that both let through have to be the same.

    python benchmarks/grammars.py --model smollm2 --json benchmarks/grammars.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_grammar

import autodeco_gguf as ad
from autodeco_gguf.model.grammar import grammar_stage
from autodeco_gguf.model.token_text import token_bytes

sys.path.insert(0, str(Path(__file__).parent))
from overhead import find, machine

WORDS = "The quick brown fox jumps over the lazy dog, and then it goes on to say more about it.\n"
CASES = {
    "any text": ("root ::= .*", WORDS),
    "lines": ('root ::= ([^\\n]+ "\\n")+', WORDS * 2),
    "at most 200 characters": ("root ::= .{0,200}", WORDS),
    "words of small letters": ('root ::= ([a-z]+ " ")*', "the quick brown fox jumps over the lazy dog "),
    "a list": (llama_grammar.LIST_GBNF, "- first thing that comes to mind\n- second and so on\n"),
    "JSON": (llama_grammar.JSON_GBNF, '{"name": "John Smith", "tags": ["a longer text with words", 3.25, true]}'),
}


class Masks:
    """A model's vocabulary, and how long samplers take for all of it."""

    def __init__(self, base: Path) -> None:
        self.llama = ad.Llama(base, vocab_only=True, heads_enabled=(), verbose=False)
        self.model = self.llama._model  # noqa: SLF001
        self.n = self.llama.n_vocab()
        texts = (token_bytes(self.model.vocab, token, special=False) for token in range(self.n))
        whole = [bool(text) and text[0] > 0 and text == text.decode(errors="ignore").encode() for text in texts]
        self.whole = np.array(whole)
        self.given = (llama_cpp.llama_token_data * self.n)()
        self.data = np.ctypeslib.as_array(self.given)

    def mask(self, sampler: Any) -> tuple[float, np.ndarray]:
        """Seconds, and which tokens are let through."""
        self.data["id"], self.data["logit"] = np.arange(self.n), 0.0
        tokens = llama_cpp.llama_token_data_array(self.given, self.n, -1, False)
        begin = time.perf_counter()
        llama_cpp.llama_sampler_apply(sampler, tokens)
        taken = time.perf_counter() - begin
        return taken, self.data["logit"] == 0.0

    def measure(self, grammar: str, text: str, rounds: int) -> dict[str, float]:
        """Milliseconds a token, the median of all, of both; and the ratio of ours."""
        taken: dict[str, list[float]] = {"llama.cpp": [], "ours": []}
        for _ in range(rounds):
            stock = llama_cpp.llama_sampler_init_grammar(self.model.vocab, grammar.encode(), b"root")
            ours = grammar_stage(self.model, llama_cpp.LlamaGrammar.from_string(grammar, verbose=False))
            for token in self.llama.tokenize(text.encode(), add_bos=False):
                masks = []
                for who, sampler in (("llama.cpp", stock), ("ours", ours)):
                    seconds, mask = self.mask(sampler)
                    taken[who].append(1000 * seconds)
                    masks.append(mask & self.whole)
                    llama_cpp.llama_sampler_accept(sampler, token)
                assert np.array_equal(*masks), (grammar, text)
            llama_cpp.llama_sampler_free(stock)
            llama_cpp.llama_sampler_free(ours)
        found = {who: round(statistics.median(times), 3) for who, times in taken.items()}
        return {**found, "ratio": round(found["ours"] / found["llama.cpp"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", action="append", required=True, help="smollm2, or a plain GGUF")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for model in options.model:
            masks = Masks(find(model, Path(directory))[0])
            name = f"{Path(model).name}, {masks.n}"
            found[name] = {case: masks.measure(*CASES[case], options.rounds) for case in CASES}
            for case, row in found[name].items():
                print(f"{name}: {case}: {row}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "ms": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

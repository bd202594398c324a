"""What grammars let through, beside llama.cpp, and what of them llama.cpp hangs at."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import llama_cpp
import pytest
from conftest import load

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.grammar import grammar_stage
from autodeco_gguf.model.llama import Llama
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.model.token_text import token_bytes

WORDS = [
    *('"a"', '"ab"', '"c"', '"é"', '"\\n"', '"\\""', "[a-c]", "[^a-b]", "[^a\\n]", "[é-ü]", ".", "[ -~]", '"aab"'),
    '""', "[\\u4e00-\\u9fff]", "[^\\u4e00-\\u9fff]", "[😀-😂]", '"\\U0001F600x"', "[a-]", "[--/]", "[\\]\\x41]",
]  # fmt: skip
TIMES = ["*", "+", "?", "{2}", "{0,2}", "{1,}", "{1,3}", "{0}"]


def random_rules(r: random.Random) -> str:
    """A grammar of up to three rules."""
    names = ["root", "a", "b"][: r.randint(1, 3)]

    def item(depth: int) -> str:
        kind = r.random()
        word = r.choice(names) if kind < 0.25 else f"({alternatives(depth + 1)})" if kind > 0.8 else r.choice(WORDS)
        word = r.choice(WORDS) if depth > 1 else word
        return word + r.choice(TIMES) * (word != '""' and r.random() < 0.35)

    def alternatives(depth: int) -> str:
        each = [
            " ".join(item(depth) for _ in range(r.choice([0, 1, 1, 2, 2, 3]))) for _ in range(r.choice([1, 1, 2, 3]))
        ]
        return " | ".join(each)

    return "".join(f"{name} ::= {alternatives(0)}\n" for name in names)


class Masks:
    """What a sampler lets through of a vocabulary."""

    def __init__(self, llm: Llama) -> None:
        self.llm = llm
        self.model = model = llm._model
        self.n = model.n_vocab()
        self.ends = {t for t in range(self.n) if llama_cpp.llama_vocab_is_eog(model.vocab, t)}
        self.texts = {t: token_bytes(model.vocab, t, special=False) for t in range(self.n)}
        # of the others llama.cpp takes control tokens for text, bytes that are in no text, and not the first of [^x]
        self.compared = {t for t, text in self.texts.items() if text and text[0] and is_utf8(text)}

    def through(self, sampler: Any) -> set[int]:
        given = (llama_cpp.llama_token_data * self.n)(*((token, 0.0, 0.0) for token in range(self.n)))
        llama_cpp.llama_sampler_apply(sampler, llama_cpp.llama_token_data_array(given, self.n, -1, False))
        return {entry.id for entry in given if entry.logit == 0.0}

    def of(self, sampler: Any) -> tuple[set[int], bool]:
        """Tokens; and whether the text may end."""
        through = self.through(sampler)
        return through & self.compared, bool(through & self.ends)

    def after(self, grammar: str, text: str) -> Any:
        """A sampler that has let a text through, token by token."""
        stage = grammar_stage(self.model, llama_cpp.LlamaGrammar.from_string(grammar, verbose=False))
        for token in self.model.tokenize(text.encode(), False, False):
            assert token in self.through(stage)
            llama_cpp.llama_sampler_accept(stage, token)
        return stage


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.fixture(scope="module")
def masks() -> Iterator[Masks]:
    llm = load(DEMO_MODEL)
    yield Masks(llm)
    llm.close()


@pytest.mark.parametrize("seed", range(12))
def test_the_same_as_llama_cpp(masks: Masks, seed: int) -> None:
    """Of grammars for which it does not hang."""
    r, n = random.Random(seed), 0
    while n < 12:
        text = random_rules(r)
        sampler = None
        with suppress(InvalidInput):
            ours = grammar_stage(masks.model, llama_cpp.LlamaGrammar.from_string(text, verbose=False))
            sampler = llama_cpp.llama_sampler_init_grammar(masks.model.vocab, text.encode(), b"root")
        if not sampler:  # what it takes for left recursion
            continue
        n += 1
        for _ in range(5):
            through, may_end = masks.of(ours)
            assert (through, may_end) == masks.of(sampler), text
            if not through:
                break
            short = [token for token in sorted(through) if masks.texts[token] in (b"a", b"b", b"c", b"ab")]
            token = r.choice(short if short and r.random() < 0.6 else sorted(through))
            llama_cpp.llama_sampler_accept(ours, token)
            llama_cpp.llama_sampler_accept(sampler, token)
        llama_cpp.llama_sampler_free(ours)
        llama_cpp.llama_sampler_free(sampler)


def test_tokens_of_the_vocabulary(masks: Masks) -> None:
    start = masks.model.tokenize(b"<|im_start|>", False, True)[0]
    a, b = (masks.model.tokenize(text, False, False)[0] for text in (b"a", b"b"))
    text = f'root ::= <[0{a}]> "b" <|im_start|> !<|im_start|>* <|im_start|> .'
    stage = grammar_stage(masks.model, llama_cpp.LlamaGrammar.from_string(text, verbose=False))
    anything = set(range(masks.n)) - masks.ends
    for token, through in ((a, {a}), (b, {b}), (start, {start}), (b, anything), (start, anything)):
        assert masks.through(stage) == through
        llama_cpp.llama_sampler_accept(stage, token)
    assert start not in masks.through(stage)  # is no character, as which llama.cpp takes it
    llama_cpp.llama_sampler_accept(stage, b)
    assert masks.through(stage) == masks.ends
    llama_cpp.llama_sampler_free(stage)


AMBIGUOUS = [
    'root ::= a a a\na ::= "x"* | "x" root root',
    'root ::= a? a?\na ::= "x" root root | "x"',
    'root ::= ws{0,3}\nD ::= root{0,3} "\\n"\nws ::= [x]* | . D D',
]
"""Each has llama.cpp take ten times as long for a character as for the one before."""


@pytest.mark.parametrize("text", AMBIGUOUS, ids=range(len(AMBIGUOUS)))
def test_many_ways_to_read_a_text(masks: Masks, text: str) -> None:
    llama_cpp.llama_sampler_free(masks.after(text, "x" * 40))


REPEATED = [
    'root ::= (line "\\n"?){1,10}\nline ::= "- "? [^\\n]{1,120}',
    'root ::= ([A-Za-z ,]{1,200} [.!?]? " "?){1,9}',
    'root ::= sentence{1,5}\nsentence ::= [A-Z]? [a-z ,]{10,150} [.!?]? " "?',
    "root ::= ([^\\n]+ [\\n]*)+",
]


@pytest.mark.parametrize("text", REPEATED, ids=range(len(REPEATED)))
def test_repetitions_that_can_be_counted_in_many_ways(masks: Masks, text: str) -> None:
    """Which llguidance's parser would take seconds for, were they rules to it."""
    stage = masks.after(text, "Some words, and more of them, some words and more." * 5)
    assert masks.through(stage) & masks.ends
    llama_cpp.llama_sampler_free(stage)


FROM_THE_RIGHT = {
    "itself": ('root ::= chars "!"\nchars ::= [a-z ] chars | ""', "some words and more ", "!"),
    "in a group": ('root ::= ([a-z]+ ws)* "!"\nws ::= ([ \\t\\n] ws)?', "words    and   \n\n   more ", "!"),
    "perhaps": ('root ::= [a-z ] root? | "!"', "some words and more ", "!"),
    "each other": ('root ::= line\nline ::= [a-z ]+ "\\n" rest\nrest ::= line | "!"', "some words\nand more\n", "!"),
    "three": ('root ::= a\na ::= "x" b | "y" c | "!"\nb ::= "u" c | "v" a\nc ::= "w" a', "xuwxvyw", "!"),
    "within what is repeated": ('root ::= ("(" a ")")* "!"\na ::= "x" a | "y"', "(xxxxy)(y)", "!"),
}


@pytest.mark.parametrize(("text", "words", "end"), FROM_THE_RIGHT.values(), ids=FROM_THE_RIGHT)
def test_rules_that_end_with_each_other(masks: Masks, text: str, words: str, end: str) -> None:
    """Which llguidance's parser gives up on after some hundred characters."""
    stage = masks.after(text, words * 120)
    (last,) = masks.model.tokenize(end.encode(), False, False)
    assert last in masks.through(stage)
    llama_cpp.llama_sampler_accept(stage, last)
    assert masks.through(stage) == masks.ends
    llama_cpp.llama_sampler_free(stage)


DOUBLING = "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(40)) + '\nr40 ::= "a"'
SIX_THOUSAND = " | ".join(f'"{i}"' for i in range(6000))
LARGE = {
    "ranges": ("root ::= ((([a-z]{0,70}){0,70}){0,70}){0,70}", ""),
    "alternatives": ("root ::= " + " | ".join(f'"{i}"' for i in range(4000)), ""),
    "doubling": (f"root ::= r0\n{DOUBLING}", ""),
    "repetitions": ("root ::= (([a-z]{2000}){2000}){2000}", ""),
    "text": (f'root ::= "{"a" * 2000}"{{2000}}', ""),
    "groups": (f"root ::= {'(' * 100}[a-z]{'{0,2})*' * 100}", "it is too large"),
    "more alternatives": (f'root ::= "x" ({SIX_THOUSAND})', ""),
    "more alternatives, in parentheses": (
        f'root ::= "x" ({SIX_THOUSAND}) | "(" root ")"',
        "Current row has 6001 items",
    ),
    "deep in parentheses": (f'root ::= {"(" * 99}{"a | " * 26_000}"z"{")" * 99}\na ::= "a"', ""),
    "rules that end with each other": (
        "root ::= a0\n" + "\n".join(f'a{i} ::= "a" a{(i + 1) % 400} | "b" a{(7 * i) % 400} | "c"' for i in range(400)),
        "",
    ),
    "a long one in many ways": (f'root ::= {"[a] " * 20_000}({"b | " * 20_000}"c" root)\nb ::= "b"', ""),
    "many classes": (
        "root ::= " + " ".join(f"[^\\u{i:04x}]" for i in range(8000)),
        "grammar: no text follows it: it is too large",
    ),
    "long": (f'root ::= "{"ab" * 100_000}"', ""),
    "long, in parentheses": (
        f'root ::= "{"ab" * 100_000}" | "(" root ")"',
        "grammar: no text follows it: it is too large",
    ),
}


@pytest.mark.parametrize(("text", "reason"), LARGE.values(), ids=LARGE)
def test_a_large_one_is_refused_or_followed(masks: Masks, text: str, reason: str) -> None:
    grammar, begin = llama_cpp.LlamaGrammar.from_string(text, verbose=False), time.process_time()
    if reason:
        with pytest.raises(AutoDecoError, match=reason):
            masks.llm("a", grammar=grammar, max_tokens=8)
    else:
        stage = grammar_stage(masks.model, grammar)
        for _ in range(4):
            llama_cpp.llama_sampler_accept(stage, min(masks.through(stage)))
        llama_cpp.llama_sampler_free(stage)
    assert time.process_time() - begin < 20


NO_TOKENS = [f"<[{'9' * 5000}]>", "<[1200]>", "<>", "<nothing-of-this-name>", "!<[1200]>"]


@pytest.mark.parametrize("text", NO_TOKENS, ids=range(len(NO_TOKENS)))
def test_what_is_no_token(masks: Masks, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^the grammar names <.*, which is no token of this vocabulary$"):
        grammar_stage(masks.model, llama_cpp.LlamaGrammar.from_string(f"root ::= {text}", verbose=False))

"""Grammars that would crash or hang llama.cpp, and those that it takes."""

from __future__ import annotations

import time

import pytest
from llama_cpp import llama_grammar

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.gbnf import check_gbnf

GOOD = [
    'root ::= "a"{2} "b"{1,3} [^"\\\\\\x00-\\x1F]{0,} # a comment\n\n# another\n',
    'root ::= item ("," item)* # lists\r\nitem ::= [a-z]+ | "(" root ")"',
    'root ::= (\n  "a" |\n  "b"\n)?\n',
    'root ::= ("a"*)* | "" "x" .',
    'root ::= "[" inner{3} "]"\ninner ::= "x" | root',
    "root ::= <[5]> !<think>",
    "root ::= " + " | ".join(f'"{i}"' for i in range(2000)),
    'root ::= "a"{2000} ("b"{500}){0,900}',
    *(getattr(llama_grammar, name) for name in dir(llama_grammar) if name.endswith("_GBNF")),
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_what_llama_cpp_takes(text: str) -> None:
    check_gbnf(text)


DEEP = "\n".join(f"r{i} ::= r{i + 1}" for i in range(9000)) + '\nr9000 ::= "a"'
DOUBLING = "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(40)) + '\nr40 ::= "a"'
NESTED = "a ::= b{0,90}\nb ::= c{0,90}\nc ::= [x]{0,90}"

BAD = {
    "reversed": ('root ::= "a"{7,3}', r"line 1, column 13: \{7,3\} is a reversed range"),
    "reversed, spaced": ('root ::= "x"\nz ::= root{ 3 , 0 }', r"line 2, column 11: .* is a reversed range"),
    "huge": ('root ::= "a"{3000}', r"\{3000\} is more than 2000 times"),
    "huge upper end": ('root ::= "a"{0,99999999999999999999999}', "is more than 2000 times"),
    "ranges in ranges": ('root ::= ((("a"{0,70}){0,70}){0,70}){0,70}', "more than 4096 ways to begin"),
    "ranges in rules": (f"root ::= a{{0,90}}\n{NESTED}", "more than 4096 ways to begin"),
    "not at the beginning": (f'root ::= "x" (a{{0,90}} "y")\n{NESTED}', "more than 4096 ways to begin"),
    "doubling": (f"root ::= r0\n{DOUBLING}", "more than 4096 ways to begin"),
    "optional ones": ("root ::= " + '"a"? ' * 300, "more than 100 items in a row that may be empty"),
    "long": (
        "root ::= " + '"' + "a" * 2000 + '"{2000}',
        "more than 1048576 characters with its repetitions written out",
    ),
    "parentheses": ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "more than 100 parentheses in each other"),
    "only opened": ("root ::= " + "(" * 200_000, "more than 100 parentheses in each other"),
    "chain": (f"root ::= r0\n{DEEP}", "its rules lie too deep in each other"),
    "large": ('root ::= "' + "a" * 300_000, "grammar of 300010 characters, expected at most 262144"),
    "left recursion": ('root ::= root "a" | "b"', r"rule 'root' begins with itself \(left recursion\)"),
    "after what may be empty": ('root ::= a\na ::= "x"? b\nb ::= a "y"', "rule 'a' begins with itself"),
    "itself": ("root ::= root", "rule 'root' begins with itself"),
    "undefined": ('root ::= "a" foo', "rule 'foo' is not defined"),
    "no root": ('rout ::= "route"', "it has no rule 'root'"),
    "no rule": ('rout::="route" | ::= x', "line 1, column 18: '::=', expected a rule"),
    "no name": ('"a"', r"line 1, column 1: '\"a\"', expected a rule"),
    "escape": ('root ::= "a\\q"', "line 1, column 10: unexpected"),
    "text without end": ('root ::= "abc', "line 1, column 10: unexpected '\"abc'"),
    "class without end": ('root ::= "x"\na ::= [abc', r"line 2, column 7: unexpected '\[abc'"),
    "negative": ('root ::= "a"{-1}', r"unexpected '\{-1\}'"),
    "open": ('root ::= ("a"', r"a \( is not closed"),
    "open before a rule": ('root ::= ("a"\nb ::= "c"', r"line 2, column 1: a \( is not closed"),
    "closed": ('root ::= "a")', r"line 1, column 13: a \) without its \("),
    "nothing repeated": ("root ::= *", r"nothing stands before '\*'"),
    "NUL": ('root ::= "a"\0junk', "line 1, column 13: unexpected"),
}


@pytest.mark.parametrize(("text", "match"), BAD.values(), ids=BAD)
def test_refused_at_once(text: str, match: str) -> None:
    begin = time.process_time()
    with pytest.raises(InvalidInput, match=match) as error:
        check_gbnf(text)
    assert time.process_time() - begin < 2
    assert error.value.key == "grammar"
    assert "\n" not in str(error.value)

"""Grammars that would crash llama.cpp, and those that it takes."""

from __future__ import annotations

import time

import hypothesis
import llama_cpp
import pytest
from hypothesis import strategies as st
from llama_cpp import llama_grammar

from autodeco_gguf._native import core
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
    'root ::= "a"{2000} ("b"{500}){0,900} "c"{1, }',
    'root ::= # one\r\n\n  first-1 | # two\n\n  (\n"x"\n| [^]\n)+\t\n\n  first-1\t::= [] | \r # end',
    'root ::= ("a"{ # from 2, to\n 2 # 3\n,\n3 }\n*)',
    'root ::= "\\-" [\\--z]',
    "root ::= <> <a<b>",
    *(getattr(llama_grammar, name) for name in dir(llama_grammar) if name.endswith("_GBNF")),
]


GOOD += [
    'root ::= [a-z ]{0,500} "\\\\ud800" [^\\ud800-\\udfff]',
    f"root ::= {'(a | ' * 90}a{')' * 90}\na ::= [a] [b]?",
    "root ::= (" + " | ".join(f'"un"? "{i}" "s"?' for i in range(400)) + ') " "? root?',
    'root ::= (item ws){0,90} item\nws ::= [ \\t\\n]*\nitem ::= ws "x"',
]

GOOD += [
    'root ::= !<[3]>* <think> "a" <[2]> !<[3]> [a-z]* </think>',
    "root ::= [a-z] !<[3]>",
    "root ::= ((([a-z]{0,70}){0,70}){0,70}){0,70}",
    "root ::= " + '"a"? ' * 300,
    'root ::= a | !<[3]> root | <[7]> root ")"\na ::= <[5]> "b" | <[6]> a',
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_what_llama_cpp_takes(text: str) -> None:
    check_gbnf(text)


def is_parsed(text: str) -> bool:
    """Whether llama.cpp's parser takes a grammar, whose rules are not looked at any further."""
    capture = core.LogCapture(False)
    assert not llama_cpp.llama_sampler_init_grammar(None, text.encode(), b"nowhere")
    return capture.first_error.startswith("grammar does not contain a 'nowhere' symbol")


LET_THROUGH = ("(left recursion)", "expected one or the other")
"""Ends of reasons for what llama.cpp's parser takes."""

PIECES = [
    *("root ", "a ", "1 ", "b-1\t", "a_", "::=", "a ::= ", "|", "(", ")", "*", "+", "?", ".", "!", ","),
    *('"x"', '""', '"\\-"', "[a-z]", "[]", "[^]", "[^\\]x]", "<[5]>", "!<[5]>", '"', "\\", "[", "]", "{", "}"),
    *("{2}", "{0}", "{0,1}", "{1,}", "{,1}", "{ 1 , 2\t}", "{1\n}", "{1 # (,\n, 2}", "# (\n", "#", "é", "\\x41"),
    *(" ", "\n", "\r", "\r\n", "\f"),
]
RULES = 'a ::= "x"\nb-1 ::= [y]\n1 ::= <[7]>\nroot ::= '


@hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=3000)
@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=16))
def test_what_llama_cpp_takes_and_nothing_else(pieces: list[str]) -> None:
    hypothesis.assume(sum(piece[0] == "{" for piece in pieces) < 8)  # beyond, llama.cpp finds the rules too many
    text = RULES + "".join(pieces)
    refused = ""
    try:
        check_gbnf(text)
    except InvalidInput as e:
        refused = str(e)
    assert is_parsed(text) is (not refused or refused.endswith(LET_THROUGH)), (text, refused)


DEEP = "\n".join(f"r{i} ::= r{i + 1}" for i in range(9000)) + '\nr9000 ::= "a"'
BAD = {
    "reversed": ('root ::= "a"{7,3}', r"line 1, column 13: \{7,3\} is a reversed range"),
    "reversed, spaced": ('root ::= "x"\nz ::= root{ 3 , 0 }', r"line 2, column 11: .* is a reversed range"),
    "huge": ('root ::= "a"{3000}', r"\{3000\} is more than 2000 times"),
    "huge upper end": ('root ::= "a"{0,99999999999999999999999}', "is more than 2000 times"),
    "times of times": ('root ::= "a"' + "*" * 250_000, "line 1, column 29: more than 16 repetitions of each other"),
    "digits": (f'root ::= "a"{{{"9" * 5000}}}', "is more than 2000 times"),
    "half of a surrogate pair": (
        'root ::= "a\\\\\\ud800"',
        "line 1, column 10: .* has what is no character",
    ),
    "underscore": ("root ::= a\na ::= b_c", "line 2, column 7: 'b_c', expected letters, digits and - in a rule's name"),
    "underscore, defined": ('root ::= "a"\nb_c ::= "d"', "line 2, column 1: 'b_c ::=', expected letters"),
    "| on the next line": (
        'root ::= "a"\n | "b"',
        r"line 2, column 2: '\|', expected a rule: .*; a line goes on within",
    ),
    "in two lines": ('root ::= "a"\n  "b"\n', r"line 2, column 3: '\"b\"', expected a rule: .*; a line goes on within"),
    "name, in two lines": ('root ::= "a" \n root', "line 2, column 2: 'root', expected a rule"),
    "::= on the next line": ('root\n::= "a"', "line 1, column 1: 'root', expected a rule"),
    "two rules on a line": (
        'root ::= "a" b ::= "c"',
        "line 1, column 14: 'b ::=' within a rule, expected on a new line",
    ),
    "a rule after |": ('root ::= "a" |\nb ::= "c"', r"line 2, column 1: .*, not after \| or ::="),
    "twice ::=": ('root ::= ::= "a"', "line 1, column 10: '::=', expected a rule"),
    "times in two lines": ('root ::= "a"{1\n}', "line 1, column 13: .* in several lines, expected within"),
    "form feed": ('root ::=\f"a"', "line 1, column 9: unexpected"),
    "parentheses": ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "more than 100 parentheses in each other"),
    "only opened": ("root ::= " + "(" * 200_000, "more than 100 parentheses in each other"),
    "chain": (f"root ::= r0\n{DEEP}", "its rules lie too deep in each other"),
    "large": ('root ::= "' + "a" * 300_000, "grammar of 300010 characters, expected at most 262144"),
    "left recursion": ('root ::= root "a" | "b"', r"rule 'root' begins with itself \(left recursion\)"),
    "after what may be empty": ('root ::= a\na ::= "x"? b\nb ::= a "y"', "rule 'a' begins with itself"),
    "itself": ("root ::= root", "rule 'root' begins with itself"),
    "undefined": ('root ::= "a" foo', "rule 'foo' is not defined"),
    "itself after nothing": ('root ::= "" | root "a"', "rule 'root' begins with itself"),
    "undefined, in parentheses": ('root ::= "a" ("b" foo)', "rule 'foo' is not defined"),
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
    "nothing repeated in parentheses": ('root ::= "a" (*)', r"nothing stands before '\*'"),
    "nothing repeated": ("root ::= *", r"nothing stands before '\*'"),
    "nothing to repeat": ('root ::= "a" ""*', r"line 1, column 16: nothing stands before '\*'"),
    "nothing left": ('root ::= "a"{0}?', r"nothing stands before '\?'"),
    "empty class repeated": ("root ::= [^]*", r"nothing stands before '\*'"),
    "token or characters": (
        'root ::= "a"? !<[3]>',
        r"line 1, column 15: '!<\[3\]>' where characters may stand too, expected one or the other",
    ),
    "token or what ends": ('root ::= !<think>* "END"', "line 1, column 10: '!<think>' where characters"),
    "token in an alternative": ('root ::= <[5]> ("a" | !<[3]> "b")', "line 1, column 23: .* where characters"),
    "token before itself": ('root ::= !<[3]> root | "a" root | <[2]>', "line 1, column 10: .* where characters"),
    "token again": ('root ::= (!<[3]> "a"*){2}', "line 1, column 11: .* where characters"),
    "token in rules": (
        'root ::= a b c\na ::= <[5]> ("x" a)?\nb ::= c? !<[3]>\nc ::= <[2]>',
        r"line 3, column 10: '!<\[3\]>' where",
    ),
    "class reversed": ("root ::= [a-cz-x]", "line 1, column 10: z-x is no range of characters"),
    "class beyond Unicode": ('root ::= "x" [a\\U00110000]', r"line 1, column 14: \\U00110000 is no range of char"),
    "class of surrogates": ("root ::= [\\ud800-\\udfff]", "line 1, column 10: .* has no character"),
    "text beyond Unicode": ('root ::= "a\\U00110000"', r"line 1, column 10: .* has what is no character"),
    "not UTF-8": ('root ::= "\ud800"', "the grammar is not UTF-8: surrogates not allowed at character 10"),
    "NUL in a comment": ('root ::= "a" # \0\nroot ::= "b"', "line 1, column 16: unexpected"),
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

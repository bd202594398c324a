"""Templates are programs of strangers: what they may do, and where each kind of excess ends."""

from __future__ import annotations

import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model import template
from autodeco_gguf.model.template import MAX_SOURCE, TEMPLATE_KEY, Formatter

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
ENDLESS = "{% set x = range(99999)|list %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 0.25)


def render(source: str) -> str:
    return Formatter(source, "</s>", "<s>", path=Path("x.gguf"))(messages=MESSAGES).prompt


TOO_MUCH = {
    "repeated text": "{{ 'a' * 10**9 }}",
    "repeated list": "{{ [[1]] * 10**9 }}",
    "power": "{{ 10 ** 10 ** 8 }}",
    "power of a small number": "{{ 2 ** 99999 ** 2 }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "width of a filter": "{{ 'x'|center(10**9) }}",
    "width of a method": "{{ 'x'.ljust(10**9) }}",
    "indent": "{{ 'a'|indent(10**9, true) }}",
    "width in a format": "{{ '%1000000000d' % 1 }}",
    "width as an argument": "{{ '%*d' % (10**9, 1) }}",
    "width in braces": "{{ '{:>1000000000}'.format(1) }}",
    "filter of a filter": "{{ ['x']|map('center', 10**9)|list }}",
    "replacement": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "names in a format": "{{ ('%(a)s' * 10000) % {'a': 'x' * 10000} }}",
    "items in a format": "{{ ('{0[a]}' * 10000).format({'a': 'x' * 10000}) }}",
    "sum of lists": "{{ ([['a'] * 100] * 1000)|sum(start=[]) }}",
    "lines of one letter": "{{ ('x' * 5000000)|wordwrap(1) }}",
    "formats of a date": "{{ strftime_now('%c' * 1000000) }}",
    "separators": "{{ (messages * 1000)|tojson(separators=['x' * 100000, 'y' * 100000]) }}",
    "joined twice as often": (
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    ),
    "added": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "lists of lists": (
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"
    ),
    "long output": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "macros that call each other": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(50) }}"
    ),
    "loop": ENDLESS,
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "depth": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "length": "x" * (MAX_SOURCE + 1),
    "digits": "{{ " + "9" * 6000 + " }}",
    "namespace": "{{ namespace(x=1) }}",
    "lipsum": "{{ lipsum(n=10**5) }}",
    "an escape": "{{ ''.__class__.__mro__ }}",
}


def test_methods_within_loops_and_blocks() -> None:
    methods = "m.content.replace('H', 'h')", "m.content.ljust(3)", "m.content.strip('H')", "'{:>3}'.format(1)"
    source = "".join(f"{{{{ {method} }}}}" for method in methods)
    assert render(f"{{% for m in messages %}}{source}{{% endfor %}}") == "hiHi i  1hoHo o  1"
    assert render(f"{{% block b %}}{{% set m = messages[0] %}}{source}{{% endblock %}}") == "hiHi i  1"
    with pytest.raises(InvalidInput, match="refuses: makes a value of more than"):
        render("{% for i in [1] %}{{ ('a' * 99999).replace('a', 'b' * 99999) }}{% endfor %}")


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much(name: str) -> None:
    before = time.thread_time()
    with pytest.raises(InvalidInput, match=r"^x\.gguf: its chat template (refuses|does not parse): .") as caught:
        render(TOO_MUCH[name])
    assert (caught.value.key, caught.value.file) == (TEMPLATE_KEY, "x.gguf")
    assert time.thread_time() - before < 4


IN_ALL = r"makes values of more than \d+ bytes in all"
AT_ONCE = [
    ("{% set n = namespace(x=9) %}{% for i in range(13) %}{% set n.x = n.x * n.x %}{% endfor %}", "makes a number of"),
    ("{% set n = (1).from_bytes(('a' * 9999).encode(), 'big') %}", "makes a number of more than 16384 bits"),
    ("{{ ('a' * 20000).strip('b' * 9999) }}", "gives strip texts that are too long"),
    ("{{ ('a' * 20000)|trim('b' * 9999) }}", "gives trim texts that are too long"),
    ("{{ ('a' * 20000).encode().rfind(('b' * 9999).encode()) }}", "gives rfind texts that are too long"),
    ("{{ ('a' * 20000).rsplit('b' * 9999, 1) }}", "gives rsplit texts that are too long"),
    ("{{ range(0, 9 * 2**61, 2**61 - 1)|unique|list }}", "gives range a number beyond 100000"),
    ("{{ ('a' * 9999).encode().replace('a'.encode(), ('b' * 9999).encode()) }}", "makes a value of more than"),
    ("{{ ('1' * 9999)|replace(1, 'b' * 9999) }}", "makes a value of more than"),
    ("{{ ('1' * 9999)|replace(new='b' * 9999, old='1') }}", "makes a value of more than"),
    ("{{ '%.1000d' % 1 }}", "formats with a width"),
    ("{{ '%(a)1000d' % {'a': 1} }}", "formats with a width"),
    ("{{ '%((a)b)1000d' % {'(a)b': 1} }}", "formats with a width"),
    ("{{ '%1000d'.encode() % 1 }}", "formats with a width"),
    ("{{ ['%1000d']|format(1) }}", "formats with a width"),
    ("{{ '{:{}}'.format(1, 1000) }}", "formats with a width"),
    ("{{ ('}}}}' * 99 * 999).format() }}", "makes a value of more than"),
    ("{{ ('a' * 9999).translate({97: 'b' * 9999}) }}", "access to attribute 'translate' of 'str' object is unsafe"),
    ("{{ 1|round(10**8) }}", "gives round a number beyond 100000"),
    ("{% for i in range(3000) %}{% set x = 'a' * 99999 %}{% endfor %}", IN_ALL),
    ("{% set x = 'a' * 99999 %}{% for i in range(3000) %}{% set y = x[1:] %}{% endfor %}", IN_ALL),
    ("{{ 9 * 10**6 * 'a' }}", "makes a value of more than"),
    ("{{ range(9999)|list|join('b' * 9999) }}", "makes a value of more than"),
    ("{% for i in range(999) %}" + "x" * 9999 + "{% endfor %}", "makes a value of more than"),
    ("{{ 1|round(-(10**8)) }}", "gives round a number beyond 100000"),
    ("{{ ('a' * 99999)|sort }}", "makes or uses a value of more than 6\\d+ bytes"),
    ("{{ ('a' * 99999)|map(attribute='b')|list }}", "makes or uses a value of more than 6\\d+ bytes"),
    ("{{ 'ab'.encode('punycode') }}", "gives encode an encoding beyond UTF-8, ASCII and Latin-1"),
    ("{{ 'ab'.encode(errors='namereplace') }}", "gives encode an encoding beyond"),
    ("{{ 'ab'.encode().decode('idna') }}", "gives decode an encoding beyond"),
]


@pytest.mark.parametrize(("source", "reason"), AT_ONCE)
def test_what_could_take_long_in_one_step(source: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 60)  # for what it is refused, not for its time
    with pytest.raises(InvalidInput, match=f"refuses: {reason}"):
        render(source)


@pytest.mark.parametrize(
    "source",
    ["{% set n = 7 // 2 %}", "{% set n = 7 - 2 %}", "{% if 'a' in 'b' %}{% endif %}", "{% if 7 is odd %}{% endif %}"],
)
def test_operators_are_looked_at(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search in a long text takes 20 ms, and thousands can stand in a row."""
    monkeypatch.setattr(template, "MAX_SECONDS", -1)
    with pytest.raises(InvalidInput, match="takes too much time"):
        render(source)


def test_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        for name in ("repeated text", "joined twice as often", "lists of lists", "replacement"):
            with pytest.raises(InvalidInput):
                render(TOO_MUCH[name])
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


def test_time_is_bounded_in_any_thread() -> None:
    ended: list[BaseException] = []

    def work() -> None:
        try:
            render(ENDLESS)
        except InvalidInput as e:
            ended.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert [str(e) for e in ended] == ["x.gguf: its chat template refuses: takes too much time"]


def test_each_thread_has_bounds_of_its_own() -> None:
    """Of one template, while another thread is in the midst of it."""
    both = Formatter("{{ other() }}{{ 1 + 1 }}", "", "", path=Path("x.gguf"))

    def other() -> str:
        thread = threading.Thread(target=lambda: both(messages=[], other=str))
        thread.start()
        thread.join()
        return ""

    before = time.thread_time()
    while time.thread_time() - before < 2 * template.MAX_SECONDS:  # more than a new thread has left
        pass
    assert both(messages=[], other=other).prompt == "2"


def test_nothing_is_computed_before_it_is_used() -> None:
    for source in TOO_MUCH.values():
        Formatter(source, "", "", path=Path("x.gguf"))


ORDINARY = [
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m['content']|trim ~ '<|im_end|>' }}\n{% endfor %}",
    "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}"
    "{{ loop.previtem }}{% endfor %}{{ bos_token * 2 }}",
    "{%- set ns = namespace(n=0, l=[]) -%}{% for m in messages if m.role == 'user' %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ messages|tojson(indent=2) }}{{ 'a-b'.split('-')[1] }}"
    "{{ '%s: %5.1f' % ('x', 2) }}{{ '{}'.format([1, {'a': (2,)}]) }}",
    "{% macro f(x, y=1) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}{% call f(2) %}c{% endcall %}",
    "{% for m in messages[1:] + messages %}{% if loop.first %}{% continue %}"
    "{% endif %}{{ m.items()|list }}{% break %}{% endfor %}",
    "{% generation %}{{ messages|map(attribute='role')|join(', ') }}"
    "{% endgeneration %}{{ 7 % 4 }}{{ 2 ** 10 }}{{ none is none }}",
    "{% set x, y = 1, 2 %}{% for k, v in {'a': 1}.items() %}{{ k, v, x, y }}"
    "{% endfor %}{{ messages|length }}{{ undefined }}",
    "{% set ns = namespace(a='x' * 9999, b='y' * 9999) %}{{ 123456789012|string }}{{ {'n': 10**9}|tojson }}"
    "{{ 1234567|default(ns.a, ns.b) }}{{ ns.a.startswith(ns.b) }}{{ '%d' % 1234567 }}{{ ns.a|truncate(1000000) }}",
    "{{ 'Knowledge cutoff: 2024-06. {}'.format(1) }}{{ '100% 2024 {:*^9}'.format('a') }}"
    "{{ '{a[2024]}'.format(a={'2024': 1}) }}",
    "{{ 'Date 2024-07-26 %s' % 'x' }}{{ 'Date 2024-07-26 %s'|format('x') }}",
    "{{ '100%% 2024 * %(a)s (2024) %(b)-5.1f' % {'a': 1, 'b': 2} }}{{ '{2024} {%d}' % 1 }}",
    """{{ '{{ "x": {} }}'.format(3) }}{{ '{{{:>5}}}'.format(3) }}""",
    "{{ 'a1'.replace('a', 'b', 1)|replace(1, [2])|replace(new='c', old='b', count=1) }}"
    "{{ 1721952000.5|round(0) }}{{ 1721952000.5|round(method='floor') }}{{ 123456789|round(-2) }}",
    "{{ messages[1:] }}{{ 'abc'[::-1] ~ 'abc'[1] }}{{ 'é'.encode('UTF-8').decode() }}{{ 'ba'|sort|join('-') }}"
    "{{ m is defined or messages is string or 'a' not in 'b' or 1 < 2 < 3 }}{{ messages|selectattr('role')|list }}",
]


@pytest.mark.parametrize("source", ORDINARY)
def test_ordinary_templates_give_what_llama_cpp_gives(source: str) -> None:
    assert render(source) == Jinja2ChatFormatter(source, "</s>", "<s>")(messages=MESSAGES).prompt


@pytest.mark.parametrize("messages", ["Hi", None, 5, [1], ["Hi"], [None], MESSAGES[0]])
def test_what_is_no_message(messages: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^messages .*, expected a list of objects with role and content$"):
        Formatter("{{ messages }}", "", "", path=Path("x.gguf"))(messages=messages)


def test_names_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> set[str]:
        return Formatter("{{ a }}{% set b = c %}{{ b }}", "", "", path=Path("x.gguf")).names()

    names().clear()
    monkeypatch.delattr(template, "meta")
    assert names() == {"a", "c"}


def test_names_of_a_long_template() -> None:
    with pytest.raises(InvalidInput, match=f"does not parse: has {MAX_SOURCE + 1} characters, more than {MAX_SOURCE}"):
        Formatter("x" * (MAX_SOURCE + 1), "", "", path=Path("x.gguf")).names()


def test_the_bounds_grow_with_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 0.01)
    letters = "{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}"
    format_of = [
        kind(letters, "</s>", "<s>") for kind in (partial(Formatter, path=Path("x.gguf")), Jinja2ChatFormatter)
    ]
    message = {"role": "user", "content": "word " * 20000}
    ours, theirs = (f(messages=[message]).prompt for f in format_of)
    assert ours == theirs == message["content"]

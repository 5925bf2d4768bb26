"""Hostile templates end soon, in little memory, and see nothing of Python."""

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.model.chat import ChatTemplate


def doubled(start: str, step: str) -> str:
    """A template whose value grows sixty times over."""
    loop = "{% for i in range(60) %}{% set ns.x = " + step + " %}{% endfor %}"
    return "{% set ns = namespace(x=" + start + ") %}" + loop


ENDLESS = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "one long loop": "{% for a in range(10**9) %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "doubling recursion": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
}
LARGE = {
    "output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "literal output": "{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "repeated string": "{{ 'a' * (10**10) }}",
    "repeated twice": "{{ ('a' * 100000) * 100000 }}",
    "repeated list": "{{ 10**9 * [1] }}",
    "power": "{{ 2 ** (10**10) }}",
    "tower": "{{ 9**9**9**9 }}",
    "product": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "concatenation": doubled("'a'", "ns.x ~ ns.x"),
    "sum": doubled("'a'", "ns.x + ns.x"),
    "list of lists": doubled("[1]", "[ns.x, ns.x]"),
    "tuple of tuples": doubled("[1]", "(ns.x, ns.x)"),
    "dict of dicts": doubled("[1]", "{'a': ns.x, 'b': ns.x}"),
    "dict call": doubled("[1]", "dict(a=ns.x, b=ns.x)"),
    "namespaces": doubled("1", "namespace(a=ns.x, b=ns.x)"),
    "replace method": doubled("'aa'", "ns.x.replace('a', 'aa')"),
    "replace filter": doubled("'aa'", "ns.x | replace('a', 'aa')"),
    "replace nothing": doubled("'aa'", "ns.x.replace('', ns.x)"),
    "join filter": doubled("'aa'", "ns.x | join(ns.x)"),
    "join method": doubled("'aa'", "ns.x.join([ns.x, ns.x])"),
    "percent": doubled("'aa'", "'%s%s' % (ns.x, ns.x)"),
    "format method": doubled("'aa'", "'{0}{0}'.format(ns.x)"),
    "format filter": doubled("'aa'", "'%s%s' | format(ns.x, ns.x)"),
    "macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + doubled("'aa'", "m(ns.x)"),
    "block": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% endfor %}",
    "percent width": "{{ '%10000000000d' % 1 }}",
    "percent width argument": "{{ '%*d' % (10**10, 1) }}",
    "format width": "{{ '{:>10000000000}'.format(1) }}",
    "format width argument": "{{ '{:{}}'.format(1, 10**10) }}",
    "filter width": "{{ '%10000000000d' | format(1) }}",
    "indent": "{{ 'a' | indent(10**9) }}",
    "json indent": "{{ [1, 2] | tojson(indent=10**9) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
}
PYTHON = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__['x'] }}",
    "format attribute": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "attr filter": "{{ (messages | attr('__class__')).mro() }}",
    "environment": "{{ self._TemplateReference__context.environment }}",
    "guards": "{{ guard_step.x }}",
    "import": "{% import 'os' as o %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "random": "{{ [1, 2] | random }}",
    "lipsum": "{{ lipsum() }}",
    "cycler": "{{ cycler('a').__init__.__globals__ }}",
}


def refused(source: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(source, bos_token="", eos_token="").render([{"role": "user", "content": "secret"}])
    assert "secret" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_never_end_ends(name: str) -> None:
    start = time.perf_counter()
    refused(ENDLESS[name])
    assert time.perf_counter() - start < 30  # at most 5 s by the template's own clock; more on a busy machine


@pytest.mark.parametrize("name", LARGE)
def test_what_would_be_huge_is_never_built(name: str) -> None:
    tracemalloc.start()
    try:
        refused(LARGE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("name", PYTHON)
def test_what_would_reach_into_python_is_refused(name: str) -> None:
    refused(PYTHON[name])


def test_a_long_conversation_is_well_within_the_limits() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if loop.index0 % 2 == 0 %}{{ '<' ~ m.role + '>' }}{% endif %}"
        "{{ m.content | trim | replace('\n', ' ') }}{{ m.content.split('</think>')[-1] }}{% endfor %}",
        bos_token="",
        eos_token="",
    )
    messages = [{"role": "user", "content": "wool " * 200} for _ in range(1000)]
    assert len(template.render(messages)) > 1_900_000


def test_renders_in_two_threads_have_budgets_of_their_own() -> None:
    template = ChatTemplate("{% for i in range(2000) %}{{ i % 10 }}{% endfor %}", bos_token="", eos_token="")
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda _: template.render([]), range(20)))
    assert set(texts) == {"0123456789" * 200}

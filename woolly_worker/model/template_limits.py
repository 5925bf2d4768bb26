"""What a template may use: steps, seconds, output, and the size of any value it builds.

`template_guard.py` calls these checks from every place where a template can loop or make something. Where a value can
grow by more than the sum of its parts, the check comes before it is built. The wall clock ends what is slow but within
its steps; it is the only limit here that depends on the machine.
"""

import re
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_WEIGHT = 1 << 22  # characters and elements in one value, and characters of output in one render
MAX_ELEMENTS = 1 << 16  # elements in one value, each counted as often as it occurs
MAX_STEPS = 500_000
MAX_SECONDS = 5.0
MAX_NUMBER_BITS = 256
MAX_WIDTH = 1000  # an integer handed to a filter or method: widths, indents, counts

_WIDE_FORMAT = re.compile(r"\d{4}|\*|\{[^{}]*\{")  # a width of four digits, or one taken from an argument


class TemplateLimitError(SecurityError):
    """The template asked for more than a prompt can need."""


class Budget:
    """What one render may still use."""

    def __init__(self) -> None:
        self.steps = 0
        self.written = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self, n: int = 1) -> None:
        self.steps += n
        if self.steps > MAX_STEPS:
            raise TemplateLimitError(f"the template takes more than {MAX_STEPS:,} steps")
        if time.monotonic() > self.deadline:
            raise TemplateLimitError(f"the template takes longer than {MAX_SECONDS:g} seconds")

    def write(self, n_characters: int) -> None:
        self.written += n_characters
        if self.written > MAX_WEIGHT:
            raise TemplateLimitError(f"the template writes more than {MAX_WEIGHT:,} characters")


_budget: ContextVar[Budget] = ContextVar("template_budget")


def budget() -> Budget:
    """That of the render going on in this thread."""
    return _budget.get()


def too_big(weight: int) -> NoReturn:
    raise TemplateLimitError(f"the template builds a value of size {weight:,}, {MAX_WEIGHT:,} is allowed")


def weigh(*values: Any) -> int:
    """Characters and elements of the values, everything inside counted as often as it occurs. Raises above the limit,
    so it ends soon even for a small structure that refers to itself many times over."""
    weight, n_seen, todo = 0, 0, list(values)
    while todo:
        value = todo.pop()
        n_seen += 1
        if n_seen + len(todo) > MAX_ELEMENTS:
            raise TemplateLimitError(f"the template builds a value of more than {MAX_ELEMENTS:,} elements")
        if isinstance(value, str | bytes):
            weight += len(value)
        elif isinstance(value, dict):
            weight += len(value)
            todo.extend(value)
            todo.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            weight += len(value)
            todo.extend(value)
        elif isinstance(value, Namespace):
            todo.append(value._Namespace__attrs)  # what namespace(...) holds; it has no public name
        else:
            weight += 1
        if weight > MAX_WEIGHT:
            too_big(weight)
    budget().step(1 + n_seen // 4)
    return weight


def bounded_replace(text: str, old: str, new: str, count: int = -1) -> str:
    """str.replace, after looking how long the result will be."""
    found = text.count(old) if old else len(text) + 1
    grown = len(text) + (min(found, count) if count >= 0 else found) * len(new)
    if grown > MAX_WEIGHT:
        too_big(grown)
    return text.replace(old, new, count)


def bounded_join(separator: str, values: Iterable[Any]) -> str:
    parts = [str(value) for value in values if weigh(value) >= 0]
    grown = weigh(parts) + len(separator) * len(parts)
    if grown > MAX_WEIGHT:
        too_big(grown)
    return separator.join(parts)


def check_format(template: str, arguments: Any) -> None:
    """Bound the result of `template % arguments` and `template.format(arguments)`."""
    if _WIDE_FORMAT.search(template):
        raise TemplateLimitError("the template formats with a width of more than three digits, or one out of a value")
    grown = len(template) + (template.count("%") + template.count("{")) * (MAX_WIDTH + weigh(arguments))
    if grown > 64 * MAX_WEIGHT:
        too_big(grown)


def with_budget(render: Callable[[], Iterable[str]]) -> str:
    """Run one render and return its text."""
    token = _budget.set(Budget())
    try:
        return "".join(render())
    finally:
        _budget.reset(token)

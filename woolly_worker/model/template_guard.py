"""A Jinja environment for templates that came with a downloaded file: no attribute reaches into Python, nothing can be
changed, and no template loops for ever or eats memory.

jinja2's immutable sandbox gives the first two. For the third, the template's syntax tree and every operator, call and
filter are wired to the checks in `template_limits.py`. Filters and string methods are those of the two lists below: the
rest is either random, or pads without bound, or is of no use in a prompt.
"""

# ruff: noqa: N802 (jinja2 finds a visitor by the name of its node)

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from jinja2 import TemplateAssertionError, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from woolly_worker.model.template_limits import (
    MAX_NUMBER_BITS,
    MAX_WEIGHT,
    MAX_WIDTH,
    TemplateLimitError,
    bounded_join,
    bounded_replace,
    budget,
    check_format,
    too_big,
    weigh,
)

_FILTERS = (
    "abs attr batch capitalize count d default dictsort e escape first float forceescape format groupby indent int "
    "items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr "
    "slice sort string striptags title tojson trim truncate unique upper urlencode wordcount"
)
_STRING_METHODS = (
    "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower isnumeric "
    "isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip swapcase title upper"
)


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """Compile with `compile_guarded`, render inside `with_budget`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            finalize=_count_output,
        )
        self.filters = {name: _guard_filter(name, FILTERS[name]) for name in _FILTERS.split()}
        self.filters["tojson"] = _guard_filter("tojson", to_json)
        self.filters["replace"] = _guard_filter(
            "replace", lambda s, old, new, count=-1: bounded_replace(str(s), str(old), str(new), count)
        )
        self.filters["join"] = _guard_filter("join", self._join_filter)
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}

    def _join_filter(self, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = [self.getitem(value, attribute) for value in values]
        return bounded_join(str(d), values)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget().step()
        if operator == "%" and isinstance(left, str):
            check_format(left, right)
        elif operator == "**":
            bits = abs(right) * max(1, int(abs(left)).bit_length()) if isinstance(right, int | float) else 0
            if bits > MAX_NUMBER_BITS:
                too_big(int(bits))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_NUMBER_BITS:
                too_big(left.bit_length() + right.bit_length())
        elif operator == "*":
            times, value = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(times, int) and weigh(value) * max(times, 0) > MAX_WEIGHT:
                too_big(weigh(value) * times)
        elif operator == "+" and not isinstance(left, int | float):
            weigh(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template comes through here."""
        budget().step()
        owner = getattr(obj, "__self__", None)
        if owner is self:  # one of the guards, put there by GuardTransformer
            return obj(*args)
        if isinstance(owner, str):
            return self._call_string_method(context, obj, owner, args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str | list | tuple | dict | Namespace):
            weigh(result)
        return result

    def _call_string_method(
        self, context: Context, method: Any, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = method.__name__
        for added_by_jinja in ("_loop_vars", "_block_vars"):
            kwargs.pop(added_by_jinja, None)
        if name not in _STRING_METHODS.split():
            raise SecurityError(f"templates may not use the string method '{name}'")
        weigh(owner)
        if name == "replace":
            return bounded_replace(owner, *args, **kwargs)
        if name == "join":
            return bounded_join(owner, *args, **kwargs)
        return super().call(context, method, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """jinja2 asks here for its sandboxed stand-in of `str.format`; ours looks at the widths first."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def guarded(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, [args, kwargs])
            return wrapped(*args, **kwargs)

        return guarded

    # The three functions that GuardTransformer calls. Templates cannot reach them: they are no names, but nodes.

    def guard_step(self, n_characters: int) -> None:
        budget().step()
        budget().write(n_characters)

    def guard_value(self, value: Any) -> Any:
        weigh(value)
        return value

    def guard_concat(self, *values: Any) -> str:
        weigh(values)
        return "".join(str(value) for value in values)

    def compile_guarded(self, source: str) -> Any:
        """A jinja2 Template. Raises jinja2.TemplateError."""
        tree = GuardTransformer().visit(self.parse(source))
        return self.template_class.from_code(self, self.compile(tree), self.globals)


class GuardTransformer(NodeTransformer):
    """Puts the guards into a template's syntax tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._guard_body(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._guard_body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._guard_body(node)

    def visit_Include(self, node: nodes.Node) -> nodes.Node:
        raise TemplateAssertionError("templates may not load other templates", node.lineno)

    visit_Import = visit_FromImport = visit_Extends = visit_Include  # noqa: N815

    def _guard_body(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        n_characters = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        step = _call("guard_step", [nodes.Const(n_characters)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("guard_concat", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("guard_value", [node], node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _call("guard_value", [node], node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("guard_value", [node], node.lineno) if node.ctx == "load" else node


def _call(function: str, arguments: Sequence[nodes.Expr], lineno: int) -> nodes.Call:
    target = nodes.EnvironmentAttribute(function)
    return nodes.Call(target, list(arguments), [], None, None, lineno=lineno)


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it only passes its body on."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As chat templates expect it: non-ASCII kept, keys in their order, nothing escaped for HTML."""
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"tojson: {error}") from None


def _guard_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with its steps counted and its arguments and result weighed."""

    @wraps(function)  # keeps jinja2's mark for filters that want the environment or context
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget().step()
        values = args[1:] if hasattr(function, "jinja_pass_arg") else args
        for number in (*values[1:], *kwargs.values()):
            if isinstance(number, int) and number > MAX_WIDTH:
                raise TemplateLimitError(f"the filter '{name}' is given {number:,}, {MAX_WIDTH:,} is the most")
        weigh(values, kwargs)
        if name == "format":
            check_format(str(values[0]), [values[1:], kwargs])
        result = function(*args, **kwargs)
        if isinstance(result, str | list | tuple | dict):
            weigh(result)
        return result

    return guarded


def _count_output(value: Any) -> Any:
    """jinja2's finalize: sees every `{{ value }}`."""
    budget().write(weigh(value))
    return value

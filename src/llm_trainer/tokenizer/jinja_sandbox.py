"""Running a chat template that somebody else wrote: it sees the messages, nothing else, and its work is bounded.

A template is a program (Jinja), and it comes with tokenizers from anywhere. Jinja's own sandbox keeps it away from
Python's attributes and from changing its arguments. It does not keep it from looping for hours or from filling the
memory with ``"a" * 10**10``, so here

- every turn of a loop, every call of a macro, and every operation that can make a large value is counted, and the
  count and the clock are checked (:class:`_Meter`);
- ``*``, ``+``, ``~`` and everything else that makes a text or list longer is bounded, each time and in total;
- only the filters and string methods that templates need are there (no ``center(10**9)``).

``{% generation %} ... {% endgeneration %}`` surrounds what the assistant writes, as in transformers. Here it leaves two
marks in the text, which the caller looks for.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 100_000
MOST_SECONDS = 5.0
MOST_CHARACTERS = 4_000_000  # in one text; a conversation of a million tokens
MOST_TOTAL = 200_000_000  # in all texts that one rendering makes on its way
MOST_ELEMENTS = 50_000  # in one list; no conversation has as many messages
MOST_SOURCE = 200_000  # characters; the longest templates in use have about 20,000

# Characters that no text contains: Unicode keeps U+FDD0 to U+FDEF for a program's own use (Unicode 15, section 23.7).
ANSWER_START, ANSWER_END, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
RESERVED = re.compile("[\ufdd0-\ufdd2]")

_STEP, _BOUND = "__step__", "__bound__"
_FILTERS = (
    "abs", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length", "list", "map",
    "max", "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "unique",
)  # fmt: skip
_TEXT_FILTERS = ("capitalize", "e", "escape", "lower", "title", "trim", "upper")
_STRING_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines",
    "startswith", "strip", "swapcase", "title", "upper",
))  # fmt: skip
_METHODS: list[tuple[type, frozenset[str]]] = [
    (str, _STRING_METHODS),
    (dict, frozenset(("get", "items", "keys", "values"))),
    (list, frozenset(("count", "index"))),
    (tuple, frozenset(("count", "index"))),
    (int, frozenset()),
    (float, frozenset(("is_integer",))),
]


class TemplateRefusal(TemplateError):
    """A template went over its bounds, or raised an error of its own with ``raise_exception``."""


class _Meter:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self.steps = 0
        self.made = 0
        self.deadline = time.monotonic() + MOST_SECONDS

    def step(self) -> bool:
        """Count one turn of a loop; true, so that it can stand in a condition."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise TemplateRefusal(f"it takes more than {MOST_STEPS:,} steps")
        if self.steps % 64 == 0 and time.monotonic() > self.deadline:
            raise TemplateRefusal(f"it takes longer than {MOST_SECONDS:g} seconds")
        return True

    def bound(self, value: Any) -> Any:
        """``value`` as it will be printed, unless it is too large."""
        self.step()
        return _as_text(value) if value or value == 0 else value


_meter: ContextVar[_Meter | None] = ContextVar("meter", default=None)


class _Generation(Extension):
    """``{% generation %}``: puts marks around what its block renders."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{ANSWER_START}{caller()}{ANSWER_END}"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds on size. Loop counting is put into the program by :func:`compile_template`."""

    intercepted_binops = frozenset({"*", "+", "**", "%"})

    def __init__(self) -> None:
        # White space is trimmed as transformers does, so that one template means the same in both.
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        ours = {"tojson": _to_json, "join": _join, "replace": _replace, "string": _as_text}
        of_text = {name: _on_text(self.filters[name]) for name in _TEXT_FILTERS}
        self.filters = {name: self.filters[name] for name in _FILTERS} | of_text | ours
        self.globals = {
            "namespace": self.globals["namespace"],
            "dict": dict,
            "range": _range,
            "raise_exception": _raise,
        }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """One of the operations that can make a value much larger than what went in."""
        if operator == "%" and isinstance(left, str):
            raise TemplateRefusal("it formats text with %, which is not allowed here; use ~")
        if operator == "**" and not (abs(left) <= 1_000_000 and abs(right) <= 8):
            raise TemplateRefusal("it computes with numbers that are too large")
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    _check_size(one, len(one) * max(0, other))
            if isinstance(left, int) and isinstance(right, int) and max(abs(left), abs(right)) > 10**30:
                raise TemplateRefusal("it computes with numbers that are too large")
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check_size(left, len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's way of letting ``str.format`` through; a field may ask for any width, so it stays out."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            raise TemplateRefusal("it calls the method format(), which is not allowed here")

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a global, or a method; of the methods of values, only those that templates need."""
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        for kind, allowed in _METHODS:
            if isinstance(owner, kind) and name not in allowed:
                raise TemplateRefusal(f"it calls the method {name}(), which is not allowed here")
        if isinstance(owner, str) and name == "join":
            return _join(args[0] if args else (), owner)
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args)
        return super().call(context, function, *args, **kwargs)


def _check_size(kind: Any, size: int) -> None:
    """Refuse a text or list that is too large, or the one with which too much was made."""
    most = MOST_CHARACTERS if isinstance(kind, str) else MOST_ELEMENTS
    if size > most:
        what = "a text of" if isinstance(kind, str) else "a list of"
        raise TemplateRefusal(f"it makes {what} more than {most:,} elements")
    meter = _meter.get()
    if meter is not None:
        meter.made += size
        if meter.made > MOST_TOTAL:
            raise TemplateRefusal("it copies too much text")


def _as_text(value: Any) -> str:
    """``str(value)`` of a text, number, list or dictionary, measured before it is made."""
    _check_size("", _printed_size(value, MOST_CHARACTERS))
    return str(value)


def _printed_size(value: Any, most: int) -> int:
    """About how many characters a value has when it is printed; counting ends soon after ``most``."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = [part for item in value.items() for part in item]
    if not isinstance(value, list | tuple):
        return 1
    size = 2
    for part in value:
        size += 2 + _printed_size(part, most - size)
        if size > most:
            break
    return size


def _on_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that turns its argument into text, with the text measured first."""
    return lambda value, *arguments: function(_as_text(value), *arguments)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _check_size([], len(numbers))
    return numbers


def _raise(message: Any = "") -> None:
    raise TemplateRefusal(str(message))


def _to_json(value: Any, indent: int | None = None) -> str:
    _check_size("", _printed_size(value, MOST_CHARACTERS))
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(int(indent), 16))


def _join(values: Any, separator: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = [value[attribute] for value in values]
    parts, between = [_as_text(value) for value in values], _as_text(separator)
    _check_size(between, sum(map(len, parts)) + len(between) * max(0, len(parts) - 1))
    return between.join(parts)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = _as_text(text), _as_text(old), _as_text(new)
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    _check_size(text, len(text) + times * (len(new) - len(old)))
    return str(text).replace(old, new, times)


@functools.cache
def _environment() -> _Environment:
    return _Environment()


@functools.lru_cache(maxsize=64)
def compile_template(source: str) -> Any:
    """A template that counts its work.

    Raises:
        TemplateError: it is not valid Jinja, or too long.
    """
    if len(source) > MOST_SOURCE:
        raise TemplateRefusal(f"it is longer than {MOST_SOURCE:,} characters")
    environment = _environment()
    try:
        tree = environment.parse(source)
        _instrument(tree)
        return environment.from_string(tree)
    except TemplateError:
        raise
    except (RecursionError, MemoryError, SyntaxError):
        raise TemplateRefusal("its expressions are nested too deeply") from None


def _instrument(tree: nodes.Template) -> None:
    """Count each turn of each loop and each call of each macro, and bound what is joined or written."""

    def call(name: str, *arguments: nodes.Expr) -> nodes.Call:
        return nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)

    node: Any
    for loop in tree.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(call(_STEP)))
        if loop.test is not None:
            loop.test = nodes.And(call(_STEP), loop.test)
    for node in [*tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]:
        node.body.insert(0, nodes.ExprStmt(call(_STEP)))
    for node in [*tree.find_all(nodes.Output), *tree.find_all(nodes.Concat)]:
        node.nodes = [call(_BOUND, part) for part in node.nodes]
    _wrap_concatenations(tree, lambda node: call(_BOUND, node))
    tree.set_lineno(1, override=False)
    tree.set_environment(_environment())


def _wrap_concatenations(node: nodes.Node, wrap: Callable[[nodes.Expr], nodes.Expr]) -> None:
    """Replace every ``~`` below a node by its wrapped self."""
    for child in list(node.iter_child_nodes()):
        _wrap_concatenations(child, wrap)
    for field, value in list(node.iter_fields()):
        if isinstance(value, nodes.Concat):
            setattr(node, field, wrap(value))
        elif isinstance(value, list):
            setattr(node, field, [wrap(item) if isinstance(item, nodes.Concat) else item for item in value])


def run_template(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template within the bounds.

    Raises:
        TemplateError: the template is not valid, went over a bound, or refused the messages (``raise_exception``).
    """
    template = compile_template(source)
    meter = _Meter()
    token = _meter.set(meter)
    pieces, size = [], 0
    try:
        for piece in template.generate({**variables, _STEP: meter.step, _BOUND: meter.bound}):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_CHARACTERS:
                raise TemplateRefusal(f"it writes more than {MOST_CHARACTERS:,} characters")
    except TemplateError:
        raise
    except RecursionError:
        raise TemplateRefusal("its macros call each other without end") from None
    except Exception as error:  # noqa: BLE001 - whatever a template of unknown origin provokes is its own mistake
        raise TemplateRefusal(f"{type(error).__name__}: {error}") from None
    finally:
        _meter.reset(token)
    return "".join(pieces)

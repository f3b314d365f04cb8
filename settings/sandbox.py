"""Jinja2's sandbox with bounds: a template is small and quick, whatever its author had in mind.

Jinja2's own bounds `range` alone. Here loops and calls are counted, and what would make a long text or a huge number
out of little is refused before it is made. Raised as OverflowError, which the renderer reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from threading import local
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROUNDS = 10_000
WIDTH = 1_000
LONGEST = 4_000_000  # of what goes into a filter, a method or a joined text: an event's value may be long

_WIDTHS = frozenset(
    {"center", "indent", "batch", "slice", "wordwrap", "tojson", "round"}  # filters
    | {"ljust", "rjust", "zfill", "expandtabs", "to_bytes"}  # methods
)
_LONG_WIDTH = re.compile(r"[0-9]{4,}|\*|:[^}]*\{")
_left = local()


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For templates that make at most `max_bytes`."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, *, html: bool, max_bytes: int) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=html)
        self._made = 2 * max_bytes
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"_rounds": _rounds, "_short": _short}
        if html:
            del self.filters["safe"]  # by its name as an argument, as in map('safe'), it would be found in no tree

    def bound(self, tree: nodes.Template) -> nodes.Template:
        """The tree of a template with its loops and joined texts watched."""
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_rounds", [], [], None, None, lineno=loop.lineno)
        for joined in tree.find_all(nodes.Concat):
            joined.nodes = [
                nodes.Filter(part, "_short", [], [], None, None, lineno=joined.lineno) for part in joined.nodes
            ]
        tree.set_environment(self)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _count()
        owner = getattr(obj, "__self__", None)
        _check(getattr(obj, "__name__", ""), owner, *args, *kwargs.values())
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check("format", left, right)
        if _size(operator, left, right) > (LONGEST if operator == "+" else self._made):
            raise OverflowError(f"what {operator} makes here is too large for a message")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check("format", value.__self__)
        return wrapped

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # It would turn what is escaped back into what it was.
        return attr != "translate" and super().is_safe_attribute(obj, attr, value)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # with the mark of what it wants to be passed
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check(name, *args, *kwargs.values())
        return function(*args, **kwargs)

    return bounded


def _check(name: str, *values: Any) -> None:
    """Refuses what a filter or method of that name would make too much of."""
    for value in values:
        _short(value)
    if name in _WIDTHS and any(isinstance(value, int) and value > WIDTH for value in values[1:]):
        raise OverflowError(f"{name} is too wide here for a message")
    texts = [value for value in values if isinstance(value, str)]
    if name in ("format", "format_map") and texts and _LONG_WIDTH.search(texts[0]):
        raise OverflowError("a format may have widths of three digits, and none that is worked out")
    if name == "replace" and len(texts) == 3 and texts[0].count(texts[1]) * len(texts[2]) > LONGEST:
        raise OverflowError("what replace makes here is too large for a message")
    if name == "indent" and len(texts) > 1:
        raise OverflowError("indent takes a number here")
    if name == "join":
        lists = [value for value in values if isinstance(value, list | tuple)]
        if any(sum(len(str(item)) for item in items) > LONGEST for items in lists):
            raise OverflowError("what join makes here is too large for a message")


def _short(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple) and len(value) > LONGEST:
        raise OverflowError("a value here is too large for a message")
    return value


def start() -> None:
    """A rendering begins in this thread."""
    _left.rounds = ROUNDS


def _count() -> None:
    _left.rounds = getattr(_left, "rounds", ROUNDS) - 1
    if _left.rounds < 0:
        raise OverflowError(f"more than {ROUNDS} rounds of loops and calls")


def _rounds(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _count()
        yield item


def _size(operator: str, left: object, right: object) -> int:
    """At least how many bits or items come out, where it may be far more than went in."""
    if isinstance(left, int) and isinstance(right, int):
        sizes = {"**": left.bit_length() * max(0, right), "*": left.bit_length() + right.bit_length()}
        return sizes.get(operator, 0)
    if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        return len(left) + len(right)
    for value, times in ((left, right), (right, left)):
        if operator == "*" and isinstance(value, str | list | tuple) and isinstance(times, int):
            return len(value) * times
    return 0

"""Message templates: Jinja2 in its sandbox, compiled and tried when the configuration is loaded, 4 kB when rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, product
from threading import Thread
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from detection.durations import spoken
from settings.problems import did_you_mean

MAX_BYTES = 4096
TRIAL_S = 5.0
_TRIALS = 200

VARIABLES = frozenset(
    {
        "key",
        "count",
        "peak",
        "events",
        "threshold",
        "window",
        "rule",
        "severity",
        "opened_at",
        "resolves_at",
        "duration",
    }
)
"""What a template may use; whoever renders gives all of them.

`key` maps each key path to its value; `count` and `peak` are both the peak so far; `window` and `duration` are
spoken (`5 seconds`); `opened_at` and `resolves_at` are ISO 8601 in UTC.
"""

_DICT_METHODS = frozenset({"items", "keys", "values", "get"})
# A field of an event may hold either; the text can be taken apart at whatever sign a message looks for.
_SAMPLES = ("a.b-c_d:e/f@g,h;i|j k" * 4, 1009)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox bounds `range` alone: `'a' * 10**9` and `9**9**9` would take all memory, or all time."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > 2 * MAX_BYTES:
            raise OverflowError(f"what {operator} makes here is too large for a message")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: object, right: object) -> int:
    """At least how many bits or items come out, where it may be far more than went in."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right
    for value, times in ((left, right), (right, left)):
        if operator == "*" and isinstance(value, str | list | tuple) and isinstance(times, int):
            return len(value) * times
    return 0


_ENVIRONMENT = _Environment(undefined=jinja2.StrictUndefined)


@dataclass(frozen=True)
class Template:
    """A compiled template. `variables` are those it uses, `key_paths` what it looks up in `key` by a literal.

    `constants` are the texts and numbers in it.
    """

    text: str
    variables: frozenset[str]
    key_paths: tuple[str, ...]
    constants: tuple[str | int, ...]
    _compiled: jinja2.Template = field(repr=False, compare=False)

    def render(self, values: Mapping[str, object]) -> str:
        """The text, cut at 4 kB of UTF-8 while it is made, so that an endless loop ends there.

        What comes out is never a template again. Raises ValueError for whatever goes wrong in the template.
        """
        parts, size = [], 0
        try:
            for part in self._compiled.generate(values):
                parts.append(part)
                size += len(part.encode("utf-8", "replace"))
                if size > MAX_BYTES:
                    break
        except Exception as error:  # noqa: BLE001 - an expression of the user's can raise anything
            raise ValueError(f"the template failed: {type(error).__name__}: {error}") from None
        return _cut("".join(parts))


def compile_template(text: str) -> Template:
    """Compile the text of a template. Raises ValueError with the line (of the text) of a syntax error."""
    try:
        tree = _ENVIRONMENT.parse(text)
        compiled = _ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        where = f" in its line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"the template cannot be read{where}: {str(error.message).rstrip('.')}") from None
    # Before jinja2 looks for the variables: it puts one constant in place of a whole mapping of them.
    constants = tuple(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str | int))
    variables = frozenset(meta.find_undeclared_variables(tree))
    paths = tuple(_key_paths(tree)) if "key" in variables else ()
    return Template(text, variables, paths, constants, compiled)


def template_mistakes(template: Template, key: tuple[str, ...] | None) -> tuple[tuple[str, str], ...]:
    """What a template asks for that a rule with these key paths does not have, as (what is wrong, hint).

    With None for a key that is not known, the paths are not judged.
    """
    unknown = sorted(template.variables - VARIABLES)
    paths = sorted({path for path in template.key_paths if path not in key}) if key is not None else []
    return (
        *((f"the message uses an unknown variable '{name}'", did_you_mean(name, VARIABLES)) for name in unknown),
        *(
            (f"the message uses key['{path}'], which is not in the rule's key", _written(path, key or ()))
            for path in paths
        ),
    )


def trial(template: Template, key: tuple[str, ...], threshold: int, window_ms: int) -> str | None:
    """Why a template fails whatever the alert, or None: it is rendered with sample values until that works once."""
    outcome: list[str | None] = ["the template failed: it takes too long"]

    def render() -> None:
        outcome[0] = _failure(template, _samples(template, key, threshold, window_ms))

    # Loops in loops may go on for years without writing a letter. A thread stuck in them ends with the process.
    thread = Thread(target=render, daemon=True)
    thread.start()
    thread.join(TRIAL_S)
    return outcome[0]


def _failure(template: Template, samples: Iterator[Mapping[str, object]]) -> str | None:
    first = None
    for values in samples:
        try:
            template.render(values)
        except ValueError as error:
            first = first or str(error)
        else:
            return None
    return first


def _samples(template: Template, key: tuple[str, ...], threshold: int, window_ms: int) -> Iterator[dict[str, object]]:
    # A template may look up the values of a key in a mapping of its own: those are among its constants.
    either = product(_SAMPLES, repeat=len(key))
    any_of = product((*_SAMPLES, *template.constants), repeat=len(key))
    for number, values in enumerate(islice(chain(either, any_of), _TRIALS)):
        count = threshold + 3 * (number + 1)
        yield {
            "key": dict(zip(key, values, strict=True)),
            "count": count,
            "peak": count,
            "events": count + 8,
            "threshold": threshold,
            "window": spoken(window_ms),
            "rule": "rule",
            "severity": "warning",
            "opened_at": "2026-01-31T10:00:03.120Z",
            "resolves_at": "2026-01-31T10:01:10.480Z",
            "duration": "1 minute 7 seconds 360 milliseconds",
        }


def _written(path: str, key: tuple[str, ...]) -> str:
    # `key.product.name` and `key['product']['name']` read as a look-up of the first part alone.
    whole = [known for known in key if known.startswith(path + ".")]
    if whole:
        return f"write key['{whole[0]}']: a path is one name in the message"
    return did_you_mean(path, key)


def _key_paths(tree: nodes.Template) -> Iterator[str]:
    for attribute in tree.find_all(nodes.Getattr):
        if _is_key(attribute.node) and attribute.attr not in _DICT_METHODS:
            yield attribute.attr
    for item in tree.find_all(nodes.Getitem):
        if _is_key(item.node) and isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            yield item.arg.value


def _is_key(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "key"


def _cut(text: str) -> str:
    # Events may hold half a surrogate pair, which no receiver can be sent: it becomes a question mark.
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        mark = "…".encode()
        data = data[: MAX_BYTES - len(mark)] + mark
    return data.decode("utf-8", "ignore")

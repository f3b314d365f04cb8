"""Templates: Jinja2 in its sandbox, compiled and tried when the configuration is loaded, bounded when rendered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice, product

import jinja2
from jinja2 import meta, nodes

from detection.durations import spoken
from settings import sandbox
from settings.problems import did_you_mean
from settings.sandbox import BoundedEnvironment

MAX_BYTES = 4096
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
"""What the template of a rule's message may use; whoever renders gives all of them.

`key` maps each key path to its value; `count` and `peak` are both the peak so far; `window` and `duration` are
spoken (`5 seconds`); `opened_at` and `resolves_at` are ISO 8601 in UTC.
"""

_DICT_METHODS = frozenset({"items", "keys", "values", "get"})
# A field of an event may hold either; the text can be taken apart at whatever sign a message looks for.
_SAMPLES = ("a.b-c_d:e/f@g,h;i|j k" * 4, 1009)


@cache
def _environment(html: bool, max_bytes: int) -> BoundedEnvironment:
    return BoundedEnvironment(html=html, max_bytes=max_bytes)


@dataclass(frozen=True)
class Template:
    """A compiled template. `variables` are those it uses, `key_paths` what it looks up in `key` by a literal.

    `constants` are the texts and numbers in it, `max_bytes` bounds what it makes, in UTF-8.
    """

    text: str
    variables: frozenset[str]
    key_paths: tuple[str, ...]
    constants: tuple[str | int, ...]
    max_bytes: int
    _compiled: jinja2.Template = field(repr=False, compare=False)

    def render(self, values: Mapping[str, object], *, whole: bool = False) -> str:
        """The text, cut at `max_bytes` while it is made, so that an endless loop ends there.

        What comes out is never a template again. Raises ValueError for whatever goes wrong in the template, and with
        `whole` also for a text that would be cut.
        """
        parts, size = [], 0
        sandbox.start()
        try:
            for part in self._compiled.generate(values):
                parts.append(part)
                size += len(part.encode("utf-8", "replace"))
                if size > self.max_bytes:
                    break
            text = "".join(parts)
        except Exception as error:  # noqa: BLE001 - an expression of the user's can raise anything
            raise ValueError(f"the template failed: {type(error).__name__}: {error}") from None
        if whole and size > self.max_bytes:
            raise ValueError(f"the template failed: it makes more than {self.max_bytes // 1024} kB")
        return _cut(text, self.max_bytes)


def compile_template(text: str, *, html: bool = False, max_bytes: int = MAX_BYTES) -> Template:
    """Compile the text of a template. Raises ValueError with the line (of the text) of a syntax error.

    With `html` every value is escaped, and the template has no way to have one that is not.
    """
    environment = _environment(html, max_bytes)
    try:
        tree = environment.parse(text)
        if html:
            _refuse_unescaped(tree)
        environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        where = f" in its line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"the template cannot be read{where}: {str(error.message).rstrip('.')}") from None
    # Before jinja2 looks for the variables: it puts one constant in place of a whole mapping of them.
    constants = tuple(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str | int))
    variables = frozenset(meta.find_undeclared_variables(tree))
    paths = tuple(_key_paths(tree)) if "key" in variables else ()
    compiled = environment.from_string(environment.bound(tree))
    return Template(text, variables, paths, constants, max_bytes, compiled)


def _refuse_unescaped(tree: nodes.Template) -> None:
    for found in tree.find_all((nodes.Filter, nodes.ScopedEvalContextModifier)):
        if not isinstance(found, nodes.Filter) or found.name == "safe":
            what = "the filter 'safe'" if isinstance(found, nodes.Filter) else "autoescape"
            message = f"{what} is not to be had here: what came with an event is always escaped"
            raise jinja2.TemplateSyntaxError(message, found.lineno)


def template_mistakes(
    template: Template,
    key: tuple[str, ...] | None,
    known: Collection[str] = VARIABLES,
    what: str = "the message",
) -> tuple[tuple[str, str], ...]:
    """What a template asks for that is not `known` or not in a rule's key paths, as (what is wrong, hint).

    With None for a key that is not known, the paths are not judged.
    """
    unknown = sorted(template.variables.difference(known))
    paths = sorted({path for path in template.key_paths if path not in key}) if key is not None else []
    return (
        *((f"{what} uses an unknown variable '{name}'", did_you_mean(name, known)) for name in unknown),
        *((f"{what} uses key['{path}'], which is not in the rule's key", _written(path, key or ())) for path in paths),
    )


def trial(template: Template, key: tuple[str, ...], threshold: int, window_ms: int) -> str | None:
    """Why the template of a rule's message fails whatever the alert, or None."""
    return failure(template, _samples(template, key, threshold, window_ms))


def failure(template: Template, samples: Iterable[Mapping[str, object]], *, whole: bool = False) -> str | None:
    """Why a template fails with every one of some sample values, or None: it is rendered until that works once."""
    first = None
    for values in samples:
        try:
            template.render(values, whole=whole)
        except ValueError as error:
            first = first or str(error)
        else:
            return None
    return first


def sample_keys(template: Template, key: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """Values for the paths of a key with which a template may work."""
    # A template may look up the values of a key in a mapping of its own: those are among its constants.
    either = product(_SAMPLES, repeat=len(key))
    any_of = product((*_SAMPLES, *template.constants), repeat=len(key))
    for values in islice(chain(either, any_of), _TRIALS):
        yield dict(zip(key, values, strict=True))


def _samples(template: Template, key: tuple[str, ...], threshold: int, window_ms: int) -> Iterator[dict[str, object]]:
    for number, values in enumerate(sample_keys(template, key)):
        count = threshold + 3 * (number + 1)
        yield {
            "key": values,
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


def _cut(text: str, max_bytes: int) -> str:
    # Events may hold half a surrogate pair, which no receiver can be sent: it becomes a question mark.
    data = text.encode("utf-8", "replace")
    if len(data) > max_bytes:
        mark = "…".encode()
        data = data[: max_bytes - len(mark)] + mark
    return data.decode("utf-8", "ignore")

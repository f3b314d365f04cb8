"""Message templates: Jinja2 in its sandbox, compiled when the configuration is loaded, 4 kB at most when rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from settings.problems import did_you_mean

MAX_BYTES = 4096

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

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
_DICT_METHODS = frozenset({"items", "keys", "values", "get"})


@dataclass(frozen=True)
class Template:
    """A compiled template. `variables` are those it uses, `key_paths` what it looks up in `key` by a literal."""

    text: str
    variables: frozenset[str]
    key_paths: tuple[str, ...]
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
    variables = frozenset(meta.find_undeclared_variables(tree))
    paths = tuple(_key_paths(tree)) if "key" in variables else ()
    return Template(text, variables, paths, compiled)


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

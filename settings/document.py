"""A YAML file as plain values with the place of each, read so that nothing turns into another value in silence.

PyYAML's own constructors read `on` as true, `1:30` as 90 and `012` as 10. Here its nodes give raw text and
position, and only what everybody reads the same is taken: `true` and `false`, `null`, plain decimal numbers, and
text. Everything else that some YAML reader takes for something other than text becomes a Trap, an error unless
it is put in quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver

from settings.problems import ConfigError, Problem
from settings.syntax import ANCHOR_HINT, TAG, place, syntax_problem

Step = str | int
At = tuple[Step, ...]
"""The way to a value from the top of the file: ("rules", 0, "count", "within")."""

_MAX_DEPTH = 30
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
_NUMBER_OF_SOME_READER = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?0[oxb][0-9a-fA-F_]+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_VARIABLE = re.compile(r"\$\{.*\}|\$[A-Z_][A-Z0-9_]*")
_BOOLEANS = {"y": "true", "yes": "true", "on": "true", "true": "true"} | {
    "n": "false",
    "no": "false",
    "off": "false",
    "false": "false",
}
_resolve: Callable[[type[yaml.Node], str, tuple[bool, bool]], str] = Resolver().resolve
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Trap:
    """What stands for no value: a scalar that readers of YAML take for different ones, or `{{ text }}` unquoted."""

    message: str
    hint: str


HALF = Trap("an escape here is half of a character", "write the character itself, or \\U with eight digits")
MISSING = Trap("a value is missing", 'write one, or "" for an empty text, or null for nothing')


@dataclass
class Document:
    """`values` holds dicts, tuples, str, int, float, bool, None and Traps; places are (line, column) from 1."""

    file: str
    values: Any = None
    problems: list[Problem] = field(default_factory=list)
    _places: dict[At, tuple[int, int]] = field(default_factory=dict)
    _key_places: dict[At, tuple[int, int]] = field(default_factory=dict)

    def problem(
        self, at: At, message: str, hint: str | None = None, *, key: bool = False, note: bool = False
    ) -> Problem:
        """A problem at a value (or at its key), or at the nearest thing around it that the file has."""
        # What is quoted from the file must not steer a terminal, nor break the line.
        plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in message)
        return Problem(self.file, *self._place(at, key), plain, hint, "note" if note else "error")

    def _place(self, at: At, key: bool) -> tuple[int, int]:
        if key and at in self._key_places:
            return self._key_places[at]
        return self._places.get(self.nearest(at), (1, 1))

    def get(self, at: At) -> Any:
        """The value at the end of a way; None where the file has nothing."""
        value = self.values
        for step in at:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, tuple) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def put(self, at: At, value: Any, place: At | None = None) -> None:
        """Set a value that the file does not have there. `place`: the part of the file that it comes from."""
        self.values = _replaced(self.values, at, value)
        self._places[at] = self._places[self.nearest(place or at)]

    def nearest(self, at: At) -> At:
        """The way to a value of the file, without the steps (of a model's alternatives) that the file lacks."""
        known: At = ()
        for step in at:
            if (*known, step) in self._places:
                known = (*known, step)
        return known

    def add(self, node: yaml.Node, at: At) -> Any:
        """Take in a node and all below it; returns its value."""
        self._places[at] = place(node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.add(item, (*at, index)) for index, item in enumerate(node.value))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        assert isinstance(node, yaml.ScalarNode)
        if _SURROGATE.search(node.value):
            return HALF
        return read_plain(node.value) if node.style is None else node.value

    def _mapping(self, node: yaml.MappingNode, at: At) -> dict[str, Any] | Trap:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                return Trap("the name of a setting must be text", "text that starts with { needs quotes")
            # A key is the text that is written: a field may well be called `on` or `1`.
            key = key_node.value
            if _SURROGATE.search(key):
                self._wrong(line, column, HALF.message, HALF.hint)
                continue
            if key_node.style is None and key in ("", "<<"):
                self._wrong(line, column, "this is not the name of a setting", "write the name before the colon")
                continue
            if key in values:
                first = self._key_places[(*at, key)][0]
                self._wrong(line, column, f"'{key}' is here a second time, first in line {first}", "remove one of them")
                continue
            self._key_places[(*at, key)] = (line, column)
            values[key] = self.add(value_node, (*at, key))
        return values

    def _wrong(self, line: int, column: int, message: str, hint: str) -> None:
        self.problems.append(Problem(self.file, line, column, message, hint))


def _replaced(values: Any, at: At, value: Any) -> Any:
    if not at:
        return value
    step, rest = at[0], at[1:]
    if isinstance(values, tuple):
        return tuple(_replaced(old, rest, value) if index == step else old for index, old in enumerate(values))
    return values | {step: _replaced(values.get(step, {}), rest, value)}


def read_document(path: Path) -> Document:
    """Read a file. Raises ConfigError when it cannot be read as one YAML document at all."""
    file = str(path)
    text = _text(path)
    if problems := tuple(_unsupported(file, text)):
        raise ConfigError(problems)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        raise ConfigError((Problem(file, 1, 1, "the file is empty", "at least `rules:` must be there"),))
    document = Document(file)
    document.values = document.add(node, ())
    if not isinstance(document.values, dict):
        hint = "the file starts with names such as `rules:` at the left margin"
        raise ConfigError((document.problem((), "this is no list of settings", hint),))
    return document


def read_plain(text: str) -> str | int | float | bool | Trap | None:
    """The value of a scalar without quotes."""
    if text in ("null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text) and len(text) <= 40:
        return int(text)
    if _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return _trap(text) or text


def _trap(text: str) -> Trap | None:
    quoted = f'"{text}" in quotes for text'
    if text == "":
        return MISSING
    if text.lower() in _BOOLEANS:
        return Trap(f"'{text}' may be read as a boolean or as text", f"write {_BOOLEANS[text.lower()]}, or {quoted}")
    if text.lower() == "null":
        return Trap(f"'{text}' may be read as null or as text", f"write null, or {quoted}")
    if _VARIABLE.fullmatch(text):
        hint = f"write {{env: NAME}} for the environment variable, or {quoted}"
        return Trap(f"'{text}' is not replaced by the value of a variable", hint)
    tag = _resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)
    if tag in ("int", "float") and ":" in text:
        hint = f"write a duration with its unit, such as 90s, or for text and times of day {quoted}"
        return Trap(f"'{text}' is read as a number in base 60 by some readers of YAML", hint)
    if tag in ("int", "float") or _NUMBER_OF_SOME_READER.fullmatch(text):
        hint = f"write a plain decimal number such as 12 or 0.5, or {quoted}"
        return Trap(f"'{text}' is read as different numbers, or as text, by different readers of YAML", hint)
    if tag == "timestamp":
        return Trap(f"'{text}' may be read as a date or as text", f"write {quoted}")
    if tag != "str":
        return Trap(f"'{text}' has a special meaning in YAML", f"write {quoted}")
    return None


def _text(path: Path) -> str:
    file = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = "give another with --config FILE or TUA_CONFIG"
        raise ConfigError((Problem(file, 1, 1, "there is no such file", hint),)) from None
    except OSError as error:
        raise ConfigError((Problem(file, 1, 1, f"the file cannot be read: {error.strerror}"),)) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        at = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError((Problem(file, *at, "the file is not UTF-8 text here", "save it as UTF-8"),)) from None


def _unsupported(file: str, text: str) -> Iterator[Problem]:
    """Mistakes of YAML itself, and those of its features that only hide what a configuration says."""
    documents = depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            at = place(event.start_mark)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    yield Problem(file, *at, f"nested more than {_MAX_DEPTH} levels deep")
                    return
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    yield Problem(file, *at, "a second document starts here", "remove the line ---")
            if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                # It is not named: it may be a password that begins with such a sign.
                sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
                yield Problem(file, *at, f"anchors and aliases ({sign}) are not supported", ANCHOR_HINT)
            if getattr(event, "tag", None) is not None:
                yield Problem(file, *at, *TAG)
    except yaml.MarkedYAMLError as error:
        yield syntax_problem(file, text, error)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        at = before.count("\n") + 1, len(before) - before.rfind("\n")
        yield Problem(file, *at, "there is a character here that YAML does not allow", "remove it")

"""`where`, `key`, event time and event id of a topic's rules, compiled once.

All paths in use become one msgspec decoder that skips every other field, and each rule becomes one generated
function over what was decoded: at hundreds of thousands of events a second, walking paths would be most of the work.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Union

import msgspec
from msgspec import UNSET

from detection.keys import Key, KeyPart, key_part
from detection.rules import CountRule, EventTime, Scalar, Topic

_DIGITS = 4300
"""Longer integers are neither read nor written by Python."""


BatchMatcher = Callable[[Sequence[Any]], "tuple[list[Key | None], list[int]]"]
"""Decoded events -> for each its key, or None where it does not count; and the positions of those that `where` lets
pass but whose key can't be one."""


class Fields:
    """The decoder of the fields that a topic and its rules read, and access to them by dotted path."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._tree: dict[str, Any] = {}
        whole: set[tuple[str, ...]] = set()
        for path in sorted((tuple(path.split(".")) for path in set(paths)), key=len):
            # What a shorter path reads whole is not taken apart for a longer one.
            if any(path[:length] in whole for length in range(1, len(path))):
                continue
            whole.add(path)
            node = self._tree
            for name in path:
                node = node.setdefault(name, {})
        self._names: dict[str, Any] = {"UNSET": UNSET}
        self._type, self._struct = self._define(self._tree)
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._struct, float_hook=float).decode
        """Raises msgspec.ValidationError also for numbers beyond what it can read: then `decode_again`."""

    def decode_again(self, value: bytes) -> Any:
        """A slower `decode`: numbers like 1e999 are infinite, a value that matches nothing.

        Else such a record would be invalid for all rules because one of them reads that field. Raises
        msgspec.DecodeError where the value is not one JSON object.
        """
        _WHOLE.decode(value)
        event = json.loads(value, parse_int=_any_integer, parse_float=float, strict=False)
        return msgspec.convert(event, self._struct)

    def getter(self, path: str) -> Callable[[Any], Any]:
        """A function from a decoded event to the value at `path`: UNSET where it is missing."""
        get: Callable[[Any], Any] = self.compile("get", [*self.read(path, "value"), "return value"])
        return get

    def read(self, path: str, into: str) -> list[str]:
        """Statements that put the value at `path` of `event` into the variable `into`."""
        lines: list[str] = []
        node, at, struct = self._tree, "event", self._type
        for name in path.split("."):
            if at == "event":
                # What the decoder gives is always of that type.
                index = list(node).index(name)
                lines.append(f"{into} = event.f{index}")
                node, at, struct = node[name], into, f"{struct}_{index}"
            elif node:
                index = list(node).index(name)
                lines.append(f"{at} = {at}.f{index} if {at}.__class__ is {struct} else UNSET")
                node, struct = node[name], f"{struct}_{index}"
            else:
                lines.append(f"{at} = {at}.get({name!r}, UNSET) if {at}.__class__ is dict else UNSET")
        return lines

    def compile(self, name: str, body: Sequence[str], *, parameter: str = "event", **names: Any) -> Any:
        """A function of one parameter. Texts from the configuration enter only as literals by `repr`."""
        namespace = self._names | names
        source = f"def {name}({parameter}):\n" + "\n".join("    " + line for line in body)
        exec(compile(source, f"<{name}>", "exec"), namespace)
        return namespace[name]

    def _define(self, node: dict[str, Any], name: str = "Event") -> tuple[str, type]:
        fields = []
        for index, child in enumerate(node.values()):
            kind: Any = Any
            if child:
                # Any other JSON type where an object is expected makes the path missing, not the event invalid.
                kind = Union[self._define(child, f"{name}_{index}")[1], None, bool, int, float, str, list]  # noqa: UP007
            fields.append((f"f{index}", kind, UNSET))
        rename = {f"f{index}": field for index, field in enumerate(node)}
        struct = msgspec.defstruct(name, fields, rename=rename, gc=False)
        self._names[name] = struct
        return name, struct


_WHOLE = msgspec.json.Decoder(msgspec.defstruct("Whole", []))


def _any_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def fields_of(topic: Topic, rules: Sequence[CountRule]) -> Fields:
    """The fields that are in use on a topic."""
    paths = [path for rule in rules for path in (*rule.key, *(path for path, _ in rule.where))]
    return Fields([*paths, *filter(None, (topic.event_time.field, topic.event_id))])


def compile_rule(fields: Fields, rule: CountRule) -> BatchMatcher:
    """The matcher of one rule. Values compare with their JSON type; a missing path matches nothing."""
    body: list[str] = []
    for path, allowed in rule.where:
        body += [*fields.read(path, "v"), f"if not ({_equals_any(allowed)}):", "    keep(None)", "    continue"]
    for number, path in enumerate(rule.key):
        part = f"k{number}"
        body += [
            *fields.read(path, part),
            f"if {part}.__class__ is not str:",
            f"    {part} = key_part({part})",
            f"    if {part} is None:",
            "        bad.append(len(keys))",
            "        keep(None)",
            "        continue",
        ]
    parts = [f"k{number}" for number in range(len(rule.key))]
    body.append(f"keep({parts[0]})" if len(parts) == 1 else f"keep(({', '.join(parts)}))")
    source = ["keys, bad = [], []", "keep = keys.append", "for event in events:"]
    source += ["    " + line for line in body] + ["return keys, bad"]
    matcher: BatchMatcher = fields.compile("match", source, parameter="events", key_part=key_part)
    return matcher


def compile_event_time(fields: Fields, event_time: EventTime) -> Callable[[Any], int] | None:
    """A function from a decoded event to its time in milliseconds; None where the record's timestamp is it.

    It raises ValueError with what is wrong when the time is missing or unreadable.
    """
    if event_time.field is None:
        return None
    get, path, read = fields.getter(event_time.field), event_time.field, _TIME_READERS[event_time.unit]

    def time_of(event: Any) -> int:
        value = get(event)
        if value is UNSET:
            raise ValueError(f"event time: field {path} is missing")
        try:
            return read(value)
        except (ValueError, TypeError, OverflowError) as error:
            shown = msgspec.json.encode(value).decode()[:80]
            # The error's own text may repeat the whole value.
            raise ValueError(f"event time: field {path} is {shown}: {str(error)[:80]}") from None

    return time_of


def compile_event_id(fields: Fields, path: str | None) -> Callable[[Any], KeyPart | None] | None:
    """A function from a decoded event to its id; None where it has none, and the record stands for itself."""
    if path is None:
        return None
    get = fields.getter(path)
    return lambda event: key_part(get(event))


def _equals_any(allowed: Sequence[Scalar]) -> str:
    tests = [
        "v is None" if value is None else f"v is {value}"
        for value in allowed
        if value is None or value is True or value is False
    ]
    texts = tuple(value for value in allowed if isinstance(value, str))
    numbers = tuple(value for value in allowed if isinstance(value, int | float) and not isinstance(value, bool))
    if texts:
        tests.append(f"v == {texts[0]!r}" if len(texts) == 1 else f"v in {texts!r}")
    if numbers:
        tests.append(f"(v.__class__ is int or v.__class__ is float) and v in {numbers!r}")
    return " or ".join(tests) or "False"


def _from_number(per_unit: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if value.__class__ is int:
            return int(value) * per_unit
        if value.__class__ is float:
            # Through the decimal digits, as written: 1.001 * 1000 is 1000.9999999999999 in binary.
            return int((Decimal(repr(value)) * per_unit).__floor__())
        raise ValueError("expected a number")

    return read


def _from_iso(value: Any) -> int:
    if value.__class__ is not str:
        raise ValueError("expected a text in ISO 8601")
    moment = datetime.datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("ISO 8601 without an offset from UTC")
    return (moment - _EPOCH) // datetime.timedelta(milliseconds=1)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_TIME_READERS: dict[str, Callable[[Any], int]] = {"ms": _from_number(1), "s": _from_number(1000), "iso": _from_iso}

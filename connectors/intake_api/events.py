"""From the body of a request to the events in it, judged as the job will judge them, with their keys."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from json import JSONDecodeError
from typing import Any, NamedTuple

import msgspec

from connectors.intake_api.answers import Refusal, Refused
from detection.intake import Record, Records, TopicIntake
from detection.keys import KeyPart, key_part, key_values
from detection.rules import CountRule, Topic
from detection.times import LAST_MS
from detection.watermarks import NEVER

JSON, NDJSON = "application/json", "application/x-ndjson"


class Event(NamedTuple):
    """What is written: the bytes that came, but for an event id that was put in. `key` None: any partition."""

    value: bytes
    key: bytes | None


class DuplicateName(ValueError):
    """A name occurs twice in one object: which value counts would depend on who reads it (RFC 8259, section 4)."""

    def __init__(self, name: str) -> None:
        self.name = name[:100].encode(errors="replace").decode()  # half of a surrogate pair can't be shown
        super().__init__("this name is twice in one object")


def one_value(text: bytes) -> Any:
    """The JSON value of a text in UTF-8. Raises ValueError, and RecursionError, with what is wrong."""
    return _decoder.decode(text.decode())


def events_in(body: bytes, media_type: str) -> tuple[bool, list[bytes]]:
    """Whether a body is a batch, and the texts of its events. Raises Refusal for what is neither JSON nor NDJSON."""
    if media_type == NDJSON:
        return True, [text for line in body.split(b"\n") if (text := line.strip(_SPACE))]
    if not body.lstrip(_SPACE).startswith(b"["):
        return False, [body.strip(_SPACE)]
    try:
        return True, [bytes(item) for item in _ARRAY.decode(body)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(422, f"the body is not a JSON array: {error}") from None


class EventReader:
    """The events of one topic. `rules` are all rules; those of other topics are passed over."""

    def __init__(self, topic: Topic, rules: Sequence[CountRule]) -> None:
        self.topic = topic
        # By itself each: what is late among the events of one request is not by their log's.
        self._judge = TopicIntake(replace(topic, lateness_ms=LAST_MS), rules)
        self._rules = tuple(rule for rule in rules if rule.topic.name == topic.name)
        keys = {rule.key for rule in self._rules}
        # One order of the events of each key is kept by one partition: only where all rules mean the same by it.
        self._key_paths = [path.split(".") for path in keys.pop()] if len(keys) == 1 else []
        self._id_path = topic.event_id.split(".") if topic.event_id is not None else None

    def read(self, texts: Sequence[bytes], id_: str | None, batch: bool) -> list[Event | Refused]:
        """Each event, or why it is refused, in order.

        `id_` is written where the topic has a field for the event's id and the event lacks it; for those of a batch
        with the position behind it.
        """
        if id_ is not None and self._id_path is not None:
            ids = [f"{id_}/{number}" for number in range(len(texts))] if batch else [id_]
            read = [self._read(text, one) for text, one in zip(texts, ids, strict=True)]
        else:
            read = [self._read(text, None) for text in texts]
        for number, refused in self._judged(read):
            read[number] = refused
        return read

    def _read(self, text: bytes, id_: str | None) -> Event | Refused:
        try:
            event = one_value(text)
        except RecursionError:
            return Refused(422, "nested too deeply")
        except UnicodeDecodeError as error:
            return Refused(422, f"not UTF-8: {error.reason} at byte {error.start}")
        except JSONDecodeError as error:
            return Refused(422, f"not JSON: {error.msg} at character {error.pos}")
        except DuplicateName as error:
            return Refused(422, str(error), error.name)
        except ValueError as error:
            return Refused(422, str(error)[:200])
        if event.__class__ is not dict:
            return Refused(422, "an event is a JSON object")
        if id_ is not None and self._id_path is not None and _at(event, self._id_path) is None:
            try:
                text = _with_text(text, self._id_path, id_)
            except msgspec.ValidationError:
                detail = "there is no room for the event's id: a field on the way to it is no object"
                return Refused(422, detail, ".".join(self._id_path))
            except msgspec.DecodeError as error:
                return Refused(422, f"not JSON: {error}")
        return Event(text, self._key(event))

    def _judged(self, read: Sequence[Event | Refused]) -> list[tuple[int, Refused]]:
        """Those that no rule of the topic could count, by the job's own code. What is late or early is not refused."""
        now_ms = time.time_ns() // 1_000_000
        records = [Record(one.value, now_ms, n) for n, one in enumerate(read) if isinstance(one, Event)]
        found = self._judge.take(0, Records.of(records), NEVER).rejected if records else []
        every = len(self._rules)
        return [
            (item.offset, Refused(422, item.detail, self._field(item.detail)))
            for item in found
            if item.reason == "invalid" and len(item.rules) == every
        ]

    def _field(self, detail: str) -> str | None:
        if detail.startswith("event time"):
            return self.topic.event_time.field
        if detail.startswith("key "):
            return detail.removeprefix("key ").partition(":")[0]
        return None

    def _key(self, event: dict[str, Any]) -> bytes | None:
        parts: list[KeyPart] = []
        for path in self._key_paths:
            part = key_part(_at(event, path))
            if part is None:
                return None
            parts.append(part)
        try:
            return key_of(parts) if parts else None
        except UnicodeEncodeError:  # half of a surrogate pair, which no rule counts
            return None


def key_of(parts: Sequence[KeyPart]) -> bytes:
    """The key of a record: a text as it is, a number or boolean as JSON, several as a JSON array."""
    if len(parts) > 1:
        return msgspec.json.encode(key_values(tuple(parts)))
    return parts[0] if isinstance(parts[0], bytes) else parts[0].encode(errors="surrogatepass")


def _at(event: Any, path: Sequence[str]) -> Any:
    """The value at a path; None where there is none."""
    for name in path:
        if event.__class__ is not dict:
            return None
        event = event.get(name)
    return event


def _with_text(text: bytes, path: Sequence[str], value: str) -> bytes:
    """The object with a text at the path, all else as it was written. Raises ValidationError where that can't be."""
    name, *below = path
    fields = _FIELDS.decode(text)
    there = fields.get(name, _NULL)
    if below:
        fields[name] = msgspec.Raw(_with_text(b"{}" if bytes(there) == b"null" else bytes(there), below, value))
    else:
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DuplicateName(twice)
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_SPACE = b" \t\r\n"
_NULL = msgspec.Raw(b"null")
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)

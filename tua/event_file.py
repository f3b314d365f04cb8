"""Recorded events in JSON Lines, as `tua backtest` reads them."""

from __future__ import annotations

import base64
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import UNSET, UnsetType

from detection.intake import Record
from detection.replay import Place


class EventFileError(Exception):
    """A mistake of the file: `events.jsonl:12: what is wrong (how to mend it)`."""


class _Line(msgspec.Struct):
    timestamp: int
    topic: str | UnsetType = UNSET
    partition: int = 0
    offset: int | UnsetType = UNSET
    arrival: int | None = None
    value: msgspec.Raw | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET


class EventFile:
    """A file of events, read twice: first for its mistakes and the `sizes` of its partitions, then for its records.

    So every mistake is told before anything is counted, and no more than a line is held at a time. What is added to
    the file in between is left out; a pipe is written to a temporary file first. Raises EventFileError at the first
    mistake, OSError when the file can't be read.
    """

    def __init__(self, path: Path, topics: Sequence[str]) -> None:
        self._path, self._topics = path, topics
        self._file = _rewindable(path)
        self._lines: int | None = None
        self.sizes: dict[Place, int] = {}
        """Number of records by (topic, partition)."""
        for place, _ in self.records():
            self.sizes[place] = self.sizes.get(place, 0) + 1
        self._lines = sum(self.sizes.values())

    def records(self) -> Iterator[tuple[Place, Record]]:
        """The records in the order of the file, each with its (topic, partition)."""
        decode = msgspec.json.Decoder(_Line).decode
        last: dict[Place, int] = {}
        self._file.seek(0)
        for number, text in enumerate(islice(self._file, self._lines), 1):
            if not text.strip():
                raise self._mistake(number, "the line is blank", "delete it")
            try:
                if not text.isascii():
                    text.decode()
                line = decode(text.removeprefix(BOM_UTF8) if number == 1 else text)
            except (ValueError, RecursionError) as error:
                raise self._mistake(number, *_what_is_wrong(error)) from None
            place = (self._topic(line, number), line.partition)
            offset = last.get(place, -1) + 1 if line.offset is UNSET else line.offset
            if line.partition < 0 or offset < 0:
                raise self._mistake(number, "partition and offset can't be negative", None)
            if offset <= last.get(place, -1):
                hint = "the lines of one partition must be in the order of its log"
                raise self._mistake(
                    number, f"offset {offset} of {place[0]}[{place[1]}] follows offset {last[place]}", hint
                )
            last[place] = offset
            yield place, Record(self._value(line, number), line.timestamp, offset, line.arrival)

    def close(self) -> None:
        self._file.close()

    def _topic(self, line: _Line, number: int) -> str:
        if line.topic is UNSET:
            if len(self._topics) == 1:
                return self._topics[0]
            raise self._mistake(number, "the line names no topic", f"one of {', '.join(self._topics)}")
        if line.topic not in self._topics:
            raise self._mistake(
                number, f"topic {line.topic!r} is not configured", f"configured: {', '.join(self._topics)}"
            )
        return line.topic

    def _value(self, line: _Line, number: int) -> bytes | None:
        if line.value_base64 is not UNSET:
            try:
                return base64.b64decode(line.value_base64, validate=True)
            except ValueError as error:
                raise self._mistake(number, f"value_base64: {error}", None) from None
        return None if line.value is UNSET else bytes(line.value)

    def _mistake(self, number: int, what: str, hint: str | None) -> EventFileError:
        return EventFileError(f"{self._path}:{number}: {what}{f' ({hint})' if hint else ''}")


def _rewindable(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.seekable():
        return file
    with file:
        whole = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with its owner
        shutil.copyfileobj(file, whole)
        return whole


def _what_is_wrong(error: Exception) -> tuple[str, str | None]:
    if isinstance(error, msgspec.ValidationError):
        return f"not a record: {error}", 'expected {"timestamp": milliseconds, "value": …}'
    if isinstance(error, RecursionError):
        return "nested too deeply to be read", None
    return f"not JSON in UTF-8: {error}", "one JSON object a line"

"""What clients are told: the outcome of each event, and problems as RFC 9457 has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal

import msgspec
from starlette.responses import Response

AGAIN = {"Retry-After": "1"}
"""The header of a 503. Kafka that is back takes events at once."""


class Written(msgspec.Struct, frozen=True, gc=False):
    """An event that all replicas in sync have. `timestamp` is the record's, in ms since 1970.

    `offset` is -1 where Kafka had it from an attempt before, and does not say where.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    status: Literal[202] = 202


class Refused(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An event that is not acknowledged. `field` is the path of the field at fault, where it is one.

    With 503 it may be on the topic all the same: Kafka has not said.
    """

    status: int
    detail: str
    field: str | None = None


Outcome = Written | Refused


class Batch(msgspec.Struct, frozen=True):
    """The outcome of each event of an array or of NDJSON, in their order."""

    written: int
    refused: int
    events: list[Outcome]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457's problem details; `type` is about:blank, so `title` is the status's own phrase.

    `events`: the outcome of each event of a batch, some of which may be written.
    """

    title: str
    status: int
    detail: str
    field: str | None = None
    events: list[Outcome] | None = None


class Refusal(Exception):
    """A request that is refused as a whole. `field` is a path in its body, or the name of a header."""

    def __init__(
        self, status: int, detail: str, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.detail, self.field, self.headers = status, detail, field, headers
        super().__init__(detail)


def unavailable(detail: str) -> Refusal:
    """503, with when to try again."""
    return Refusal(503, detail, headers=AGAIN)


def problem(
    status: int,
    detail: str,
    *,
    field: str | None = None,
    events: Sequence[Outcome] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response of `application/problem+json`."""
    shown = None if events is None else list(events)
    content = _encode(Problem(HTTPStatus(status).phrase, status, detail, field, shown))
    return Response(content, status, headers, "application/problem+json")


def one_event(outcome: Outcome) -> Response:
    """The answer to a request of one event."""
    if isinstance(outcome, Written):
        return _json(202, outcome)
    return problem(outcome.status, outcome.detail, field=outcome.field, headers=_retry_after(outcome.status))


def many_events(outcomes: Sequence[Outcome]) -> Response:
    """The answer to a batch: the status that all have, 503 where any has it; else 207, or 422 with none written.

    503 goes before what was written: a client that looks at the status alone must send again, not lose the rest.
    """
    found = {outcome.status for outcome in outcomes}
    status = 503 if 503 in found else found.pop() if len(found) == 1 else 207 if 202 in found else 422
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    if status < 300:
        return _json(status, Batch(len(outcomes) - len(refused), len(refused), list(outcomes)))
    detail = f"{len(refused)} of {len(outcomes)} events are not acknowledged, the first because: {refused[0].detail}"
    return problem(status, detail, events=outcomes, headers=_retry_after(status))


def _json(status: int, content: Written | Batch) -> Response:
    return Response(_encode(content), status, media_type="application/json")


def _retry_after(status: int) -> Mapping[str, str] | None:
    return AGAIN if status == 503 else None


_encode = msgspec.json.Encoder().encode

"""A client's retry counts once: what came of an Idempotency-Key is remembered for a while.

After draft-ietf-httpapi-idempotency-key-header-06, with one difference: it would have 409 for a retry that comes while
the first request is still at work. Here the retry waits, which is bounded, and gets the answer of the first: a client
that has lost its connection learns what it has to know.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from connectors.intake_api.answers import Outcome, Refusal, Refused, Written, unavailable

HEADER = "Idempotency-Key"
_LONGEST = 255

Scope = tuple[str, str, str]
"""Client, topic, key: clients that count from 1 do not meet."""

Write = Callable[[Sequence[Outcome | None] | None], Awaitable[list[Outcome | None]]]


@dataclass(slots=True)
class _Remembered:
    fingerprint: bytes
    until: float
    weight: int
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[Outcome | None] | None = None


class Retries:
    """`for_s`: how long a key is remembered; `events`: for how many events in all, the oldest go first."""

    def __init__(self, for_s: float, events: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._for_s, self._events, self._clock = for_s, events, clock
        self._entries: OrderedDict[Scope, _Remembered] = OrderedDict()
        self._weight = 0

    async def once(self, scope: Scope, fingerprint: bytes, count: int, write: Write) -> list[Outcome | None]:
        """What `write` returned for this key, which is called for the first request of it only.

        It is called again, with what it returned, where Kafka has not acknowledged all of the `count` events. Raises
        Refusal where the same key came with another request.
        """
        now = self._clock()
        self._forget(now)
        entry = self._entries.get(scope)
        if entry is not None and entry.fingerprint != fingerprint:
            # The draft, of errors: "If there is an attempt to reuse an idempotency key with a different request
            # payload, the resource server SHOULD reply with a HTTP 422 status code". 409 is for one still at work.
            raise Refusal(422, "this key was used for another request", HEADER)
        if entry is not None and not entry.finished.is_set():
            await entry.finished.wait()
            if entry.outcomes is not None:
                return entry.outcomes
            raise unavailable("the request that this one repeats was cut")
        if entry is not None and entry.outcomes is not None and _is_final(entry.outcomes):
            return entry.outcomes
        before = entry.outcomes if entry is not None else None
        if entry is None:
            entry = _Remembered(fingerprint, now + self._for_s, count)
            self._entries[scope] = entry
            self._weight += count
        else:
            entry.finished.clear()
        try:
            entry.outcomes = await write(before)
        except BaseException:
            self._drop(scope, entry)
            raise
        finally:
            entry.finished.set()
        return entry.outcomes

    def _forget(self, now: float) -> None:
        while self._entries:
            scope, oldest = next(iter(self._entries.items()))
            if not oldest.finished.is_set() or (oldest.until > now and self._weight <= self._events):
                break
            self._drop(scope, oldest)

    def _drop(self, scope: Scope, entry: _Remembered) -> None:
        if self._entries.get(scope) is entry:
            del self._entries[scope]
            self._weight -= entry.weight


def key_in(header: str | None) -> str | None:
    """The key of a header: a String of structured fields (RFC 9651), or the bare text that many clients send.

    Raises Refusal for what is neither.
    """
    if header is None:
        return None
    key = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    if not 0 < len(key) <= _LONGEST or not key.isascii() or not key.isprintable():
        raise Refusal(422, f"a key is 1 to {_LONGEST} printable characters of ASCII", HEADER)
    return key


def _is_final(outcomes: Sequence[Outcome | None]) -> bool:
    return all(isinstance(one, Written) or (isinstance(one, Refused) and one.status != 503) for one in outcomes)

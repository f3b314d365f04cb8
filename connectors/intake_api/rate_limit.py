"""How many events a client may send: a token bucket for each."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from connectors.intake_api.answers import Refusal
from settings import RateLimitSettings

_CLIENTS = 10_000
"""Beyond that many, the one that came longest ago is forgotten."""


class RateLimit:
    """A bucket may be overdrawn by one request, whose size is known when it has been read; the debt is waited off."""

    def __init__(self, settings: RateLimitSettings | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was so

    def admit(self, client: str) -> None:
        """Count the first event of a request. Raises Refusal (429) with the seconds to wait when there is no room."""
        if self._settings is None:
            return
        tokens, now = self._now(client), self._clock()
        if tokens < 1:
            wait_s = (1 - tokens) * self._settings.per_ms / 1000 / self._settings.events
            detail = f"more than {self._settings.events} events in {self._settings.per_ms} ms"
            raise Refusal(429, detail, headers={"Retry-After": str(max(1, math.ceil(wait_s)))})
        self._keep(client, tokens - 1, now)

    def charge(self, client: str, events: int) -> None:
        """Count the further events of a request that was admitted."""
        if self._settings is not None and events:
            self._keep(client, self._now(client) - events, self._clock())

    def _now(self, client: str) -> float:
        assert self._settings is not None
        full = float(self._settings.events)
        tokens, at = self._buckets.get(client, (full, 0.0))
        return min(full, tokens + (self._clock() - at) * full * 1000 / self._settings.per_ms)

    def _keep(self, client: str, tokens: float, now: float) -> None:
        self._buckets[client] = tokens, now
        self._buckets.move_to_end(client)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)

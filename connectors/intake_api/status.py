"""What the intake knows of itself: whether Kafka and the topics are there, and what it did in the last minute."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import structlog
from confluent_kafka import KafkaException

from connectors.intake_api.answers import Outcome

log = structlog.get_logger()

_ASK_S = 2.0
_AGAIN_S = 5.0
_AGAIN_WHEN_NOT_READY_S = 0.5
_SUMMARY_S = 60.0


class Readiness:
    """Asks a broker for its topics, again and again. `ask` blocks, and raises KafkaException."""

    def __init__(self, topics: Iterable[str], ask: Callable[[float], Mapping[str, int]]) -> None:
        self._topics, self._ask = frozenset(topics), ask
        self.there: frozenset[str] = frozenset()
        """The topics that a broker has named. They stay when all brokers are gone: these may come back at once."""
        self.reason: str | None = "Kafka has not been asked yet"
        """Why it is not ready; None when it is."""

    async def ask(self) -> None:
        """Ask once; returns when there is an answer, or none in time."""
        try:
            found = await asyncio.to_thread(self._ask, _ASK_S)
        except KafkaException as error:
            reason: str | None = f"Kafka cannot be reached: {error.args[0].str()}"
        else:
            self.there = self._topics & {name for name, partitions in found.items() if partitions}
            missing = ", ".join(sorted(self._topics - self.there))
            reason = f"topics are not there yet: {missing} (`tua run` makes them)" if missing else None
        if reason != self.reason:
            if reason is None:
                log.info("ready", topics=sorted(self._topics))
            else:
                log.warning("not ready", reason=reason)
        self.reason = reason

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(_AGAIN_S if self.reason is None else _AGAIN_WHEN_NOT_READY_S)
            await self.ask()


class Summary:
    """Counts events by the status of their outcome, and requests that were refused as a whole."""

    def __init__(self) -> None:
        self._events: Counter[int] = Counter()
        self._requests: Counter[int] = Counter()

    def events(self, outcomes: Iterable[Outcome]) -> None:
        self._events.update([outcome.status for outcome in outcomes])

    def refused(self, status: int) -> None:
        self._requests[status] += 1

    def say(self) -> None:
        """One line, where anything came since the last one."""
        written = self._events.pop(202, 0)
        if written or self._events or self._requests:
            log.info(
                "intake",
                events_written=written,
                events_refused={str(status): count for status, count in sorted(self._events.items())},
                requests_refused={str(status): count for status, count in sorted(self._requests.items())},
            )
        self._events.clear()
        self._requests.clear()

    async def each_minute(self) -> None:
        """Say it until cancelled."""
        while True:
            await asyncio.sleep(_SUMMARY_S)
            self.say()

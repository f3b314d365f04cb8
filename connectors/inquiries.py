"""Questions to the brokers that nobody waits for: asked in the background, answered on the flow's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from connectors.client import ConnectionLog, client_config
from settings import KafkaSettings

_TIMEOUT_S = 5

T = TypeVar("T")


class Inquiries:
    """Each question takes a function that gets the answer, or the error, in the first `take_answers` after it came."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._admin = AdminClient(client_config(kafka, "offsets", ConnectionLog("offsets")))
        self._answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def take_answers(self) -> None:
        while not self._answers.empty():
            self._answers.get()()

    def end(self, place: TopicPartition, then: Callable[[int | KafkaException], None]) -> None:
        """The end offset of a partition. A call for each, so that one without a leader keeps no other waiting."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        self._ask([self._offset(place, latest)], lambda found: found[0].offset, then)

    def edges(self, place: TopicPartition, then: Callable[[tuple[int, int] | KafkaException], None]) -> None:
        """The first offset and the end offset of a partition."""
        specs = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        asked = [self._offset(place, spec) for spec in specs]
        self._ask(asked, lambda found: (found[0].offset, found[1].offset), then)

    def topic(self, name: str, then: Callable[[tuple[int, str] | KafkaException], None]) -> None:
        """The number of partitions of a topic, and its id."""
        asked = self._admin.describe_topics(TopicCollection([name]), request_timeout=_TIMEOUT_S)[name]
        self._ask([asked], lambda found: (len(found[0].partitions), str(found[0].topic_id)), then)

    def on_thread(self, ask: Callable[[], T], then: Callable[[T | KafkaException], None]) -> None:
        """What there is only a waiting call for, on a thread of its own."""

        def run() -> None:
            try:
                answer: T | KafkaException = ask()
            except KafkaException as error:
                answer = error
            self._answers.put(partial(then, answer))

        threading.Thread(target=run, name="tua-inquiry", daemon=True).start()

    def _offset(self, place: TopicPartition, spec: Any) -> Future[Any]:
        return next(iter(self._admin.list_offsets({place: spec}, request_timeout=_TIMEOUT_S).values()))

    def _ask(
        self, asked: list[Future[Any]], read: Callable[[list[Any]], T], then: Callable[[T | KafkaException], None]
    ) -> None:
        def done() -> None:
            try:
                answer: T | KafkaException = read([future.result() for future in asked])
            except KafkaException as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a question without any answer would be waited for for ever
                answer = KafkaException(KafkaError(KafkaError._FAIL, repr(error)))
            self._answers.put(partial(then, answer))

        _when_all_are_done(asked, done)


def _when_all_are_done(futures: list[Future[Any]], then: Callable[[], None]) -> None:
    """Call `then` on the thread of the last."""
    first, *rest = futures
    first.add_done_callback(lambda _: _when_all_are_done(rest, then) if rest else then())

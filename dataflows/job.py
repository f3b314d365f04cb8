"""What the job needs around its flow: settings, state directory, topics, clean stop, delivery."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from actions.base import ActionError
from actions.delivery.dispatcher import Dispatcher
from actions.delivery.store import OutboxError
from actions.registry import ACTION_TYPES
from connectors.client import PropertyError, Stopped, check_properties, wait_for_brokers
from connectors.exchange import Exchange
from connectors.poller import Poller
from connectors.publisher import Publisher
from connectors.rejected import RejectedSink
from connectors.source import KafkaSource
from connectors.topics import TopicError, ensure_topics
from dataflows.cluster import Cluster
from dataflows.logs import configure_logs
from dataflows.started import tell_supervisor
from dataflows.state_directory import StateDirectory, StateDirectoryError
from dataflows.stop_request import StopRequest
from dataflows.wall_clock import WallClock
from detection.rules import Topic
from settings import ConfigError, SecretError, Settings, config_path, load

log = structlog.get_logger()

_OBJECTS = 100_000


class Job:
    """One process of the job. Made once, when the dataflow module is imported."""

    def __init__(self, settings: Settings, stop: StopRequest) -> None:
        self.settings, self._stop = settings, stop
        self.rules = settings.detection_rules()
        self.topics: tuple[Topic, ...] = tuple({rule.topic.name: rule.topic for rule in self.rules}.values())
        self.clock = WallClock()
        self.publisher = Publisher(settings.kafka)
        self.rejected = RejectedSink(settings.kafka)
        self.dispatcher = Dispatcher(settings, self.publisher.publish, now_ms=self.clock.now_ms)
        self._cluster = Cluster.of(sys.argv)
        self.exchange = Exchange(self._cluster.workers)
        self._partitions: dict[str, int] = {}
        self._topic_ids: dict[str, str] = {}

    @classmethod
    def prepare(cls) -> Job:
        """Read the settings, take the state directory, begin to deliver what waits, reach the brokers, have the topics.

        Ends the process with 1 and a clear text where that can't be done, and with 0 when asked to stop meanwhile.
        """
        configure_logs()
        stop = StopRequest()
        try:
            settings = load(config_path(), ACTION_TYPES)
            directory = StateDirectory(settings.state.directory)
            directory.lock(sys.argv)
            directory.prepare_recovery(sys.argv)
            check_properties(settings.kafka)
            job = cls(settings, stop)
        except ConfigError as error:
            _fail("\n".join(map(str, error.problems)))
        except (StateDirectoryError, PropertyError, OutboxError, ActionError, SecretError) as error:
            _fail(str(error))
        try:
            job._find_topics()
        except Stopped:
            log.info("stopped before Kafka was reached")
            job.close()
            raise SystemExit(0) from None
        except TopicError as error:
            job.close()
            _fail(str(error))
        tell_supervisor()
        stop.ends_until_flow(job.close)
        return job

    def source(self, sizes: Callable[[], Sequence[int]]) -> KafkaSource:
        """`sizes`: bytes of each shard's state when it was packed last."""
        return KafkaSource(
            self.topics,
            self.rules,
            self._connect,
            now_ms=self.clock.now_ms,
            monotonic=time.monotonic,
            stopping=self._stop.made,
            paused=lambda: self.dispatcher.full or self.rejected.full,
            epoch_s=self._cluster.epoch_s if self._cluster.workers > 1 else None,
            exchange=self.exchange,
            sizes=sizes,
        )

    def _connect(self) -> Poller:
        self._stop.flow_begins()
        _quiet_collector()
        return Poller(
            self.settings.kafka,
            {topic.name: topic for topic in self.topics},
            self._partitions,
            self._topic_ids,
            self.clock.now_ms,
        )

    def close(self) -> None:
        """Give deliveries in flight a moment; what is left stays in the outbox."""
        self.dispatcher.close()
        self.publisher.close()

    def _find_topics(self) -> None:
        admin = wait_for_brokers(self.settings.kafka, self._stop.made)
        watched = [topic.name for topic in self.topics]
        self._partitions, self._topic_ids = ensure_topics(admin, self.settings, watched, self._stop.made)
        log.info("watching", topics=self._partitions, rules=[rule.name for rule in self.rules])


def _quiet_collector() -> None:
    """Have the garbage collector pass over what is there for good, and look far less often for what is not.

    Records come by the thousand and go again, without cycles; by default it looks at each seventh hundred.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS)


def _fail(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(1)

"""What all Kafka clients of the job share: properties, error logging, and waiting for the brokers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from settings import KafkaSettings, Secret

log = structlog.get_logger()

SAID_AGAIN_S = 10.0


class Stopped(Exception):
    """The job was asked to stop while it waited."""


class PropertyError(Exception):
    """librdkafka does not take the properties of kafka.properties; the text says which and why."""


class ConnectionLog:
    """Says once that the brokers are gone, again every ten seconds while they stay away, and once that they are back.

    Instances are librdkafka `error_cb`s; `back()` is called when something came from a broker.
    """

    def __init__(self, client: str) -> None:
        self._client = client
        self._away_since: float | None = None
        self._said = 0.0

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE):
            # `back` may be called by another thread just now.
            since = self._away_since
            if since is None:
                self._away_since = since = now
            elif now - self._said < SAID_AGAIN_S:
                return
            self._said = now
            log.warning(
                "no connection to Kafka; trying again until it is back",
                client=self._client,
                away_s=round(now - since),
                error=error.str(),
            )
        else:
            log.warning("Kafka client", client=self._client, error=error.str())

    def back(self) -> None:
        since, self._away_since = self._away_since, None
        if since is not None:
            log.info("Kafka is back", client=self._client, away_s=round(time.monotonic() - since))


def client_config(
    kafka: KafkaSettings, client: str, errors: Callable[[KafkaError], None], **more: Any
) -> dict[str, Any]:
    """librdkafka's properties for one client of the job; the user's own come last, but for `more`."""
    return {
        "client.id": f"tua-{client}",
        # A broker that is away is tried again soon: an alert can't come from a record that wasn't fetched.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2000,
        "socket.connection.setup.timeout.ms": 5000,
        "log_level": 0,
        **kafka.client_properties(),
        "error_cb": errors,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def check_properties(kafka: KafkaSettings) -> None:
    """Raise PropertyError for what librdkafka would refuse. Connects to nothing that it waits for."""
    for kind, more in ((Consumer, {"group_id": kafka.consumer_group}), (Producer, {"enable_idempotence": True})):
        try:
            kind(client_config(kafka, "check", lambda _: None, **more))
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            for secret in (value.resolve() for value in kafka.properties.values() if isinstance(value, Secret)):
                reason = reason.replace(secret.get_secret_value(), "***") if secret is not None else reason
            raise PropertyError(f"kafka.properties: {reason}. They are those of librdkafka, in its spelling") from None


def wait_for_brokers(kafka: KafkaSettings, stopping: Callable[[], bool]) -> AdminClient:
    """An admin client that has reached the cluster. Tries until it has, and says so; raises Stopped when asked to."""
    errors = ConnectionLog("admin")
    admin = AdminClient(client_config(kafka, "admin", errors))
    started = said = time.monotonic()
    while True:
        try:
            admin.list_topics(timeout=1)
        except KafkaException as error:
            reason = error.args[0].str()
            now = time.monotonic()
            if said == started or now - said >= SAID_AGAIN_S:
                said = now
                log.warning(
                    "waiting for Kafka",
                    brokers=kafka.bootstrap_servers,
                    waited_s=round(now - started),
                    error=reason,
                    hint="is it running, and is kafka.bootstrap_servers right?",
                )
        else:
            errors.back()
            return admin
        if stopping():
            raise Stopped

"""The one face of delivery that the flow sees: transitions go in, and reach everybody they concern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType

from actions import metrics
from actions.base import Action, Context, Publish
from actions.delivery.compose import Composer
from actions.delivery.sender import Sender
from actions.delivery.spare import SafeOutbox
from actions.delivery.topic import ALERTS, DEAD_LETTERS, OwnTopicAction, OwnTopicSettings
from actions.registry import create
from detection.transitions import Transition
from settings import Settings
from settings.actions import ActionSettings

FILE_NAME = "outbox.sqlite"


class Dispatcher:
    """Owns the outbox of a process and the thread that sends from it.

    `publish` writes to Kafka; it is called in the sender's thread and its event loop. `now_ms` is the wall
    clock. Raises OutboxError when the outbox cannot be opened, ActionError when an action cannot be built.
    """

    def __init__(self, settings: Settings, publish: Publish, *, now_ms: Callable[[], int]) -> None:
        context = Context(now_ms, publish)
        topics = {ALERTS: settings.kafka.alerts_topic, DEAD_LETTERS: settings.kafka.dead_letters_topic}
        actions: dict[str, Action[ActionSettings]] = {
            name: OwnTopicAction(name, OwnTopicSettings(topic=topic), context) for name, topic in topics.items()
        }
        for name, action in settings.actions.items():
            actions[name] = create(name, action, context)
        self._grace_ms = settings.delivery.shutdown_grace_ms
        self._outbox = SafeOutbox(settings.state.directory / FILE_NAME, now_ms)
        self._compose = Composer(settings, MappingProxyType(actions), self._outbox.actions_of)
        self._sender = Sender(self._outbox, actions, now_ms, settings.delivery.retention_ms)
        self._sender.start()

    def put(self, transitions: Sequence[Transition]) -> None:
        """Take transitions in the order of detection; those that were told before are dropped.

        They are on disk when it returns (or in memory, loudly, while the disk is in trouble). Never waits for
        the network.
        """
        if transitions:
            metrics.REPLAYS.inc(self._outbox.put(transitions, self._compose))
            self._sender.wake()

    @property
    def full(self) -> bool:
        """The disk is in trouble and memory holds as much as it may: the source must pause."""
        return self._outbox.full

    def pending(self) -> int:
        """How many deliveries have not ended."""
        return self._outbox.pending()

    def close(self, grace_ms: int | None = None) -> None:
        """Give attempts in flight `grace_ms` (by the settings) and leave the rest in the outbox. Idempotent."""
        self._sender.close(self._grace_ms if grace_ms is None else grace_ms)
        self._outbox.close()

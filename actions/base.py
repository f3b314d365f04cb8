"""What every action is made of. An action is one file in this folder that subclasses Action and ActionSettings.

ActionError   an action cannot be built from its settings; the text says how to mend it and holds no secret
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import ClassVar, Generic, TypeVar

from pydantic import TypeAdapter

from actions.alert import Alert, Summary
from actions.message import Message, message_of
from settings.actions import ActionSettings

_TOLD: TypeAdapter[Alert | Summary] = TypeAdapter(Alert | Summary)
SettingsT_co = TypeVar("SettingsT_co", bound=ActionSettings, covariant=True)


class ActionError(ValueError):
    """An action cannot be built: its secret cannot be read, or what it refers to is no usable value."""


def delivery_id(alert_id: str, sequence: int, action: str, recipient: str) -> str:
    """The name of a delivery, the same in every attempt and on every replay.

    Hexadecimal, so without a dot: Standard Webhooks signs `id.timestamp.body`, which a dot would make ambiguous.
    """
    identity = "\0".join((alert_id, str(sequence), action, recipient))
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def read_told(body: bytes) -> Alert | Summary:
    """The body of a delivery. Raises ValueError for one that is neither."""
    return _TOLD.validate_json(body)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address stays on this machine, so that nobody can listen on the way."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True)
class Delivery:
    """One transition on its way to one recipient. `attempt` counts from 1; `made_at_ms` is wall clock."""

    id: str
    alert_id: str
    sequence: int
    action: str
    recipient: str
    body: bytes
    made_at_ms: int
    attempt: int = 1

    @cached_property
    def told(self) -> Alert | Summary:
        """What is told. Raises ValueError for a body that is neither."""
        return read_told(self.body)

    @property
    def alert(self) -> Alert:
        """The alert, for actions that get no summaries. Raises ValueError for a body that is none."""
        if isinstance(self.told, Summary):
            raise ValueError("this is a summary")
        return self.told

    @cached_property
    def message(self) -> Message:
        """What is told, in words for people."""
        return message_of(self.told)


@dataclass(frozen=True)
class Delivered:
    """The recipient took it. `detail` is what it answered, short and without secrets."""

    detail: str = ""


@dataclass(frozen=True)
class Retry:
    """It did not work, but may later. `after_ms` is how long the recipient asked to be left alone."""

    detail: str
    after_ms: int | None = None


@dataclass(frozen=True)
class Refused:
    """It will never work: the delivery is dead-lettered. `disable`: the whole target wants nothing more."""

    detail: str
    disable: bool = False


Outcome = Delivered | Retry | Refused


Publish = Callable[[str, bytes, bytes], Awaitable[None]]
"""Writes (topic, key, value), and returns when the broker has it. Whatever it raises leads to a retry."""


@dataclass(frozen=True)
class Context:
    """What an action gets from the job: the wall clock, and the way to the job's Kafka."""

    now_ms: Callable[[], int]
    publish: Publish


class Action(ABC, Generic[SettingsT_co]):
    """Delivers alerts to one target. Lives in the sender's thread; `deliver` runs many times at once there.

    `deliver` returns an Outcome. Whatever it raises counts as Retry, and so does exceeding `time_limit_s`,
    which bounds an attempt in total, however slowly the other side drips; it must stand being cancelled.

    `settings_type` says by the default of its `type` what `type:` an action of this class has in the configuration.
    At most `concurrency` attempts are made at once.
    """

    settings_type: ClassVar[type[ActionSettings]]
    concurrency: ClassVar[int] = 8
    time_limit_s: float = 30.0
    gives_up: ClassVar[bool] = True

    def __init__(self, name: str, settings: SettingsT_co, context: Context) -> None:
        """Raises ActionError where a secret cannot be had or is of no use."""
        self.name = name
        self.settings = settings
        self.context = context

    def recipients(self) -> tuple[str, ...]:
        """Display forms, free of secrets. Each recipient gets deliveries of its own."""
        return (self.name,)

    def secrets(self) -> Iterable[str]:
        """What must be kept out of everything stored or printed, should a target's answer repeat it."""
        return ()

    @abstractmethod
    async def deliver(self, delivery: Delivery) -> Outcome:
        """Make one attempt."""

    async def close(self) -> None:
        """Let go of connections that are kept open."""
        return


Tell = Callable[[Delivery, Outcome], None]
"""Says how the attempt of one delivery ended."""


class TogetherAction(Action[SettingsT_co]):
    """An action to which many deliveries can be handed at once, for little more than one costs."""

    @abstractmethod
    async def deliver_all(self, deliveries: Sequence[Delivery], tell: Tell) -> None:
        """Make one attempt of each; `tell` each outcome as soon as it is known.

        What is raised is the outcome of those of which nothing was told, as it would be for `deliver`. `time_limit_s`
        is for all together: the outcome of one must not wait for another's.
        """

    async def deliver(self, delivery: Delivery) -> Outcome:
        told: list[Outcome] = []
        await self.deliver_all([delivery], lambda _, outcome: told.append(outcome))
        return told[0]

"""The configuration as frozen models, in the order of `tua.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from detection.rules import CountRule, EventTime, Topic
from settings.actions import ActionSettings
from settings.base import Duration, PositiveDuration, SettingsModel
from settings.fields import (
    Directory,
    Distinct,
    FieldPath,
    Name,
    Paths,
    Properties,
    RecordOr,
    Replication,
    Servers,
    TopicName,
    Values,
)
from settings.intake import IntakeSettings
from settings.problems import Mistake, Mistakes, Problem
from settings.secrets import Secret, SecretError
from settings.templates import compile_template, template_mistakes, trial

DEFAULT_MESSAGE = "{{ rule }}: {{ key.values() | join(', ') }} had {{ count }} events within {{ window }}"
DEFAULT_RESOLVED_MESSAGE = (
    "{{ rule }}: {{ key.values() | join(', ') }} is calm again after {{ duration }}"
    " ({{ events }} events, at most {{ peak }} within {{ window }})"
)


def _cooldown(value: object) -> object:
    return {"first": value} if isinstance(value, str | int) and not isinstance(value, bool) else value


class KafkaSettings(SettingsModel):
    """The brokers, and the job's own topics. `replication_factor` None: as many as there are brokers, at most 2."""

    bootstrap_servers: Servers = "localhost:29092,localhost:39092"
    consumer_group: Name = "tua"
    topic_prefix: TopicName = "tua"
    replication_factor: Replication | None = None
    properties: Properties = Field(default_factory=dict)

    def client_properties(self) -> dict[str, str]:
        """What every librdkafka client is made with: the brokers and `properties`, secrets in clear.

        Raises SecretError for a secret whose environment variable is not set or whose file cannot be read.
        """
        properties = {"bootstrap.servers": self.bootstrap_servers}
        for name, value in self.properties.items():
            if isinstance(value, Secret):
                secret = value.resolve()
                if secret is None:
                    raise SecretError(f"kafka.properties {name}: {value.source} is not set, or empty")
                properties[name] = secret.get_secret_value()
            else:
                properties[name] = value
        return properties

    @property
    def alerts_topic(self) -> str:
        return f"{self.topic_prefix}.alerts"

    @property
    def rejected_topic(self) -> str:
        return f"{self.topic_prefix}.rejected"

    @property
    def dead_letters_topic(self) -> str:
        return f"{self.topic_prefix}.dead-letters"


class FieldSettings(SettingsModel):
    """`{field: order_id}`."""

    field: FieldPath


class FieldTimeSettings(FieldSettings):
    """`{field: occurred_at, unit: iso}`."""

    unit: Literal["ms", "s", "iso"] = "ms"


class TopicSettings(SettingsModel):
    """One topic to read. `max_future_ms` None: no guard.

    `partitions` and `replication_factor` are for creating it; None: 1, and as many as there are brokers, at most 2.
    """

    partitions: int | None = Field(default=None, ge=1, le=100_000)
    replication_factor: Replication | None = None
    lateness_ms: Duration = Field(default=10_000, alias="lateness")
    time_field: Annotated[FieldTimeSettings | None, RecordOr] = Field(default=None, alias="event_time")
    id_field: Annotated[FieldSettings | None, RecordOr] = Field(default=None, alias="event_id")
    idle_timeout_ms: PositiveDuration = Field(default=30_000, alias="idle_timeout")
    max_future_ms: Duration | None = Field(default=60_000, alias="max_future")

    @property
    def event_time(self) -> EventTime:
        return EventTime(self.time_field.field, self.time_field.unit) if self.time_field else EventTime()

    @property
    def event_id(self) -> str | None:
        return self.id_field.field if self.id_field else None

    def detection_topic(self, name: str) -> Topic:
        return Topic(
            name=name,
            lateness_ms=self.lateness_ms,
            event_time=self.event_time,
            event_id=self.event_id,
            idle_timeout_ms=self.idle_timeout_ms,
            max_future_ms=self.max_future_ms,
        )


class CountSettings(SettingsModel):
    """At least `threshold` events of one key within `window_ms`."""

    threshold: int = Field(alias="at_least", ge=1, le=10_000_000)  # each key holds that many timestamps
    window_ms: PositiveDuration = Field(alias="within")


class CooldownSettings(SettingsModel):
    """How long after an alert the same key is left in peace. See docs/delivery.md for what counts."""

    first_ms: PositiveDuration = Field(alias="first")
    cap_ms: PositiveDuration = Field(default=86_400_000, alias="cap")

    @model_validator(mode="after")
    def _cap_is_not_below_the_first(self) -> Self:
        if self.cap_ms < self.first_ms:
            raise Mistake("the cap is shorter than the first cooldown", "for example {first: 10m, cap: 6h}", ("cap",))
        return self


class DeliverySettings(SettingsModel):
    """For all actions. `retention_ms`: how long what was delivered or given up can be looked up and redriven."""

    shutdown_grace_ms: Duration = Field(default=10_000, alias="shutdown_grace")
    retention_ms: PositiveDuration = Field(default=30 * 86_400_000, alias="retention")


class RuleSettings(SettingsModel):
    """One rule, and what is said and done when it is breached. `where` maps paths to their allowed values."""

    name: Name
    description: str = ""
    topic: str
    where: dict[FieldPath, Values] = Field(default_factory=dict)
    key: Paths
    count: CountSettings
    severity: Literal["info", "warning", "critical"] = "warning"
    message: str = DEFAULT_MESSAGE
    resolved_message: str = DEFAULT_RESOLVED_MESSAGE
    actions: Distinct = ()
    cooldown: Annotated[CooldownSettings | None, BeforeValidator(_cooldown)] = None

    @field_validator("message", "resolved_message")
    @classmethod
    def _template_uses_what_there_is(cls, text: str, info: ValidationInfo) -> str:
        if not text.strip():
            raise Mistake("the message is empty", "write a text, or leave the setting out for the usual one")
        try:
            template = compile_template(text)
        except ValueError as error:
            raise Mistake(str(error), "see the documentation of Jinja2 templates") from None
        # What else is wrong with the rule is reported by itself; then nothing can be said about the paths.
        key, count = info.data.get("key"), info.data.get("count")
        if mistakes := template_mistakes(template, key):
            raise Mistakes(Mistake(*mistake) for mistake in mistakes)
        if key and count and (failure := trial(template, key, count.threshold, count.window_ms)):
            raise Mistake(f"{failure}, as it would at every alert", "see the documentation of Jinja2 templates")
        return text


class StateSettings(SettingsModel):
    """Where the job keeps what it must remember. A relative directory is below the working directory."""

    directory: Directory = Path(".tua")
    retention_ms: PositiveDuration = Field(default=3_600_000, alias="retention")


class Settings(SettingsModel):
    """A whole configuration without a mistake. `notes` are remarks that stop nothing."""

    kafka: KafkaSettings = KafkaSettings()
    topics: dict[str, TopicSettings]
    rules: tuple[RuleSettings, ...]
    actions: dict[str, SerializeAsAny[ActionSettings]]
    delivery: DeliverySettings = DeliverySettings()
    state: StateSettings = StateSettings()
    intake: IntakeSettings = IntakeSettings()
    notes: tuple[Problem, ...] = Field(default=(), exclude=True)

    def rule(self, name: str) -> RuleSettings:
        """Raises KeyError for a name that no rule has."""
        return {rule.name: rule for rule in self.rules}[name]

    def detection_rules(self) -> tuple[CountRule, ...]:
        """The rules as detection wants them, in the order of the file."""
        return tuple(
            CountRule(
                name=rule.name,
                topic=self.topics[rule.topic].detection_topic(rule.topic),
                key=rule.key,
                threshold=rule.count.threshold,
                window_ms=rule.count.window_ms,
                where=tuple(rule.where.items()),
            )
            for rule in self.rules
        )

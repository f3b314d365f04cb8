"""The HTTP intake's section: where it listens, who may write what, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from settings.base import Duration, NoRepeats, NotEmpty, PositiveDuration, SettingsModel
from settings.fields import Name, TopicName
from settings.problems import Mistake
from settings.secrets import SecretRefs, in_clear, is_reference, notes_on_defaults


def _host(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
            message = f"'{value}' is not an address to listen on"
            raise Mistake(message, "such as 127.0.0.1, ::1, or 0.0.0.0 for all networks") from None
    return value


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", value):
        raise Mistake(f"'{value}' is not the origin of a page", "such as https://shop.example.com, without a path")
    return value


def _proxy(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise Mistake(f"'{value}' is neither an address nor a network", "such as 10.0.0.7 or 10.0.0.0/8") from None


def _timeout_of_kafka(value: int) -> int:
    if not 1_000 <= value <= 4_500:
        raise Mistake("this must be from 1s to 4500ms", "a client gets its answer within five seconds")
    return value


def _key_in_clear(value: object) -> object:
    """A key may stand alone, without its topics. What is no reference may be a secret: it is not shown."""
    if isinstance(value, Mapping) and not is_reference(value):
        return value
    if mistake := in_clear(value):
        raise mistake
    return {"key": value}


class ApiKeySettings(SettingsModel):
    """What one client shows as `Authorization: Bearer`: one secret, or several while they are rotated.

    `topics` None: it may write all of them.
    """

    key: Annotated[SecretRefs, NotEmpty]
    topics: Annotated[tuple[str, ...], NotEmpty, NoRepeats] | None = None


class RateLimitSettings(SettingsModel):
    """How many events one client may send: `events` at once, and as many again in each `per_ms`."""

    events: int = Field(ge=1, le=1_000_000_000)
    per_ms: PositiveDuration = Field(default=1_000, alias="per")


class IntakeSettings(SettingsModel):
    """`tua serve`. Sizes are in bytes. `rate_limit` None: there is no limit.

    `acknowledge_within_ms`: after that long without Kafka's acknowledgement the answer is 503.
    """

    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65_535)
    products_topic: TopicName = "products"
    api_keys: dict[Name, Annotated[ApiKeySettings, BeforeValidator(_key_in_clear)]] = Field(default_factory=dict)
    rate_limit: RateLimitSettings | None = None
    trusted_proxies: Annotated[tuple[Annotated[str, AfterValidator(_proxy)], ...], NoRepeats] = ()
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoRepeats] = ()
    max_body_bytes: int = Field(default=1_048_576, ge=1_024, le=16_777_216)
    max_events: int = Field(default=10_000, ge=1, le=100_000)
    max_connections: int = Field(default=1_000, ge=1, le=100_000)
    headers_within_ms: PositiveDuration = Field(default=10_000, alias="headers_within")
    body_within_ms: PositiveDuration = Field(default=10_000, alias="body_within")
    acknowledge_within_ms: Annotated[Duration, AfterValidator(_timeout_of_kafka)] = Field(
        default=4_000, alias="acknowledge_within"
    )
    remember_retries_ms: PositiveDuration = Field(default=600_000, alias="remember_retries")
    max_remembered_events: int = Field(default=100_000, ge=1_000, le=10_000_000)
    shutdown_grace_ms: PositiveDuration = Field(default=10_000, alias="shutdown_grace")

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def notes(self) -> list[str]:
        """What `check` mentions: no mistakes."""
        notes = [] if self.is_local or self.api_keys else [OPEN_TO_ALL.format(host=self.host)]
        return notes + [note for name, key in self.api_keys.items() for note in notes_on_defaults(name, *key.key)]


OPEN_TO_ALL = "the intake listens on {host} without api_keys: whoever reaches it can write events"

"""The webhook action: POSTs each alert to a URL, signed by Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import structlog

from actions.base import ActionError, Context, Delivery
from actions.http import HttpAction, Post, SafeUrl, in_the_file, resolved_url
from detection.times import iso
from settings.actions import ActionSettings
from settings.secrets import SecretRefs, notes_on_defaults

_log = structlog.get_logger()

LONG_TOKEN = 20
_WORDS = re.compile(r"[a-z]+([._~-][a-z]+)*(:[0-9]+)?")


class WebhookSettings(ActionSettings):
    """`secret` is one reference (`whsec_...`), or a list of them while it is changed: each signs."""

    type: Literal["webhook"] = "webhook"
    allow_insecure: bool = False  # before `url`, which is judged by it
    url: SafeUrl
    secret: SecretRefs = ()

    def notes(self) -> tuple[str, ...]:
        notes = notes_on_defaults("secret", *self.secret)
        if not self.secret:
            notes.append("without a secret the messages are not signed, and the receiver cannot tell who sent them")
        elif all(secret.unset for secret in self.secret):
            notes.append(f"{self.secret[0].source} is not set here, and without it the messages are not signed")
        parts = re.split("[/?&=@]", in_the_file(self.url) or "")
        if any(len(part) >= LONG_TOKEN and not _WORDS.fullmatch(part) for part in parts):
            notes.append("there seems to be a token in the url, in clear; write url: {env: NAME} to keep it out")
        return tuple(notes)


class WebhookAction(HttpAction[WebhookSettings]):
    """Raises ActionError where the URL or a secret cannot be had or is of no use."""

    settings_type = WebhookSettings

    def __init__(self, name: str, settings: WebhookSettings, context: Context) -> None:
        super().__init__(name, settings, context, resolved_url(name, settings.url, settings.allow_insecure))
        self._keys = _resolved_keys(name, settings)

    def secrets(self) -> Iterable[str]:
        """Also the keys of the signature as they are written."""
        return [*super().secrets(), *(base64.b64encode(key).decode().rstrip("=") for key in self._keys)]

    def compose(self, delivery: Delivery) -> Post:
        body = msgspec.json.encode(
            {
                "type": f"alert.{delivery.alert.status}",
                "timestamp": iso(delivery.made_at_ms),
                "data": msgspec.Raw(delivery.body),
            }
        )
        seconds = self.context.now_ms() // 1_000
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(seconds),
        }
        if self._keys:
            headers["webhook-signature"] = signature(self._keys, delivery.id, seconds, body)
        return Post(body, headers)


def signature(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The webhook-signature header: `v1,<base64 HMAC-SHA256 of id.timestamp.body>` for each key, by spaces."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}" for key in keys)


def signing_key(secret: str) -> bytes:
    """The bytes of `whsec_<base64>` (the prefix may be missing). Raises ValueError, which does not quote it."""
    try:
        digits = secret.removeprefix("whsec_").rstrip("=")
        key = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(
            "a webhook secret is whsec_ and base64, such as whsec_ with the output of: openssl rand -base64 32"
        )
    return key


def _resolved_keys(name: str, settings: WebhookSettings) -> tuple[bytes, ...]:
    keys = []
    for secret in settings.secret:
        try:
            value = secret.resolve()
            if value is None:
                _log.warning("A webhook's messages are not signed", action=name, because=f"{secret.source} is not set")
                continue
            keys.append(signing_key(value.get_secret_value()))
        except ValueError as error:
            raise ActionError(f"action {name}: the secret from {secret.source} is of no use: {error}") from None
    return tuple(keys)

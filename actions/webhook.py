"""The webhook action: POSTs each alert to a URL, signed by Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx2
import msgspec
import structlog
from pydantic import SecretStr, ValidationInfo, field_validator

from actions.base import Action, ActionError, Delivered, Delivery, Outcome, Refused, Retry, is_loopback
from detection.times import iso
from settings.actions import ActionSettings
from settings.problems import Mistake
from settings.secrets import (
    HOW_TO_REFER,
    LiteralSecret,
    MaybeSecret,
    Secret,
    SecretError,
    SecretRefs,
    notes_on_defaults,
)

_log = structlog.get_logger()

ANSWER_BYTES = 4096
SHORTEST_TOKEN = 8
LONG_TOKEN = 20
_WORDS = re.compile(r"[a-z]+([._~-][a-z]+)*(:[0-9]+)?")
_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
RETRIED = frozenset({408, 425, 429})

# httpx2 logs every URL at INFO, and a URL may hold a token.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class WebhookSettings(ActionSettings):
    """`secret` is one reference (`whsec_...`), or a list of them while it is changed: each signs."""

    type: Literal["webhook"] = "webhook"
    allow_insecure: bool = False  # before `url`, which is judged by it
    url: MaybeSecret
    secret: SecretRefs = ()

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str | Secret, info: ValidationInfo) -> str | Secret:
        if (text := _in_the_file(url)) is not None:
            if mistake := _mistake(text, info.data.get("allow_insecure", True)):
                raise Mistake(*mistake)
            if httpx2.URL(text).password:  # reported at the default of a reference, where it is one
                raise LiteralSecret("a password must not stand in the configuration", HOW_TO_REFER, ("default",))
        return url

    def notes(self) -> tuple[str, ...]:
        notes = notes_on_defaults("secret", *self.secret)
        if not self.secret:
            notes.append("without a secret the messages are not signed, and the receiver cannot tell who sent them")
        elif all(secret.unset for secret in self.secret):
            notes.append(f"{self.secret[0].source} is not set here, and without it the messages are not signed")
        parts = re.split("[/?&=@]", _in_the_file(self.url) or "")
        if any(len(part) >= LONG_TOKEN and not _WORDS.fullmatch(part) for part in parts):
            notes.append("there seems to be a token in the url, in clear; write url: {env: NAME} to keep it out")
        return tuple(notes)


class WebhookAction(Action[WebhookSettings]):
    """One HTTP client, kept open. No redirects; proxies and .netrc of the environment are not used.

    Raises ActionError where the URL or a secret cannot be had or is of no use.
    """

    settings_type = WebhookSettings
    time_limit_s = 15.0

    def __init__(self, name: str, settings: WebhookSettings, now_ms: Callable[[], int]) -> None:
        super().__init__(name, settings, now_ms)
        self._url = _resolved_url(name, settings)
        self._keys = _resolved_keys(name, settings)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(self.time_limit_s, connect=5.0),
            limits=httpx2.Limits(max_connections=self.concurrency, keepalive_expiry=30.0),
            follow_redirects=False,
            trust_env=False,
        )

    def recipients(self) -> tuple[str, ...]:
        """`https://host:port`: the rest of a URL may be a secret."""
        return (f"{self._url.scheme}://{self._url.netloc.decode().rpartition('@')[2]}",)

    def secrets(self) -> Iterable[str]:
        """What of the URL may be a token, and the keys of the signature as they are written."""
        url = self._url
        target = url.raw_path.decode("ascii")
        parts = [part for part in (target, *re.split("[/?&=]", target)) if len(part) >= SHORTEST_TOKEN]
        keys = [base64.b64encode(key).decode().rstrip("=") for key in self._keys]
        return [*parts, url.userinfo.decode("ascii"), url.password, *keys]

    async def deliver(self, delivery: Delivery) -> Outcome:
        body = msgspec.json.encode(
            {
                "type": f"alert.{delivery.alert.status}",
                "timestamp": iso(delivery.made_at_ms),
                "data": msgspec.Raw(delivery.body),
            }
        )
        seconds = self._now_ms() // 1_000
        headers = {
            "content-type": "application/json",
            "user-agent": "tua",
            "accept-encoding": "identity",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(seconds),
        }
        if self._keys:
            headers["webhook-signature"] = signature(self._keys, delivery.id, seconds, body)
        try:
            async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                return self._judge(response, await _answer(response))
        except httpx2.ConnectError:
            return Retry("cannot connect")
        except httpx2.TimeoutException as error:
            return Retry(f"no answer in time ({type(error).__name__})")
        except (httpx2.TransportError, OSError) as error:
            return Retry(f"the connection failed ({type(error).__name__})")

    def _judge(self, response: httpx2.Response, text: str) -> Outcome:
        status = response.status_code
        detail = f"{status} {text}".strip()
        if response.is_success:
            return Delivered(detail)
        if status >= 500 or status in RETRIED:
            return Retry(detail, retry_after_ms(response.headers.get("retry-after"), self._now_ms()))
        if response.has_redirect_location:
            return Refused(f"{status}: it wants to redirect, which is not followed; put the final URL into url")
        return Refused(detail, disable=status == 410)

    async def close(self) -> None:
        await self._client.aclose()


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


def retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """Retry-After (RFC 9110, 10.2.3), seconds or an HTTP date, as milliseconds from now; None if there is none."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1_000
    with suppress(ValueError):
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1_000) - now_ms)
    return None


async def _answer(response: httpx2.Response) -> str:
    """The start of the body, for the audit.

    The status has come already: nothing that happens here changes it, the end of the attempt's time neither.
    """
    data = b""
    with suppress(httpx2.HTTPError, OSError, TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(1):
            async for chunk in response.aiter_raw(ANSWER_BYTES):
                data += chunk
                if len(data) >= ANSWER_BYTES:
                    break
    return data[:ANSWER_BYTES].decode("utf-8", "replace").strip()


def _in_the_file(url: str | Secret) -> str | None:
    if isinstance(url, str):
        return url
    return url.default.get_secret_value() if url.default is not None else None


def _mistake(text: str, allow_insecure: bool) -> tuple[str, str] | None:
    """What is wrong with a URL and how to mend it. The message must not quote it."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        return "this is no URL", "https://host/path"
    if url.scheme not in ("http", "https") or not url.host:
        return "a webhook's url must be a full one", "https://host/path"
    if not _HOST.fullmatch(url.raw_host) or url.port not in (None, *range(1, 65536)):
        return "no such host or port can be", "https://host/path, or https://host:port/path"
    if url.scheme == "http" and not allow_insecure and not is_loopback(url.host):
        return (
            "a webhook's url must be https: alerts tell about people and products",
            "write https://, or allow_insecure: true beside it if the way there is safe",
        )
    return None


def _resolved_url(name: str, settings: WebhookSettings) -> httpx2.URL:
    try:
        secret = settings.url.resolve() if isinstance(settings.url, Secret) else SecretStr(settings.url)
    except SecretError as error:
        raise ActionError(f"action {name}: the url cannot be read: {error}") from None
    if secret is None:
        assert isinstance(settings.url, Secret)
        raise ActionError(f"action {name}: the url comes from {settings.url.source}, which is not set")
    if mistake := _mistake(secret.get_secret_value(), settings.allow_insecure):
        raise ActionError(f"action {name}: {mistake[0]} ({mistake[1]})")
    return httpx2.URL(secret.get_secret_value())


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

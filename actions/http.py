"""What the actions that POST over HTTP share: one client, safe URLs, and a judgement of what was answered."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property
from math import ceil
from typing import Annotated, Any

import httpx2
import msgspec
from pydantic import AfterValidator, SecretStr, ValidationInfo

from actions.base import (
    Action,
    ActionError,
    Context,
    Delivered,
    Delivery,
    Outcome,
    Refused,
    Retry,
    SettingsT_co,
    is_loopback,
)
from settings.actions import NotifySettings
from settings.problems import Mistake
from settings.secrets import (
    HOW_TO_REFER,
    LiteralSecret,
    MaybeSecret,
    Secret,
    SecretError,
    SecretRef,
    notes_on_defaults,
)

ANSWER_BYTES = 4096
SHORTEST_TOKEN = 8
SHORTEST_VALUE = 4
RETRIED = frozenset({408, 425, 429})
HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")

# httpx2 logs every URL at INFO, and a URL may hold a token.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers (names in lower case), and the start of the body as text."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def detail(self) -> str:
        """For the audit: `404 no such hook`."""
        return f"{self.status} {self.text}".strip()

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none, or where its start alone was read."""
        with suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(self.text, type=dict[str, Any])
        return {}


@dataclass(frozen=True)
class Post:
    """What to send. `headers` in addition to those of every message, among them `content-type`."""

    body: bytes
    headers: Mapping[str, str]


def json_post(content: object) -> Post:
    """To send something as JSON."""
    return Post(msgspec.json.encode(content), {"content-type": "application/json"})


class HttpAction(Action[SettingsT_co]):
    """One HTTP client, kept open, to one URL. No redirects; proxies and .netrc of the environment are not used.

    A subclass says what to `compose`, and in `judge` what an answer means where that is not the usual:
    2xx delivered; 408, 425, 429 and 5xx to be tried again, after Retry-After if there is one; 410 disables the
    target; any other refused.
    """

    time_limit_s = 15.0

    def __init__(self, name: str, settings: SettingsT_co, context: Context, url: httpx2.URL) -> None:
        """`url` is that of `resolved_url`."""
        super().__init__(name, settings, context)
        self.url = url
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(self.time_limit_s, connect=5.0),
            limits=httpx2.Limits(max_connections=self.concurrency, keepalive_expiry=30.0),
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context(),  # also the authorities that SSL_CERT_FILE names
        )

    def recipients(self) -> tuple[str, ...]:
        """`https://host:port`: the rest of a URL may be a secret."""
        return (f"{self.url.scheme}://{self.url.netloc.decode().rpartition('@')[2]}",)

    def secrets(self) -> Iterable[str]:
        """What of the URL may be a token: what is long enough, and the values of its query."""
        target = self.url.raw_path.decode("ascii")
        parts = [part for part in (target, *re.split("[/?&=]", target)) if len(part) >= SHORTEST_TOKEN]
        values = [value for _, value in self.url.params.multi_items() if len(value) >= SHORTEST_VALUE]
        return [*parts, *values, self.url.userinfo.decode("ascii"), self.url.username, self.url.password]

    @abstractmethod
    def compose(self, delivery: Delivery) -> Post:
        """What to send for a delivery."""

    def judge(self, answer: Answer) -> Outcome:
        """What an answer means."""
        if 200 <= answer.status < 300:
            return Delivered(answer.detail)
        if answer.status >= 500 or answer.status in RETRIED:
            return Retry(answer.detail, retry_after_ms(answer.headers.get("retry-after"), self.context.now_ms()))
        if 300 <= answer.status < 400 and "location" in answer.headers:
            return Refused(f"{answer.status}: it wants to redirect, which is not followed; put the final URL into url")
        return Refused(answer.detail, disable=answer.status == 410)

    async def deliver(self, delivery: Delivery) -> Outcome:
        post = self.compose(delivery)
        headers = {"user-agent": "tua", "accept-encoding": "identity", **post.headers}
        try:
            async with self._client.stream("POST", self.url, content=post.body, headers=headers) as response:
                text = await _start_of(response)
                return self.judge(Answer(response.status_code, response.headers, text))
        except httpx2.ConnectError as error:
            return Retry(f"cannot connect{_cause(error)}")
        except httpx2.TimeoutException as error:
            return Retry(f"no answer in time ({type(error).__name__})")
        except (httpx2.TransportError, OSError) as error:
            return Retry(f"the connection failed ({type(error).__name__})")

    async def close(self) -> None:
        await self._client.aclose()


def _cause(error: BaseException) -> str:
    """Why there is no connection, in words that do not quote the URL."""
    causes: tuple[tuple[type[BaseException], str], ...] = (
        (ssl.SSLCertVerificationError, ": its certificate is not trusted"),
        (ssl.SSLError, ": it does not speak TLS as we do"),
        (socket.gaierror, ": there is no host of that name"),
        (ConnectionRefusedError, ": the connection was refused"),
    )
    seen: BaseException | None = error
    while seen is not None:
        for kind, words in causes:
            if isinstance(seen, kind):
                return words
        seen = seen.__cause__ or seen.__context__
    return ""


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


def seconds_ms(value: object) -> int | None:
    """Seconds out of the JSON of an answer as milliseconds, rounded up; None for what is no number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return None
    return ceil(value * 1_000)


async def _start_of(response: httpx2.Response) -> str:
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


def in_the_file(url: str | Secret) -> str | None:
    """What stands in the configuration of a URL: itself, or the default of a reference."""
    if isinstance(url, str):
        return url
    return url.default.get_secret_value() if url.default is not None else None


def url_mistake(text: str, allow_insecure: bool) -> tuple[str, str] | None:
    """What is wrong with a URL and how to mend it. The message must not quote it."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        return "this is no URL", "https://host/path"
    if url.scheme not in ("http", "https") or not url.host:
        return "a url must be a full one", "https://host/path"
    if not HOST.fullmatch(url.raw_host) or url.port not in (None, *range(1, 65536)):
        return "no such host or port can be", "https://host/path, or https://host:port/path"
    if url.scheme == "http" and not allow_insecure and not is_loopback(url.host):
        return (
            "a url must be https: alerts tell about people and products",
            "write https://, or allow_insecure: true beside it if the way there is safe",
        )
    return None


def _safe(url: str | Secret, info: ValidationInfo) -> str | Secret:
    if (text := in_the_file(url)) is not None:
        if mistake := url_mistake(text, info.data.get("allow_insecure", True)):
            raise Mistake(*mistake)
        if httpx2.URL(text).password:  # reported at the default of a reference, where it is one
            raise LiteralSecret("a password must not stand in the configuration", HOW_TO_REFER, ("default",))
    return url


SafeUrl = Annotated[MaybeSecret, AfterValidator(_safe)]
"""A field for a URL. What stands of it in the configuration is judged, by `allow_insecure`, a field before it."""

SecretUrl = Annotated[SecretRef, AfterValidator(_safe)]
"""The same for a URL that is a secret as a whole: it takes a reference only."""


class SecretUrlSettings(NotifySettings):
    """The base for a service that gives out one URL for each channel: whoever knows it can write there."""

    allow_insecure: bool = False  # before `url`, which is judged by it
    url: SecretUrl

    def notes(self) -> tuple[str, ...]:
        return tuple(notes_on_defaults("url", self.url))


def resolved_url(name: str, url: str | Secret, allow_insecure: bool, field: str = "url") -> httpx2.URL:
    """The URL of an action, its reference resolved. Raises ActionError where it cannot be had or is of no use."""
    text = url if isinstance(url, str) else resolved(name, field, url)
    if mistake := url_mistake(text, allow_insecure):
        raise ActionError(f"action {name}: {mistake[0]} ({mistake[1]})")
    return httpx2.URL(text)


def resolved(name: str, field: str, secret: Secret) -> str:
    """The value of a secret of an action. Raises ActionError where it cannot be had."""
    try:
        value: SecretStr | None = secret.resolve()
    except SecretError as error:
        raise ActionError(f"action {name}: the {field} cannot be read: {error}") from None
    if value is None:
        raise ActionError(f"action {name}: the {field} comes from {secret.source}, which is not set")
    return value.get_secret_value()

"""Who a client is, by its API key or its address, and what it may write."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.requests import Request

from connectors.intake_api.answers import Refusal
from settings import ApiKeySettings, SecretError


@dataclass(frozen=True)
class Client:
    """`name` is what limits and retries go by. `key_name` None: there are no API keys."""

    name: str
    key_name: str | None = None
    topics: frozenset[str] | None = None

    def check_topic(self, topic: str) -> None:
        """Raises Refusal (403) for a topic that this client may not write."""
        if self.topics is not None and topic not in self.topics:
            raise Refusal(403, f"this API key may not write the topic '{topic}'")


class Access:
    """Raises SecretError for a key that is not there."""

    def __init__(self, keys: Mapping[str, ApiKeySettings]) -> None:
        self._clients: list[tuple[bytes, Client]] = []
        for name, settings in keys.items():
            client = Client(name, name, None if settings.topics is None else frozenset(settings.topics))
            for secret in settings.key:
                value = secret.resolve()
                if value is None:
                    raise SecretError(f"intake.api_keys {name}: {secret.source} is not set, or empty")
                self._clients.append((_digest(value.get_secret_value().encode()), client))

    def client_of(self, request: Request) -> Client:
        """Raises Refusal (401) where API keys are configured and the request shows none of them."""
        if not self._clients:
            return Client(_network_of(request.client.host if request.client is not None else ""))
        scheme, _, shown = _authorization(request).partition(b" ")
        digest, found = _digest(shown.strip()), None
        # All are compared, digests of one length: how long it takes tells nothing of the keys.
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        if found is None or scheme.lower() != b"bearer":
            detail = "an API key is needed: `Authorization: Bearer KEY`"
            raise Refusal(401, detail, headers={"WWW-Authenticate": 'Bearer realm="tua intake"'})
        return found


def _authorization(request: Request) -> bytes:
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    return bytes(values[0]) if len(values) == 1 else b""


@lru_cache(maxsize=10_000)
def _network_of(host: str) -> str:
    """An address; of IPv6 its network, in which a client takes any address it likes."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()

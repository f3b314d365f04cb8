"""A search for secrets in everything that was printed and stored, however they are spelt there."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

SHORTEST_SECRET = 8


class Leaks:
    """Looks for secrets in all that was added."""

    def __init__(self) -> None:
        self._places: list[tuple[str, bytes]] = []

    def add(self, place: str, content: str | bytes) -> None:
        """`place` is how it is called in what `of` says."""
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        self._places.append((place, data))

    def of(self, secrets: Iterable[tuple[str, str]]) -> list[str]:
        """One sentence for each place where one of the secrets (where it comes from, its text) is."""
        found: dict[tuple[str, ...], str] = {}
        for source, secret in sorted(secrets):
            assert len(secret) >= SHORTEST_SECRET, f"{source}: '{secret}' is too short to search for, take a longer one"
            for spelling, form in _spellings(secret.encode()):
                for place, content in self._places:
                    if (at := content.find(form)) >= 0:
                        around = content[max(0, at - 60) : at + len(form) + 20].decode("utf-8", "replace")
                        text = f"the secret {secret} of {source} is{spelling} in {place}: …{around!r}…"
                        found.setdefault((source, secret, spelling, place), text)
        return list(found.values())


def secret_parts(value: str) -> list[str]:
    """What to search for of the value of a secret: of a URL what is not its scheme and host, in parts."""
    if "://" not in value:
        return [value.removeprefix("whsec_")]
    url = urlsplit(value)
    userinfo = url.netloc.rpartition("@")[0]
    parts = re.split("[/?&=:@#]", f"{userinfo}/{url.path}?{url.query}#{url.fragment}")
    return [part for part in parts if len(part) >= SHORTEST_SECRET]


def _spellings(secret: bytes) -> list[tuple[str, bytes]]:
    spellings = [("", secret), (" in hex", secret.hex().encode()), (" in hex", secret.hex().upper().encode())]
    for before in range(3):
        # As part of a longer text: what its first and last digits are depends on what stands beside it.
        digits = base64.b64encode(b"\0" * before + secret)
        core = digits[(0, 2, 3)[before] : len(digits) - (4 if digits.endswith(b"=") else 0)]
        spellings += [(" in base64", core), (" in base64", core.replace(b"+", b"-").replace(b"/", b"_"))]
    return spellings

"""Text from events and from servers on its way to a terminal, a header, a log line or the outbox."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

# C0, DEL, C1, line and paragraph separators, the marks that turn the direction of what follows; and halves of
# surrogate pairs, which stand for bytes that are no UTF-8 and can be written nowhere.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
REDACTED = "***"


def escaped(text: str) -> str:
    """Control characters made visible (`\\u001b`, which JSON reads back), so that no terminal acts on them."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def stripped(text: str) -> str:
    """Control characters (line ends too) turned into single spaces; for headers.

    `=?` begins an encoded word (RFC 2047), which Python's EmailMessage would decode, line ends in it too.
    """
    return " ".join(_CONTROL.sub(" ", text).split()).replace("=?", "= ?")


def cut(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Without the secrets, however a server spells them when it repeats what it was sent."""
    spellings = {
        spelling
        for secret in secrets
        for plain in (secret, unquote(secret))
        for spelling in (
            plain,
            quote(plain),
            quote(plain, safe=""),
            html.escape(plain),
            plain.replace("/", "\\/"),
            base64.b64encode(plain.encode()).decode(),
        )
        if spelling
    }
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, REDACTED)
    return text

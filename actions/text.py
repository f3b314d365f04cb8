"""Text from events and from servers on its way to a terminal, a header, a log line or the outbox."""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, unquote

# C0, DEL, C1, line and paragraph separators, the marks that turn the direction of what follows; and halves of
# surrogate pairs, which stand for bytes that are no UTF-8 and can be written nowhere.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u206f\ud800-\udfff]")
REDACTED = "***"
_SHORTEST_START = 4
_SHORTEST_IN_BASE64 = 6


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


def units(text: str) -> int:
    """The length in UTF-16 code units, of which an emoji has two: the strictest way in which chat services count."""
    return len(text) + sum(character > "\uffff" for character in text)


def fitted(text: str, room: int, spelled: Callable[[str], str] = str, size: Callable[[str], int] = units) -> str:
    """The text spelled for a channel, cut before it is spelled so that its size is at most `room`.

    So no escape is cut in two. `spelled` must not make a text shorter, nor `size` say less than its length.
    """
    if len(text) <= room and size(spelled(text)) <= room:
        return spelled(text)
    lengths = range(min(len(text), room))
    fitting = bisect_right(lengths, room, key=lambda length: size(spelled(text[:length] + "…")))
    return spelled(text[: max(0, fitting - 1)] + "…")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Without the secrets, however a server spells them when it repeats what it was sent.

    The start of one at the end counts too: answers are read up to a bound, which may lie within a secret.
    """
    found = {spelling for secret in secrets for spelling in spellings(secret) if spelling}
    ordered = sorted(found, key=len, reverse=True)
    for spelling in ordered:
        text = re.sub(re.escape(spelling), REDACTED, text, flags=re.IGNORECASE)
    text = text.rstrip("\ufffd")  # a character cut in two
    low = text.lower()
    for spelling in (one.lower() for one in ordered):
        for length in range(min(len(spelling) - 1, len(text)), _SHORTEST_START - 1, -1):
            if low.endswith(spelling[:length]):
                return text[:-length] + REDACTED
    return text


def spellings(secret: str) -> Iterator[str]:
    """How a secret may be spelled, in whatever case: as it is, for a URL, HTML, JSON, Python, in hex and base64."""
    for plain in {secret, unquote(secret)}:
        data = plain.encode("utf-8", "surrogatepass")
        for once in (quote(plain), quote(plain, safe="")):
            yield from (once, quote(once))
        yield from (plain, html.escape(plain), html.escape(plain).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], plain.replace("/", "\\/"))
        yield from (repr(plain)[1:-1], repr(data)[2:-1], data.hex())
        if len(data) >= _SHORTEST_IN_BASE64:
            for before in range(3):
                # As part of a longer text: what its first and last digits are depends on what stands beside it.
                digits = base64.b64encode(b"\0" * before + data).decode()
                core = digits[(0, 2, 3)[before] : len(digits) - (0, 2, 3)[digits.count("=")]]
                yield from (core, core.replace("+", "-").replace("/", "_"))

"""Text from events on its way to a terminal, a header or a log line."""

from __future__ import annotations

import re

# C0, DEL, C1, line and paragraph separators, and the marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    """Control characters made visible (`\\u001b`, which JSON reads back), so that no terminal acts on them."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def stripped(text: str) -> str:
    """Control characters (line ends too) turned into single spaces; for headers."""
    return " ".join(_CONTROL.sub(" ", text).split())


def cut(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"

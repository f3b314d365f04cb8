"""What delivery counts. Labels are names from the configuration, never text from events."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

DELIVERIES = Counter(
    "tua_deliveries", "Deliveries that ended, and attempts that will be repeated", ["action", "outcome"]
)
SUPPRESSED = Counter("tua_suppressed_deliveries", "Deliveries that people were spared", ["action", "reason"])
REPLAYS = Counter("tua_replayed_transitions", "Transitions that were told before a restart and are not told again")
RENDERING_ERRORS = Counter("tua_rendering_errors", "Messages that fell back to the usual or a plain text", ["template"])
OUTBOX_IN_TROUBLE = Gauge("tua_outbox_in_trouble", "1 while the outbox cannot be written and deliveries are in memory")

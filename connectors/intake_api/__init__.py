"""The HTTP intake: events by HTTP, each on its topic before it is acknowledged. See docs/intake.md."""

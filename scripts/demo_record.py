"""What the demo sent and what arrived, shown as it comes."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from datetime import datetime
from typing import Any

import msgspec
from confluent_kafka import Message
from rich.console import Console

from actions.webhook import signature, signing_key
from scripts.comparison import Told, channels, mailed, must_tell, told
from scripts.ground_truth import Episode
from scripts.receivers import Mail, spell_mail
from scripts.webhook_receiver import Post, spell_post
from settings import RuleSettings, Settings


class Demo:
    """What was sent and what arrived. Receivers and producer call in from their threads."""

    def __init__(self, console: Console, settings: Settings, rule: RuleSettings) -> None:
        self.console = console
        self.rule = rule
        self.channels = channels(settings, rule)
        self.lateness_ms = settings.topics[self.rule.topic].lateness_ms
        self.sent_at: dict[tuple[int, int], float] = {}
        self.posts: list[Post] = []
        self.mails: list[Mail] = []
        self.logged: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.watching = threading.Event()
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    def on_mail(self, mail: Mail) -> None:
        self.mails.append(mail)
        self._show("magenta", spell_mail(mail))

    def on_post(self, post: Post) -> None:
        self.posts.append(post)
        self._show("cyan", spell_post(post))

    def read_output(self, stream: Any) -> None:
        for line in stream:
            alert = msgspec.json.decode(line)
            self.logged.append(alert)
            self._show("yellow", f"log: {alert['status']}: {alert['message']}")

    def read_log(self, stream: Any) -> None:
        for line in stream:
            self.said.append(line.decode(errors="replace"))
            if b'"watching"' in line:
                self.watching.set()

    def _show(self, colour: str, text: str) -> None:
        at = f"{datetime.now():%H:%M:%S.%f}"[:-3]
        self.console.print(at, text, style=colour, markup=False)

    def acknowledged(self, message: Message) -> None:
        # The producer's latency is how long ago it was given the order.
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        self.sent_at[partition, offset] = time.time() - (message.latency() or 0.0)

    def told(self, product: str) -> dict[str, Told]:
        """By channel, what came about a product."""
        return {
            "log": told(self.logged, self.rule, product),
            "email": mailed([str(mail.message["Subject"]) for mail in self.mails], self.rule, product),
            "webhook": told([post.alert for post in self.posts], self.rule, product),
        }

    def is_told(self, product: str, episodes: list[Episode]) -> bool:
        """Whether all channels told of the episodes of a product, and of nothing else."""
        came = self.told(product)
        return all(came[name] == must_tell(episodes, name, copies) for name, copies in self.channels.items())

    def latencies_ms(self) -> list[int]:
        """From the order that breached to the webhook, for each alert that opened."""
        found = []
        for post in self.posts:
            evidence = post.alert["evidence"]
            sent_at = self.sent_at.get((evidence["partition"], evidence["offset"]))
            if post.alert["status"] == "opened" and sent_at is not None:
                found.append(round((post.at - sent_at) * 1000))
        return found

    def unsigned(self) -> int:
        """How many webhook calls do not carry the signature they should."""
        keys = (signing_key(self.secret),)
        return sum(
            post.headers.get("webhook-signature")
            != signature(keys, post.headers["webhook-id"], int(post.headers["webhook-timestamp"]), post.body)
            for post in self.posts
        )

"""The other side of an action in a test: what the kit asks of it, and one that speaks HTTP."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Self
from urllib.parse import unquote_plus

from tua.plugin.leaks import secret_parts
from tua.plugin.receiver import HttpReceiver, Reply


class Target(ABC):
    """The other side of an action in a test: a context manager that is there from entering it to leaving it.

    `environment` holds the secrets, as the environment variables that `settings` refers to. The kit sets them, and
    searches everything that is printed and stored for them: they must be long and like nothing else.
    """

    environment: Mapping[str, str] = MappingProxyType({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """The action's settings as they stand in tua.yaml, without `type`, for one recipient.

        Durations are text (`5s`), secrets `{"env": NAME}` or `Secret(env=NAME)`. Asked within the context.
        """

    @abstractmethod
    def received(self) -> list[str]:
        """The text of each message that was accepted, in order, without the encoding of its way here.

        So that what stood in the alert can be searched for: JSON escapes, base64 and the like are undone.
        """

    @abstractmethod
    def answer(self, code: int) -> None:
        """The next attempt is answered so. Several calls queue up; after them, attempts are accepted again.

        Never called where the kit's `outcomes` is empty.
        """

    @abstractmethod
    def hang(self) -> None:
        """The next attempt gets no answer."""

    def up(self) -> None:
        """Hang no longer, also where the attempt that `hang` was meant for never came so far."""
        return

    def down(self) -> None:
        """From now on nobody is there. Not asked of a target that leaves this as it is, as it has no such state."""
        return

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:  # noqa: ARG002
        """What the action writes to Kafka by its context. Raises what a producer raises."""
        return

    def secrets(self) -> Iterable[tuple[str, str]]:
        """(where it comes from, text) of what is searched for: of a URL in `environment` its parts, not its host."""
        return [(name, part) for name, value in self.environment.items() for part in secret_parts(value)]


class HttpTarget(Target):
    """An HTTP server on this host. `{url}` in a text of `settings` or `environment` is its `http://127.0.0.1:port`.

    `accepted` is its answer to what it accepts. An answer with any other code repeats what was asked, secrets and
    all, as some servers do.
    """

    def __init__(
        self,
        settings: Mapping[str, object],
        environment: Mapping[str, str] = MappingProxyType({}),
        accepted: Reply | None = None,
    ) -> None:
        self.server = HttpReceiver(default=accepted)
        base = f"http://127.0.0.1:{self.server.port}"
        self._settings = {
            name: value.replace("{url}", base) if isinstance(value, str) else value for name, value in settings.items()
        }
        self.environment = {name: value.replace("{url}", base) for name, value in environment.items()}

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def settings(self) -> Mapping[str, object]:
        return self._settings

    def received(self) -> list[str]:
        """The bodies of the requests that were answered with 2xx, JSON and forms in clear."""
        return [
            _in_clear(request.headers.get("content-type", ""), request.body)
            for request in self.server.requests
            if 200 <= request.answered < 300
        ]

    def reply(self, code: int) -> Reply:
        """How the server answers with a code; for a subclass whose channel says more than the code."""
        return Reply(code, echo=not 200 <= code < 300)

    def answer(self, code: int) -> None:
        self.server.plan.append(self.reply(code))

    def hang(self) -> None:
        self.server.plan.append(Reply(hang=True))

    def up(self) -> None:
        self.server.plan.clear()

    def down(self) -> None:
        self.server.stop()


def _in_clear(content_type: str, body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    if "json" in content_type:
        return json.dumps(json.loads(body), ensure_ascii=False)
    return unquote_plus(text) if "form-urlencoded" in content_type else text

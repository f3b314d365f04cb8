"""The sender: one asyncio thread beside the flow that takes due deliveries from the outbox and attempts them.

One task, the clerk, does all the work on the outbox: it writes the outcomes of finished attempts and leases
the next rows in one transaction. Attempts are tasks of their own, at most `concurrency` of each action at once,
so an action that is slow, hangs or is dead fills its own places and delays no other.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import structlog

from actions import metrics
from actions.base import Action, Delivered, Delivery, Outcome, Refused, TogetherAction
from actions.delivery.attempt import answer_of, attempt, attempt_all
from actions.delivery.loop import DeliveryLoop
from actions.delivery.records import Leased, Mark, Places
from actions.delivery.spare import SafeOutbox
from detection.times import iso
from settings.actions import ActionSettings, NotifySettings

_log = structlog.get_logger()

POLL_MS = 1_000
GATHER_S = 0.01
ADOPT_S = 2.0
PURGE_S = 3_600.0
MAX_RETRY_AFTER_MS = 3_600_000
SAY_EVERY_MS = 10_000
CLOSING_S = 10.0
T = TypeVar("T")


class Sender:
    """Attempts what is in the outbox until it is closed. `now_ms` is the wall clock.

    A target that wants nothing more (HTTP 410) is disabled until the next start: what is for it, then and
    later, is dead-lettered at once, where it can be seen and redriven.
    """

    def __init__(
        self,
        outbox: SafeOutbox,
        actions: Mapping[str, Action[ActionSettings]],
        now_ms: Callable[[], int],
        retention_ms: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._actions = actions
        self._now_ms = now_ms
        self._retention_ms = retention_ms
        self._jitter = jitter
        self._disabled: set[str] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._in_hand: dict[str, Leased] = {}  # by the delivery's id, until its attempt has ended
        self._marks: list[Mark] = []
        self._said_ms: dict[str, int] = {}
        self._closing = False
        self._grace_s = 0.0
        self._loop = DeliveryLoop()
        self._awake = asyncio.Event()
        self._hurried = asyncio.Event()  # awake for more than an outcome, or for the last one that was awaited
        # SQLite may wait for another process or a slow disk: not in the loop, whose time-outs must be true.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Something new is in the outbox. From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hurry)

    def close(self, grace_ms: int) -> None:
        """Start nothing more, give attempts in flight `grace_ms`, write down how they ended, and stop.

        An attempt that is cut short is made again at the next start. Idempotent.
        """
        if not self._thread.is_alive():
            return

        def begin() -> None:
            self._closing, self._grace_s = True, grace_ms / 1_000
            self._hurry()

        self._loop.call_soon_threadsafe(begin)
        self._thread.join(grace_ms / 1_000 + CLOSING_S)
        if self._thread.is_alive():
            _log.error("The sender does not end: an action holds it up. What it had in hand is attempted again")
            return
        self._disk.shutdown()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._clerk())
        finally:
            self._loop.close()

    async def _clerk(self) -> None:
        keeper = asyncio.create_task(self._keep())
        while not self._closing:
            try:
                await self._round()
            except Exception as error:  # noqa: BLE001 - nothing may end the sender
                _log.error("The sender stumbled and goes on", error=repr(error))
                await asyncio.sleep(POLL_MS / 1_000)
        keeper.cancel()
        await self._finish()

    async def _round(self) -> None:
        self._awake.clear()
        self._hurried.clear()
        marks = tuple(self._marks)
        leases, next_due_ms = await self._on_disk(self._outbox.exchange, marks, self._places())
        del self._marks[: len(marks)]
        self._begin(leases)
        # What other processes put is found by looking; what is due while no place is free comes with a mark.
        pause_ms = POLL_MS if next_due_ms is None else min(POLL_MS, max(10, next_due_ms - self._now_ms()))
        has_places = all(one.free > 0 for one in self._places())
        if not self._marks:
            await _within(pause_ms / 1_000, self._awake)
        if self._marks and self._in_hand and has_places:
            # A transaction for each outcome costs more than all else. Nothing waits for this one but a later
            # transition of the same alert; what is new, or waits for a place, is not held up.
            await _within(GATHER_S, self._hurried)

    def _hurry(self) -> None:
        self._awake.set()
        self._hurried.set()

    def _places(self) -> tuple[Places, ...]:
        busy = Counter(leased.delivery.action for leased in self._in_hand.values())
        now_ms = self._now_ms()
        return tuple(
            Places(name, action.concurrency - busy[name], _is_quiet(action.settings, now_ms))
            for name, action in self._actions.items()
        )

    def _begin(self, leases: Iterable[Leased]) -> None:
        together: dict[TogetherAction[ActionSettings], list[Delivery]] = {}
        for leased in leases:
            delivery = leased.delivery
            self._in_hand[delivery.id] = leased
            action = self._actions[delivery.action]
            if delivery.action in self._disabled:
                self._ended(delivery, Refused("not attempted: the target said before that it wants nothing more"))
            elif isinstance(action, TogetherAction):
                together.setdefault(action, []).append(delivery)
            else:
                self._spawn(self._attempt(action, delivery))
        for action, deliveries in together.items():
            self._spawn(attempt_all(action, deliveries, self._ended))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, action: Action[ActionSettings], delivery: Delivery) -> None:
        self._ended(delivery, await attempt(action, delivery))

    def _ended(self, delivery: Delivery, outcome: Outcome) -> None:
        # One that was cut short may end nevertheless.
        if (leased := self._in_hand.pop(delivery.id, None)) is not None:
            self._marks.append(self._mark(leased, self._actions[delivery.action], outcome))
            self._awake.set()
            if not self._in_hand:
                self._hurried.set()

    def _mark(self, leased: Leased, action: Action[ActionSettings], outcome: Outcome) -> Mark:
        answer = answer_of(action, outcome)
        about: dict[str, Any] = {
            "action": action.name,
            "recipient": leased.delivery.recipient,
            "delivery": leased.delivery.id,
            "attempt": leased.delivery.attempt,
        }
        if isinstance(outcome, Delivered):
            metrics.DELIVERIES.labels(action.name, "delivered").inc()
            return Mark(leased, "delivered", answer)
        if isinstance(outcome, Refused):
            if outcome.disable and action.name not in self._disabled:
                self._disabled.add(action.name)
                _log.error("A target wants nothing more and is disabled until the next start", **about)
            return self._dead(leased, answer, "refused", action)
        retry, now_ms = action.settings.retry, self._now_ms()
        give_up_ms = leased.first_attempt_ms + retry.give_up_ms
        # A clock that jumps does not stand in for attempts.
        if action.gives_up and now_ms >= give_up_ms and leased.failures + 1 >= retry.attempts:
            return self._dead(leased, answer, "gave up", action)
        delay_ms = retry.delays_ms[min(leased.failures, len(retry.delays_ms) - 1)]
        delay_ms = int(delay_ms * (0.9 + 0.2 * self._jitter()))
        asked_ms = min(outcome.after_ms or 0, MAX_RETRY_AFTER_MS)
        asked = asked_ms > delay_ms  # to be tried again sooner is not for the target to ask
        delay_ms = max(delay_ms, asked_ms)
        if action.gives_up and now_ms < give_up_ms:
            delay_ms = min(delay_ms, give_up_ms - now_ms)
        metrics.DELIVERIES.labels(action.name, "retry").inc()
        self._say_failing(now_ms, **about, answer=answer, again_in_ms=delay_ms)
        return Mark(leased, "waits", answer, delay_ms=delay_ms, asked=asked)

    def _say_failing(self, now_ms: int, *, action: str, **about: object) -> None:
        # A target that is down fails for everything that waits for it: that is one message, not thousands.
        if abs(now_ms - self._said_ms.get(action, -SAY_EVERY_MS)) >= SAY_EVERY_MS:
            self._said_ms[action] = now_ms
            _log.warning("A delivery did not work and will be tried again", action=action, **about)

    def _dead(self, leased: Leased, answer: str, reason: str, action: Action[ActionSettings] | None) -> Mark:
        delivery = leased.delivery
        _log.error(
            "A delivery is given up",
            action=delivery.action,
            recipient=delivery.recipient,
            delivery=delivery.id,
            attempts=delivery.attempt,
            reason=reason,
            answer=answer,
        )
        metrics.DELIVERIES.labels(delivery.action, "dead").inc()
        letter = None
        if action is None or action.gives_up:
            letter = msgspec.json.encode(
                {
                    "delivery": delivery.id,
                    "action": delivery.action,
                    "recipient": delivery.recipient,
                    "attempts": delivery.attempt,
                    "reason": reason,
                    "last_error": answer,
                    "made_at": iso(delivery.made_at_ms),
                    "given_up_at": iso(self._now_ms()),
                    "alert": msgspec.Raw(delivery.body),
                }
            )
        return Mark(leased, "dead", answer, reason, dead_letter=letter)

    async def _keep(self) -> None:
        """What has to be done now and then: take over from the dead, end what nobody can deliver, purge."""
        purging = _Hourly(self._now_ms)
        while True:
            try:
                # In small bites, between which the flow gets its turn.
                while await self._on_disk(self._outbox.adopt):
                    self._hurry()
                await self._end_strangers()
                while await self._on_disk(self._outbox.sum_up, self._recipients):
                    self._hurry()
                if purging.is_due():
                    while await self._on_disk(self._outbox.purge, self._retention_ms):
                        pass
            except Exception as error:  # noqa: BLE001 - as in _clerk
                _log.error("The sender stumbled and goes on", error=repr(error))
            await asyncio.sleep(ADOPT_S)

    def _recipients(self, action: str) -> tuple[str, ...]:
        return self._actions[action].recipients() if action in self._actions else ()

    async def _end_strangers(self) -> None:
        while leases := await self._on_disk(self._outbox.strangers, tuple(self._actions)):
            reason = "its action is no longer configured"
            marks = [self._dead(leased, leased.row["last_answer"] or "", reason, None) for leased in leases]
            await self._on_disk(self._outbox.exchange, marks, ())
            self._hurry()

    async def _finish(self) -> None:
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self._grace_s)
        if self._attempts:
            for task in self._attempts:
                task.cancel()
            # One that had been accepted says so even now.
            await asyncio.wait(self._attempts, timeout=2)
        cut_short = self._in_hand.values()
        self._marks += [Mark(leased, "waits", "cut short by the end of the job") for leased in cut_short]
        self._in_hand.clear()
        try:
            await self._on_disk(self._outbox.exchange, tuple(self._marks), ())
            async with asyncio.timeout(2):
                await asyncio.gather(*(action.close() for action in self._actions.values()), return_exceptions=True)
        except Exception as error:  # noqa: BLE001 - as in _clerk
            _log.error("The sender did not stop cleanly", error=repr(error))

    async def _on_disk(self, work: Callable[..., T], *args: Any) -> T:
        return await self._loop.run_in_executor(self._disk, work, *args)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for it so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class _Hourly:
    """When an hour is over since the last time. Not when the clock jumped since: it may come back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._last: tuple[float, int] | None = None

    def is_due(self) -> bool:
        """Whether it is; then the next hour begins."""
        now_s, wall_ms = time.monotonic(), self._now_ms()
        last_s, last_ms = self._last or (now_s - PURGE_S, wall_ms - PURGE_S * 1_000)
        if now_s - last_s < PURGE_S:
            return False
        self._last = now_s, wall_ms
        return wall_ms - last_ms < (now_s - last_s + PURGE_S) * 1_000


def _is_quiet(settings: ActionSettings, now_ms: int) -> bool:
    quiet = settings.quiet_hours if isinstance(settings, NotifySettings) else None
    return quiet is not None and quiet.include(now_ms)

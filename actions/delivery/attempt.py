"""One attempt of a delivery, or of many at once, whatever the action does; and what of its answer may be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from actions.base import Action, ActionError, Delivered, Delivery, Outcome, Refused, Retry, Tell, TogetherAction
from actions.text import cut, escaped, redacted
from settings.actions import ActionSettings

_log = structlog.get_logger()

ANSWER_LENGTH = 300


async def attempt(action: Action[ActionSettings], delivery: Delivery) -> Outcome:
    """How it ended, within the action's total time. Raises nothing but CancelledError, when it is cancelled itself."""

    async def work() -> Outcome:
        return _checked(await action.deliver(delivery))

    return await _guarded(action, work)


async def attempt_all(action: TogetherAction[ActionSettings], deliveries: Sequence[Delivery], tell: Tell) -> None:
    """Like `attempt`, of all at once. `tell` is called once for each, unless this is cancelled before."""
    untold = {delivery.id: delivery for delivery in deliveries}

    def ended(delivery: Delivery, outcome: Outcome) -> None:
        outcome = _checked(outcome)
        if untold.pop(delivery.id, None) is not None:
            tell(delivery, outcome)

    async def work() -> Outcome:
        await action.deliver_all(deliveries, ended)
        return Retry("the action does not say what became of it")

    rest = await _guarded(action, work)
    for delivery in untold.values():
        tell(delivery, rest)


async def _guarded(action: Action[ActionSettings], work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """What comes of the work, or Retry for whatever it raises."""
    try:
        async with asyncio.timeout(action.time_limit_s):
            # In a task of its own, which an action that raises CancelledError by itself ends alone.
            return await asyncio.create_task(_survived(action, work))
    except TimeoutError:
        return Retry(f"no answer within {action.time_limit_s:g} s")
    except ActionError as error:
        return Retry(str(error))
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed(action, error)
    except Exception as error:  # noqa: BLE001 - an action's mistake must cost no more than the attempt
        return _failed(action, error)


async def _survived(action: Action[ActionSettings], work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    try:
        return await work()
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        # These would end the loop, and with it the deliveries of all.
        return _failed(action, error)


def _failed(action: Action[ActionSettings], error: BaseException) -> Retry:
    # Its text may quote anything, a URL with a token in it too.
    _log.error("An action failed", action=action.name, error=type(error).__name__)
    return Retry(f"the action failed with {type(error).__name__}")


def _checked(outcome: object) -> Outcome:
    """Raises TypeError for what is no Outcome: an action of another package may return anything."""
    if not isinstance(outcome, Delivered | Retry | Refused) or not isinstance(outcome.detail, str):
        raise TypeError
    if isinstance(outcome, Retry) and not isinstance(outcome.after_ms, int | None):
        raise TypeError
    return outcome


def answer_of(action: Action[ActionSettings], outcome: Outcome) -> str:
    """What the other side said, in short, without secrets and without a character that steers a terminal."""
    try:
        return cut(escaped(redacted(outcome.detail, action.secrets())), ANSWER_LENGTH)
    except Exception as error:  # noqa: BLE001 - as above; what is not known to be without secrets is not kept
        _log.error("An action cannot say its secrets", action=action.name, error=type(error).__name__)
        return "(its answer cannot be kept: the action does not say its secrets)"

"""What all actions have in common in the configuration. Each action's own file adds to it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, model_validator

from settings.base import Duration, NoRepeats, NotEmpty, PositiveDuration, SettingsModel
from settings.fields import TimeOfDay, TimeZone
from settings.problems import Mistake

_ENOUGH = 10

Status = Literal["opened", "updated", "resolved"]


class RetrySettings(SettingsModel):
    """When a failed delivery is tried again: after each of the delays in turn, the last one over and over."""

    delays_ms: Annotated[tuple[Duration, ...], NotEmpty] = Field(
        default=(0, 5_000, 30_000, 300_000, 1_800_000, 7_200_000, 21_600_000), alias="delays"
    )
    give_up_ms: PositiveDuration = Field(default=86_400_000, alias="give_up")

    @model_validator(mode="after")
    def _delays_must_end_in_a_pause(self) -> Self:
        if self.delays_ms[-1] == 0:
            raise Mistake(
                "the last delay is repeated until give_up, so it must be longer than 0",
                "for example delays: [0s, 5s]",
                at=("delays", len(self.delays_ms) - 1),
            )
        return self

    @property
    def attempts(self) -> int:
        """How many attempts there are at least before it is given up: as many as the delays make, up to ten."""
        number, at_ms = 1, 0
        while number < _ENOUGH and at_ms < self.give_up_ms:
            at_ms += self.delays_ms[min(number, len(self.delays_ms)) - 1]
            number += 1
        return number


class FloodSettings(SettingsModel):
    """When alerts are summed up: of each rule, those beyond `more_than` within `within_ms`."""

    more_than: int = Field(default=30, ge=1, le=1_000_000)
    within_ms: PositiveDuration = Field(default=60_000, alias="within")


class QuietHours(SettingsModel):
    """From `start` to `end` (which may be on the next day) on the clock of a time zone, `HH:MM` in YAML."""

    start: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    timezone: TimeZone = "UTC"

    @model_validator(mode="after")
    def _are_not_always(self) -> Self:
        if self.start == self.end:
            raise Mistake("from and to are the same time", "for a whole day, leave the action out of the rules")
        return self

    def include(self, moment_ms: int) -> bool:
        """Whether a moment (milliseconds since 1970) is within."""
        local = datetime.fromtimestamp(moment_ms / 1_000, ZoneInfo(self.timezone))
        now = (local.hour, local.minute)
        return self.start <= now < self.end if self.start < self.end else not self.end <= now < self.start


class ActionSettings(SettingsModel):
    """The base of every action's settings; a subclass says `type: Literal["its name"]` and adds its fields."""

    type: str
    send: Annotated[tuple[Status, ...], NotEmpty, NoRepeats] = ("opened", "resolved")
    retry: RetrySettings = RetrySettings()

    def notes(self) -> tuple[str, ...]:
        """What `tua check` should mention although it is no mistake, each one sentence without a full stop."""
        return ()

    def writes_to(self) -> str | None:
        """The topic of Kafka that the action writes to, if it does: no rule can read that one."""
        return None


def _flood(value: object) -> object:
    if isinstance(value, bool):
        raise Mistake("this must be names with values", "such as {more_than: 30, within: 1m}, or null for none")
    return value


class NotifySettings(ActionSettings):
    """The base for actions that tell people, who can be spared. `flood` None: every alert is told by itself."""

    flood: Annotated[FloodSettings | None, BeforeValidator(_flood)] = FloodSettings()
    quiet_hours: QuietHours | None = None

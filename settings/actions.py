"""What all actions have in common in the configuration. Each action's own file adds to it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from settings.base import Duration, NoRepeats, NotEmpty, PositiveDuration, SettingsModel
from settings.problems import Mistake

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


class ActionSettings(SettingsModel):
    """The base of every action's settings; a subclass says `type: Literal["its name"]` and adds its fields."""

    type: str
    send: Annotated[tuple[Status, ...], NotEmpty, NoRepeats] = ("opened", "resolved")
    retry: RetrySettings = RetrySettings()

    def notes(self) -> tuple[str, ...]:
        """What `tua check` should mention although it is no mistake, each one sentence without a full stop."""
        return ()

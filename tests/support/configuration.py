"""Small actions of the tests' own: the settings package must work for any, and imports none of the real ones."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from settings import ActionSettings, NotifySettings
from settings.base import NotEmpty
from settings.problems import Mistake
from settings.secrets import MaybeSecret, SecretRef, SecretRefs


class Log(ActionSettings):
    type: Literal["log"]


class Email(NotifySettings):
    type: Literal["email"]
    host: str
    port: int = Field(default=25, ge=1, le=65_535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    username: str | None = None
    password: SecretRef | None = None
    to: Annotated[tuple[str, ...], NotEmpty]


class Webhook(ActionSettings):
    type: Literal["webhook"]
    url: MaybeSecret
    secret: SecretRefs = ()
    allow_insecure: bool = False

    @model_validator(mode="after")
    def _https(self) -> Self:
        if isinstance(self.url, str) and not self.url.startswith("https:") and not self.allow_insecure:
            raise Mistake("the url must be https", "or set allow_insecure: true", at=("url",))
        return self

    def notes(self) -> tuple[str, ...]:
        return () if self.secret else ("it has no secret, so its messages are unsigned",)


class Topic(ActionSettings):
    type: Literal["topic"]
    topic: str

    def writes_to(self) -> str:
        return self.topic


ACTION_TYPES: dict[str, type[ActionSettings]] = {"log": Log, "email": Email, "webhook": Webhook, "topic": Topic}

"""The types of action there are. A new one is a file of its own, and its class in the list here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actions.base import Action
from actions.email import EmailAction
from actions.log import LogAction
from actions.webhook import WebhookAction
from settings.actions import ActionSettings

_ACTIONS: tuple[type[Action[Any]], ...] = (LogAction, EmailAction, WebhookAction)

_BY_TYPE = {action.settings_type.model_fields["type"].default: action for action in _ACTIONS}

ACTION_TYPES: Mapping[str, type[ActionSettings]] = {name: action.settings_type for name, action in _BY_TYPE.items()}
"""What `type:` may say in the configuration, and the settings that go with it."""


def create(name: str, settings: ActionSettings, now_ms: Callable[[], int]) -> Action[ActionSettings]:
    """The action that these settings describe; its secrets are resolved here. Raises ActionError."""
    return _BY_TYPE[settings.type](name, settings, now_ms)

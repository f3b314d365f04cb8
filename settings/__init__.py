"""The configuration, from `tua.yaml` to frozen models. `load` is the one way in, for the job and for `tua check`."""

from settings.actions import ActionSettings, FloodSettings, NotifySettings, QuietHours, RetrySettings
from settings.intake import OPEN_TO_ALL, ApiKeySettings, IntakeSettings, RateLimitSettings
from settings.loader import config_path, load
from settings.models import (
    CooldownSettings,
    CountSettings,
    DeliverySettings,
    KafkaSettings,
    RuleSettings,
    Settings,
    StateSettings,
    TopicSettings,
)
from settings.problems import ConfigError, Problem
from settings.secrets import Secret, SecretError

__all__ = [
    "OPEN_TO_ALL",
    "ActionSettings",
    "ApiKeySettings",
    "ConfigError",
    "CooldownSettings",
    "CountSettings",
    "DeliverySettings",
    "FloodSettings",
    "IntakeSettings",
    "KafkaSettings",
    "NotifySettings",
    "Problem",
    "QuietHours",
    "RateLimitSettings",
    "RetrySettings",
    "RuleSettings",
    "Secret",
    "SecretError",
    "Settings",
    "StateSettings",
    "TopicSettings",
    "config_path",
    "load",
]

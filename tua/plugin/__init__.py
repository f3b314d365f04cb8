"""What an action of another package is made of: `from tua.plugin import Action, …`. docs/actions.md shows a whole one.

Register it by an entry point, and test it with `tua.plugin.kit`:

    [project.entry-points."tua.actions"]
    sms = "our_package.sms:SmsAction"
"""

from actions.alert import Alert, Evidence, KeyCount, Summary
from actions.base import (
    Action,
    ActionError,
    Context,
    Delivered,
    Delivery,
    Outcome,
    Refused,
    Retry,
)
from actions.http import Answer, HttpAction, Post, SafeUrl, SecretUrl, json_post, resolved, resolved_url
from actions.message import Message
from settings.actions import ActionSettings, NotifySettings
from settings.problems import Mistake
from settings.secrets import MaybeSecret, Secret, SecretRef, SecretRefs

__all__ = [
    "Action",
    "ActionError",
    "ActionSettings",
    "Alert",
    "Answer",
    "Context",
    "Delivered",
    "Delivery",
    "Evidence",
    "HttpAction",
    "KeyCount",
    "MaybeSecret",
    "Message",
    "Mistake",
    "NotifySettings",
    "Outcome",
    "Post",
    "Refused",
    "Retry",
    "SafeUrl",
    "Secret",
    "SecretRef",
    "SecretRefs",
    "SecretUrl",
    "Summary",
    "json_post",
    "resolved",
    "resolved_url",
]

"""The types of the fields that `tua.yaml` has: names, paths, lists, brokers, properties."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from detection.rules import Scalar
from settings.base import NoRepeats, NotEmpty, SettingsModel
from settings.problems import Mistake, WrongType, closest
from settings.secrets import Secret, in_clear, is_reference, reference

_SECRET_PROPERTY = re.compile(r"password|secret|passphrase|key\.pem|oauthbearer\.config|jaas")
_CODE_PROPERTY = re.compile(
    r".*_cb|on_commit|on_delivery|logger|opaque|interceptors|default_topic_conf|.*callback_data"
)
_BROKER = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):0*(?P<port>[0-9]{1,5})", re.I
)
_OUR_PROPERTIES = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "group.id": "kafka.consumer_group",
}


def _listed(value: object) -> object:
    return value if isinstance(value, tuple | list) else (value,)


def _field_path(value: str) -> str:
    if "," in value:
        raise Mistake(f"'{value}' is not the path of one field", "several are a list, such as [product.name, user_id]")
    if re.search(r"[\[\]$*()'‘’‚“”„«»]", value):
        hint = "names with dots between them, such as product.name; the items of an array cannot be reached"
        raise Mistake(f"'{value}' is not the path of a field", hint)
    if any(not part or part != part.strip() for part in value.split(".")):
        raise Mistake(f"'{value}' is not the path of a field", "names with dots between them, such as product.name")
    if not value.isprintable() or '"' in value or "\\" in value:
        raise Mistake(
            f"'{value}' is not the path of a field that can be read", "without quotes, backslashes and control signs"
        )
    return value


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise Mistake("a condition is a value, or a list of values", "such as `action: add` or `action: [add, order]`")


def _servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")]
    for number, server in enumerate(servers, 1):
        match = _BROKER.fullmatch(server)
        if match is None or not 0 < int(match["port"]) < 65_536:
            # It is not quoted: where the value came from elsewhere, it may be anything.
            message = f"this is not a list of brokers: number {number} in it is no host:port"
            raise Mistake(message, "host:port with commas between, such as localhost:9092")
    return ",".join(servers)


def _printable(value: str) -> str:
    if not value.strip() or value != value.strip() or not value.isprintable():
        raise Mistake("this is not a name", "letters, digits and signs, without spaces around them")
    return value


def check_topic_name(value: str) -> str:
    """Kafka's own rule for the name of a topic. Raises Mistake."""
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", value) or value in (".", ".."):
        raise Mistake(f"'{value}' cannot be the name of a topic", "letters, digits, '.', '_' and '-', at most 249")
    return value


def check_action_name(value: str) -> str:
    """Raises Mistake. A dot would make it look like one of the job's own actions, such as `tua.alerts`."""
    if value.startswith("tua."):
        raise Mistake(f"the name '{value}' is reserved", "names that start with 'tua.' are the job's own")
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", value):
        raise Mistake(f"'{value}' cannot be the name of an action", "letters, digits, '_' and '-'")
    return value


def _judged_by_name(value: object) -> object:
    """Properties with a Mistake in place of each value that the property's name forbids."""
    if not isinstance(value, Mapping):
        return value
    return {name: _forbidden(name, one) or one for name, one in value.items()}


def _forbidden(name: str, value: object) -> Mistake | None:
    low = name.lower()
    if low in _OUR_PROPERTIES:
        return Mistake(f"'{name}' has a setting of its own", f"set {_OUR_PROPERTIES[low]} instead")
    if _CODE_PROPERTY.fullmatch(low):
        return Mistake(f"'{name}' is code, which cannot be set in a file", "remove it")
    return in_clear(value) if _SECRET_PROPERTY.search(low) else None


def _property(value: object, info: ValidationInfo) -> str | Secret:
    if isinstance(value, Mistake):
        raise value
    if (secret := reference(value, info)) is not None:
        return secret
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise Mistake("a property of librdkafka is text, a number or true/false")


def _directory(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    hint = "a directory of the job's own, such as .tua or /var/lib/tua"
    if not str(value).strip() or "\0" in str(value) or not os.path.abspath(value).strip("/"):
        raise Mistake("this cannot be the directory of the state", hint)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise Mistake("the directory starts with ~ and a name that is nobody's", hint) from None


def _time_of_day(value: object) -> tuple[int, int]:
    if isinstance(value, str) and (match := re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value)):
        return int(match[1]), int(match[2])
    if isinstance(value, tuple) and len(value) == 2:
        return value
    raise Mistake("this is not a time of day", 'hours and minutes in quotes, such as "22:00"')


def _time_zone(value: str) -> str:
    if value not in available_timezones():
        meant = closest(value, available_timezones())
        hint = f"did you mean '{meant}'?" if meant else "a name such as Europe/Vienna, or UTC"
        raise Mistake(f"there is no time zone '{value}'", hint)
    return value


def _record_or_field(value: object) -> object:
    if value == "record":
        return None
    if isinstance(value, Mapping | SettingsModel) and not is_reference(value):
        return value
    raise WrongType("this is neither `record` nor a field", "write `record`, or {field: …}")


TimeOfDay = Annotated[
    tuple[int, int], PlainValidator(_time_of_day), WithJsonSchema({"type": "string", "examples": ["22:00"]})
]
"""`"22:00"` in YAML, (hour, minute) in Python."""

TimeZone = Annotated[str, AfterValidator(_time_zone)]
FieldPath = Annotated[str, AfterValidator(_field_path)]
Name = Annotated[str, AfterValidator(_printable)]
Values = Annotated[
    tuple[Annotated[Scalar, PlainValidator(_scalar)], ...], BeforeValidator(_listed), NotEmpty, NoRepeats
]
Property = Annotated[str | Secret, PlainValidator(_property), PlainSerializer(str)]
Properties = Annotated[dict[str, Property], BeforeValidator(_judged_by_name)]
Replication = Annotated[int, Field(ge=1, le=1000)]
Directory = Annotated[Path, Field(strict=False), BeforeValidator(_directory)]
Servers = Annotated[str, AfterValidator(_servers)]
TopicName = Annotated[str, AfterValidator(check_topic_name)]
Distinct = Annotated[tuple[str, ...], NoRepeats]
Paths = Annotated[tuple[FieldPath, ...], BeforeValidator(_listed), NotEmpty, NoRepeats]
RecordOr = BeforeValidator(_record_or_field)
"""For a field that is `record`, None in Python, or a mapping."""

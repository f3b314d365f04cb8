"""The types of the fields that `tua.yaml` has: names, paths, lists, brokers, properties."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, ValidationInfo

from detection.rules import Scalar
from settings.base import NotEmpty, SettingsModel
from settings.problems import Mistake, Mistakes
from settings.secrets import HOW_TO_REFER, LiteralSecret, Secret, is_reference, read_reference

_SECRET_PROPERTY = re.compile(r"password|secret|passphrase|key\.pem|oauthbearer\.config")
_OUR_PROPERTIES = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "group.id": "kafka.consumer_group",
}


def _listed(value: object) -> object:
    return value if isinstance(value, tuple | list) else (value,)


def _field_path(value: str) -> str:
    if any(not part or part != part.strip() for part in value.split(".")):
        raise Mistake(f"'{value}' is not the path of a field", "names with dots between them, such as product.name")
    if not value.isprintable() or '"' in value or "\\" in value:
        raise Mistake(
            f"'{value}' is not the path of a field that can be read", "without quotes, backslashes and control signs"
        )
    return value


def _no_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    repeats = [index for index, value in enumerate(values) if value in values[:index]]
    if repeats:
        raise Mistakes(Mistake(f"'{values[i]}' is here twice", "remove one of them", (i,)) for i in repeats)
    return values


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise Mistake("a condition is a value, or a list of values", "such as `action: add` or `action: [add, order]`")


def _servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")]
    for server in servers:
        host, _, port = server.rpartition("://")[2].rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65_536:
            raise Mistake("this is not a list of brokers", "host:port with commas between, such as localhost:9092")
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
    if name in _OUR_PROPERTIES:
        return Mistake(f"'{name}' has a setting of its own", f"set {_OUR_PROPERTIES[name]} instead")
    if _SECRET_PROPERTY.search(name) and not isinstance(value, Secret) and not is_reference(value):
        return LiteralSecret("a secret must not stand in the configuration", HOW_TO_REFER)
    return None


def _property(value: object, info: ValidationInfo) -> str | Secret:
    if isinstance(value, Mistake):
        raise value
    if isinstance(value, Secret):
        return value
    if is_reference(value):
        assert isinstance(value, Mapping)
        return read_reference(value, (info.context or {}).get("directory"))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise Mistake("a property of librdkafka is text, a number or true/false")


def _record_or_field(value: object) -> object:
    if value == "record":
        return None
    if isinstance(value, Mapping | SettingsModel) and not is_reference(value):
        return value
    raise Mistake("this is neither `record` nor a field", "write `record`, or {field: …}")


FieldPath = Annotated[str, AfterValidator(_field_path)]
Name = Annotated[str, AfterValidator(_printable)]
Values = Annotated[tuple[Annotated[Scalar, PlainValidator(_scalar)], ...], BeforeValidator(_listed), NotEmpty]
Property = Annotated[str | Secret, PlainValidator(_property), PlainSerializer(str)]
Properties = Annotated[dict[str, Property], BeforeValidator(_judged_by_name)]
Servers = Annotated[str, AfterValidator(_servers)]
TopicName = Annotated[str, AfterValidator(check_topic_name)]
Distinct = Annotated[tuple[str, ...], AfterValidator(_no_repeats)]
Paths = Annotated[tuple[FieldPath, ...], BeforeValidator(_listed), AfterValidator(_no_repeats), NotEmpty]
RecordOr = BeforeValidator(_record_or_field)
"""For a field that is `record`, None in Python, or a mapping."""

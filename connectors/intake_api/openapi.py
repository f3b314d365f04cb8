"""What OpenAPI says of each endpoint: bodies, answers, examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

from connectors.intake_api.answers import Refused, Written
from connectors.intake_api.events import JSON, NDJSON
from connectors.intake_api.products import Product
from connectors.intake_api.retries import HEADER

Json = dict[str, Any]

_ORDER = {"product": {"id": "17", "name": "Nokia", "price": 153.94}, "action": "add"}
_WRITTEN = {"topic": "products", "partition": 1, "offset": 590, "timestamp": 1769853603120, "status": 202}
_REFUSED = {"status": 422, "detail": "key product.name: missing", "field": "product.name"}
_PROBLEM_JSON = "application/problem+json"
_REFUSALS = {
    401: "No API key, or one that is not known.",
    403: "This API key may not write this topic.",
    404: "There is no such topic in the configuration, or no such path.",
    408: "The body did not come in time.",
    413: "The body, an event or the number of events is over the bound.",
    415: "Another content type than those that are taken, or another encoding than UTF-8.",
    422: "Something in the request is wrong; `field` names what, where it is a field or a header.",
    429: "Over the rate limit of this client.",
    503: "Kafka has not acknowledged it within the bound. It may be on the topic all the same.",
}
_AGAIN = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def of_events(topics: Iterable[str], max_events: int, secured: bool) -> Json:
    """The options of the route that takes events."""
    event = {"type": "object", "description": "An event. Fields that no rule reads are allowed."}
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": max_events}
    lines = {"type": "string", "description": "One event a line."}
    content = {
        JSON: {
            "schema": {"oneOf": [event, batch]},
            "examples": {"event": {"value": _ORDER}, "batch": {"value": [_ORDER, _ORDER]}},
        },
        NDJSON: {"schema": lines, "example": '{"user_id": 7}\n{"user_id": 8}\n'},
    }
    topic = {"name": "topic", "in": "path", "required": True, "schema": {"type": "string", "enum": sorted(topics)}}
    written = {"oneOf": [_ref("Written"), _ref("Batch")]}
    examples = {
        "event": {"value": _WRITTEN},
        "batch": {"value": {"written": 1, "refused": 0, "events": [_WRITTEN]}},
    }
    mixed = {"written": 1, "refused": 1, "events": [_WRITTEN, _REFUSED]}
    answers = {
        202: _answer("All replicas in sync have it.", written, examples=examples),
        207: _answer("Some events of a batch are written, others refused.", _ref("Batch"), example=mixed),
    }
    return _operation("Write events to a topic", content, [topic], answers, secured)


def of_new_product(secured: bool) -> Json:
    """The options of the route that adds a product."""
    content = {JSON: {"schema": _ref("Product"), "example": {"id": 17, "name": "Nokia", "price": 153.94}}}
    answers = {202: _answer("All replicas in sync have it.", _ref("Written"), example=_WRITTEN)}
    return _operation("A product was added", content, [], answers, secured)


def of_old_product(secured: bool) -> Json:
    """The options of the route that deletes a product."""
    schema = {"type": "string", "minLength": 1, "maxLength": 256}
    id_ = {"name": "id", "in": "path", "required": True, "schema": schema, "example": "17"}
    answers = {202: _answer("All replicas in sync have it.", _ref("Written"), example=_WRITTEN)}
    return _operation("A product was deleted", None, [id_], answers, secured)


def of_health(summary: str, *, may_fail: bool) -> Json:
    """The options of a route that tells of the health."""
    schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    answers = {200: _answer("It is.", schema)}
    if may_fail:
        answers[503] = _refusal(503, "It is not, and why.")
    return {"summary": summary, "responses": answers}


def complete(app: FastAPI, secured: bool) -> None:
    """Put the schemas of what is really decoded and encoded into the document."""
    document = app.openapi()
    _, schemas = msgspec.json.schema_components([Written, Refused, Product], ref_template=_REF)
    outcomes = {"type": "array", "items": {"oneOf": [_ref("Written"), _ref("Refused")]}}
    counts = {"written": {"type": "integer"}, "refused": {"type": "integer"}}
    schemas["Batch"] = {
        "type": "object",
        "description": "The outcome of each event, in their order.",
        "properties": {**counts, "events": outcomes},
        "required": ["written", "refused", "events"],
    }
    problem = {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}}
    schemas["Problem"] = {
        "type": "object",
        "description": "RFC 9457. `events`: the outcome of each event of a batch.",
        "properties": {**problem, "field": {"type": "string"}, "events": outcomes},
        "required": list(problem),
    }
    components = document.setdefault("components", {})
    components["schemas"] = schemas
    if secured:
        components["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}


def _operation(
    summary: str, content: Json | None, parameters: list[Json], answers: Mapping[int, Json], secured: bool
) -> Json:
    key = {
        "name": HEADER,
        "in": "header",
        "description": "Makes a retry count once. A new one for each event or batch, such as a UUID.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    }
    extra: Json = {"parameters": [*parameters, key]}
    if content is not None:
        extra["requestBody"] = {"required": True, "content": content}
    if secured:
        extra["security"] = [{"api_key": []}]
    refusals = {status: _refusal(status, text) for status, text in _REFUSALS.items() if secured or status > 403}
    return {"summary": summary, "status_code": 202, "responses": {**answers, **refusals}, "openapi_extra": extra}


def _answer(description: str, schema: Json, **more: Any) -> Json:
    return {"description": description, "content": {JSON: {"schema": schema, **more}}}


def _refusal(status: int, description: str) -> Json:
    found: Json = {"description": description, "content": {_PROBLEM_JSON: {"schema": _ref("Problem")}}}
    return found | {"headers": _AGAIN} if status in (429, 503) else found


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


_REF = "#/components/schemas/{name}"

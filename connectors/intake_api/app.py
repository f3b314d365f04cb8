"""The HTTP API: what comes in, who it is from, and the way from there to a topic."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from connectors.intake_api import openapi
from connectors.intake_api.access import Access, Client
from connectors.intake_api.answers import AGAIN, Outcome, Refusal, Refused, many_events, one_event, problem, unavailable
from connectors.intake_api.body_guard import BodyGuard
from connectors.intake_api.events import JSON, NDJSON, Event, EventReader, events_in
from connectors.intake_api.products import DeletedProduct, added, deleted, key_of_product, product_id_in, product_in
from connectors.intake_api.rate_limit import RateLimit
from connectors.intake_api.retries import HEADER, Retries, key_in
from connectors.intake_api.status import Readiness, Summary
from connectors.intake_api.writer import TopicWriter, told
from settings import Settings

T = TypeVar("T")

_LONG = 131_072
"""Bytes of a body that is read in a thread: it may take its time, and others have their turns meanwhile."""


class Intake:
    """All that requests share. To be made in the event loop's thread; raises SecretError, and KafkaException for
    properties that librdkafka does not take."""

    def __init__(self, settings: Settings) -> None:
        intake, rules = settings.intake, settings.detection_rules()
        self.settings = intake
        self._access = Access(intake.api_keys)
        self._limit = RateLimit(intake.rate_limit)
        self._retries = Retries(intake.remember_retries_ms / 1000, max(intake.max_remembered_events, intake.max_events))
        self._readers = {
            name: EventReader(topic.detection_topic(name), rules) for name, topic in settings.topics.items()
        }
        self.topics = tuple(settings.topics)
        self.writer = TopicWriter(settings.kafka, intake.acknowledge_within_ms)
        self.readiness = Readiness(settings.topics, self.writer.topics)
        self.summary = Summary()

    async def post_events(self, request: Request) -> Response:
        client, topic = self._admitted(request, request.path_params["topic"])
        media_type = _media_type(request, (JSON, NDJSON))
        key = key_in(request.headers.get(HEADER))
        body = await request.body()

        def read_all() -> tuple[bool, list[Event | Refused]]:
            batch, texts = events_in(body, media_type)
            if not texts:
                raise Refusal(422, "there is no event in the body")
            if len(texts) > self.settings.max_events:
                raise Refusal(413, f"more than {self.settings.max_events} events in one request")
            return batch, self._readers[topic].read(texts, _event_id(client, key), batch)

        batch, read = await _taking_turns(body, read_all)
        self._limit.charge(client.name, len(read) - 1)
        outcomes = await self._write(request, client, topic, key, body, read)
        return many_events(outcomes) if batch else one_event(outcomes[0])

    async def post_product(self, request: Request) -> Response:
        client, _ = self._admitted(request, self.settings.products_topic)
        _media_type(request, (JSON,))
        key = key_in(request.headers.get(HEADER))
        body = await request.body()
        product = await _taking_turns(body, lambda: product_in(body))
        return await self._write_message(request, client, key, body, added(product), key_of_product(product))

    async def delete_product(self, request: Request) -> Response:
        client, _ = self._admitted(request, self.settings.products_topic)
        key = key_in(request.headers.get(HEADER))
        product = DeletedProduct(product_id_in(request.scope["raw_path"]))
        return await self._write_message(request, client, key, b"", deleted(product.id), key_of_product(product))

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(self, _request: Request) -> Response:
        if self.readiness.reason is not None:
            # No refusal: whoever asks again and again is not to be counted.
            return problem(503, self.readiness.reason, headers=AGAIN)
        return JSONResponse({"status": "ready"})

    async def refuse(self, _request: Request, error: Exception) -> Response:
        """Answers for what was raised."""
        if isinstance(error, Refusal):
            self.summary.refused(error.status)
            return problem(error.status, error.detail, field=error.field, headers=error.headers)
        assert isinstance(error, HTTPException)
        self.summary.refused(error.status_code)
        return problem(error.status_code, error.detail, headers=error.headers)

    def _admitted(self, request: Request, topic: str) -> tuple[Client, str]:
        client = self._access.client_of(request)
        if topic not in self._readers:
            raise Refusal(404, "there is no such topic in the configuration")
        client.check_topic(topic)
        self._limit.admit(client.name)
        if topic not in self.readiness.there:
            # Kafka may make a topic that is written to, with other partitions than the job would.
            raise unavailable(self.readiness.reason or "the topic is not there")
        return client, topic

    async def _write_message(
        self, request: Request, client: Client, key: str | None, body: bytes, message: bytes, record_key: bytes
    ) -> Response:
        topic = self.settings.products_topic
        (read,) = self._readers[topic].read([message], _event_id(client, key), batch=False)
        if isinstance(read, Event):
            read = read._replace(key=record_key)
        (outcome,) = await self._write(request, client, topic, key, body, [read])
        return one_event(outcome)

    async def _write(
        self,
        request: Request,
        client: Client,
        topic: str,
        key: str | None,
        body: bytes,
        read: Sequence[Event | Refused],
    ) -> list[Outcome]:
        def write(before: Sequence[Outcome | None] | None) -> Awaitable[list[Outcome | None]]:
            return self.writer.write(topic, read, before)

        if key is None:
            outcomes = told(await write(None))
        else:
            about = f"{request.method} {request.scope['path']} {request.headers.get('content-type', '')}\n".encode()
            fingerprint = hashlib.sha256(about + body).digest()
            outcomes = told(await self._retries.once((client.name, topic, key), fingerprint, len(read), write))
        self.summary.events(outcomes)
        return outcomes


def make_app(intake: Intake) -> FastAPI:
    """The ASGI application of an intake, which it closes at its own end."""
    settings = intake.settings

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await intake.readiness.ask()
        tasks = [asyncio.create_task(intake.readiness.watch()), asyncio.create_task(intake.summary.each_minute())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            intake.writer.close()
            intake.summary.say()

    app = FastAPI(
        title="tua intake", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    secured = bool(settings.api_keys)
    events = openapi.of_events(intake.topics, settings.max_events, secured)
    of_products = (
        ("/api/products", "POST", intake.post_product, openapi.of_new_product(secured)),
        ("/api/products/{id}", "DELETE", intake.delete_product, openapi.of_old_product(secured)),
    )
    for path, method, endpoint, described in (
        *(of_products if settings.products_topic in intake.topics else ()),
        ("/api/events/{topic}", "POST", intake.post_events, events),
        ("/health/live", "GET", intake.live, openapi.of_health("Is the process there?", may_fail=False)),
        ("/health/ready", "GET", intake.ready, openapi.of_health("Can it write to the topics?", may_fail=True)),
    ):
        # FastAPI describes the route, and Starlette's comes before it: to look for dependencies, of which there are
        # none, and to open a stack for them takes FastAPI as long as all the rest of a request.
        app.add_route(path, endpoint, [method], include_in_schema=False)
        app.add_api_route(path, endpoint, methods=[method], response_class=Response, **described)
    openapi.complete(app, secured)
    app.add_exception_handler(Refusal, intake.refuse)
    app.add_exception_handler(HTTPException, intake.refuse)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _fail)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", HEADER],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes, within_s=settings.body_within_ms / 1000)
    return app


async def _taking_turns(body: bytes, read: Callable[[], T]) -> T:
    """What `read` makes of a body."""
    return read() if len(body) <= _LONG else await asyncio.to_thread(read)


async def _gone(_request: Request, _error: Exception) -> Response:
    """A client that left before its request was complete: nobody reads this, and it is no mistake to be logged."""
    return problem(400, "the request was not complete")


async def _fail(_request: Request, _error: Exception) -> Response:
    return problem(500, "a mistake of the intake; its log has more")


def _event_id(client: Client, key: str | None) -> str | None:
    """The event's id that a key stands for. Clients that have names do not meet in it."""
    return key if key is None or client.key_name is None else f"{client.key_name}:{key}"


def _media_type(request: Request, taken: tuple[str, ...]) -> str:
    """Raises Refusal (415) for what is not taken. Browsers send other types across origins without asking first."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "a body without Content-Encoding is needed")
    media_type, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if media_type not in taken or any(one.replace('"', "") not in ("", "charset=utf-8") for one in parameters):
        raise Refusal(415, f"Content-Type must be {' or '.join(taken)}, in UTF-8", "Content-Type")
    return media_type

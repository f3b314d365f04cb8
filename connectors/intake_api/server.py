"""The intake as a process: its socket, its signals, its log, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

import structlog
import uvicorn

from connectors.intake_api.app import Intake, make_app
from connectors.intake_api.protocol import bounded_protocol
from settings import OPEN_TO_ALL, Settings

log = structlog.get_logger()

_KEEP_ALIVE_S = 30
_BACKLOG = 2_048


class CannotListen(Exception):
    """The address cannot be listened on. The text says why."""


class _OwnLog(logging.Handler):
    """What uvicorn has to say goes where all goes."""

    def emit(self, record: logging.LogRecord) -> None:
        exception = record.exc_info[1] if record.exc_info else None
        if isinstance(exception, asyncio.CancelledError):  # at the end of the grace, which is said by itself
            return
        log.error(record.getMessage().strip(), exc_info=exception)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get their answers within `shutdown_grace`.

    Raises CannotListen, SecretError, and PropertyError where librdkafka does not take its properties.
    """
    intake = settings.intake
    listening = _listen(intake.host, intake.port)
    with listening:
        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.handlers, uvicorn_log.propagate = [_OwnLog()], False
        config = uvicorn.Config(
            make_app(Intake(settings)),
            http=bounded_protocol(intake.headers_within_ms / 1000, intake.max_connections),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=bool(intake.trusted_proxies),
            forwarded_allow_ips=list(intake.trusted_proxies),
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, intake.shutdown_grace_ms // 1000),
            backlog=_BACKLOG,
        )
        server = uvicorn.Server(config)

        def stop(_number: int, _frame: object) -> None:
            # uvicorn has handlers of its own while it serves, and raises the signal again when it has ended: to these.
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if not (intake.is_local or intake.api_keys):
            log.warning(OPEN_TO_ALL.format(host=intake.host))
        log.info("listening", host=intake.host, port=intake.port, topics=list(settings.topics))
        server.run(sockets=[listening])
        log.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        # Python adds to the system's words; for a name that is not known the number is none of the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        what = f"cannot listen on {host} port {port}: {reason}"
        raise CannotListen(f"{what} (intake.host and intake.port say where)") from None

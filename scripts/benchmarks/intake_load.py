"""Events by HTTP as fast as a number of connections can, each with one request at a time: what `tua serve` can take.

    python -m scripts.benchmarks.intake_load http://127.0.0.1:8080 --batch 500 --connections 8 --seconds 60

Ends with 1 where an answer was another than 202. The client costs about as much as the server, and both share the
machine with the broker; `--processes` shows where it is the bound.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import Annotated
from urllib.parse import urlsplit

import typer
import uvloop

from scripts.benchmarks.orders import value_of

_LATE_S = 10.0


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered, until `until`. `took` has the seconds of each answer."""

    def __init__(self, requests: list[bytes], until: float, took: list[float], others: list[bytes]) -> None:
        self._requests, self._until, self._took, self._others = requests, until, took, others
        self._next, self._sent_at, self._answer = 0, 0.0, b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._took.append(time.perf_counter() - self._sent_at)
        if not head.startswith(b"HTTP/1.1 202 "):
            self._others.append(body[:200])
        self._answer = b""
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1


def load(url: str, topic: str, batch: int, connections: int, seconds: float) -> tuple[list[float], list[bytes]]:
    """The seconds that each answer took, and the answers that were no 202."""

    async def run() -> tuple[list[float], list[bytes]]:
        took: list[float] = []
        others: list[bytes] = []
        where, until = urlsplit(url), time.perf_counter() + seconds
        open_: list[Connection] = []
        for number in range(connections):
            requests = [_request(where.netloc, topic, batch, number * 97 + one) for one in range(50)]
            connection = Connection(requests, until, took, others)
            await asyncio.get_running_loop().create_connection(lambda c=connection: c, where.hostname, where.port)
            open_.append(connection)
        async with asyncio.timeout(seconds + _LATE_S):
            await asyncio.gather(*(one.closed for one in open_))
        return took, others

    return uvloop.run(run())


def _request(host: str, topic: str, batch: int, seed: int) -> bytes:
    numbers = range(seed * batch, seed * batch + batch)
    events = ",".join(value_of(number, number % 1_000, 12_345) for number in numbers)
    body = (events if batch == 1 else f"[{events}]").encode()
    head = f"POST /api/events/{topic} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main(
    url: Annotated[str, typer.Argument()],
    topic: Annotated[str, typer.Option()] = "products",
    batch: Annotated[int, typer.Option(min=1, help="Events in each request.")] = 1,
    connections: Annotated[int, typer.Option(min=1, help="Of each process.")] = 64,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(min=1)] = 60,
) -> None:
    """Measure what an intake takes."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        began = time.perf_counter()
        runs = pool.starmap(load, [(url, topic, batch, connections, seconds)] * processes)
        passed = time.perf_counter() - began
    took = sorted(one for run, _ in runs for one in run)
    others = [one for _, run in runs for one in run]
    p50, p99 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99))
    per_second = len(took) * batch / min(passed, seconds)
    typer.echo(f"{per_second:,.0f} events/s in requests of {batch}; answers p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    if others:
        typer.echo(f"{len(others)} answers were no 202, such as: {others[0].decode(errors='replace')}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

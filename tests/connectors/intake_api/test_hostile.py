"""Bodies and clients that mean no good: each gets a 4xx, and others get their answers meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.intake import JSON, NDJSON, ORDER, Intake, answer_of, configuration
from tests.support.waiting import wait_until

HEAD = b"POST /api/events/products HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ORDER_BYTES = json.dumps(ORDER).encode()


@pytest.fixture(scope="module")
def server(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    """One for all: whatever it was sent, it must go on."""
    config = configuration(headers_within="2s", body_within="2s", max_connections=50)
    server = Intake(tmp_path_factory.mktemp("intake"), config, embedded).start()
    yield server
    still_there, log = server.process.poll() is None, server.log()
    server.close()
    assert still_there
    assert "Traceback" not in log


@pytest.fixture(autouse=True)
def _goes_on(server: Intake) -> Iterator[None]:
    yield
    assert server.post("products", ORDER).status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"[" + b"1," * 999_999 + b"1]", 413, "larger than"),
        (b" " * 10_000_000, 413, "larger than"),
        (b"[" + b"{}," * 10_000 + b"{}]", 413, "more than 10000 events"),
        (b"[" * 100_000, 422, "recursion"),
        (b'{"a":' * 100_000, 422, "nested too deeply"),
        (b'{"a":' + b"[" * 501 + b"]" * 501 + b"}", 422, "nested more than 500"),
        (b'{"a":NaN}', 422, "NaN"),
        (b'{"a":-Infinity}', 422, "-Infinity"),
        (b'{"a":"\xff"}', 422, "not UTF-8"),
        (b'{"a":"\\ud800","action":"add","product":{"name":"\\ud800"}}', 422, "surrogate"),
        (b'{"a":{"b":1,"b":2}}', 422, "twice"),
        (b"{%s}" % b",".join(b'"%d":1' % (n % 50_000) for n in range(50_001)), 422, "twice"),
        (b'{"a":' + b"9" * 5_000 + b"}", 422, "digits"),
        (b"", 422, "not JSON"),
        (b"[]", 422, "no event"),
        (b"[{},", 422, "not a JSON array"),
        (b"17", 422, "JSON object"),
        (b"null", 422, "JSON object"),
        (b'{"a":1} {"a":2}', 422, "not JSON"),
        (b"\xef\xbb\xbf{}", 422, "not JSON"),
        (b'{"a":"\x00"}', 422, "not JSON"),
        (b'{"action":"add","product":{"name":1e999}}', 422, "product.name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_is_no_event_is_refused_with_the_reason(
    server: Intake, body: bytes, status: int, said: str
) -> None:
    answer = server.client.post("/api/events/products", content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"id": 17, "name": "Nokia"}', "price"),
        ('{"id": true, "name": "Nokia", "price": 1}', "id"),
        ('{"id": null, "name": "Nokia", "price": 1}', "id"),
        ('{"id": "", "name": "Nokia", "price": 1}', "id"),
        ('{"id": 17, "name": "", "price": 1}', "name"),
        ('{"id": 17, "name": 5, "price": 1}', "name"),
        ('{"id": 17, "name": "Nokia", "price": "cheap"}', "price"),
        ('{"id": 17, "name": "Nokia", "price": "1\\n"}', "price"),
        ('{"id": 17, "name": "Nokia", "price": 1e999}', "price"),
        ('{"id": 17, "id": 18, "name": "Nokia", "price": 1}', "id"),
    ],
)
def test_a_product_that_is_none_is_refused_naming_the_field(server: Intake, body: str, field: str) -> None:
    answer = server.client.post("/api/products", content=body, headers=JSON)
    assert (answer.status_code, answer.json().get("field")) == (422, field), answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        JSON | {"Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_another_type_of_content_is_refused(server: Intake, headers: dict[str, str]) -> None:
    answer = server.client.post("/api/events/products", content=ORDER_BYTES, headers=headers)
    assert answer.status_code == 415
    assert server.client.post("/api/products", content=b"{}", headers=NDJSON).status_code == 415


def test_what_is_not_there_is_404_and_405(server: Intake) -> None:
    assert server.post("orders", ORDER).status_code == 404
    assert server.client.delete("/api/products/").status_code == 404
    answer = server.client.get("/api/events/products")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_chunks_without_a_length_are_taken_up_to_the_bound(server: Intake) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield ORDER_BYTES
        for _ in range(count):
            yield b" " * 65_536

    assert server.client.post("/api/events/products", content=chunks(3), headers=JSON).status_code == 202
    assert server.client.post("/api/events/products", content=chunks(100), headers=JSON).status_code == 413


def test_a_refused_body_that_is_still_on_its_way_does_not_cost_the_connection(server: Intake) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/api/events/products", b"x" * 10_000_000, JSON)
    answer = connection.getresponse()
    assert (answer.status, b"larger than" in answer.read()) == (413, True)
    socket_ = connection.sock
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    assert connection.sock is socket_
    connection.close()


def test_a_client_that_asks_first_need_not_send_a_body_that_is_refused(server: Intake) -> None:
    answer = answer_of(server.talk(HEAD + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", ["events/products", "events/nowhere", "products"])
def test_a_body_of_a_byte_at_a_time_is_cut_while_others_are_answered(server: Intake, path: str) -> None:
    head = HEAD.replace(b"events/products", path.encode()) + b"Content-Length: 1000\r\n\r\n"
    with server.talk(head) as connection:
        connection.settimeout(0.05)
        answer, sent = b"", 0
        while not answer.startswith(b"HTTP/1.1 "):
            connection.sendall(b" ")
            sent += 1
            assert server.post("products", ORDER).status_code == 202
            try:
                answer += connection.recv(65_536)
            except TimeoutError:
                assert sent < 1_000
        assert answer.split()[1] == (b"404" if path == "events/nowhere" else b"408")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    "start", [b"", b"POST /api/prod", HEAD, HEAD + b"X: "], ids=["nothing", "line", "head", "more"]
)
def test_headers_that_do_not_come_are_cut(server: Intake, start: bytes) -> None:
    assert answer_of(server.talk(start)).startswith(b"HTTP/1.1 408 ")


def test_headers_that_do_not_come_on_a_connection_in_use_are_cut_too(server: Intake) -> None:
    connection = server.talk(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nPOST /api")
    answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_headers_without_an_end_are_refused(server: Intake) -> None:
    connection = server.talk(HEAD)
    with suppress(ConnectionError):  # what is still on its way may meet a closed connection
        for _ in range(100):
            connection.sendall(b"X: " + b"x" * 5_000 + b"\r\n")
    with suppress(ConnectionResetError):
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")


def test_no_http_at_all_is_refused(server: Intake) -> None:
    assert answer_of(server.talk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


def test_more_connections_than_the_bound_are_refused_and_taken_again_when_others_have_gone(server: Intake) -> None:
    held: list[socket.socket] = []
    try:
        while len(held) < 60:
            held.append(server.talk())
        wait_until(lambda: answer_of(server.talk()).startswith(b"HTTP/1.1 503 "))
    finally:
        for connection in held:
            connection.close()
    server.wait_for("live")


def test_others_are_answered_while_a_body_that_takes_long_to_read_is_read(server: Intake) -> None:
    body = b'{"a":[' + b"[]," * 320_000 + b"[" * 501 + b"]" * 501 + b"]}"
    head = b"%sContent-Length: %d\r\n\r\n" % (HEAD, len(body))
    with server.talk(head, body) as connection:
        connection.setblocking(False)
        others = 0
        while True:
            try:
                assert connection.recv(65_536).startswith(b"HTTP/1.1 422 ")
                break
            except BlockingIOError:
                assert server.client.get("/health/live").status_code == 200
                others += 1
    # Were it read in the event loop, these would be the two or three that came before.
    assert others > 10


def test_half_of_a_surrogate_pair_as_a_name_costs_the_other_events_of_a_batch_nothing(server: Intake) -> None:
    twice = b'{"\\ud800":1,"\\ud800":2}'
    answer = server.client.post("/api/events/products", content=ORDER_BYTES + b"\n" + twice, headers=NDJSON)
    assert answer.status_code == 207
    assert [event["status"] for event in answer.json()["events"]] == [202, 422]
    assert server.post("products", twice).status_code == 422
    assert server.client.post("/api/products", content=twice, headers=JSON).status_code == 422


@pytest.mark.parametrize("id_", ["%FF", "x" * 257])
def test_an_id_that_is_none_is_refused(server: Intake, id_: str) -> None:
    answer = server.client.delete(f"/api/products/{id_}")
    assert (answer.status_code, answer.json()["field"]) == (422, "id")


def test_a_batch_of_which_nothing_is_written_is_no_success(server: Intake) -> None:
    large = json.dumps({"action": "add", "product": {"name": "Nokia", "x": "y" * 1_000_100}}).encode()
    answer = server.post("products", b'[%s,{"action":"add"}]' % large)
    assert {event["status"] for event in answer.json()["events"]} == {413, 422}
    assert answer.status_code == 422


def test_a_client_that_leaves_before_its_body_is_complete_is_no_mistake_of_the_server(server: Intake) -> None:
    # That the log has no traceback is looked at when all is done.
    with server.talk(HEAD + b"Content-Length: 100\r\n\r\nhalf"):
        pass


def test_requests_without_end_before_any_answer_are_cut(server: Intake) -> None:
    connection = server.talk()
    connection.settimeout(20)

    def flood() -> None:
        for _ in range(1_000):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)

    with pytest.raises(ConnectionError):
        flood()


def test_a_client_that_does_not_read_its_answers_is_cut(server: Intake) -> None:
    body = b"{}\n" * 10_000
    head = HEAD.replace(b"json", b"x-ndjson") + b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", server.port))
        for _ in range(8):
            connection.sendall(head + body)

        mine = connection.getsockname()[1]

        def is_held() -> bool:
            """Whether the server's end is established, which is 01."""
            ends = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
            return any(
                (int(local[-4:], 16), int(remote[-4:], 16), state) == (server.port, mine, "01")
                for local, remote, state in ends
            )

        assert is_held()
        wait_until(lambda: not is_held(), 30)


def test_garbage_behind_a_request_that_is_still_at_work_cuts_the_connection(server: Intake) -> None:
    body = json.dumps([ORDER] * 500).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with server.talk(request + b"\x16\x03\x01\r\n\r\n") as connection, suppress(ConnectionError):
        assert b"HTTP/1.1 400" not in answer_of(connection), "which would be taken for the answer of the first"

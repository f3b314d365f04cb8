"""API keys, rate limits and CORS, as a client meets them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors.intake_api.access import _network_of
from connectors.intake_api.answers import Refusal
from connectors.intake_api.rate_limit import RateLimit
from settings import RateLimitSettings
from tests.support.intake import JSON, ORDER, Intake, configuration

Serve = Callable[..., Intake]
KEYS = {"SHOP_KEY": "shöp-secret", "APP_KEY": "app-secret", "APP_OLD_KEY": "app-old-secret"}
API_KEYS = {
    "shop": {"env": "SHOP_KEY"},
    "app": {"key": [{"env": "APP_KEY"}, {"env": "APP_OLD_KEY"}], "topics": ["products"]},
    "other": {"key": {"env": "APP_KEY", "default": "other-secret"}, "topics": ["orders"]},
}


def status(server: Intake, *authorization: bytes, topic: str = "products") -> tuple[int, str]:
    headers = [(b"Content-Type", b"application/json"), *((b"Authorization", one) for one in authorization)]
    answer = server.client.post(f"/api/events/{topic}", json=ORDER, headers=headers)
    return answer.status_code, answer.headers.get("www-authenticate", "")


def test_a_key_writes_the_topics_that_are_its_own(embedded: str, serve: Serve, tmp_path) -> None:
    config = configuration("products", "orders", api_keys=API_KEYS)
    config["intake"]["api_keys"]["other"]["key"] = {"env": "OTHER_KEY"}
    server = Intake(tmp_path, config, embedded, **KEYS, OTHER_KEY="other-secret").start(ready=False)
    try:
        server.wait_for("live")
        for right in ("shöp-secret", "app-secret", "app-old-secret"):
            assert status(server, b"Bearer " + right.encode())[0] == 202
            assert status(server, b"bearer  " + right.encode())[0] == 202
        wrong = [
            (), (b"Bearer",), (b"Bearer wrong",), (b"Basic app-secret",), (b"app-secret",),
            (b"Bearer app-secret app-secret",), (b"Bearer app-secre",), (b"Bearer \xff\xfe",),
            (b"Bearer app-secret", b"Bearer app-secret"),
        ]  # fmt: skip
        for shown in wrong:
            assert status(server, *shown) == (401, 'Bearer realm="tua intake"'), shown
        assert status(server, b"Bearer other-secret")[0] == 403
        assert status(server, b"Bearer app-secret", topic="orders")[0] == 403
        assert status(server, b"Bearer other-secret", topic="orders")[0] in (202, 503)  # it need not be there
        assert status(server, b"Bearer shop", topic="nowhere")[0] == 401, "nobody learns which topics there are"
        assert status(server, b"Bearer app-secret", topic="nowhere")[0] == 404
        assert server.client.delete("/api/products/1").status_code == 401
        assert server.client.post("/api/products", json={}).status_code == 401
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert not [secret for secret in [*KEYS.values(), "other-secret"] if secret in server.log()]
    finally:
        server.close()


def test_the_same_idempotency_key_of_two_clients_are_two(serve: Serve) -> None:
    server = serve(KEYS, api_keys={"shop": {"env": "SHOP_KEY"}, "app": {"env": "APP_KEY"}})
    places = set()
    for key in ("shöp-secret", "app-secret"):
        for _ in range(2):
            headers = [(b"Authorization", f"Bearer {key}".encode()), (b"Idempotency-Key", b"1")]
            answer = server.client.post("/api/events/products", json=ORDER, headers=headers).json()
            places.add((answer["partition"], answer["offset"]))
    assert len(places) == 2


def test_over_the_rate_limit_a_client_is_told_when_to_come_again_and_others_are_not_concerned(serve: Serve) -> None:
    server = serve(KEYS, api_keys={"shop": {"env": "SHOP_KEY"}, "app": {"env": "APP_KEY"}},
                   rate_limit={"events": 10, "per": "1h"})  # fmt: skip

    def post(key: str, events: int) -> tuple[int, str | None]:
        headers = [*JSON.items(), ("Authorization", f"Bearer {key}")]
        answer = server.client.post("/api/events/products", json=[ORDER] * events, headers=headers)
        return answer.status_code, answer.headers.get("retry-after")

    assert post("app-secret", 9) == (202, None)
    assert post("app-secret", 20) == (202, None)
    limited, wait = post("app-secret", 1)
    assert limited == 429
    assert int(wait or 0) == pytest.approx(20 * 360, abs=60)
    assert status(server, "Bearer shöp-secret".encode())[0] == 202


def test_the_bucket_fills_with_time_and_a_debt_is_waited_off() -> None:
    now = [0.0]
    limit = RateLimit(RateLimitSettings(events=10, per_ms=1_000), lambda: now[0])

    def admitted(events: int) -> int:
        try:
            limit.admit("a")
        except Refusal as refusal:
            return int((refusal.headers or {})["Retry-After"])
        limit.charge("a", events - 1)
        return 0

    assert [admitted(1) for _ in range(11)] == [0] * 10 + [1]
    now[0] = 0.2
    assert [admitted(1) for _ in range(3)] == [0, 0, 1]
    now[0] = 100.0
    assert admitted(45) == 0
    assert admitted(1) == 4
    now[0] = 103.61
    assert [admitted(1), admitted(1)] == [0, 1]
    limit.admit("b")


def test_clients_are_forgotten_beyond_a_bound() -> None:
    limit = RateLimit(RateLimitSettings(events=1, per_ms=3_600_000), lambda: 0.0)
    for number in range(10_001):
        limit.admit(str(number))
    limit.admit("0")
    with pytest.raises(Refusal):
        limit.admit("10000")


def test_no_page_of_another_origin_may_write_unless_it_is_named(serve: Serve) -> None:
    def asked(server: Intake, origin: str) -> str | None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST",
                   "Access-Control-Request-Headers": "content-type,idempotency-key"}  # fmt: skip
        answer = server.client.options("/api/events/products", headers=headers)
        return answer.headers.get("access-control-allow-origin") if answer.status_code == 200 else None

    closed = serve()
    assert asked(closed, "https://shop.example.com") is None
    closed.stop()
    server = serve(cors_origins=["https://shop.example.com"])
    assert asked(server, "https://shop.example.com") == "https://shop.example.com"
    assert asked(server, "https://evil.example.com") is None
    answer = server.client.post("/api/events/products", json=ORDER, headers={"Origin": "https://shop.example.com"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example.com"


def test_a_forwarded_address_counts_only_from_a_proxy_that_is_trusted(serve: Serve) -> None:
    def statuses(server: Intake) -> list[int]:
        return [server.post("products", ORDER, X_Forwarded_For=f"10.0.0.{n}").status_code for n in range(3)]

    limit = {"events": 1, "per": "1h"}
    server = serve(rate_limit=limit)
    assert statuses(server) == [202, 429, 429]
    server.stop()
    assert statuses(serve(rate_limit=limit, trusted_proxies=["127.0.0.0/8"])) == [202, 202, 202]


def test_an_address_of_ipv4_in_the_form_of_ipv6_is_that_address_and_no_network_of_all() -> None:
    found = [_network_of(host) for host in ("1.2.3.4", "::ffff:1.2.3.4", "2001:db8::7")]
    assert found == ["1.2.3.4", "1.2.3.4", "2001:db8::/64"]

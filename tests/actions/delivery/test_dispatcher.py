"""From transitions to recipients, with real servers: what each one gets when the others misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from actions.base import delivery_id
from actions.delivery import sender
from actions.webhook import WebhookAction
from settings import DeliverySettings, RetrySettings
from tests.actions.conftest import Start
from tests.support.delivering import Broker, action, clock_ms, email_action, opened, resolved, rows, settings
from tests.support.receivers import HttpReceiver, MailReceiver, RawServer, Reply, accept_mails, free_port
from tests.support.waiting import wait_until


def states(directory: Path) -> dict[tuple[str, int], tuple[str, str | None]]:
    return {(row["action"], row["sequence"]): (row["state"], row["reason"]) for row in rows(directory)}


def test_each_action_and_the_alerts_topic_get_the_life_of_an_alert(
    start: Start, web: HttpReceiver, mail: MailReceiver, broker: Broker, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start({"log": action("log"), "mail": email_action(mail.port), "web": action("webhook", url=web.url)})
    life = opened(run.settings)
    update = replace(life, status="updated", sequence=2, peak=40)
    run.dispatcher.put([life, update])
    run.dispatcher.put([replace(resolved(life), sequence=3, peak=44)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert mail.subjects() == ["[warning] hot: Nokia", "[resolved] hot: Nokia"]
    assert [json.loads(request.body)["type"] for request in web.requests] == ["alert.opened", "alert.resolved"]
    told = broker.on("tua.alerts")
    assert [(alert["status"], alert["sequence"]) for alert in told] == [("opened", 1), ("updated", 2), ("resolved", 3)]
    assert {key for _, key, _ in broker.messages} == {b"a1"}
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert printed == [told[0], told[2]]
    assert told[0]["message"] == "Product 'Nokia' was ordered 20 times within 5 seconds"


def test_an_action_gets_only_the_transitions_it_wants(start: Start, web: HttpReceiver, broker: Broker) -> None:
    run = start({"web": action("webhook", url=web.url, send=("updated",))})
    life = opened(run.settings)
    run.dispatcher.put(
        [life, replace(life, status="updated", sequence=2, peak=40), replace(resolved(life), sequence=3)]
    )
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert [json.loads(request.body)["type"] for request in web.requests] == ["alert.updated"]


def test_what_was_told_before_a_crash_is_not_told_again(start: Start, web: HttpReceiver, broker: Broker) -> None:
    run = start({"web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: run.dispatcher.pending() == 0)
    run.restart()
    other_order = replace(life, alert_id="other", opened_at_ms=life.opened_at_ms + 700)
    run.dispatcher.put([other_order, replace(resolved(life), alert_id="other")])
    wait_until(lambda: len(broker.on("tua.alerts")) == 2 and run.dispatcher.pending() == 0)
    assert web.ids() == [delivery_id("a1", n, "web", web.url.removesuffix("/alerts")) for n in (1, 2)]
    assert {alert["id"] for alert in broker.on("tua.alerts")} == {"a1"}


def test_a_mail_server_that_is_down_delays_nobody_and_gets_what_it_missed(start: Start, web: HttpReceiver) -> None:
    server = MailReceiver()
    run = start({"mail": email_action(server.port), "web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life, resolved(life)])
    wait_until(lambda: len(web.requests) == 2 and run.dispatcher.pending() == 2)
    with server:
        wait_until(lambda: run.dispatcher.pending() == 0)
        assert server.subjects() == ["[warning] hot: Nokia", "[resolved] hot: Nokia"]


def test_a_webhook_that_fails_at_first_gets_the_same_message_under_the_same_id(start: Start, web: HttpReceiver) -> None:
    web.plan.extend([Reply(500), Reply(429), Reply(408), Reply(425), Reply(503)])
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(web.requests) == 6
    assert len(set(web.ids())) == 1
    assert len({request.body for request in web.requests}) == 1


def test_a_webhook_and_a_mail_server_that_hang_cost_the_others_nothing(start: Start, web: HttpReceiver) -> None:
    with HttpReceiver(default=Reply(hang=True)) as stuck, MailReceiver() as mail:
        mail.hang = True
        actions = {
            "stuck": action("webhook", url=stuck.url),
            "mail": email_action(mail.port),
            "web": action("webhook", url=web.url),
        }
        run = start(actions)
        # More than an action has places for.
        run.dispatcher.put([opened(run.settings, f"a{n}", f"P{n}") for n in range(30)])
        wait_until(lambda: len(web.requests) == 30)
        assert mail.mails == []


def test_outcomes_that_wait_for_others_hold_up_nothing_new_nor_what_waits_for_a_place(
    start: Start, web: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "GATHER_S", 600.0)
    with HttpReceiver(default=Reply(hang=True)) as stuck:
        run = start({"stuck": action("webhook", url=stuck.url), "web": action("webhook", url=web.url)})
        run.dispatcher.put([opened(run.settings, "first", "A")])
        wait_until(lambda: len(web.requests) == 1)
        run.dispatcher.put([opened(run.settings, f"a{n}", f"P{n}") for n in range(30)])
        wait_until(lambda: len(web.requests) == 31, timeout=WebhookAction.time_limit_s / 2)  # or `stuck` ended first
        run.dispatcher.close(0)  # comes back


def test_one_alert_that_waits_for_its_retry_holds_back_no_other(start: Start, web: HttpReceiver) -> None:
    web.plan.append(Reply(503, {"retry-after": "600"}))
    run = start({"web": action("webhook", url=web.url)})
    first = opened(run.settings, "first", "A")
    run.dispatcher.put([first])
    wait_until(lambda: len(web.requests) == 1)
    second = opened(run.settings, "second", "B")
    run.dispatcher.put([resolved(first), second, resolved(second)])
    wait_until(lambda: len(web.requests) == 3)
    told = [json.loads(request.body)["data"] for request in web.requests]
    assert [(alert["id"], alert["status"]) for alert in told] == [
        ("first", "opened"), ("second", "opened"), ("second", "resolved"),
    ]  # fmt: skip


def test_what_is_refused_becomes_a_dead_letter(start: Start, web: HttpReceiver, broker: Broker, tmp_path: Path) -> None:
    web.plan.append(Reply(404, body=b"no such hook"))
    run = start({"web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life, resolved(life)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert states(tmp_path / "state")["web", 1] == ("dead", "refused")
    assert states(tmp_path / "state")["web", 2] == ("delivered", None)
    (letter,) = broker.on("tua.dead-letters")
    assert letter["alert"] == broker.on("tua.alerts")[0]
    del letter["alert"], letter["made_at"], letter["given_up_at"]
    assert letter == {
        "delivery": web.ids()[0],
        "action": "web",
        "recipient": web.url.removesuffix("/alerts"),
        "attempts": 1,
        "reason": "refused",
        "last_error": "404 no such hook",
    }


def test_what_never_works_is_given_up_in_the_end(start: Start, broker: Broker, tmp_path: Path) -> None:
    retry = RetrySettings(delays=(10,), give_up=300)
    run = start({"web": action("webhook", url=f"http://127.0.0.1:{free_port()}/", retry=retry)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: broker.on("tua.dead-letters"))
    (letter,) = broker.on("tua.dead-letters")
    assert (letter["reason"], letter["last_error"]) == ("gave up", "cannot connect: the connection was refused")
    assert letter["attempts"] > 3
    assert states(tmp_path / "state")["web", 1] == ("dead", "gave up")


def test_a_target_that_is_gone_is_left_alone_until_the_next_start(
    start: Start, web: HttpReceiver, broker: Broker
) -> None:
    web.plan.append(Reply(410))
    run = start({"web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: len(broker.on("tua.dead-letters")) == 1)
    run.dispatcher.put([resolved(life)])
    wait_until(lambda: len(broker.on("tua.dead-letters")) == 2)
    assert len(web.requests) == 1
    run.restart()
    run.dispatcher.put([opened(run.settings, "b", "B")])
    wait_until(lambda: len(web.requests) == 2)


def test_a_success_makes_due_at_once_what_waits(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    web.plan.extend([Reply(503)] * 3)
    patient = RetrySettings(delays=(3_600_000,), give_up=86_400_000)
    run = start({"web": action("webhook", url=web.url, retry=patient)})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"P{n}") for n in range(3)])
    wait_until(lambda: sum(row["failures"] for row in rows(tmp_path / "state")) == 3)
    run.dispatcher.put([opened(run.settings, "fresh", "Q")])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(web.requests) == 7


def test_the_topics_are_tried_for_ever(start: Start, broker: Broker, web: HttpReceiver) -> None:
    broker.down = True
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: broker.attempts >= 2 and web.requests)
    broker.down = False
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(broker.on("tua.alerts")) == 1


def test_what_an_action_that_is_no_longer_configured_should_deliver_is_dead_lettered(
    start: Start, web: HttpReceiver, broker: Broker, tmp_path: Path
) -> None:
    run = start({"gone": action("webhook", url=f"http://127.0.0.1:{free_port()}/")})
    run.dispatcher.put([opened(run.settings)])
    run.restart(settings(tmp_path / "state", {"web": action("webhook", url=web.url)}))
    wait_until(lambda: broker.on("tua.dead-letters"))
    assert broker.on("tua.dead-letters")[0]["reason"] == "its action is no longer configured"
    assert web.requests == []


def test_swapping_the_actions_of_a_rule_changes_where_alerts_go(
    start: Start, web: HttpReceiver, mail: MailReceiver, tmp_path: Path
) -> None:
    actions = {"mail": email_action(mail.port), "web": action("webhook", url=web.url)}
    run = start(actions, actions=("mail",))
    run.dispatcher.put([opened(run.settings, "a", "A")])
    wait_until(lambda: run.dispatcher.pending() == 0)
    run.restart(settings(tmp_path / "state", actions, actions=("web",)))
    run.dispatcher.put([opened(run.settings, "b", "B")])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert (len(mail.mails), len(web.requests)) == (1, 1)


def test_a_transition_that_is_not_told_goes_to_the_alerts_topic_alone(
    start: Start, web: HttpReceiver, broker: Broker
) -> None:
    run = start({"web": action("webhook", url=web.url)})
    a, b = opened(run.settings, "a"), opened(run.settings, "b", start_ms=200_000)
    run.dispatcher.put(
        [a, b, replace(b, status="resolved"), replace(b, status="resolved", merged_into="a", told=False)]
    )
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(web.requests) == 3
    assert broker.on("tua.alerts")[-1]["merged_into"] == "a"


def test_an_alert_that_is_part_of_another_is_not_said_to_be_calm(
    start: Start, web: HttpReceiver, mail: MailReceiver
) -> None:
    run = start({"mail": email_action(mail.port), "web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put(
        [
            life,
            replace(
                life,
                alert_id="a2",
                opened_at_ms=life.opened_at_ms + 60_000,
                resolves_at_ms=life.resolves_at_ms + 60_000,
            ),
        ]
    )
    run.dispatcher.put(
        [
            replace(
                resolved(life),
                alert_id="a2",
                sequence=2,
                merged_into="a1",
                opened_at_ms=life.opened_at_ms + 60_000,
                resolves_at_ms=life.resolves_at_ms + 60_000,
            )
        ]
    )
    wait_until(lambda: run.dispatcher.pending() == 0)
    told = json.loads(web.requests[-1].body)["data"]
    assert (told["id"], told["merged_into"]) == ("a2", "a1")
    assert told["message"] == "hot: Nokia is part of an alert that was opened before, and goes on as that one"
    assert mail.subjects()[-1] == "[resolved] hot: Nokia (goes on as an earlier alert)"


def test_a_message_that_cannot_be_made_falls_back_to_a_plain_one(
    start: Start, broker: Broker, web: HttpReceiver
) -> None:
    run = start({"web": action("webhook", url=web.url)}, message="{{ 1 // (count - 20) }}")
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert broker.on("tua.alerts")[0]["message"] == "hot: Nokia opened, peak 20, 20 events"


@pytest.mark.parametrize("how", ["changed", "removed"])
def test_an_alert_whose_rule_changed_or_went_is_cancelled_where_it_was_told(
    start: Start, web: HttpReceiver, broker: Broker, tmp_path: Path, how: str
) -> None:
    actions = {"web": action("webhook", url=web.url)}
    run = start(actions)
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: run.dispatcher.pending() == 0)
    changed = {"count": {"at_least": 3, "within": 1_000}} if how == "changed" else {"name": "other"}
    run.restart(settings(tmp_path / "state", actions, **changed))
    run.dispatcher.put([replace(life, status="resolved", sequence=2, cancelled=True)])
    wait_until(lambda: run.dispatcher.pending() == 0 and len(web.requests) == 2)
    told = json.loads(web.requests[1].body)["data"]
    assert (told["cancelled"], told["threshold"], told["key"]) == (True, 20, {"product.name": "Nokia"})
    assert "was cancelled" in told["message"]


def test_closing_gives_an_attempt_in_flight_its_time_and_leaves_the_rest(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    web.default = Reply(delay_s=0.3)
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"P{n}") for n in range(20)])
    wait_until(lambda: web.requests)
    run.dispatcher.close(10_000)
    run.dispatcher.close(10_000)
    ended = [row for row in rows(tmp_path / "state") if row["action"] == "web" and row["state"] == "delivered"]
    assert len(ended) == len(web.requests)
    assert 0 < len(ended) < 20


def test_how_long_an_attempt_is_given_at_the_end_is_a_setting(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    web.default = Reply(hang=True)
    run = start({"web": action("webhook", url=web.url)}, delivery=DeliverySettings(shutdown_grace=0))
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: web.requests)
    run.dispatcher.close()  # or it would take the ten seconds of the usual setting, and the webhook's fifteen
    (row,) = [row for row in rows(tmp_path / "state") if row["action"] == "web"]
    assert (row["state"], row["last_answer"]) == ("pending", "cut short by the end of the job")


def test_what_ended_is_forgotten_after_the_retention(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    actions = {"web": action("webhook", url=web.url)}
    run = start(actions, now_ms=lambda: now[0], delivery=DeliverySettings(retention=60_000))
    life = opened(run.settings)
    run.dispatcher.put([life, resolved(life), opened(run.settings, "open", "B")])
    wait_until(lambda: run.dispatcher.pending() == 0)
    now[0] += 60_001
    run.restart()
    # Of the one that goes on, what was told decides what will be.
    wait_until(lambda: {row["alert_id"] for row in rows(tmp_path / "state")} == {"open"})
    run.dispatcher.put([life, resolved(life)])
    assert run.dispatcher.pending() == 0, "that it was told is remembered for longer"


def test_a_clock_that_jumps_ahead_gives_nothing_up(start: Start, mail: MailReceiver, tmp_path: Path) -> None:
    now = [0]
    run = start({"mail": email_action(free_port(), retry=RetrySettings())}, now_ms=lambda: now[0])
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: any(row["failures"] == 2 for row in rows(tmp_path / "state")))
    now[0] += 50 * 365 * 86_400_000  # as where it had not been set when the job started
    wait_until(lambda: any(row["failures"] > 2 for row in rows(tmp_path / "state")))
    assert [row["state"] for row in rows(tmp_path / "state") if row["action"] == "mail"] == ["pending"]


def test_what_was_in_flight_when_it_closed_goes_on_at_the_next_start(start: Start, web: HttpReceiver) -> None:
    web.plan.append(Reply(hang=True))
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: web.requests)
    run.dispatcher.close(0)
    run.restart()
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert web.ids() == [web.ids()[0]] * 2


def test_a_server_that_drips_is_cut_at_the_total_time_out(
    start: Start, web: HttpReceiver, broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each byte comes well within any time-out of its own; the head would take 20 s.
    monkeypatch.setattr(WebhookAction, "time_limit_s", 0.5)
    web.plan.append(Reply(200, {"x-padding": "x" * 400}, drip_s=0.05))
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: len(web.requests) == 2 and run.dispatcher.pending() == 0)
    (row,) = [row for row in rows(tmp_path / "state") if row["action"] == "web"]
    assert (row["attempts"], row["state"]) == (2, "delivered")


def test_a_clock_that_steps_back_an_hour_delays_nothing(start: Start, web: HttpReceiver) -> None:
    offset = [0]
    web.plan.extend([Reply(500)] * 3)
    run = start({"web": action("webhook", url=web.url)}, now_ms=lambda: clock_ms() + offset[0])
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: len(web.requests) >= 2)
    offset[0] = -3_600_000
    run.dispatcher.put([resolved(life), opened(run.settings, "b", "B")])
    wait_until(lambda: run.dispatcher.pending() == 0)


@pytest.mark.parametrize(
    ("asked", "waits_s"),
    [pytest.param("900", 900, id="as asked"), pytest.param("999999", 3_600, id="an hour at most")],
)
def test_a_target_may_say_when_to_come_again(
    start: Start, web: HttpReceiver, tmp_path: Path, asked: str, waits_s: int
) -> None:
    web.plan.append(Reply(503, {"retry-after": asked}))
    run = start({"web": action("webhook", url=web.url, retry=RetrySettings())})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: sum(row["failures"] for row in rows(tmp_path / "state")) == 1)
    (row,) = [row for row in rows(tmp_path / "state") if row["state"] == "pending"]
    assert row["due_ms"] - row["scheduled_ms"] == waits_s * 1_000


def test_a_target_that_asks_for_the_next_attempt_at_once_is_not_hammered(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    web.default = Reply(503, {"retry-after": "0"})
    run = start({"web": action("webhook", url=web.url, retry=RetrySettings(delays=(0, 3_000_000)))})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: any(row["due_ms"] > clock_ms() + 1_000_000 for row in rows(tmp_path / "state")))
    assert len(web.requests) == 2


@pytest.mark.parametrize(
    "answer", [b"250 Angenommen f\xfcr Zustellung", b"451 sp\xe4ter", b"550 bo\xeete inconnue"], ids=["2", "4", "5"]
)
def test_an_answer_in_bytes_that_are_no_utf8_is_an_answer_like_others(
    start: Start, web: HttpReceiver, broker: Broker, tmp_path: Path, answer: bytes
) -> None:
    mails = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal mails
        mails += 1
        await accept_mails(reader, writer, threading.Event(), answer)

    with RawServer(talk) as server:
        retry = RetrySettings(delays=(10,), give_up=1_000)
        run = start({"mail": email_action(server.port, retry=retry), "web": action("webhook", url=web.url)})
        run.dispatcher.put([opened(run.settings, "a", "A")])
        wait_until(lambda: mails)
        run.dispatcher.put([opened(run.settings, "b", "B")])
        wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(web.requests) == 2
    (said,) = {row["last_answer"] for row in rows(tmp_path / "state") if row["action"] == "mail"}
    assert "\\udc" in said
    assert len(broker.on("tua.dead-letters")) == (0 if answer.startswith(b"2") else 2)


def test_a_mail_accepted_when_the_job_ends_is_not_sent_again(start: Start, tmp_path: Path) -> None:
    goodbye = threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_mails(reader, writer, goodbye)

    with RawServer(talk) as server:
        run = start({"mail": email_action(server.port)})
        run.dispatcher.put([opened(run.settings)])
        assert goodbye.wait(10)
        run.dispatcher.close(0)
    assert [row["state"] for row in rows(tmp_path / "state") if row["action"] == "mail"] == ["delivered"]


def test_delays_follow_the_settings_with_some_jitter(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    web.default = Reply(500)
    run = start({"web": action("webhook", url=web.url, retry=RetrySettings(delays=(0, 10, 3_000_000)))})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"A{n}") for n in range(20)])
    wait_until(lambda: all(row["failures"] == 3 for row in rows(tmp_path / "state") if row["action"] == "web"))
    waiting = [row for row in rows(tmp_path / "state") if row["action"] == "web"]
    delays = [row["due_ms"] - row["scheduled_ms"] for row in waiting]
    assert all(2_700_000 <= delay <= 3_300_000 for delay in delays)
    assert len(set(delays)) > 10

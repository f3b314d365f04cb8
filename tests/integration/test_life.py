"""The life of alerts and of the job: one alert per episode, clean stops, changes of the configuration."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import email, webhook
from tests.support.cluster import Cluster
from tests.support.job import Job, configuration
from tests.support.orders import burst, calm, facts, final, logged, order, received
from tests.support.receivers import HttpReceiver, MailReceiver

pytestmark = pytest.mark.kafka


def ago(seconds: int) -> int:
    return int(time.time() * 1000) - seconds * 1000


def test_a_minute_of_heat_is_one_alert_and_heat_after_calm_another(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    """An order every 200 ms: 25 within any 5 s.

    Nokia: |==== 60 s ====|      calm      |= 6 s =|
    iPad:  a delete every 200 ms
    """
    job = make_job().start()
    start = ago(120)
    records = [record for n in range(300) for record in burst("Nokia", start + 200 * n, 1, partition=n % 2)]
    records += [(n % 2, start + 200 * n, b"k", order("iPad", n, "delete")) for n in range(300)]
    records += [record for n in range(30) for record in burst("Nokia", start + 90_000 + 200 * n, 1, partition=n % 2)]
    kafka.produce(job.topic, sorted(records, key=lambda record: record[1]))
    kafka.produce(job.topic, calm(start + 120_000))
    job.wait_for(lambda: len(final(logged(job))) == 2, "both ends")
    assert job.stop() == 0
    told = logged(job)
    first, second = dict.fromkeys(alert["id"] for alert in told)
    for alert_id in (first, second):
        assert [alert["status"] for alert in told if alert["id"] == alert_id] == ["opened", "resolved"]
    # The last tuple of 20 in the first heat begins with the 281st order: 280 * 200 ms + 5 s.
    assert ("Nokia", start + 19 * 200, start + 280 * 200 + 5_000) in final(logged(job))
    assert kafka.read_all(f"{job.prefix}.rejected") == [], "a delete is not rejected"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_cleanly_and_goes_on_where_it_was(
    make_job: Callable[..., Job], kafka: Cluster, number: signal.Signals
) -> None:
    job = make_job().start()
    start = ago(30)
    kafka.produce(job.topic, burst("Nokia", start, 15))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 15, "the orders to be counted")
    assert job.stop(number) == 0
    assert logged(job) == [], "a stop resolves and tells nothing"
    job.start()
    kafka.produce(job.topic, [*burst("Nokia", start + 1000, 5), *calm(start + 20_000)])
    job.wait_for(lambda: final(logged(job)), "the alert")
    assert job.stop(number) == 0
    assert final(logged(job)) == {("Nokia", start + 1040, start + 5_000)}
    assert "Traceback" not in job.log()


def test_detection_survives_kill_9(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job().start()
    start = ago(30)
    kafka.produce(job.topic, burst("Nokia", start, 15))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 15, "the orders to be counted")
    job.kill()
    job.start()
    kafka.produce(job.topic, [*burst("Nokia", start + 1000, 5), *calm(start + 20_000)])
    job.wait_for(lambda: final(logged(job)), "the alert")
    assert final(logged(job)) == {("Nokia", start + 1040, start + 5_000)}


def test_an_episode_resolves_when_everything_is_quiet(make_job: Callable[..., Job], kafka: Cluster) -> None:
    """No order comes after the last one of the burst: the idle time-out and the wall clock end it."""
    job = make_job(idle_timeout="1s", lateness="500ms").start()
    start = int(time.time() * 1000)
    kafka.produce(job.topic, burst("Nokia", start, 20))
    job.wait_for(lambda: final(logged(job)), "the end")
    assert final(logged(job)) == {("Nokia", start + 190, start + 5_000)}
    assert time.time() * 1000 > start + 5_000, "not before the wall clock has passed its end"


def test_a_second_job_on_one_state_directory_is_refused(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job().start()
    second = Job(job.directory, job.config, kafka.bootstrap).start(wait=False)
    assert second.process is not None
    assert second.process.wait(30) == 1
    assert job.process is not None
    assert f"is in use by process {job.process.pid} on " in job.log()
    assert "Traceback" not in job.log()
    assert job.stop() == 0


def test_swapping_the_actions_of_a_rule_changes_where_its_alerts_go_and_keeps_its_state(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver, mailbox: MailReceiver
) -> None:
    actions = {"mail": email(mailbox), "hook": webhook(hook)}
    job = make_job(actions=actions, rule={"actions": ["mail"]}).start()
    start = ago(60)
    kafka.produce(job.topic, [*burst("Nokia", start, 20), *burst("iPad", start, 19)])
    job.wait_for(lambda: mailbox.mails, "the mail")
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 39, "the orders to be counted")
    assert job.stop() == 0
    assert hook.requests == []
    job.config["rules"][0]["actions"] = ["hook"]
    job.write_config()
    job.start()
    kafka.produce(job.topic, burst("iPad", start + 1_000, 1))
    job.wait_for(lambda: received(hook), "the alert of what was counted before and after")
    assert facts(received(hook)[0])[0] == "iPad"
    assert len(mailbox.mails) == 1


def test_state_of_other_rules_is_said_and_open_alerts_end_as_cancelled(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    job = make_job().start()
    start = ago(60)
    kafka.produce(job.topic, burst("Nokia", start, 20))
    job.wait_for(lambda: logged(job), "the alert")
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 20, "the orders to be counted")
    assert job.stop() == 0
    changed = job.config["rules"][0]
    changed["count"] = {"at_least": 25, "within": "5s"}
    job.config["rules"].append({**changed, "name": "another"})
    job.write_config()
    job.start()
    job.wait_for(lambda: len(logged(job)) == 2, "the alert to be cancelled")
    kafka.produce(job.topic, [*burst("Nokia", start + 1_000, 24), *calm(start + 30_000)])
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic) == {0: 45, 1: 1}, "the orders to be counted")
    assert job.stop() == 0
    opened, cancelled = logged(job)
    assert (cancelled["id"], cancelled["status"], cancelled["cancelled"]) == (opened["id"], "resolved", True)
    assert "the rule changed" in job.log()
    assert "the rule is new" in job.log()
    assert "complete_from" in job.log()


def test_a_template_that_fails_at_run_time_costs_the_sentence_and_not_the_alert(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    job = make_job(rule={"message": "{{ key['product.name'] }}: {{ 1 // (count - 20) }}"}).start()
    kafka.produce(job.topic, burst("Nokia", ago(30), 20))
    job.wait_for(lambda: logged(job), "the alert")
    assert "Nokia" in logged(job)[0]["message"]
    assert "Traceback" not in job.log()
    assert job.stop() == 0


def test_a_mistake_in_the_configuration_ends_the_job_with_all_of_them_and_no_traceback(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["rules"][0]["topic"] = "product"
    config["rules"][0]["severty"] = "high"
    job = Job(tmp_path, config, "127.0.0.1:1")
    for start in (lambda: job.start(wait=False), lambda: job.start(wait=False, epoch_s=1)):
        (tmp_path / "stderr").unlink(missing_ok=True)
        process = start().process
        assert process is not None
        assert process.wait(30) == 1
        assert "severity" in job.log()
        assert "topic" in job.log()
        assert "tua.yaml:" in job.log()
        assert "Traceback" not in job.log()


def test_alerts_are_on_the_alerts_topic_too(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job().start()
    start = ago(30)
    kafka.produce(job.topic, [*burst("Nokia", start, 45), *calm(start + 20_000)])
    job.wait_for(lambda: final(logged(job)), "the end")
    job.wait_for(lambda: len(kafka.read_all(f"{job.prefix}.alerts")) == 3, "the transitions on the topic")
    messages = kafka.read_all(f"{job.prefix}.alerts")
    alerts = [json.loads(message.value() or b"") for message in messages]
    assert [alert["status"] for alert in alerts] == ["opened", "updated", "resolved"]
    assert [alert["peak"] for alert in alerts] == [20, 40, 45]
    assert {message.key() for message in messages} == {alerts[0]["id"].encode()}

"""What goes wrong around the job: receivers that are down, brokers that die, topics that are made anew."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from tests.integration.conftest import email, webhook
from tests.support.cluster import Cluster
from tests.support.job import Job
from tests.support.orders import burst, calm, facts, final, logged, ms, received
from tests.support.receivers import HttpReceiver, MailReceiver, Reply, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka


def ago(seconds: int) -> int:
    return int(time.time() * 1000) - seconds * 1000


def longest_outage_s(job: Job) -> int:
    return max((int(seconds) for seconds in re.findall(r'"away_s": ?(\d+)', job.log())), default=0)


def test_a_dead_mail_server_delays_nobody_else_and_gets_what_it_missed(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver, mailbox: MailReceiver
) -> None:
    mailbox.stop()
    job = make_job(actions={"mail": email(mailbox), "hook": webhook(hook), "log": {"type": "log"}}).start()
    start = ago(60)
    for number in range(10):
        kafka.produce(job.topic, burst(f"product {number}", start + 1000 * number, 20))
    kafka.produce(job.topic, calm(start + 40_000))
    job.wait_for(lambda: len(final(received(hook))) == len(final(logged(job))) == 10, "webhook and log")
    assert mailbox.mails == []
    mailbox.start()
    job.wait_for(lambda: len(mailbox.mails) == 20, "the mails that were missed")
    subjects = [str(mail.message["Subject"]) for mail in mailbox.mails]
    for number in range(10):
        opened, resolved = (f"[{word}] hot-product: product {number}" for word in ("warning", "resolved"))
        assert subjects.index(opened) < subjects.index(resolved)


@pytest.mark.parametrize("reply", [Reply(500), Reply(hang=True)], ids=["answers 500", "hangs"])
def test_a_webhook_that_fails_or_hangs_delays_nobody_else(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver, mailbox: MailReceiver, reply: Reply
) -> None:
    hook.default = reply
    job = make_job(actions={"hook": webhook(hook), "mail": email(mailbox)}).start()
    start = ago(60)
    for number in range(20):
        kafka.produce(job.topic, burst(f"product {number}", start + 1000 * number, 20))
    kafka.produce(job.topic, calm(start + 50_000))
    job.wait_for(lambda: len(mailbox.mails) == 40, "all mails, while the webhook is in trouble")
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 401, "the orders to be read on")
    hook.default = Reply()
    hook.requests.clear()
    hook.stop()  # ends the requests that hang
    hook.start()
    job.wait_for(lambda: len({a["id"] for a in received(hook) if a["status"] == "resolved"}) == 20, "what it missed")
    assert job.stop() == 0


def test_a_broker_of_two_dies_and_comes_back(make_job: Callable[..., Job], breakable_kafka: Cluster) -> None:
    kafka = breakable_kafka
    job = make_job(replication=2).start()
    start = ago(60)
    kafka.produce(job.topic, burst("Nokia", start, 10) + burst("iPad", start, 10, partition=1))
    kafka.kill_broker(1)
    kafka.produce(job.topic, burst("Nokia", start + 500, 10) + burst("iPad", start + 500, 10, partition=1))
    job.wait_for(lambda: {facts(alert)[0] for alert in logged(job)} == {"Nokia", "iPad"}, "alerts by the other broker")
    kafka.start_broker(1)
    kafka.produce(job.topic, calm(start + 30_000))
    job.wait_for(lambda: len(final(logged(job))) == 2, "the ends")
    assert job.stop() == 0
    assert final(logged(job)) == {(name, start + 590, start + 5_000) for name in ("Nokia", "iPad")}


def test_all_brokers_stop_for_20_seconds(make_job: Callable[..., Job], breakable_kafka: Cluster) -> None:
    """Longer than the idle time-out: that no broker answers is not taken for calm, and nothing resolves meanwhile."""
    kafka = breakable_kafka
    job = make_job(replication=2, idle_timeout="15s", lateness="1s").start()
    start = int(time.time() * 1000)
    kafka.produce(job.topic, burst("Nokia", start, 20))
    job.wait_for(lambda: logged(job), "the alert")
    kafka.stop_brokers()
    job.wait_for(lambda: longest_outage_s(job) >= 20, "an outage of 20 seconds, by the job's own log")
    assert [alert["status"] for alert in logged(job)] == ["opened"]
    with ThreadPoolExecutor() as shop:
        # As a shop's producers do: they hold their orders until the brokers are back.
        held = shop.submit(kafka.produce, job.topic, [*burst("Nokia", start + 4_000, 20), *calm(start + 60_000)])
        kafka.start_broker(1)
        kafka.start_broker(2)
        held.result()
    job.wait_for(lambda: final(logged(job)), "the end")
    assert job.stop() == 0
    assert final(logged(job)) == {("Nokia", start + 190, start + 9_000)}
    assert "Kafka is back" in job.log()


def test_sigterm_while_the_brokers_are_away_is_a_clean_stop(
    make_job: Callable[..., Job], breakable_kafka: Cluster
) -> None:
    kafka = breakable_kafka
    job = make_job(replication=2).start()
    start = ago(60)
    kafka.produce(job.topic, burst("Nokia", start, 15))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 15, "the orders to be counted")
    kafka.stop_brokers()
    job.wait_for(lambda: "no connection to Kafka" in job.log(), "the job to notice")
    assert job.stop() == 0
    assert "Traceback" not in job.log()
    kafka.start_broker(1)
    kafka.start_broker(2)
    job.start()
    kafka.produce(job.topic, [*burst("Nokia", start + 1_000, 5), *calm(start + 30_000)])
    job.wait_for(lambda: final(logged(job)), "the alert of what was counted before and after")
    assert final(logged(job)) == {("Nokia", start + 1_040, start + 5_000)}


def test_sigterm_while_the_brokers_hang_is_a_clean_stop(make_job: Callable[..., Job], breakable_kafka: Cluster) -> None:
    """They take connections, and do not answer what the consumer wants to commit at its end."""
    kafka = breakable_kafka
    job = make_job(replication=2).start()
    kafka.produce(job.topic, burst("Nokia", ago(60), 15))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 15, "the orders to be counted")
    kafka.produce(job.topic, burst("iPad", ago(60), 20, partition=1))
    job.wait_for(lambda: logged(job), "the orders of which no offset is committed yet")
    kafka.signal_brokers(signal.SIGSTOP)
    epoch_is_over_s = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > epoch_is_over_s)
    try:
        assert job.stop() == 0
    finally:
        kafka.signal_brokers(signal.SIGCONT)
    assert "Traceback" not in job.log()


def test_a_start_beside_brokers_that_are_just_coming_up(make_job: Callable[..., Job], breakable_kafka: Cluster) -> None:
    kafka = breakable_kafka
    kafka.stop_brokers()
    job = make_job(bootstrap=kafka.bootstrap).start(wait=False)
    job.wait_for(lambda: "waiting for Kafka" in job.log(), "the job to look for brokers")
    kafka.start_broker(1)
    job.wait_for(lambda: '"watching"' in job.log(), "the topics")
    kafka.start_broker(2)
    kafka.wait_until_healthy()
    kafka.produce(job.topic, burst("Nokia", ago(60), 20))
    job.wait_for(lambda: logged(job), "the alert")
    assert job.stop() == 0


def test_no_broker_at_start_is_said_and_waited_for(make_job: Callable[..., Job]) -> None:
    job = make_job(bootstrap=f"127.0.0.1:{free_port()}").start(wait=False)
    job.wait_for(lambda: "waiting for Kafka" in job.log(), "the job to say so")
    assert job.bootstrap in job.log()
    assert job.stop(signal.SIGINT) == 0
    assert "Traceback" not in job.log()


def test_more_replicas_than_brokers_is_said_with_what_to_set(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job()
    job.config["topics"][f"{job.prefix}.more"] = {"partitions": 1, "replication_factor": 7}
    job.write_config()
    process = job.start(wait=False).process
    assert process is not None
    assert process.wait(60) == 1
    assert "has 2" in job.log()
    assert f"topics.{job.prefix}.more.replication_factor" in job.log()
    assert "Traceback" not in job.log()


def test_a_topic_that_was_deleted_and_created_again_is_read_from_its_beginning(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    """While the job is stopped, and while it runs. The new log's times are before those of the old one."""
    job = make_job().start()
    start = ago(3_000)
    kafka.produce(job.topic, [*burst("Nokia", start, 30), *calm(start + 30_000)])
    job.wait_for(lambda: len(final(logged(job))) == 1, "the first alert")
    assert job.stop() == 0

    kafka.delete_topic(job.topic)
    kafka.create_topic(job.topic, partitions=2)
    kafka.produce(job.topic, [*burst("iPad", start - 600_000, 20), *calm(start - 500_000)])
    job.start()
    job.wait_for(lambda: len(final(logged(job))) == 2, "the alert of the second log")
    assert job.log().count("deleted and created again") == 2, "once for each partition"

    kafka.delete_topic(job.topic)
    kafka.create_topic(job.topic, partitions=2)
    kafka.produce(job.topic, [*burst("iPhone", start - 900_000, 20), *calm(start - 800_000)])
    job.wait_for(lambda: len(final(logged(job))) == 3, "the alert of the third log")
    assert job.stop() == 0
    assert final(logged(job)) == {
        ("Nokia", start + 190, start + 10 * 10 + 5_000),
        ("iPad", start - 600_000 + 190, start - 600_000 + 5_000),
        ("iPhone", start - 900_000 + 190, start - 900_000 + 5_000),
    }
    assert "Traceback" not in job.log()


def test_a_topic_made_anew_with_more_records_than_were_read_counts_each_once(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    """The position in the old log is one in the new log too: no broker says that it is wrong."""
    job = make_job().start()
    start = ago(600)
    kafka.produce(job.topic, burst("Nokia", start, 50))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 50, "the orders to be counted")
    kafka.delete_topic(job.topic)
    kafka.create_topic(job.topic, partitions=2)
    kafka.produce(job.topic, burst("iPad", start + 60_000, 300))
    job.wait_for(lambda: job.log().count("deleted and created again") == 2, "the job to notice")
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 300, "the new log to be read")
    kafka.produce(job.topic, calm(start + 120_000))
    job.wait_for(lambda: len(final(logged(job))) == 2, "the ends of both")
    assert job.stop() == 0
    ipad = logged(job)[-1]
    assert (facts(ipad), ipad["events"]) == (("iPad", start + 60_190, start + 60_000 + 280 * 10 + 5_000), 300)


def test_a_partition_without_a_leader_keeps_no_other_topic_from_being_calm(
    make_job: Callable[..., Job], breakable_kafka: Cluster
) -> None:
    kafka = breakable_kafka
    job = make_job(bootstrap=kafka.bootstrap, lateness="500ms")
    other = f"{job.prefix}.other"
    for topic, broker in ((job.topic, 2), (other, 1)):
        new = NewTopic(topic, 2, replica_assignment=[[broker], [broker]], config={"retention.ms": "-1"})
        kafka.admin.create_topics([new])[topic].result(30)
    job.config["topics"][other] = job.config["topics"][job.topic]
    job.config["rules"].append({**job.config["rules"][0], "name": "other", "topic": other})
    job.write_config()
    job.start()
    kafka.produce(other, burst("iPad", int(time.time() * 1000), 1))
    job.wait_for(lambda: kafka.committed(job.prefix, other).get(0) == 1, "both topics to be read")
    kafka.kill_broker(1)
    job.wait_for(lambda: kafka.admin.list_topics(other, timeout=5).topics[other].partitions[0].leader < 0, "no leader")
    kafka.produce(job.topic, burst("Nokia", int(time.time() * 1000), 20))
    job.wait_for(lambda: final(logged(job)), "the end of an alert by the idle time-out", timeout=45)


def test_partitions_added_while_the_job_runs_are_read(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job().start()
    start = ago(60)
    kafka.produce(job.topic, burst("Nokia", start, 10))
    kafka.admin.create_partitions([NewPartitions(job.topic, 3)])[job.topic].result(30)
    kafka.produce(job.topic, burst("Nokia", start + 500, 10, partition=2))
    # Before the job has heard of the new partition, event time goes on elsewhere.
    kafka.produce(job.topic, calm(start + 30_000))
    job.wait_for(lambda: logged(job), "the alert of both partitions", timeout=60)
    assert logged(job)[0]["evidence"]["partition"] == 2
    assert job.stop() == 0


def test_records_that_were_deleted_before_they_were_read_are_said_and_the_rest_counts(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    job = make_job().start()
    start = ago(60)
    kafka.produce(job.topic, burst("Nokia", start, 10))
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic).get(0) == 10, "the orders to be counted")
    assert job.stop() == 0
    kafka.produce(job.topic, burst("Nokia", start + 500, 25))
    kafka.admin.delete_records([TopicPartition(job.topic, 0, 15)])
    job.start()
    job.wait_for(lambda: logged(job), "the alert of those before and after the gap")
    assert '"first": 10, "last": 14' in job.log()
    assert ms(logged(job)[0]["opened_at"]) == start + 500 + 5 * 10 + 9 * 10
    assert job.stop() == 0


def test_a_topic_with_other_partitions_than_configured_is_read_whole_and_said(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    job = make_job(partitions=5).start()
    kafka.produce(job.topic, burst("Nokia", ago(60), 20, partition=1))
    job.wait_for(lambda: logged(job), "the alert")
    assert '"partitions": 2, "configured": 5' in job.log()
    assert job.stop() == 0

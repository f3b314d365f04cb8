"""The job: from orders on Kafka to alerts. `python -m bytewax.run dataflows.activity_alerts`, or `tua run`.

    kafka -> rows by shard -> detect -> outbox -> (beside the flow) log, e-mail, webhook, alerts topic
      |                         ^
      +--> watermarks -> clock -+--------- wakes a shard that has something due
      +--> records that do not count -> rejected topic

The names of the flow and its steps are part of the recovery format: renaming one loses its state.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.rejected import to_reject
from dataflows.detect import Detection, shard_name, work
from dataflows.job import Job
from dataflows.outbox import OutboxSink

job = Job.prepare()
detection = Detection(job.rules, job.topics, job.settings.state.retention_ms, job.exchange)

flow = Dataflow("activity_alerts")
arrivals = op.input("kafka", flow, job.source(lambda: detection.detector.sizes))

op.output("to_rejected", op.flat_map("rejected", arrivals, to_reject), job.rejected)

rows = op.key_on("rows_key", op.flat_map("rows", arrivals, work), shard_name)
news = op.key_on("ticks_key", op.flat_map("ticks", arrivals, detection.ticks), shard_name)
due = op.key_on("due_key", op.key_rm("due", op.stateful_batch("clock", news, detection.clock)), shard_name)
transitions = op.stateful_batch("detect", op.merge("work", rows, due), detection.detect)

op.output("outbox", op.key_rm("transitions", transitions), OutboxSink(job))

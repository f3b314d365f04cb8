"""docs/scaling.md, run: its tables are the simulation's, its commands make a cluster, its names are there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from dataflows.recovery_part import make_part, parts_in
from scripts.simulate_scaling import SHARDS, Spread, State, change, layout
from tests.support.job import Job, configuration
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
(MOVE,) = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
SET = yaml.safe_load((ROOT / "deploy/kubernetes/stateful-set.yaml").read_text(encoding="utf-8"))
KEYS = [10_000_000 // SHARDS] * SHARDS
STATE = State(62, 350)


def table(first_heading: str) -> list[list[str]]:
    """The rows of the table that starts so."""
    _, _, rest = TEXT.partition(f"| {first_heading} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    assert rows
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def told(spread: Spread, unit: float = 1) -> str:
    low, high = (f"{number / unit:.1f}" if unit > 1 else str(number) for number in (spread.low, spread.high))
    return (low if low == high else f"{low} to {high}") + (" M" if unit > 1 else "")


def test_the_fullest_process_reads_that_many_partitions() -> None:
    for partitions, *fullest in table("partitions"):
        layouts = [layout(processes, "orders", int(partitions), KEYS) for processes in (1, 2, 3, 4, 8, 16)]
        assert fullest == [str(one.partitions.high) for one in layouts]


def test_the_layouts_are_those_of_the_simulation() -> None:
    for processes, *cells in table("processes"):
        one = layout(int(processes), "orders", 100, KEYS)
        counts = [told(one.partitions), told(one.shards), told(one.keys, 1e6)]
        assert cells == [*counts, f"{one.adds_up_to:.1f}"]


def test_what_moves_is_that_of_the_simulation() -> None:
    for processes, shards, keys, megabytes, seconds in table("from, to"):
        before, after = map(int, processes.split(","))
        one = change(before, after, KEYS, STATE)
        assert shards == f"{one.moved_shards} of 64"
        assert keys == f"{one.moved_keys / 1e6:.1f} M"
        assert float(megabytes.removesuffix(" MB")) == pytest.approx(one.moved_mb, rel=0.02)
        assert float(seconds.removesuffix(" s")) == pytest.approx(one.read_s, rel=0.1)


def test_the_processes_of_several_hosts_make_a_part_each_and_stop_cleanly(tmp_path: Path) -> None:
    # There is no Kafka, which they wait for; each host is a directory.
    exported = dict(re.findall(r'(\w+)="?([^" \n]+)"?', re.findall(r"^export (.*)$", SHELL, re.MULTILINE)[0]))
    for number in range(len(exported["BYTEWAX_ADDRESSES"].split(";"))):
        exported["BYTEWAX_ADDRESSES"] = exported["BYTEWAX_ADDRESSES"].replace(f"host{number}:2101", f"h:{number + 1}")
    processes = re.findall(r"^(BYTEWAX_PROCESS_ID)=(\d) (tua run)", SHELL, re.MULTILINE)
    jobs = []
    for name, number, _ in processes:
        host = tmp_path / number
        host.mkdir()
        environment = {**exported, name: number}
        jobs.append(Job(host, configuration(host), f"127.0.0.1:{free_port()}", **environment).start(wait=False))
    try:
        for number, job in enumerate(jobs):
            recovery = job.directory / "state" / "recovery"
            wait_until(lambda job=job: "recovery part made" in job.log())
            assert parts_in(recovery) == {number: int(exported["TUA_RECOVERY_PARTS"])}
        for job in jobs:
            assert job.stop(signal.SIGTERM) == 0, job.log()
    finally:
        for job in jobs:
            job.close()


def test_a_part_is_moved_from_the_last_pod_to_the_first(tmp_path: Path) -> None:
    kubernetes_validate.validate(MOVE, kubernetes_validate.latest_version(), strict=True)
    pod = MOVE["spec"]["template"]["spec"]
    claim, name = SET["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], SET["metadata"]["name"]
    claims = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]}
    assert claims == {"from": f"{claim}-{name}-{SET['spec']['replicas'] - 1}", "to": f"{claim}-{name}-0"}
    shell, flag, command = pod["containers"][0]["command"]
    for place, number in (("from", 2), ("to", 0)):
        (tmp_path / place / "state").mkdir(parents=True)
        make_part(tmp_path / place / "state" / "recovery", number, 3)
    command = re.sub(r"/(from|to)/", lambda found: f"{tmp_path}/{found[1]}/", command)
    subprocess.run([shell, flag, command], check=True, stdout=subprocess.DEVNULL)
    assert parts_in(tmp_path / "to/state/recovery") == {0: 3, 2: 3}
    assert parts_in(tmp_path / "from/state/recovery") == {}


def test_names_in_the_commands_are_those_of_the_set() -> None:
    environment = {one["name"]: one for one in SET["spec"]["template"]["spec"]["containers"][0]["env"]}
    secret = environment["TUA_WEBHOOK_SECRET"]["valueFrom"]["secretKeyRef"]
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=" in SHELL
    ((label, value),) = SET["spec"]["selector"]["matchLabels"].items()
    assert f" -l {label}={value} " in SHELL
    assert f"scale statefulset {SET['metadata']['name']} " in SHELL
    assert {path for path in re.findall(r"apply -k (\S+)", SHELL) if (ROOT / path).is_dir()} == {"deploy/kubernetes"}
    assert f"ends when its {SET['spec']['template']['spec']['terminationGracePeriodSeconds']} seconds" in TEXT


def test_what_is_quoted_is_what_the_program_says() -> None:
    source = (ROOT / "dataflows/state_directory.py").read_text(encoding="utf-8")
    for quoted in ("recovery parts here", "recovery part made, empty"):
        assert quoted in " ".join(TEXT.split())
        assert f'"{quoted}' in source
    assert os.access(ROOT / "scripts/simulate_scaling.py", os.R_OK)

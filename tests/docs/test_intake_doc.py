"""docs/intake.md, run: its commands are answered as it says, its settings are loaded, its tables are what there is."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from actions.registry import ACTION_TYPES
from connectors.intake_api.openapi import of_events
from settings import load
from tests.support.cluster import Cluster
from tests.support.intake import Intake, configuration
from tests.support.receivers import free_port

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "intake.md").read_text(encoding="utf-8")
SERVE, REQUESTS, ORDERS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
(SETTINGS,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.kafka
def test_the_commands_do_what_they_say(kafka: Cluster, tmp_path: Path) -> None:
    assert SERVE.split() == [".venv/bin/tua", "serve"]
    if "products" not in kafka.admin.list_topics(timeout=10).topics:
        kafka.create_topic("products", partitions=2)
    server = Intake(tmp_path, configuration(), kafka.bootstrap).start()
    try:
        commands = REQUESTS.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
        said = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, check=True).stdout
        assert re.findall(r"HTTP/1\.1 (\d+) ", said) == ["202"] * 4 + ["200"]
        assert said.count('"offset":') == 5
        assert '"written":2,"refused":0' in said
        command = ORDERS.replace("127.0.0.1:8080", f"127.0.0.1:{server.port} --rate 500")
        environment = {**os.environ, "TUA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
        said = subprocess.run(
            ["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
        assert "must follow by rule hot-product" in said
    finally:
        server.close()


def test_the_example_of_the_settings_has_no_mistake(tmp_path: Path) -> None:
    rule = "{name: hot, topic: products, key: product.name, count: {at_least: 20, within: 5s}}"
    path = tmp_path / "tua.yaml"
    path.write_text(f"{SETTINGS}rules: [{rule}]\n", encoding="utf-8")
    intake = load(path, ACTION_TYPES).intake
    assert intake.api_keys.keys() == yaml.safe_load(SETTINGS)["intake"]["api_keys"].keys()


def test_each_status_of_the_document_is_explained() -> None:
    _, _, rest = TEXT.partition("| status | meaning |")
    table = rest.partition("\n\n")[0]
    explained = {int(one) for row in table.splitlines()[2:] for one in row.split("|")[1].split(",")}
    described = set(of_events(["products"], 1, True)["responses"])
    # 405 and 431 belong to no operation.
    assert explained == described | {405, 431}

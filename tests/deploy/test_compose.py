"""docker-compose.yml: valid by the Compose Specification's schema, and of one mind with itself and with the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from actions.base import ActionError
from actions.http import resolved_url
from actions.registry import ACTION_TYPES
from actions.webhook import WebhookSettings
from settings import load
from tests.support.compose import COMMANDS, COMPOSE, FILE, KAFKA, ROOT, SERVICES, TUA, environment, mounts, published

BROKERS = ("kafka-server-1", "kafka-server-2")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
JOBS = ["job", "intake"]


def schema_says(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_file_is_valid_by_the_schema_of_the_specification() -> None:
    said = schema_says(FILE)
    assert said.returncode == 0, said.stdout


def test_the_schema_finds_a_misspelt_field(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("read_only: true", "readonly: true"), encoding="utf-8")
    assert "readonly" in schema_says(wrong).stdout


def client() -> list[str] | None:
    """A Compose client (of version 2); it needs no engine to read a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            said = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if said.returncode == 0 and not said.stdout.startswith("1."):
                return command
    return None


@pytest.mark.skipif(client() is None, reason="no docker compose here")
def test_a_compose_client_reads_the_same() -> None:
    command = client()
    assert command is not None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TUA_")}
    command += ["--project-directory", str(ROOT), "config"]
    read = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert read.returncode == 0, read.stderr
    project = yaml.safe_load(read.stdout)
    assert project["services"].keys() == SERVICES.keys()
    for name, service in project["services"].items():
        assert (service.get("environment") or {}) == environment(name)
        bound = {port["published"]: (port["host_ip"], str(port["target"])) for port in service.get("ports", ())}
        assert bound == published(name)


def test_all_that_the_issue_asks_for_is_there_on_its_ports() -> None:
    ports = {name: {port: target for port, (_, target) in published(name).items()} for name in SERVICES}
    assert ports == {
        "kafka-controller": {},
        "kafka-server-1": {"29092": "19092"},
        "kafka-server-2": {"39092": "19092"},
        "kafka-ui": {"9000": "8080"},
        "mailpit": {"8025": "8025"},
        "webhooks": {},
        "intake": {"8080": "8080"},
        "job": {},
    }


def test_ports_are_those_of_the_configuration() -> None:
    shipped = load(ROOT / "tua.yaml", ACTION_TYPES)
    hosts = {f"localhost:{port}" for name in BROKERS for port in published(name)}
    assert set(shipped.kafka.bootstrap_servers.split(",")) == hosts


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_offered_to_other_machines(name: str) -> None:
    assert {address for address, _ in published(name).values()} <= {"127.0.0.1"}
    assert SERVICES[name].keys() & {"network_mode", "networks", "privileged", "pid", "ipc", "cap_add"} == set()


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["logging"] == {"driver": "local"}
    assert service.keys() >= {"mem_limit", "cpus", "pids_limit"}
    for text in service["tmpfs"]:
        place, _, options = text.partition(":")
        assert "size=" in options, "it may fill the memory"
        # runc gives a tmpfs the mode of the directory below it, and root as owner; /tmp is for everybody everywhere.
        assert place == "/tmp" or "mode=1777" in options.split(",")


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_of_one_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+", tag)


def test_the_image_of_the_job_is_built_here_and_fetched_from_nowhere() -> None:
    assert {one["image"] for one in TUA.values()} == {f"tua:{VERSION}"}
    assert {name: one["pull_policy"] for name, one in TUA.items()} == {
        "webhooks": "never",
        "intake": "never",
        "job": "build",
    }
    assert [name for name, one in SERVICES.items() if "build" in one] == ["job"]
    assert (ROOT / SERVICES["job"]["build"] / "Dockerfile").is_file()


@pytest.mark.parametrize("name", SERVICES.keys() - {"job"})
def test_a_service_tells_whether_it_is_well(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert check.keys() == {"test", "interval", "timeout", "retries", "start_period", "start_interval"}


@pytest.mark.parametrize("name", ["job", "intake", "kafka-ui"])
def test_what_reads_kafka_starts_when_both_brokers_are_well(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {broker: {"condition": "service_healthy"} for broker in BROKERS}


@pytest.mark.parametrize("name", BROKERS)
def test_a_broker_starts_when_the_controller_is_well(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"kafka-controller": {"condition": "service_healthy"}}


def test_what_is_kept_is_on_a_volume_of_each_node() -> None:
    kept = {name: mounts(name)[environment(name)["KAFKA_LOG_DIRS"]] for name in KAFKA}
    kept["job"] = mounts("job")["/var/lib/tua"]
    assert set(COMPOSE["volumes"]) == set(kept.values())
    assert len(set(kept.values())) == len(kept)


def test_the_files_of_the_project_that_are_mounted_are_there_and_cannot_be_changed() -> None:
    paths = [text for name in SERVICES for text in SERVICES[name].get("volumes", ()) if text.startswith(".")]
    assert {text.partition(":")[0] for text in paths} == {"./tua.yaml", "./scripts/webhook_receiver.py"}
    for text in paths:
        path, _, mode = text.split(":")
        assert (ROOT / path).is_file()
        assert mode == "ro"
    assert "./tua.yaml" in mounts("job").values()
    assert "./tua.yaml" in mounts("intake").values()


def test_the_job_is_stopped_no_sooner_than_it_is_done() -> None:
    grace_s = load(ROOT / "tua.yaml", ACTION_TYPES).delivery.shutdown_grace_ms / 1000
    assert int(SERVICES["job"]["stop_grace_period"].removesuffix("s")) >= grace_s + 15


@pytest.mark.parametrize("name", JOBS)
def test_a_command_is_one_of_tua(name: str) -> None:
    (command,) = SERVICES[name]["command"]
    assert command in COMMANDS


@pytest.mark.parametrize("name", JOBS)
def test_every_variable_is_one_that_the_program_reads(name: str) -> None:
    lines = (ROOT / "tua.yaml").read_text(encoding="utf-8").splitlines()
    read = set(re.findall(r"env: (\w+)", "\n".join(line.partition("#")[0] for line in lines)))
    assert environment(name).keys() - read == {"TUA_BOOTSTRAP_SERVERS"}


@pytest.mark.parametrize("name", JOBS)
def test_the_configuration_has_no_mistake_with_these_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    settings = load(ROOT / "tua.yaml", ACTION_TYPES)
    inside = {f"{broker}:9092" for broker in BROKERS}
    assert set(settings.kafka.bootstrap_servers.split(",")) == inside
    if name == "intake":
        intake = settings.intake  # type: ignore[attr-defined]
        assert (intake.host, str(intake.port)) == ("0.0.0.0", published("intake")["8080"][1])


def test_alerts_go_to_the_receivers_beside_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment("job").items():
        monkeypatch.setenv(variable, value)
    actions = load(ROOT / "tua.yaml", ACTION_TYPES).actions
    mail, webhook = actions["support-email"], actions["shop-webhook"]
    assert (mail.host, mail.port, mail.tls) == ("mailpit", 1025, "none")  # type: ignore[attr-defined]
    assert isinstance(webhook, WebhookSettings)
    url = resolved_url("shop-webhook", webhook.url, webhook.allow_insecure)
    command = SERVICES["webhooks"]["command"]
    assert (url.host, str(url.port)) == ("webhooks", command[command.index("--port") + 1])
    with pytest.raises(ActionError, match="https"):
        resolved_url("shop-webhook", webhook.url, allow_insecure=False)


def test_no_secret_stands_in_the_file() -> None:
    for name in SERVICES:
        for variable, value in environment(name).items():
            assert not re.search(r"SECRET|PASSWORD|TOKEN|API_KEY|SASL|SSL", variable) or value == "", variable
    assert re.findall(r"\$\{.*?\}", FILE.read_text(encoding="utf-8")) == ["${TUA_WEBHOOK_SECRET:-}"]

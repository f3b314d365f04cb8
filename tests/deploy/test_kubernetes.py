"""deploy/kubernetes: valid by the API's own schemas, and of one mind with itself and with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bytewax.run
import kubernetes_validate
import pytest
import yaml

from actions.registry import ACTION_TYPES
from dataflows.state_directory import PARTS_VARIABLE, StateDirectory
from settings import load

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.28.0", kubernetes_validate.latest_version())
"""The oldest has the label that tells a pod its number."""

KUSTOMIZATION = yaml.safe_load((PLACE / "kustomization.yaml").read_text(encoding="utf-8"))
OBJECTS: dict[str, dict[str, Any]] = {}
for name in KUSTOMIZATION["resources"]:
    one = yaml.safe_load((PLACE / name).read_text(encoding="utf-8"))
    OBJECTS[one["kind"]] = one
SET = OBJECTS["StatefulSet"]["spec"]
POD = SET["template"]["spec"]
(JOB,) = POD["containers"]
(OWN_NAME,) = POD["initContainers"]
ENVIRONMENT = {one["name"]: one for one in JOB["env"]}
LITERALS = dict(text.split("=", 1) for one in KUSTOMIZATION["configMapGenerator"] for text in one.get("literals", ()))
ADDRESSES = ENVIRONMENT["BYTEWAX_ADDRESSES"]["value"].split(";")


def test_every_file_is_part_of_the_set() -> None:
    generated = {file for one in KUSTOMIZATION["configMapGenerator"] for file in one.get("files", ())}
    assert {path.name for path in PLACE.iterdir()} == {"kustomization.yaml", *KUSTOMIZATION["resources"], *generated}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_is_valid_by_the_schema_of_the_api(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_the_schema_finds_a_misspelt_field() -> None:
    wrong = {**OBJECTS["StatefulSet"], "spec": {**SET, "podManagmentPolicy": "Parallel"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="podManagmentPolicy"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_builds_it_and_what_it_builds_is_valid() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(PLACE)], capture_output=True, text=True, check=True, timeout=60)
    objects = list(yaml.safe_load_all(built.stdout))
    assert sorted(one["kind"] for one in objects) == sorted([*OBJECTS, "ConfigMap", "ConfigMap"])
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[1], strict=True)
        assert "namespace" not in one["metadata"]
    (pod,) = (one["spec"]["template"]["spec"] for one in objects if one["kind"] == "StatefulSet")
    tag = KUSTOMIZATION["images"][0]["newTag"]
    assert {one["image"] for one in pod["containers"] + pod["initContainers"]} == {f"tua:{tag}"}
    made = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    (container,) = pod["containers"]
    assert {container["envFrom"][0]["configMapRef"]["name"], pod["volumes"][0]["configMap"]["name"]} == made


def test_the_configuration_is_the_shipped_one() -> None:
    assert (PLACE / "tua.yaml").read_bytes() == (ROOT / "tua.yaml").read_bytes()


def test_there_are_as_many_processes_as_addresses_and_recovery_parts() -> None:
    assert SET["replicas"] == len(ADDRESSES) == int(ENVIRONMENT[PARTS_VARIABLE]["value"])


def test_the_addresses_are_those_of_the_pods_in_the_order_of_their_numbers() -> None:
    service, name = OBJECTS["Service"], OBJECTS["StatefulSet"]["metadata"]["name"]
    assert SET["serviceName"] == service["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    (container_port,) = JOB["ports"]
    expected = [f"{name}-{number}.{SET['serviceName']}:{port['port']}" for number in range(SET["replicas"])]
    assert expected == ADDRESSES
    assert (port["targetPort"], port["port"]) == (container_port["name"], container_port["containerPort"])
    path = ENVIRONMENT["BYTEWAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_the_pods_alone_reach_the_cluster_port() -> None:
    policy = OBJECTS["NetworkPolicy"]["spec"]
    pods = {"matchLabels": SET["template"]["metadata"]["labels"]}
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"] == pods
    assert policy["ingress"] == [
        {"from": [{"podSelector": pods}], "ports": [{"protocol": "TCP", "port": JOB["ports"][0]["name"]}]}
    ]


def test_all_select_the_same_pods() -> None:
    labels = SET["template"]["metadata"]["labels"]
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    selectors = [SET["selector"], OBJECTS["PodDisruptionBudget"]["spec"]["selector"]]
    selectors += [one["labelSelector"] for one in POD["topologySpreadConstraints"]]
    assert selectors == [{"matchLabels": labels}] * 3
    assert {kind for kind, one in OBJECTS.items() if one["metadata"]["labels"] == labels} == set(OBJECTS)


def test_all_processes_start_and_stop_together() -> None:
    assert SET["podManagementPolicy"] == "Parallel"
    assert SET["updateStrategy"] == {"type": "OnDelete"}
    grace_s = load(PLACE / "tua.yaml", ACTION_TYPES).delivery.shutdown_grace_ms / 1000
    assert POD["terminationGracePeriodSeconds"] >= grace_s + 15


def test_every_variable_is_one_that_the_program_reads() -> None:
    lines = (ROOT / "tua.yaml").read_text(encoding="utf-8").splitlines()
    configured = set(re.findall(r"env: (\w+)", "\n".join(line.partition("#")[0] for line in lines)))
    sources = (*(ROOT / "settings").glob("*.py"), ROOT / "dataflows/state_directory.py", Path(bytewax.run.__file__))
    source = "".join(path.read_text(encoding="utf-8") for path in sources)
    own = set(re.findall(r'"((?:TUA|BYTEWAX)_\w+)"', source))
    given = {*ENVIRONMENT, *LITERALS}
    assert given - configured - own == set()
    of_the_intake = {name for name in configured if name.startswith("TUA_INTAKE_")}  # which is no part of the job
    assert configured - of_the_intake | {"TUA_BOOTSTRAP_SERVERS"} <= given
    assert "BYTEWAX_DATAFLOW_API_ENABLED" not in given, "it opens a port on all interfaces"


def test_the_configuration_has_no_mistake_with_these_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LITERALS.items():
        monkeypatch.setenv(name, value)
    state = ENVIRONMENT["TUA_STATE_DIRECTORY"]["value"]
    monkeypatch.setenv("TUA_STATE_DIRECTORY", state)
    settings = load(PLACE / "tua.yaml", ACTION_TYPES)
    assert settings.kafka.bootstrap_servers == LITERALS["TUA_BOOTSTRAP_SERVERS"]
    assert settings.state.directory == Path(state)


def test_secrets_come_by_reference_alone() -> None:
    secret = re.compile(r"SECRET|PASSWORD|TOKEN|KEY")
    assert not [name for name in LITERALS if secret.search(name)]
    for name in filter(secret.search, ENVIRONMENT):
        assert set(ENVIRONMENT[name]["valueFrom"]) == {"secretKeyRef"}
    assert "Secret" not in OBJECTS


def test_volumes_are_mounted_where_the_program_looks() -> None:
    mounts = {one["name"]: one["mountPath"] for one in JOB["volumeMounts"]}
    there = {one["name"] for one in [*POD["volumes"], *(claim["metadata"] for claim in SET["volumeClaimTemplates"])]}
    assert set(mounts) == there
    assert ENVIRONMENT["TUA_CONFIG"]["value"] == f"{mounts['configuration']}/tua.yaml"
    # Below the volume, whose root belongs to the group: the job makes the directory for itself alone.
    state = Path(ENVIRONMENT["TUA_STATE_DIRECTORY"]["value"])
    assert state.parent == Path(mounts["state"])
    assert POD["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    names = {one["name"] for one in KUSTOMIZATION["configMapGenerator"]}
    assert {POD["volumes"][0]["configMap"]["name"], JOB["envFrom"][0]["configMapRef"]["name"]} == names


def test_the_state_directory_is_good_below_a_volume_of_a_group(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o2775)  # what fsGroup makes of it
    assert StateDirectory(volume / "state").path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("container", [JOB, OWN_NAME], ids=["tua", "own-name"])
def test_a_container_may_do_no_more_than_it_must(container: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pod = POD["securityContext"]
    assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert pod["runAsUser"] > 0
    assert POD["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("address", "ends"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_a_pod_waits_until_its_name_is_its_own(address: str, ends: bool) -> None:
    command = OWN_NAME["command"]
    assert command[:2] == ["python", "-c"]
    assert {one["name"] for one in OWN_NAME["env"]} >= set(re.findall(r'environ\["(\w+)"\]', command[2]))
    process = subprocess.Popen(
        [sys.executable, *command[1:]], env={"OWN_NAME": "localhost", "OWN_ADDRESS": address}, stderr=subprocess.PIPE
    )
    try:
        process.wait(10 if ends else 2)
    except subprocess.TimeoutExpired:
        assert not ends
    finally:
        process.kill()
        _, errors = process.communicate()
    assert errors == b""
    assert process.returncode == (0 if ends else -9)

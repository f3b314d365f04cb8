"""The Dockerfile: no finding of hadolint, of one mind with what is deployed; and the wheel, which has all it needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from tests.support.compose import ROOT, TUA, environment, mounts

FILE = ROOT / "Dockerfile"
TEXT = FILE.read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PLAIN = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
INSTRUCTIONS = [tuple(line.split(" ", 1)) for line in PLAIN.splitlines() if line]
LAST = INSTRUCTIONS[[word for word, _ in INSTRUCTIONS].index("FROM", 3) :]
SET = yaml.safe_load((ROOT / "deploy/kubernetes/stateful-set.yaml").read_text(encoding="utf-8"))["spec"]["template"]


def of_last(word: str) -> str:
    """What an instruction says that is once in the last stage."""
    (said,) = (text for name, text in LAST if name == word)
    return said


def hadolint(text: str) -> str:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run(
        [program, "-"], input=text, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    ).stdout


def test_hadolint_finds_nothing() -> None:
    assert hadolint(TEXT) == ""


def test_hadolint_finds_what_is_wrong() -> None:
    assert "DL3002" in hadolint(TEXT.replace("USER 10001:10001", "USER root"))


def test_the_wheel_has_all_files_of_the_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    assert there == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_what_the_wheel_is_made_of_is_copied_and_nothing_else_is_sent() -> None:
    copied = {part for word, text in INSTRUCTIONS if word == "COPY" for part in text.split()[:-1]}
    assert copied == {*PACKAGES, "pyproject.toml", "constraints.txt", PYPROJECT["project"]["readme"]}
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1:]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


def test_both_stages_are_of_one_python_that_the_project_supports() -> None:
    (base,) = (text for word, text in INSTRUCTIONS if word == "ARG")
    assert [text for word, text in INSTRUCTIONS if word == "FROM"] == ["${PYTHON} AS build", "${PYTHON}"]
    version = re.fullmatch(r"PYTHON=python:(3\.\d+)\.\d+-slim-\w+", base)
    assert version is not None
    assert version[1] in ("3.11", "3.12")
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.13"


def test_it_runs_as_the_user_of_the_deployment_who_owns_the_state_alone() -> None:
    words = [word for word, _ in LAST]
    user, group = of_last("USER").split(":")
    security = SET["spec"]["securityContext"]
    assert (int(user), int(group)) == (security["runAsUser"], security["runAsGroup"])
    (made,) = (text for word, text in LAST if word == "RUN" and "useradd" in text)
    assert f"--gid {group} tua" in made
    assert f"--uid {user} " in made
    assert made.endswith("install --directory --owner tua --group tua --mode 0700 /var/lib/tua")
    assert max(place for place, word in enumerate(words) if word == "RUN") < words.index("USER")


def test_it_looks_where_the_files_are_mounted() -> None:
    variables = dict(part.split("=") for part in of_last("ENV").split())
    (container,) = SET["spec"]["containers"]
    deployed = {one["name"]: one.get("value") for one in container["env"]}
    assert variables.items() <= deployed.items()
    for service in ("job", "intake"):
        assert mounts(service)[variables["TUA_CONFIG"]] == "./tua.yaml"
        assert not environment(service).keys() & variables.keys()
    # Below the directory that is its own: the job makes it, for itself alone.
    assert Path(variables["TUA_STATE_DIRECTORY"]).parent == Path("/var/lib/tua")
    assert "/var/lib/tua" in mounts("job")


def test_it_starts_a_program_that_is_there_and_no_shell() -> None:
    (entry,) = json.loads(of_last("ENTRYPOINT"))
    assert entry in PYPROJECT["project"]["scripts"]
    assert json.loads(of_last("CMD")) == ["run"]


def test_its_label_and_tag_are_the_version_of_the_project() -> None:
    version = PYPROJECT["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in of_last("LABEL")
    assert {one["image"] for one in TUA.values()} == {f"tua:{version}"}


@pytest.mark.parametrize("tool", ["gcc", "build-essential", "apt-get", "curl"])
def test_nothing_that_builds_or_fetches_is_added(tool: str) -> None:
    assert not re.search(rf"\b{tool}\b", PLAIN)

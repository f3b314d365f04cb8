"""An import points only downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "detection": set(),
    "settings": {"detection"},
    "connectors": {"detection", "settings"},
    "actions": {"detection", "settings"},
    "dataflows": {"actions", "connectors", "detection", "settings"},
    "tua": {"actions", "connectors", "dataflows", "detection", "settings"},
    "scripts": {"actions", "connectors", "detection", "settings", "tua"},
}
NOT_IN_DETECTION = {"asyncio", "bytewax", "confluent_kafka", "os", "socket", "structlog", "time"}


def imports(package: str) -> set[tuple[str, str]]:
    """(module, imported top-level package) of all files of a package."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                names = [node.module or ""]
            found |= {(str(path.relative_to(ROOT)), name.partition(".")[0]) for name in names}
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    ours = {*MAY_IMPORT, "tests"}
    wrong = {(module, name) for module, name in imports(package) if name in ours - {package} - MAY_IMPORT[package]}
    assert not wrong


def test_detection_knows_of_no_input_no_output_and_no_clock() -> None:
    assert not {(module, name) for module, name in imports("detection") if name in NOT_IN_DETECTION}

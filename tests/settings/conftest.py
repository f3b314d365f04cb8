from collections.abc import Callable
from pathlib import Path

import pytest

from settings import Settings, load
from tests.support.configuration import ACTION_TYPES

Load = Callable[[str], Settings]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUA_BOOTSTRAP_SERVERS", raising=False)


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as the file `tua.yaml` of the working directory, a temporary one."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str) -> Settings:
        Path("tua.yaml").write_text(text, encoding="utf-8")
        return load(Path("tua.yaml"), ACTION_TYPES)

    return load_it

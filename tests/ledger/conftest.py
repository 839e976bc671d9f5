"""The same empty ledger on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood.ledger import Ledger, connect
from lastgood.system import signing
from tests import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A real server that all tests share, each with a schema of its own."""
    with postgres.serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a ledger that does not exist yet."""
    return fresh(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, one for all tests of a module that leave it as it was."""
    return fresh(request, tmp_path_factory.mktemp("shared"))


def fresh(request: pytest.FixtureRequest, folder: Path) -> str:
    """The address of a ledger that does not exist yet, on the engine that the test was parametrized with."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_server").create_schema())
    return f"sqlite:///{folder / 'home' / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """An empty ledger, ready to use."""
    with connect(url) as connected:
        connected.migrate()
        yield connected


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The folder of a signing key; checkpoints go to `audit/` beside it."""
    folder = tmp_path / "home" / "keys"
    signing.init_keys(folder)
    return folder

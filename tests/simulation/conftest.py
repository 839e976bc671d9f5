"""One project for all worlds, and a place for ledgers that is fast."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood.paging import once
from lastgood.release import promotion
from tests.simulation.project import Project

MEMORY = Path("/dev/shm")  # noqa: S108  # where there is no such folder the disk serves as well


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The bundles that all worlds release."""
    return Project(tmp_path_factory.mktemp("simulation"))


@pytest.fixture(scope="module", autouse=True)
def read_again() -> Iterator[None]:
    """One that lives and one that was killed know the same of what others told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(once, "AGAIN_S", 0.0)
        yield


@pytest.fixture(scope="module", autouse=True)
def one_salt() -> Iterator[None]:
    """Worlds that are run twice are compared to the last byte, and what is drawn at random would differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "draw_salt", lambda: "00" * promotion.SALT_BYTES)
        yield


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory, if the machine has one."""
    where = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)

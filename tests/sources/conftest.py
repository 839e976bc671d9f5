"""Fixtures of the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.traffic.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A service whose Envoy is not started yet; everything ends with the test."""
    made = World(tmp_path)
    yield made
    made.close()

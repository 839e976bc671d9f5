"""The traffic layer in memory."""

from __future__ import annotations

from lastgood import testing
from lastgood.settings import Settings
from tests import memory


def build(settings: Settings, service: str, endpoints: object) -> testing.MemoryTraffic:  # the world wires it
    """The one of this world."""
    return memory.world(settings, service).traffic

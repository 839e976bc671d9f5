"""The layers in memory as adapters that settings can name; one world per home folder and service."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lastgood import testing
from lastgood.settings import Settings

ADAPTERS = (
    '[layers]\ninfrastructure = "tests.memory.infrastructure"\ntraffic = "tests.memory.traffic"\nregistry = "tests.memory.registry"\n'
)


@dataclasses.dataclass(slots=True)
class World:
    """The three layers of one service."""

    infrastructure: testing.MemoryInfrastructure
    traffic: testing.MemoryTraffic
    registry: testing.MemoryRegistry


_WORLDS: dict[tuple[Path, str], World] = {}


def world(settings: Settings, service: str) -> World:
    """The layers of *service*, made on first use."""
    key = (settings.home, service)
    if key not in _WORLDS:
        processes = testing.MemoryInfrastructure()
        traffic = testing.MemoryTraffic(processes.endpoints)
        _WORLDS[key] = World(infrastructure=processes, traffic=traffic, registry=testing.MemoryRegistry())
    return _WORLDS[key]

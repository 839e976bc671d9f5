"""Every layer that ships passes the same suite: the ones in memory and Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import testing
from lastgood.bundle.manifest import Bundle
from lastgood.conformance.layers import LayerSuite, ProcessesSuite, Subject
from lastgood.layers import base
from tests.layers.traffic.subject import EnvoySubject
from tests.layers.traffic.world import A, B, World


class MemorySubject(Subject):
    """A layer in memory; the world is the object itself, so reopening gives the same one."""

    bundles = (A, B)

    def __init__(self, layer: testing.MemoryTraffic | testing.MemoryInfrastructure | testing.MemoryRegistry, *, world: World) -> None:
        self.layer = self.memory = layer
        self._world = world

    def desired(self, revision: int, *, stable: Bundle | None, previous: Bundle | None = None) -> base.Desired:
        return self._world.desired(revision, stable, previous=previous)

    def reopen(self) -> base.Layer:
        return self.memory

    def take_down(self) -> None:
        self.memory.failure = base.LayerError("switched off; switch it on again")

    def bring_up(self) -> None:
        self.memory.failure = None

    def tamper(self) -> None:
        if isinstance(self.memory, testing.MemoryTraffic):
            self.memory.served = {A.id: 100.0}
        elif isinstance(self.memory, testing.MemoryInfrastructure):
            del self.memory.workers[A.id]
        else:
            self.memory.aliases = {"stable": A.id}


class TestMemoryTraffic(LayerSuite):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        return MemorySubject(testing.MemoryTraffic(), world=World(tmp_path))


class TestMemoryInfrastructure(ProcessesSuite):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        return MemorySubject(testing.MemoryInfrastructure(), world=World(tmp_path))


class TestMemoryRegistry(LayerSuite):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        return MemorySubject(testing.MemoryRegistry(), world=World(tmp_path))


class TestEnvoy(LayerSuite):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Iterator[Subject]:
        world = World(tmp_path)
        try:
            yield EnvoySubject(world)
        finally:
            world.close()


def test_memory_traffic_refuses_a_bundle_without_a_worker(tmp_path: Path) -> None:
    """With endpoints given it has the rule of the real one: no ready worker, no traffic, and nothing moves."""
    world = World(tmp_path)
    workers = testing.MemoryInfrastructure(never_ready={B.id})
    traffic = testing.MemoryTraffic(workers.endpoints)
    for revision, stable in ((1, A), (2, B)):
        workers.apply(world.desired(revision, stable, previous=A if stable is B else None))
        if stable is A:
            traffic.apply(world.desired(revision, stable))
    with pytest.raises(base.LayerError, match="no ready worker"):
        traffic.apply(world.desired(2, B))
    assert traffic.served == {A.id: 100.0}
    assert workers.verify(world.desired(2, B, previous=A), workers.observe()) is False


def test_the_suite_catches_a_layer_that_goes_back(tmp_path: Path) -> None:
    """The suite itself can fail: a layer that takes over a stale revision does not pass."""

    class Careless(testing.MemoryTraffic):
        def apply(self, desired: base.Desired) -> None:
            self.revision = 0
            super().apply(desired)

    subject = MemorySubject(Careless(), world=World(tmp_path))
    with pytest.raises(AssertionError):
        LayerSuite().test_an_older_revision_never_comes_back(subject)

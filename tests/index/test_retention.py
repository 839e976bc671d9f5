"""A replica stays as long as anybody may need it, and the reason is told."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from lastgood import errors, ledger, settings
from lastgood.bundle import manifest as bundles
from lastgood.conformance import index as suite
from lastgood.core.state import Hold, State
from lastgood.index import lancedb, retention

SERVICE = "demo"
LATER = 10 * retention.DAY_S
SETTINGS = settings.IndexSettings(keep_days=1, keep_stable=2)


@dataclasses.dataclass
class World:
    """A ledger, an engine, and bundles that each need a replica of their own."""

    ledger: ledger.Ledger
    engine: lancedb.LanceIndex
    bundles: list[bundles.Bundle]
    revision: int = 0

    def names(self) -> list[str]:
        """Each bundle's replica."""
        found = [retention.replica_of(one) for one in self.bundles]
        assert all(found)
        return [str(one) for one in found]

    def set(self, **state: object) -> None:
        """The next revision."""
        self.revision += 1
        made = State(service=SERVICE, revision=self.revision, **state)  # type: ignore[arg-type]
        self.ledger.append(made, (), verb="promote", actor="test", reason="test", now=float(self.revision), evidence={})

    def gone(self) -> list[str]:
        """What a sweep removes a while from now."""
        return retention.sweep(self.engine, self.ledger, SETTINGS, now=time.time() + LATER)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four bundles, registered, with their replicas built."""
    made = []
    engine = lancedb.LanceIndex(tmp_path / "index")
    connected = ledger.connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    connected.__enter__()
    connected.migrate()
    for seed in range(1, 5):
        snapshot = suite.make_part(tmp_path / f"part{seed}", count=10, seed=seed)
        engine.build(tmp_path / f"part{seed}")
        digest = bundles.sha256(str(seed).encode())
        part = bundles.Part(name="index", digest=digest, size=1, media_type="x/y", uri="store:x", meta=snapshot.meta())
        made.append(bundles.bundle_of(SERVICE, part))
        connected.register(made[-1], provenance={}, actor="test", now=1.0)
    return World(ledger=connected, engine=engine, bundles=made)


def test_what_nobody_needs_goes_and_nothing_else(world: World) -> None:
    """Stable, candidate, previous, and the last that were stable stay."""
    one, two, three, four = world.bundles
    world.set(stable=one.id, previous=two.id, candidate=three.id, phase="canary", lineage=(one.id, two.id))
    assert world.gone() == [world.names()[3]]
    assert sorted(replica.name for replica in world.engine.replicas()) == sorted(world.names()[:3])
    world.set(stable=four.id, lineage=(four.id, one.id, two.id))
    assert sorted(world.gone()) == sorted(world.names()[1:3])


def test_a_young_one_stays(world: World) -> None:
    """It may be a candidate in a minute."""
    assert retention.sweep(world.engine, world.ledger, SETTINGS, now=time.time()) == []
    assert len(retention.sweep(world.engine, world.ledger, SETTINGS, now=time.time() + LATER, dry_run=True)) == 4
    assert len(world.engine.replicas()) == 4


def test_while_the_service_is_held_all_that_it_ever_served_stay(world: World) -> None:
    """Somebody is looking into something."""
    one, two, three, four = world.bundles
    lineage = (one.id, two.id, three.id, four.id)
    world.set(stable=one.id, lineage=lineage, hold=Hold(reason="audit", actor="me", since=1.0))
    assert world.gone() == []
    world.set(stable=one.id, lineage=lineage)
    assert sorted(world.gone()) == sorted(world.names()[2:])


def test_a_legal_hold_keeps_one_until_it_is_lifted(world: World) -> None:
    """Both stand in the audit trail; without a reason there is none, and twice is nothing to do."""
    held = world.bundles[0]
    asked = {"actor": "counsel", "now": 5.0}
    with pytest.raises(errors.UsageError, match="requires a reason"):
        retention.set_legal_hold(world.ledger, SERVICE, held.id, held=True, reason=" ", **asked)  # type: ignore[arg-type]
    retention.set_legal_hold(world.ledger, SERVICE, held.id, held=True, reason="case 7", **asked)  # type: ignore[arg-type]
    with pytest.raises(errors.NothingToDo, match="already"):
        retention.set_legal_hold(world.ledger, SERVICE, held.id, held=True, reason="again", **asked)  # type: ignore[arg-type]
    assert retention.legal_holds(world.ledger, SERVICE) == {held.id: "case 7"}
    assert world.names()[0] not in world.gone()
    replica = next(one for one in world.engine.replicas() if one.name == world.names()[0])
    with pytest.raises(errors.NotAllowed, match="case 7"):
        retention.check(replica, needed=retention.needs(world.ledger, SETTINGS), keep_days=0, now=time.time())
    retention.set_legal_hold(world.ledger, SERVICE, held.id, held=False, reason="settled", **asked)  # type: ignore[arg-type]
    assert world.gone() == [world.names()[0]]


def test_what_a_reader_has_open_stays(world: World) -> None:
    """Though no bundle that serves needs it; it goes once the reader is closed."""
    reader = world.engine.open(world.names()[0])
    assert world.names()[0] not in world.gone()
    assert reader.search(suite.make_vectors(1)[0], k=1)
    reader.close()
    assert world.gone() == [world.names()[0]]


def test_a_bundle_without_an_index_needs_nothing(world: World) -> None:
    """Other services go on as before."""
    plain = bundles.bundle_of("other", bundles.Part(name="model", digest=bundles.sha256(b"m"), size=1, media_type="x/y", uri="store:x"))
    assert retention.replica_of(plain) is None

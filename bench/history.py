"""A long release history, made with the ledger's own `append`: releases, bakes that end, and now and then a rollback."""

from __future__ import annotations

from collections.abc import Iterator

from lastgood.bundle import manifest
from lastgood.core import transitions
from lastgood.core.events import BakeEnded, CutOver, Effect, Event, Propose, RollBack
from lastgood.core.state import State
from lastgood.ledger import Ledger

SERVICE = "longlived"
BUNDLES = 1000
"""This many different bundles are released, again and again."""
BAD_EVERY = 50
"""One bundle in this many is rolled back; quarantined, it is never released again."""
STEP_S = 60.0
FIRST = 1_600_000_000.0


def made(number: int) -> manifest.Bundle:
    """Bundle *number*: a manifest of the usual four parts. The ledger never looks at the bytes behind it."""
    parts = [
        manifest.Part(
            name=name,
            digest=manifest.sha256(f"{name} {number}".encode()),
            size=1000,
            media_type="application/octet-stream",
            uri=f"store:{number}",
            meta={"number": number},
        )
        for name in ("data", "model", "config", "environment")
    ]
    return manifest.bundle_of(SERVICE, *parts)


def digests() -> list[str]:
    """The ids of all bundles, by number."""
    return [made(number).id for number in range(BUNDLES)]


def moment(revision: int) -> float:
    """When *revision* is committed, as Unix time: one a minute."""
    return FIRST + revision * STEP_S


class Writer:
    """Appends to one ledger, from wherever it stands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids = digests()
        self._known: set[str] = set()
        self._events = self._story()
        self._state = State(service=SERVICE)

    def grow(self, until: int) -> None:
        """Append revisions up to number *until*."""
        while self._state.revision < until:
            state, effects = self.decide()
            self.append(state, effects)

    def decide(self) -> tuple[State, tuple[Effect, ...]]:
        """The next revision of the story, not written yet; the bundle it needs is registered."""
        return transitions.step(self._state, next(self._events), moment(self._state.revision + 1))

    def append(self, state: State, effects: tuple[Effect, ...]) -> None:
        """Write a decided revision."""
        now = moment(state.revision)
        done = self._ledger.append(state, effects, verb="bench", actor="bench", reason="a measured change", now=now)
        self._state = done.state

    def _story(self) -> Iterator[Event]:
        while True:
            for number, digest in enumerate(self._ids):
                bad = number % BAD_EVERY == BAD_EVERY - 1
                if bad and digest in self._known:
                    continue
                if digest not in self._known:
                    self._known.add(digest)
                    self._ledger.register(made(number), provenance={"run": number}, actor="bench", now=moment(self._state.revision))
                yield Propose(bundle=digest, verified=True)
                yield CutOver(bundle=digest, bake_s=60.0)
                yield (RollBack(reason="a measured rollback", verified=dict.fromkeys(self._state.lineage, True)) if bad else BakeEnded())

"""A small world for ledger tests: bundles by number, and the decision core in front of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lastgood.bundle import manifest
from lastgood.core import transitions
from lastgood.core.events import CutOver, Effect, Event, Propose, RollBack
from lastgood.core.state import State
from lastgood.ledger import Ledger, Revision

SERVICE = "flights"


def make(number: int, service: str = SERVICE) -> manifest.Bundle:
    """Bundle *number* of *service*; equal numbers make equal bundles."""
    part = manifest.Part(
        name="model", digest=f"sha256:{number:064x}", size=number, media_type="application/json", uri="store:x", meta={"n": number}
    )
    return manifest.bundle_of(service, part)


def digest(number: int) -> str:
    """The id of bundle *number*."""
    return make(number).id


def register(ledger: Ledger, *numbers: int, service: str = SERVICE, now: float = 1.0) -> list[str]:
    """Register bundles by number; their ids."""
    for number in numbers:
        ledger.register(make(number, service), provenance={"run": number}, actor="builder", now=now)
    return [make(number, service).id for number in numbers]


def decide(ledger: Ledger, event: Event, *, now: float, service: str = SERVICE) -> tuple[State, tuple[Effect, ...]]:
    """What the decision core makes of *event* in the newest state."""
    about = (found,) if (found := getattr(event, "bundle", None)) else ()
    return transitions.step(ledger.state(service, about=about), event, now)


def act(ledger: Ledger, event: Event, *, now: float = 100.0, verb: str = "", service: str = SERVICE, **more: Any) -> Revision:
    """Decide on *event* and append the outcome."""
    state, effects = decide(ledger, event, now=now, service=service)
    return ledger.append(state, effects, verb=verb or type(event).__name__.lower(), actor="op", reason="because", now=now, **more)


def promote(ledger: Ledger, bundle_id: str, *, now: float = 100.0) -> Revision:
    """Make *bundle_id* stable in two revisions: proposed, cut over."""
    act(ledger, Propose(bundle=bundle_id, verified=True), now=now)
    return act(ledger, CutOver(bundle=bundle_id, bake_s=60), now=now)


def roll_back(ledger: Ledger, *, now: float = 100.0, **more: Any) -> Revision:
    """Roll back to the newest bundle that was stable."""
    return act(ledger, RollBack(reason="bad answers", verified=Everything()), now=now, **more)


class Everything(Mapping[str, bool]):
    """Says of every bundle that it verifies."""

    def __getitem__(self, key: str) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0

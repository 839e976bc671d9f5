"""Release states and the ways to them, for the tests of the decision core.

What does not belong here: what is expected of them.
"""

from __future__ import annotations

import dataclasses

import pytest

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import Advance, BakeEnded, CutOver, Effect, Event, Paged, Propose, RollBack, SetHold
from lastgood.core.state import Mark, MarkKind, PlannedPhase, State

A, B, C, D, E = (f"sha256:{letter * 64}" for letter in "abcde")

CHAIN = (
    PlannedPhase(kind="shadow", mirror_pct=100.0, min_s=10.0, max_s=1000.0),
    PlannedPhase(kind="canary", weight_pct=5.0, mirror_pct=10.0, min_s=20.0, max_s=2000.0),
    PlannedPhase(kind="canary", weight_pct=50.0, min_s=30.0, max_s=3000.0),
    PlannedPhase(kind="approval", max_s=4000.0),
)
"""One phase of each kind, each with times of its own."""


def step(state: State, *events: Event, now: float = 100.0) -> tuple[State, tuple[Effect, ...]]:
    """The state after *events*, one after the other, and the effects of the last one."""
    effects: tuple[Effect, ...] = ()
    for event in events:
        state, effects = transitions.step(state, event, now)
    return state, effects


def after(state: State, *events: Event, now: float = 100.0) -> State:
    """The state after *events*, one after the other."""
    return step(state, *events, now=now)[0]


def released(*digests: str, service: str = "flights") -> State:
    """The state after each of *digests* was released in turn and proved itself."""
    state = State(service=service)
    for digest in digests:
        propose = Propose(bundle=digest, verified=True)
        state = after(state, propose, CutOver(bundle=digest, bake_s=10.0), BakeEnded())
    return state


def on_its_way(phases: int, *, start: State | None = None, bundle: str = B, now: float = 100.0) -> State:
    """*bundle* after *phases* phases of CHAIN have begun (0: still preparing), with A stable unless *start* says otherwise."""
    propose = Propose(bundle=bundle, verified=True, chain=CHAIN)
    advances = [Advance(bundle=bundle)] * phases
    return after(released(A) if start is None else start, propose, *advances, now=now)


def canary(*, start: State | None = None, bundle: str = B, now: float = 100.0) -> State:
    """*bundle* answers 5 % of the users."""
    return on_its_way(2, start=start, bundle=bundle, now=now)


def baking(*digests: str, chain: tuple[PlannedPhase, ...] = (), now: float = 100.0) -> State:
    """The last of *digests* was cut over and bakes; those before it have proved themselves."""
    *earlier, last = digests
    advances = [Advance(bundle=last)] * len(chain)
    propose = Propose(bundle=last, verified=True, chain=chain)
    return after(released(*earlier), propose, *advances, CutOver(bundle=last, bake_s=10.0), now=now)


def back(reason: str = "bad", **fields: object) -> RollBack:
    """A rollback with every bundle verified, unless *fields* say otherwise."""
    return RollBack(**{"reason": reason, "verified": dict.fromkeys((A, B, C, D, E), True), **fields})  # type: ignore[arg-type]


def alarm(reason: str = "bad", **fields: object) -> RollBack:
    """The same by automation."""
    return back(reason, automatic=True, **fields)


def held(state: State, *, gate: str | None = None) -> State:
    """*state* with a hold on it, of a person or of *gate*."""
    return after(state, SetHold(reason="freeze", actor="ann" if gate is None else "lastgood", gate=gate))


def with_mark(state: State, digest: str, kind: MarkKind = "quarantined") -> State:
    """*state* with a mark that came from elsewhere, so that nothing else has changed."""
    return dataclasses.replace(state, marks={**state.marks, digest: Mark(kind=kind, reason="cve")})


def pages(effects: tuple[Effect, ...]) -> list[Paged]:
    """The pages among *effects*."""
    return [effect for effect in effects if isinstance(effect, Paged)]


def refused(state: State, event: Event, kind: type[errors.LastgoodError], says: str, *, now: float = 100.0) -> None:
    """Check that *event* is refused with an error of exactly *kind*, whose message has *says* in it."""
    with pytest.raises(errors.LastgoodError) as caught:
        transitions.step(state, event, now)
    assert type(caught.value) is kind
    assert says in str(caught.value)

"""Release states and the ways to them, for the tests of the decision core.

What does not belong here: what is expected of them.
"""

from __future__ import annotations

import dataclasses

import pytest

from lastgood import errors
from lastgood.core import transitions as rollout

A, B, C, D, E = (f"sha256:{letter * 64}" for letter in "abcde")

CHAIN = (
    rollout.PlannedPhase(kind="shadow", mirror_pct=100.0, min_s=10.0, max_s=1000.0),
    rollout.PlannedPhase(kind="canary", weight_pct=5.0, mirror_pct=10.0, min_s=20.0, max_s=2000.0),
    rollout.PlannedPhase(kind="canary", weight_pct=50.0, min_s=30.0, max_s=3000.0),
    rollout.PlannedPhase(kind="approval", max_s=4000.0),
)
"""One phase of each kind, each with times of its own."""


def step(state: rollout.State, *events: rollout.Event, now: float = 100.0) -> tuple[rollout.State, tuple[rollout.Effect, ...]]:
    """The state after *events*, one after the other, and the effects of the last one."""
    effects: tuple[rollout.Effect, ...] = ()
    for event in events:
        state, effects = rollout.step(state, event, now)
    return state, effects


def after(state: rollout.State, *events: rollout.Event, now: float = 100.0) -> rollout.State:
    """The state after *events*, one after the other."""
    return step(state, *events, now=now)[0]


def released(*digests: str, service: str = "flights") -> rollout.State:
    """The state after each of *digests* was released in turn and proved itself."""
    state = rollout.State(service=service)
    for digest in digests:
        propose = rollout.Propose(bundle=digest, verified=True)
        state = after(state, propose, rollout.CutOver(bundle=digest, bake_s=10.0), rollout.BakeEnded())
    return state


def on_its_way(phases: int, *, start: rollout.State | None = None, bundle: str = B, now: float = 100.0) -> rollout.State:
    """*bundle* after *phases* phases of CHAIN have begun (0: still preparing), with A stable unless *start* says otherwise."""
    propose = rollout.Propose(bundle=bundle, verified=True, chain=CHAIN)
    advances = [rollout.Advance(bundle=bundle)] * phases
    return after(released(A) if start is None else start, propose, *advances, now=now)


def canary(*, start: rollout.State | None = None, bundle: str = B, now: float = 100.0) -> rollout.State:
    """*bundle* answers 5 % of the users."""
    return on_its_way(2, start=start, bundle=bundle, now=now)


def baking(*digests: str, chain: tuple[rollout.PlannedPhase, ...] = (), now: float = 100.0) -> rollout.State:
    """The last of *digests* was cut over and bakes; those before it have proved themselves."""
    *earlier, last = digests
    advances = [rollout.Advance(bundle=last)] * len(chain)
    propose = rollout.Propose(bundle=last, verified=True, chain=chain)
    return after(released(*earlier), propose, *advances, rollout.CutOver(bundle=last, bake_s=10.0), now=now)


def back(reason: str = "bad", **fields: object) -> rollout.RollBack:
    """A rollback with every bundle verified, unless *fields* say otherwise."""
    return rollout.RollBack(**{"reason": reason, "verified": dict.fromkeys((A, B, C, D, E), True), **fields})  # type: ignore[arg-type]


def alarm(reason: str = "bad", **fields: object) -> rollout.RollBack:
    """The same by automation."""
    return back(reason, automatic=True, **fields)


def held(state: rollout.State, *, gate: str | None = None) -> rollout.State:
    """*state* with a hold on it, of a person or of *gate*."""
    return after(state, rollout.SetHold(reason="freeze", actor="ann" if gate is None else "lastgood", gate=gate))


def with_mark(state: rollout.State, digest: str, kind: rollout.MarkKind = "quarantined") -> rollout.State:
    """*state* with a mark that came from elsewhere, so that nothing else has changed."""
    return dataclasses.replace(state, marks={**state.marks, digest: rollout.Mark(kind=kind, reason="cve")})


def pages(effects: tuple[rollout.Effect, ...]) -> list[rollout.Paged]:
    """The pages among *effects*."""
    return [effect for effect in effects if isinstance(effect, rollout.Paged)]


def refused(state: rollout.State, event: rollout.Event, kind: type[errors.LastgoodError], says: str, *, now: float = 100.0) -> None:
    """Check that *event* is refused with an error of exactly *kind*, whose message has *says* in it."""
    with pytest.raises(errors.LastgoodError) as caught:
        rollout.step(state, event, now)
    assert type(caught.value) is kind
    assert says in str(caught.value)

"""Every state that a few bundles can reach, by every event, searched to the end: once all at once, once by phases."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator

from lastgood import errors
from lastgood.core import transitions as rollout
from lastgood.core.events import (
    Abandon,
    Advance,
    Approve,
    BakeEnded,
    Condemn,
    CutOver,
    Event,
    Lift,
    Propose,
    Reject,
    ReleaseHold,
    RollBack,
    SetHold,
    Skip,
    Verified,
)
from lastgood.core.rollback import BREAKER, MAX_HOPS
from lastgood.core.state import PlannedPhase, State, target

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
BUNDLES = (A, B, C)
CHECKED = tuple(dict(zip(BUNDLES, truth, strict=True)) for truth in itertools.product((True, False), repeat=3))


CHAIN = (
    PlannedPhase(kind="shadow", mirror_pct=100),
    PlannedPhase(kind="canary", weight_pct=5, mirror_pct=10),
    PlannedPhase(kind="canary", weight_pct=50),
    PlannedPhase(kind="approval"),
)


def events_by_phases() -> Iterator[Event]:
    """Two bundles, one of which passes every phase; what is verified is not the matter here."""
    verified = dict.fromkeys(BUNDLES, True)
    for bundle in (A, B):
        yield Propose(bundle=bundle, verified=True, chain=CHAIN)
        yield Propose(bundle=bundle, verified=True, chain=CHAIN, override="sure")
        yield Advance(bundle=bundle)
        yield Approve(bundle=bundle)
        yield Skip(bundle=bundle)
        yield CutOver(bundle=bundle, bake_s=1)
        yield Abandon(bundle=bundle, reason="slow")
        yield Reject(bundle=bundle, reason="gate", verify_s=9)
        yield Condemn(bundle=bundle, kind="quarantined", reason="bad", verified=verified, verify_s=9)
        yield RollBack(reason="bad", to=bundle, verified=verified)
    for automatic, unready in itertools.product((False, True), repeat=2):
        yield RollBack(reason="bad", verified=verified, automatic=automatic, unready=unready, verify_s=9)
    yield Verified(outcome="recovered", reason="fine")
    yield BakeEnded()
    yield SetHold(reason="freeze", actor="ann")
    yield SetHold(reason="asks", actor="lastgood", gate="errors")
    yield ReleaseHold()


def events() -> Iterator[Event]:
    """Every event of the small world that goes all at once."""
    for bundle in BUNDLES:
        for verified in (True, False):
            yield Propose(bundle=bundle, verified=verified)
        yield Propose(bundle=bundle, verified=True, override="sure")
        yield CutOver(bundle=bundle, bake_s=1)
        yield Abandon(bundle=bundle, reason="slow")
        yield Lift(bundle=bundle, reason="fine")
        for kind, down in itertools.product(("quarantined", "revoked"), (False, True)):
            yield Condemn(bundle=bundle, kind=kind, reason="bad", verified=CHECKED[0], take_down=down)  # type: ignore[arg-type]
    for seen, to, automatic, verified in itertools.product(
        (None, *BUNDLES), (None, *BUNDLES), (False, True), (CHECKED[0], CHECKED[3], CHECKED[5])
    ):
        yield RollBack(reason="bad", seen=seen, to=to, verified=verified, automatic=automatic)
    yield BakeEnded()
    yield SetHold(reason="freeze", actor="ann")
    yield ReleaseHold()


def check(before: State, event: Event, after: State) -> None:
    """The invariants of one transition."""
    assert after.stable not in after.marks, (before, event)
    assert after.candidate not in after.marks, (before, event)
    assert after.previous not in after.marks, (before, event)
    assert after.candidate is None or after.candidate != after.stable
    assert (after.candidate is not None) == (after.phase in ("preparing", "shadow", "canary", "approval"))
    check_shares(before, event, after)
    assert after.stable is None or after.lineage[0] == after.stable
    assert after.previous == target(after, without=frozenset({after.stable or ""}))
    assert after.hops <= MAX_HOPS
    assert after.revision == before.revision + 1
    revoked = {digest for digest, mark in before.marks.items() if mark.kind == "revoked"}
    assert all(after.marks[digest].kind == "revoked" for digest in revoked), "a revocation is for good"
    if isinstance(event, RollBack):
        assert after.candidate is None or (after.hold is not None and before.hold is None)
        assert after.stable is not None or before.stable is None
    if before.hold is not None and not isinstance(event, ReleaseHold):
        assert after.hold == before.hold
        assert after.candidate in (None, before.candidate), "nothing new is released on hold"
    if after.stable is None and before.stable is not None:
        assert isinstance(event, Condemn), "only a take-down stops the service"
        assert event.take_down
    lifted = set(before.marks) - set(after.marks)
    assert not lifted or isinstance(event, Lift | Propose)


def check_shares(before: State, event: Event, after: State) -> None:
    """The invariants of shares, phases and the time after a step back."""
    assert 0 <= after.weight_pct < 100
    if after.weight_pct or after.mirror_pct:
        assert after.candidate is not None
        assert after.stable is not None, "there is always something proven to fall back to"
    if after.weight_pct > before.weight_pct:
        assert isinstance(event, Advance), "only the next phase gives a candidate more traffic"
        assert before.hold is None
    if after.position is not None and after.position != before.position:
        assert after.position == (0 if before.position is None else before.position + 1), "no phase is passed over"
    if after.stable != before.stable and isinstance(event, CutOver):
        assert before.hold is None
        assert before.position in (None, len(before.chain) - 1), "the chain was passed, or skipped by a person"
        assert before.phase != "approval" or before.approved
    if isinstance(event, Reject):
        assert after.stable == before.stable
        assert after.marks[event.bundle].kind == "quarantined"
        assert (after.verifying is not None) == (before.weight_pct > 0 or before.verifying is not None)
    if isinstance(event, RollBack) and event.automatic and not event.unready and before.verifying:
        assert after.stable == before.stable, "no rollback of a rollback"
    assert len(after.automatic_at) <= BREAKER + 1
    if len(after.automatic_at) > BREAKER:
        assert after.hold is not None, "too many steps back in an hour: a person has to look"


FIELDS = [field.name for field in dataclasses.fields(State) if field.name not in ("revision", "marks")]


def key(state: State) -> object:
    """What makes two states the same for the search; the revision number only counts."""
    marks = tuple(sorted((digest, mark.kind) for digest, mark in state.marks.items()))
    return marks, *(getattr(state, name) for name in FIELDS)


def test_no_sequence_of_events_breaks_an_invariant() -> None:
    """Breadth-first over all reachable states: I1 holds in each, and each transition keeps the rules."""
    states, transitions = search(tuple(events()), breaker=False)
    assert states > 1000
    assert transitions > 10_000


def test_no_sequence_of_phases_breaks_an_invariant() -> None:
    """The same with a chain of phases, gates that fail, holds that gates ask for, and the time after a step back."""
    states, transitions = search(tuple(events_by_phases()), breaker=True)
    assert states > 1000
    assert transitions > 10_000


def search(world: tuple[Event, ...], *, breaker: bool) -> tuple[int, int]:
    """How many states and transitions there are, each checked; without *breaker* every step back is hours after the last."""
    start = State(service="flights")
    seen = {key(start)}
    queue = deque([start])
    transitions = 0
    while queue:
        state = queue.popleft()
        for event in world:
            try:
                after, _ = rollout.step(state, event, 0.0)
            except errors.LastgoodError:
                continue
            transitions += 1
            check(state, event, after)
            after = dataclasses.replace(after, rollout=after.rollout and 1, automatic_at=after.automatic_at if breaker else ())
            if key(after) not in seen:
                seen.add(key(after))
                queue.append(dataclasses.replace(after, revision=0))
    return len(seen), transitions

"""Every state that a few bundles can reach, by every event, searched to the end: once all at once, once by phases."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator

from lastgood import errors
from lastgood.core import transitions as rollout

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
BUNDLES = (A, B, C)
CHECKED = tuple(dict(zip(BUNDLES, truth, strict=True)) for truth in itertools.product((True, False), repeat=3))


CHAIN = (
    rollout.PlannedPhase(kind="shadow", mirror_pct=100),
    rollout.PlannedPhase(kind="canary", weight_pct=5, mirror_pct=10),
    rollout.PlannedPhase(kind="canary", weight_pct=50),
    rollout.PlannedPhase(kind="approval"),
)


def events_by_phases() -> Iterator[rollout.Event]:
    """Two bundles, one of which passes every phase; what is verified is not the matter here."""
    verified = dict.fromkeys(BUNDLES, True)
    for bundle in (A, B):
        yield rollout.Propose(bundle=bundle, verified=True, chain=CHAIN)
        yield rollout.Propose(bundle=bundle, verified=True, chain=CHAIN, override="sure")
        yield rollout.Advance(bundle=bundle)
        yield rollout.Approve(bundle=bundle)
        yield rollout.Skip(bundle=bundle)
        yield rollout.CutOver(bundle=bundle, bake_s=1)
        yield rollout.Abandon(bundle=bundle, reason="slow")
        yield rollout.Reject(bundle=bundle, reason="gate", verify_s=9)
        yield rollout.Condemn(bundle=bundle, kind="quarantined", reason="bad", verified=verified, verify_s=9)
        yield rollout.RollBack(reason="bad", to=bundle, verified=verified)
    for automatic, unready in itertools.product((False, True), repeat=2):
        yield rollout.RollBack(reason="bad", verified=verified, automatic=automatic, unready=unready, verify_s=9)
    yield rollout.Verified(outcome="recovered", reason="fine")
    yield rollout.BakeEnded()
    yield rollout.SetHold(reason="freeze", actor="ann")
    yield rollout.SetHold(reason="asks", actor="lastgood", gate="errors")
    yield rollout.ReleaseHold()


def events() -> Iterator[rollout.Event]:
    """Every event of the small world that goes all at once."""
    for bundle in BUNDLES:
        for verified in (True, False):
            yield rollout.Propose(bundle=bundle, verified=verified)
        yield rollout.Propose(bundle=bundle, verified=True, override="sure")
        yield rollout.CutOver(bundle=bundle, bake_s=1)
        yield rollout.Abandon(bundle=bundle, reason="slow")
        yield rollout.Lift(bundle=bundle, reason="fine")
        for kind, down in itertools.product(("quarantined", "revoked"), (False, True)):
            yield rollout.Condemn(bundle=bundle, kind=kind, reason="bad", verified=CHECKED[0], take_down=down)  # type: ignore[arg-type]
    for seen, to, automatic, verified in itertools.product(
        (None, *BUNDLES), (None, *BUNDLES), (False, True), (CHECKED[0], CHECKED[3], CHECKED[5])
    ):
        yield rollout.RollBack(reason="bad", seen=seen, to=to, verified=verified, automatic=automatic)
    yield rollout.BakeEnded()
    yield rollout.SetHold(reason="freeze", actor="ann")
    yield rollout.ReleaseHold()


def check(before: rollout.State, event: rollout.Event, after: rollout.State) -> None:
    """The invariants of one transition."""
    assert after.stable not in after.marks, (before, event)
    assert after.candidate not in after.marks, (before, event)
    assert after.previous not in after.marks, (before, event)
    assert after.candidate is None or after.candidate != after.stable
    assert (after.candidate is not None) == (after.phase in ("preparing", "shadow", "canary", "approval"))
    check_shares(before, event, after)
    assert after.stable is None or after.lineage[0] == after.stable
    assert after.previous == rollout.target(after, without=frozenset({after.stable or ""}))
    assert after.hops <= rollout.MAX_HOPS
    assert after.revision == before.revision + 1
    revoked = {digest for digest, mark in before.marks.items() if mark.kind == "revoked"}
    assert all(after.marks[digest].kind == "revoked" for digest in revoked), "a revocation is for good"
    if isinstance(event, rollout.RollBack):
        assert after.candidate is None or (after.hold is not None and before.hold is None)
        assert after.stable is not None or before.stable is None
    if before.hold is not None and not isinstance(event, rollout.ReleaseHold):
        assert after.hold == before.hold
        assert after.candidate in (None, before.candidate), "nothing new is released on hold"
    if after.stable is None and before.stable is not None:
        assert isinstance(event, rollout.Condemn), "only a take-down stops the service"
        assert event.take_down
    lifted = set(before.marks) - set(after.marks)
    assert not lifted or isinstance(event, rollout.Lift | rollout.Propose)


def check_shares(before: rollout.State, event: rollout.Event, after: rollout.State) -> None:
    """The invariants of shares, phases and the time after a step back."""
    assert 0 <= after.weight_pct < 100
    if after.weight_pct or after.mirror_pct:
        assert after.candidate is not None
        assert after.stable is not None, "there is always something proven to fall back to"
    if after.weight_pct > before.weight_pct:
        assert isinstance(event, rollout.Advance), "only the next phase gives a candidate more traffic"
        assert before.hold is None
    if after.position is not None and after.position != before.position:
        assert after.position == (0 if before.position is None else before.position + 1), "no phase is passed over"
    if after.stable != before.stable and isinstance(event, rollout.CutOver):
        assert before.hold is None
        assert before.position in (None, len(before.chain) - 1), "the chain was passed, or skipped by a person"
        assert before.phase != "approval" or before.approved
    if isinstance(event, rollout.Reject):
        assert after.stable == before.stable
        assert after.marks[event.bundle].kind == "quarantined"
        assert (after.verifying is not None) == (before.weight_pct > 0 or before.verifying is not None)
    if isinstance(event, rollout.RollBack) and event.automatic and not event.unready and before.verifying:
        assert after.stable == before.stable, "no rollback of a rollback"
    assert len(after.automatic_at) <= rollout.BREAKER + 1
    if len(after.automatic_at) > rollout.BREAKER:
        assert after.hold is not None, "too many steps back in an hour: a person has to look"


FIELDS = [field.name for field in dataclasses.fields(rollout.State) if field.name not in ("revision", "marks")]


def key(state: rollout.State) -> object:
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


def search(world: tuple[rollout.Event, ...], *, breaker: bool) -> tuple[int, int]:
    """How many states and transitions there are, each checked; without *breaker* every step back is hours after the last."""
    start = rollout.State(service="flights")
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

"""The decision core, rule by rule."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lastgood import errors
from lastgood.core import guards, transitions
from lastgood.core import state as state_
from lastgood.core.events import Abandon, BakeEnded, Condemn, CutOver, Event, Marked, Paged, Propose, ReleaseHold, RollBack, SetHold
from lastgood.core.state import MarkKind, State, from_json

A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")


def after(*events: Event, start: State | None = None, now: float = 100.0) -> State:
    """The state after *events*, one after the other."""
    state = start or State(service="flights")
    for event in events:
        state, _ = transitions.step(state, event, now)
    return state


def released(*digests: str, start: State | None = None) -> State:
    """The state after each of *digests* was released in turn and proved itself."""
    state = start or State(service="flights")
    for digest in digests:
        state = after(Propose(bundle=digest, verified=True), CutOver(bundle=digest, bake_s=10), BakeEnded(), start=state)
    return state


def back(reason: str = "bad", **fields: object) -> RollBack:
    """A rollback with every bundle verified, unless *fields* say otherwise."""
    verified = dict.fromkeys((A, B, C, D), True)
    return RollBack(**{"reason": reason, "verified": verified, **fields})  # type: ignore[arg-type]


def test_a_release_passes_through_candidate_and_bake() -> None:
    """Propose, cut over and bake-ended move one bundle from nothing to proven stable, one revision each."""
    proposed = after(Propose(bundle=A, verified=True, ready_s=60))
    assert (proposed.candidate, proposed.stable, proposed.phase, proposed.phase_until) == (A, None, "preparing", 160.0)
    baking = after(CutOver(bundle=A, bake_s=30), start=proposed)
    assert (baking.candidate, baking.stable, baking.phase, baking.phase_until) == (None, A, "baking", 130.0)
    proven = after(BakeEnded(), start=baking)
    assert (proven.phase, proven.phase_until, proven.revision) == ("idle", None, 3)


def test_rollback_goes_to_the_newest_known_good() -> None:
    """After A, B, C a rollback lands on B, quarantines C, and previous becomes A."""
    state = after(back(), start=released(A, B, C))
    assert (state.stable, state.previous) == (B, A)
    assert state.marks[C].kind == "quarantined"


def test_rollback_never_reinstalls_a_rejected_bundle() -> None:
    """Rolling back C then B ends on A, and previous never names a quarantined bundle on the way."""
    once = after(back(), start=released(A, B, C))
    twice = after(back(), start=once)
    assert (twice.stable, twice.previous) == (A, None)
    assert set(twice.marks) == {B, C}


def test_rollback_skips_a_target_that_does_not_verify() -> None:
    """A damaged target is passed over for the next older good one."""
    state = after(back(verified={B: False, A: True}), start=released(A, B, C))
    assert state.stable == A


def test_rollback_without_a_target_says_so_and_changes_nothing() -> None:
    """With nothing to go back to the stable bundle keeps serving."""
    with pytest.raises(errors.NotAllowed, match="no other bundle that was stable"):
        after(back(), start=released(A))


def test_rollback_to_a_bundle_that_never_was_stable_is_refused() -> None:
    """Only what has served can be gone back to, however long ago that was."""
    with pytest.raises(errors.NotAllowed, match="never been stable"):
        after(back(to=D), start=released(A, B))
    assert after(back(to=D, proven=True), start=released(A, B)).stable == D


def test_rolling_back_the_first_release_calls_it_off() -> None:
    """Before anything serves, a rollback withdraws the candidate and blames nobody."""
    state = after(Propose(bundle=A, verified=True), back())
    assert (state.stable, state.candidate, state.phase, state.marks) == (None, None, "idle", {})


def test_rollback_of_nothing_is_nothing_to_do() -> None:
    """A service that never served has nothing to roll back."""
    with pytest.raises(errors.NothingToDo):
        after(back())


def test_rollback_cancels_a_release_in_flight() -> None:
    """A candidate that is still preparing is withdrawn, unblamed, when stable is rolled back."""
    state = after(Propose(bundle=C, verified=True), back(), start=released(A, B))
    assert (state.stable, state.candidate, state.phase) == (A, None, "idle")
    assert set(state.marks) == {B}


def test_rollback_to_stable_itself_only_calls_off_the_release() -> None:
    """Going back to what serves keeps it and quarantines the candidate."""
    state = after(Propose(bundle=C, verified=True), back(to=B), start=released(A, B))
    assert (state.stable, state.candidate) == (B, None)
    assert set(state.marks) == {C}


def test_rollback_beats_a_promotion_that_slipped_in() -> None:
    """Who saw B failing gets off B and off the C that was promoted meanwhile; only B is blamed."""
    state = after(back(seen=B), start=released(A, B, C))
    assert state.stable == A
    assert set(state.marks) == {B}


def test_rollback_keeps_the_slipped_in_release_when_nothing_else_is_left() -> None:
    """If only the newcomer is good, it stays and the bundle that was seen failing is quarantined."""
    state = after(back(seen=A), start=released(A, B))
    assert state.stable == B
    assert set(state.marks) == {A}


def test_a_second_rollback_of_the_same_bundle_is_nothing_to_do() -> None:
    """The same alert, twice, makes one revision."""
    state = after(back(seen=C), start=released(A, B, C))
    with pytest.raises(errors.NothingToDo, match="already rolled back"):
        after(back(seen=C), start=state)


def test_automation_may_blame_only_what_serves() -> None:
    """An automatic rollback decided on old measurements is refused when another bundle serves by now."""
    with pytest.raises(errors.Conflict):
        after(back(seen=B, automatic=True), start=released(A, B, C))


def test_automation_stops_after_three_steps_back() -> None:
    """The fourth automatic step is a hold and a page instead."""
    state = released(A, B, C, D)
    state = after(back(automatic=True), back(automatic=True), back(automatic=True), start=state)
    assert (state.stable, state.hops) == (A, 3)
    held, effects = transitions.step(state, back(automatic=True), 5.0)
    assert held.stable == A
    assert held.hold is not None
    assert any(isinstance(effect, Paged) for effect in effects)
    with pytest.raises(errors.NothingToDo):
        transitions.step(held, back(automatic=True), 6.0)


def test_an_automatic_rollback_pages_and_a_manual_one_does_not() -> None:
    """Nobody has to be told what they did themselves."""
    state = released(A, B)
    for automatic in (True, False):
        _, effects = transitions.step(state, back(automatic=automatic), 1.0)
        assert any(isinstance(effect, Paged) for effect in effects) is automatic


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_marked_bundle_is_refused_as_candidate_and_as_target(kind: MarkKind) -> None:
    """Neither a promotion nor an explicit rollback brings a marked bundle back."""
    state = after(Condemn(bundle=A, kind=kind, reason="cve"), start=released(A, B))
    for event in (Propose(bundle=A, verified=True), back(to=A)):
        with pytest.raises(errors.NotAllowed, match=kind):
            after(event, start=state)


def test_a_quarantine_can_be_overridden_with_a_reason_and_a_revocation_cannot() -> None:
    """--override-quarantine lifts and proposes in one revision; a revoked bundle stays out for good."""
    state = after(back(), start=released(A, B))
    proposed, effects = transitions.step(state, Propose(bundle=B, verified=True, override="was not it"), 1.0)
    assert proposed.candidate == B
    assert effects == (Marked(bundle=B, kind="lifted", reason="was not it"),)
    revoked = after(Condemn(bundle=B, kind="revoked", reason="cve"), start=state)
    with pytest.raises(errors.NotAllowed, match="permanent"):
        after(Propose(bundle=B, verified=True, override="please"), start=revoked)


def test_a_hold_stops_releases_but_not_rollbacks() -> None:
    """On hold, promote is refused and rollback passes."""
    state = after(SetHold(reason="freeze", actor="ann"), start=released(A, B))
    with pytest.raises(errors.NotAllowed, match="held by ann"):
        after(Propose(bundle=C, verified=True), start=state)
    assert after(back(), start=state).stable == A
    assert after(ReleaseHold(), start=state).hold is None


def test_condemning_what_serves_goes_back_in_the_same_revision() -> None:
    """Revoking stable moves to the target at once; with no target it is refused unless the service may go down."""
    state = after(Condemn(bundle=B, kind="revoked", reason="cve", verified={A: True}), start=released(A, B))
    assert (state.stable, state.marks[B].kind) == (A, "revoked")
    alone = released(A)
    with pytest.raises(errors.NotAllowed, match="--take-down"):
        after(Condemn(bundle=A, kind="revoked", reason="cve"), start=alone)
    down = after(Condemn(bundle=A, kind="revoked", reason="cve", take_down=True), start=alone)
    assert (down.stable, down.previous) == (None, None)


def test_an_unverified_bundle_and_a_second_release_are_refused() -> None:
    """A candidate must verify, and one release at a time."""
    with pytest.raises(errors.NotAllowed, match="does not verify"):
        after(Propose(bundle=A, verified=False))
    with pytest.raises(errors.NotAllowed, match="in progress"):
        after(Propose(bundle=A, verified=True), Propose(bundle=B, verified=True))


def test_an_abandoned_candidate_leaves_stable_alone() -> None:
    """A worker that never gets ready costs the candidate only."""
    state = after(Propose(bundle=B, verified=True), Abandon(bundle=B, reason="slow"), start=released(A))
    assert (state.stable, state.candidate, state.phase, state.marks) == (A, None, "idle", {})


def test_lineage_is_bounded_and_free_of_repeats() -> None:
    """Hundreds of releases keep the state small, and a bundle stands in the lineage once."""
    many = [f"sha256:{number:064x}" for number in range(40)]
    state = released(*many, A, many[-1])
    assert len(state.lineage) == guards.LINEAGE_LENGTH
    assert len(set(state.lineage)) == len(state.lineage)
    assert state.lineage[:2] == (many[-1], A)


def test_the_state_survives_json() -> None:
    """What a revision row keeps reads back as the same state."""
    state = after(SetHold(reason="freeze", actor="ann"), start=released(A, B))
    assert from_json(json.loads(json.dumps(state.to_json())), state.marks) == state


def test_a_state_of_another_schema_is_refused() -> None:
    """A revision written by an unknown release is an error with a remedy, never half read."""
    with pytest.raises(errors.Damaged, match="upgrade lastgood"):
        from_json({"schema": "lastgood.state/v9"}, {})
    with pytest.raises(errors.Damaged, match="audit verify"):
        from_json({"schema": state_.SCHEMA, "service": "flights"}, {})


def test_a_step_never_changes_its_input() -> None:
    """The state handed in is as it was."""
    state = released(A, B)
    before = dataclasses.replace(state)
    transitions.step(state, back(), 1.0)
    assert state == before

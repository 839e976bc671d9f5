"""Going forward, rule by rule: phases, approvals, holds, the cut-over and the bake."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import (
    Abandon,
    Advance,
    Approve,
    BakeEnded,
    Condemn,
    CutOver,
    Event,
    Lift,
    Marked,
    Paged,
    Propose,
    Reject,
    ReleaseHold,
    SetHold,
    Skip,
)
from lastgood.core.state import Hold, MarkKind, PlannedPhase, State, from_json
from tests.core.rollouts import (
    CHAIN,
    A,
    B,
    C,
    after,
    alarm,
    back,
    baking,
    canary,
    held,
    on_its_way,
    pages,
    refused,
    released,
    step,
    with_mark,
)

# --- proposing ---------------------------------------------------------------------------------------------


def test_a_proposal_prepares_the_candidate_and_touches_nothing_else() -> None:
    """The candidate gets its chain, its number and its time to become ready; stable and its lineage stay."""
    before = released(A)
    state, effects = step(before, Propose(bundle=B, verified=True, ready_s=60.0, chain=CHAIN), now=500.0)
    assert state == dataclasses.replace(
        before, revision=4, candidate=B, phase="preparing", phase_since=500.0, phase_until=560.0, rollout=4, chain=CHAIN
    )
    assert effects == ()


def test_the_first_release_has_no_chain() -> None:
    """With nothing to compare with and nothing to fall back to, the first bundle is cut over at once."""
    state = after(State(service="flights"), Propose(bundle=A, verified=True, chain=CHAIN))
    assert (state.chain, state.last_phase) == ((), True)
    assert after(state, CutOver(bundle=A, bake_s=1.0)).stable == A


def test_workers_have_a_minute_to_become_ready_unless_said_otherwise() -> None:
    """The default of `ready_s` is 60 seconds, for a proposal and for a skip."""
    assert after(released(A), Propose(bundle=B, verified=True), now=500.0).phase_until == 560.0
    assert after(canary(), Skip(bundle=B), now=500.0).phase_until == 560.0


def test_a_bundle_that_serves_already_is_not_released_again() -> None:
    """Proposing stable, or the candidate, is nothing to do."""
    refused(released(A), Propose(bundle=A, verified=True), errors.NothingToDo, f"'{'a' * 12}' is already stable")
    refused(canary(), Propose(bundle=B, verified=True), errors.NothingToDo, f"'{'b' * 12}' is already being released")


def test_one_release_at_a_time() -> None:
    """A second candidate is refused, with the way to call the first one off."""
    refused(canary(), Propose(bundle=C, verified=True), errors.NotAllowed, f"a release of '{'b' * 12}' is in progress; wait for it")


def test_a_bundle_that_does_not_verify_is_not_released() -> None:
    """Bytes that are not what they were never serve."""
    refused(released(A), Propose(bundle=B, verified=False), errors.NotAllowed, f"bundle '{'b' * 12}' does not verify")


def test_a_marked_bundle_is_not_released() -> None:
    """A quarantine names the way to lift it; a revocation has none."""
    propose = Propose(bundle=B, verified=True)
    refused(with_mark(released(A), B), propose, errors.NotAllowed, "is quarantined (cve); build a new bundle, or lift it with")
    state = with_mark(released(A), B, "revoked")
    with pytest.raises(errors.NotAllowed, match=r"is revoked \(cve\); build a new bundle$"):
        transitions.step(state, propose, 1.0)


def test_an_override_lifts_the_quarantine_of_its_own_bundle_only() -> None:
    """The lifted mark is told; another bundle's mark stays."""
    state = with_mark(with_mark(released(A), B), C)
    proposed, effects = step(state, Propose(bundle=B, verified=True, override="was not it"))
    assert set(proposed.marks) == {C}
    assert effects == (Marked(bundle=B, kind="lifted", reason="was not it"),)


def test_an_override_of_nothing_changes_nothing() -> None:
    """A bundle that is not marked is released as usual, though a reason was given."""
    event = Propose(bundle=B, verified=True, override="to be sure")
    assert step(released(A), event) == step(released(A), dataclasses.replace(event, override=None))


def test_a_new_proposal_ends_the_bake_of_the_last_one() -> None:
    """What bakes is stable already; its overruled gates and its number do not go over to the next release."""
    state = after(dataclasses.replace(baking(A, B), waived=("errors",)), Propose(bundle=C, verified=True, chain=CHAIN))
    assert (state.stable, state.candidate, state.phase, state.waived) == (B, C, "preparing", ())
    assert state.rollout == state.revision


# --- phases ------------------------------------------------------------------------------------------------


def test_phases_come_in_order_each_with_its_share_mirror_and_time() -> None:
    """Shadow, canary, canary, approval: none is passed over, and the approval keeps the share that the canary had."""
    state = on_its_way(0, now=100.0)
    seen = []
    for number in range(1, len(CHAIN) + 1):
        now = 100.0 + number
        state = after(state, Advance(bundle=B), now=now)
        seen.append((state.phase, state.position, state.weight_pct, state.mirror_pct, state.phase_since, state.phase_until))
        assert state.planned == CHAIN[number - 1]
    assert seen == [
        ("shadow", 0, 0.0, 100.0, 101.0, 1101.0),
        ("canary", 1, 5.0, 10.0, 102.0, 2102.0),
        ("canary", 2, 50.0, 0.0, 103.0, 3103.0),
        ("approval", 3, 50.0, 0.0, 104.0, 4104.0),
    ]


def test_a_phase_changes_nothing_but_the_phase() -> None:
    """Stable, the lineage, the number of the rollout and its chain stay as they were."""
    before = on_its_way(1)
    state, effects = step(before, Advance(bundle=B), now=200.0)
    assert state == dataclasses.replace(
        before,
        revision=before.revision + 1, phase="canary", position=1, phase_since=200.0, phase_until=2200.0, weight_pct=5.0, mirror_pct=10.0,
    )  # fmt: skip
    assert effects == ()


def test_a_shadow_after_nothing_has_no_share() -> None:
    """Only an approval keeps a share; a shadow that comes after a canary in an odd chain takes it away."""
    chain = (CHAIN[1], CHAIN[0], CHAIN[3])
    state = after(released(A), Propose(bundle=B, verified=True, chain=chain), *[Advance(bundle=B)] * 2)
    assert (state.phase, state.weight_pct, state.mirror_pct) == ("shadow", 0.0, 100.0)
    assert after(state, Advance(bundle=B)).weight_pct == 0.0


def test_after_the_last_phase_comes_only_the_cut_over() -> None:
    """There is no phase beyond the chain, nor in an empty one."""
    refused(on_its_way(4), Advance(bundle=B), errors.NotAllowed, f"no phase remains before the cut-over of '{'b' * 12}'")
    bare = after(released(A), Propose(bundle=B, verified=True))
    refused(bare, Advance(bundle=B), errors.NotAllowed, "no phase remains")


@pytest.mark.parametrize("phases", range(4))
def test_no_phase_is_passed_over(phases: int) -> None:
    """Before the last phase of its chain a candidate is not cut over."""
    refused(
        on_its_way(phases),
        CutOver(bundle=B, bake_s=1.0),
        errors.NotAllowed,
        f"'{'b' * 12}' still has phases to pass before its cut-over",
    )


@pytest.mark.parametrize(
    "event",
    [Advance(bundle=C), Approve(bundle=C), Skip(bundle=C), CutOver(bundle=C, bake_s=1.0)],
    ids=lambda event: type(event).__name__,
)
def test_whoever_decided_on_another_candidate_gets_a_conflict(event: Event) -> None:
    """A step goes to the bundle that it was decided for, or to none."""
    refused(on_its_way(4), event, errors.Conflict, f"bundle '{'c' * 12}' is no longer the candidate")


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_candidate_that_was_marked_meanwhile_goes_no_further(kind: MarkKind) -> None:
    """Neither the next phase nor the cut-over is open to a marked bundle."""
    refused(with_mark(canary(), B, kind), Advance(bundle=B), errors.NotAllowed, f"is {kind}")
    last = after(on_its_way(4), Approve(bundle=B))
    refused(with_mark(last, B, kind), CutOver(bundle=B, bake_s=1.0), errors.NotAllowed, f"is {kind}")


# --- holds -------------------------------------------------------------------------------------------------


def test_a_hold_stops_every_step_forward() -> None:
    """Propose, Advance, Skip and CutOver wait for a person, and say for whom and how."""
    says = "'flights' is held by ann (freeze); run 'lastgood release-hold flights' first"
    refused(held(released(A)), Propose(bundle=B, verified=True), errors.NotAllowed, says)
    refused(held(canary()), Advance(bundle=B), errors.NotAllowed, says)
    refused(held(canary()), Skip(bundle=B), errors.NotAllowed, says)
    approved = after(on_its_way(4), Approve(bundle=B))
    refused(held(approved), CutOver(bundle=B, bake_s=1.0), errors.NotAllowed, says)


def test_a_hold_stops_no_step_back() -> None:
    """Reject, RollBack, Abandon and the end of a bake pass, and the hold stays."""
    steps_back = (Reject(bundle=B, reason="bad"), back(), Abandon(bundle=B, reason="slow"))
    for event in steps_back:
        state = after(held(canary()), event)
        assert (state.candidate, state.stable) == (None, A)
        assert state.hold is not None
    assert after(held(baking(A, B)), back()).stable == A
    assert after(held(baking(A, B)), BakeEnded()).phase == "idle"


def test_an_approval_under_a_hold_counts_and_the_cut_over_still_waits() -> None:
    """Two persons may answer two questions in any order."""
    state = after(held(on_its_way(4)), Approve(bundle=B))
    assert state.approved
    refused(state, CutOver(bundle=B, bake_s=1.0), errors.NotAllowed, "is held by ann")
    assert after(state, ReleaseHold(), CutOver(bundle=B, bake_s=1.0)).stable == B


def test_a_hold_of_a_person_says_who_why_and_when_and_pages_nobody() -> None:
    """It names no gate and changes nothing else."""
    before = canary()
    state, effects = step(before, SetHold(reason="freeze", actor="ann"), now=700.0)
    hold = Hold(reason="freeze", actor="ann", since=700.0, gate=None)
    assert state == dataclasses.replace(before, revision=before.revision + 1, hold=hold)
    assert effects == ()


def test_a_hold_that_a_gate_asks_for_is_paged_under_the_gate() -> None:
    """A person has to decide, so one is told, without an alarm."""
    state, effects = step(canary(), SetHold(reason="conversion fell", actor="lastgood", gate="conversion"), now=700.0)
    assert state.hold == Hold(reason="conversion fell", actor="lastgood", since=700.0, gate="conversion")
    summary = "flights: held by gate 'conversion' until a person decides: conversion fell"
    assert effects == (Paged(summary=summary, key="hold-conversion", severity="warning", resolves=False),)


def test_a_second_hold_is_nothing_to_do() -> None:
    """The first one stands, with its reason."""
    refused(held(canary()), SetHold(reason="x", actor="bob"), errors.NothingToDo, "'flights' is already held by ann (freeze)")


def test_releasing_a_hold_that_is_not_there_is_nothing_to_do() -> None:
    """Whoever is late learns it."""
    refused(canary(), ReleaseHold(), errors.NothingToDo, "'flights' is not held; see 'lastgood status flights'")


def test_releasing_the_hold_of_a_gate_waives_that_gate_for_this_rollout() -> None:
    """A gate that was overruled once is not listed twice, and the next release does not know of it."""
    state, effects = step(held(canary(), gate="errors"), ReleaseHold())
    assert (state.hold, state.waived, effects) == (None, ("errors",), ())
    again = after(held(state, gate="errors"), ReleaseHold())
    assert again.waived == ("errors",)
    other = after(held(again, gate="split"), ReleaseHold())
    assert other.waived == ("errors", "split")
    assert after(other, Abandon(bundle=B, reason="x")).waived == ()


def test_releasing_the_hold_of_a_person_waives_no_gate() -> None:
    """Who lifts a freeze has said nothing about a gate."""
    assert after(held(canary()), ReleaseHold()).waived == ()


def test_releasing_a_hold_begins_the_count_of_automatic_steps_anew() -> None:
    """A person has looked, so the breaker and the hops start from nothing."""
    tired = dataclasses.replace(held(released(A, B)), hops=2, automatic_at=(90.0, 95.0))
    state = after(tired, ReleaseHold())
    assert (state.hops, state.automatic_at) == (0, ())


# --- approval and skip -------------------------------------------------------------------------------------


def test_an_approval_is_asked_for_by_a_page_without_alarm() -> None:
    """The page says whom it is about and what to run, and has the key of the rollout."""
    state, effects = step(on_its_way(3), Advance(bundle=B))
    summary = f"flights: {'b' * 12} waits for approval: 'lastgood approve flights', or 'lastgood rollback flights stable'"
    assert effects == (Paged(summary=summary, key=f"approval-{state.rollout}", severity="info", resolves=False),)


def test_an_approval_needs_a_person() -> None:
    """Until somebody approves, the candidate keeps its share and is not cut over."""
    waiting = on_its_way(4)
    refused(waiting, CutOver(bundle=B, bake_s=1.0), errors.NotAllowed, f"'{'b' * 12}' waits for approval; run 'lastgood approve")
    approved, effects = step(waiting, Approve(bundle=B))
    assert approved == dataclasses.replace(waiting, revision=waiting.revision + 1, approved=True)
    summary = f"flights: {'b' * 12} was approved"
    assert effects == (Paged(summary=summary, key=f"approval-{waiting.rollout}", severity="info", resolves=True),)
    assert after(approved, CutOver(bundle=B, bake_s=1.0)).stable == B


def test_an_approval_closes_the_page_that_asked_for_it() -> None:
    """Both pages have one key, and only the second one resolves."""
    asked = pages(step(on_its_way(3), Advance(bundle=B))[1])
    given = pages(step(on_its_way(4), Approve(bundle=B))[1])
    assert [page.key for page in asked] == [page.key for page in given]


def test_only_a_waiting_release_can_be_approved_and_only_once() -> None:
    """Both mistakes say what the release is doing."""
    refused(canary(), Approve(bundle=B), errors.NothingToDo, "is in phase 'canary' and does not wait for approval")
    approved = after(on_its_way(4), Approve(bundle=B))
    refused(approved, Approve(bundle=B), errors.NothingToDo, f"the release of '{'b' * 12}' is already approved")


def test_an_approval_is_for_one_release() -> None:
    """The next candidate has to be approved again."""
    approved = after(on_its_way(4), Approve(bundle=B))
    assert not after(approved, CutOver(bundle=B, bake_s=1.0)).approved
    assert not after(approved, Abandon(bundle=B, reason="x"), Propose(bundle=C, verified=True, chain=CHAIN)).approved


def test_a_skip_keeps_the_share_until_the_cut_over_and_is_paged() -> None:
    """Nobody who is on the candidate changes sides; workers get their time; a person is told."""
    before = canary()
    state, effects = step(before, Skip(bundle=B, ready_s=30.0), now=200.0)
    assert state == dataclasses.replace(
        before, revision=before.revision + 1, chain=(), position=None, phase="preparing", phase_since=200.0, phase_until=230.0
    )
    assert (state.weight_pct, state.mirror_pct, state.last_phase) == (5.0, 10.0, True)
    summary = f"flights: the analysis of {'b' * 12} was skipped by a person"
    assert effects == (Paged(summary=summary, key="skip", severity="warning", resolves=False),)
    assert after(state, CutOver(bundle=B, bake_s=1.0)).weight_pct == 0.0


def test_a_skip_passes_over_the_approval_too() -> None:
    """It is the emergency exit: from any phase of the chain the cut-over is next."""
    for phases in range(5):
        assert after(on_its_way(phases), Skip(bundle=B), CutOver(bundle=B, bake_s=1.0)).stable == B


def test_there_is_nothing_to_skip_without_a_chain() -> None:
    """A release all at once, or one that was skipped already, has no phase left."""
    for state in (after(released(A), Propose(bundle=B, verified=True)), after(canary(), Skip(bundle=B))):
        refused(state, Skip(bundle=B), errors.NothingToDo, f"the release of '{'b' * 12}' has no phase to skip")


# --- the cut-over and after --------------------------------------------------------------------------------


def test_the_cut_over_gives_the_candidate_everything_and_begins_the_bake() -> None:
    """It is stable and first in the lineage; its number and overruled gates stay for the bake; the hops begin anew."""
    before = dataclasses.replace(after(on_its_way(4), Approve(bundle=B)), waived=("split",), hops=2, automatic_at=(90.0,))
    state, effects = step(before, CutOver(bundle=B, bake_s=30.0), now=500.0)
    assert state == State(
        service="flights", revision=before.revision + 1, stable=B, previous=A, phase="baking", phase_since=500.0, phase_until=530.0,
        rollout=before.rollout, waived=("split",), lineage=(B, A), hops=0, automatic_at=(90.0,),
    )  # fmt: skip
    assert effects == ()


def test_a_cut_over_ends_the_measurement_after_an_earlier_step_back() -> None:
    """Whether going back to A helped is no question about the bundle that has replaced A since."""
    rejected = after(canary(), Reject(bundle=B, reason="bad", verify_s=300.0))
    state = after(rejected, Propose(bundle=C, verified=True), CutOver(bundle=C, bake_s=600.0))
    assert state.verifying is None
    assert after(state, alarm()).stable == A


def test_a_bake_that_ended_leaves_a_plain_stable() -> None:
    """Nothing of the rollout is left, and previous is the one before."""
    state, effects = step(dataclasses.replace(baking(A, B), waived=("split",)), BakeEnded())
    assert state == State(service="flights", revision=state.revision, stable=B, previous=A, lineage=(B, A))
    assert effects == ()


@pytest.mark.parametrize("phases", [0, 2, 4])
def test_only_a_bake_can_end(phases: int) -> None:
    """A timer that comes late changes nothing."""
    refused(released(A), BakeEnded(), errors.NothingToDo, "'flights' is not baking; see 'lastgood status flights'")
    refused(on_its_way(phases), BakeEnded(), errors.NothingToDo, "is not baking")


def test_a_release_that_was_given_up_blames_nobody_and_is_told() -> None:
    """Stable has all traffic, the bundle has no mark, nothing is measured, and the page has the key of the rollout."""
    before = canary()
    state, effects = step(before, Abandon(bundle=B, reason="could not be judged"))
    assert state == dataclasses.replace(released(A), revision=before.revision + 1)
    summary = f"flights: the release of {'b' * 12} was given up: could not be judged"
    assert effects == (Paged(summary=summary, key=f"rollout-{before.rollout}", severity="warning", resolves=False),)


def test_only_the_candidate_can_be_given_up() -> None:
    """Stable, or a bundle that is gone, cannot."""
    for state, bundle in ((canary(), A), (released(A, B), B), (canary(), C)):
        refused(state, Abandon(bundle=bundle, reason="x"), errors.NothingToDo, "is not the candidate")


# --- marks -------------------------------------------------------------------------------------------------


def test_a_quarantine_can_be_lifted_with_a_reason() -> None:
    """Only that mark goes, and the bundle counts as a target again."""
    state = with_mark(with_mark(released(A, B, C), A), B)
    lifted, effects = step(state, Lift(bundle=B, reason="a false alarm"))
    assert (set(lifted.marks), lifted.previous) == ({A}, B)
    assert effects == (Marked(bundle=B, kind="lifted", reason="a false alarm"),)


def test_a_lift_needs_a_quarantine() -> None:
    """What is not marked has nothing to lift, and a revocation is for good."""
    refused(released(A), Lift(bundle=A, reason="x"), errors.NothingToDo, f"bundle '{'a' * 12}' is not quarantined")
    revoked = with_mark(released(A), B, "revoked")
    refused(revoked, Lift(bundle=B, reason="x"), errors.NotAllowed, f"'{'b' * 12}' is revoked (cve), which is permanent")


def test_previous_is_always_what_a_rollback_would_reach() -> None:
    """After every change it is the newest good bundle but stable, whatever was stable last."""
    assert released(A, B, C).previous == B
    assert after(released(A, B, C), Condemn(bundle=B, kind="quarantined", reason="cve")).previous == A
    assert after(released(A), SetHold(reason="x", actor="ann")).previous is None
    assert baking(A, B).previous == A


# --- any chain ---------------------------------------------------------------------------------------------


@st.composite
def chains(draw: st.DrawFn) -> tuple[PlannedPhase, ...]:
    """Chains that a service may name: shadows, canaries that grow, perhaps an approval."""
    percent = st.floats(min_value=0.1, max_value=99.0)
    shadows = [PlannedPhase(kind="shadow", mirror_pct=draw(percent)) for _ in range(draw(st.integers(0, 2)))]
    weights = sorted(draw(st.lists(percent, max_size=4, unique=True)))
    canaries = [
        PlannedPhase(kind="canary", weight_pct=weight, mirror_pct=draw(st.sampled_from([0.0, 50.0])), max_s=draw(percent))
        for weight in weights
    ]
    approval = [PlannedPhase(kind="approval")] if draw(st.booleans()) else []
    return (*shadows, *canaries, *approval)


@hypothesis.given(chain=chains(), skip_after=st.none() | st.integers(0, 6))
def test_any_chain_is_passed_phase_by_phase(chain: tuple[PlannedPhase, ...], skip_after: int | None) -> None:
    """Whatever the chain: its phases in order, shares that never fall before the cut-over, all or nothing at the end."""
    state = after(released(A), Propose(bundle=B, verified=True, chain=chain))
    kinds, share = [], 0.0
    while not state.last_phase:
        if skip_after == len(kinds):
            state = after(state, Skip(bundle=B))
            assert state.weight_pct == share
            break
        state = after(state, Advance(bundle=B))
        kinds.append(state.phase)
        assert state.weight_pct >= share
        assert state.stable == A
        share = state.weight_pct
    assert kinds == [phase.kind for phase in chain][: len(kinds)]
    if state.phase == "approval":
        state = after(state, Approve(bundle=B))
    done = after(state, CutOver(bundle=B, bake_s=1.0))
    assert (done.stable, done.candidate, done.weight_pct, done.mirror_pct, done.chain) == (B, None, 0.0, 0.0, ())


# --- the control arm ---------------------------------------------------------------------------------------

CONTROLLED = Propose(bundle=B, verified=True, chain=CHAIN, control=True)


@pytest.mark.parametrize(("weight_pct", "control_pct"), [(0.5, 0.5), (5.0, 5.0), (33.0, 33.0), (50.0, 25.0), (75.0, 12.5)])
def test_the_control_arm_is_as_large_as_the_candidate_as_far_as_there_is_room(weight_pct: float, control_pct: float) -> None:
    """Stable's own workers always keep as much as the control arm has, for all users may come back at once."""
    chain = (PlannedPhase(kind="canary", weight_pct=weight_pct),)
    state = after(released(A), dataclasses.replace(CONTROLLED, chain=chain), Advance(bundle=B))
    assert (state.control_pct, state.weight_pct) == (control_pct, weight_pct)
    assert 100 - state.weight_pct - state.control_pct >= state.control_pct


def test_without_being_asked_for_there_is_no_control_arm() -> None:
    """Nothing is awaited but the candidate, and the rest of the requests is stable's."""
    assert (canary().control, canary().control_pct, on_its_way(0).awaited) == (False, 0.0, (B,))
    assert released(A).awaited == ()


def test_the_control_arm_is_awaited_from_the_proposal_on_and_has_users_with_the_canary() -> None:
    """In shadow its worker grows as old as the candidate's, and answers nobody."""
    proposed = after(released(A), CONTROLLED)
    assert (proposed.control, proposed.awaited, proposed.control_pct) == (True, (B, f"{A}+control"), 0.0)
    shadow = after(proposed, Advance(bundle=B))
    assert (shadow.phase, shadow.control_pct) == ("shadow", 0.0)
    assert after(shadow, Advance(bundle=B)).control_pct == 5.0


@pytest.mark.parametrize("start", [released(), released(A)], ids=["no stable", "no canary"])
def test_a_control_arm_needs_stable_and_a_canary(start: State) -> None:
    """With nothing to compare there is none, whatever was asked for."""
    chain = CHAIN if start.stable is None else CHAIN[:1]
    state = after(start, dataclasses.replace(CONTROLLED, chain=chain))
    assert (state.control, state.awaited) == (False, (B,))


def test_a_skip_does_not_wait_for_the_control_arm() -> None:
    """Whoever is in a hurry compares nothing; its users stay with it until the cut-over."""
    state = after(released(A), CONTROLLED, Advance(bundle=B), Advance(bundle=B), Skip(bundle=B, ready_s=5.0))
    assert (state.awaited, state.control_pct) == ((B,), 5.0)


@pytest.mark.parametrize(
    "event",
    [Reject(bundle=B, reason="bad"), back(), Abandon(bundle=B, reason="slow")],
    ids=lambda event: type(event).__name__,
)
def test_no_control_arm_outlives_its_release(event: Event) -> None:
    """However it ends, stable's own workers answer everybody again."""
    state = after(released(A), CONTROLLED, Advance(bundle=B), Advance(bundle=B), event)
    assert (state.control, state.control_pct, state.awaited) == (False, 0.0, ())


def test_a_control_arm_comes_back_from_the_ledger() -> None:
    """It is part of the state that a revision keeps; a revision from before there were any has none."""
    state = after(released(A), CONTROLLED)
    kept = state.to_json()
    assert from_json(kept, {}) == state
    assert from_json({key: value for key, value in kept.items() if key != "control"}, {}).control is False


# --- skipping at the proposal ------------------------------------------------------------------------------


def test_a_proposal_that_passes_over_its_phases_is_paged() -> None:
    """As a skip on the way is; the first release has nothing to skip."""
    skips = Propose(bundle=B, verified=True, skipped=True)
    _, effects = step(released(A), skips)
    (page,) = pages(effects)
    assert (page.key, page.severity) == ("skip", "warning")
    assert page.summary == f"flights: the analysis of {'b' * 12} was skipped by a person"
    assert pages(step(released(), skips)[1]) == []
    assert pages(step(released(A), dataclasses.replace(skips, skipped=False))[1]) == []

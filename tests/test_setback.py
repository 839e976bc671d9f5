"""Going back, rule by rule: rejections, rollbacks, condemned bundles, the breaker, and the time after a step back."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors, rollout
from tests.rollouts import (
    A,
    B,
    C,
    D,
    E,
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

NOW = 10_000.0
MINUTE = 60.0


def verifying(state: rollout.State, *, left: str = C) -> rollout.State:
    """*state* while it is being measured whether leaving *left* helped."""
    return dataclasses.replace(state, verifying=rollout.Verifying(since=90.0, until=390.0, left=left, rollout=7))


def tired(state: rollout.State, *minutes_ago: float) -> rollout.State:
    """*state* after automatic steps back so many minutes before NOW."""
    return dataclasses.replace(state, automatic_at=tuple(NOW - MINUTE * minutes for minutes in minutes_ago))


# --- a candidate is rejected -------------------------------------------------------------------------------


def test_a_rejected_candidate_is_quarantined_and_stable_keeps_serving() -> None:
    """One revision: mark, all traffic to stable, the time of measuring begins, the step is counted and paged."""
    before = canary()
    state, effects = step(before, rollout.Reject(bundle=B, reason="errors tripled", verify_s=300.0), now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        marks={B: rollout.Mark(kind="quarantined", reason="errors tripled")},
        verifying=rollout.Verifying(since=500.0, until=800.0, left=B, rollout=before.rollout),
        automatic_at=(500.0,),
    )
    summary = f"flights: candidate {'b' * 12} was taken out and quarantined; {'a' * 12} has all traffic: errors tripled"
    assert effects == (
        rollout.Marked(bundle=B, kind="quarantined", reason="errors tripled"),
        rollout.Paged(summary=summary, key=f"rollout-{before.rollout}", severity="critical", resolves=False),
    )


def test_nothing_is_verified_if_no_user_was_touched() -> None:
    """A shadow answers copies only, so there is nothing to recover from; it is quarantined all the same."""
    state = after(on_its_way(1), rollout.Reject(bundle=B, reason="bad", verify_s=300.0))
    assert state.verifying is None
    assert state.marks[B].kind == "quarantined"


def test_a_rejected_shadow_leaves_an_earlier_measurement_alone() -> None:
    """Stable is still the bundle that is being measured after an earlier step back."""
    before = on_its_way(1, start=verifying(released(A)))
    assert after(before, rollout.Reject(bundle=B, reason="bad", verify_s=300.0)).verifying == before.verifying


def test_a_rejected_canary_begins_the_measurement_anew() -> None:
    """The newest step back is the one to measure; without seconds for it, the earlier one goes on."""
    before = canary(start=verifying(released(A)))
    measured = after(before, rollout.Reject(bundle=B, reason="bad", verify_s=5.0), now=500.0)
    assert measured.verifying == rollout.Verifying(since=500.0, until=505.0, left=B, rollout=before.rollout)
    assert after(before, rollout.Reject(bundle=B, reason="bad", verify_s=0.0)).verifying == before.verifying


def test_a_service_without_stable_has_nothing_to_measure() -> None:
    """Rejecting the first bundle leaves nothing that serves, which the page says."""
    first = dataclasses.replace(after(rollout.State(service="flights"), rollout.Propose(bundle=A, verified=True)), weight_pct=5.0)
    state, effects = step(first, rollout.Reject(bundle=A, reason="bad", verify_s=300.0))
    assert (state.stable, state.verifying) == (None, None)
    assert pages(effects)[0].summary == f"flights: candidate {'a' * 12} was taken out and quarantined; nothing serves: bad"


def test_only_the_candidate_can_be_rejected() -> None:
    """A verdict on a bundle that is no longer on its way blames nobody."""
    refused(canary(), rollout.Reject(bundle=C, reason="bad"), errors.Conflict, f"bundle '{'c' * 12}' is no longer the candidate")
    refused(released(A), rollout.Reject(bundle=A, reason="bad"), errors.Conflict, "is no longer the candidate")


def test_a_rejection_counts_no_hop() -> None:
    """Stable did not move, so the way back is as long as before."""
    assert after(dataclasses.replace(canary(), hops=1), rollout.Reject(bundle=B, reason="bad")).hops == 1


# --- the breaker -------------------------------------------------------------------------------------------


def test_three_rejections_within_an_hour_are_fine_and_the_fourth_holds() -> None:
    """The fourth is still taken out; then a person has to look, and is told under a key of its own."""
    state, effects = released(A), ()
    for number, bundle in enumerate((B, C, D, E)):
        assert state.hold is None
        now = NOW + 10 * MINUTE * number
        state, effects = step(canary(start=state, bundle=bundle, now=now), rollout.Reject(bundle=bundle, reason="bad"), now=now)
    assert state.candidate is None
    assert set(state.marks) == {B, C, D, E}
    reason = "4 automatic rollbacks within an hour"
    assert state.hold == rollout.Hold(reason=reason, actor="lastgood", since=NOW + 30 * MINUTE, gate=None)
    summary = f"flights: {reason}; the service is held, a person has to look"
    assert pages(effects)[1:] == [rollout.Paged(summary=summary, key="breaker", severity="critical", resolves=False)]


@pytest.mark.parametrize(("oldest_min", "holds"), [(59.99, True), (60.0, False), (60.01, False), (-59.99, True), (-60.0, False)])
def test_only_steps_of_the_last_hour_count(oldest_min: float, holds: bool) -> None:
    """A step an hour old is forgotten; one that a clock put into the future counts by the same distance."""
    state = after(tired(canary(), oldest_min, 2, 1), rollout.Reject(bundle=B, reason="bad"), now=NOW)
    assert (state.hold is not None) is holds
    assert len(state.automatic_at) == (4 if holds else 3)
    assert state.automatic_at[-1] == NOW


@pytest.mark.parametrize("jump_min", [-5, 5])
def test_a_clock_that_jumps_five_minutes_loses_no_step(jump_min: float) -> None:
    """Set back or forth, the fourth step within the hour still holds."""
    state = released(A)
    for number, bundle in enumerate((B, C, D, E)):
        now = NOW + (jump_min * MINUTE if number % 2 else 0.0) + number
        state = after(canary(start=state, bundle=bundle, now=now), rollout.Reject(bundle=bundle, reason="bad"), now=now)
        assert (state.hold is not None) is (number == 3)


def test_a_step_back_of_a_held_service_is_counted_and_holds_nothing_anew() -> None:
    """The hold that is there stays with its reason, no second page is made, and only the newest four are kept."""
    state, effects = step(tired(held(canary()), 4, 3, 2, 1), rollout.Reject(bundle=B, reason="bad"), now=NOW)
    assert state.hold is not None
    assert state.hold.reason == "freeze"
    assert state.automatic_at == (NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW - MINUTE, NOW)
    assert len(pages(effects)) == 1


def test_an_automatic_rollback_stops_at_the_fourth_within_an_hour() -> None:
    """Promotions in between do not help: what serves keeps serving, the service is held and paged."""
    before = tired(released(A, B), 30, 20, 10)
    state, effects = step(before, alarm(), now=NOW)
    reason = "3 automatic rollbacks within an hour did not help"
    hold = rollout.Hold(reason=reason, actor="lastgood", since=NOW)
    assert state == dataclasses.replace(before, revision=before.revision + 1, hold=hold)
    assert effects == (rollout.Paged(summary=f"flights: {reason}; the service is held, a person has to look", key="breaker"),)
    assert after(tired(released(A, B), 60, 20, 10), alarm(), now=NOW).stable == A


def test_an_automatic_rollback_stops_after_three_in_a_row() -> None:
    """However long ago the steps were: three without a promotion in between did not help."""
    before = dataclasses.replace(released(A, B), hops=3)
    state, effects = step(before, alarm(), now=NOW)
    assert (state.stable, state.hops) == (B, 3)
    assert pages(effects)[0].summary.startswith("flights: 3 automatic rollbacks in a row did not help; ")
    assert after(dataclasses.replace(released(A, B), hops=2), alarm(), now=NOW).stable == A


def test_the_stop_counts_what_made_it_stop() -> None:
    """Hops if they are the reason, else the steps of the last hour."""
    both = tired(dataclasses.replace(released(A, B), hops=3), 9, 7, 5, 3, 61)
    assert "3 automatic rollbacks in a row" in pages(step(both, alarm(), now=NOW)[1])[0].summary
    hour = tired(released(A, B), 9, 7, 5, 3, 61)
    assert "4 automatic rollbacks within an hour" in pages(step(hour, alarm(), now=NOW)[1])[0].summary


def test_a_stopped_automation_stays_stopped_without_another_page() -> None:
    """On a held service the same alarm is nothing to do."""
    state = held(dataclasses.replace(released(A, B), hops=3))
    refused(state, alarm(), errors.NothingToDo, "'flights' is held already (freeze); a person has to look", now=NOW)


def test_a_person_may_go_back_however_often_automation_has() -> None:
    """The breaker is for automation; a manual step resets the hops and is not counted."""
    before = tired(dataclasses.replace(released(A, B), hops=3), 3, 2, 1)
    state = after(before, back(), now=NOW)
    assert (state.stable, state.hops, state.automatic_at, state.hold) == (A, 0, before.automatic_at, None)


@hypothesis.given(minutes=st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_never_more_than_four_automatic_steps_within_an_hour(minutes: list[int]) -> None:
    """At any rhythm of failing candidates, a person is asked after the fourth step that lies within one hour."""
    state, now, times = released(A), NOW, []
    for number, gap in enumerate(minutes):
        now += gap * MINUTE
        bundle = f"sha256:{number:064x}"
        state = after(canary(start=state, bundle=bundle, now=now), rollout.Reject(bundle=bundle, reason="bad"), now=now)
        times.append(now)
        recent = [at for at in times if now - at < 60 * MINUTE]
        assert (state.hold is not None) is (len(recent) > 3)
        if state.hold is not None:
            state, times = after(state, rollout.ReleaseHold()), []


# --- rolling back ------------------------------------------------------------------------------------------


def test_an_automatic_rollback_is_one_revision_with_a_mark_a_measurement_and_a_page() -> None:
    """Stable is the target, the bad bundle is quarantined, the hop is counted, a person is told."""
    before = baking(A, B, C)
    state, effects = step(before, alarm("slow", verify_s=300.0), now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        stable=B, previous=A, lineage=(B, C, A),
        marks={C: rollout.Mark(kind="quarantined", reason="slow")},
        verifying=rollout.Verifying(since=500.0, until=800.0, left=C, rollout=before.rollout),
        hops=1, automatic_at=(500.0,),
    )  # fmt: skip
    assert effects[0] == rollout.Marked(bundle=C, kind="quarantined", reason="slow")
    (page,) = pages(effects)
    assert page.summary == f"flights: rolled back from {'c' * 12} to {'b' * 12}: slow"
    assert (page.severity, page.resolves) == ("critical", False)


def test_a_manual_rollback_is_the_same_without_a_page_and_without_being_counted() -> None:
    """Nobody has to be told what they did themselves."""
    before = dataclasses.replace(baking(A, B, C), hops=2)
    by_hand, effects = step(before, back("slow", verify_s=300.0), now=500.0)
    automatic = after(before, alarm("slow", verify_s=300.0), now=500.0)
    assert by_hand == dataclasses.replace(automatic, hops=0, automatic_at=())
    assert effects == (rollout.Marked(bundle=C, kind="quarantined", reason="slow"),)


def test_automation_may_blame_only_what_serves() -> None:
    """If stable moved on since, or nothing serves, the verdict is of no use any more."""
    refused(released(A, B, C), alarm(seen=B), errors.Conflict, f"'{'b' * 12}' no longer serves, so it cannot be blamed; measure what")
    refused(rollout.State(service="flights"), alarm(), errors.Conflict, "'nothing' no longer serves")
    refused(rollout.State(service="flights"), alarm(seen=B), errors.Conflict, f"'{'b' * 12}' no longer serves")
    assert after(released(A, B, C), alarm(seen=C)).stable == B


def test_automation_takes_no_second_step_while_the_first_is_being_measured() -> None:
    """No rollback of a rollback, unless its target did not get ready; a person may at any time."""
    state = verifying(released(A, B))
    refused(state, alarm(), errors.NothingToDo, "'flights' was rolled back just now and is being measured")
    further = after(state, alarm(unready=True, verify_s=60.0), now=500.0)
    assert (further.stable, further.hops) == (A, 1)
    assert further.verifying == rollout.Verifying(since=500.0, until=560.0, left=B, rollout=None)
    assert after(state, back()).stable == A


def test_a_step_to_another_bundle_without_measuring_ends_the_earlier_measurement() -> None:
    """What was measured was about a bundle that no longer serves."""
    assert after(verifying(released(A, B)), back(verify_s=0.0)).verifying is None
    assert after(verifying(released(A, B)), alarm(unready=True)).verifying is None


def test_a_rollback_during_a_canary_takes_out_the_candidate_only() -> None:
    """The latest change is what somebody who is woken up wants gone: stable stays, and it is measured whether that helped."""
    before = canary(start=released(A, B), bundle=C)
    state, effects = step(before, back("bad", verify_s=300.0), now=500.0)
    assert state == dataclasses.replace(
        released(A, B),
        revision=before.revision + 1,
        marks={C: rollout.Mark(kind="quarantined", reason="bad")},
        verifying=rollout.Verifying(since=500.0, until=800.0, left=C, rollout=before.rollout),
    )
    assert effects == (rollout.Marked(bundle=C, kind="quarantined", reason="bad"),)


def test_a_second_rollback_then_goes_back_from_stable() -> None:
    """Two steps: first the candidate, then the bundle that was stable all along."""
    state = after(canary(start=released(A, B), bundle=C), back(), back())
    assert (state.stable, set(state.marks)) == (A, {B, C})


def test_a_rollback_during_a_shadow_goes_back_from_stable() -> None:
    """A candidate that answers nobody cannot be what users suffer from: it is withdrawn, and not blamed."""
    state = after(on_its_way(1, start=released(A, B), bundle=C), back(verify_s=300.0))
    assert (state.stable, state.candidate, set(state.marks)) == (A, None, {B})
    assert state.verifying is not None


def test_a_rollback_of_what_was_seen_before_the_canary_blames_what_was_seen() -> None:
    """Who saw A failing, while B is stable and C a canary, gets off A's successor only if something older is good."""
    before = canary(start=released(D, A, B), bundle=C)
    state = after(before, back(seen=A))
    assert (state.stable, state.candidate, set(state.marks)) == (D, None, {A})


def test_automation_that_blames_stable_goes_back_though_a_canary_runs() -> None:
    """It has measured stable, so taking out the candidate would miss the point."""
    state = after(canary(start=released(A, B), bundle=C), alarm())
    assert (state.stable, state.candidate, set(state.marks)) == (A, None, {B})


def test_calling_off_a_candidate_that_touched_nobody_measures_nothing() -> None:
    """Stable did not move and no user was on the candidate."""
    state = after(on_its_way(1, start=released(A, B), bundle=C), back(to=B, verify_s=300.0))
    assert (state.stable, state.verifying, set(state.marks)) == (B, None, {C})
    touched = after(canary(start=released(A, B), bundle=C), back(to=B, verify_s=300.0))
    assert touched.verifying is not None
    assert touched.verifying.left == C


def test_calling_off_the_first_release_marks_nobody() -> None:
    """With nothing else there is no rollback target, and nothing to measure."""
    first = after(rollout.State(service="flights"), rollout.Propose(bundle=A, verified=True))
    state, effects = step(first, back(verify_s=300.0))
    assert state == rollout.State(service="flights", revision=2)
    assert effects == ()


def test_a_service_that_serves_nothing_has_nothing_to_roll_back() -> None:
    """The message names the way to serve something."""
    refused(rollout.State(service="flights"), back(), errors.NothingToDo, "'flights' serves nothing; promote a bundle with")


@pytest.mark.parametrize("seen", [C, D])
def test_what_was_seen_failing_and_is_gone_already_is_nothing_to_do(seen: str) -> None:
    """Whether it was quarantined since, or never was stable at all."""
    refused(with_mark(released(A, C, B), C), back(seen=seen), errors.NothingToDo, "was rolled back already; see 'lastgood history flights'")


def test_the_release_that_slipped_in_is_passed_over_for_something_older() -> None:
    """C was promoted meanwhile and nobody judged it: it is withdrawn without blame, and B, which was seen failing, is quarantined."""
    state = after(released(A, B, C), back(seen=B))
    assert (state.stable, set(state.marks), state.lineage) == (A, {B}, (A, C, B))


def test_the_release_that_slipped_in_stays_if_nothing_else_is_good() -> None:
    """Better the newcomer than the bundle that was seen failing; also if the older one does not verify."""
    assert after(released(A, B), back(seen=A)).stable == B
    assert after(released(D, A, B), back(seen=A, verified={D: False, A: True})).stable == B


def test_a_rollback_without_a_target_keeps_what_serves() -> None:
    """Nothing verified is left: the error says so, and what to do."""
    refused(released(A, B), back(verified={}), errors.NotAllowed, "'flights' has no other bundle that was stable, verifies and is not")
    down = after(released(A, B), rollout.Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    assert down.stable is None
    refused(down, back(seen=A), errors.NotAllowed, f"'{'a' * 12}' keeps serving; promote a good bundle with 'lastgood promote flights")


def test_a_service_that_was_taken_down_comes_back_by_naming_a_bundle() -> None:
    """Nothing serves, so nothing is left behind and nothing is quarantined."""
    down = after(released(A, B), rollout.Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    state, effects = step(down, back(to=A, verify_s=60.0), now=500.0)
    assert (state.stable, set(state.marks), effects) == (A, {B}, ())
    assert state.verifying == rollout.Verifying(since=500.0, until=560.0, left=None, rollout=None)


# --- a named target ----------------------------------------------------------------------------------------


def test_a_named_target_is_gone_to_whatever_lies_between() -> None:
    """Only the bundle that was left is quarantined."""
    state = after(released(A, B, C), back(to=A))
    assert (state.stable, set(state.marks), state.lineage) == (A, {C}, (A, C, B))


def test_a_named_target_leaves_stable_though_a_canary_runs() -> None:
    """Who names an older bundle wants stable gone; the candidate is withdrawn, unblamed."""
    state = after(canary(start=released(A, B), bundle=C), back(to=A))
    assert (state.stable, state.candidate, set(state.marks)) == (A, None, {B})


def test_a_named_target_has_to_have_been_stable() -> None:
    """In the lineage, or longer ago by the word of the ledger."""
    says = f"bundle '{'d' * 12}' has never been stable, so nobody can go back to it; release it with 'lastgood promote flights {'d' * 12}'"
    refused(released(A, B), back(to=D), errors.NotAllowed, says)
    assert after(released(A, B), back(to=D, proven=True)).stable == D


def test_a_named_target_has_to_verify() -> None:
    """Known to be damaged, or not checked at all: both are refused."""
    for verified in ({A: False}, {}):
        refused(released(A, B), back(to=A, verified=verified), errors.NotAllowed, f"bundle '{'a' * 12}' does not verify; leave out the")


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_named_target_has_to_be_unmarked(kind: rollout.MarkKind) -> None:
    """A mark keeps a bundle out on this way too."""
    refused(with_mark(released(A, B), A, kind), back(to=A), errors.NotAllowed, f"bundle '{'a' * 12}' is {kind} (cve)")


def test_going_back_to_stable_itself_needs_a_candidate() -> None:
    """With nothing in flight the service is as asked."""
    refused(released(A, B), back(to=B), errors.NothingToDo, f"bundle '{'b' * 12}' is stable already; see 'lastgood status flights'")


# --- condemned bundles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_bundle_that_does_not_serve_is_only_marked(kind: rollout.MarkKind) -> None:
    """What is on its way, what is being measured and what serves stay as they are."""
    before = canary(start=verifying(released(A, B)), bundle=C)
    state, effects = step(before, rollout.Condemn(bundle=A, kind=kind, reason="cve", verify_s=300.0))
    mark = rollout.Mark(kind=kind, reason="cve")
    assert state == dataclasses.replace(before, revision=before.revision + 1, previous=None, marks={A: mark})
    assert effects == (rollout.Marked(bundle=A, kind=kind, reason="cve"),)


def test_a_condemned_candidate_is_withdrawn() -> None:
    """Stable has all traffic again."""
    before = canary()
    state, effects = step(before, rollout.Condemn(bundle=B, kind="revoked", reason="cve", verify_s=300.0))
    assert state == dataclasses.replace(released(A), revision=before.revision + 1, marks={B: rollout.Mark(kind="revoked", reason="cve")})
    assert effects == (rollout.Marked(bundle=B, kind="revoked", reason="cve"),)


def test_a_condemned_stable_is_left_in_the_same_revision() -> None:
    """The service goes back, any rollout is cancelled, and it is measured whether that helped."""
    before = canary(start=released(A, B), bundle=C)
    event = rollout.Condemn(bundle=B, kind="revoked", reason="cve", verified={A: True}, verify_s=300.0)
    state, effects = step(before, event, now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        lineage=(A, B),
        marks={B: rollout.Mark(kind="revoked", reason="cve")},
        verifying=rollout.Verifying(since=500.0, until=800.0, left=B, rollout=before.rollout),
    )
    assert effects == (rollout.Marked(bundle=B, kind="revoked", reason="cve"),)
    assert after(verifying(before), dataclasses.replace(event, verify_s=0.0)).verifying is None


def test_a_condemned_stable_without_a_target_needs_to_be_taken_down() -> None:
    """Only if somebody says so does the service stop answering; then nothing is measured."""
    before = verifying(canary(start=released(A, B), bundle=C))
    event = rollout.Condemn(bundle=B, kind="revoked", reason="cve", verified={A: False}, verify_s=300.0)
    says = (
        f"'{'b' * 12}' serves and 'flights' has nothing to go back to; promote another bundle first, or add --take-down to stop answering"
    )
    refused(before, event, errors.NotAllowed, says)
    down, effects = step(before, dataclasses.replace(event, take_down=True))
    assert (down.stable, down.candidate, down.phase, down.weight_pct, down.verifying) == (None, None, "idle", 0.0, None)
    assert (down.lineage, down.previous) == ((B, A), A)
    assert effects == (rollout.Marked(bundle=B, kind="revoked", reason="cve"),)


@pytest.mark.parametrize(
    ("was", "asked", "done"),
    [
        ("quarantined", "quarantined", False),
        ("quarantined", "revoked", True),
        ("revoked", "quarantined", False),
        ("revoked", "revoked", False),
    ],
)
def test_a_mark_can_only_become_harder(was: rollout.MarkKind, asked: rollout.MarkKind, done: bool) -> None:
    """A quarantine can be made a revocation; nothing else changes a mark."""
    before = with_mark(released(A, B), A, was)
    event = rollout.Condemn(bundle=A, kind=asked, reason="worse")
    if done:
        assert after(before, event).marks[A] == rollout.Mark(kind=asked, reason="worse")
    else:
        refused(before, event, errors.NothingToDo, f"bundle '{'a' * 12}' is {was} already (cve)")


# --- afterwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "severity", "says"),
    [
        ("recovered", "info", "recovered after the step back"),
        (
            "not_recovered",
            "critical",
            "not recovered, so the release was not the cause (or not the only one); look at what it depends on",
        ),
        ("inconclusive", "warning", "whether it recovered cannot be told"),
    ],
)
def test_the_page_after_a_step_back_says_what_it_came_to(outcome: str, severity: str, says: str) -> None:
    """Recovered closes the page of the step back; the others add to it."""
    before = after(canary(), rollout.Reject(bundle=B, reason="bad", verify_s=300.0))
    state, effects = step(before, rollout.Verified(outcome=outcome, reason="errors 0.1 %"))  # type: ignore[arg-type]
    assert state == dataclasses.replace(before, revision=before.revision + 1, verifying=None)
    key = f"rollout-{before.verifying.rollout}"  # type: ignore[union-attr]
    summary = f"flights: {says}: errors 0.1 %"
    assert effects == (rollout.Paged(summary=summary, key=key, severity=severity, resolves=outcome == "recovered"),)  # type: ignore[arg-type]


def test_nothing_is_verified_twice() -> None:
    """A measurement that is over is over."""
    refused(released(A), rollout.Verified(outcome="recovered", reason="x"), errors.NothingToDo, "nothing is being verified on 'flights'")


def outcome_key(state: rollout.State) -> str:
    """The key of the page that tells what the measurement came to."""
    return pages(step(state, rollout.Verified(outcome="recovered", reason="fine"))[1])[0].key


def test_recovery_closes_the_page_of_a_rejection() -> None:
    """One key from the alarm to the all-clear."""
    state, effects = step(canary(), rollout.Reject(bundle=B, reason="bad", verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key


def test_recovery_closes_the_page_of_a_rollback_of_a_proven_bundle() -> None:
    """Without a rollout the key names the bundle that was left."""
    state, effects = step(released(A, B), alarm(verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key == f"bundle-{'b' * 12}"


@pytest.mark.xfail(strict=True, reason="setback.roll_back pages under bundle-…, setback.verified closes rollout-… after a bake")
def test_recovery_closes_the_page_of_a_rollback_in_the_bake() -> None:
    """The most common automatic rollback is the one right after a cut-over; its page has to close as well."""
    state, effects = step(baking(A, B), alarm(verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key


def test_the_page_about_a_step_from_nothing_names_nothing() -> None:
    """A service that had been taken down left no bundle behind."""
    down = after(released(A, B), rollout.Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    assert outcome_key(after(down, back(to=A, verify_s=60.0))) == "bundle-nothing"


# --- one alarm, one page -----------------------------------------------------------------------------------


def rung(state: rollout.State, event: rollout.Event, times: int = 50) -> list[rollout.Paged]:
    """The pages that *event* makes if it comes so many times, a second apart."""
    made: list[rollout.Paged] = []
    for second in range(times):
        try:
            state, effects = rollout.step(state, event, NOW + second)
        except errors.LastgoodError:
            continue
        made += pages(effects)
    return made


@pytest.mark.parametrize(
    ("state", "event", "key"),
    [
        (released(A, B, C), alarm(seen=C, verify_s=300.0), f"bundle-{'c' * 12}"),
        (released(A, B, C), alarm(verify_s=300.0), f"bundle-{'c' * 12}"),
        (canary(), rollout.Reject(bundle=B, reason="bad", verify_s=300.0), "rollout-4"),
        (canary(), rollout.Abandon(bundle=B, reason="slow"), "rollout-4"),
        (canary(), rollout.SetHold(reason="fell", actor="lastgood", gate="conversion"), "hold-conversion"),
        (dataclasses.replace(released(A, B), hops=3), alarm(), "breaker"),
        (on_its_way(3), rollout.Advance(bundle=B), "approval-4"),
        (canary(), rollout.Skip(bundle=B), "skip"),
    ],
    ids=["seen", "unseen", "rejected", "given up", "gate", "breaker", "approval", "skip"],
)
def test_the_same_alarm_fifty_times_is_one_page(state: rollout.State, event: rollout.Event, key: str) -> None:
    """What has been done already is not done, and not told, again."""
    assert [page.key for page in rung(state, event)] == [key]


def test_two_steps_back_from_one_bundle_never_share_a_page_with_another() -> None:
    """Keys differ from bundle to bundle and from rollout to rollout."""
    state, keys = released(A, B, C), []
    for _ in range(2):
        state, effects = step(state, alarm())
        keys += [page.key for page in pages(effects)]
    assert keys == [f"bundle-{'c' * 12}", f"bundle-{'b' * 12}"]

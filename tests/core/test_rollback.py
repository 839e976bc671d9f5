"""Going back, rule by rule: rejections, rollbacks, condemned bundles, the breaker, and the time after a step back."""

from __future__ import annotations

import dataclasses

import pytest

from lastgood import errors
from lastgood.core.events import Condemn, Marked, Paged, Propose, Reject, SetHold
from lastgood.core.state import Mark, MarkKind, State, Verifying
from tests.core.rollouts import A, B, C, D, after, alarm, back, baking, canary, on_its_way, pages, refused, released, step, with_mark

NOW = 10_000.0
MINUTE = 60.0


def verifying(state: State, *, left: str = C) -> State:
    """*state* while it is being measured whether leaving *left* helped."""
    return dataclasses.replace(state, verifying=Verifying(since=90.0, until=390.0, left=left, rollout=7))


def tired(state: State, *minutes_ago: float) -> State:
    """*state* after automatic steps back so many minutes before NOW."""
    return dataclasses.replace(state, automatic_at=tuple(NOW - MINUTE * minutes for minutes in minutes_ago))


# --- a candidate is rejected -------------------------------------------------------------------------------


def test_a_rejected_candidate_is_quarantined_and_stable_keeps_serving() -> None:
    """One revision: mark, all traffic to stable, the time of measuring begins, the step is counted and paged."""
    before = canary()
    state, effects = step(before, Reject(bundle=B, reason="errors tripled", verify_s=300.0), now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        marks={B: Mark(kind="quarantined", reason="errors tripled")},
        verifying=Verifying(since=500.0, until=800.0, left=B, rollout=before.rollout),
        automatic_at=(500.0,),
    )
    summary = f"flights: candidate {'b' * 12} was taken out and quarantined; all traffic goes to {'a' * 12} again: errors tripled"
    assert effects == (
        Marked(bundle=B, kind="quarantined", reason="errors tripled"),
        Paged(summary=summary, key=f"rollout-{before.rollout}", severity="warning", resolves=False),
    )


def test_one_user_in_a_hundred_is_touched_too() -> None:
    """However small the share: it is measured whether taking the candidate out helped, and a person who rolls back means the candidate."""
    tiny = dataclasses.replace(canary(start=released(A, B), bundle=C), weight_pct=0.5)
    assert after(tiny, Reject(bundle=C, reason="bad", verify_s=300.0)).verifying is not None
    by_hand = after(tiny, back(verify_s=300.0))
    assert (by_hand.stable, set(by_hand.marks)) == (B, {C})
    assert by_hand.verifying is not None
    assert after(tiny, back(to=B, verify_s=300.0)).verifying is not None


def test_nothing_is_verified_if_no_user_was_touched() -> None:
    """A shadow answers copies only, so there is nothing to recover from; it is quarantined all the same."""
    state = after(on_its_way(1), Reject(bundle=B, reason="bad", verify_s=300.0))
    assert state.verifying is None
    assert state.marks[B].kind == "quarantined"


def test_a_rejected_shadow_leaves_an_earlier_measurement_alone() -> None:
    """Stable is still the bundle that is being measured after an earlier step back."""
    before = on_its_way(1, start=verifying(released(A)))
    assert after(before, Reject(bundle=B, reason="bad", verify_s=300.0)).verifying == before.verifying


def test_a_rejected_canary_begins_the_measurement_anew() -> None:
    """The newest step back is the one to measure; without seconds for it, the earlier one goes on."""
    before = canary(start=verifying(released(A)))
    measured = after(before, Reject(bundle=B, reason="bad", verify_s=5.0), now=500.0)
    assert measured.verifying == Verifying(since=500.0, until=505.0, left=B, rollout=before.rollout)
    assert after(before, Reject(bundle=B, reason="bad", verify_s=0.0)).verifying == before.verifying


def test_a_service_without_stable_has_nothing_to_measure() -> None:
    """Rejecting the first bundle leaves nothing that serves, which the page says."""
    first = dataclasses.replace(after(State(service="flights"), Propose(bundle=A, verified=True)), weight_pct=5.0)
    state, effects = step(first, Reject(bundle=A, reason="bad", verify_s=300.0))
    assert (state.stable, state.verifying) == (None, None)
    assert pages(effects)[0].summary == f"flights: candidate {'a' * 12} was taken out and quarantined; no bundle serves: bad"


def test_only_the_candidate_can_be_rejected() -> None:
    """A verdict on a bundle that is no longer on its way blames nobody."""
    refused(canary(), Reject(bundle=C, reason="bad"), errors.Conflict, f"bundle '{'c' * 12}' is no longer the candidate")
    refused(released(A), Reject(bundle=A, reason="bad"), errors.Conflict, "is no longer the candidate")


def test_a_rejection_counts_no_hop() -> None:
    """Stable did not move, so the way back is as long as before."""
    assert after(dataclasses.replace(canary(), hops=1), Reject(bundle=B, reason="bad")).hops == 1


# --- rolling back ------------------------------------------------------------------------------------------


def test_an_automatic_rollback_is_one_revision_with_a_mark_a_measurement_and_a_page() -> None:
    """Stable is the target, the bad bundle is quarantined, the hop is counted, a person is told."""
    before = baking(A, B, C)
    state, effects = step(before, alarm("slow", verify_s=300.0), now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        stable=B, previous=A, lineage=(B, C, A),
        marks={C: Mark(kind="quarantined", reason="slow")},
        verifying=Verifying(since=500.0, until=800.0, left=C, rollout=before.rollout),
        hops=1, automatic_at=(500.0,),
    )  # fmt: skip
    assert effects[0] == Marked(bundle=C, kind="quarantined", reason="slow")
    (page,) = pages(effects)
    assert page.summary == f"flights: rolled back from {'c' * 12} to {'b' * 12}: slow"
    assert (page.severity, page.resolves) == ("warning", False)


def test_a_page_about_a_step_back_is_urgent_only_if_it_did_not_help_yet() -> None:
    """Another bundle serves: not urgent. The target was not ready, or there is nothing to go back to: somebody has to look now."""
    unready = dataclasses.replace(alarm("slow", seen=C), unready=True)
    (page,) = pages(step(baking(A, B, C), unready, now=500.0)[1])
    assert page.severity == "critical"
    for stranded, severity in ((True, "critical"), (False, "warning")):
        held = SetHold(reason="slow; nothing to go back to", actor="lastgood", gate="latency", stranded=stranded)
        (page,) = pages(step(baking(A, B, C), held, now=500.0)[1])
        assert page.severity == severity


def test_a_manual_rollback_is_the_same_without_a_page_and_without_being_counted() -> None:
    """Nobody has to be told what they did themselves."""
    before = dataclasses.replace(baking(A, B, C), hops=2)
    by_hand, effects = step(before, back("slow", verify_s=300.0), now=500.0)
    automatic = after(before, alarm("slow", verify_s=300.0), now=500.0)
    assert by_hand == dataclasses.replace(automatic, hops=0, automatic_at=())
    assert effects == (Marked(bundle=C, kind="quarantined", reason="slow"),)


def test_automation_may_blame_only_what_serves() -> None:
    """If stable moved on since, or nothing serves, the verdict is of no use any more."""
    refused(released(A, B, C), alarm(seen=B), errors.Conflict, f"'{'b' * 12}' no longer serves, so it is not to blame; measure the bundle")
    refused(State(service="flights"), alarm(), errors.Conflict, "'nothing' no longer serves")
    refused(State(service="flights"), alarm(seen=B), errors.Conflict, f"'{'b' * 12}' no longer serves")
    assert after(released(A, B, C), alarm(seen=C)).stable == B


def test_automation_takes_no_second_step_while_the_first_is_being_measured() -> None:
    """No rollback of a rollback, unless its target did not get ready; a person may at any time."""
    state = verifying(released(A, B))
    refused(state, alarm(), errors.NothingToDo, "'flights' was just rolled back and is being measured")
    further = after(state, alarm(unready=True, verify_s=60.0), now=500.0)
    assert (further.stable, further.hops) == (A, 1)
    assert further.verifying == Verifying(since=500.0, until=560.0, left=B, rollout=None)
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
        marks={C: Mark(kind="quarantined", reason="bad")},
        verifying=Verifying(since=500.0, until=800.0, left=C, rollout=before.rollout),
    )
    assert effects == (Marked(bundle=C, kind="quarantined", reason="bad"),)


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
    first = after(State(service="flights"), Propose(bundle=A, verified=True))
    state, effects = step(first, back(verify_s=300.0))
    assert state == State(service="flights", revision=2)
    assert effects == ()


def test_a_service_that_serves_nothing_has_nothing_to_roll_back() -> None:
    """The message names the way to serve something."""
    refused(State(service="flights"), back(), errors.NothingToDo, "'flights' serves no bundle; promote one with")


@pytest.mark.parametrize("seen", [C, D])
def test_what_was_seen_failing_and_is_gone_already_is_nothing_to_do(seen: str) -> None:
    """Whether it was quarantined since, or never was stable at all."""
    refused(with_mark(released(A, C, B), C), back(seen=seen), errors.NothingToDo, "was already rolled back; see 'lastgood history flights'")


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
    down = after(released(A, B), Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    assert down.stable is None
    refused(down, back(seen=A), errors.NotAllowed, f"'{'a' * 12}' keeps serving; promote a good bundle with 'lastgood promote flights")


def test_a_service_that_was_taken_down_comes_back_by_naming_a_bundle() -> None:
    """Nothing serves, so nothing is left behind and nothing is quarantined."""
    down = after(released(A, B), Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    state, effects = step(down, back(to=A, verify_s=60.0), now=500.0)
    assert (state.stable, set(state.marks), effects) == (A, {B}, ())
    assert state.verifying == Verifying(since=500.0, until=560.0, left=None, rollout=None)


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
    says = (
        f"bundle '{'d' * 12}' has never been stable, so it is not a rollback target; release it with 'lastgood promote flights {'d' * 12}'"
    )
    refused(released(A, B), back(to=D), errors.NotAllowed, says)
    assert after(released(A, B), back(to=D, proven=True)).stable == D


def test_a_named_target_has_to_verify() -> None:
    """Known to be damaged, or not checked at all: both are refused."""
    for verified in ({A: False}, {}):
        refused(released(A, B), back(to=A, verified=verified), errors.NotAllowed, f"bundle '{'a' * 12}' does not verify; omit the")


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_named_target_has_to_be_unmarked(kind: MarkKind) -> None:
    """A mark keeps a bundle out on this way too."""
    refused(with_mark(released(A, B), A, kind), back(to=A), errors.NotAllowed, f"bundle '{'a' * 12}' is {kind} (cve)")


def test_going_back_to_stable_itself_needs_a_candidate() -> None:
    """With nothing in flight the service is as asked."""
    refused(released(A, B), back(to=B), errors.NothingToDo, f"bundle '{'b' * 12}' is already stable; see 'lastgood status flights'")


# --- condemned bundles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quarantined", "revoked"])
def test_a_bundle_that_does_not_serve_is_only_marked(kind: MarkKind) -> None:
    """What is on its way, what is being measured and what serves stay as they are."""
    before = canary(start=verifying(released(A, B)), bundle=C)
    state, effects = step(before, Condemn(bundle=A, kind=kind, reason="cve", verify_s=300.0))
    mark = Mark(kind=kind, reason="cve")
    assert state == dataclasses.replace(before, revision=before.revision + 1, previous=None, marks={A: mark})
    assert effects == (Marked(bundle=A, kind=kind, reason="cve"),)


def test_a_condemned_candidate_is_withdrawn() -> None:
    """Stable has all traffic again."""
    before = canary()
    state, effects = step(before, Condemn(bundle=B, kind="revoked", reason="cve", verify_s=300.0))
    assert state == dataclasses.replace(released(A), revision=before.revision + 1, marks={B: Mark(kind="revoked", reason="cve")})
    assert effects == (Marked(bundle=B, kind="revoked", reason="cve"),)


def test_a_condemned_stable_is_left_in_the_same_revision() -> None:
    """The service goes back, any rollout is cancelled, and it is measured whether that helped."""
    before = canary(start=released(A, B), bundle=C)
    event = Condemn(bundle=B, kind="revoked", reason="cve", verified={A: True}, verify_s=300.0)
    state, effects = step(before, event, now=500.0)
    assert state == dataclasses.replace(
        released(A),
        revision=before.revision + 1,
        lineage=(A, B),
        marks={B: Mark(kind="revoked", reason="cve")},
        verifying=Verifying(since=500.0, until=800.0, left=B, rollout=before.rollout),
    )
    assert effects == (Marked(bundle=B, kind="revoked", reason="cve"),)
    assert after(verifying(before), dataclasses.replace(event, verify_s=0.0)).verifying is None


def test_a_condemned_stable_without_a_target_needs_to_be_taken_down() -> None:
    """Only if somebody says so does the service stop answering; then nothing is measured."""
    before = verifying(canary(start=released(A, B), bundle=C))
    event = Condemn(bundle=B, kind="revoked", reason="cve", verified={A: False}, verify_s=300.0)
    says = f"'{'b' * 12}' serves and 'flights' has no rollback target; promote another bundle first, or add --take-down to stop answering"
    refused(before, event, errors.NotAllowed, says)
    down, effects = step(before, dataclasses.replace(event, take_down=True))
    assert (down.stable, down.candidate, down.phase, down.weight_pct, down.verifying) == (None, None, "idle", 0.0, None)
    assert (down.lineage, down.previous) == ((B, A), A)
    assert effects == (Marked(bundle=B, kind="revoked", reason="cve"),)


@pytest.mark.parametrize(
    ("was", "asked", "done"),
    [
        ("quarantined", "quarantined", False),
        ("quarantined", "revoked", True),
        ("revoked", "quarantined", False),
        ("revoked", "revoked", False),
    ],
)
def test_a_mark_can_only_become_harder(was: MarkKind, asked: MarkKind, done: bool) -> None:
    """A quarantine can be made a revocation; nothing else changes a mark."""
    before = with_mark(released(A, B), A, was)
    event = Condemn(bundle=A, kind=asked, reason="worse")
    if done:
        assert after(before, event).marks[A] == Mark(kind=asked, reason="worse")
    else:
        refused(before, event, errors.NothingToDo, f"bundle '{'a' * 12}' is already {was} (cve)")

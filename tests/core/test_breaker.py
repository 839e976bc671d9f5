"""After a step back: when automation has to stop, what is found out, and who is told how often."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import Abandon, Advance, Condemn, Event, Paged, Reject, ReleaseHold, SetHold, Skip, Verified
from lastgood.core.state import Hold, State
from tests.core.rollouts import A, B, C, D, E, after, alarm, back, baking, canary, held, on_its_way, pages, refused, released, step

NOW = 10_000.0
MINUTE = 60.0


def tired(state: State, *minutes_ago: float) -> State:
    """*state* after automatic steps back so many minutes before NOW."""
    return dataclasses.replace(state, automatic_at=tuple(NOW - MINUTE * minutes for minutes in minutes_ago))


# --- the breaker -------------------------------------------------------------------------------------------


def test_three_rejections_within_an_hour_are_fine_and_the_fourth_holds() -> None:
    """The fourth is still taken out; then a person has to look, and is told under a key of its own."""
    state, effects = released(A), ()
    for number, bundle in enumerate((B, C, D, E)):
        assert state.hold is None
        now = NOW + 10 * MINUTE * number
        state, effects = step(canary(start=state, bundle=bundle, now=now), Reject(bundle=bundle, reason="bad"), now=now)
    assert state.candidate is None
    assert set(state.marks) == {B, C, D, E}
    reason = "4 automatic rollbacks within an hour"
    assert state.hold == Hold(reason=reason, actor="lastgood", since=NOW + 30 * MINUTE, gate=None)
    summary = f"flights: {reason}; the service is held until a person investigates"
    assert pages(effects)[1:] == [Paged(summary=summary, key="breaker", severity="critical", resolves=False)]


@pytest.mark.parametrize(("oldest_min", "holds"), [(59.99, True), (60.0, False), (60.01, False), (-59.99, True), (-60.0, False)])
def test_only_steps_of_the_last_hour_count(oldest_min: float, holds: bool) -> None:
    """A step an hour old is forgotten; one that a clock put into the future counts by the same distance."""
    state = after(tired(canary(), oldest_min, 2, 1), Reject(bundle=B, reason="bad"), now=NOW)
    assert (state.hold is not None) is holds
    assert len(state.automatic_at) == (4 if holds else 3)
    assert state.automatic_at[-1] == NOW


@pytest.mark.parametrize("jump_min", [-5, 5])
def test_a_clock_that_jumps_five_minutes_loses_no_step(jump_min: float) -> None:
    """Set back or forth, the fourth step within the hour still holds."""
    state = released(A)
    for number, bundle in enumerate((B, C, D, E)):
        now = NOW + (jump_min * MINUTE if number % 2 else 0.0) + number
        state = after(canary(start=state, bundle=bundle, now=now), Reject(bundle=bundle, reason="bad"), now=now)
        assert (state.hold is not None) is (number == 3)


def test_a_step_back_of_a_held_service_is_counted_and_holds_nothing_anew() -> None:
    """The hold that is there stays with its reason, no second page is made, and only the newest four are kept."""
    state, effects = step(tired(held(canary()), 4, 3, 2, 1), Reject(bundle=B, reason="bad"), now=NOW)
    assert state.hold is not None
    assert state.hold.reason == "freeze"
    assert state.automatic_at == (NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW - MINUTE, NOW)
    assert len(pages(effects)) == 1


def test_an_automatic_rollback_stops_at_the_fourth_within_an_hour() -> None:
    """Promotions in between do not help: what serves keeps serving, the service is held and paged."""
    before = tired(released(A, B), 30, 20, 10)
    state, effects = step(before, alarm(), now=NOW)
    reason = "3 automatic rollbacks within an hour did not help"
    hold = Hold(reason=reason, actor="lastgood", since=NOW)
    assert state == dataclasses.replace(before, revision=before.revision + 1, hold=hold)
    assert effects == (Paged(summary=f"flights: {reason}; the service is held until a person investigates", key="breaker"),)
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
    refused(state, alarm(), errors.NothingToDo, "'flights' is already held (freeze); a person has to investigate", now=NOW)


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
        state = after(canary(start=state, bundle=bundle, now=now), Reject(bundle=bundle, reason="bad"), now=now)
        times.append(now)
        recent = [at for at in times if now - at < 60 * MINUTE]
        assert (state.hold is not None) is (len(recent) > 3)
        if state.hold is not None:
            state, times = after(state, ReleaseHold()), []


# --- afterwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "severity", "says"),
    [
        ("recovered", "info", "recovered after the rollback"),
        (
            "not_recovered",
            "critical",
            "not recovered, so the release was not the cause, or not the only one; check what the service depends on",
        ),
        ("inconclusive", "warning", "inconclusive: it cannot be determined whether the service recovered"),
    ],
)
def test_the_page_after_a_step_back_says_what_it_came_to(outcome: str, severity: str, says: str) -> None:
    """Recovered closes the page of the step back; the others add to it."""
    before = after(canary(), Reject(bundle=B, reason="bad", verify_s=300.0))
    state, effects = step(before, Verified(outcome=outcome, reason="errors 0.1 %"))  # type: ignore[arg-type]
    assert state == dataclasses.replace(before, revision=before.revision + 1, verifying=None)
    key = f"rollout-{before.verifying.rollout}"  # type: ignore[union-attr]
    summary = f"flights: {says}: errors 0.1 %"
    assert effects == (Paged(summary=summary, key=key, severity=severity, resolves=outcome == "recovered"),)  # type: ignore[arg-type]


def test_nothing_is_verified_twice() -> None:
    """A measurement that is over is over."""
    refused(released(A), Verified(outcome="recovered", reason="x"), errors.NothingToDo, "no rollback is being measured on 'flights'")


def outcome_key(state: State) -> str:
    """The key of the page that tells what the measurement came to."""
    return pages(step(state, Verified(outcome="recovered", reason="fine"))[1])[0].key


def test_recovery_closes_the_page_of_a_rejection() -> None:
    """One key from the alarm to the all-clear."""
    state, effects = step(canary(), Reject(bundle=B, reason="bad", verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key


def test_recovery_closes_the_page_of_a_rollback_of_a_proven_bundle() -> None:
    """Without a rollout the key names the bundle that was left."""
    state, effects = step(released(A, B), alarm(verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key == f"bundle-{'b' * 12}"


def test_recovery_closes_the_page_of_a_rollback_in_the_bake() -> None:
    """The most common automatic rollback is the one right after a cut-over; its page has to close as well."""
    state, effects = step(baking(A, B), alarm(verify_s=300.0))
    assert outcome_key(state) == pages(effects)[0].key


def test_the_page_about_a_step_from_nothing_names_nothing() -> None:
    """A service that had been taken down left no bundle behind."""
    down = after(released(A, B), Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    assert outcome_key(after(down, back(to=A, verify_s=60.0))) == "bundle-nothing"


# --- one alarm, one page -----------------------------------------------------------------------------------


def rung(state: State, event: Event, times: int = 50) -> list[Paged]:
    """The pages that *event* makes if it comes so many times, a second apart."""
    made: list[Paged] = []
    for second in range(times):
        try:
            state, effects = transitions.step(state, event, NOW + second)
        except errors.LastgoodError:
            continue
        made += pages(effects)
    return made


@pytest.mark.parametrize(
    ("state", "event", "key"),
    [
        (released(A, B, C), alarm(seen=C, verify_s=300.0), f"bundle-{'c' * 12}"),
        (released(A, B, C), alarm(verify_s=300.0), f"bundle-{'c' * 12}"),
        (canary(), Reject(bundle=B, reason="bad", verify_s=300.0), "rollout-4"),
        (canary(), Abandon(bundle=B, reason="slow"), "rollout-4"),
        (canary(), SetHold(reason="fell", actor="lastgood", gate="conversion"), "hold-conversion"),
        (dataclasses.replace(released(A, B), hops=3), alarm(), "breaker"),
        (on_its_way(3), Advance(bundle=B), "approval-4"),
        (canary(), Skip(bundle=B), "skip"),
    ],
    ids=["seen", "unseen", "rejected", "given up", "gate", "breaker", "approval", "skip"],
)
def test_the_same_alarm_fifty_times_is_one_page(state: State, event: Event, key: str) -> None:
    """What has been done already is not done, and not told, again."""
    assert [page.key for page in rung(state, event)] == [key]


def test_two_steps_back_from_one_bundle_never_share_a_page_with_another() -> None:
    """Keys differ from bundle to bundle and from rollout to rollout."""
    state, keys = released(A, B, C), []
    for _ in range(2):
        state, effects = step(state, alarm())
        keys += [page.key for page in pages(effects)]
    assert keys == [f"bundle-{'c' * 12}", f"bundle-{'b' * 12}"]

"""What follows from verdicts, branch by branch: before the cut-over, after it, and after a step back."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors
from lastgood.analysis import policy
from lastgood.core import transitions
from lastgood.core.events import Abandon, Advance, Approve, CutOver, Propose, Reject, SetHold
from lastgood.core.state import State
from lastgood.gates import base
from lastgood.service import schema
from tests.core.rollouts import CHAIN, A, B, C, after, back, canary, held, on_its_way, released

SERVICE = schema.parse(
    """
schema: lastgood.service/v1
service: flights
tier: real-time-api
owner: tests
traffic: {port: 8380}
release:
  strategy: [{phase: shadow}]
  bake_s: 700
  recovery: {within_s: 250}
gates:
  slow: {metric: latency_p99, max_ms: 300, patience_s: 100, no_traffic: roll_back, source_down: ask, too_few: roll_back}
  careful: {metric: latency_p99, max_ms: 300, patience_s: 100, no_traffic: ask, source_down: roll_back, too_few: ask}
  conversion: {metric: score, score: outcome.bought, better: higher, margin: 0.01, audit: true}
  search: {metric: downstream, url: "http://127.0.0.1:9/health"}
  shown: {metric: agreement, min: 0.9, kind: observe}
""",
    where="service.yaml",
)
"""Guardrails that wait (errors), roll back (slow) and ask (careful); a signal that resumes itself (conversion) and one for
a person (search); and one that only observes (shown)."""


def says(gate: str, outcome: base.VerdictOutcome, cause: base.Cause = "too_few", *, since: float | None = None) -> base.Verdict:
    """What *gate* of SERVICE says; the words are made of its name and the outcome."""
    found = SERVICE.gates[gate]
    return base.Verdict(
        gate=gate, metric=found.metric, kind=found.kind, outcome=outcome, cause=cause, why=f"{gate} says {outcome}", at=0.0, since=since
    )


def decide(
    state: State, *said: base.Verdict, now: float = 100.0, ready: tuple[str, ...] = (A, B), trouble: str = ""
) -> policy.Decision | None:
    """The decision on *state* when the gates have *said* this; by default the workers of A and B answer."""
    verdicts = {verdict.gate: verdict for verdict in said}
    return policy.decide(state, SERVICE, ready=ready, verdicts=verdicts, now=now, trouble=trouble)


GOOD = says("errors", "pass")
BAD = says("errors", "fail")
UNTOLD = says("errors", "inconclusive")
ADVANCE = Advance(bundle=B)

# --- preparing ---------------------------------------------------------------------------------------------


def test_a_candidate_whose_workers_are_ready_begins_its_chain() -> None:
    """No gate is asked before the first phase."""
    expected = policy.Decision(event=ADVANCE, verb="advance", reason="the candidate's workers are ready", verdicts=())
    assert decide(on_its_way(0), BAD) == expected


def test_a_release_with_a_control_arm_waits_for_both() -> None:
    """What is compared has to be there from the first request on; who is missing is said when time is up."""
    state = after(released(A), Propose(bundle=B, verified=True, chain=CHAIN, control=True, ready_s=60.0), now=100.0)
    control = f"{A}+control"
    assert decide(state, ready=(A, B)) is None
    assert decide(state, ready=(A, control)) is None
    ready = decide(state, ready=(A, B, control))
    assert ready is not None
    assert ready.verb == "advance"
    for there, whose in (((A, B), "control arm's"), ((A, control), "candidate's"), ((A,), "candidate's")):
        late = decide(state, ready=there, now=160.0, trouble="no memory")
        assert late is not None
        assert (late.verb, late.reason) == ("abandon", f"the {whose} workers did not become ready in time: no memory")


def test_a_lost_control_arm_stops_the_way_to_more_users_but_not_the_cut_over() -> None:
    """With nothing to compare there is no next phase; at the end of the chain nothing is compared any more."""
    control = f"{A}+control"
    start = after(released(A), Propose(bundle=B, verified=True, chain=CHAIN, control=True))
    for phases in (1, 2, 3):
        state = after(start, *[ADVANCE] * phases)
        assert decide(state, GOOD, now=500.0, ready=(A, B)) is None
        found = decide(state, GOOD, now=500.0, ready=(A, B, control))
        assert found is not None
        assert found.event == ADVANCE
    approved = after(start, *[ADVANCE] * 4, Approve(bundle=B))
    last = decide(approved, GOOD, now=500.0, ready=(A, B))
    assert last is not None
    assert last.verb == "cut-over"


def test_a_candidate_without_a_chain_is_cut_over_when_ready() -> None:
    """The bake is as long as its own configuration says."""
    state = after(released(A), Propose(bundle=B, verified=True))
    event = CutOver(bundle=B, bake_s=700.0)
    assert decide(state) == policy.Decision(event=event, verb="cut-over", reason="the candidate's workers are ready")


def test_a_candidate_that_is_not_ready_is_waited_for() -> None:
    """Until its time limit has passed, nothing is due; a worker that answers at the last moment counts."""
    state = on_its_way(0)
    assert state.phase_until == 160.0
    assert decide(state, ready=(A,), now=159.99) is None
    late = decide(state, now=500.0)
    assert late is not None
    assert late.event == ADVANCE


def test_a_candidate_that_never_got_ready_is_given_up() -> None:
    """At its deadline, with what its layer complained of, on hold too; nobody is blamed."""
    why = "the candidate's workers did not become ready in time"
    event = Abandon(bundle=B, reason="not ready in time")
    assert decide(on_its_way(0), ready=(A,), now=160.0) == policy.Decision(event=event, verb="abandon", reason=why)
    assert policy.decide(on_its_way(0), SERVICE, ready=(), verdicts={}, now=160.0) == decide(on_its_way(0), ready=(), now=160.0)
    told = decide(held(on_its_way(0)), ready=(A,), now=161.0, trouble="out of memory")
    assert told == policy.Decision(event=event, verb="abandon", reason=f"{why}: out of memory")


def test_on_hold_a_ready_candidate_waits() -> None:
    """Neither its chain begins, nor is it given up."""
    assert decide(held(on_its_way(0)), now=100.0) is None
    assert decide(held(on_its_way(0)), now=500.0) is None


@pytest.mark.parametrize("phases", [0, 2])
def test_a_state_without_a_candidate_asks_for_nothing(phases: int) -> None:
    """A row that names a phase and no candidate, or no deadline, is nobody's business."""
    odd = dataclasses.replace(on_its_way(phases), candidate=None)
    assert decide(odd, BAD, now=9999.0) is None
    endless = dataclasses.replace(on_its_way(phases), phase_until=None)
    assert decide(endless, UNTOLD, ready=(), now=9999.0) is None


# --- forward -----------------------------------------------------------------------------------------------


def test_a_phase_is_passed_when_every_gate_has_passed() -> None:
    """The reason says which phase it was and what each gate said; the verdicts are the evidence."""
    good = (GOOD, says("search", "pass"), says("conversion", "pass"))
    reason = "canary passed: errors says pass; search says pass; conversion says pass"
    assert decide(canary(), *good, now=120.0) == policy.Decision(event=ADVANCE, verb="advance", reason=reason, verdicts=good)


def test_a_phase_without_gates_ends_with_its_time() -> None:
    """A chain may be walked by the clock alone."""
    assert decide(canary(), now=120.0) == policy.Decision(event=ADVANCE, verb="advance", reason="canary passed: its time limit has passed")


def test_a_phase_lasts_its_least_time() -> None:
    """However good the gates look, not a moment less."""
    assert decide(canary(), GOOD, now=119.99) is None
    assert decide(canary(), GOOD, now=120.0) is not None
    assert decide(on_its_way(1), GOOD, now=109.99) is None
    assert decide(on_its_way(1), GOOD, now=110.0) is not None


def test_a_phase_of_which_nobody_knows_the_beginning_is_not_passed() -> None:
    """Without the time it began, or the plan of it, there is no least time to have lasted."""
    assert decide(dataclasses.replace(canary(), phase_since=None), GOOD, now=1500.0) is None
    assert decide(dataclasses.replace(canary(), position=None), GOOD, now=1500.0) is None


def test_the_last_phase_is_followed_by_the_cut_over() -> None:
    """With the bake of the configuration that is judged."""
    state = after(released(A), Propose(bundle=B, verified=True, chain=CHAIN[:2]), ADVANCE, ADVANCE)
    found = decide(state, GOOD, now=120.0)
    assert found == policy.Decision(
        event=CutOver(bundle=B, bake_s=700.0), verb="cut-over", reason="canary passed: errors says pass", verdicts=(GOOD,)
    )


@pytest.mark.parametrize("gate", ["errors", "conversion", "search"])
@pytest.mark.parametrize("cause", ["too_few", "no_traffic", "source_down", "both_arms"])
def test_cannot_tell_is_never_fine(gate: str, cause: base.Cause) -> None:
    """One gate that cannot tell keeps the release where it is, whatever the others say."""
    assert decide(canary(), says("slow", "pass"), says(gate, "inconclusive", cause, since=0.0), now=120.0) is None


def test_nothing_goes_on_without_ready_workers() -> None:
    """A candidate whose workers do not answer is not given more."""
    assert decide(canary(), GOOD, ready=(A,), now=120.0) is None
    assert decide(after(on_its_way(4), Approve(bundle=B)), ready=(A,), now=120.0) is None


@pytest.mark.parametrize("outcome", ["fail", "inconclusive", "pass"])
def test_what_only_observes_decides_nothing(outcome: base.VerdictOutcome) -> None:
    """Whatever it says, the phase is passed without it, and it is no part of the reason."""
    found = decide(canary(), GOOD, says("shown", outcome, "no_traffic", since=0.0), now=5000.0)
    assert found == policy.Decision(event=ADVANCE, verb="advance", reason="canary passed: errors says pass", verdicts=(GOOD,))


def test_what_only_observes_has_no_policy_even_if_a_file_gives_it_one() -> None:
    """A bundle that was frozen by a release that took such a contradiction is still not rolled back by it."""
    shown = SERVICE.gates["shown"].model_copy(update={"no_traffic": "roll_back", "too_few": "ask"})
    odd = SERVICE.model_copy(update={"gates": {"shown": shown}})
    for cause in ("no_traffic", "too_few"):
        untold = {"shown": says("shown", "inconclusive", cause, since=0.0)}  # type: ignore[arg-type]
        found = policy.decide(canary(), odd, ready=(B,), verdicts=untold, now=5000.0)
        assert found is not None
        assert found.event == ADVANCE


@pytest.mark.parametrize("gate", ["errors", "search", "conversion"])
@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_waived_gate_does_not_count(gate: str, outcome: base.VerdictOutcome) -> None:
    """A person has overruled it for this release; the other gates still count."""
    state = dataclasses.replace(canary(), waived=("split", gate))
    found = decide(state, says("slow", "pass"), says(gate, outcome), now=120.0)
    assert found is not None
    assert (found.event, found.reason) == (ADVANCE, "canary passed: slow says pass")
    assert decide(dataclasses.replace(state, waived=("split",)), says("slow", "pass"), says(gate, outcome), now=120.0) != found


def test_the_verdict_of_a_gate_that_the_service_does_not_have_does_not_count() -> None:
    """Measurements of another configuration say nothing about this one."""
    stranger = dataclasses.replace(BAD, gate="stranger")
    found = decide(canary(), stranger, GOOD, now=120.0)
    assert found is not None
    assert (found.event, found.verdicts) == (ADVANCE, (GOOD,))


# --- approval ----------------------------------------------------------------------------------------------


def test_an_approval_waits_for_a_person_whatever_the_gates_say() -> None:
    """Good gates do not approve."""
    assert decide(on_its_way(4), GOOD, now=3000.0) is None


def test_an_approved_release_is_cut_over_though_a_gate_cannot_tell() -> None:
    """The person has seen what the gates said."""
    approved = after(on_its_way(4), Approve(bundle=B))
    event = CutOver(bundle=B, bake_s=700.0)
    assert decide(approved, UNTOLD) == policy.Decision(event=event, verb="cut-over", reason="approved by a person")


def test_a_guardrail_fails_during_the_approval_too() -> None:
    """The candidate still answers users while it waits, approved or not."""
    for state in (on_its_way(4), after(on_its_way(4), Approve(bundle=B))):
        found = decide(state, BAD)
        assert found is not None
        assert isinstance(found.event, Reject)


def test_an_approval_that_nobody_gives_ends_the_release() -> None:
    """At the end of its time, not before."""
    assert decide(on_its_way(4), GOOD, now=4099.0) is None
    why = "no verdict within 4000 s: nobody approved it"
    expected = policy.Decision(event=Abandon(bundle=B, reason=why), verb="abandon", reason=why, verdicts=(GOOD,))
    assert decide(on_its_way(4), GOOD, now=4100.0) == expected


def test_an_approved_release_that_ends_for_want_of_workers_says_so() -> None:
    """The person who approved it must not read that nobody did."""
    found = decide(after(on_its_way(4), Approve(bundle=B)), GOOD, ready=(A,), now=4100.0)
    assert found is not None
    assert found.reason == "no verdict within 4000 s: its workers are not ready"


# --- guardrails and signals --------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [1, 2, 3, 4])
def test_a_failed_guardrail_rejects_the_candidate(phases: int) -> None:
    """In every phase, at once, and then it is measured for the declared time whether that helped."""
    reason = "gate 'errors': errors says fail"
    event = Reject(bundle=B, reason=reason, verify_s=250.0)
    assert decide(on_its_way(phases), says("slow", "pass"), BAD) == policy.Decision(
        event=event, verb="rollback", reason=reason, verdicts=(BAD,)
    )


def test_a_failed_guardrail_comes_before_everything_else() -> None:
    """On hold, with workers gone, after the end of the phase, beside a signal that asks: the candidate is out."""
    for state, ready, now in ((held(canary()), (A, B), 100.0), (canary(), (), 100.0), (canary(), (A, B), 9999.0)):
        found = decide(state, says("search", "fail"), BAD, ready=ready, now=now)
        assert found is not None
        assert isinstance(found.event, Reject)
        assert found.verdicts == (BAD,)


def test_all_that_failed_stands_in_the_reason_and_an_audit_is_asked_for() -> None:
    """The page says what a gate with `audit` wants to be looked at."""
    audited = SERVICE.model_copy(update={"gates": {**SERVICE.gates, "errors": SERVICE.gates["errors"].model_copy(update={"audit": True})}})
    slow = says("slow", "fail")
    found = policy.decide(canary(), audited, ready=(), verdicts={"slow": slow, "errors": BAD}, now=100.0)
    assert found is not None
    assert found.reason == "gate 'slow': slow says fail; gate 'errors': errors says fail; audit what this bundle did"
    assert isinstance(found.event, Reject)
    assert found.event.reason == found.reason
    only = policy.decide(canary(), audited, ready=(), verdicts={"slow": slow}, now=100.0)
    assert only is not None
    assert only.reason == "gate 'slow': slow says fail"


def test_a_failed_signal_stops_the_release_until_it_passes_by_itself() -> None:
    """No hold, no blame, no step; as soon as it passes the release goes on."""
    assert decide(canary(), GOOD, says("conversion", "fail"), now=500.0) is None
    found = decide(canary(), GOOD, says("conversion", "pass"), now=500.0)
    assert found is not None
    assert found.event == ADVANCE


def test_a_failed_signal_for_a_person_holds_the_release() -> None:
    """The hold names the gate, so that releasing it overrules that gate."""
    failed = says("search", "fail")
    reason = "gate 'search': search says fail"
    event = SetHold(reason=reason, actor="lastgood", gate="search")
    assert decide(canary(), GOOD, failed, now=120.0) == policy.Decision(event=event, verb="hold", reason=reason, verdicts=(failed,))


def test_of_two_signals_that_ask_the_first_one_holds() -> None:
    """Both stand in the reason; one hold is enough."""
    both = (says("search", "fail"), says("split", "fail"))
    found = decide(canary(), *both)
    assert found is not None
    assert found.event == SetHold(reason="gate 'search': search says fail; gate 'split': split says fail", actor="lastgood", gate="search")
    assert found.verdicts == both


def test_a_held_release_asks_for_nothing_more() -> None:
    """Neither the next step, nor another hold, nor its end."""
    for said in (GOOD, says("search", "fail"), UNTOLD):
        assert decide(held(canary()), said, now=9999.0) is None


def test_a_question_comes_before_the_next_step_and_before_the_end() -> None:
    """A person is asked while there is a release to ask about."""
    for now in (120.0, 9999.0):
        found = decide(canary(), says("search", "fail"), now=now)
        assert found is not None
        assert found.verb == "hold"


# --- cannot tell for too long ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "cause", "verb"),
    [
        ("slow", "no_traffic", "rollback"),
        ("slow", "source_down", "hold"),
        ("careful", "no_traffic", "hold"),
        ("careful", "source_down", "rollback"),
        ("errors", "no_traffic", None),
        ("errors", "source_down", None),
    ],
)
def test_missing_traffic_and_sources_have_policies_of_their_own(gate: str, cause: base.Cause, verb: str | None) -> None:
    """They apply after the gate's patience, counted from when that began, and not before."""
    at_200 = says(gate, "inconclusive", cause, since=200.0)
    assert decide(canary(), at_200, now=299.99) is None
    assert decide(canary(), dataclasses.replace(at_200, since=None), now=1500.0) is None
    found = decide(canary(), at_200, now=300.0)
    assert (found.verb if found else None) == verb
    if found:
        assert found.reason == f"gate '{gate}': {gate} says inconclusive"
        assert found.verdicts == (at_200,)


@pytest.mark.parametrize("cause", ["too_few", "both_arms"])
def test_what_can_never_be_told_has_a_policy_at_the_end_of_the_phase(cause: base.Cause) -> None:
    """Wait: the release is given up. Roll back: the candidate is rejected. Ask: a person decides. Before: nothing."""
    for gate, kind in (("errors", Abandon), ("slow", Reject), ("careful", SetHold)):
        untold = says(gate, "inconclusive", cause, since=0.0)
        assert decide(canary(), untold, now=2099.99) is None
        found = decide(canary(), untold, now=2100.0)
        assert found is not None
        assert isinstance(found.event, kind)


def test_missing_traffic_at_the_end_of_a_phase_goes_by_its_own_policy() -> None:
    """`too_few` is for what was seen and does not suffice; a gate that waits for traffic lets the release be given up."""
    patient = SERVICE.model_copy(
        update={"gates": {"slow": SERVICE.gates["slow"].model_copy(update={"no_traffic": "wait", "source_down": "wait"})}}
    )
    for cause in ("no_traffic", "source_down"):
        untold = says("slow", "inconclusive", cause, since=0.0)  # type: ignore[arg-type]
        found = policy.decide(canary(), patient, ready=(B,), verdicts={"slow": untold}, now=2100.0)
        assert found is not None
        assert isinstance(found.event, Abandon)


def test_what_has_passed_or_failed_has_no_policy_for_not_knowing() -> None:
    """A failed signal for itself is never rolled back by `too_few`, and a pass never asks."""
    gates = {"conversion": SERVICE.gates["conversion"].model_copy(update={"too_few": "roll_back", "no_traffic": "ask"})}
    strict = SERVICE.model_copy(update={"gates": gates})
    failed = says("conversion", "fail", "no_traffic", since=0.0)
    found = policy.decide(canary(), strict, ready=(B,), verdicts={"conversion": failed}, now=2100.0)
    assert found is not None
    assert isinstance(found.event, Abandon)
    assert policy.decide(canary(), strict, ready=(B,), verdicts={"conversion": failed}, now=2000.0) is None


def test_a_release_that_cannot_be_judged_is_given_up_with_what_was_missing() -> None:
    """Not blamed, and never waved through; what passed and what only observes is not listed."""
    failed = says("conversion", "fail")
    why = "no verdict within 2000 s: errors says inconclusive; conversion says fail"
    found = decide(canary(), says("slow", "pass"), UNTOLD, says("shown", "fail"), failed, now=2100.0)
    event = Abandon(bundle=B, reason=why)
    assert found == policy.Decision(event=event, verb="abandon", reason=why, verdicts=(UNTOLD, failed))


def test_a_release_whose_workers_went_away_is_given_up_for_that() -> None:
    """All gates passed, but there is nobody to cut over to."""
    found = decide(canary(), GOOD, ready=(A,), now=2100.0)
    assert found is not None
    assert found.reason == "no verdict within 2000 s: its workers are not ready"
    odd = decide(dataclasses.replace(canary(), position=None), GOOD, ready=(A,), now=2100.0)
    assert odd is not None
    assert odd.reason == "no verdict within 0 s: its workers are not ready"


def test_a_release_that_passes_at_the_last_moment_goes_on() -> None:
    """The end of a phase ends only what could not be judged."""
    found = decide(canary(), GOOD, now=2100.0)
    assert found is not None
    assert found.event == ADVANCE


# --- whatever the gates say --------------------------------------------------------------------------------

GATES = tuple(SERVICE.gates)
CAUSES = ("too_few", "no_traffic", "source_down", "both_arms")
VERDICTS = st.dictionaries(
    st.sampled_from(GATES),
    st.tuples(st.sampled_from(["pass", "fail", "inconclusive"]), st.sampled_from(CAUSES), st.none() | st.floats(0.0, 5000.0)),
)


@hypothesis.given(said=VERDICTS, phases=st.integers(1, 4), now=st.floats(100.0, 9000.0), waived=st.sets(st.sampled_from(GATES)))
def test_no_release_goes_on_unless_every_gate_that_counts_has_passed(
    said: dict[str, tuple[base.VerdictOutcome, base.Cause, float | None]], phases: int, now: float, waived: set[str]
) -> None:
    """And every decision is one that the core accepts."""
    verdicts = [says(gate, outcome, cause, since=since) for gate, (outcome, cause, since) in said.items()]
    state = dataclasses.replace(on_its_way(phases), waived=tuple(waived))
    found = decide(state, *verdicts, now=now)
    if found is None:
        return
    after(state, found.event, now=now)
    counted = [verdict for verdict in verdicts if verdict.gate not in waived and verdict.kind != "observe"]
    if isinstance(found.event, Advance | CutOver):
        assert all(verdict.outcome == "pass" for verdict in counted)
        assert now - 100.0 >= CHAIN[phases - 1].min_s
    failed = [verdict for verdict in counted if verdict.kind == "guardrail" and verdict.outcome == "fail"]
    assert not failed or isinstance(found.event, Reject)


def test_a_decision_on_an_older_revision_does_no_harm() -> None:
    """The core refuses it, so that two controllers that decide at once make one change."""
    found = decide(canary(), BAD)
    assert found is not None
    moved = after(canary(), back(), Propose(bundle=C, verified=True, chain=CHAIN))
    with pytest.raises(errors.Conflict, match="no longer the candidate"):
        transitions.step(moved, found.event, 200.0)

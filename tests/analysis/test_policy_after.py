"""What follows from verdicts after the cut-over, on watch, and after a step back."""

from __future__ import annotations

import dataclasses

import pytest

from lastgood.analysis import policy
from lastgood.core.events import BakeEnded, Condemn, Reject, RollBack, SetHold, Verified
from lastgood.core.state import State
from lastgood.gates import base
from tests.analysis.test_policy import BAD, GOOD, UNTOLD, decide, says
from tests.core.rollouts import A, B, after, alarm, baking, canary, held, released

# --- after the cut-over ------------------------------------------------------------------------------------


def test_a_failed_guardrail_in_the_bake_rolls_back() -> None:
    """It blames what it has measured and nothing else, and asks for the declared time of measuring."""
    reason = "gate 'errors': errors says fail"
    event = RollBack(reason=reason, seen=B, automatic=True, verify_s=250.0)
    expected = policy.Decision(event=event, verb="rollback", reason=reason, verdicts=(BAD,))
    assert decide(baking(A, B), BAD) == expected
    assert decide(baking(A, B), BAD, now=9999.0) == expected
    assert decide(held(baking(A, B)), BAD) == expected


def test_a_trigger_on_stable_rolls_back_long_after_the_bake() -> None:
    """Idle services are watched by the gates that say so."""
    found = decide(released(A, B), BAD)
    assert found is not None
    assert isinstance(found.event, RollBack)
    assert decide(released(A, B), GOOD) is None
    assert decide(released(A, B)) is None


def test_a_bake_ends_with_its_time() -> None:
    """Also if a gate could not tell, or a signal that resumes by itself failed: only a guardrail speaks against it. The reason says which."""

    def ended(reason: str, *said: base.Verdict) -> policy.Decision:
        return policy.Decision(event=BakeEnded(), verb="bake-ended", reason=reason, verdicts=said)

    good = "the release stayed healthy during its bake"
    assert decide(baking(A, B), GOOD, now=109.99) is None
    assert decide(baking(A, B), GOOD, now=110.0) == ended(good, GOOD)
    assert decide(baking(A, B), says("shown", "fail"), now=110.0) == ended(good)
    assert decide(baking(A, B), now=110.0) == ended(good)
    untold = "no guardrail failed in the 10 s of its bake; without a verdict: "
    for said in (UNTOLD, says("slow", "inconclusive"), says("careful", "inconclusive"), says("conversion", "fail")):
        assert decide(baking(A, B), said, now=110.0) == ended(f"{untold}{said.gate}: {said.why}", said)
    both = UNTOLD, says("search", "fail")
    assert decide(held(baking(A, B)), GOOD, *both, now=130.0) == ended(
        "no guardrail failed in the 30 s of its bake; without a verdict: "
        "errors: errors says inconclusive; search: search says fail", *both
    )  # fmt: skip


def test_only_a_bake_ends() -> None:
    """An idle service with a stale deadline is left alone."""
    assert decide(dataclasses.replace(released(A, B), phase_until=50.0), GOOD) is None


def test_a_signal_for_a_person_holds_after_the_cut_over_too() -> None:
    """While baking (before the bake may end) and on watch."""
    for state, now in ((baking(A, B), 100.0), (baking(A, B), 110.0), (released(A, B), 100.0)):
        found = decide(state, says("search", "fail"), now=now)
        assert found is not None
        assert found.event == SetHold(reason="gate 'search': search says fail", actor="lastgood", gate="search")
    assert decide(held(released(A, B)), says("search", "fail")) is None


@pytest.mark.parametrize("cause", ["no_traffic", "source_down"])
def test_policies_for_missing_traffic_and_sources_apply_after_the_cut_over(cause: base.Cause) -> None:
    """One rolls back and the other asks, after its patience."""
    verbs = {"no_traffic": ("rollback", "hold"), "source_down": ("hold", "rollback")}[cause]
    for gate, verb in zip(("slow", "careful"), verbs, strict=True):
        untold = says(gate, "inconclusive", cause, since=0.0)
        for state in (baking(A, B, now=95.0), released(A, B)):
            assert decide(state, untold, now=99.99) is None
            found = decide(state, untold, now=100.0)
            assert found is not None
            assert found.verb == verb


def test_waived_gates_do_not_count_in_the_bake_either() -> None:
    """Who overruled a gate in the canary need not do so again after the cut-over."""
    assert decide(dataclasses.replace(baking(A, B), waived=("errors", "search")), BAD, says("search", "fail")) is None


def test_nothing_is_blamed_while_a_step_back_is_being_measured() -> None:
    """Triggers wait: no rollback of a rollback."""
    state = after(released(A, B), alarm(verify_s=300.0))
    assert decide(state, BAD, says("slow", "inconclusive", "no_traffic", since=-900.0)) is None


def test_a_service_that_serves_nothing_is_not_judged() -> None:
    """There is nobody to roll back or to hold for."""
    down = after(released(A, B), Condemn(bundle=B, kind="revoked", reason="cve", take_down=True))
    assert decide(down, BAD, says("search", "fail")) is None


# --- after a step back -------------------------------------------------------------------------------------

MEASURED = after(canary(), Reject(bundle=B, reason="bad", verify_s=300.0))
"""B was rejected at 100; until 400 it is measured whether that helped."""


def verify(*said: base.Verdict, now: float = 200.0, state: State = MEASURED) -> policy.Decision | None:
    """The decision on a state after a step back."""
    return policy.verify(state, {verdict.gate: verdict for verdict in said}, now=now)


def verified(outcome: str, why: str, words: str, *told: base.Verdict) -> policy.Decision:
    """The end of a measurement."""
    event = Verified(outcome=outcome, reason=why)  # type: ignore[arg-type]
    return policy.Decision(event=event, verb="verified", reason=f"{words}: {why}", verdicts=told)


def test_all_gates_passed_is_recovered() -> None:
    """As soon as that can be told, with what each said."""
    both = (GOOD, says("search", "pass"))
    assert verify(*both) == verified("recovered", "errors says pass; search says pass", "recovered", *both)


def test_one_failed_gate_is_not_recovered() -> None:
    """At once, whatever the others say: going back did not help, so the release was not the cause."""
    said = (says("careful", "pass"), BAD, says("search", "fail"), says("slow", "inconclusive"))
    assert verify(*said) == verified("not_recovered", "errors says fail; search says fail", "not recovered", *said)


def test_a_gate_that_cannot_tell_is_waited_for_until_the_time_is_over() -> None:
    """Then it is inconclusive, and only what could not tell is said."""
    said = (says("search", "pass"), UNTOLD, says("slow", "inconclusive"))
    assert verify(*said, now=399.99) is None
    expected = verified("inconclusive", "errors says inconclusive; slow says inconclusive", "inconclusive", *said)
    assert verify(*said, now=400.0) == expected


def test_a_service_whose_gates_cannot_judge_stable_alone_is_inconclusive() -> None:
    """Without any verdict nobody claims that it recovered."""
    assert verify(now=399.0) is None
    why = "no gate of this service can measure stable alone"
    assert verify(now=400.0) == verified("inconclusive", why, "inconclusive")


def test_what_only_observes_does_not_say_whether_it_recovered() -> None:
    """Neither its failure nor its pass counts."""
    assert verify(GOOD, says("shown", "fail")) == verified("recovered", "errors says pass", "recovered", GOOD)
    assert verify(says("shown", "pass")) is None


def test_nothing_is_verified_where_nothing_is_being_measured() -> None:
    """No step back, no question."""
    assert verify(GOOD, now=9999.0, state=released(A)) is None

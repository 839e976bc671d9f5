"""Error rates, slow answers and disagreements: who is blamed, who is not, what a pass takes, and what people read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from tests.gates.paths import GATES, START, counted, every, fed, said, track

ERRORS = GATES["errors"]


# --- against stable ----------------------------------------------------------------------------------------


def test_a_tenfold_error_rate_fails_by_evidence():
    """The sentence carries both rates with their counts, the evidence and its boundary."""
    verdict = said(track(ERRORS), counted(1, 12, n=(20, 380), p=(0.06, 0.005)))
    assert (verdict.outcome, verdict.cause) == ("fail", "sequential")
    assert verdict.evidence is not None
    assert verdict.boundary == pytest.approx(2.009, abs=0.01)
    assert verdict.evidence >= verdict.boundary
    bad, beside = round(verdict.estimate * verdict.n), round(verdict.reference * verdict.n_beside)
    for part in (
        f"({bad} of {verdict.n})",
        f"({beside} of {verdict.n_beside:,}) of stable",
        f"evidence 10^{verdict.evidence:.1f}",
        "10^2.0",
    ):
        assert part in verdict.why


def test_five_bad_minutes_fail_where_the_evidence_may_not_speak():
    """The persistence rule is an opinion of its own: where stable's errors come in clumps, the evidence is weighed down by them."""
    calm = [one for minute in range(20) for one in every(6, Tally(n=40), clump(minute), after=60 * minute)]
    bad = [one for minute in range(20, 26) for one in every(6, Tally(n=40, bad=8), clump(minute), after=60 * minute)]
    verdict = said(track(ERRORS), [*calm, *bad])
    assert (verdict.outcome, verdict.cause, verdict.streak) == ("fail", "persistence", 5)
    assert verdict.why.endswith("over the threshold for 5 windows of 60 s in a row")
    assert said(track(ERRORS.model_copy(update={"persistence": 0})), [*calm, *bad]).outcome != "fail"


def clump(minute: int) -> Tally:
    """Ten percent bad in every other minute, none in between."""
    return Tally(n=400, bad=40 if minute % 2 else 0)


def test_as_many_errors_as_stable_pass():
    """Two points more are excluded once the requests are enough, and the sentence says what was excluded."""
    verdict = said(track(ERRORS), counted(3, 100, n=(20, 380), p=(0.005, 0.005)))
    assert (verdict.outcome, verdict.cause) == ("pass", "excluded")
    assert verdict.interval is not None
    assert verdict.interval[1] <= 0.02
    assert verdict.why.endswith("more than 2 points above stable is excluded")


def test_a_pass_takes_its_fewest_requests():
    """However clear it is: a margin that one look would exclude still waits for `min_samples`."""
    gate = ERRORS.model_copy(update={"margin": 0.5, "min_samples": 5000})
    seen = every(10, Tally(n=400), Tally(n=4000))
    assert said(track(gate), seen).needs == pytest.approx(1000, rel=0.05)
    assert said(track(gate), [*seen, *every(3, Tally(n=400), Tally(n=4000), after=100)]).outcome == "pass"


def test_an_arm_without_weight_is_neither_blamed_nor_passed():
    """The candidate gets nothing while stable fails all the time."""
    verdict = said(track(ERRORS), every(60, Tally(), Tally(n=400, bad=200)))
    assert (verdict.outcome, verdict.cause, verdict.n) == ("inconclusive", "too_few", 0)
    assert verdict.evidence == pytest.approx(0, abs=1e-9)
    assert verdict.why.endswith("no requests yet")


@pytest.mark.parametrize("beside", [None, Tally()])
def test_a_counter_of_one_arm_only_is_no_comparison(beside):
    """Stable's counter is missing or stands still: no blame for half of all requests, no pass for none, and the reason is told."""
    for bad in (0, 20):
        verdict = said(track(ERRORS), every(60, Tally(n=40, bad=bad), beside))
        assert (verdict.outcome, verdict.cause, verdict.interval) == ("inconclusive", "too_few", None)
        assert verdict.why.endswith("no requests of stable to compare with")


def test_a_ramp_through_a_bad_hour_is_not_taken_for_a_fault():
    """All errors rise when the share grows: plain rates differ by two points, those on equal terms do not (Simpson)."""
    one = track(ERRORS)
    fed(one, every(60, Tally(n=20), Tally(n=380)), step=0)
    verdict = said(one, every(60, Tally(n=200, bad=10), Tally(n=200, bad=10), after=600), step=1)
    plain = one.watched.bad / one.watched.n - one.beside.bad / one.beside.n
    assert plain > 0.02
    assert verdict.outcome == "pass"
    assert verdict.estimate == pytest.approx(verdict.reference, abs=1e-9)


def test_what_is_needed_is_right_within_a_factor_of_two():
    """Asked once a few hundred requests are in; on average over runs the truth lies within half and double of the estimate."""
    ratios = []
    for seed in range(25):
        one, asked = track(ERRORS), None
        for look, seen in enumerate(counted(100 + seed, 400, n=(10, 190), p=(0.005, 0.005))):
            one.take(seen)
            if look == 19:
                asked = one.verdict(seen.at)
            elif asked and look % 3 == 0 and one.verdict(seen.at).outcome == "pass":
                ratios += [(one.watched.n - asked.n) / asked.needs] if asked.needs else []
                break
    assert len(ratios) >= 20
    assert 0.5 <= float(np.median(ratios)) <= 2
    assert 0.5 <= math.exp(float(np.mean(np.log(ratios)))) <= 2


def test_what_will_never_pass_says_so():
    """Three points more than stable for ever: no number of requests excludes two."""
    gate = ERRORS.model_copy(update={"persistence": 0})
    verdict = said(track(gate, alpha=1e-300), every(50, Tally(n=100, bad=4), Tally(n=100, bad=1)))
    assert (verdict.outcome, verdict.needs) == ("inconclusive", None)
    assert verdict.why.endswith("at the present rate, more than 2 points above stable will not be excluded")


def test_both_arms_over_the_ceiling_blame_nobody():
    """An error rate with `max`: stable is over it as well, so there is no verdict, since when it is so."""
    gate = gates.ErrorRate(metric="error_rate", max=0.05, margin=0.001)
    verdict = said(track(gate), every(60, Tally(n=40, bad=8), Tally(n=400, bad=80)))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "both_arms")
    assert verdict.since is not None
    assert START < verdict.since <= START + 100


# --- alone -------------------------------------------------------------------------------------------------


def test_alone_without_any_limit_it_says_which_setting_is_missing():
    """Neither `max` nor anything known of an earlier stable: no verdict, and what to set."""
    for reference in (None, Tally()):
        verdict = said(track(ERRORS, mode="alone", reference=reference), every(60, Tally(n=400, bad=200)))
        assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
        assert "set 'max'" in verdict.why


@pytest.mark.parametrize(
    ("gate", "reference", "limit"),
    [
        pytest.param(gates.ErrorRate(metric="error_rate", max=0.03), None, 0.03, id="max"),
        pytest.param(gates.ErrorRate(metric="error_rate", max=0.03), Tally(n=1000, bad=500), 0.03, id="max before reference"),
        pytest.param(gates.ErrorRate(metric="error_rate"), Tally(n=1000, bad=10), 0.03, id="reference and margin"),
    ],
)
def test_alone_it_is_held_against_its_limit(gate, reference, limit: float):
    """Twice the limit fails by evidence, half of it passes; nothing beside it is asked for."""
    bad = said(track(gate, mode="alone", reference=reference), every(40, Tally(n=100, bad=6)))
    assert (bad.outcome, bad.cause) == ("fail", "sequential")
    assert bad.reference == pytest.approx(limit)
    assert "where 3.0 % is allowed" in bad.why
    good = said(track(gate, mode="alone", reference=reference), every(40, Tally(n=200, bad=3)))
    assert (good.outcome, good.cause) == ("pass", "excluded")
    assert good.n_beside is None


def test_alone_just_above_the_limit_is_not_beyond_doubt():
    """3.2 % where 3 % is allowed: neither blame nor a pass, and no false promise of one."""
    gate = gates.ErrorRate(metric="error_rate", max=0.03)
    verdict = said(track(gate, mode="alone"), every(10, Tally(n=125, bad=4)))
    assert (verdict.outcome, verdict.needs) == ("inconclusive", None)
    assert verdict.why.endswith("above 3.0 %, but not yet significant")


def test_alone_five_bad_minutes_fail_too():
    """Windows over the limit in a row, where errors have come in clumps before."""
    gate = gates.ErrorRate(metric="error_rate", max=0.1)
    calm = [one for minute in range(30) for one in every(6, Tally(n=40, bad=8 * (minute % 2)), after=60 * minute)]
    verdict = said(track(gate, mode="alone"), [*calm, *every(36, Tally(n=40, bad=10), after=1800)])
    assert (verdict.outcome, verdict.cause) == ("fail", "persistence")


# --- latency and agreement ---------------------------------------------------------------------------------

LATENCY = GATES["latency"]


@pytest.mark.parametrize("mode", ["compare", "alone"])
def test_a_slow_candidate_fails(mode):
    """Four percent over the ceiling where one is allowed; alone, and beside a stable that keeps to it."""
    verdict = said(track(LATENCY, mode=mode), every(30, Tally(n=50, bad=2), Tally(n=400, bad=2) if mode == "compare" else None))
    assert verdict.outcome == "fail"
    assert "share slower than 250 ms 4.0 % (60 of 1,500) where 1.0 % is allowed" in verdict.why


def test_a_quick_candidate_passes():
    """0.4 % over the ceiling; two percent are excluded."""
    verdict = said(track(LATENCY), every(100, Tally(n=25), Tally(n=400, bad=2)))
    assert (verdict.outcome, verdict.cause) == ("pass", "excluded")
    assert verdict.why.endswith("more than 2.0 % is excluded")


def test_a_stable_as_slow_excuses_the_candidate():
    """Both have twenty percent slow answers: no verdict on the candidate, and people learn that stable is slow too."""
    verdict = said(track(LATENCY), every(60, Tally(n=40, bad=8), Tally(n=400, bad=80)))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "both_arms")
    assert "20.0 % (4,800 of 24,000) of stable" in verdict.why
    assert "stable is also over the threshold" in verdict.why


def test_a_much_slower_candidate_is_blamed_though_stable_is_slow():
    """Stable has three percent slow answers, the candidate half: that is no common cause."""
    assert said(track(LATENCY), every(30, Tally(n=40, bad=20), Tally(n=400, bad=12))).outcome == "fail"


def test_the_excuse_ends_with_its_cause():
    """Stable recovers, the candidate stays slow: it is blamed after all."""
    one = track(LATENCY)
    both = said(one, every(10, Tally(n=40, bad=1), Tally(n=400, bad=10)))
    assert both.outcome == "inconclusive"
    assert said(one, every(200, Tally(n=40, bad=3), Tally(n=400), after=100)).outcome == "fail"


@pytest.mark.parametrize(("bad", "outcome"), [(0, "pass"), (5, "fail")])
def test_disagreement_is_held_against_what_the_gate_leaves(bad: int, outcome: str):
    """Five percent of other answers are allowed; stable's own figures are of no account here."""
    verdict = said(track(GATES["agreement"]), every(40, Tally(n=30, bad=bad), Tally(n=30)))
    assert verdict.outcome == outcome
    assert "where 5.0 % is allowed" in verdict.why


def test_an_answer_that_comes_late_is_not_lost():
    """Observations of no length, at the same time as the one before, count like any other."""
    one = track(ERRORS)
    for _ in range(50):
        one.take(Observation(at=START, watched=Tally(n=8, bad=4), beside=Tally(n=80)))
    assert one.verdict(START).outcome == "fail"

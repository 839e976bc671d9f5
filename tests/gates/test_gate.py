"""A track: the same observations give the same verdict; every cause and since when; nothing odd upsets it."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood.gates import base
from lastgood.gates.base import Observation, Tally
from lastgood.gates.gate import budget
from lastgood.service import gates as service_gates
from tests.gates.paths import GATES, START, anything, counted, down, every, fed, said, scored, track

ALONE = {name: gate for name, gate in GATES.items() if name not in ("agreement", "ejections", "split")}
REFERENCE = Tally(n=1000, bad=5, total=200.0, value=3.0)


def stored(seen: Observation) -> Observation:
    """*seen*, written to the ledger and read again."""
    return base.observation(json.loads(json.dumps(seen.to_json())))


@hypothesis.given(name=st.sampled_from(sorted(GATES)), seed=st.integers(0, 10_000), alone=st.booleans(), split=st.integers(0, 40))
@hypothesis.settings(max_examples=40, deadline=None)
def test_the_same_observations_give_the_same_verdicts(name: str, seed: int, alone: bool, split: int):
    """At every look; also when the first part comes out of the ledger, and when the track was copied in between."""
    made = {"mode": "alone", "reference": REFERENCE} if alone and name in ALONE else {"mode": "compare"}
    whole, resumed = track(GATES[name], **made), track(GATES[name], **made)
    for look, (step, seen) in enumerate(anything(seed, 40)):
        if look == split:
            resumed = pickle.loads(pickle.dumps(resumed))  # noqa: S301  # our own bytes
        odd = any(tally and tally.value is not None and math.isnan(tally.value) for tally in (seen.watched, seen.beside))
        whole.take(seen, step=step)
        resumed.take(seen if odd or look >= split else stored(seen), step=step)
        assert repr(whole.verdict(seen.at)) == repr(resumed.verdict(seen.at))
    assert (whole.watched, whole.beside) == (resumed.watched, resumed.beside)


@pytest.mark.parametrize("name", GATES)
def test_memory_does_not_grow(name: str):
    """After two thousand observations a track is no larger than after five hundred, give or take longer numbers."""
    one, sizes = track(GATES[name]), []
    for look, (step, seen) in enumerate(anything(3, 2000)):
        one.take(seen, step=step)
        if look in (499, 1999):
            sizes.append(len(pickle.dumps(one)))
    assert sizes[1] <= sizes[0] + 2000


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("mode", ["compare", "alone"])
def test_nothing_seen_is_too_few_and_then_no_traffic(name: str, mode):
    """At the start there is nothing to tell; after the patience the cause is that nobody came, where the gate counts requests."""
    one = track(GATES[name], mode=mode)
    assert (one.verdict(START).outcome, one.verdict(START).cause) == ("inconclusive", "too_few")
    late = one.verdict(START + 1000)
    counts = not isinstance(
        GATES[name], service_gates.Downstream | service_gates.Query | service_gates.OutOfMemory | service_gates.Ejections
    )
    assert (late.outcome, late.cause) == ("inconclusive", "no_traffic" if counts else "too_few")
    assert late.since == START


ALL_WELL = counted(1, 100, n=(50, 950), p=(0.004, 0.004))
BAD = Tally(n=40, bad=20)
GOOD = Tally(n=40)

CASES = {
    "fail sequential": ("errors", counted(2, 20, n=(20, 380), p=(0.2, 0.005))),
    "fail persistence": ("accuracy", scored(3, 22, n=(20, 400), mean=(0.5, 0.7), sd=0.05)),
    "fail events": ("oom", every(1, Tally(n=1, value=2.0))),
    "pass excluded": ("errors", ALL_WELL),
    "pass within": ("health", every(5, Tally(n=1))),
    "inconclusive both_arms": ("latency", every(20, Tally(n=40, bad=8), Tally(n=400, bad=80))),
    "inconclusive no_traffic": ("errors", every(100, Tally(), Tally(n=95))),
    "inconclusive source_down": ("errors", [*ALL_WELL, *down(2, after=1000)]),
    "inconclusive too_few": ("errors", every(5, Tally(n=5), Tally(n=95))),
}


@pytest.mark.parametrize("what", CASES)
def test_every_cause(what: str):
    """One short story for each."""
    name, seen = CASES[what]
    gate = GATES[name]
    if what == "fail persistence":  # evidence would be quicker here
        gate = gate.model_copy(update={"persistence": 2})
    verdict = said(track(gate, alpha=1e-9 if what == "fail persistence" else 0.01), seen)
    assert f"{verdict.outcome} {verdict.cause}" == what
    assert verdict.why
    assert (verdict.gate, verdict.metric, verdict.kind, verdict.at) == ("gate", gate.metric, gate.kind, seen[-1].at)


@pytest.mark.parametrize("name", GATES)
def test_a_dead_source_is_told_since_its_first_silence(name: str):
    """`since` is the first silence in a row; one answer ends it, and the policies begin anew."""
    one = fed(track(GATES[name]), [*down(1, after=0), *every(1, GOOD, Tally(n=400), after=10, share=0.1), *down(3, after=50)])
    verdict = one.verdict(START + 100)
    assert (verdict.outcome, verdict.cause, verdict.since) == ("inconclusive", "source_down", START + 60)
    assert verdict.why == "the source has not answered for 40 s: connection refused"
    after = said(one, every(1, GOOD, Tally(n=400), after=100, share=0.1))
    assert after.cause != "source_down"
    assert said(one, down(1, after=200)).since == START + 210


def test_blame_does_not_go_away_with_the_source():
    """A guardrail that has failed stays failed when the source falls silent, and when the good news come."""
    one = fed(track(GATES["errors"]), counted(4, 20, n=(20, 380), p=(0.3, 0.005)))
    assert said(one, down(5, after=300)).cause == "sequential"
    assert said(one, every(2000, Tally(n=200), Tally(n=3800, bad=40), after=400)).outcome == "fail"


def test_a_signal_follows_the_present_evidence():
    """It holds a release while it fails, and lets it go on once the windows are good again."""
    one = fed(track(GATES["health"]), every(40, Tally(n=1, bad=1)))
    assert one.verdict(START + 400).cause == "persistence"
    assert said(one, every(12, Tally(n=1), after=400)).outcome == "pass"


def test_no_traffic_begins_with_the_last_request():
    """The candidate had requests for a while; the time without any counts from the last of them."""
    seen = [*every(10, Tally(n=3), Tally(n=97)), *every(95, Tally(), Tally(n=97), after=100)]
    quiet = fed(track(GATES["errors"]), seen[:10])
    assert quiet.verdict(START + 999).cause == "too_few"
    assert quiet.verdict(START + 1000).cause == "no_traffic"
    verdict = said(track(GATES["errors"]), seen)
    assert (verdict.cause, verdict.since) == ("no_traffic", START + 100)
    assert verdict.why.endswith("no requests for 950 s")


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(
    "odd",
    [
        Tally(n=10, value=math.nan),
        Tally(n=10, total=math.inf),
        Tally(n=-1),
        Tally(n=10, bad=-1),
        Tally(n=10, bad=11),
    ],
    ids=["not a number", "infinite", "negative requests", "negative bad ones", "more bad ones than requests"],
)
def test_a_figure_that_is_none_is_a_source_that_is_down(name: str, odd: Tally):
    """Of either arm; it is never taken for data, and the sentence shows the figure."""
    for broken in (
        Observation(at=START + 20, watched=odd, beside=Tally(n=400), share=0.1),
        Observation(at=START + 20, watched=GOOD, beside=odd, share=0.1),
    ):
        one = fed(track(GATES[name]), every(1, GOOD, Tally(n=400), share=0.1))
        held = one.watched, one.beside
        verdict = said(one, [broken])
        assert (verdict.cause, verdict.since) == ("source_down", START + 20)
        assert repr(odd.n) in verdict.why
        assert (one.watched, one.beside) == held


def test_a_time_that_is_none_is_a_source_that_is_down():
    """And the time since when is the start, for there is no better one."""
    verdict = fed(track(GATES["errors"]), [Observation(at=math.nan, watched=GOOD, beside=GOOD)]).verdict(START + 5)
    assert (verdict.cause, verdict.since) == ("source_down", START)


@pytest.mark.parametrize("name", GATES)
def test_an_arm_that_is_not_there_upsets_nothing(name: str):
    """No stable beside it at all, only now and then, or only without requests: a verdict each time, and never blame."""
    watched, stable = Tally(n=40, total=8.0, value=0.0), Tally(n=400, total=80.0, value=0.0)
    for besides in ([None], [Tally()], [None, stable, Tally()]):
        one = track(GATES[name])
        for look in range(30):
            one.take(Observation(at=START + 10.0 * (look + 1), watched=watched, beside=besides[look % len(besides)]))
            assert one.verdict(START + 10.0 * (look + 1)).outcome in ("pass", "inconclusive")


@pytest.mark.parametrize("jump_s", [-300.0, 300.0])
@pytest.mark.parametrize("name", ["errors", "latency", "brier", "health", "queue", "split"])
def test_a_clock_that_jumps_five_minutes_changes_no_verdict(name: str, jump_s: float):
    """For good in mid-analysis, and for a single look: healthy stays healthy, bad is found."""
    figure = {"health": 1, "queue": 1}.get(name, 40)
    for bad in (False, True):
        watched = Tally(
            n=figure, bad=figure * bad // 2 if name != "health" else int(bad), total=(0.9 if bad else 0.2) * figure, value=60.0 * bad
        )
        if name == "health":
            watched = dataclasses.replace(watched, value=None)
        beside = Tally(n=10 if bad and name == "split" else 400, total=80.0, value=0.0)
        steady = every(100, watched, beside, share=0.1)
        wanted = said(track(GATES[name]), steady).outcome
        assert wanted == ("fail" if bad else "pass")
        for after, until in ((50, 100), (50, 51)):
            moved = [dataclasses.replace(one, at=one.at + jump_s * (after <= i < until)) for i, one in enumerate(steady)]
            assert said(track(GATES[name]), moved).outcome == wanted


def test_needs_come_with_the_time_they_take():
    """Requests still needed, at the rate since the beginning; both are in the sentence."""
    verdict = said(track(GATES["errors"]), every(10, Tally(n=10), Tally(n=190, bad=1)))
    assert verdict.needs is not None
    assert verdict.needs_s == pytest.approx(verdict.needs)
    assert f"needs about {verdict.needs:,} more requests ({verdict.needs:,} s at this rate)" in verdict.why
    assert "more than 2 points above stable" in verdict.why


def test_a_verdict_says_nothing_that_is_over():
    """A pass or a failure needs nothing and has no `since`."""
    for seen in (ALL_WELL, counted(2, 20, n=(20, 380), p=(0.2, 0.005))):
        verdict = said(track(GATES["errors"]), seen)
        assert (verdict.needs, verdict.needs_s, verdict.since) == (None, None, None)


def test_looking_changes_nothing():
    """A verdict asked for at any time leaves the next one as it is."""
    one, other = track(GATES["errors"]), track(GATES["errors"])
    for seen in ALL_WELL:
        one.take(seen)
        other.take(seen)
        for at in (0.0, 1e5, 1e10):
            one.verdict(seen.at + at)
    assert one.verdict(START + 1000) == other.verdict(START + 1000)


def test_the_sums_are_those_of_both_arms():
    """For the reference of a later analysis; what a dead source said is not in them."""
    one = fed(track(GATES["errors"]), [*every(3, Tally(n=5, bad=1), Tally(n=95)), *down(1, after=30), *every(1, Tally(n=2), after=50)])
    assert (one.watched, one.beside) == (Tally(n=17, bad=3), Tally(n=285))
    assert one.verdict(START + 60).n == 17


def test_the_budget_is_shared_by_the_gates_that_decide():
    """Equally by guardrails and signals with a test of chance; none for values and events; one that observes costs the others nothing."""
    gates = {**GATES, "shown": service_gates.ErrorRate(metric="error_rate", kind="observe")}
    shares = budget(gates, 0.07)
    tested = {"errors", "errors_max", "latency", "brier", "accuracy", "agreement", "split"}
    assert {name for name, share in shares.items() if share} == tested | {"shown"}
    assert sum(shares[name] for name in tested) == pytest.approx(0.07)
    assert shares["shown"] == shares["errors"]
    assert budget({}, 0.05) == {}


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_a_test_of_chance_needs_an_alpha(alpha: float):
    """One that is none is refused with the way out; gates without such a test do not care."""
    with pytest.raises(ValueError, match=r"needs an alpha between 0 and 1.*'budget'"):
        track(GATES["errors"], alpha=alpha)
    assert track(GATES["oom"], alpha=alpha).verdict(START).evidence is None

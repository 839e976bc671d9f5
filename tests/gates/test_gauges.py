"""Values, probes, kills and ejections: windows over a limit, and events that fail at once."""

from __future__ import annotations

import json

import pytest

from lastgood.gates import base
from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from tests.gates.paths import GATES, START, every, fed, said, track

HEALTH = GATES["health"]
QUERY = gates.Query(metric="promql", query="queue{bundle='$bundle'}", max=50.0, persistence=3)
BESIDE = gates.Query(metric="promql", query="queue{bundle='$bundle'}", margin=5.0, persistence=3)


def at(value: float | None) -> Tally:
    """One look that brought *value*."""
    return Tally(n=1, value=value)


# --- a service behind this one -----------------------------------------------------------------------------


def test_failed_probes_fail_after_enough_windows():
    """All probes fail: five windows of a minute, then the gate; one window less is told as it is."""
    seen = every(31, Tally(n=1, bad=1))
    early = said(track(HEALTH), seen[:25])
    assert (early.outcome, early.streak) == ("inconclusive", 4)
    assert early.why.endswith("over the threshold in 4 of 5 windows in a row")
    late = said(track(HEALTH), seen)
    assert (late.outcome, late.cause, late.estimate, late.reference) == ("fail", "persistence", 1.0, 0.5)
    assert "downstream 1 (newest of 31 probes), 0.5 allowed" in late.why


def test_some_failed_probes_are_within():
    """Two of six in each minute are below half, so it passes; four of six are not."""
    for bad, outcome in ((2, "pass"), (4, "fail")):
        seen = [Observation(at=START + 10.0 * (i + 1), watched=Tally(n=1, bad=int(i % 6 < bad))) for i in range(40)]
        assert said(track(HEALTH), seen).outcome == outcome


def test_a_few_probes_are_too_few():
    """Three is the least; the sentence says how many are missing."""
    verdict = said(track(HEALTH), every(2, Tally(n=1)))
    assert (verdict.cause, verdict.needs) == ("too_few", 1)
    assert "needs about 1 more probes" in verdict.why
    assert said(track(HEALTH), every(3, Tally(n=1))).outcome == "pass"


# --- a figure of Prometheus --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["compare", "alone"])
def test_a_value_over_its_highest_fails(mode):
    """Three windows in a row; below it passes."""
    for value, outcome in ((60.0, "fail"), (40.0, "pass")):
        verdict = said(track(QUERY, mode=mode), every(25, at(value)))
        assert verdict.outcome == outcome
        assert f"promql {value:g} (newest of 25 probes), 50 allowed" in verdict.why


def test_a_value_over_stables_and_the_margin_fails():
    """Sixteen beside ten where five more are allowed; fourteen pass."""
    for value, outcome in ((16.0, "fail"), (14.0, "pass")):
        verdict = said(track(BESIDE), every(25, at(value), at(10.0)))
        assert verdict.outcome == outcome
        assert "10 of stable, 5 more allowed" in verdict.why


def test_values_are_averaged_over_a_window():
    """A peak of a moment is no minute over the limit."""
    seen = [Observation(at=START + 10.0 * (i + 1), watched=at(200.0 if i % 6 == 0 else 0.0)) for i in range(40)]
    assert said(track(QUERY), seen).outcome == "pass"


def test_negative_values_are_values():
    """A temperature or a balance may be below nothing."""
    gate = gates.Query(metric="promql", query="t{bundle='$bundle'}", max=-10.0, persistence=3)
    assert said(track(gate), every(25, at(-5.0))).outcome == "fail"
    assert said(track(gate), every(25, at(-15.0))).outcome == "pass"


def test_stable_over_the_limit_as_well_excuses_it():
    """And the candidate not much above it: nobody is blamed; with a margin exceeded it is."""
    gate = QUERY.model_copy(update={"margin": 5.0})
    shared = said(track(gate), every(25, at(62.0), at(60.0)))
    assert (shared.outcome, shared.cause) == ("inconclusive", "both_arms")
    assert said(track(gate), every(25, at(70.0), at(60.0))).outcome == "fail"


def test_without_stables_value_a_margin_tells_nothing():
    """No verdict, and why."""
    verdict = said(track(BESIDE), every(25, at(16.0)))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
    assert verdict.why.endswith("no value of stable to compare with")


def test_alone_a_margin_is_held_against_what_stable_had():
    """Ten before, so fifteen are allowed; without a reference the missing setting is named."""
    for value, outcome in ((16.0, "fail"), (14.0, "pass")):
        assert said(track(BESIDE, mode="alone", reference=at(10.0)), every(25, at(value))).outcome == outcome
    for reference in (None, Tally(n=3)):
        assert "set 'max'" in said(track(BESIDE, mode="alone", reference=reference), every(25, at(1.0))).why


def test_a_value_of_nothing_survives_the_ledger():
    """Zero is a value: what stable had before may have been just that."""
    seen = Observation(at=START, watched=at(0.0), beside=at(0.0))
    kept = base.observation(json.loads(json.dumps(seen.to_json())))
    assert (kept, kept.beside) == (seen, at(0.0))
    assert said(track(BESIDE, mode="alone", reference=kept.beside), every(25, at(16.0))).outcome == "fail"


def test_no_value_is_no_probe():
    """A look that brought neither a value nor a probe does not count."""
    verdict = said(track(QUERY), every(10, Tally()))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
    assert verdict.why == "no value of promql yet: no probes yet"


# --- kills and ejections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit", "noun"), [("oom", 2, "out-of-memory kills"), ("ejections", 1, "ejections")])
def test_events_fail_at_once(name: str, limit: int, noun: str):
    """At the number that is allowed no more, without any window; below it passes, and both say how many."""
    gate = GATES[name]
    below = said(track(gate), every(3, at(limit - 1.0)))
    assert (below.outcome, below.cause, below.estimate) == ("pass", "within", limit - 1)
    assert below.why == f"{noun}: {limit - 1} in 3 measurements, fails at {limit}"
    failed = said(track(gate), [*every(3, at(limit - 1.0)), *every(1, at(float(limit)), after=30)])
    assert (failed.outcome, failed.cause, failed.reference) == ("fail", "events", limit)
    assert failed.why.startswith(f"{noun}: {limit} in 4 measurements")
    assert failed.evidence is None


def test_a_guardrails_kills_are_remembered():
    """A steady minute sets the worker's count back, but not the verdict; a signal follows the count."""
    seen = [*every(2, at(2.0)), *every(2, at(0.0), after=20)]
    assert said(track(GATES["oom"]), seen).outcome == "fail"
    assert said(track(GATES["oom"].model_copy(update={"kind": "signal"})), seen).outcome == "pass"


def test_events_pass_after_enough_looks():
    """Fewer looks than asked for are too few."""
    gate = GATES["oom"].model_copy(update={"min_samples": 5})
    one = fed(track(gate), every(3, at(0.0)))
    assert (one.verdict(START + 30).cause, one.verdict(START + 30).needs) == ("too_few", 2)
    assert said(one, every(2, at(0.0), after=30)).cause == "within"

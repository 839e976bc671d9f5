"""A track at its edges: whole verdicts, whole sentences, and times at which nothing has lasted yet."""

from __future__ import annotations

import math

import pytest

from lastgood.gates.base import Observation, Tally, Verdict
from lastgood.service import gates
from tests.gates.paths import GATES, START, down, every, fed, said, track

HEALTH = gates.Downstream(metric="downstream", url="http://127.0.0.1:1/health", persistence=4)


@pytest.mark.parametrize(("probes", "passes"), [(2, False), (3, True)])
def test_a_verdict_has_all_of_its_reading(probes: int, passes: bool) -> None:
    """What is needed is told while it cannot tell, and never with a pass."""
    needs = "needs about 1 more probes (10 s at this rate) to exclude a window over the threshold"
    assert said(track(HEALTH), every(probes, Tally(n=1), each_s=10)) == Verdict(
        gate="gate",
        metric="downstream",
        kind="signal",
        outcome="pass" if passes else "inconclusive",
        cause="within" if passes else "too_few",
        why=f"downstream 0 (newest of {probes} probes), 0.5 allowed" + ("" if passes else f": {needs}"),
        at=START + 10 * probes,
        n=probes,
        estimate=0.0,
        reference=0.5,
        persistence=4,
        needs=None if passes else 1,
        needs_s=None if passes else 10.0,
        since=None if passes else START,
    )


def test_a_failure_needs_nothing_more() -> None:
    """Though the look at it is one of too few for a pass."""
    verdict = said(track(GATES["oom"].model_copy(update={"min_samples": 5})), every(1, Tally(n=1, value=2.0)))
    assert (verdict.outcome, verdict.needs, verdict.needs_s, verdict.since) == ("fail", None, None, None)


@pytest.mark.parametrize(("looked_s", "since_s"), [(-50.0, 0.0), (0.0, 0.0), (500.0, 500.0)])
def test_patience_without_traffic_begins_with_the_first_look(looked_s: float, since_s: float) -> None:
    """Or with the analysis, if that is later; one second before its end nothing is said of traffic."""
    one = track(GATES["errors"])
    one.looked(START + looked_s)
    assert one.verdict(START + since_s + 899).cause == "too_few"
    verdict = one.verdict(START + since_s + 900)
    assert (verdict.cause, verdict.since) == ("no_traffic", START + since_s)
    assert verdict.why == "error rate unknown (none yet) against unknown (none yet) of stable: no requests for 900 s"


def test_a_look_takes_back_no_traffic() -> None:
    """Requests that came after the look still count from when they came."""
    one = fed(track(GATES["errors"]), every(1, Tally(n=3), Tally(n=97), each_s=800))
    one.looked(START + 500)
    assert one.verdict(START + 1699).cause == "too_few"
    assert (one.verdict(START + 1700).cause, one.verdict(START + 1700).since) == ("no_traffic", START + 800)


def test_what_comes_without_a_step_belongs_to_the_first_phase() -> None:
    """The evidence is that of phase 0, to the last digit, and no pool is thrown away in between."""
    one, other = track(GATES["errors"]), track(GATES["errors"])
    for seen in every(5, Tally(n=3, bad=1), Tally(n=40)):
        one.take(seen)
        other.take(seen, step=0)
    assert one.verdict(START + 50) == other.verdict(START + 50)


@pytest.mark.parametrize("now", [START, START - 5])
def test_no_time_has_passed_yet(now: float) -> None:
    """At the very start, or by a clock that went back, there is no rate and so no time that it would take."""
    one = track(HEALTH)
    one.take(Observation(at=START, watched=Tally(n=2)))
    verdict = one.verdict(now)
    assert (verdict.needs, verdict.needs_s) == (1, None)
    assert verdict.why.endswith(": needs about 1 more probes to exclude a window over the threshold")


@pytest.mark.parametrize(("after_s", "lasting"), [(-7.0, "0 s"), (0.0, "0 s"), (1.0, "1 s"), (1500.0, "1,500 s")])
@pytest.mark.parametrize("detail", ["", "connection refused"])
def test_a_silence_says_how_long_and_why_if_that_is_known(after_s: float, lasting: str, detail: str) -> None:
    """Never for less than nothing, and without a colon that nothing follows."""
    verdict = said(track(GATES["errors"]), down(1, after=0, detail=detail), after_s=after_s)
    assert verdict.why == f"the source has not answered for {lasting}" + (f": {detail}" if detail else "")


def test_the_newest_reason_of_a_silence_is_told() -> None:
    """Since when is still the first one."""
    one = fed(track(GATES["errors"]), [*down(1, after=0, detail="refused"), *down(1, after=10, detail="timed out")])
    assert one.verdict(START + 20).why == "the source has not answered for 10 s: timed out"


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (Observation(at=math.inf), "non-finite time: inf"),
        (Observation(at=START, watched=Tally(n=3, bad=4)), "impossible counts: 4 failures in 3 requests"),
        (
            Observation(at=START, beside=Tally(n=3, value=math.inf)),
            "non-finite value: Tally(n=3, bad=0, total=0.0, value=inf, user_errors=None, copies=0)",
        ),
        (Observation(at=START, watched=Tally(n=3, user_errors=4)), "impossible counts: 4 user errors and 0 copies in 3 requests"),
    ],
)
def test_a_figure_that_cannot_be_is_shown(observation: Observation, why: str) -> None:
    """Whole, for whoever mends the source."""
    one = track(GATES["errors"])
    one.take(observation)
    assert one.verdict(START).why == f"the source has not answered for 0 s: {why}"


def test_blame_by_evidence_names_it_and_its_boundary() -> None:
    """In powers of ten with one digit, the way the verdict has them."""
    verdict = said(track(GATES["errors"]), every(20, Tally(n=20, bad=4), Tally(n=380, bad=2)))
    assert verdict.why.endswith(f" of stable: evidence 10^{verdict.evidence:.1f}, boundary 10^2.0")

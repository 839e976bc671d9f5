"""The split of traffic: what the proxy really does, against what it was asked for."""

from __future__ import annotations

import pytest

from lastgood.gates.base import Observation, Tally
from tests.gates.paths import GATES, START, counted, every, fed, said, track

SPLIT = GATES["split"]


def sent(watched: int, beside: int, *, share: float | None, looks: int = 60) -> list[Observation]:
    """Requests of both arms at each look, where *share* was asked for."""
    return every(looks, Tally(n=watched), Tally(n=beside), share=share)


def test_the_split_asked_for_passes():
    """Five percent asked for, five percent sent, and the sentence says so."""
    verdict = said(track(SPLIT), sent(5, 95, share=0.05))
    assert (verdict.outcome, verdict.cause) == ("pass", "excluded") or verdict.cause == "within"
    assert verdict.why == "5.0 % of 6,000 requests where 5.0 % is requested, 2.5 % to 7.5 % allowed"
    assert (verdict.estimate, verdict.reference) == (0.05, pytest.approx(0.05))


@pytest.mark.parametrize(("watched", "beside"), [(12, 88), (0, 100), (1, 99)])
def test_a_wrong_split_fails(watched: int, beside: int):
    """Too much for the candidate, nothing at all, or a fifth of what was asked for."""
    verdict = said(track(SPLIT), sent(watched, beside, share=0.05))
    assert (verdict.outcome, verdict.cause) == ("fail", "sequential")
    assert f"{watched}.0 % of 6,000 requests" in verdict.why
    assert verdict.evidence is not None
    assert verdict.boundary is not None
    assert verdict.evidence >= verdict.boundary


def test_blame_takes_ten_times_the_evidence():
    """Users are no dice: the boundary is that of a tenth of alpha."""
    split, errors = track(SPLIT).verdict(START), track(GATES["errors"]).verdict(START)
    assert split.boundary == pytest.approx(errors.boundary + 1)


def test_a_split_at_the_edge_is_not_waved_through():
    """Just outside of the band and not beyond doubt: no verdict, and why."""
    verdict = said(track(SPLIT), sent(8, 92, share=0.05, looks=30))
    assert (verdict.outcome, verdict.cause, verdict.needs) == ("inconclusive", "too_few", None)
    assert verdict.why.endswith("the split is outside the allowed range, but not yet significantly")


def test_a_pass_takes_enough_requests_of_the_candidate():
    """Two hundred; fewer say how many are missing and how long that takes."""
    verdict = said(track(SPLIT), sent(5, 95, share=0.05, looks=30))
    assert (verdict.cause, verdict.needs, verdict.needs_s) == ("too_few", 50, pytest.approx(100))
    assert "needs about 50 more requests (100 s at this rate)" in verdict.why


def test_a_ramp_is_held_against_what_was_asked_for_at_each_time():
    """Five, then fifty percent: the mean of what was asked for, weighted with the requests, is what counts."""
    one = fed(track(SPLIT), sent(5, 95, share=0.05))
    verdict = said(one, every(60, Tally(n=50), Tally(n=50), share=0.5, after=600), step=1)
    assert verdict.outcome == "pass"
    assert (verdict.estimate, verdict.reference) == (pytest.approx(0.275), pytest.approx(0.275))


@pytest.mark.parametrize("share", [None, 0.0, 1.0, float("nan"), -0.5, 2.0])
def test_without_a_share_there_is_no_split(share):
    """Nothing asked for, all for one arm, or no number: nothing is told, nobody blamed."""
    verdict = said(track(SPLIT), sent(50, 50, share=share))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
    assert verdict.why.startswith("no traffic split observed yet")


def test_chance_is_no_broken_proxy():
    """Twenty ramps of random traffic at the very share: all of them pass."""
    for seed in range(20):
        one = track(SPLIT)
        for seen in counted(seed, 80, n=(5, 95), p=(0.0, 0.0)):
            one.take(Observation(at=seen.at, watched=seen.watched, beside=seen.beside, share=0.05))
        assert one.verdict(START + 800).outcome == "pass"

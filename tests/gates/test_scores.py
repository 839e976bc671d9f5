"""Means of scores: on rows of their own, on the same rows, and alone; in either direction."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from tests.gates.paths import START, every, said, scored, track

BRIER = gates.Score(metric="score", score="brier", margin=0.02)
ACCURACY = gates.Score(metric="score", score="accuracy", margin=0.02)


@pytest.mark.parametrize("paired", [False, True], ids=["unpaired", "paired"])
@pytest.mark.parametrize(("gate", "sign"), [(BRIER, 1), (ACCURACY, -1)], ids=["lower is better", "higher is better"])
def test_a_worse_mean_fails_and_an_equal_one_passes(gate, sign: int, paired: bool):
    """The interval faces the score's own way: watched minus stable."""
    n = (100, 100) if paired else (40, 400)
    bad = said(track(gate), scored(1, 60, n=n, mean=(0.5 + 0.15 * sign, 0.5), paired=paired))
    assert (bad.outcome, bad.cause) == ("fail", "sequential")
    good = said(track(gate), scored(2, 60, n=n, mean=(0.5, 0.5), sd=0.1, paired=paired))
    assert (good.outcome, good.cause) == ("pass", "excluded")
    for verdict, difference in ((bad, 0.15 * sign), (good, 0.0)):
        assert verdict.interval is not None
        assert verdict.interval[0] <= difference <= verdict.interval[1]
        assert verdict.estimate - verdict.reference == pytest.approx(difference, abs=0.02)


def test_a_better_mean_is_no_harm():
    """Half the loss: never blamed, and passes."""
    for seed in range(5):
        assert said(track(BRIER), scored(seed, 40, n=(40, 400), mean=(0.25, 0.5))).outcome == "pass"


def test_worse_within_the_margin_is_not_blamed():
    """By half the margin, for two hundred blocks."""
    for seed in range(5):
        assert said(track(BRIER), scored(seed, 200, n=(40, 400), mean=(0.51, 0.5))).outcome != "fail"


def test_the_same_rows_tell_sooner():
    """What both arms miss alike cancels out: with as many rows, pairs take fewer blocks than rows of their own."""

    def blocks(paired: bool) -> float:
        found = []
        for seed in range(10):
            one = track(BRIER)
            for number, seen in enumerate(scored(seed, 400, n=(40, 40), mean=(0.56, 0.5), paired=paired)):
                one.take(seen)
                if one.verdict(seen.at).outcome == "fail":
                    found.append(number + 1)
                    break
        assert len(found) == 10
        return float(np.median(found))

    assert blocks(paired=True) < blocks(paired=False)


def test_the_sentence_carries_means_rows_and_blocks():
    """And in the score's own name."""
    verdict = said(track(BRIER), every(30, Tally(n=20, total=10.0), Tally(n=200, total=20.0), each_s=60))
    assert verdict.outcome == "fail"
    assert "mean brier 0.5 (600 rows in 30 blocks) against 0.1 (6,000 rows) of stable" in verdict.why


def test_few_rows_wait_for_a_block():
    """Four rows of the candidate per look: three looks make a block; until there are two, no bound and no estimate of what is needed."""
    seen = every(3, Tally(n=4, total=2.0), Tally(n=400, total=200.0), each_s=60)
    verdict = said(track(BRIER), seen)
    assert (verdict.cause, verdict.interval, verdict.needs) == ("too_few", None, None)
    assert "(12 rows in 1 blocks)" in verdict.why
    assert verdict.why.endswith("fewer than two blocks of 10 rows so far")


@pytest.mark.parametrize("beside", [None, Tally()])
def test_rows_of_one_arm_only_are_no_comparison(beside):
    """Nothing is labelled of stable: neither blame nor pass, and the reason is told."""
    verdict = said(track(BRIER), every(30, Tally(n=40, total=40.0), beside, each_s=20))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
    assert verdict.why.endswith("no rows of stable to compare with")


def test_ten_blocks_are_the_fewest_for_a_pass():
    """A bound on a mean leans on the central limit theorem, however narrow it looks."""
    seen = scored(3, 10, n=(400, 4000), mean=(0.5, 0.5), sd=0.01)
    assert said(track(BRIER), seen[:9]).outcome == "inconclusive"
    assert said(track(BRIER), seen).outcome == "pass"


def test_what_is_needed_is_right_within_a_factor_of_two():
    """Asked after fifteen blocks; on average over runs the truth lies within half and double of the estimate."""
    ratios = []
    for seed in range(40):
        one, asked = track(BRIER), None
        for number, seen in enumerate(scored(200 + seed, 800, n=(10, 190), mean=(0.5, 0.5), sd=0.25)):
            one.take(seen)
            if number == 14:
                asked = one.verdict(seen.at)
            elif asked and number % 3 == 0 and one.verdict(seen.at).outcome == "pass":
                ratios += [(one.watched.n - asked.n) / asked.needs] if asked.needs else []
                break
    assert len(ratios) >= 25
    assert 0.5 <= float(np.median(ratios)) <= 2
    assert 0.5 <= math.exp(float(np.mean(np.log(ratios)))) <= 2


# --- alone -------------------------------------------------------------------------------------------------


def alone(seed: int, mean: float) -> list[Observation]:
    """An hour of blocks with nothing beside."""
    return [dataclasses.replace(one, beside=None) for one in scored(seed, 60, n=(40, 1), mean=(mean, 0.0))]


@pytest.mark.parametrize(
    ("gate", "reference", "good", "bad"),
    [
        pytest.param(BRIER.model_copy(update={"limit": 0.3}), None, 0.1, 0.5, id="ceiling"),
        pytest.param(ACCURACY.model_copy(update={"limit": 0.7}), None, 0.9, 0.5, id="floor"),
        pytest.param(BRIER, Tally(n=1000, total=280.0), 0.1, 0.5, id="lower, reference and margin"),
        pytest.param(ACCURACY, Tally(n=1000, total=720.0), 0.9, 0.5, id="higher, reference and margin"),
    ],
)
def test_alone_it_is_held_against_its_limit(gate, reference, good: float, bad: float):
    """On the wrong side it fails, on the right side it passes; the limit is shown."""
    limit = 0.3 if gate.lower_is_better else 0.7
    for mean, outcome in ((good, "pass"), (bad, "fail")):
        verdict = said(track(gate, mode="alone", reference=reference), alone(4, mean))
        assert verdict.outcome == outcome
        assert verdict.reference == pytest.approx(limit)
        assert f"against {limit:g} allowed" in verdict.why


@pytest.mark.parametrize("reference", [None, Tally()])
def test_alone_without_any_limit_it_says_which_setting_is_missing(reference):
    """No `limit`, and nothing known of an earlier stable."""
    verdict = said(track(BRIER, mode="alone", reference=reference), alone(5, 0.9))
    assert (verdict.outcome, verdict.cause) == ("inconclusive", "too_few")
    assert "set 'limit'" in verdict.why


def test_scores_may_be_negative():
    """An outcome in money may be a loss: less of it is worse where higher is better."""
    gate = gates.Score(metric="score", score="outcome.profit", better="higher", margin=0.1)
    assert said(track(gate), scored(6, 60, n=(40, 400), mean=(-2.0, -1.0))).outcome == "fail"
    assert said(track(gate), scored(7, 60, n=(40, 400), mean=(-1.0, -1.0))).outcome == "pass"


def test_the_scale_of_a_score_does_not_matter():
    """The same rows in cents instead of euros give the same evidence to the last digit that counts."""
    gate = gates.Score(metric="score", score="outcome.cost", better="lower", margin=0.05)
    cents = gate.model_copy(update={"margin": 5.0})
    seen = scored(8, 50, n=(40, 400), mean=(0.56, 0.5))
    more = [
        dataclasses.replace(
            one,
            watched=dataclasses.replace(one.watched, total=100 * one.watched.total),
            beside=dataclasses.replace(one.beside, total=100 * one.beside.total),
        )
        for one in seen
        if one.beside
    ]
    assert said(track(gate), seen).evidence == pytest.approx(said(track(cents), more).evidence, rel=1e-9)


def test_scores_that_never_differ_end():
    """All means equal to the margin's edge or to each other: no division by a spread of nothing."""
    for total in (20.0, 20.4):
        verdict = said(track(BRIER), every(40, Tally(n=20, total=total / 2), Tally(n=40, total=20.0), each_s=60))
        assert verdict.outcome == "pass"
        assert verdict.at == START + 2400

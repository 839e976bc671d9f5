"""Bounds against sums and integrals worked out another way, without chance."""

from __future__ import annotations

import math

import pytest
from scipy import integrate, stats

from lastgood.gates import confidence

ONE_GOOD, ONE_BAD = 10 / 10.5, 0.5 / 10.5
"""The chance of a first good and a first bad request under the prior Beta(0.5, 10)."""


def test_one_request_already_tells_something() -> None:
    """A rate is possible while it gives what was seen at least the twentieth part of the chance that the prior gives it."""
    assert confidence.proportion(0, 1) == (0.0, pytest.approx(1 - ONE_GOOD / 20))
    assert confidence.proportion(1, 1) == (pytest.approx(ONE_BAD / 20), 1.0)
    assert confidence.proportion(0, 1, alpha=0.2) == (0.0, pytest.approx(1 - ONE_GOOD / 5))


def test_part_of_a_request_tells_something_too() -> None:
    """For estimates of what is needed; none of it tells nothing."""
    assert confidence.proportion(0, 0.5)[1] < 1
    assert confidence.proportion(0, 0) == (0.0, 1.0)


def test_neither_end_is_possible_once_both_kinds_were_seen() -> None:
    """However little doubt is asked for; a bound that no number separates from an end is that end, and never beyond it."""
    assert not confidence._possible(1, 10, 0.0, 0.05)
    assert not confidence._possible(1, 10, 1.0, 0.05)
    assert confidence.proportion(1, 2, alpha=1e-300) == (0.0, 1.0)
    low, high = confidence.proportion(99, 100, alpha=1e-300)
    assert 0 < low < 1e-3
    assert high == 1.0


def test_a_difference_holds_with_half_the_doubt_in_either_arm() -> None:
    """Each arm's own bound at half of alpha, so that both hold together at alpha."""
    high, low = 1 - ONE_GOOD / 40, ONE_BAD / 40
    assert confidence.difference(0, 1, 0, 1) == pytest.approx((-high, high))
    assert confidence.difference(1, 1, 0, 1) == pytest.approx((low - high, 1.0))
    assert confidence.difference(0, 1, 1, 1) == pytest.approx((-1.0, high - low))
    wide = 1 - ONE_GOOD / 20
    assert confidence.difference(0, 1, 0, 1, alpha=0.1) == pytest.approx((-wide, wide))


def test_what_is_enough_already_needs_no_more() -> None:
    """And a search ends where its answer is known: within 2 % above it, at most a thousandfold."""
    assert confidence.factor(lambda times: times >= 1) == 1.0
    assert confidence.factor(lambda times: times >= 2) == 2.0
    assert confidence.factor(lambda times: times >= 1024) == 1024.0
    assert confidence.factor(lambda times: times > 1024) is None
    found = confidence.factor(lambda times: times >= 3)
    assert found is not None
    assert 3 <= found <= 3 * 1.02


# --- means -------------------------------------------------------------------------------------------------

DIFFERENCES = (0.5, -0.5, 0.25, -0.25, 0.25, -0.25, 0.0, 0.0, 0.0, 0.0)
"""Of ten blocks, with a mean of nothing and squares that sum up to three quarters: times 12/9 for their small number that is 1."""


def blocks(*, shift: float = 0.0, weight: float = 1.0) -> confidence.Blocks:
    """Ten blocks around *shift*, each worth *weight* rows."""
    made = confidence.Blocks()
    for difference in DIFFERENCES:
        made.add(shift + difference, weight)
    return made


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_mean_at_its_bound_has_the_evidence_that_excludes_it(times: float, alpha: float) -> None:
    """Robbins' mixture of bets over a normal prior, integrated numerically, is 1/alpha there.

    The prior's variance is the one that is best at thirty blocks (Waudby-Smith et al. 2024: the approximate solution).
    """
    variance = 1.0 * times  # of the sum, as the blocks were chosen
    best = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / (variance * 30 / (10 * times))
    total = blocks().half_width(times=times, alpha=alpha) * 10 * times
    prior = stats.norm(0, math.sqrt(best))
    wealth, _ = integrate.quad(lambda bet: math.exp(bet * total - bet**2 * variance / 2) * prior.pdf(bet), -20, 20)
    assert wealth == pytest.approx(1 / alpha, rel=1e-6)


def test_where_the_mean_lies_and_what_a_block_is_worth_change_no_width() -> None:
    """Sums of squares around a mean that is not 0 are taken for what they are."""
    width = blocks().half_width()
    assert blocks(shift=2.0).half_width() == pytest.approx(width)
    assert blocks(weight=3.0).half_width() == pytest.approx(width)
    assert blocks(shift=2.0).interval() == pytest.approx((2.0 - width, 2.0 + width))


def test_ten_blocks_may_be_looked_ahead_to() -> None:
    """Five blocks, looked at as if there were twice as many: just enough; a little less gives no bound."""
    made = confidence.Blocks()
    for difference in (0.5, -0.5, 0.25, -0.25, 0.0):
        made.add(difference, 1.0)
    assert math.isfinite(made.half_width(times=2.0))
    assert math.isinf(made.half_width(times=1.999))
    assert made.interval() is None

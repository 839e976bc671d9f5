"""Confidence sequences: they hold at every moment at once, and they are tight enough to be of use."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lastgood.gates import confidence


@pytest.mark.parametrize("p", [0.005, 0.05, 0.3])
def test_a_rate_seldom_ever_leaves_its_bounds(p: float):
    """400 arms, looked at 300 times each: the truth is outside at any time in no more than 5 % of them."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        looks = np.unique(np.geomspace(5, 20_000, 60).astype(int))
        bad = np.cumsum(rng.random(20_000) < p)
        missed += any(confidence._possible(int(bad[n - 1]), int(n), p, 0.05) is False for n in looks)
    assert missed / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@hypothesis.given(n=st.integers(1, 5000), data=st.data())
def test_bounds_enclose_what_was_seen(n: int, data):
    """Low <= seen <= high, within 0 and 1; more of the same makes them narrower."""
    bad = data.draw(st.integers(0, n))
    low, high = confidence.proportion(bad, n)
    assert 0 <= low <= bad / n <= high <= 1
    wide, narrow = high - low, confidence.proportion(4 * bad, 4 * n)
    assert narrow[1] - narrow[0] <= wide + 1e-9


def test_nothing_seen_excludes_nothing():
    """Not even the worst."""
    assert confidence.proportion(0, 0) == (0.0, 1.0)
    assert confidence.difference(0, 0, 5, 1000)[1] > 0.98


def test_two_points_are_excluded_within_hundreds_of_requests():
    """At 0.5 % errors in both arms and a twentieth of the traffic: about 550 requests of the candidate, not thousands."""
    times = confidence.factor(lambda times: confidence.difference(0.5 * times, 100 * times, 9.5 * times, 1900 * times)[1] <= 0.02)
    assert times is not None
    assert 400 <= 100 * times <= 650


def test_what_is_true_cannot_be_excluded():
    """However long one waits; the search says so and ends."""
    assert confidence.factor(lambda times: confidence.proportion(3 * times, 100 * times)[1] <= 0.02) is None


def test_a_mean_seldom_ever_leaves_its_bounds():
    """Skewed block means of unequal sizes, at every block from the tenth on: outside in few more than 5 % of the runs."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(400):
        blocks, out = confidence.Blocks(), False
        sizes, others = rng.poisson(10, 150) + 3, rng.poisson(190, 150) + 3
        for n, m in zip(sizes, others, strict=True):
            blocks.add(rng.gamma(n * 0.8) / n - rng.gamma(m * 0.8) / m, n * m / (n + m))
            interval = blocks.interval()
            out |= interval is not None and not interval[0] <= 0 <= interval[1]
        missed += out
    assert missed / 400 <= 0.08


def test_few_blocks_give_no_bounds():
    """Nine blocks are too few to lean on the central limit theorem; ten equal ones leave no doubt."""
    blocks = confidence.Blocks()
    for _ in range(9):
        blocks.add(0.5, 2.0)
    assert blocks.interval() is None
    blocks.add(0.5, 2.0)
    assert blocks.interval() == pytest.approx((0.5, 0.5))


@hypothesis.given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 50)), min_size=10, max_size=30), st.floats(0.01, 100))
def test_the_bound_of_a_mean_has_its_unit(seen, scale: float):
    """Scores in other units give the same bounds in these units; weights matter only relative to each other."""
    one, other = confidence.Blocks(), confidence.Blocks()
    for d, h in seen:
        one.add(d, h)
        other.add(d * scale, h * 7)
    assert other.mean == pytest.approx(one.mean * scale, abs=1e-6)
    assert other.half_width() == pytest.approx(one.half_width() * scale, rel=1e-3, abs=1e-4 * scale)

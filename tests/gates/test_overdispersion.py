"""Clumping: seen where it is, not where a rate changes slowly or only chance is at work."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lastgood.gates.overdispersion import Dispersion

START = 1_700_000_000.0


def factors(bad: Callable[[np.random.Generator, int], int], *, minutes: int = 240, n: int = 1000, runs: int = 60) -> list[float]:
    """The factor after *minutes* windows, in each of the runs."""
    found = []
    for seed in range(runs):
        rng, one = np.random.default_rng(seed), Dispersion(since=START)
        for minute in range(minutes):
            one.take(START + 60.0 * (minute + 1), n, min(n, bad(rng, minute)))
        found.append(one.factor)
    return found


def test_independent_failures_have_the_factor_one():
    """In nearly all runs; where chance makes it more, it is little."""
    found = factors(lambda rng, _: rng.poisson(6))
    assert np.mean(np.array(found) == 1) >= 0.95
    assert max(found) < 2


@pytest.mark.parametrize("size", [3, 10])
def test_bursts_have_the_factor_of_their_size(size: int):
    """Bursts of exactly that many: the factor is that number, to a fifth on average."""
    assert np.mean(factors(lambda rng, _: size * rng.poisson(1.5))) == pytest.approx(size, rel=0.2)


def test_a_rate_that_swings_over_the_day_is_no_clumping():
    """From nearly nothing to twice the mean and back in four hours: neighbours are alike, so the factor stays 1."""
    found = factors(lambda rng, minute: rng.poisson(6 * (1 - np.cos(2 * np.pi * minute / 240))))
    assert np.mean(np.array(found) == 1) >= 0.9


def test_unequal_windows_are_no_clumping():
    """Twice the requests, twice the failures: expected, not clumped."""
    one = Dispersion(since=START)
    for minute in range(200):
        n = 1000 if minute % 2 else 4000
        one.take(START + 60.0 * (minute + 1), n, n // 200)
    assert one.factor == 1


@hypothesis.given(st.lists(st.tuples(st.floats(-1e4, 1e5), st.integers(0, 50), st.integers(0, 50)), max_size=80))
def test_the_factor_never_sharpens_evidence(seen):
    """Whatever comes, in whatever order of time: a finite number of at least 1."""
    one = Dispersion(since=START)
    for at, n, bad in seen:
        one.take(START + at, max(n, bad), bad)
        assert 1 <= one.factor < 1e6

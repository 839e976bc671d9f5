"""The persistence rule: which window an observation falls into, what counts, and what chance alone does."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from lastgood.gates import persistence as gate_persistence
from lastgood.gates.base import Tally

START = 1_700_000_000.0


def made(*, persistence: int = 3, window_min: int = 10, also: gate_persistence.WindowTest | None = None) -> gate_persistence.Windows:
    """Windows of a minute, over if more than half is bad."""
    return gate_persistence.Windows(
        window_s=60.0,
        window_min=window_min,
        persistence=persistence,
        since=START,
        over=lambda watched, _: watched.bad > watched.n / 2,
        also=also,
    )


def put(found: gate_persistence.Windows, *spoken: tuple[float, int, int]) -> gate_persistence.Windows:
    """(seconds since the start, requests, bad ones) of each observation."""
    for at, n, bad in spoken:
        found.take(START + at, Tally(n=n, bad=bad), None)
    return found


def test_windows_in_a_row_fail_once_the_last_is_closed():
    """Three windows over the threshold: it fails with the first observation after them, not before."""
    found = put(made(), (30, 10, 9), (90, 10, 9), (180, 10, 9))
    assert (found.streak, found.failing) == (2, False)
    put(found, (180.5, 0, 0))
    assert (found.streak, found.failing) == (3, True)


def test_a_good_window_breaks_the_row():
    """And the count begins anew."""
    found = put(made(), (30, 10, 9), (90, 10, 9), (150, 10, 1), (210, 10, 9), (270, 1, 1))
    assert (found.streak, found.last) == (1, True)


def test_a_small_window_neither_counts_nor_breaks_a_row():
    """Nine requests, all good or all bad, say nothing where ten are asked for."""
    for bad in (0, 9):
        assert put(made(), (30, 10, 9), (90, 9, bad), (150, 10, 9), (210, 0, 0)).streak == 2


def test_missing_windows_do_not_break_a_row():
    """A clock that jumps ahead an hour closes the window it leaves; what lies between did not happen."""
    assert put(made(), (30, 10, 9), (3690, 10, 9), (3750, 10, 9), (7200, 0, 0)).failing


def test_a_clock_that_goes_back_stays_in_its_window():
    """Observations with an earlier time belong to the window that is open; nothing is judged twice."""
    found = put(made(), (90, 10, 9), (10, 10, 9), (-500, 10, 9), (119, 10, 9))
    assert (found.streak, found.watched.n) == (0, 40)
    assert put(found, (121, 0, 0)).streak == 1


def test_the_end_of_a_window_belongs_to_it():
    """`at` is the end of the time that was observed, so 60.0 closes the first minute rather than opening the second."""
    found = put(made(), (60.0, 10, 9))
    assert found.last is None
    assert put(found, (60.001, 10, 9)).last is True


def test_no_persistence_never_fails():
    """0 turns the rule off, however bad it is."""
    assert not put(made(persistence=0), *((30 + 60 * i, 10, 10) for i in range(50))).failing


def test_a_row_knows_how_much_of_it_is_shared():
    """Half of the windows or more in which stable was over as well, and only those in the present row."""
    found = made(also=lambda watched, _: watched.bad == 10)
    put(found, (30, 10, 10), (90, 10, 9), (150, 0, 0))
    assert (found.streak, found.shared, found.mostly_shared) == (2, 1, True)
    put(found, (170, 10, 9), (190, 10, 0), (260, 0, 0))
    assert (found.streak, found.shared, found.mostly_shared) == (0, 0, False)


@hypothesis.given(st.lists(st.tuples(st.floats(-1e4, 1e6), st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_no_time_upsets_it(spoken):
    """Whatever the clock does, streaks stay between 0 and the number of observations, and nothing is counted twice."""
    found = made()
    put(found, *((at, max(n, bad), bad) for at, n, bad in spoken))
    assert 0 <= found.streak <= len(spoken)
    assert found.watched.n <= sum(max(n, bad) for _, n, bad in spoken)


@hypothesis.given(n=st.integers(1, 400), p=st.floats(0.0001, 0.999), data=st.data())
def test_the_tail_is_that_of_the_binomial(n: int, p: float, data):
    """Above the mean it is scipy's; below nobody asks, and it is 1."""
    bad = data.draw(st.integers(0, n))
    expected = 1.0 if bad <= n * p else stats.binom.sf(bad - 1, n, p)
    assert gate_persistence.tail(bad, n, p) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(("persistence", "times"), [(5, 5), (3, 3), (1, 1)])
def test_a_row_by_chance_comes_as_often_as_the_level_says(persistence: int, times: int):
    """Windows that are over with that probability: rows of them come at most alpha times a day, in the mean over many days."""
    level = gate_persistence.level(0.5, window_s=60.0, persistence=persistence)
    assert level**times * 1440 == pytest.approx(0.5)
    rng = np.random.default_rng(3)
    streak, rows = np.zeros(4000, int), np.zeros(4000, int)
    for _ in range(1440):
        streak = np.where(rng.random(4000) < level, streak + 1, 0)
        rows += streak == persistence
    assert rows.mean() <= 0.5 + 3 * rows.std() / 4000**0.5


def test_the_normal_tail_is_scipys():
    """To all digits that matter."""
    for z in (-3.0, 0.0, 1.6, 6.0):
        assert gate_persistence.normal_tail(z) == pytest.approx(stats.norm.sf(z), rel=1e-9)

"""Windows at their edges: the first one, a row of one, and the tail where there is nothing to sum up."""

from __future__ import annotations

import pytest

from lastgood.gates import persistence as gate_persistence
from lastgood.gates.base import Tally
from tests.gates.paths import START


def over(seen: list[tuple[Tally, Tally | None]]) -> gate_persistence.WindowTest:
    """A judge that keeps what it was asked in *seen* and finds everything over the threshold."""

    def judge(watched: Tally, beside: Tally | None) -> bool:
        seen.append((watched, beside))
        return True

    return judge


def test_each_window_is_judged_once_with_its_own_sums() -> None:
    """The arm beside it is None where it was not seen in that window, and its sum where it was."""
    asked: list[tuple[Tally, Tally | None]] = []
    made = gate_persistence.Windows(window_s=60, window_min=1, persistence=3, since=START, over=over(asked))
    made.take(START + 10, Tally(n=1), None)
    made.take(START + 70, Tally(n=2), Tally(n=5))
    made.take(START + 80, Tally(n=3), Tally(n=6))
    made.take(START + 130, Tally(n=4), None)
    made.take(START + 200, Tally(), None)
    assert asked == [(Tally(n=1), None), (Tally(n=5), Tally(n=11)), (Tally(n=4), None)]


@pytest.mark.parametrize("before_s", [0.0, 50.0, 500.0])
def test_what_came_before_the_start_belongs_to_the_first_window(before_s: float) -> None:
    """And closes nothing."""
    made = gate_persistence.Windows(window_s=60, window_min=1, persistence=3, since=START, over=over([]))
    made.take(START - before_s, Tally(n=1), None)
    made.take(START + 30, Tally(n=1), None)
    assert (made.last, made.watched.n) == (None, 2)
    made.take(START + 60.5, Tally(n=1), None)
    assert (made.last, made.watched.n, made.streak) == (True, 1, 1)


@pytest.mark.parametrize(("persistence", "failing"), [(0, False), (1, True), (2, False)])
def test_one_window_fails_where_one_is_enough(persistence: int, failing: bool) -> None:
    """And never where the rule is off."""
    made = gate_persistence.Windows(window_s=60, window_min=1, persistence=persistence, since=START, over=over([]))
    assert made.failing is False
    for at in (30, 90):
        made.take(START + at, Tally(n=1), None)
    assert (made.streak, made.failing) == (1, failing)


def test_a_window_of_days_comes_by_chance_no_more_often_than_one_of_a_day() -> None:
    """There is at most one of them in a day."""
    assert gate_persistence.level(0.25, window_s=86_400, persistence=2) == 0.5
    assert gate_persistence.level(0.25, window_s=10 * 86_400, persistence=2) == 0.5
    assert gate_persistence.level(0.25, window_s=43_200, persistence=0) == 0.125


def test_the_tail_has_its_ends() -> None:
    """The mean itself is nothing improbable; where nothing can be bad, one that is cannot be by chance; all bad is one case."""
    assert gate_persistence.tail(5, 10, 0.5) == 1.0
    assert gate_persistence.tail(1, 10, 0.0) == 0.0
    assert gate_persistence.tail(3, 3, 0.5) == pytest.approx(0.125, rel=1e-12)
    assert gate_persistence.tail(2, 3, 0.5) == pytest.approx(0.5, rel=1e-12)

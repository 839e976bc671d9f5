"""Clumping in a handful of minutes, worked out by hand.

Two neighbours of equally many requests, with a and b bad ones: (a - b)^2 were seen where a + b are expected by chance.
"""

from __future__ import annotations

import pytest

from lastgood.gates.overdispersion import Dispersion
from tests.gates.paths import START


def minutes(*counted: tuple[int, int]) -> Dispersion:
    """One look at the end of each minute that brought (requests, bad ones), and one after the last of them."""
    made = Dispersion(since=START)
    for place, (n, bad) in enumerate(counted):
        made.take(START + 60.0 * (place + 1), n, bad)
    made.take(START + 60.0 * len(counted) + 1, 0, 0)
    return made


def test_two_minutes_are_enough_to_see_a_burst() -> None:
    """None of a thousand, then fifty at once: 2,500 where 50 are expected; the newest minute counts once it is full."""
    made = Dispersion(since=START)
    made.take(START + 60, 1000, 0)
    made.take(START + 120, 1000, 50)
    assert made.factor == 1.0
    made.take(START + 120.5, 0, 0)
    assert made.factor == 50.0


def test_looks_within_one_minute_are_one_window() -> None:
    """Up to its end, and with what came before the start; their requests and bad ones add up."""
    made = Dispersion(since=START)
    for at, n, bad in ((-50, 600, 0), (10, 300, 30), (60, 100, 20), (60.5, 900, 0), (90, 50, 0), (120, 50, 0), (121, 0, 0)):
        made.take(START + at, n, bad)
    assert made.factor == 50.0


def test_requests_count_in_proportion() -> None:
    """Bad ones in a minute of a tenth of the traffic are ten times as unlikely there."""
    assert minutes((1000, 0), (100, 10)).factor == pytest.approx(100.0)
    assert minutes((100, 10), (1000, 0)).factor == pytest.approx(100.0)


def test_a_minute_without_requests_is_passed_over() -> None:
    """The ones before and after it are neighbours then."""
    assert minutes((1000, 0), (0, 0), (0, 0), (1000, 50)).factor == 50.0
    assert minutes((0, 0), (1000, 50), (0, 0)).factor == 1.0


def test_a_row_of_minutes_adds_up() -> None:
    """Each is a neighbour twice: 50^2 + 50^2 + 0 where 50 + 50 + 0 are expected."""
    assert minutes((1000, 0), (1000, 50), (1000, 0), (1000, 0)).factor == 50.0
    assert minutes((1000, 0), (1000, 50), (1000, 50)).factor == pytest.approx(2500 / 150)


@pytest.mark.parametrize(
    ("counted", "factor"),
    [
        (((9, 0), (9, 4)), 1.0),  # 16 where 4 + 4 * sqrt(4 * 3 + 1) are still chance
        (((9, 0), (9, 5)), 5.0),  # 25, and 5 + 4 * sqrt(5 * 4 + 1) = 23.3
        (((22, 0), (25, 5)), 1.0),  # 22, for the second minute has more requests
        (((9, 2), (9, 1), (9, 1), (9, 8)), 1.0),  # 1 + 0 + 49 where 14 + 4 * sqrt(80 + 1) = 50: just chance
        (((9, 2), (9, 1), (9, 1), (9, 9)), 65 / 15),  # 65, and 15 + 4 * sqrt(98 + 1) = 54.8
        (((100, 1), (600, 0)), 6.0),  # a single one, seven times as unlikely as not: 6 where 1 + 4 is chance
        (((100, 1), (490, 0)), 1.0),
    ],
)
def test_clumping_counts_only_beyond_chance(counted: tuple[tuple[int, int], ...], factor: float) -> None:
    """By four times the root of the chance variance and one: exactly so much is chance, the least more is not."""
    assert minutes(*counted).factor == pytest.approx(factor)

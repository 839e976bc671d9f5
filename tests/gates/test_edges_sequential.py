"""The e-process at its edges: exact sums of a few bets, without chance."""

from __future__ import annotations

import math

import pytest

from lastgood.gates import eprocess
from lastgood.gates.base import Tally
from tests.gates.paths import START


def test_a_limit_of_one_is_a_billionth_below_it() -> None:
    """So that all of them being bad still tells a little, and never that the limit is kept."""
    assert all(0 < bet < 1e-7 for bet in eprocess.above(10, 10, limit=1.0))


def test_the_weights_of_a_prior_need_not_add_up_to_one() -> None:
    """Only their proportion counts: bets that win nothing leave the wealth at one."""
    wealth = eprocess.Wealth((1.0, 3.0), since=START)
    wealth.grow((0.0, 0.0), at=START, step=0)
    assert wealth.log_e == pytest.approx(0.0, abs=1e-12)
    wealth.grow((math.log(3), 0.0), at=START, step=0)
    whole = 0.25 * 3 + 0.75
    assert wealth.log_e == pytest.approx(math.log(0.88 * whole + 0.12))


def test_bets_that_do_not_fit_the_prior_are_refused() -> None:
    """A mixture that left one out would go on with a wrong sum."""
    with pytest.raises(ValueError, match="zip"):
        eprocess.Wealth((1.0, 1.0), since=START).grow((0.1,), at=START, step=0)


@pytest.mark.parametrize(("lost", "worn"), [(-2.0, False), (-2.001, True)])
def test_a_new_start_is_worth_its_price_only_below_the_worn_limit(lost: float, worn: bool) -> None:
    """At exactly the limit it is not."""
    wealth = eprocess.Wealth((1.0,), since=START)
    wealth.grow((lost,), at=START + 1, step=0)
    wealth.grow((5.0,), at=START + eprocess.REST_S, step=0)
    began = 0.05 / 2 * math.exp(5.0) if worn else 0.0
    unspent = 0.07 + (0.05 / 2 if worn else 0.05)
    assert wealth.log_e == pytest.approx(math.log(0.88 * math.exp(lost + 5.0) + began + unspent))


def test_the_poorest_of_the_later_starts_gives_way_whichever_it_is() -> None:
    """Here it is the first of them, which lost while the others had not begun."""
    wealth = eprocess.Wealth((1.0,), since=START)
    wealth.grow((-20.0,), at=START, step=1)
    for step in range(2, eprocess.SLOTS + 2):
        wealth.grow((0.0,), at=START + step, step=step)
    weights = [0.07 / (j * (j + 1)) for j in range(2, eprocess.SLOTS + 2)]
    unspent = 0.07 / (eprocess.SLOTS + 2) + 0.05
    assert wealth.log_e == pytest.approx(math.log(math.fsum([0.88 * math.exp(-20.0), *weights, unspent])), abs=1e-12)


def test_a_pool_is_open_as_long_as_one_arm_has_something() -> None:
    """Of either arm."""
    pool = eprocess.Pool(5)
    assert pool.empty
    pool.add(Tally(n=2), Tally(n=0), step=0)
    assert not pool.empty
    other = eprocess.Pool(5)
    other.add(Tally(n=0), Tally(n=2), step=0)
    assert not other.empty


def test_the_newer_of_two_figures_stands() -> None:
    """The older one where the newer observation has none; counts and sums add up."""
    held = Tally(n=2, bad=1, total=0.5, value=3.0)
    assert eprocess.joined(held, Tally(n=3, bad=2, total=1.0, value=4.0)) == Tally(n=5, bad=3, total=1.5, value=4.0)
    assert eprocess.joined(held, Tally(n=1)) == Tally(n=3, bad=1, total=0.5, value=3.0)
    assert eprocess.joined(Tally(n=1), Tally(n=1)) == Tally(n=2)

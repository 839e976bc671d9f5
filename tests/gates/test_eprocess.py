"""The evidence: never above its boundary by chance more often than promised, and quick where there is a fault."""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from bench import gate_rules as rules
from bench import gate_sims as sims
from bench import gate_twin as twin
from lastgood.gates import eprocess
from lastgood.gates.base import Tally

RUNS = 500
ALPHA = 0.05
RAMP = ((0.0, 0.05), (1800.0, 0.25), (5400.0, 0.5))


def promised(share: float) -> bool:
    """Whether a share of false alarms fits ALPHA, with three standard errors for the number of runs."""
    return share <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def ever(rule: rules.Rule, draw: sims.Draw, *, rate: float = 2.0, shares=((0.0, 0.05),), hours: float = 4.0, **more) -> sims.Outcome:
    """What *rule* does with *draw*, looked at twice a minute."""
    traffic = sims.Traffic(rate=rate, draw=draw, runs=RUNS, shares=shares, hours=hours, look_s=30.0, fine_s=None, **more)
    return sims.play(traffic, {"ours": rule})["ours"]


@pytest.mark.parametrize("p", [0.005, 0.05, 0.3])
@pytest.mark.parametrize("shares", [((0.0, 0.05),), ((0.0, 0.5),), RAMP], ids=["5 %", "50 %", "ramp"])
def test_a_healthy_arm_is_seldom_blamed(p: float, shares):
    """Two equal arms, looked at 480 times: evidence and windows together cross no more often than alpha, at any rate of errors."""
    assert promised(ever(rules.Ours(twin.Errors(runs=RUNS, alpha=ALPHA)), sims.rates(p, p), shares=shares).found / 100)


def test_a_better_arm_is_hardly_ever_blamed():
    """'No worse' covers better: an arm with half the errors crosses less often than one with as many."""
    assert ever(rules.Ours(twin.Errors(runs=RUNS, alpha=ALPHA)), sims.rates(0.01, 0.02), shares=RAMP).found / 100 <= ALPHA / 4


def test_a_ramp_through_changing_hours_blames_nobody():
    """The share grows while all errors rise and fall: each look is compared with itself, so nothing is mixed up."""
    gate = rules.Ours(twin.Errors(runs=RUNS, alpha=ALPHA))
    assert promised(ever(gate, sims.daily(0.04), shares=RAMP, hours=8.0).found / 100)


def test_an_outage_of_both_arms_blames_nobody():
    """A third of all requests of both arms fail for minutes: that is no evidence against one of them."""
    draw = sims.outages(0.005, during=0.3, per_hour=1.0, minutes=5, look_s=30.0)
    assert promised(ever(rules.Ours(twin.Errors(runs=RUNS, alpha=ALPHA)), draw, rate=20.0).found / 100)


@pytest.mark.parametrize("p", [0.01, 0.3])
def test_an_arm_at_its_limit_is_seldom_blamed(p: float):
    """One arm alone, just as bad as allowed."""

    class Alone:
        def __init__(self) -> None:
            self.excess = twin.Excess(runs=RUNS, limit=p)

        def take(self, at, seen, *, step):
            return self.excess.take(at, seen[0], seen[2], step=step) >= -math.log(ALPHA)

    assert promised(ever(Alone(), sims.rates(p, p), shares=((0.0, 0.5),)).found / 100)


@pytest.mark.parametrize(("share", "real"), [(0.05, 0.05), (0.05, 0.0749), (0.05, 0.0251), (0.5, 0.26)])
def test_a_split_within_its_band_is_seldom_blamed(share: float, real: float):
    """A share anywhere in the band, up to its very edges; four hours at a look every half minute."""
    rng = np.random.default_rng(5)
    wealth = twin.Wealths(eprocess.RATIO_PRIOR * 2, runs=RUNS)
    low, high = eprocess.band(share, 0.5)
    crossed = np.zeros(RUNS, bool)
    for look in range(480):
        n = rng.poisson(60, RUNS).astype(float)
        mine = rng.binomial(n.astype(int), real).astype(float)
        bets = np.concatenate([twin.above(mine, n, high), twin.above(n - mine, n, 1 - low)])
        wealth.grow(bets, n > 0, at=30.0 * (look + 1), step=0)
        crossed |= wealth.log_e >= -math.log(ALPHA)
    assert promised(float(crossed.mean()))


@pytest.mark.parametrize("paired", [False, True])
def test_an_equal_mean_is_seldom_blamed(paired: bool):
    """Skewed scores that are worse by just the margin, on rows of their own at a twentieth of the traffic, or on the same rows."""
    draw = sims.same_rows(0.2, 0.01, apart=0.05) if paired else sims.skewed(0.2, 0.01)
    gate = rules.Ours(twin.Scores(runs=RUNS, alpha=ALPHA, margin=0.01))
    shares = ((0.0, 1.0),) if paired else ((0.0, 0.05),)
    assert promised(ever(gate, draw, rate=1.0 if paired else 10.0, shares=shares, paired=paired).found / 100)


def test_a_mean_that_is_skewed_the_wrong_way_is_blamed_somewhat_more_often():
    """The known weakness: a score whose rare values are good (here: skewness -4.5 of what is bad) gives up to four times alpha."""
    rng = np.random.default_rng(6)
    gate = twin.Scores(runs=RUNS, alpha=ALPHA, margin=0.0)
    crossed = np.zeros(RUNS, bool)
    for look in range(500):
        n, m = rng.poisson(5, RUNS).astype(float), rng.poisson(95, RUNS).astype(float)
        sums = [-np.where(k > 0, rng.gamma(np.maximum(k, 1) * 0.2, 1.0), 0) for k in (n, m)]
        crossed |= gate.take(60.0 * (look + 1), np.array([n, m, *sums]))[0]
    assert crossed.mean() <= 4 * ALPHA


@pytest.mark.parametrize("times", [1, 5])
def test_bursts_of_one_client_count_once(times: int):
    """Failures that come in bursts, each in one arm: without damping most healthy candidates are blamed, with it few are."""
    draw = sims.bursts(0.005, size=times) if times > 1 else sims.rates(0.005, 0.005)
    plain = twin.Errors(runs=RUNS, alpha=ALPHA)
    plain.arms.dispersion.take = lambda at, n, bad: np.ones(RUNS)  # type: ignore[method-assign]
    damped = ever(rules.Ours(twin.Errors(runs=RUNS, alpha=ALPHA)), draw, rate=20.0)
    undamped = ever(rules.Ours(plain), draw, rate=20.0)
    if times == 1:
        assert promised(damped.found / 100)
        assert promised(undamped.found / 100)
    else:
        assert undamped.found > 60
        assert damped.found < 25


def test_a_tenfold_fault_is_found_as_fast_as_by_the_bare_mixture():
    """Within a tenth of the minutes of a rule that knows the split, on the same requests, and with as many users harmed."""
    gates = {"ours": rules.Ours(twin.Errors(runs=RUNS, alpha=0.01)), "uniform": rules.Uniform(runs=RUNS, w=0.05, alpha=0.01)}
    traffic = sims.Traffic(rate=20.0, draw=sims.rates(0.05, 0.005), runs=RUNS, hours=1.0, look_s=10.0, fine_s=2.0, seed=2)
    found = sims.play(traffic, gates)
    assert found["ours"].found == 100
    assert found["ours"].seconds.mean() <= 1.1 * found["uniform"].seconds.mean()
    assert found["ours"].harmed <= 1.1 * found["uniform"].harmed


@pytest.mark.parametrize("after_s", [0.0, 4 * 3600.0])
def test_a_fault_after_long_calm_is_found_nearly_as_fast(after_s: float):
    """Four hours without a fault hide it for no more than a few minutes: new bets are begun meanwhile."""
    draw = sims.rates(0.05, 0.005, since=after_s)
    found = ever(rules.Ours(twin.Errors(runs=RUNS, alpha=0.01, persistence=0)), draw, rate=20.0, hours=after_s / 3600 + 1)
    late = found.seconds[found.seconds > after_s] - after_s
    assert np.median(late) <= (600 if after_s else 150)


def test_a_fault_that_begins_with_a_step_is_found_at_once():
    """Half an hour of calm at 5 %, then half the users and ten times the errors: two minutes."""
    found = ever(
        rules.Ours(twin.Errors(runs=RUNS, alpha=0.01)),
        sims.rates(0.05, 0.005, since=1800.0),
        rate=20.0,
        shares=((0.0, 0.05), (1800.0, 0.5)),
    )
    assert np.median(found.seconds[found.seconds > 1800.0]) - 1800.0 <= 120


# --- exactly -----------------------------------------------------------------------------------------------


@hypothesis.given(n=st.integers(1, 40), beside=st.integers(1, 40), bad=st.data(), ratio=st.sampled_from(range(len(eprocess.RATIOS))))
def test_no_bet_on_two_equal_arms_gains_on_average(n: int, beside: int, bad, ratio: int):
    """Over the exact (hypergeometric) distribution of the watched arm's bad ones, each bet's growth has a mean of at most 1."""
    total = bad.draw(st.integers(0, n + beside))
    law = stats.hypergeom(n + beside, total, n)
    mean = 0.0
    for mine in range(max(0, total - beside), min(n, total) + 1):
        bets = eprocess.two_arms(Tally(n=n, bad=mine), Tally(n=beside, bad=total - mine))
        mean += law.pmf(mine) * math.exp(bets[ratio])
    assert mean <= 1 + 1e-9


# Below 1e-12 it is scipy's binomial that overflows.
@hypothesis.given(
    n=st.integers(1, 60), limit=st.floats(0.001, 0.99), less=st.just(0.0) | st.floats(1e-12, 1.0), ratio=st.sampled_from(range(6))
)
def test_no_bet_above_a_limit_gains_on_average(n: int, limit: float, less: float, ratio: int):
    """At any rate up to the limit, each bet's growth has a mean of at most 1; at the limit itself it is 1."""
    law = stats.binom(n, limit * less)
    growth = [math.exp(eprocess.above(bad, n, limit=limit)[ratio]) for bad in range(n + 1)]
    mean = float(np.dot(law.pmf(np.arange(n + 1)), growth))
    assert mean <= 1 + 1e-6
    assert float(np.dot(stats.binom(n, limit).pmf(np.arange(n + 1)), growth)) == pytest.approx(1, rel=1e-6)


@hypothesis.given(z=st.floats(-1e6, 1e6))
def test_a_bet_on_a_shift_is_fair_to_every_symmetric_block(z: float):
    """A block and its mirror image are worth 2 together, and one alone never more than that."""
    for up, down in zip(eprocess.symmetric(z), eprocess.symmetric(-z), strict=True):
        assert math.exp(up) + math.exp(down) == pytest.approx(2)
        assert max(up, down) <= math.log(2)


@hypothesis.given(y=st.floats(-4, 4))
def test_the_bet_on_a_shift_beats_the_textbook_one(y: float):
    """1 + tanh(y) is at least exp(y - y*y/2), block by block... of the mean over both signs; both are fair, ours is never poorer for y > 0."""
    ours = math.exp(y) / math.cosh(y)
    assert 1 + math.tanh(y) == pytest.approx(ours)
    assert ours >= math.exp(y - y * y / 2) * (1 - 1e-12)


def test_an_arm_without_requests_tells_nothing():
    """Whatever happened in the other one."""
    assert eprocess.two_arms(Tally(), Tally(n=50, bad=50)) == (0.0,) * 6
    assert eprocess.two_arms(Tally(n=50, bad=50), Tally()) == (0.0,) * 6


def test_the_parts_of_the_wealth_add_up_to_one():
    """Before anything is seen, and whatever starts are begun while nothing is seen, the e-value is 1."""
    wealth = eprocess.Wealth(eprocess.RATIO_PRIOR, since=0.0)
    assert wealth.log_e == 0
    for step in range(1, 6):
        wealth.grow((0.0,) * 6, at=float(step), step=step)
        assert wealth.log_e == pytest.approx(0, abs=1e-12)


def test_memory_stays_constant():
    """A year of calm with a new start every half hour keeps the slots it has, and the evidence stays a number."""
    wealth = eprocess.Wealth(eprocess.RATIO_PRIOR, since=0.0)
    for look in range(17_520):
        wealth.grow(eprocess.above(0, 100, limit=0.05), at=1800.0 * look, step=0)
    assert len(wealth._starts) == eprocess.SLOTS + 1
    assert -3 < wealth.log_e < 0
    for look in range(17_520, 17_560):
        wealth.grow(eprocess.above(20, 100, limit=0.05), at=1800.0 * look, step=0)
    assert wealth.log_e > math.log(1000)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40))
def test_a_pool_loses_nothing_and_looks_at_sizes_alone(seen):
    """Full pools and the rest add up to what came in; which looks fill one does not depend on what was bad."""
    filled = []
    for bad in (0, 1):
        pool, total, at = eprocess.Pool(4), 0, []
        for look, (n, beside) in enumerate(seen):
            full = pool.add(Tally(n=n, bad=min(bad, n)), Tally(n=beside), step=0)
            if full:
                assert min(full[0].n, full[1].n) >= 4
                total += full[0].n
                at.append(look)
        assert total + pool._watched.n == sum(n for n, _ in seen)
        filled.append(at)
    assert filled[0] == filled[1]


def test_a_new_step_throws_the_open_pool_away():
    """Requests from before the step are not mixed with those after it."""
    pool = eprocess.Pool(4)
    assert pool.add(Tally(n=3, bad=3), Tally(n=90), step=0) is None
    assert pool.add(Tally(n=3), Tally(n=3), step=1) is None
    full = pool.add(Tally(n=1), Tally(n=1), step=1)
    assert full is not None
    assert (full[0].n, full[0].bad) == (4, 0)


def test_sums_of_logs_do_not_overflow():
    """Nor vanish."""
    for values in itertools.product((-1e5, 0.0, 1e5), repeat=2):
        assert eprocess.log_sum(values) == pytest.approx(max(values) + (math.log(2) if values[0] == values[1] else 0))

"""The gates' arithmetic for many runs at once: numpy twins of `lastgood.gates`, which a test proves equal to it on random paths.

Every array has one entry per run. All runs share the times of observation, like a controller with a fixed tick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lastgood.gates import confidence, eprocess, proportions, scores
from lastgood.gates import overdispersion as dispersion
from lastgood.gates import persistence as gate_persistence
from lastgood.gates.evaluator import PERSISTENCE, SEQUENTIAL

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RATIOS = np.array(eprocess.RATIOS)


def above(bad: Floats, n: Floats, limit: Floats | float) -> Floats:
    """`eprocess.above`, per run: (alternatives, runs)."""
    p = np.clip(np.asarray(limit, float), eprocess.TINY, 1 - eprocess.TINY)
    grown = np.multiply.outer(RATIOS, p) + (1 - p)
    odds = np.log(grown).reshape(len(RATIOS), -1)
    return np.asarray(bad * (np.log(RATIOS)[:, None] - odds) - (n - bad) * odds)


def tail(bad: Floats, n: Floats, p: Floats | float) -> Floats:
    """Probability of *bad* or more of *n* at rate *p*."""
    return np.where(bad > 0, special.betainc(np.maximum(bad, 1), np.maximum(n - bad, 0) + 1, p), 1.0)


class Wealths:
    """`eprocess.Wealth`, per run."""

    def __init__(self, prior: Sequence[float], *, runs: int, since: float = 0.0) -> None:
        self.prior = np.log(np.array(prior) / sum(prior))
        slots = eprocess.SLOTS + 1
        self.sums = np.full((slots, len(prior), runs), -np.inf)
        self.sums[0] = self.prior[:, None]
        self.weight = np.full((slots, runs), -np.inf)
        self.weight[0] = math.log(eprocess.WHOLE)
        self.newest = np.zeros(runs, int)
        self.begun = np.full(runs, since)
        self.step = np.zeros(runs, int)
        self.steps = np.zeros(runs, int)
        self.later = np.zeros(runs, int)
        self.used = 1
        self.grown = np.full((slots, runs), -np.inf)
        self.grown[0] = 0.0
        self.log_e = np.zeros(runs)

    def grow(self, bets: Floats, taking: Bools, *, at: float, step: int) -> None:
        """`Wealth.grow` for the runs in *taking*; *bets* is (alternatives, runs)."""
        if not taking.any():
            return
        stepping = taking & (step > self.step)
        newest = self.grown[self.newest, np.arange(len(taking))]
        resting = taking & ~stepping & (at - self.begun >= eprocess.REST_S) & (newest < eprocess.WORN)
        self.step[stepping] = step
        self.steps += stepping
        self.later += resting
        for run in np.flatnonzero(stepping | resting).tolist():
            j = self.steps[run] if stepping[run] else self.later[run]
            self._begin(run, (eprocess.STEPS if stepping[run] else eprocess.LATER) / (j * (j + 1)), at)
        self.sums[: self.used] += np.where(taking, bets, 0.0)
        self._mix()

    def _mix(self) -> None:
        """Log wealth of each start and of all together; one far below the best counts as ruined, which is decided long before."""
        used = self.sums[: self.used]
        top = used.max(axis=(0, 1))
        grown = np.exp(used - top).sum(axis=1)
        whole = (np.exp(self.weight[: self.used]) * grown).sum(axis=0)
        with np.errstate(divide="ignore"):
            self.grown[: self.used] = top + np.log(grown)
        unspent = np.log(eprocess.STEPS / (self.steps + 1) + eprocess.LATER / (self.later + 1))
        self.log_e = np.logaddexp(unspent, top + np.log(whole))

    def _begin(self, run: int, weight: float, at: float) -> None:
        free = np.flatnonzero(np.isneginf(self.weight[:, run]))
        slot = int(free[0]) if len(free) else 1 + int(np.argmin(self.weight[1:, run] + self.grown[1:, run]))
        self.sums[slot, :, run], self.weight[slot, run] = self.prior, math.log(weight)
        self.newest[run], self.begun[run], self.used = slot, at, max(self.used, slot + 1)


class Dispersions:
    """`overdispersion.Dispersion`, per run."""

    def __init__(self, *, runs: int) -> None:
        self.number = 0
        self.open, self.last = np.zeros((2, runs)), np.zeros((2, runs))
        self.seen, self.expected, self.chance = np.zeros((3, runs))
        self.factor = np.ones(runs)

    def take(self, at: float, n: Floats, bad: Floats) -> Floats:
        """The factor of each run for the next observations."""
        number = math.ceil(at / dispersion.WINDOW_S) - 1
        if number > self.number:
            self.number = number
            self._close()
        self.open += (n, bad)
        return self.factor

    def _close(self) -> None:
        both = self.open[1] + self.last[1]
        told = (self.open[0] > 0) & (self.last[0] > 0) & (both > 0)
        f = np.where(told, self.open[0] / np.maximum(self.open[0] + self.last[0], 1), 0.5)
        self.seen += np.where(told, (self.open[1] - both * f) ** 2 / (f * (1 - f)), 0)
        self.expected += np.where(told, both, 0)
        self.chance += np.where(told, both * (both - 1), 0)
        self.last = np.where(self.open[0] > 0, self.open, self.last)
        self.open = np.zeros_like(self.open)
        sure = self.seen > self.expected + dispersion.SURE * np.sqrt(self.chance + 1)
        self.factor = np.where(sure, self.seen / np.maximum(self.expected, 1), 1.0)


class Arms:
    """`proportions.Arms`, per run: the evidence that one arm is worse than the other."""

    def __init__(self, *, runs: int) -> None:
        self.pool = Pools(proportions.POOLED, rows=4, runs=runs)
        self.dispersion, self.factor = Dispersions(runs=runs), np.ones(runs)
        self.wealth = Wealths(eprocess.RATIO_PRIOR, runs=runs)

    def take(self, at: float, seen: Floats, *, step: int) -> Floats:
        """Natural log of the e-value of each run."""
        factor = self.dispersion.take(at, seen[1], seen[3])
        self.factor = np.where(self.pool.held[:2].sum(axis=0) == 0, factor, self.factor)
        joined, full = self.pool.add(seen, step=step)
        self.wealth.grow(two_arms(*joined) / self.factor, full, at=at, step=step)
        return self.wealth.log_e


class Excess:
    """`proportions.Excess`, per run: the evidence that one arm is above a limit."""

    def __init__(self, *, runs: int, limit: float) -> None:
        self.limit, self.dispersion, self.wealth = limit, Dispersions(runs=runs), Wealths(eprocess.RATIO_PRIOR, runs=runs)

    def take(self, at: float, n: Floats, bad: Floats, *, step: int) -> Floats:
        """Natural log of the e-value of each run."""
        factor = self.dispersion.take(at, n, bad)
        self.wealth.grow(above(bad, n, self.limit) / factor, n > 0, at=at, step=step)
        return self.wealth.log_e


class Pools:
    """`eprocess.Pool` for two arms, per run; rows are what is summed, the first two are the arms' requests."""

    def __init__(self, least: int, *, rows: int, runs: int) -> None:
        self.least, self.step, self.held = least, 0, np.zeros((rows, runs))

    def add(self, seen: Floats, *, step: int) -> tuple[Floats, Bools]:
        """The joined observations, and which runs' are full."""
        if step != self.step:
            self.step = step
            self.held[:] = 0
        self.held += seen
        full = (self.held[0] >= self.least) & (self.held[1] >= self.least)
        joined = self.held.copy()
        self.held[:, full] = 0
        return joined, full


class Rows:
    """`persistence.Windows`, per run: sums of one window, judged by `over` when the next begins."""

    def __init__(self, *, window_s: float, window_min: int, persistence: int, rows: int, runs: int) -> None:
        self.window_s, self.window_min, self.persistence = window_s, window_min, persistence
        self.number, self.held = 0, np.zeros((rows, runs))
        self.streak, self.shared = np.zeros(runs, int), np.zeros(runs, int)

    def take(self, at: float, seen: Floats, judge: object) -> None:
        """Add one observation to its window; *judge* returns whether each run's is over, counts, and is shared."""
        number = math.ceil(at / self.window_s) - 1
        if number > self.number:
            over, counts_, shared = judge(self.held)  # type: ignore[operator]
            counts_ = counts_ & (self.held[0] >= self.window_min)
            self.streak = np.where(counts_, np.where(over, self.streak + 1, 0), self.streak)
            self.shared = np.where(counts_, np.where(over, self.shared + (over & shared), 0), self.shared)
            self.number = number
            self.held[:] = 0
        self.held += seen

    @property
    def failing(self) -> Bools:
        return (self.streak >= self.persistence) & (self.persistence > 0)


def two_arms(n: Floats, n_beside: Floats, bad: Floats, bad_beside: Floats) -> Floats:
    """`eprocess.two_arms`, per run."""
    return above(bad, bad + bad_beside, n / np.maximum(n + n_beside, 1))


class Errors:
    """`proportions.Errors`, per run; `take` returns which runs fail by evidence, and which by windows."""

    def __init__(
        self, *, runs: int, alpha: float, margin: float = 0.02, window_s: float = 60.0, persistence: int = 5, window_min: int = 20
    ):
        self.boundary = -math.log(alpha * SEQUENTIAL)
        self.level = gate_persistence.level(alpha * PERSISTENCE, window_s=window_s, persistence=persistence)
        self.margin = margin
        self.arms = Arms(runs=runs)
        self.rows = Rows(window_s=window_s, window_min=window_min, persistence=persistence, rows=4, runs=runs)

    def take(self, at: float, seen: Floats, *, step: int = 0) -> tuple[Bools, Bools]:
        """*seen* has requests of the watched arm, of the other, and bad ones of each: (4, runs)."""
        self.rows.take(at, seen, self._judge)
        return self.arms.take(at, seen, step=step) >= self.boundary, self.rows.failing

    def _judge(self, held: Floats) -> tuple[Bools, Bools, Bools]:
        n, n_beside, bad, bad_beside = held
        told = (n > 0) & (n_beside > 0)
        above_margin = bad / np.maximum(n, 1) > bad_beside / np.maximum(n_beside, 1) + self.margin
        chance = tail(bad, bad + bad_beside, n / np.maximum(n + n_beside, 1))
        return above_margin & (chance <= self.level), told, np.zeros(len(n), bool)


class Ceiling:
    """`proportions.Ceiling` with a second arm, per run."""

    def __init__(
        self,
        *,
        runs: int,
        alpha: float,
        limit: float = proportions.SLOW,
        window_s: float = 60.0,
        persistence: int = 3,
        window_min: int = 20,
    ):
        self.boundary = -math.log(alpha * SEQUENTIAL)
        self.level = gate_persistence.level(alpha * PERSISTENCE, window_s=window_s, persistence=persistence)
        self.limit = limit
        self.arms = Arms(runs=runs)
        self.own, self.other = Excess(runs=runs, limit=limit), Excess(runs=runs, limit=limit)
        self.rows = Rows(window_s=window_s, window_min=window_min, persistence=persistence, rows=4, runs=runs)
        self.beside = np.zeros((2, runs))

    def take(self, at: float, seen: Floats, *, step: int = 0) -> tuple[Bools, Bools]:
        """Which runs fail by evidence, and which by windows, stable's own excess excused."""
        n, n_beside, bad, bad_beside = seen
        worse = self.arms.take(at, seen, step=step) >= self.boundary
        exceeds = self.own.take(at, n, bad, step=step) >= self.boundary
        other = self.other.take(at, n_beside, bad_beside, step=step)
        self.rows.take(at, seen, self._judge)
        self.beside += seen[[1, 3]]
        over = (self.beside[1] > self.beside[0] * self.limit) | (other >= self.boundary)
        shared = (self.rows.streak > 0) & (2 * self.rows.shared >= self.rows.streak)
        blamed = worse | ~(over | shared)
        return exceeds & blamed, self.rows.failing & blamed

    def _judge(self, held: Floats) -> tuple[Bools, Bools, Bools]:
        n, n_beside, bad, bad_beside = held
        chance = tail(bad, n, self.limit)
        over = (bad > n * self.limit) & (chance <= self.level)
        return over, np.ones(len(n), bool), bad_beside > n_beside * self.limit


class Scores:
    """`scores.Scores` with a second arm, lower is better, per run."""

    def __init__(self, *, runs: int, alpha: float, margin: float, window_s: float = 60.0, persistence: int = 5, window_min: int = 20):
        self.boundary = -math.log(alpha * SEQUENTIAL)
        self.level = gate_persistence.level(alpha * PERSISTENCE, window_s=window_s, persistence=persistence)
        self.margin = margin
        self.pool = Pools(scores.POOLED, rows=4, runs=runs)
        self.wealth = Wealths(eprocess.EFFECT_PRIOR, runs=runs)
        self.rows = Rows(window_s=window_s, window_min=window_min, persistence=persistence, rows=4, runs=runs)
        self.n, self.h, self.hd, self.hdd, self.beyond = np.zeros((5, runs))

    def take(self, at: float, seen: Floats, *, step: int = 0) -> tuple[Bools, Bools]:
        """*seen* has rows of the watched arm, of the other, and the sums of the score over them."""
        self.rows.take(at, seen, self._judge)
        joined, full = self.pool.add(seen, step=step)
        worse, rows = self._worse(joined)
        beyond = worse - self.margin
        self.n += full
        self.h += np.where(full, rows, 0)
        self.hd += np.where(full, rows * worse, 0)
        self.hdd += np.where(full, rows * worse**2, 0)
        self.beyond += np.where(full, rows * beyond**2, 0)
        unit = np.sqrt(self.beyond * self.h) / np.maximum(self.n, 1)
        z = np.divide(rows * beyond, unit, out=np.zeros_like(unit), where=unit > 0)
        bets = math.log(2) - np.logaddexp(0, -2 * np.multiply.outer(np.array(eprocess.EFFECTS), z))
        self.wealth.grow(bets, full, at=at, step=step)
        return self.wealth.log_e >= self.boundary, self.rows.failing

    def _worse(self, held: Floats) -> tuple[Floats, Floats]:
        n, n_beside, total, total_beside = held
        return total / np.maximum(n, 1) - total_beside / np.maximum(n_beside, 1), n * n_beside / np.maximum(n + n_beside, 1)

    def _judge(self, held: Floats) -> tuple[Bools, Bools, Bools]:
        worse, rows = self._worse(held)
        beyond = worse - self.margin
        mean = self.hd / np.maximum(self.h, 1e-300)
        sd = np.sqrt(np.maximum(self.hdd - mean * self.hd, 0) / np.maximum(self.n - 1, 1))
        chance = np.where(sd > 0, special.ndtr(-beyond * np.sqrt(rows) / np.where(sd > 0, sd, 1)), 0)
        told = (self.n >= confidence.MIN_BLOCKS) & (held[1] > 0)
        return (beyond > 0) & (chance <= self.level), told, np.zeros(len(worse), bool)

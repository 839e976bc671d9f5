"""Rules used elsewhere, for many runs at once, on the same traffic as ours.

Each rule takes the observations of one look, (4, runs): requests of the watched arm, of the other, and bad ones of each (or rows and
sums of a score); it returns which runs it would roll back now.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import betainc, betaln

from bench import gate_twin
from lastgood.gates import scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Rule(Protocol):
    """A rule that decides after every look."""

    def take(self, at: float, seen: Floats, *, step: int) -> Bools: ...


class Ours:
    """A twin of one of our gates: evidence or persistence."""

    def __init__(self, twin: gate_twin.Errors | gate_twin.Ceiling | gate_twin.Scores) -> None:
        self.twin = twin

    def take(self, at: float, seen: Floats, *, step: int) -> Bools:
        by_evidence, by_windows = self.twin.take(at, seen, step=step)
        return by_evidence | by_windows


class Minutes:
    """Sums of whole windows of *window_s*; `judge` is called when one is full. An empty window of the watched arm is not a failure."""

    def __init__(self, *, runs: int, window_s: float = 60.0) -> None:
        self.window_s, self.number = window_s, 0
        self.held = np.zeros((4, runs))
        self.fired = np.zeros(runs, bool)
        self.count = np.zeros(runs, int)

    def take(self, at: float, seen: Floats, *, step: int) -> Bools:
        self.held += seen
        number = math.floor(at / self.window_s + 1e-9)
        if number > self.number:
            self.number = number
            self.fired |= self.judge(self.held, step=step)
            self.held[:] = 0
        return self.fired

    def judge(self, held: Floats, *, step: int) -> Bools:
        """Which runs are rolled back after this window."""
        raise NotImplementedError

    def in_a_row(self, over: Bools, times: int) -> Bools:
        """Whether *over* has held *times* windows in a row."""
        self.count = np.where(over, self.count + 1, 0)
        return self.count >= times


def rate(bad: Floats, n: Floats) -> Floats:
    """Bad ones of all; 0 where there are none."""
    return bad / np.maximum(n, 1)


class Article(Minutes):
    """Error rate two points above stable's in five minutes in a row."""

    def judge(self, held: Floats, *, step: int) -> Bools:
        n, n_beside, bad, bad_beside = held
        return self.in_a_row((n > 0) & (rate(bad, n) > rate(bad_beside, n_beside) + 0.02), 5)


class Argo(Minutes):
    """Argo Rollouts: interval 60 s, success condition 'error rate <= 1 %', failureLimit 0 (default): the first failed one aborts."""

    def judge(self, held: Floats, *, step: int) -> Bools:
        return rate(held[2], held[0]) > 0.01


class Flagger(Minutes):
    """Flagger: interval 60 s, threshold 5 (failed checks add up), request success rate at least 99 %."""

    def judge(self, held: Floats, *, step: int) -> Bools:
        self.count += rate(held[2], held[0]) > 0.01
        return self.count >= 5


class Uniform:
    """The bare e-process: each bad request is the watched arm's with probability w; uniform mixture over (w, 1). It is given the true w."""

    def __init__(self, *, runs: int, w: float, alpha: float) -> None:
        self.w, self.boundary = w, -math.log(alpha)
        self.bad, self.bad_beside = np.zeros((2, runs))

    def take(self, at: float, seen: Floats, *, step: int) -> Bools:
        self.bad += seen[2]
        self.bad_beside += seen[3]
        k, m, w = self.bad, self.bad_beside, self.w
        mixed = betaln(k + 1, m + 1) + np.log(np.maximum(betainc(m + 1, k + 1, 1 - w), 1e-300)) - math.log(1 - w)
        return np.asarray(mixed - k * math.log(w) - m * math.log1p(-w) >= self.boundary)


class SlowMinutes(Minutes):
    """P99 of a minute above the ceiling in three minutes in a row, whatever stable does."""

    def judge(self, held: Floats, *, step: int) -> Bools:
        return self.in_a_row(rate(held[2], held[0]) > 0.01, 3)


class SlowOnce(Minutes):
    """P99 of a minute above the ceiling once."""

    def judge(self, held: Floats, *, step: int) -> Bools:
        return rate(held[2], held[0]) > 0.01


class WorseMinutes(Minutes):
    """Mean worse than stable's by more than the margin in five windows in a row."""

    def __init__(self, *, runs: int, margin: float, window_s: float) -> None:
        super().__init__(runs=runs, window_s=window_s)
        self.margin = margin

    def judge(self, held: Floats, *, step: int) -> Bools:
        n, n_beside, total, total_beside = held
        return self.in_a_row((n > 0) & (rate(total, n) > rate(total_beside, n_beside) + self.margin), 5)


class PeekedT:
    """A one-sided t-test of block differences against the margin at alpha, repeated at every block as if it were the only look."""

    def __init__(self, *, runs: int, margin: float, alpha: float) -> None:
        self.margin, self.alpha = margin, alpha
        self.pool = gate_twin.Pools(scores.POOLED, rows=4, runs=runs)
        self.n, self.sum, self.squares = np.zeros((3, runs))

    def take(self, at: float, seen: Floats, *, step: int) -> Bools:
        (n, n_beside, total, total_beside), full = self.pool.add(seen, step=step)
        d = np.where(full, rate(total, n) - rate(total_beside, n_beside) - self.margin, 0.0)
        self.n, self.sum, self.squares = self.n + full, self.sum + d, self.squares + d * d
        count = np.maximum(self.n, 2)
        variance = np.maximum(self.squares - self.sum**2 / count, 1e-12) / (count - 1)
        return np.asarray((self.n >= 5) & (stats.t.sf(self.sum / np.sqrt(count * variance), count - 1) <= self.alpha))

"""Bounds that hold at all times simultaneously (confidence sequences), for display and for excluding harm.

What does not belong here: evidence of harm (`eprocess`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

PASS_ALPHA = 0.05
"""A gate passes when harm beyond its threshold lies outside a 95 % confidence sequence. A pass only lets a phase
continue, so it needs less certainty than blame does."""

Interval = tuple[float, float]

PRIOR_BAD, PRIOR_GOOD = 0.5, 10.0
"""Beta prior of a rate of bad requests: most of its mass is at a few percent, where bounds are needed, with some everywhere else."""

HALVINGS = 50

MIN_BLOCKS = 10
"""Fewest blocks for a bound on a mean, which relies on the central limit theorem."""

TYPICAL_BLOCKS = 30
"""Number of blocks at which the bound on a mean is tightest."""

MOST = 1 << 10
"""The largest multiple of the data so far that is extrapolated; beyond it, an estimate only says that it will take long."""


def proportion(bad: float, n: float, *, alpha: float = PASS_ALPHA) -> Interval:
    """The lowest and highest rate compatible with *bad* of *n* at confidence 1 - *alpha*, at all *n* simultaneously. (0, 1) if n is 0.

    Hypothesis: every request is bad with the same probability, independently. Exact: the rates p whose beta-binomial
    mixture over Bernoulli(p) is below 1/alpha (Robbins 1970). Also accepts fractions, for estimates of the data still needed.
    """
    if n <= 0:
        return 0.0, 1.0
    seen = bad / n
    low = 0.0 if bad <= 0 else _edge(lambda p: _possible(bad, n, p, alpha), inside=seen, outside=0.0)
    high = 1.0 if bad >= n else _edge(lambda p: _possible(bad, n, p, alpha), inside=seen, outside=1.0)
    return low, high


def _possible(bad: float, n: float, p: float, alpha: float) -> bool:
    if not 0 < p < 1:
        return False
    mixture = _log_beta(PRIOR_BAD + bad, PRIOR_GOOD + n - bad) - _log_beta(PRIOR_BAD, PRIOR_GOOD)
    return mixture - bad * math.log(p) - (n - bad) * math.log1p(-p) < -math.log(alpha)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(possible: Callable[[float], bool], *, inside: float, outside: float) -> float:
    """The boundary of *possible* between an inside and an outside point; the outer end of the last bisection, so never too narrow."""
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if possible(middle) else (inside, middle)
    return outside


def difference(bad: float, n: float, bad_beside: float, n_beside: float, *, alpha: float = PASS_ALPHA) -> Interval:
    """The lowest and highest difference of two rates, watched minus beside: each arm's bounds at half of *alpha* (union bound)."""
    low, high = proportion(bad, n, alpha=alpha / 2)
    low_beside, high_beside = proportion(bad_beside, n_beside, alpha=alpha / 2)
    return low - high_beside, high - low_beside


def factor(enough: Callable[[float], bool]) -> float | None:
    """The smallest multiple (to 2 %) of the data so far for which *enough* holds; None if a thousandfold is not enough."""
    high = 1.0
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high / 2
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclasses.dataclass(slots=True)
class Blocks:
    """Sums over blocks of a difference *d* with weight *h* (its equivalent number of rows), from which mean and spread follow."""

    n: int = 0
    h: float = 0.0
    hd: float = 0.0
    hdd: float = 0.0
    hh: float = 0.0
    hhd: float = 0.0
    hhdd: float = 0.0

    def add(self, d: float, h: float) -> None:
        """Add one block."""
        self.n += 1
        self.h += h
        self.hd += h * d
        self.hdd += h * d * d
        self.hh += h * h
        self.hhd += h * h * d
        self.hhdd += h * h * d * d

    @property
    def mean(self) -> float:
        """Weighted mean of the differences; 0 before the first block."""
        return self.hd / self.h if self.h else 0.0

    @property
    def row_sd(self) -> float:
        """Standard deviation of a difference of weight 1, estimated from the spread between blocks; 0 before the second block."""
        return math.sqrt(max(self.hdd - self.mean * self.hd, 0.0) / (self.n - 1)) if self.n > 1 else 0.0

    def half_width(self, *, times: float = 1.0, alpha: float = PASS_ALPHA) -> float:
        """Half the width of the bound on the mean if there were *times* as many such blocks; infinite below MIN_BLOCKS.

        An asymptotic confidence sequence: from some number of blocks on, valid at all numbers simultaneously, for block means with finite
        variance (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory, 2024),
        written for blocks of unequal weight by way of their summed variance.
        """
        count = self.n * times
        if count < MIN_BLOCKS:
            return math.inf
        # Wider, as Student's t is wider than the normal, because the spread of few blocks is itself uncertain.
        spread = max(self.hhdd - 2 * self.mean * self.hhd + self.mean**2 * self.hh, 0.0) * (self.n + 2) / (self.n - 1)
        if spread == 0:
            return 0.0
        log = -2 * math.log(alpha)
        ahead = (log + math.log(log + 1)) * count / TYPICAL_BLOCKS + 1
        per_rho = spread * times * ahead / (ahead - 1)  # (V * rho^2 + 1) / rho^2
        return math.sqrt(2 * per_rho * math.log(math.sqrt(ahead) / alpha)) / (self.h * times)

    def interval(self) -> Interval | None:
        """The lowest and highest mean difference; None before there are enough blocks."""
        half = self.half_width()
        return None if math.isinf(half) else (self.mean - half, self.mean + half)

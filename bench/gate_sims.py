"""Virtual traffic for many runs at once, and each rule's reaction: when it would roll back, and what users saw until then."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.gate_rules import Rule

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Floats, Floats, float], tuple[Floats, Floats]]
"""Bad requests (or sums) of both arms for given requests of both, at a time in seconds."""

HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The traffic: *rate* requests per second in all, split by *shares* (start time, share), *runs* times; `look_s` apart."""

    rate: float
    draw: Draw
    runs: int
    shares: Sequence[tuple[float, float]] = ((0.0, 0.05),)
    hours: float = 24.0
    look_s: float = 10.0
    fine_s: float | None = 1.0
    paired: bool = False
    seed: int = 1

    def looks(self) -> Iterator[tuple[float, int, Floats]]:
        """(time, number of the step, what was seen) of each look; finer looks in the first hour, where `fine_s` is given."""
        rng = np.random.default_rng(self.seed)
        began = 0.0
        for at in self._times():
            step = max(i for i, (since, _) in enumerate(self.shares) if since <= began)
            share = self.shares[step][1]
            expected = self.rate * (at - began)
            n = rng.poisson(expected * share, self.runs).astype(float)
            n_beside = n.copy() if self.paired else rng.poisson(expected * (1 - share), self.runs).astype(float)
            bad, bad_beside = self.draw(rng, n, n_beside, began)
            yield at, step, np.array([n, n_beside, bad, bad_beside])
            began = at

    def _times(self) -> Iterator[float]:
        end = self.hours * HOUR_S
        if self.fine_s:
            yield from (self.fine_s * (i + 1) for i in range(int(min(HOUR_S, end) / self.fine_s)))
        start = HOUR_S if self.fine_s else 0.0
        yield from (start + self.look_s * (i + 1) for i in range(int((end - start) / self.look_s)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one rule, per run: seconds until it rolled back (infinite: never), and bad answers of the watched arm until then."""

    seconds: Floats
    bad: Floats

    @property
    def found(self) -> float:
        """Percent of runs that were rolled back."""
        return 100 * float(np.isfinite(self.seconds).mean())

    def minutes(self, q: float) -> float | None:
        """Quantile of the minutes until then, over all runs; None if that run was never rolled back."""
        value = float(np.quantile(self.seconds, q, method="lower"))
        return value / 60 if math.isfinite(value) else None

    @property
    def harmed(self) -> float:
        """Mean number of bad answers of the watched arm until it was taken out, or until the end."""
        return float(self.bad.mean())


def play(traffic: Traffic, rules: Mapping[str, Rule]) -> dict[str, Outcome]:
    """Each rule's outcome on the same traffic; ends early when every rule has decided every run."""
    seconds = {name: np.full(traffic.runs, math.inf) for name in rules}
    bad = {name: np.zeros(traffic.runs) for name in rules}
    for at, step, seen in traffic.looks():
        for name, rule in rules.items():
            serving = np.isinf(seconds[name])
            if not serving.any():
                continue
            bad[name] += np.where(serving, seen[2], 0)
            seconds[name][serving & rule.take(at, seen, step=step)] = at
        if all(np.isfinite(one).all() for one in seconds.values()):
            break
    return {name: Outcome(seconds=seconds[name], bad=bad[name]) for name in rules}


# --- what goes wrong ---------------------------------------------------------------------------------------


def rates(p: float, p_beside: float, *, since: float = 0.0) -> Draw:
    """Independent bad requests: *p* of the watched arm's (from *since* on, before that like the other's), *p_beside* of the other's."""

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, at: float) -> tuple[Floats, Floats]:
        now = p if at >= since else p_beside
        return _binomial(rng, n, now), _binomial(rng, n_beside, p_beside)

    return draw


def daily(p: float, *, times: float = 1.0) -> Draw:
    """Both arms' rate swings by half around *p* over the day; the watched arm's is *times* as high."""

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, at: float) -> tuple[Floats, Floats]:
        now = p * (1 + 0.5 * math.sin(2 * math.pi * at / DAY_S))
        return _binomial(rng, n, now * times), _binomial(rng, n_beside, now)

    return draw


def outages(p: float, *, during: float, per_hour: float, minutes: float, look_s: float) -> Draw:
    """*p*, but *during* in outages that hit both arms alike, each run at times of its own."""
    left: Floats | None = None

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, _: float) -> tuple[Floats, Floats]:
        nonlocal left
        left = np.zeros(len(n)) if left is None else np.maximum(left - look_s, 0)
        left[(rng.random(len(n)) < per_hour * look_s / HOUR_S) & (left == 0)] = minutes * 60
        now = np.where(left > 0, during, p)
        return _binomial(rng, n, now), _binomial(rng, n_beside, now)

    return draw


def bursts(p: float, *, size: float) -> Draw:
    """The same rate *p* in both arms, but bad ones come in bursts of about *size*, each burst in one arm: a client that retries."""

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, _: float) -> tuple[Floats, Floats]:
        mean = p / size
        mine = rng.poisson(rng.poisson(n * mean) * size)
        other = rng.poisson(rng.poisson(n_beside * mean) * size)
        return np.minimum(mine, n), np.minimum(other, n_beside)

    return draw


def skewed(mean: float, worse: float, *, shape: float = 0.8) -> Draw:
    """Sums of scores that are Gamma with *shape* (skewness 2.2, like squared errors); the watched arm's mean is *worse* higher."""

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, _: float) -> tuple[Floats, Floats]:
        return _gamma(rng, n, mean + worse, shape), _gamma(rng, n_beside, mean, shape)

    return draw


def same_rows(mean: float, worse: float, *, apart: float, shape: float = 0.8) -> Draw:
    """Sums of scores of the same rows by both arms, which differ by *apart* (standard deviation) per row and by *worse* in the mean."""

    def draw(rng: np.random.Generator, n: Floats, n_beside: Floats, _: float) -> tuple[Floats, Floats]:
        other = _gamma(rng, n_beside, mean, shape)
        return other + n * worse + np.sqrt(n) * apart * rng.standard_normal(len(n)), other

    return draw


def _binomial(rng: np.random.Generator, n: Floats, p: Floats | float) -> Floats:
    return rng.binomial(n.astype(int), p).astype(float)


def _gamma(rng: np.random.Generator, n: Floats, mean: float, shape: float) -> Floats:
    return np.where(n > 0, rng.gamma(np.maximum(n, 1) * shape, mean / shape), 0.0)

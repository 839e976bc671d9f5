"""Gates on the mean of a score, from blocks of rows: simultaneous rows are not independent, so a block is one observation."""

from __future__ import annotations

import math

from lastgood.gates import confidence, eprocess
from lastgood.gates.base import EMPTY, Cause, Observation, Tally
from lastgood.gates.eprocess import Pool, Wealth
from lastgood.gates.evaluator import Family, Reading, Setup, Unset
from lastgood.gates.persistence import normal_tail
from lastgood.service import gates

POOLED = 10
"""Rows of each arm that make a block; with fewer, the mean is too skewed for a test that relies on symmetry."""


class Scores(Family):
    """The mean of a score: against the other arm, or against a limit. Internally, more is always worse."""

    unit = "rows"

    def __init__(self, gate: gates.Score, setup: Setup, *, limit: float | None) -> None:
        self._gate, self._setup, self._limit = gate, setup, limit
        self._sign = 1.0 if gate.lower_is_better else -1.0
        self._margin = gate.margin if limit is None else 0.0
        self._level = setup.level(gate)
        self._pool = Pool(POOLED)
        self._blocks = confidence.Blocks()
        self._beyond = 0.0  # sum of h * (d - margin)^2
        self._wealth = Wealth(eprocess.EFFECT_PRIOR, since=setup.since)
        self._windows = setup.windows(gate, self._over)
        self._watched, self._beside = EMPTY, EMPTY
        self._single = 0

    def take(self, seen: Observation, *, step: int) -> None:
        if self._limit is None and seen.beside is None:
            self._single += seen.watched.n
            return
        beside = seen.beside if self._limit is None else None
        self._windows.take(seen.at, seen.watched, beside)
        self._watched = eprocess.joined(self._watched, seen.watched)
        self._beside = eprocess.joined(self._beside, beside or EMPTY)
        full = self._pool.add(seen.watched, beside, step=step)
        if full is not None:
            self._block(*self._worse(*full), at=seen.at, step=step)

    def _worse(self, watched: Tally, beside: Tally) -> tuple[float, float]:
        """By how much the watched mean is worse, and its weight in rows: the harmonic n_w n_b / (n_w + n_b)."""
        mean = watched.total / watched.n
        if self._limit is not None:
            return self._sign * (mean - self._limit), watched.n
        return self._sign * (mean - beside.total / beside.n), watched.n * beside.n / (watched.n + beside.n)

    def _block(self, worse: float, rows: float, *, at: float, step: int) -> None:
        """Add one block: its difference in units of a typical block's. The unit includes the block's own size too, never its sign."""
        self._blocks.add(worse, rows)
        beyond = worse - self._margin
        self._beyond += rows * beyond**2
        unit = math.sqrt(self._beyond * self._blocks.h) / self._blocks.n
        self._wealth.grow(eprocess.symmetric(rows * beyond / unit if unit else 0.0), at=at, step=step)

    def _over(self, watched: Tally, beside: Tally | None) -> bool | None:
        if self._blocks.n < confidence.MIN_BLOCKS or (self._limit is None and not (beside and beside.n)):
            return None
        worse, rows = self._worse(watched, beside or EMPTY)
        beyond = worse - self._margin
        if beyond <= 0:
            return False
        sd = self._blocks.row_sd
        return sd == 0 or normal_tail(beyond * math.sqrt(rows) / sd) <= self._level

    def fails(self) -> Cause | None:
        if self._wealth.log_e >= self._setup.boundary:
            return "sequential"
        return "persistence" if self._windows.failing else None

    def read(self) -> Reading:
        enough = self._watched.n >= self._gate.min_samples and self._blocks.n >= confidence.MIN_BLOCKS
        interval = self._blocks.interval()
        estimate, reference = _mean(self._watched), self._limit if self._limit is not None else _mean(self._beside)
        within = enough and interval is not None and interval[1] <= self._margin
        return Reading(
            story=self._story(estimate, reference),
            harm=f"a mean {f'more than {self._margin:g} ' if self._margin else ''}worse than {'stable' if self._limit is None else 'allowed'}",
            lacks=self._lacks(),
            passes="excluded" if within else None,
            estimate=estimate,
            reference=reference,
            interval=self._facing(interval) if interval else None,
            evidence=self._wealth.log_e,
            boundary=self._setup.boundary,
            streak=self._windows.streak,
            persistence=self._gate.persistence,
            needs=None if within else self._needs(),
        )

    def _lacks(self) -> str:
        if self._limit is None and not self._beside.n and self._watched.n + self._single:
            return "no rows of stable to compare with"
        few = self._watched.n > 0 and self._blocks.n < 2
        return f"fewer than two blocks of {POOLED} rows so far" if few else ""

    def _story(self, estimate: float | None, reference: float | None) -> str:
        if estimate is None or reference is None:
            return f"no mean {self._gate.score} yet"
        other = f"{reference:.4g} allowed" if self._limit is not None else f"{reference:.4g} ({self._beside.n:,} rows) of stable"
        return f"mean {self._gate.score} {estimate:.4g} ({self._watched.n:,} rows in {self._blocks.n} blocks) against {other}"

    def _facing(self, interval: confidence.Interval) -> confidence.Interval:
        """Watched minus reference in the score's own direction."""
        low, high = sorted(self._sign * end for end in interval)
        return low, high

    def _needs(self) -> int | None:
        blocks = self._blocks
        if blocks.n < 2:
            return None

        def enough(times: float) -> bool:
            return blocks.mean + blocks.half_width(times=times) <= self._margin and self._watched.n * times >= self._gate.min_samples

        times = confidence.factor(enough)
        return None if times is None else round(self._watched.n * (times - 1))


def _mean(tally: Tally) -> float | None:
    return tally.total / tally.n if tally.n else None


def scores(gate: gates.Score, setup: Setup) -> Family:
    """The family of a score: against stable; or, alone, against `limit` or against stable's earlier mean and the margin."""
    if setup.mode == "compare":
        return Scores(gate, setup, limit=None)
    if gate.limit is not None:
        return Scores(gate, setup, limit=gate.limit)
    before = setup.reference
    if before is None or not before.n:
        return Unset("no limit to compare with: no value of an earlier stable is known; set 'limit' on this gate")
    margin = gate.margin if gate.lower_is_better else -gate.margin
    return Scores(gate, setup, limit=before.total / before.n + margin)

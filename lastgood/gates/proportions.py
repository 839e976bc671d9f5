"""Gates that count: the error rate against stable, and any rate of one arm against a limit (errors, slow answers, disagreements)."""

from __future__ import annotations

from lastgood.gates import confidence, eprocess
from lastgood.gates.base import EMPTY, Cause, Observation, Tally
from lastgood.gates.eprocess import Pool, Wealth
from lastgood.gates.evaluator import Family, Reading, Setup, percent, share_text
from lastgood.gates.overdispersion import Dispersion
from lastgood.gates.persistence import tail
from lastgood.service import gates

POOLED = 4
"""Requests of each arm in one two-arm observation: enough that its split carries nearly all information, few enough not to wait."""

SLOW = 0.01
"""A 99th percentile is over its ceiling if more than one request in a hundred is slower."""

SLOW_EXCLUDED = 0.02
"""Share of slow requests that must be excluded for a pass; only endless traffic could distinguish 1.0 % from 0.99 %."""


class Arms:
    """Evidence from requests assigned to an arm one by one: that bad ones belong to the watched arm more often than its share."""

    def __init__(self, setup: Setup) -> None:
        self._boundary = setup.boundary
        self._pool = Pool(POOLED)
        self._dispersion = Dispersion(since=setup.since)
        self._factor = 1.0
        self.wealth = Wealth(eprocess.RATIO_PRIOR, since=setup.since)

    def take(self, watched: Tally, beside: Tally, *, at: float, step: int) -> None:
        """Add what both arms did since the last look."""
        # stable's clumping is used: a candidate with an intermittent fault must not excuse itself by it
        self._dispersion.take(at, beside.n, beside.bad)
        if self._pool.empty:
            self._factor = self._dispersion.factor
        full = self._pool.add(watched, beside, step=step)
        if full is not None:
            self.wealth.grow(eprocess.damped(eprocess.two_arms(*full), self._factor), at=at, step=step)

    @property
    def worse(self) -> bool:
        """Whether the evidence that the watched arm is worse has crossed its boundary."""
        return self.wealth.log_e >= self._boundary


class Excess:
    """The evidence that one arm's rate of bad requests is above a limit."""

    def __init__(self, setup: Setup, *, limit: float) -> None:
        self._limit = limit
        self._dispersion = Dispersion(since=setup.since)
        self._wealth = Wealth(eprocess.RATIO_PRIOR, since=setup.since)
        self.seen = EMPTY

    def take(self, tally: Tally, *, at: float, step: int) -> None:
        """Add what the arm did in one observation."""
        self._dispersion.take(at, tally.n, tally.bad)
        if not tally.n:
            return
        self.seen = eprocess.joined(self.seen, tally)
        bets = eprocess.above(tally.bad, tally.n, limit=self._limit)
        self._wealth.grow(eprocess.damped(bets, self._dispersion.factor), at=at, step=step)

    @property
    def log_e(self) -> float:
        """Natural log of the e-value."""
        return self._wealth.log_e

    @property
    def over(self) -> bool:
        """Whether the plain rate is above the limit."""
        return self.seen.bad > self.seen.n * self._limit


class Ceiling(Family):
    """One arm's rate of bad requests against a limit. If a baseline arm serves too, an excess that both share is not this arm's fault."""

    def __init__(
        self, gate: gates.AnyGate, setup: Setup, *, limit: float, noun: str, excluded: float | None = None, compare: bool | None = None
    ) -> None:
        self._gate, self._setup, self._limit, self._noun = gate, setup, limit, noun
        self._excluded = limit if excluded is None else excluded
        self._level = setup.level(gate)
        self._windows = setup.windows(gate, self._over, self._beside_over)
        self._watched, self._beside = Excess(setup, limit=limit), Excess(setup, limit=limit)
        self._arms = Arms(setup) if (setup.mode == "compare" if compare is None else compare) else None

    def take(self, seen: Observation, *, step: int) -> None:
        self._windows.take(seen.at, seen.watched, seen.beside)
        self._watched.take(seen.watched, at=seen.at, step=step)
        if self._arms and seen.beside:
            self._arms.take(seen.watched, seen.beside, at=seen.at, step=step)
            self._beside.take(seen.beside, at=seen.at, step=step)

    def _over(self, watched: Tally, _: Tally | None) -> bool:
        return watched.bad > watched.n * self._limit and tail(watched.bad, watched.n, self._limit) <= self._level

    def _beside_over(self, _: Tally, beside: Tally | None) -> bool:
        return beside is not None and beside.bad > beside.n * self._limit

    def _exceeds(self) -> Cause | None:
        if self._watched.log_e >= self._setup.boundary:
            return "sequential"
        return "persistence" if self._windows.failing else None

    def _excused(self) -> bool:
        """Whether stable is over the limit too, by its evidence, its rate or its windows, and the watched arm is not clearly worse.

        Stable's plain rate counts as well: of two equally bad arms, either may be the first whose evidence reaches the boundary.
        """
        if not self._arms or self._arms.worse:
            return False
        return self._beside.over or self._beside.log_e >= self._setup.boundary or self._windows.mostly_shared

    def fails(self) -> Cause | None:
        cause = self._exceeds()
        return None if cause and self._excused() else cause

    def both(self) -> bool:
        return self._exceeds() is not None and self._excused()

    def read(self) -> Reading:
        bad, n, stable = self._watched.seen.bad, self._watched.seen.n, self._beside.seen
        low, high = confidence.proportion(bad, n)
        within = n >= self._gate.min_samples and not self._watched.over and high <= self._excluded
        beside = f", {share_text(stable.bad, stable.n)} of stable" if stable.n else ""
        return Reading(
            story=f"{self._noun} {share_text(bad, n)} where {percent(self._limit)} is allowed{beside}",
            harm=f"more than {percent(self._excluded)}",
            lacks=f"above {percent(self._limit)}, but not yet significant" if self._watched.over else "",
            passes="excluded" if within else None,
            estimate=bad / n if n else None,
            reference=self._limit,
            interval=(low - self._limit, high - self._limit) if n else None,
            evidence=self._watched.log_e,
            boundary=self._setup.boundary,
            streak=self._windows.streak,
            persistence=self._gate.persistence,
            needs=self._needs(bad, n) if n and not within else None,
        )

    def _needs(self, bad: int, n: int) -> int | None:
        def enough(times: float) -> bool:
            return confidence.proportion(bad * times, n * times)[1] <= self._excluded and n * times >= self._gate.min_samples

        return more(n, confidence.factor(enough)) if not self._watched.over else None


def latency(gate: gates.LatencyP99, setup: Setup) -> Family:
    """The family of a 99th percentile: the share of slower requests against one in a hundred."""
    return Ceiling(gate, setup, limit=SLOW, noun=f"share slower than {gate.max_ms:g} ms", excluded=SLOW_EXCLUDED)


def agreement(gate: gates.Agreement, setup: Setup) -> Family:
    """The family of an agreement: the share of differing answers against the share that the gate allows."""
    return Ceiling(gate, setup, limit=1 - gate.min, noun="share of differing answers", compare=False)


def more(n: float, factor: float | None) -> int | None:
    """How many more requests make *factor* times the *n* observed; None if no factor is enough."""
    return None if factor is None else round(n * factor - n)

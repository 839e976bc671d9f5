"""Gates that count: the error rate against stable, and any rate of one arm against a limit (errors, slow answers, disagreements)."""

from __future__ import annotations

from lastgood.gates import confidence as bounds
from lastgood.gates import eprocess as sequential
from lastgood.gates.base import EMPTY, Cause, Observation, Tally
from lastgood.gates.eprocess import Pool, Wealth
from lastgood.gates.evaluator import Family, Reading, Setup, Unset, of, percent
from lastgood.gates.overdispersion import Dispersion
from lastgood.gates.persistence import tail
from lastgood.service import gates as conditions

POOLED = 4
"""Requests of each arm that make up one observation of two arms: enough that its split tells nearly all, few enough not to wait."""

STRATA = 8
"""Phases whose counts are kept apart; later ones share the last."""

SLOW = 0.01
"""A 99th percentile is over its ceiling if more than one request in a hundred is slower."""

SLOW_EXCLUDED = 0.02
"""Share of slow requests that must be excluded for a pass; nothing short of endless traffic tells 1.0 % from 0.99 %."""


class Arms:
    """Both arms' counts side by side: the evidence that the watched one is worse, and their rates on equal terms."""

    def __init__(self, setup: Setup) -> None:
        self._boundary = setup.boundary
        self._pool = Pool(POOLED)
        self._dispersion = Dispersion(since=setup.since)
        self._factor = 1.0
        self._strata = [(EMPTY, EMPTY)] * STRATA
        self._seen = 0
        self.wealth = Wealth(sequential.RATIO_PRIOR, since=setup.since)

    def take(self, seen: Observation, *, step: int) -> None:
        """Take in one observation; one without the other arm tells nothing."""
        self._seen += seen.watched.n
        if seen.beside is None:
            return
        # stable's clumping: a candidate whose fault comes and goes must not thereby excuse itself
        self._dispersion.take(seen.at, seen.beside.n, seen.beside.bad)
        if self._pool.empty:
            self._factor = self._dispersion.factor
        full = self._pool.add(seen.watched, seen.beside, step=step)
        if full is not None:
            self.wealth.grow(sequential.damped(sequential.two_arms(*full), self._factor), at=seen.at, step=step)
        place = min(step, STRATA - 1)
        watched, beside = self._strata[place]
        self._strata[place] = sequential.joined(watched, seen.watched), sequential.joined(beside, seen.beside)

    @property
    def worse(self) -> bool:
        """Whether the watched arm is worse beyond doubt."""
        return self.wealth.log_e >= self._boundary

    @property
    def one_sided(self) -> bool:
        """Whether requests of the watched arm were seen, but none of the other one in any of these phases."""
        return self._seen > 0 and not any(watched.n and beside.n for watched, beside in self._strata)

    def rates(self) -> tuple[float, float, float, float]:
        """Bad and all requests of the watched arm, and of the other one as if it had had its traffic when the watched one had.

        While the share grows the watched arm sees more of the later hours than stable does; if all errors rise meanwhile, the plain
        rates differ though no request was treated differently (Simpson's paradox). So stable's rates are weighted by phase with
        the watched arm's requests (direct standardization), and its size is what gives that rate its variance.
        """
        kept = [(watched, beside) for watched, beside in self._strata if watched.n and beside.n]
        bad, n = sum(watched.bad for watched, _ in kept), sum(watched.n for watched, _ in kept)
        if len(kept) < 2:
            return bad, n, sum(beside.bad for _, beside in kept), sum(beside.n for _, beside in kept)
        rate = sum(watched.n / n * beside.bad / beside.n for watched, beside in kept)
        # half an error more than seen, or a phase without any would count as one without variance
        spread = sum((watched.n / n) ** 2 * (beside.bad + 0.5) / beside.n**2 for watched, beside in kept)
        size = (rate + sum(watched.n / n * 0.5 / beside.n for watched, beside in kept)) / spread
        return bad, n, rate * size, size


class Errors(Family):
    """The error rate of the watched arm against that of the arm beside it."""

    def __init__(self, gate: conditions.ErrorRate, setup: Setup) -> None:
        self._gate, self._setup = gate, setup
        self._level = setup.level(gate)
        self._arms = Arms(setup)
        self._windows = setup.windows(gate, self._over)
        self._ceiling = Ceiling(gate, setup, limit=gate.max, noun="error rate") if gate.max is not None else None

    def take(self, seen: Observation, *, step: int) -> None:
        self._arms.take(seen, step=step)
        self._windows.take(seen.at, seen.watched, seen.beside)
        if self._ceiling:
            self._ceiling.take(seen, step=step)

    def _over(self, watched: Tally, beside: Tally | None) -> bool | None:
        if not beside or not beside.n or not watched.n:
            return None
        if watched.bad / watched.n <= beside.bad / beside.n + self._gate.margin:
            return False
        return tail(watched.bad, watched.bad + beside.bad, watched.n / (watched.n + beside.n)) <= self._level

    def fails(self) -> Cause | None:
        if self._arms.worse:
            return "sequential"
        return "persistence" if self._windows.failing else None

    def both(self) -> bool:
        return self._ceiling is not None and self.fails() is None and self._ceiling.both()

    def read(self) -> Reading:
        bad, n, bad_beside, n_beside = self._arms.rates()
        margin, seen = self._gate.margin, n > 0  # then stable has some too, see `rates`
        interval = bounds.difference(bad, n, bad_beside, n_beside) if seen else None
        within = interval is not None and n >= self._gate.min_samples and interval[1] <= margin
        return Reading(
            story=f"error rate {of(bad, n)} against {of(bad_beside, n_beside)} of stable",
            harm=f"more than {100 * margin:g} points above stable",
            lacks="no requests of stable to compare with" if self._arms.one_sided else "",
            passes="excluded" if within else None,
            estimate=bad / n if seen else None,
            reference=bad_beside / n_beside if seen else None,
            interval=interval,
            evidence=self._arms.wealth.log_e,
            boundary=self._setup.boundary,
            streak=self._windows.streak,
            persistence=self._gate.persistence,
            needs=self._needs(bad, n, bad_beside, n_beside) if seen and not within else None,
        )

    def _needs(self, bad: float, n: float, bad_beside: float, n_beside: float) -> int | None:
        def enough(times: float) -> bool:
            high = bounds.difference(bad * times, n * times, bad_beside * times, n_beside * times)[1]
            return high <= self._gate.margin and n * times >= self._gate.min_samples

        return _more(n, bounds.factor(enough))


class Excess:
    """The evidence that one arm's rate of bad requests is above a limit."""

    def __init__(self, setup: Setup, *, limit: float) -> None:
        self._limit = limit
        self._dispersion = Dispersion(since=setup.since)
        self._wealth = Wealth(sequential.RATIO_PRIOR, since=setup.since)
        self.seen = EMPTY

    def take(self, tally: Tally, *, at: float, step: int) -> None:
        """Take in what the arm did in one observation."""
        self._dispersion.take(at, tally.n, tally.bad)
        if not tally.n:
            return
        self.seen = sequential.joined(self.seen, tally)
        bets = sequential.above(tally.bad, tally.n, limit=self._limit)
        self._wealth.grow(sequential.damped(bets, self._dispersion.factor), at=at, step=step)

    @property
    def log_e(self) -> float:
        """Natural log of the e-value."""
        return self._wealth.log_e

    @property
    def over(self) -> bool:
        """Whether the plain rate is above the limit."""
        return self.seen.bad > self.seen.n * self._limit


class Ceiling(Family):
    """One arm's rate of bad requests against a limit. Where a baseline arm serves too, an excess that it shares is not this arm's fault."""

    def __init__(
        self, gate: conditions.AnyGate, setup: Setup, *, limit: float, noun: str, excluded: float | None = None, compare: bool | None = None
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
            self._arms.take(seen, step=step)
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
        """Whether stable is over the limit too, by its evidence, its rate or its windows, and the watched arm not clearly worse.

        Stable's plain rate counts as well: of two equally bad arms either may be the first whose evidence reaches the boundary.
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
        low, high = bounds.proportion(bad, n)
        within = n >= self._gate.min_samples and not self._watched.over and high <= self._excluded
        beside = f", {of(stable.bad, stable.n)} of stable" if stable.n else ""
        return Reading(
            story=f"{self._noun} {of(bad, n)} where {percent(self._limit)} is allowed{beside}",
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
            return bounds.proportion(bad * times, n * times)[1] <= self._excluded and n * times >= self._gate.min_samples

        return _more(n, bounds.factor(enough)) if not self._watched.over else None


def _more(n: float, factor: float | None) -> int | None:
    return None if factor is None else round(n * factor - n)


def errors(gate: conditions.ErrorRate, setup: Setup) -> Family:
    """The family of an error rate: against stable, or alone against `max`, or else against what stable had before plus the margin."""
    if setup.mode == "compare":
        return Errors(gate, setup)
    before = setup.reference
    if gate.max is not None:
        return Ceiling(gate, setup, limit=gate.max, noun="error rate")
    if before is None or not before.n:
        return Unset("no limit to compare with: no value of an earlier stable is known; set 'max' on this gate")
    return Ceiling(gate, setup, limit=before.bad / before.n + gate.margin, noun="error rate")


def latency(gate: conditions.LatencyP99, setup: Setup) -> Family:
    """The family of a 99th percentile: the share of slower requests against one in a hundred."""
    return Ceiling(gate, setup, limit=SLOW, noun=f"share slower than {gate.max_ms:g} ms", excluded=SLOW_EXCLUDED)


def agreement(gate: conditions.Agreement, setup: Setup) -> Family:
    """The family of an agreement: the share of differing answers against what the gate leaves."""
    return Ceiling(gate, setup, limit=1 - gate.min, noun="share of differing answers", compare=False)

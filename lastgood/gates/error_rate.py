"""The gate on the error rate: the candidate against the stable bundle, or one bundle against a limit.

What does not belong here: the evidence of requests (`proportions`) and of users (`user_evidence`).
"""

from __future__ import annotations

from lastgood.gates import confidence, eprocess
from lastgood.gates.base import EMPTY, Cause, Observation, Tally
from lastgood.gates.evaluator import Family, Reading, Setup, Unset, share_text
from lastgood.gates.persistence import tail
from lastgood.gates.proportions import Arms, Ceiling, more
from lastgood.gates.user_evidence import UserEvidence, keyless
from lastgood.service import gates

STRATA = 8
"""Number of phases whose counts are kept separately; later ones share the last."""

FEWEST_USERS = 20
"""Users on the smaller arm below which nothing can be excluded: a few users may not be representative."""


class Strata:
    """Both arms' requests, phase by phase, for a like-for-like comparison of their rates."""

    def __init__(self) -> None:
        self._strata = [(EMPTY, EMPTY)] * STRATA
        self._seen = 0

    def take(self, seen: Observation, *, step: int) -> None:
        """Add one observation; one without the other arm is ignored."""
        self._seen += seen.watched.n
        if seen.beside is None:
            return
        place = min(step, STRATA - 1)
        watched, beside = self._strata[place]
        self._strata[place] = eprocess.joined(watched, seen.watched), eprocess.joined(beside, seen.beside)

    @property
    def one_sided(self) -> bool:
        """Whether the watched arm has requests, but the other one has none in any of these phases."""
        return self._seen > 0 and not any(watched.n and beside.n for watched, beside in self._strata)

    def rates(self) -> tuple[float, float, float, float]:
        """Bad and all requests of the watched arm, and of the other one as if its traffic had come at the watched arm's times.

        While its share grows, the watched arm sees more of the later hours than stable does; if all errors rise meanwhile, the plain
        rates differ though no request was treated differently (Simpson's paradox). Stable's rates are therefore weighted by phase with
        the watched arm's requests (direct standardization), and its size is what gives that rate its variance.
        """
        kept = [(watched, beside) for watched, beside in self._strata if watched.n and beside.n]
        bad, n = sum(watched.bad for watched, _ in kept), sum(watched.n for watched, _ in kept)
        if len(kept) < 2:
            return bad, n, sum(beside.bad for _, beside in kept), sum(beside.n for _, beside in kept)
        rate = sum(watched.n / n * beside.bad / beside.n for watched, beside in kept)
        # Half an error more than observed; otherwise a phase without errors would count as having no variance.
        spread = sum((watched.n / n) ** 2 * (beside.bad + 0.5) / beside.n**2 for watched, beside in kept)
        size = (rate + sum(watched.n / n * 0.5 / beside.n for watched, beside in kept)) / spread
        return bad, n, rate * size, size


class Errors(Family):
    """The error rate of the watched arm against that of the other arm."""

    def __init__(self, gate: gates.ErrorRate, setup: Setup) -> None:
        self._gate, self._setup = gate, setup
        self._boundary, self._level = setup.boundary, setup.level(gate)
        self._arms, self._strata = Arms(setup), Strata()
        self._keyed: UserEvidence | None = None
        self._windows = setup.windows(gate, self._over)
        self._ceiling = Ceiling(gate, setup, limit=gate.max, noun="error rate") if gate.max is not None else None

    def take(self, seen: Observation, *, step: int) -> None:
        self._strata.take(seen, step=step)
        if seen.users is not None:
            self._keyed = self._keyed or UserEvidence(self._gate, self._setup)
            self._keyed.take(seen.users, at=seen.at, step=step)
        watched, beside = keyless(seen)
        if seen.beside is not None:
            self._arms.take(watched, beside, at=seen.at, step=step)
        self._windows.take(seen.at, watched, None if seen.beside is None else beside)
        if self._ceiling:
            self._ceiling.take(seen, step=step)

    def _over(self, watched: Tally, beside: Tally | None) -> bool | None:
        if not beside or not beside.n or not watched.n:
            return None
        if watched.bad / watched.n <= beside.bad / beside.n + self._gate.margin:
            return False
        return tail(watched.bad, watched.bad + beside.bad, watched.n / (watched.n + beside.n)) <= self._level

    @property
    def _log_e(self) -> float:
        """Users with a key and requests without one are two tests; whatever their dependence, the mean of their e-values is an e-value."""
        alone = self._arms.wealth.log_e
        return alone if self._keyed is None else eprocess.averaged(self._keyed.log_e, alone)

    def fails(self) -> Cause | None:
        if self._log_e >= self._boundary:
            return "sequential"
        failing = self._windows.failing or (self._keyed is not None and self._keyed.failing)
        return "persistence" if failing else None

    def both(self) -> bool:
        return self._ceiling is not None and self.fails() is None and self._ceiling.both()

    def read(self) -> Reading:
        bad, n, bad_beside, n_beside = self._strata.rates()
        margin, seen = self._gate.margin, n > 0  # if there are any, stable has some too, see `rates`
        effect, effect_beside = self._effects()
        worth = (bad / effect, n / effect, bad_beside / effect_beside, n_beside / effect_beside)
        interval = confidence.difference(*worth) if seen else None
        lacks = self._lacks(n)
        within = interval is not None and not lacks and self._sampled(n) >= self._gate.min_samples and interval[1] <= margin
        return Reading(
            story=f"error rate {share_text(bad, n)} against {share_text(bad_beside, n_beside)} of stable{self._keyed.story if self._keyed else ''}",
            harm=f"more than {100 * margin:g} points above stable",
            lacks=lacks,
            passes="excluded" if within else None,
            estimate=bad / n if seen else None,
            reference=bad_beside / n_beside if seen else None,
            interval=interval,
            evidence=self._log_e,
            boundary=self._boundary,
            streak=max(self._windows.streak, self._keyed.streak if self._keyed else 0),
            persistence=self._gate.persistence,
            needs=self._needs(*worth, effect=effect) if seen and not within else None,
        )

    def _sampled(self, n: float) -> float:
        """The watched arm's *n* requests; those with a key count by its users' share of both arms', so that no arm ends a step alone."""
        if self._keyed is None:
            return n
        groups = self._keyed.groups
        return n - sum(groups.watched.n) + groups.fair

    def _effects(self) -> tuple[float, float]:
        """How many requests of each arm are worth one independent request (design effect)."""
        if self._keyed is None:
            return 1.0, 1.0
        return self._keyed.groups.watched.effect, self._keyed.groups.beside.effect

    def _lacks(self, n: float) -> str:
        """Why nothing can be excluded; few users matter where most of the watched arm's *n* requests have a key."""
        if self._strata.one_sided:
            return "no requests of stable to compare with"
        if self._keyed is None or 2 * sum(self._keyed.groups.watched.n) <= n:
            return ""
        fewest = min(self._keyed.seen, self._keyed.seen_beside)
        return f"{fewest:,} users on the smaller arm; {FEWEST_USERS} are needed (a larger share has more)" if fewest < FEWEST_USERS else ""

    def _needs(self, bad: float, n: float, bad_beside: float, n_beside: float, *, effect: float) -> int | None:
        """How many more requests are needed; *n* and the other counts are independent-equivalent, each worth *effect* requests."""

        def enough(times: float) -> bool:
            high = confidence.difference(bad * times, n * times, bad_beside * times, n_beside * times)[1]
            return high <= self._gate.margin and n * effect * times >= self._gate.min_samples

        return more(n * effect, confidence.factor(enough))


def errors(gate: gates.ErrorRate, setup: Setup) -> Family:
    """The family of an error rate: against stable; or, alone, against `max` or against stable's earlier rate plus the margin."""
    if setup.mode == "compare":
        return Errors(gate, setup)
    before = setup.reference
    if gate.max is not None:
        return Ceiling(gate, setup, limit=gate.max, noun="error rate")
    if before is None or not before.n:
        return Unset("no limit to compare with: no value of an earlier stable is known; set 'max' on this gate")
    return Ceiling(gate, setup, limit=before.bad / before.n + gate.margin, noun="error rate")

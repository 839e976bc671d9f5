"""Evidence that may be evaluated after every request: e-processes, as sums of log bets.

An e-process is the wealth of a gambler who bets against a hypothesis at fair odds. Under the hypothesis its expected
value never exceeds 1, whatever the stopping time, so it ever reaches 1/alpha with a probability of at most alpha (Ville 1939;
Ramdas, Gruenwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference, 2023).

Each function below turns an observation into one log growth factor per alternative; `Wealth` holds the sums, and mixes over
the alternatives and over the possible start times of the fault. `Pool` joins observations that are too small to be informative.

What does not belong here: confidence bounds (`confidence`), what a verdict is (`gate`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lastgood.gates.base import EMPTY, Tally

Bets = tuple[float, ...]
"""Natural log of the growth of each bet in a mixture, in the order of its alternatives."""

RATIOS = (1.5, 2.5, 5.0, 9.0, 16.0, 50.0)
"""Factors by which the odds of a bad request are multiplied, one per alternative. A rise of less than about a fifth is not pursued:
it lies nearer to 1 than to the smallest factor, so in the long run it makes every bet lose."""

RATIO_PRIOR = (0.13, 0.09, 0.1, 0.28, 0.28, 0.12)
"""Weight of each ratio; most of it is near tenfold, so that a gross fault is found as fast as by a uniform mixture (bench/gates.py)."""

EFFECTS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""The shift of the mean for the worse, in standard deviations of a typical block, one per alternative."""

EFFECT_PRIOR = (0.15, 0.2, 0.25, 0.25, 0.15)

TINY = 1e-9


def two_arms(watched: Tally, beside: Tally) -> Bets:
    """Bets that bad requests belong to the watched arm more often than its share of the requests implies.

    Hypothesis: within this observation the watched arm is not worse. Given the number of bad requests of both arms, each
    then belongs to the watched arm with at most the odds n : n_beside. That makes its count hypergeometric, which is below the
    binomial in convex order (Hoeffding 1963), and a bet is convex in the count, so the growth has an expectation of at
    most 1: exact for any error rate and any two sizes, even if both arms' rate changes from one observation to the next. Not
    exact if the bad requests of one arm come in bursts (see `overdispersion`). If an arm has no requests, every growth is 1.
    """
    w = watched.n / (watched.n + beside.n) if watched.n and beside.n else 0.0
    return above(watched.bad, watched.bad + beside.bad, limit=w) if w else (0.0,) * len(RATIOS)


def above(bad: int, n: int, *, limit: float) -> Bets:
    """Bets that *bad* of *n* occur at a higher rate than *limit*: log likelihood ratios, the odds of *limit* times RATIOS.

    Hypothesis: each of the *n*, given the past, is bad with a probability of at most *limit*. Exact if that holds, even
    if the probability changes (Wald 1945). A *limit* of 0 or 1 is moved inwards by a billionth.
    """
    p = min(max(limit, TINY), 1 - TINY)
    bets = []
    for ratio in RATIOS:
        grown = p * ratio + (1 - p)
        bets.append(bad * math.log(ratio / grown) - (n - bad) * math.log(grown))
    return tuple(bets)


def outside(watched: int, beside: int, *, share: float, tolerance: float) -> Bets:
    """Bets that the watched arm's share of the requests lies outside *share* times (1 - tolerance, 1 + tolerance), on either side.

    Hypothesis: each request, given the past, goes to the watched arm with a probability within that band (its upper end is
    chosen so that the other arm loses no more than *tolerance* of its own share either). Two `above` bets, each with weight one half.
    """
    low, high = band(share, tolerance)
    return above(watched, watched + beside, limit=high) + above(beside, watched + beside, limit=1 - low)


def band(share: float, tolerance: float) -> tuple[float, float]:
    """The lowest and highest share within *tolerance*."""
    return share * (1 - tolerance), min(share * (1 + tolerance), 1 - (1 - share) * (1 - tolerance))


def symmetric(z: float) -> Bets:
    """Bets that *z*, a block's difference in units of a typical block's, is above 0 rather than below: 1 + tanh(effect * z).

    Hypothesis: given the past, and given its size, *z* is at least as likely to be negative as positive. That holds for arms of equal
    size that do not differ, and nearly so for others (a block mean is nearly normal); the bet is then exact at any scale, which may
    change from block to block. It is the likelihood ratio of N(effect, 1) against its mirror image given the size of *z*, hence the
    fastest-growing bet on a shift that symmetry allows (numeraire; Larsson, Ramdas, Ruf 2025), always above the better known
    exp(a*z - a*a*z*z/2) of de la Pena (1999), and never above 2, so no single block decides.
    """
    return tuple(_log_logistic(2 * effect * z) for effect in EFFECTS)


def damped(bets: Bets, factor: float) -> Bets:
    """*bets* to the power of 1/*factor*, which must be known before they are made: events that clump by that factor count once."""
    return tuple(bet / factor for bet in bets)


def _log_logistic(y: float) -> float:
    """log(2 / (1 + exp(-y))), without overflow."""
    return math.log(2) + min(y, 0.0) - math.log1p(math.exp(-abs(y)))


WHOLE = 0.88
"""Weight of the bet that the fault has been there from the beginning."""

STEPS, LATER = 0.07, 0.05
"""Weight of all starts at a larger share of traffic, and of all other starts; the j-th gets 1/(j*(j+1)) of it."""

SLOTS = 8
"""Number of later starts kept; the poorest is dropped, which only lowers the wealth and so preserves the guarantee."""

REST_S = 1800.0
"""Fewest seconds between two starts not caused by a step."""

WORN = -2.0
"""Log wealth of the newest start below which a new start is worth its price: long calm would otherwise hide a later fault."""


@dataclasses.dataclass(slots=True)
class _Start:
    """A mixture that has been betting since some moment: the log weight of each alternative and its bets since then."""

    sums: list[float]
    weight: float
    at: float

    @property
    def grown(self) -> float:
        """Log of its wealth, starting from 1."""
        return log_sum(self.sums)

    @property
    def log_wealth(self) -> float:
        return math.log(self.weight) + self.grown


class Wealth:
    """The e-process: a mixture over alternatives and over possible start times of the fault. Constant memory and time.

    E = 0.88 E(whole) + sum of w_j E(start j), where a start that has not begun counts as 1. A start begins with each *step*
    (a larger share of traffic), and after long calm. The weights are fixed in advance and a start is decided from the past
    alone, so E is an e-process for the same hypothesis at all times, however long the watch. The j-th start costs log(j*(j+1))
    of evidence: a fault after a week of calm is found little later than one on the first day.
    """

    def __init__(self, prior: Sequence[float], *, since: float) -> None:
        total = math.fsum(prior)
        self._prior = [math.log(weight / total) for weight in prior]
        self._starts = [_Start(list(self._prior), WHOLE, since)]
        self._step = self._steps = self._later = 0
        self._log_e: float | None = 0.0

    def grow(self, bets: Bets, *, at: float, step: int) -> None:
        """Add the growth of each bet from one observation at Unix time *at*, in phase number *step*."""
        if step > self._step:
            self._step, self._steps = step, self._steps + 1
            self._begin(STEPS / (self._steps * (self._steps + 1)), at)
        elif at - self._starts[-1].at >= REST_S and self._starts[-1].grown < WORN:
            self._later += 1
            self._begin(LATER / (self._later * (self._later + 1)), at)
        for start in self._starts:
            start.sums = [held + bet for held, bet in zip(start.sums, bets, strict=True)]
        self._log_e = None

    @property
    def log_e(self) -> float:
        """Natural log of the current e-value."""
        if self._log_e is None:
            unspent = STEPS / (self._steps + 1) + LATER / (self._later + 1)
            self._log_e = log_sum([math.log(unspent), *(start.log_wealth for start in self._starts)])
        return self._log_e

    @property
    def whole(self) -> float:
        """Natural log of the part of the e-value that has been betting from the beginning."""
        return self._starts[0].log_wealth

    def _begin(self, weight: float, at: float) -> None:
        if len(self._starts) > SLOTS:
            self._starts.remove(min(self._starts[1:], key=lambda start: start.log_wealth))
        self._starts.append(_Start(list(self._prior), weight, at))


def averaged(one: float, other: float) -> float:
    """Natural log of the mean of two e-values, given as logs: also an e-value, whatever the dependence between them."""
    return log_sum([one, other]) - math.log(2)


def log_sum(logs: Sequence[float]) -> float:
    """log of the sum of exp of each of *logs*."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs))


class Pool:
    """Joins observations until each arm has *least* requests.

    With little traffic, an observation of one second holds one request of one arm, which is not informative by itself. When a pool is
    full depends only on the numbers of requests, never on how many are bad, so the joined observation is as valid as any other.
    A pool that is open when a new step begins is discarded: it would mix two shares.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._step = 0
        self._watched, self._beside = EMPTY, EMPTY

    @property
    def empty(self) -> bool:
        """Whether the next observation starts a new pool."""
        return not self._watched.n and not self._beside.n

    def add(self, watched: Tally, beside: Tally | None, *, step: int) -> tuple[Tally, Tally] | None:
        """The joined observation if it is now full. *beside* is None where there is only one arm."""
        if step != self._step:
            self._step, self._watched, self._beside = step, EMPTY, EMPTY
        self._watched = joined(self._watched, watched)
        self._beside = joined(self._beside, beside or EMPTY)
        if self._watched.n < self._least or (beside is not None and self._beside.n < self._least):
            return None
        full = self._watched, self._beside
        self._watched, self._beside = EMPTY, EMPTY
        return full


def joined(held: Tally, more: Tally) -> Tally:
    """The two tallies joined into one, with the newer gauge."""
    value = held.value if more.value is None else more.value
    return Tally(
        n=held.n + more.n,
        bad=held.bad + more.bad,
        total=held.total + more.total,
        value=value,
        user_errors=more.user_errors if held.user_errors is None else held.user_errors + (more.user_errors or 0),
        copies=held.copies + more.copies,
    )

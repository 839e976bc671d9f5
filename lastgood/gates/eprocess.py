"""Evidence that may be looked at after every request: e-processes, as log bets that are summed up.

An e-process is the wealth of somebody who bets against a hypothesis at fair odds. Under the hypothesis its expected
value never exceeds 1, whenever one stops, so it ever reaches 1/alpha with a probability of at most alpha (Ville 1939;
Ramdas, Gruenwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference, 2023).

Each function below turns what was seen into one log growth factor per alternative; `Wealth` holds the sums, mixes over
the alternatives and over the moments at which the fault may have begun. `Pool` joins what is too small to tell anything.

What does not belong here: confidence bounds (`confidence`), what a verdict is (`gate`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lastgood.gates.base import EMPTY, Tally

Bets = tuple[float, ...]
"""Natural log of the growth of each bet of a mixture, in the order of its alternatives."""

RATIOS = (1.5, 2.5, 5.0, 9.0, 16.0, 50.0)
"""How many times the odds of a bad request are multiplied, per alternative. A rise of less than about a fifth is not chased:
it lies nearer to 1 than to the smallest of them, so in the long run it makes every bet lose."""

RATIO_PRIOR = (0.13, 0.09, 0.1, 0.28, 0.28, 0.12)
"""Weight of each ratio; most of it near tenfold, so that a gross fault is found as fast as by a uniform mixture (bench/gates.py)."""

EFFECTS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""By how many standard deviations of a typical block the mean is worse, per alternative."""

EFFECT_PRIOR = (0.15, 0.2, 0.25, 0.25, 0.15)

TINY = 1e-9


def two_arms(watched: Tally, beside: Tally) -> Bets:
    """Bets that a bad request more often belongs to the watched arm than its share of the requests of both says.

    Hypothesis: within this observation the watched arm is not worse. Given the number of bad requests of both arms, each
    then belongs to the watched arm with at most the odds n : n_beside. That makes its count hypergeometric, which is below the
    binomial in convex order (Hoeffding 1963), and a bet is convex in the count, so the growth has an expectation of at
    most 1: exact for any error rate and any two sizes, also if both arms' rate changes from one observation to the next. Not
    exact if the bad requests of one arm come in bursts (see `overdispersion`). An arm without requests makes every growth 1.
    """
    w = watched.n / (watched.n + beside.n) if watched.n and beside.n else 0.0
    return above(watched.bad, watched.bad + beside.bad, limit=w) if w else (0.0,) * len(RATIOS)


def above(bad: int, n: int, *, limit: float) -> Bets:
    """Bets that *bad* of *n* come at a higher rate than *limit*: log likelihood ratios, the odds of *limit* times RATIOS.

    Hypothesis: each of the *n*, given what came before, is bad with a probability of at most *limit*. Exact if that holds, also
    if the probability changes (Wald 1945). A *limit* of 0 or 1 is taken for a billionth above or below.
    """
    p = min(max(limit, TINY), 1 - TINY)
    bets = []
    for ratio in RATIOS:
        grown = p * ratio + (1 - p)
        bets.append(bad * math.log(ratio / grown) - (n - bad) * math.log(grown))
    return tuple(bets)


def outside(watched: int, beside: int, *, share: float, tolerance: float) -> Bets:
    """Bets that the watched arm's share of the requests lies outside *share* times (1 - tolerance, 1 + tolerance), both sides.

    Hypothesis: each request, given those before, goes to the watched arm with a probability within that band (its upper end is
    such that the other arm loses no more than *tolerance* of its own share either). Two `above`, each worth half.
    """
    low, high = band(share, tolerance)
    return above(watched, watched + beside, limit=high) + above(beside, watched + beside, limit=1 - low)


def band(share: float, tolerance: float) -> tuple[float, float]:
    """The lowest and the highest share that *tolerance* allows."""
    return share * (1 - tolerance), min(share * (1 + tolerance), 1 - (1 - share) * (1 - tolerance))


def symmetric(z: float) -> Bets:
    """Bets that *z*, the difference of one block in units of a typical block's, is above 0 rather than below: 1 + tanh(effect * z).

    Hypothesis: given the past, and given its size, *z* is at least as likely to be negative as positive. True of arms of equal
    size that do not differ, nearly so of others (a block mean is nearly normal); exact then, whatever the scale, which may
    change from block to block. It is the likelihood ratio of N(effect, 1) against its mirror image given the size of *z*, hence the
    fastest-growing bet on a shift that symmetry allows (numeraire; Larsson, Ramdas, Ruf 2025), always above the better known
    exp(a*z - a*a*z*z/2) of de la Pena (1999), and never above 2, so no single block decides.
    """
    return tuple(_log_logistic(2 * effect * z) for effect in EFFECTS)


def damped(bets: Bets, factor: float) -> Bets:
    """*bets* to the power of 1/*factor*, which was known before they were made: what clumps by that much counts once."""
    return tuple(bet / factor for bet in bets)


def _log_logistic(y: float) -> float:
    """log(2 / (1 + exp(-y))), without overflow."""
    return math.log(2) + min(y, 0.0) - math.log1p(math.exp(-abs(y)))


WHOLE = 0.88
"""Weight of the bet that the fault was there from the beginning."""

STEPS, LATER = 0.07, 0.05
"""Weight of all starts at a larger share of traffic, and of all starts for other reasons; the j-th gets 1/(j*(j+1)) of it."""

SLOTS = 8
"""Later starts that are kept; the poorest gives way, which only lowers the wealth and so keeps the guarantee."""

REST_S = 1800.0
"""Fewest seconds between two starts that are not due to a step."""

WORN = -2.0
"""Log wealth of the newest start below which a new one is worth its price: long calm would otherwise hide a later fault."""


@dataclasses.dataclass(slots=True)
class _Start:
    """A mixture that has been betting since some moment: log weight of each alternative and its bets since."""

    sums: list[float]
    weight: float
    at: float

    @property
    def grown(self) -> float:
        """Log of its wealth if it had begun with 1."""
        return log_sum(self.sums)

    @property
    def log_wealth(self) -> float:
        return math.log(self.weight) + self.grown


class Wealth:
    """The e-process: a mixture over alternatives and over moments at which the fault began. Constant memory and time.

    E = 0.88 E(whole) + sum of w_j E(start j), where a start that has not begun counts 1. A start begins with each *step*
    (a larger share of traffic), and after long calm. The weights are fixed beforehand and a start is decided on by the past
    alone, so E is an e-process for the same hypothesis for all time, however long the watch. The j-th start costs log(j*(j+1))
    of evidence: a fault after a week of calm is found little later than one on the first day.
    """

    def __init__(self, prior: Sequence[float], *, since: float) -> None:
        total = math.fsum(prior)
        self._prior = [math.log(weight / total) for weight in prior]
        self._starts = [_Start(list(self._prior), WHOLE, since)]
        self._step = self._steps = self._later = 0
        self._log_e: float | None = 0.0

    def grow(self, bets: Bets, *, at: float, step: int) -> None:
        """Take in what one observation at Unix time *at*, in phase number *step*, gave each bet."""
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
        """Natural log of the e-value now."""
        if self._log_e is None:
            unspent = STEPS / (self._steps + 1) + LATER / (self._later + 1)
            self._log_e = log_sum([math.log(unspent), *(start.log_wealth for start in self._starts)])
        return self._log_e

    @property
    def whole(self) -> float:
        """Natural log of the part of the e-value that has been betting since the beginning."""
        return self._starts[0].log_wealth

    def _begin(self, weight: float, at: float) -> None:
        if len(self._starts) > SLOTS:
            self._starts.remove(min(self._starts[1:], key=lambda start: start.log_wealth))
        self._starts.append(_Start(list(self._prior), weight, at))


def averaged(one: float, other: float) -> float:
    """Natural log of the mean of two e-values, given as logs: an e-value too, whatever binds the two together."""
    return log_sum([one, other]) - math.log(2)


def log_sum(logs: Sequence[float]) -> float:
    """log of the sum of exp of each of *logs*."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs))


class Pool:
    """Joins observations until each arm has *least* requests.

    At little traffic an observation of a second holds one request of one arm, which tells nothing by itself. When a pool is
    full depends on the numbers of requests alone, never on how many are bad, so the joined one is as good as any other.
    A pool that a new step finds open is thrown away: it would mix two shares.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._step = 0
        self._watched, self._beside = EMPTY, EMPTY

    @property
    def empty(self) -> bool:
        """Whether the next observation opens a new pool."""
        return not self._watched.n and not self._beside.n

    def add(self, watched: Tally, beside: Tally | None, *, step: int) -> tuple[Tally, Tally] | None:
        """The joined observation if it is full now. *beside* is None where there is one arm only."""
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
    """Both as one; the newer gauge stands."""
    value = held.value if more.value is None else more.value
    return Tally(
        n=held.n + more.n,
        bad=held.bad + more.bad,
        total=held.total + more.total,
        value=value,
        user_errors=more.user_errors if held.user_errors is None else held.user_errors + (more.user_errors or 0),
        copies=held.copies + more.copies,
    )

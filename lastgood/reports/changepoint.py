"""When a fault began to show: the change point in the numbers of an analysis, estimated afterwards.

A gate's evidence shows that something is wrong, and is late by design. The moment is estimated in retrospect: of all moments,
the one since which the watched arm's own rate explains its figures best compared with stable's rate (the generalized likelihood
ratio of a change point; Siegmund and Venkatraman 1995). It is an estimate and is reported as one, together with the moments that
explain the figures nearly as well (Siegmund 1988: the set of those whose log likelihood is at most x below the maximum contains
the true moment with probability (1 - e^-x)^2).

What does not belong here: whether there is a fault at all (`gates`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from lastgood import ledger
from lastgood.analysis import run as analysis_run
from lastgood.gates import base
from lastgood.reports.evidence import Trail
from lastgood.service import gates

SURE = 3.68
"""Distance below the maximum log likelihood, for 95 %."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimated moment `at`, and the earliest and latest plausible moment (Unix seconds)."""

    at: float
    earliest: float
    latest: float


Gain = Callable[[base.Tally], float]
"""How much better its own rate explains the data since some moment than the good rate does; 0 if it is not worse."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    start: float
    tally: base.Tally


def estimate_change_point(book: ledger.Ledger, service: str, question: analysis_run.Question, *, trail: Trail) -> float | None:
    """When the fault that failed *trail* began to show (Unix seconds), as computed by `estimate`."""
    found = estimate(book, service, question, trail=trail)
    return None if found is None else found.at


def estimate(book: ledger.Ledger, service: str, question: analysis_run.Question, *, trail: Trail) -> Estimate | None:
    """When the fault that failed *trail* began to show, at best to one measurement; None if it cannot be determined.

    For kills and ejections it is the interval of the first one, for gauges the beginning of the run of windows over the threshold.
    Reads only the measurements around that moment.
    """
    if isinstance(trail.gate, gates.OutOfMemory | gates.Ejections):
        first = next((one for one in trail.stretches if one.watched.value), None)
        return None if first is None else Estimate(at=first.start, earliest=first.start, latest=first.end)
    gain = _gain(trail)
    if gain is None:
        began = trail.verdict.at - trail.verdict.streak * trail.gate.window_s
        return Estimate(at=began, earliest=began, latest=began + trail.gate.window_s) if trail.verdict.streak else None
    spans = [_Span(one.start, one.watched) for one in trail.stretches]
    best = _since(spans, gain)
    if best is None:
        return None
    near = trail.stretches[max(best - 1, 0) : best + 2]
    rest = _total(one.watched for one in trail.stretches[best + 2 :])
    fine = [*_looks(book, service, question, trail=trail, first=near[0].after, start=near[0].start, end=near[-1].end)]
    behind = [*fine, _Span(near[-1].end, rest)]
    finer = _since(behind, gain)
    at = spans[best].start if finer is None or finer >= len(fine) else fine[finer].start
    sure = SURE * _unit(trail)
    likely = [*_likely(spans, gain, sure=sure), *_likely(behind, gain, sure=sure)]
    # An interval is as likely as its best moment: the ends are those of the adjacent intervals.
    inside = [moment for moment in likely if near[0].start <= moment <= near[-1].end]
    if len(inside) == len(likely) and fine:
        likely = _likely(behind, gain, sure=sure) or [at]
    return Estimate(at=at, earliest=min([at, *likely]), latest=max([at, *likely]))


def _likely(spans: Sequence[_Span], gain: Gain, *, sure: float) -> list[float]:
    """The starts of the spans since which the gain is at most *sure* below its maximum."""
    gains, held = [], base.EMPTY
    for span in reversed(spans):
        held = _total((held, span.tally))
        gains.append((gain(held), span.start))
    highest = max((found for found, _ in gains), default=0.0)
    return [start for found, start in gains if highest > 0 and found > 0 and found >= highest - sure]


def _unit(trail: Trail) -> float:
    """What one unit of log likelihood is in the gain: for means, twice the variance of a row, from neighbouring intervals."""
    if not isinstance(trail.gate, gates.Score):
        return 1.0
    told = [one.watched for one in trail.stretches if one.watched.n]
    steps = [
        (newer.total / newer.n - older.total / older.n) ** 2 / (1 / newer.n + 1 / older.n) for older, newer in itertools.pairwise(told)
    ]
    return 2 * sum(steps) / len(steps) if steps else math.inf


def _looks(
    book: ledger.Ledger, service: str, question: analysis_run.Question, *, trail: Trail, first: int, start: float, end: float
) -> Iterator[_Span]:
    """The gate's observations one by one from *start* until *end*, each with the time at which it began."""
    began = start
    for row in book.recorded(service, question.key, after=first):
        for seen in map(base.observation, row["body"]["observations"].get(trail.verdict.gate, ())):
            if seen.at > end:
                return
            if not seen.down and seen.at > start:
                yield _Span(began, seen.watched)
                began = seen.at


def _since(spans: Sequence[_Span], gain: Gain) -> int | None:
    """The span since whose start the gain is greatest; None if there is no gain."""
    best, place, held = 0.0, None, base.EMPTY
    for number in range(len(spans) - 1, -1, -1):
        held = _total((held, spans[number].tally))
        found = gain(held)
        if found > best:
            best, place = found, number
    return place


def _total(tallies: Sequence[base.Tally] | Iterator[base.Tally]) -> base.Tally:
    n = bad = 0
    total = 0.0
    for one in tallies:
        n, bad, total = n + one.n, bad + one.bad, total + one.total
    return base.Tally(n=n, bad=bad, total=total)


def _gain(trail: Trail) -> Gain | None:
    """The likelihood ratio that fits the gate; None for gates that do not count anything."""
    gate, good = trail.gate, trail.beside if trail.beside is not None and trail.beside.n else None
    if isinstance(gate, gates.ErrorRate | gates.LatencyP99 | gates.Agreement):
        if good is not None:
            return lambda tally: _binomial(tally, max(good.bad, 0.5) / good.n)
        return None if trail.verdict.reference is None else lambda tally: _binomial(tally, trail.verdict.reference or 0.0)
    if isinstance(gate, gates.Score):
        mean = good.total / good.n if good is not None else trail.verdict.reference
        sign = 1.0 if gate.lower_is_better else -1.0
        return None if mean is None else lambda tally: _normal(tally, mean, sign)
    return None


def _binomial(tally: base.Tally, good: float) -> float:
    """Log likelihood ratio of the observed rate against *good*."""
    good = min(max(good, 1e-9), 1 - 1e-9)
    if not tally.n or tally.bad / tally.n <= good:
        return 0.0
    rate, fine = tally.bad / tally.n, tally.n - tally.bad
    return tally.bad * math.log(rate / good) + (fine * math.log((1 - rate) / (1 - good)) if fine else 0.0)


def _normal(tally: base.Tally, good: float, sign: float) -> float:
    """The same for means, up to the unknown variance, which does not move the maximum."""
    if not tally.n:
        return 0.0
    worse = sign * (tally.total / tally.n - good)
    return tally.n * worse**2 if worse > 0 else 0.0

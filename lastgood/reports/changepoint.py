"""Since when a fault shows: where the numbers of an analysis changed, found afterwards.

The evidence of a gate says that something is wrong, and is late by design. Looking back, the moment is estimated: of all
moments, the one since which the watched arm's own rate explains its figures so much better than stable's rate does (the
generalized likelihood ratio of a change point; Siegmund and Venkatraman 1995). It is an estimate, and is told as one, with the
moments that explain the figures nearly as well (Siegmund 1988: the set of those whose log likelihood is no more than x below the
highest one holds the true moment with probability (1 - e^-x)^2).

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
"""Log likelihood below the highest, for 95 %."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The moment `at`, and the earliest and the latest that it may well have been instead (Unix seconds)."""

    at: float
    earliest: float
    latest: float


Gain = Callable[[base.Tally], float]
"""How much better its own rate explains what came since some moment than the good rate does; 0 if it is not worse."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    start: float
    tally: base.Tally


def estimate_change_point(book: ledger.Ledger, service: str, question: analysis_run.Question, *, trail: Trail) -> float | None:
    """Since when (Unix seconds) the fault that *trail* failed by shows, as `estimate` has it."""
    found = estimate(book, service, question, trail=trail)
    return None if found is None else found.at


def estimate(book: ledger.Ledger, service: str, question: analysis_run.Question, *, trail: Trail) -> Estimate | None:
    """Since when the fault that *trail* failed by shows, to one measurement at best; None if that cannot be told.

    For kills and ejections it is the stretch of the first one, for gauges the beginning of the row of windows that were over.
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
    # A stretch is as likely as its best moment: the ends are those of the stretches beside it.
    inside = [moment for moment in likely if near[0].start <= moment <= near[-1].end]
    if len(inside) == len(likely) and fine:
        likely = _likely(behind, gain, sure=sure) or [at]
    return Estimate(at=at, earliest=min([at, *likely]), latest=max([at, *likely]))


def _likely(spans: Sequence[_Span], gain: Gain, *, sure: float) -> list[float]:
    """The beginnings of the spans since which the gain is no more than *sure* below its highest."""
    gains, held = [], base.EMPTY
    for span in reversed(spans):
        held = _total((held, span.tally))
        gains.append((gain(held), span.start))
    highest = max((found for found, _ in gains), default=0.0)
    return [start for found, start in gains if highest > 0 and found > 0 and found >= highest - sure]


def _unit(trail: Trail) -> float:
    """What one unit of log likelihood is in the gain: for means twice the variance of a row, from neighbouring stretches."""
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
    """What the gate saw look by look from *start* until *end*, each with the time at which it began."""
    began = start
    for row in book.recorded(service, question.key, after=first):
        for seen in map(base.observation, row["body"]["observations"].get(trail.verdict.gate, ())):
            if seen.at > end:
                return
            if not seen.down and seen.at > start:
                yield _Span(began, seen.watched)
                began = seen.at


def _since(spans: Sequence[_Span], gain: Gain) -> int | None:
    """The span since whose beginning the gain is highest; None if there never is one."""
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
    """The likelihood ratio that fits the gate; None for gates that count nothing."""
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
    """Log likelihood ratio of the rate that was seen against *good*."""
    good = min(max(good, 1e-9), 1 - 1e-9)
    if not tally.n or tally.bad / tally.n <= good:
        return 0.0
    rate, fine = tally.bad / tally.n, tally.n - tally.bad
    return tally.bad * math.log(rate / good) + (fine * math.log((1 - rate) / (1 - good)) if fine else 0.0)


def _normal(tally: base.Tally, good: float, sign: float) -> float:
    """The same for means, but for the unknown variance, which changes no maximum."""
    if not tally.n:
        return 0.0
    worse = sign * (tally.total / tally.n - good)
    return tally.n * worse**2 if worse > 0 else 0.0

"""The evidence of one analysis over time: its measurements, replayed from the ledger through the gates that judged them.

A replay is the same fold that the controller made, looked at on the way: what each gate said then, what both arms did
in each stretch of time, and since when the evidence has risen. Memory does not grow with the number of measurements.

What does not belong here: which analyses a rollout had (`chronicle`), what an evidence means (`gates`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lastgood import conditions, judge, ledger
from lastgood.gates import base

POINTS = 240
"""Moments at which each gate is asked on the way; a path of evidence has no more points, and one for the end."""

SPANS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
"""Lengths of a stretch of time, in seconds."""

STRETCHES = 120
"""No more stretches than this in one analysis, whatever its length (up to 120 days)."""

LEVEL = 0.02
"""Evidence counts as risen once it is more than this (in powers of ten) above its lowest."""

Kind = Literal["shadow", "canary", "bake", "watch", "verify"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a gate said at `at` (Unix seconds). `evidence` and `boundary` are log10 as in a verdict, None for gates without."""

    at: float
    n: int
    outcome: base.Outcome
    estimate: float | None
    evidence: float | None
    boundary: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What both arms did from `start` until `end` (Unix seconds). `value` of a tally is its mean, by requests."""

    start: float
    end: float
    watched: base.Tally
    beside: base.Tally | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """One gate in one analysis: the verdict at its end, the path to it, and what both arms did, in stretches and in all."""

    gate: conditions.AnyGate
    verdict: base.Verdict
    points: tuple[Point, ...]
    stretches: tuple[Stretch, ...]
    watched: base.Tally
    beside: base.Tally | None


Times = Mapping[float, int]
"""Requests by the lower edge, in ms, of the proxy's bucket that their time fell in."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One question that was measured: `watched` judged beside `beside`, or alone, from `began` until `ended` (Unix seconds).

    `kind` is the phase it belongs to, `rows` how many measurements there are, `trails` one trail per gate by name. `times`
    maps each bundle to the times of its answers, where a latency gate counted them.
    """

    key: str
    kind: Kind
    mode: base.Mode
    watched: str
    beside: str | None
    began: float
    ended: float
    rows: int
    trails: Mapping[str, Trail]
    times: Mapping[str, Times]


def replay(book: ledger.Ledger, service: str, question: judge.Question, *, kind: Kind, until: float) -> Analysis:
    """The analysis of *question* as it stood at *until* (Unix seconds). Reads each measurement once."""
    return _Replay(question, book=book, service=service, until=until).told(kind)


def onset(book: ledger.Ledger, service: str, question: judge.Question, *, trail: Trail) -> float | None:
    """Since when (Unix seconds) the fault that *trail* ends with shows: the start of the first bad stretch; None if unknown.

    For the sequential test, that is the last moment at which the evidence was at its lowest: the maximum likelihood
    estimate of a change point (Page 1954). For the persistence rule, the start of the row of windows. For events, the first.
    """
    verdict = trail.verdict
    gate = question.gates[verdict.gate]
    if verdict.cause == "sequential" and len(trail.points) > 1:
        low, high = _rise(trail.points)
        one = dataclasses.replace(question, gates={verdict.gate: gate})
        again = _Replay(one, book=book, service=service, until=verdict.at, since=low, ask_until=high)
        finer = again.told("watch").trails[verdict.gate].points
        return _rise([point for point in finer if low <= point.at <= high] or trail.points)[0]
    if verdict.cause == "persistence" and verdict.streak:
        return verdict.at - verdict.streak * gate.window_s
    risen = (stretch.start for stretch in trail.stretches if (stretch.watched.value or 0) > 0 or stretch.watched.bad > 0)
    return next(risen, None)


def _rise(points: Sequence[Point]) -> tuple[float, float]:
    """The last point at which the evidence was at its lowest so far, and the one after it."""
    lowest, at = math.inf, 0
    for place, point in enumerate(points):
        lowest = min(lowest, math.inf if point.evidence is None else point.evidence)
        if point.evidence is not None and point.evidence <= lowest + LEVEL:
            at = place
    return points[at].at, points[min(at + 1, len(points) - 1)].at


class _Replay(judge.Analysis):
    """The fold of a judge, asked at regular times on the way."""

    def __init__(
        self,
        question: judge.Question,
        *,
        book: ledger.Ledger,
        service: str,
        until: float,
        since: float | None = None,
        ask_until: float | None = None,
    ) -> None:
        """Ask the gates between *since* and *ask_until* (default: the whole time), and at *until*."""
        self._until = until
        self._since = question.began if since is None else since
        self._ask_until = until if ask_until is None else ask_until
        self._step_s = max((self._ask_until - self._since) / POINTS, 1e-3)
        self._due = self._since
        self._rows = 0
        self._points: dict[str, list[Point]] = {name: [] for name in question.gates}
        self._bins = {name: _Bins(question.began, until) for name in question.gates}
        self._times = {name: (_Times(), _Times()) for name, gate in question.gates.items() if gate.metric == "latency_p99"}
        super().__init__(question, book=book, service=service)

    def _take(self, seq: int, body: Mapping[str, Any]) -> None:
        seen = [(name, base.observation(one)) for name, found in body["observations"].items() for one in found]
        at = max((one.at for _, one in seen if math.isfinite(one.at)), default=None)
        if at is not None and at > self._until:
            return
        super()._take(seq, body)
        self._rows += 1
        for name, one in seen:
            if name in self._bins and not one.down and math.isfinite(one.at):
                self._bins[name].add(one)
        for name, arms in self._times.items():
            for arm, times in zip(("watched", "beside"), arms, strict=True):
                times.take(body["cursors"].get(name, {}).get(arm))
        if at is not None and self._due <= at <= self._ask_until:
            self._ask(at)

    def _ask(self, at: float) -> None:
        self._due = at + self._step_s
        for name, verdict in self.verdicts(at).items():
            self._points[name].append(_point(verdict))

    def told(self, kind: Kind) -> Analysis:
        question = self.question
        last = self.verdicts(self._until) if self._rows else {}
        names = {question.watched: 0, **({question.beside: 1} if question.beside else {})}
        times = {digest: arms[place].counts for arms in self._times.values() for digest, place in names.items() if arms[place].counts}
        return Analysis(
            key=question.key,
            kind=kind,
            mode=question.mode,
            watched=question.watched,
            beside=question.beside,
            began=question.began,
            ended=self._until,
            rows=self._rows,
            trails={name: self._trail(name, verdict) for name, verdict in last.items()},
            times=times,
        )

    def _trail(self, name: str, verdict: base.Verdict) -> Trail:
        kept = self._tracks[name]
        return Trail(
            gate=self.question.gates[name],
            verdict=verdict,
            points=(*self._points[name], _point(verdict)),
            stretches=tuple(self._bins[name].told()),
            watched=kept.watched,
            beside=None if verdict.n_beside is None else kept.beside,
        )


def _point(verdict: base.Verdict) -> Point:
    return Point(
        at=verdict.at,
        n=verdict.n,
        outcome=verdict.outcome,
        estimate=verdict.estimate,
        evidence=verdict.evidence,
        boundary=verdict.boundary,
    )


class _Bins:
    """Sums of both arms in stretches of equal length; an observation belongs to the one that holds its `at`, the end included."""

    def __init__(self, began: float, ended: float) -> None:
        self._began = began
        wanted = (ended - began) / STRETCHES
        self._length = next((span for span in SPANS if span >= wanted), wanted)
        self._sums: dict[int, tuple[_Sum, _Sum]] = {}

    def add(self, seen: base.Observation) -> None:
        place = max(math.ceil((seen.at - self._began) / self._length) - 1, 0)
        watched, beside = self._sums.setdefault(place, (_Sum(), _Sum()))
        watched.add(seen.watched)
        beside.add(seen.beside)

    def told(self) -> Iterator[Stretch]:
        for place, (watched, beside) in sorted(self._sums.items()):
            start = self._began + place * self._length
            yield Stretch(start=start, end=start + self._length, watched=watched.tally(), beside=beside.tally() if beside.looks else None)


class _Sum:
    """Tallies added up; gauges by their mean, weighed by requests."""

    def __init__(self) -> None:
        self.looks = 0
        self._n = self._bad = 0
        self._total = self._value = self._weight = 0.0

    def add(self, tally: base.Tally | None) -> None:
        if tally is None:
            return
        self.looks += 1
        self._n, self._bad, self._total = self._n + tally.n, self._bad + tally.bad, self._total + tally.total
        if tally.value is not None:
            weight = max(tally.n, 1)
            self._value, self._weight = self._value + tally.value * weight, self._weight + weight

    def tally(self) -> base.Tally:
        return base.Tally(n=self._n, bad=self._bad, total=self._total, value=self._value / self._weight if self._weight else None)


class _Times:
    """Adds up the proxy's cumulative buckets, as its source leaves them in each cursor; a count that went back begins anew."""

    def __init__(self) -> None:
        self._before: Mapping[str, int] | None = None
        self.counts: dict[float, int] = {}

    def take(self, cursor: Any) -> None:
        now = cursor.get("times") if isinstance(cursor, Mapping) else None
        if not isinstance(now, Mapping):
            return
        before, self._before = self._before, now
        if before is None:
            return
        if any(now.get(low, 0) < count for low, count in before.items()):
            before = {}
        for low, count in now.items():
            fresh = count - before.get(low, 0)
            if fresh:
                self.counts[float(low)] = self.counts.get(float(low), 0) + fresh

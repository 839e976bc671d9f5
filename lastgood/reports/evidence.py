"""The evidence of one analysis over time: its measurements, replayed from the ledger through the gates that judged them.

A replay is the same fold that the controller computed, sampled along the way: what each gate reported at the time, and what both
arms did in each time interval. Memory does not grow with the number of measurements.

What does not belong here: which analyses a rollout had (`record`), how they are read (`analysis.follow`), what evidence means (`gates`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lastgood import ledger
from lastgood.analysis import follow
from lastgood.analysis import run as analysis_run
from lastgood.gates import base
from lastgood.service import gates

POINTS = 240
"""Number of moments at which each gate is evaluated during the replay: a path has at most this many points, plus one for the end."""

SPANS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
"""Lengths that an interval may have, in seconds."""

STRETCHES = 120
"""Maximum number of intervals in one analysis, whatever its length (up to 120 days)."""

AnalysisKind = Literal["shadow", "canary", "bake", "watch", "verify"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A gate's result at `at` (Unix seconds). `evidence` and `boundary` are log10, as in a verdict; None for gates that have none."""

    at: float
    n: int
    outcome: base.VerdictOutcome
    estimate: float | None
    evidence: float | None
    boundary: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What both arms did from `start` until `end` (Unix seconds). The `value` of a tally is its mean, weighted by requests.

    `after` is the number of the measurement that precedes its first one.
    """

    start: float
    end: float
    after: int
    watched: base.Tally
    beside: base.Tally | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """One gate in one analysis: its final verdict, the path to it, and what both arms did, per interval and in total."""

    gate: gates.AnyGate
    verdict: base.Verdict
    points: tuple[Point, ...]
    stretches: tuple[Stretch, ...]
    watched: base.Tally
    beside: base.Tally | None


Times = Mapping[float, int]
"""Number of requests by the lower edge, in ms, of the proxy bucket that their duration fell into."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAnalysis:
    """One question that was measured: `watched` judged against `beside`, or alone, from `began` until `ended` (Unix seconds).

    `kind` is the phase it belongs to, `rows` the number of measurements, `trails` one trail per gate by name. `times` maps each
    bundle to the durations of its answers, where a latency gate counted them.
    """

    key: str
    kind: AnalysisKind
    mode: base.Mode
    watched: str
    beside: str | None
    began: float
    ended: float
    rows: int
    trails: Mapping[str, Trail]
    times: Mapping[str, Times]


def replay(book: ledger.Ledger, service: str, question: analysis_run.Question, *, kind: AnalysisKind, until: float) -> MeasuredAnalysis:
    """The analysis of *question* as of *until* (Unix seconds). Reads each measurement once."""
    analysis = analysis_run.Analysis(question, book=book, service=service)
    path = _Path(analysis, until=until)
    for measurement in follow.replay(analysis, service=service, until=until):
        path.add(measurement)
    return path.analysis(kind)


class _Path:
    """What an analysis saw during its replay, and the results of its gates at regular times."""

    def __init__(self, analysis: analysis_run.Analysis, *, until: float) -> None:
        question = analysis.question
        self._analysis = analysis
        self._until = until
        self._step_s = max((until - question.began) / POINTS, 1e-3)
        self._due = question.began
        self._rows = 0
        self._points: dict[str, list[Point]] = {name: [] for name in question.gates}
        self._bins = {name: _Bins(question.began, until) for name in question.gates}
        self._times = {name: (_Times(), _Times()) for name, gate in question.gates.items() if gate.metric == "latency_p99"}

    def add(self, measurement: follow.Measurement) -> None:
        """Record what *measurement* saw, after the analysis has taken it in."""
        self._rows += 1
        for name, seen in measurement.observations:
            if name in self._bins and not seen.down and math.isfinite(seen.at):
                self._bins[name].add(seen, seq=measurement.seq)
        for name, arms in self._times.items():
            if name in measurement.cursors:
                for arm, times in zip(("watched", "beside"), arms, strict=True):
                    times.take((measurement.cursors[name] or {}).get(arm))
        if measurement.at is not None and measurement.at >= self._due:
            self._ask(measurement.at)

    def _ask(self, at: float) -> None:
        self._due = at + self._step_s
        for name, verdict in self._analysis.verdicts(at).items():
            self._points[name].append(_point(verdict))

    def analysis(self, kind: AnalysisKind) -> MeasuredAnalysis:
        """Everything recorded, as values."""
        question = self._analysis.question
        last = self._analysis.verdicts(self._until) if self._rows else {}
        names = {question.watched: 0, **({question.beside: 1} if question.beside else {})}
        times = {digest: arms[place].counts for arms in self._times.values() for digest, place in names.items() if arms[place].counts}
        return MeasuredAnalysis(
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
        watched, beside = self._analysis.sums(name)
        return Trail(
            gate=self._analysis.question.gates[name],
            verdict=verdict,
            points=(*self._points[name], _point(verdict)),
            stretches=tuple(self._bins[name].told()),
            watched=watched,
            beside=None if verdict.n_beside is None else beside,
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
    """Sums for both arms in intervals of equal length; an observation belongs to the interval that contains its `at`, end included."""

    def __init__(self, began: float, ended: float) -> None:
        self._began = began
        wanted = (ended - began) / STRETCHES
        self._length = next((span for span in SPANS if span >= wanted), wanted)
        self._sums: dict[int, tuple[_Sum, _Sum, int]] = {}

    def add(self, seen: base.Observation, *, seq: int) -> None:
        place = max(math.ceil((seen.at - self._began) / self._length) - 1, 0)
        watched, beside, _ = self._sums.setdefault(place, (_Sum(), _Sum(), seq - 1))
        watched.add(seen.watched)
        beside.add(seen.beside)

    def told(self) -> Iterator[Stretch]:
        for place, (watched, beside, after) in sorted(self._sums.items(), key=lambda item: item[0]):
            start = self._began + place * self._length
            yield Stretch(
                start=start,
                end=start + self._length,
                after=after,
                watched=watched.tally(),
                beside=beside.tally() if beside.looks else None,
            )


class _Sum:
    """Tallies are summed; gauges are averaged, weighted by requests."""

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
    """Sums the proxy's cumulative buckets, as its source leaves them in each cursor.

    A count that decreased starts from zero again; after a cursor without buckets, the next one only sets the new starting point.
    """

    def __init__(self) -> None:
        self._before: Mapping[str, int] | None = None
        self.counts: dict[float, int] = {}

    def take(self, cursor: Any) -> None:
        now = cursor.get("times") if isinstance(cursor, Mapping) else None
        before, self._before = self._before, now
        if not isinstance(now, Mapping) or before is None:
            return
        if any(now.get(low, 0) < count for low, count in before.items()):
            before = {}
        for low, count in now.items():
            fresh = count - before.get(low, 0)
            if fresh:
                self.counts[float(low)] = self.counts.get(float(low), 0) + fresh

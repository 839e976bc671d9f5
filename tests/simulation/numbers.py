"""What the gates are told: a reader of the simulated counters that differences, resets, dies and talks nonsense as real ones do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.sources import base, catalog
from tests.simulation.traffic import Counters, Traffic

NOTHING = Counters()


class Numbers:
    """Answers for every gate, as `sources.catalog.Sources` does. `down` and `nonsense` hold the kinds of sources that are so now."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.down: set[str] = set()
        self.nonsense: set[str] = set()
        self.downstream_is_well = True
        self.reads = 0

    def read(self, name: str, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """What came since *cursor*."""
        self.reads += 1
        kind = catalog.kind(asked.gate)
        if kind in self.down:
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=f"{kind} does not answer")], cursor=cursor or {})
        if kind in self.nonsense:
            seen = Observation(at=now, watched=Tally(n=1, total=math.nan, value=math.nan), beside=Tally(n=1))
            return base.SourceReading(observations=[seen], cursor=cursor or {})
        gauge = self._gauge(asked, now)
        if gauge is not None:
            return base.SourceReading(observations=[gauge], cursor={})
        return self._counted(asked, now=now, before=cursor or {})

    def _gauge(self, asked: base.MeasurementRequest, now: float) -> Observation | None:
        match asked.gate:
            case gates.OutOfMemory():
                return Observation(at=now, watched=Tally(n=1, value=self._traffic.kills.get(asked.watched, 0.0)))
            case gates.Ejections():
                return Observation(at=now, watched=Tally(n=1, value=0.0))
            case gates.Downstream(url=str()):
                return Observation(at=now, watched=Tally(n=1, bad=int(not self.downstream_is_well)))
            case gates.Downstream() | gates.Query():
                beside = None if asked.beside is None else Tally(value=self._figure(asked.beside))
                return Observation(at=now, watched=Tally(value=self._figure(asked.watched)), beside=beside)
        return None

    def _figure(self, bundle: str) -> float:
        return self._traffic.profile(bundle).score * 100

    def _counted(self, asked: base.MeasurementRequest, *, now: float, before: base.Cursor) -> base.SourceReading:
        watched_now = self._columns(asked, asked.watched, copies=asked.mirrored)
        cursor = {"watched": watched_now}
        watched = _tally(asked.gate, watched_now, before.get("watched"))
        beside = None
        if isinstance(asked.gate, gates.Score) and asked.mirrored:
            beside = _tally(
                asked.gate,
                watched_now[:1] + watched_now[2:],
                None if "watched" not in before else before["watched"][:1] + before["watched"][2:],
            )
        elif asked.beside is not None and not isinstance(asked.gate, gates.Agreement):
            cursor["beside"] = self._columns(asked, asked.beside, copies=False)
            beside = _tally(asked.gate, cursor["beside"], before.get("beside"))
        seen = Observation(at=now, watched=watched, beside=beside, share=asked.share)
        return base.SourceReading(observations=[seen] if before else [], cursor=cursor)

    def _columns(self, asked: base.MeasurementRequest, bundle: str, *, copies: bool) -> list[float]:
        count = self._traffic.counters.get(bundle, NOTHING)
        match asked.gate:
            case gates.ErrorRate():
                return [count.copies, count.copies_bad] if copies else [count.n, count.bad]
            case gates.LatencyP99():
                return [count.copies, count.copies_slow] if copies else [count.n, count.slow]
            case gates.Agreement():
                return [count.pairs, count.differ]
            case gates.SampleRatio():
                return [count.n, 0]
            case _:
                return [count.pairs, count.pairs_total, count.pairs_total_beside] if copies else [count.n, count.total]


def _tally(gate: gates.AnyGate, now: Sequence[float], before: Sequence[float] | None) -> Tally:
    """The difference of two looks; counters that went back count from zero."""
    if before is None:
        return Tally()
    if any(later < earlier for later, earlier in zip(now, before, strict=True)):
        before = [0] * len(now)
    n, second = int(now[0] - before[0]), now[1] - before[1]
    return Tally(n=n, total=second) if isinstance(gate, gates.Score) else Tally(n=n, bad=int(second))

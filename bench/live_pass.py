"""The cost of one look of the gates after a number of measurements, and of continuing after a restart. In process."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench import live_cpu, measure
from bench.table import Row, Table
from lastgood import ledger
from lastgood.analysis import run as analysis_run
from lastgood.gates import base
from lastgood.service import gates as service_gates
from lastgood.service import schema
from lastgood.sources import base as sources

SAMPLE = 60
"""Number of looks timed at each length."""
SERVICE = "toy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """At `rows` measurements: one look (measure, record, verdicts), of it the look without the ledger's disk, and a restart."""

    rows: int
    look_ms: measure.Spread
    judged_ms: measure.Spread
    resumed_s: float


class Healthy:
    """Answers for every gate like a source that saw two good arms for a second; no proxy, no files."""

    def __init__(self) -> None:
        self._dice = random.Random(11)

    def read(self, name: str, asked: sources.MeasurementRequest, *, now: float, cursor: sources.Cursor | None) -> sources.SourceReading:
        """One observation with as many figures as a real one has."""
        seen = base.Observation(at=now, watched=self._tally(asked.gate, 8), beside=self._tally(asked.gate, 142), share=asked.share)
        return sources.SourceReading(
            observations=[seen], cursor={"127.0.0.1:40000": [round(now), 17], "127.0.0.1:40001": [round(now) * 20, 300]}
        )

    def _tally(self, gate: service_gates.AnyGate, n: int) -> base.Tally:
        if isinstance(gate, service_gates.OutOfMemory | service_gates.Ejections):
            return base.Tally(n=1, value=0.0)
        total = sum(self._dice.random() ** 3 for _ in range(n)) if isinstance(gate, service_gates.Score) else 0.0
        return base.Tally(n=n, bad=sum(self._dice.random() < 0.005 for _ in range(n)), total=total)


def measure_passes(folder: Path, *, rows: Sequence[int]) -> list[Passes]:
    """Fill one analysis of a ledger in *folder* and time it along the way, at each number of *rows*."""
    folder.mkdir(parents=True)
    with ledger.connect(f"sqlite:///{folder / 'ledger.db'}") as book:
        book.migrate()
        filled = _Filled(book)
        return [filled.timed(wanted) for wanted in rows]


class _Filled:
    """One analysis that grows, a look a second of a clock that is only counted."""

    def __init__(self, book: ledger.Ledger) -> None:
        self._book = book
        self._desk = analysis_run.RunningAnalyses(book, SERVICE, Healthy())
        self._question = _question()
        self._done = 0

    def timed(self, rows: int) -> Passes:
        """Fill up to *rows*, timing the last looks and then a restart."""
        # Filling writes tens of thousands of rows; only what is timed has to reach the disk each time.
        self._book.dialect.fetch("PRAGMA synchronous = OFF")
        while self._done < rows - SAMPLE:
            self._look()
        self._book.dialect.fetch("PRAGMA synchronous = FULL")
        looks = [measure.timed_ms(self._look) for _ in range(SAMPLE)]
        judged = [measure.timed_ms(self._verdicts) for _ in range(SAMPLE)]
        began = time.perf_counter()
        again = analysis_run.Analysis.resumed(self._question, book=self._book, service=SERVICE).verdicts(self._now)
        took = time.perf_counter() - began
        if again != self._verdicts():
            raise RuntimeError(f"after a restart at {rows} measurements the gates say something else")
        return Passes(rows=rows, look_ms=measure.spread(looks), judged_ms=measure.spread(judged), resumed_s=took)

    @property
    def _now(self) -> float:
        return self._question.began + self._done

    def _look(self) -> None:
        self._done += 1
        self._desk.measure([self._question], now=self._now)
        self._verdicts()

    def _verdicts(self) -> dict[str, base.Verdict]:
        return self._desk.verdicts(self._now)[0]


def _question() -> analysis_run.Question:
    """A canary at 5 % with the gates of the demonstration."""
    gates: dict[str, Any] = yaml.safe_load(live_cpu.DEMO.read_text("utf-8"))["gates"]
    value = {"schema": schema.SCHEMA, "service": SERVICE, "tier": "rag", "owner": "bench", "traffic": {"port": 1}, "gates": gates}
    found = schema.Service.model_validate(value).gates
    return analysis_run.Question(
        key="7/canary", mode="compare", watched="sha256:b", beside="sha256:a", gates=found, alpha=0.005, began=1e9, share=0.05
    )  # fmt: skip


def table(found: Sequence[Passes]) -> Table:
    """Ours at each length; the peer is the shortest, so that the ratio shows whether the cost is flat."""
    first = found[0]
    name = f"at {first.rows:,}"
    rows = []
    for one in found:
        at = f"after {one.rows:,} measurements"
        peers = {name: first.look_ms.p50}, {name: first.judged_ms.p50}, {name: first.resumed_s}
        rows += [
            Row(what=f"one look, {at}", unit="ms", ours=one.look_ms.p50, spread=one.look_ms, peers=peers[0]),
            Row(what=f"  of it the verdicts, {at}", unit="ms", ours=one.judged_ms.p50, spread=one.judged_ms, peers=peers[1]),
            Row(what=f"going on after a restart, {at}", unit="s", ours=one.resumed_s, peers=peers[2]),
        ]
    return Table(
        title="One look at every gate, by the length of the analysis",
        rows=rows,
        ours="lastgood (p50)",
        notes=(
            (
                f"{len(_question().gates)} gates of the demonstration, in process, figures made up; a look reads, records one row durably in "
                "SQLite, and gives every verdict. A measurement a second: 80,000 are 22 hours."
            ),
            "After a restart every measurement is read again, and the verdicts are the same to the last digit.",
        ),
    )

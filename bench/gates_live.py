"""From the moment a candidate goes bad to all traffic on stable, on the whole stack; and the cost of the gates meanwhile."""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench import live_cpu, live_load, live_pass, live_project, live_stack, measure, processes
from bench.live_project import Faulty
from bench.live_stack import Live
from bench.table import Row, Table
from lastgood import ledger, testing

RATE = 200.0
"""Requests per second over 8 connections."""
CEILING_MS = 250.0
SLOW_S = 0.4
BASE = {"errors": 0.005}
"""What is wrong with both arms all the time."""
WITHIN_S = 240.0
SETTLE_S = 0.8
GATES = {
    "errors": {"metric": "error_rate", "window_s": 2, "patience_s": 60},
    "latency": {"metric": "latency_p99", "max_ms": CEILING_MS, "window_s": 2, "patience_s": 60, "settle_s": 1},
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault at one share of the traffic. `retries`: the service is idempotent, so failed answers are retried."""

    name: str
    weight_pct: float
    fault: Mapping[str, Any]
    retries: bool = False

    @property
    def title(self) -> str:
        """As text."""
        return f"{self.name}, {self.weight_pct:g} %{', with retries' if self.retries else ''}"


HALF = {"errors": 0.5}
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "half of the answers fail": HALF,
    "ten times the errors (0.5 -> 5 %)": {"errors": 0.05},
    f"slow ({SLOW_S * 1000:g} ms, ceiling {CEILING_MS:g})": {**BASE, "sleep_s": SLOW_S},
    "the worker crashes": {**BASE, "crash": True},
}
CASES = (
    *(Case(name=name, weight_pct=share, fault=fault) for share in (5.0, 25.0) for name, fault in FAULTS.items()),
    Case(name="half of the answers fail", weight_pct=25.0, fault=HALF, retries=True),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How often each case is repeated, how long processor time is counted, and at how many measurements a look is timed."""

    repetitions: int
    cpu_s: float
    rows: tuple[int, ...]


QUICK = Size(repetitions=3, cpu_s=5.0, rows=(100, 1_000))
FULL = Size(repetitions=20, cpu_s=30.0, rows=(100, 10_000, 80_000))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One repetition. Moments are Unix seconds; `ended` is the revision that took the candidate out, None if none came in time."""

    case: Case
    onset: float
    until: float
    stable: str
    bundle: str
    ended: ledger.Revision | None

    @property
    def gate(self) -> str:
        """The gate that decided."""
        told = self.ended.evidence.get("verdicts") if self.ended else None
        return f"{told[0]['gate']} ({told[0]['cause']})" if told else "none"


def run(*, quick: bool) -> list[Table]:
    """Every table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        settings = live_project.make(folder / "project")
        port = testing.free_port()
        # Retries would hide a candidate's effects from users, and from this measurement too.
        _configure(settings, port=port, retries=False)
        with live_stack.up(settings) as live:
            found, shots = _measure(live, port=port, size=size)
            cpu = live_cpu.measure_cpu(live, seconds=size.cpu_s, number=9)
        passes = live_pass.table(live_pass.measure_passes(folder / "passes", rows=size.rows))
        tables = [_table(found, shots, weight_pct=share, retries=again) for share, again in _groups()]
        return [*tables, live_cpu.table(cpu), passes]


def _groups() -> list[tuple[float, bool]]:
    return list(dict.fromkeys((case.weight_pct, case.retries) for case in CASES))


def _configure(settings: Any, *, port: int, retries: bool) -> None:
    # What follows a rollback is not part of this, and the next repetition need not wait for it.
    live_project.configure(
        settings, port=port, gates=GATES, release={"recovery": {"within_s": 0}}, traffic={"timeout_s": 3, "idempotent": retries}
    )


# --- measuring ---------------------------------------------------------------------------------------------


def _measure(live: Live, *, port: int, size: Size) -> tuple[list[Found], list[live_load.Shot]]:
    """Every case repeatedly, under one load."""
    live.stable.begin(**BASE)
    candidate = live_project.build(live.ctx, 2)
    _configure(live.settings, port=port, retries=True)
    retrying = live_project.build(live.ctx, 3)
    retrying.begin(**BASE)
    found: list[Found] = []
    dice = random.Random(7)
    with live.load(rate=RATE) as load:
        for case in sorted(CASES, key=lambda one: one.retries):
            if case.retries and live.state().stable != retrying.bundle:
                live.release_hold()
                live.cut_over(retrying)
            for number in range(size.repetitions):
                found.append(_once(live, case, candidate, dice))
                print(f"  {case.title}: {number + 1} of {size.repetitions}: {_told(found[-1])}", file=sys.stderr, flush=True)
        return found, load.end()


def _told(one: Found) -> str:
    return f"{one.ended.at - one.onset:.1f} s, {one.gate}" if one.ended else "not found"


def _once(live: Live, case: Case, candidate: Faulty, dice: random.Random) -> Found:
    """One canary in which the fault begins at some moment."""
    live.release_hold()
    candidate.begin(**BASE)
    stable = live.state().stable or ""
    proposed = live.propose(candidate, {"phase": "canary", "weight_pct": case.weight_pct, "min_s": 3600})
    live.until_phase("canary")
    time.sleep(dice.uniform(2.0, 4.0))
    onset = candidate.begin(**case.fault)
    ended = live.until_verb(proposed, "rollback", within_s=WITHIN_S)
    if ended is None:
        live.call_off()
    live.until(live.all_stable, what="traffic on stable")
    time.sleep(SETTLE_S)
    return Found(case=case, onset=onset, until=time.time(), stable=stable, bundle=candidate.bundle, ended=ended)


# --- tables ------------------------------------------------------------------------------------------------


def _table(found: Sequence[Found], shots: Sequence[live_load.Shot], *, weight_pct: float, retries: bool) -> Table:
    mine = [one for one in found if (one.case.weight_pct, one.case.retries) == (weight_pct, retries)]
    rows = [
        row for case in dict.fromkeys(one.case.title for one in mine) for row in _rows([o for o in mine if o.case.title == case], shots)
    ]
    about = "failed answers are asked for again on stable" if retries else "no retries, so users see every failure"
    return Table(
        title=f"A candidate with {weight_pct:g} % of the users goes bad ({about})",
        rows=rows,
        ours="lastgood (p50)",
        notes=(
            (
                f"{RATE:g} requests/s of {live_load.USERS} users over 8 connections; real Envoy, workers and controller (a look a second). "
                "The fault begins 2 to 4 s after the canary, with 0.5 % errors in both arms all the time."
            ),
            "Bad: no 200, or slower than the ceiling; stable's own are left out. `max` is the worst of the repetitions.",
            "The verdict's moment is that of its revision, taken right before it is written.",
        ),
    )


def _rows(found: Sequence[Found], shots: Sequence[live_load.Shot]) -> list[Row]:
    done = [one for one in found if one.ended is not None]
    missed = len(found) - len(done)
    gates = ", ".join(f"{name} {count}" for name, count in Counter(one.gate for one in done).most_common())
    note = f"by {gates}" + (f"; {missed} not found in {WITHIN_S:g} s" if missed else "")
    title = found[0].case.name
    if not done:
        return [Row(what=f"{title}: onset -> verdict committed", unit="s", ours=None, note=note)]
    told = [_figures(one, shots) for one in done]
    whats = {
        "onset -> verdict committed": ("s", "verdict"),
        "onset -> last bad answer": ("s", "last_bad"),
        "verdict -> last request sent to the candidate": ("ms", "sent"),
        "verdict -> last answer of the candidate": ("ms", "after"),
        "bad answers": ("count", "answers"),
        "users who got one": ("count", "users"),
    }
    rows = []
    for what, (unit, name) in whats.items():
        values = measure.spread([figures[name] for figures in told])
        rows.append(Row(what=f"{title}: {what}", unit=unit, ours=values.p50, spread=values, note=note if name == "verdict" else ""))
    return rows


def _figures(one: Found, shots: Sequence[live_load.Shot]) -> dict[str, float]:
    assert one.ended is not None
    here = [shot for shot in shots if one.onset - 5 < shot.sent < one.until]
    bad = live_stack.bad_answers(here, stable=one.stable, since=one.onset, slower_than_ms=CEILING_MS)
    # An answer that names no bundle is the proxy's own, given because the candidate did not answer.
    mine = [shot for shot in here if shot.arm == "candidate" and shot.bundle in ("", one.bundle)]
    sent = max((shot.sent for shot in mine), default=one.ended.at)
    last = max((shot.received for shot in mine), default=one.ended.at)
    return {
        "verdict": one.ended.at - one.onset,
        "last_bad": max((shot.received - one.onset for shot in bad), default=0.0),
        "sent": max(0.0, sent - one.ended.at) * 1000,
        "after": max(0.0, last - one.ended.at) * 1000,
        "answers": len(bad),
        "users": len({shot.user for shot in bad}),
    }

"""From the start of a fault to its alarm and to its last answer, in the whole stack under Dagster's own daemon."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

from bench import application, measure, processes
from bench.table import Row, Table
from demos import claims, year
from lastgood import release
from lastgood import settings as settings_
from lastgood.ops import local_stack
from lastgood.settings import Settings

CALM_S = 20.0
"""Seconds between two faults, in which the good bundle serves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Seconds between two ticks of the sensor, and faults for each."""

    ticks: tuple[float, ...]
    faults: int


QUICK = Size(ticks=(5.0,), faults=1)
FULL = Size(ticks=(1.0, 10.0, 60.0), faults=3)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Seconds from going live to the alarm in the ledger, to the rollback in the ledger, and to the last answer."""

    alarm: float
    decided: float
    last: float


def run(*, quick: bool) -> list[Table]:
    """The table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        settings = _project(folder / "project")
        found = {tick: _faults(settings, tick, size.faults, first=place * size.faults) for place, tick in enumerate(size.ticks)}
    rule = 3 * year.DAY_S
    rows = []
    for tick, faults in found.items():
        for what, name in (("alarm", "alarm"), ("rollback in the ledger", "decided"), ("last answer of it", "last")):
            seconds = [getattr(one, name) for one in faults]
            spread = measure.spread(seconds)
            rows.append(
                Row(what=f"a tick every {tick:g} s: {what}", unit="s", ours=spread.p50, spread=spread, peers={"the three windows": rule})
            )
    notes = [
        f"Real flights, 75 a second, a day every {year.DAY_S:g} s; a window is a day, an alarm takes three. The fault: departures read in UTC, put live past all gates.",
        f"{size.faults} faults a tick, from the commit that put the bundle live. The first look at an alarm is due three windows after it began, and two seconds for labels.",
        "Dagster's daemon asks its sensors about once a second at best; a rollback is a run, whose process takes some five seconds to begin.",
    ]
    return [Table(title="From a fault to its alarm and its end, under the running stack", rows=rows, notes=notes)]


def _project(root: Path) -> Settings:
    """The project itself, in a folder of its own."""
    application.copy(root)
    os.environ |= {"LASTGOOD_PROJECT": str(root), "DAGSTER_HOME": str(root)}
    return settings_.load(root)


def _faults(settings: Settings, tick_s: float, count: int, *, first: int) -> list[Fault]:
    """*count* faults in a home of their own, with a sensor that looks every *tick_s* seconds."""
    own = settings_.load(settings.project, environ={**os.environ, "LASTGOOD_HOME": str(settings.project / f"home-{tick_s:g}")})
    os.environ["LASTGOOD_HOME"] = str(own.home)
    os.environ |= local_stack.environment(own)
    os.chdir(own.project)
    (own.home / "demo").mkdir(parents=True)
    told = year.Year(own, claims.Story(as_json=False))
    local_stack.up(own, names=[year.SERVICE], say=lambda _line: None)
    told.build_bundle("A", "good", train=(1, 2), evaluate=(3,))
    told.build_bundle("B", "good", train=(3, 4), evaluate=(5,))
    names = [f"C{first + number}" for number in range(count)]
    for number, name in enumerate(names):
        told.build_bundle(name, "a clock in UTC", train=(3, 4), evaluate=(5,), clock="utc", late_from=0.4 + (first + number + 1) / 1000)
    told.first_release("A")
    told.open_dagster(tick_s=tick_s)
    try:
        with told.traffic():
            told.put_live("B", "good")
            return [_fault(told, name) for name in names]
    finally:
        local_stack.down(own, names=[year.SERVICE], keep_serving=False, say=lambda _line: None)


def _fault(told: year.Year, name: str) -> Fault:
    time.sleep(CALM_S)
    told.put_live(name, "a fix that could not wait")
    began = told.moved_at(told.ids[name])
    good = told.ids["B"]
    told.until(told.stable, lambda stable: stable == good)
    with release.open_context(told.settings, read_only=True) as ctx:
        pages = [page for page in ctx.ledger.pages(year.SERVICE, limit=200) if page.key.startswith(f"drift-{told.ids[name][7:19]}-")]
        moved = [one for one in ctx.ledger.history(year.SERVICE, limit=50) if one.verb == "rollback" and one.at > began]
    time.sleep(2.0)
    last = max((one["received"] for one in told.lines() if one.get("bundle") == told.ids[name]), default=began)
    if not pages or not moved:
        raise RuntimeError(f"the fault {name} was not found within {year.LIMIT_S:g} s; what serves is {told.stable()}")
    print(f"  {name}: alarm {pages[-1].at - began:.1f} s, rollback {moved[-1].at - began:.1f} s", file=sys.stderr, flush=True)
    return Fault(alarm=pages[-1].at - began, decided=moved[-1].at - began, last=last - began)

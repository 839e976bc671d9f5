"""Drift: the cost of a tick, its error rates, and the decisions on its alarms over a year of flights; compared with Evidently."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import drift_year, measure, processes
from bench.drift_samples import CATEGORIES, NUMBERS, sample
from bench.table import Row, Table
from lastgood.drift import calibration, distances, verdict
from lastgood.drift.reference import Sample
from lastgood.service.drift import DAY_S, Drift

RULES = Drift(max_rows=10_000_000)
TICK_ROWS = 30_000
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Rows of a window for the costs, repetitions for the errors, months of 2013 and those with added faults."""

    rows: tuple[int, ...]
    repetitions: int
    theirs: int
    months: tuple[int, ...]
    faulty: tuple[int, ...]


QUICK = Size(rows=(1_000,), repetitions=20, theirs=3, months=(6,), faulty=(6,))
FULL = Size(rows=(1_000, 10_000, 100_000, 1_000_000), repetitions=200, theirs=30, months=tuple(range(4, 13)), faulty=(6, 9, 11))


def run(*, quick: bool) -> list[Table]:
    """Every table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        months = drift_year.prepared(folder / "months")
        return [_costs(size), _errors(size), _power(size), *_decisions(size, folder, months)]


# --- samples -----------------------------------------------------------------------------------------------


def evidently(reference: Sample, current: Sample) -> tuple[bool, bool]:
    """Whether Evidently's unmodified preset finds any column drifted, and the data set."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in reference.columns if name.startswith("n")]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=[name for name in reference.columns if name not in numbers])
    old, new = (Dataset.from_pandas(pd.DataFrame(dict(one.columns)), data_definition=definition) for one in (reference, current))
    found = Report([DataDriftPreset()]).run(current_data=new, reference_data=old).dict()["metrics"][0]["value"]
    return found["count"] > 0, found["share"] >= 0.5


# --- the cost of a tick ------------------------------------------------------------------------------------


def _costs(size: Size) -> Table:
    rows = []
    for count in size.rows:
        reference, current = sample(count, seed=1), sample(count, seed=2)
        ours = _cpu_ms(functools.partial(verdict.of_window, current, reference, None, RULES), times=3)
        bare = _cpu_ms(functools.partial(_bare, reference, current), times=3)
        theirs = _cpu_ms(functools.partial(evidently, reference, current), times=1 if count > 10_000 else 3)
        peers = {"Evidently": theirs, "numpy, scipy": bare}
        rows.append(Row(what=f"{count:,} rows x {NUMBERS + CATEGORIES} columns: statistics", unit="CPU ms", ours=ours, peers=peers))
    for count in size.rows:
        _, cpu_ms = _tick(1, count)
        theirs = next(row.peers["Evidently"] for row in rows if row.what.startswith(f"{count:,} rows"))
        rows.append(Row(what=f"a whole tick over a window of {count:,} rows", unit="CPU ms", ours=cpu_ms, peers={"Evidently": theirs}))
    for days in (1, 30):
        peak, _ = _tick(days, TICK_ROWS)
        rows.append(Row(what=f"a whole tick over {TICK_ROWS:,} rows, the last day of {days}: peak memory", unit="MB", ours=peak))
    notes = [
        "Statistics: reference and window of equal size. Ours: distance and test of every column, missing and never-seen values.",
        "numpy, scipy: ks_2samp and wasserstein_distance of each number, shares and jensenshannon of each category, and nothing else.",
        "A whole tick: window read from the log and thinned to one part in 22 of a reference of 20,000 rows, verdict. The second of a process of its own.",
        "Calibration, once for each bundle, is left out. Beside the tick stands Evidently's report on rows that are in memory already.",
    ]
    return Table(title="What a tick costs", rows=rows, notes=notes)


def _bare(old: Sample, new: Sample) -> None:
    from scipy import stats

    for name, values in old.columns.items():
        if name.startswith("n"):
            stats.ks_2samp(values, new.columns[name])
            stats.wasserstein_distance(values, new.columns[name])
        else:
            distances.jensen_shannon(distances.counted(Counter(values), Counter(new.columns[name])))


def _cpu_ms(call: Callable[[], object], *, times: int) -> float:
    """Minimum processor time of a few calls, after a warm-up; milliseconds."""
    call()
    found = []
    for _ in range(times):
        began = sum(os.times()[:2])
        call()
        found.append((sum(os.times()[:2]) - began) * 1000)
    return max(min(found), 1000 * measure.TICK_S)


def _tick(days: int, rows: int) -> tuple[float, float]:
    """Peak memory in MB and CPU milliseconds."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.drift_tick", str(days), str(rows)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak, cpu_ms = done.stdout.split()
    return float(peak), float(cpu_ms)


# --- error rates -------------------------------------------------------------------------------------------


def _errors(size: Size) -> Table:
    rows = []
    for name, spread in (("independent rows", 0.0), ("rows of a day share 0.3 sd", 0.3)):
        for old, new in ((20_000, 500), (20_000, 1_000)):
            ours = _share([_ours(old, new, seed=seed, spread=spread) for seed in range(size.repetitions)])
            theirs = [
                evidently(sample(old, seed=seed, spread=spread), sample(new, seed=10_000 + seed, spread=spread))
                for seed in range(size.theirs)
            ]
            peers = {
                "Evidently, any column": _share([one for one, _ in theirs]),
                "Evidently, data set": _share([one for _, one in theirs]),
            }
            limit = 5 + 3 * 100 * math.sqrt(0.05 * 0.95 / size.repetitions)
            rows.append(Row(what=f"{name}: reference {old:,}, window {new:,}", unit="%", ours=ours, peers=peers, below=limit))
    notes = [
        f"Ours: {size.repetitions} windows, alpha 5 % for all 14 columns together, min_effect 0; Evidently: {size.theirs}, its defaults."
    ]
    return Table(title="Windows in which nothing has changed, and that fail all the same", rows=rows, notes=notes)


def _ours(old: int, new: int, *, seed: int, spread: float, shift: float = 0.0, rules: Drift = RULES) -> bool:
    reference = sample(old, seed=seed // 20, spread=spread)
    usual = _usual(old, new, seed // 20, spread)
    said = verdict.of_window(
        sample(new, seed=10_000 + seed, spread=spread, shift=shift), reference, usual, rules.model_copy(update={"min_effect": 0.0})
    )
    return said.outcome == "fail"


_CALIBRATED: dict[tuple[int, int, int, float], calibration.Calibration | None] = {}


def _usual(old: int, new: int, seed: int, spread: float) -> calibration.Calibration | None:
    """One calibration for twenty windows, as in production."""
    key = (old, new, seed, spread)
    if key not in _CALIBRATED:
        _CALIBRATED[key] = calibration.calibrate(sample(old, seed=seed, spread=spread), rows=new, span_s=new / 500 * DAY_S)
    return _CALIBRATED[key]


def _share(found: Sequence[bool]) -> float:
    return 100 * sum(found) / len(found)


def _power(size: Size) -> Table:
    rows = []
    for shift in (0.1, 0.25, 0.5):
        for new in (500, 1_000):
            ours = _share([_ours(20_000, new, seed=seed, spread=0.0, shift=shift) for seed in range(size.repetitions // 2)])
            theirs = [evidently(sample(20_000, seed=seed), sample(new, seed=10_000 + seed, shift=shift))[0] for seed in range(size.theirs)]
            rows.append(
                Row(
                    what=f"one column moved by {shift} sd, window {new:,}",
                    unit="%",
                    ours=ours,
                    peers={"Evidently, any column": _share(theirs)},
                )
            )
    notes = [
        f"Ours: {size.repetitions // 2} windows. Reference of 20,000 independent rows. Where Evidently finds more than ours, compare what it finds without any change, above."
    ]
    return Table(title="One column of fourteen has moved: windows that fail", rows=rows, notes=notes)


# --- decisions ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """One month under one fault, our decision, and whether Evidently calls its first week drifted."""

    name: str
    month: drift_year.Month
    evidently: bool

    @property
    def best(self) -> float:
        return min(self.month.stable, self.month.behind)

    def regret(self, policy: str) -> float:
        """How much worse than the better bundle, from the decision on, the bundle is that *policy* serves."""
        back = {
            "ours": self.month.outcome == "roll_back",
            "keep": False,
            "roll back": True,
            "Evidently -> roll back": self.evidently,
        }[policy]
        return (self.month.behind if back else self.month.stable) - self.best


FAULTS: Mapping[str, Mapping[str, Any]] = {
    "departure in UTC in the serving code": {"clock": "utc"},
    "weather a day late": {"change": drift_year.weather_late},
    "weather zeroed": {"change": drift_year.weather_gone},
    "temperature in Celsius": {"change": drift_year.celsius},
}
POLICIES = ("ours", "keep", "roll back", "Evidently -> roll back")


def _decisions(size: Size, folder: Path, months: Path) -> list[Table]:
    lived = [_live(folder, months, month, name="healthy", fault={}) for month in size.months]
    lived += [_live(folder, months, month, name=name, fault=fault) for name, fault in FAULTS.items() for month in size.faulty]
    rows = [
        Row(
            what=f"{one.name}, month {one.month.month}",
            unit="Brier",
            ours=one.regret("ours"),
            peers={policy: one.regret(policy) for policy in POLICIES[1:]},
            note=_note(one),
        )
        for one in lived
    ]
    groups = {"healthy": [one for one in lived if one.name == "healthy"], "with a fault": [one for one in lived if one.name != "healthy"]}
    means = [
        Row(
            what=f"{name}: mean of {len(found)}",
            unit="Brier",
            ours=_mean(found, "ours"),
            peers={policy: _mean(found, policy) for policy in POLICIES[1:]},
        )
        for name, found in groups.items()
    ]
    notes = [
        "Regret: Brier score, over the month, of the bundle that the policy ends with, less that of the better of the two; 0 is right.",
        "It is counted as if each had decided on the first day.",
        "Stable was trained on the two months before, the one behind it on the two before those. Looks at 3, 5, 7, 14, 28 days after an alarm began.",
        "Evidently -> roll back: its preset calls the data set drifted in the first week, held beside the same reference.",
    ]
    return [Table(title="What alarms come to: regret over the months of 2013", ours="lastgood", rows=[*rows, *means], notes=notes)]


def _live(folder: Path, months: Path, month: int, *, name: str, fault: Mapping[str, Any]) -> Lived:
    place = folder / f"{month}-{name.replace(' ', '-')}"
    lived = drift_year.live_through(drift_year.make(place), months, month, **fault)
    return Lived(name=name, month=lived, evidently=drift_year.data_set_drifts(months, month, change=fault.get("change")))


def _note(one: Lived) -> str:
    day = "no alarm" if one.month.alarm_day is None else f"alarm on day {one.month.alarm_day:.0f}, {one.month.outcome}"
    return f"{day}; stable {one.month.stable:.4f}, behind {one.month.behind:.4f}"


def _mean(lived: Sequence[Lived], policy: str) -> float:
    return sum(one.regret(policy) for one in lived) / len(lived)

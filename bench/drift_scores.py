"""The loss as a column of the drift watch: years in which nothing changes, years of slow decline, and a backtest of a year of flights."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench import drift_year, processes
from bench.table import Row, Table
from lastgood import release
from lastgood.drift import backtest, calibration, losses
from lastgood.drift import watch as drift_watch
from lastgood.drift import window as drift_window
from lastgood.drift.judging import DriftWatch, Judge, Made, WindowReport
from lastgood.drift.reference import LABEL, PROBABILITY, Sample
from lastgood.service.drift import DAY_S, Drift
from services.flights import drift

RULES = Drift()
PER_DAY, REFERENCE_DAYS, YEAR, SHARP = 200, 60, 365, 5.0
BUNDLE = "sha256:" + "1" * 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Years without a change per world, judged whole and by the loss alone; runs of slow decline; months of flights in the backtest."""

    years: int
    bundles: int
    declines: int
    months: tuple[int, ...]


QUICK = Size(years=2, bundles=5, declines=1, months=(4,))
FULL = Size(years=10, bundles=100, declines=3, months=tuple(range(1, 13)))


def run(*, quick: bool) -> list[Table]:
    """Every table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        return [_backtest(folder, size), _false_alarms(size), _loss_alone(size), _declines(size)]


# --- an in-memory service ----------------------------------------------------------------------------------


def day(number: int, *, seed: int, spread: float, turned: float = 0.0) -> Sample:
    """One day: five numbers, a category, the answer of a bundle that knows the first number, and the outcome.

    The outcome depends on the first number and the second, turned by an angle: with 0 the bundle knows everything relevant, with a
    quarter nothing. No input changes with that, nor how often the label is 1. Rows of a day share an offset of standard deviation
    *spread*.
    """
    draw = np.random.default_rng((seed, number))
    numbers = {f"n{place}": draw.normal(size=PER_DAY) + draw.normal(0, spread) for place in range(5)}
    angle = turned * 2 * math.pi
    truth = math.cos(angle) * numbers["n0"] + math.sin(angle) * numbers["n1"]
    label = (draw.random(PER_DAY) < _sigmoid(SHARP * truth)).astype(float)
    kinds: Any = draw.choice(np.array(["a", "b", "c"], dtype=object), size=PER_DAY)
    at = (number + np.arange(PER_DAY) / PER_DAY) * DAY_S
    return Sample(at=at, columns={**numbers, "kind": kinds, LABEL: label, PROBABILITY: _sigmoid(SHARP * numbers["n0"])})


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


def _joined(samples: list[Sample]) -> Sample:
    columns = {name: np.concatenate([one.columns[name] for one in samples]) for name in samples[0].columns}
    return Sample(at=np.concatenate([one.at for one in samples]), columns=columns)


def lived(*, seed: int, spread: float, days: int, turn: float = 0.0, scores: bool = True) -> Iterator[WindowReport]:
    """The days of a bundle with a reference of its own, judged one by one; over all of them the truth is turned by *turn*.

    Without *scores* it is judged as before the loss was a column.
    """
    reference = _joined([day(number, seed=10_000 + seed, spread=spread) for number in range(REFERENCE_DAYS)])
    usual = calibration.calibrate(reference, rows=PER_DAY, span_s=DAY_S)

    def rows(*, since: float, until: float, columns: Collection[str], most: int) -> drift_window.Window:  # noqa: ARG001
        number = round(since / DAY_S)
        sample = day(number, seed=seed, spread=spread, turned=turn * number / days)
        return drift_window.Window(sample=sample, table=None, rows=sample.rows, trouble=())

    what = DriftWatch(service="bench", bundle=BUNDLE, since=0.0, revision=1, rules=RULES)
    judge = Judge(what, Made(reference=reference, usual=lambda _rows, _span: usual, features=lambda window: window.sample), rows)
    if not scores:
        judge._losses = None
    for _ in range(days):
        found = judge.look()
        judge.go_on(found)
        yield found


# --- years -------------------------------------------------------------------------------------------------


def _false_alarms(size: Size) -> Table:
    rows = []
    for name, spread in (("independent rows", 0.0), ("rows of a day share 0.3 sd", 0.3)):
        counts = {}
        for scores in (True, False):
            years = [list(lived(seed=seed, spread=spread, days=YEAR, scores=scores)) for seed in range(size.years)]
            failed = sum(one.verdict["outcome"] == "fail" for year in years for one in year)
            alarmed = sum(any(one.change == "opened" for one in year) for year in years)
            counts[scores] = (100 * failed / (YEAR * size.years), 100 * alarmed / size.years)
        for place, what in enumerate(("days that fail", "years with an alarm")):
            limit = 5 + 300 * math.sqrt(0.05 * 0.95 / size.years)
            rows.append(
                Row(
                    what=f"{name}: {what}",
                    unit="%",
                    ours=counts[True][place],
                    peers={"without the loss": counts[False][place]},
                    below=limit,
                )
            )
    notes = [
        f"{size.years} bundles, each with a reference of {REFERENCE_DAYS} days of its own and a year of {PER_DAY} rows a day; eight columns, alpha 5 % for all of them and the loss together, an alarm after three days.",
        "Without the loss: the same years, judged as before there was that column.",
    ]
    return Table(title="Years in which nothing changes", rows=rows, notes=notes)


WORLDS = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.7), (1.0, 0.8))
"""Standard deviation of what the rows of a day share, and its correlation from one day to the next."""


def _loss_alone(size: Size) -> Table:
    rows = []
    for spread, correlation in WORLDS:
        found = {
            bias: [_days_until(seed, spread=spread, correlation=correlation, bias=bias) for seed in range(size.bundles)]
            for bias in (0.0, -1.5)
        }
        alarms, faults = ([one for one in found[bias] if one is not None] for bias in (0.0, -1.5))
        name = f"days share {spread:g} sd, correlated by {correlation:g}" if spread else "independent rows"
        limit = 1 + 300 * math.sqrt(0.01 * 0.99 / size.bundles)
        rows.append(
            Row(what=f"{name}: years in which nothing changes, with an alarm", unit="%", ours=100 * len(alarms) / size.bundles, below=limit)
        )
        note = f"of {size.bundles} that break at once, {len(faults)} are found within a year"
        rows.append(
            Row(
                what=f"{name}: days until a break is found, median",
                unit="days",
                ours=statistics.median(faults) if faults else None,
                note=note,
            )
        )
    notes = [
        f"{size.bundles} bundles for each figure, each with a reference of {REFERENCE_DAYS} days of its own, {PER_DAY} rows a day; promised is 1 % a year, a fifth of alpha."
    ]
    return Table(title="The test of the loss by itself", rows=rows, notes=notes)


def _days_until(seed: int, *, spread: float, correlation: float, bias: float) -> int | None:
    """The day of the first year on which the loss of a bundle alarms whose answers do not reflect *bias*."""
    base = losses.baseline(_scored_days(REFERENCE_DAYS, seed=seed, spread=spread, correlation=correlation, bias=0.0), RULES)
    assert base is not None
    track = losses.Track(base, alpha=RULES.alpha)
    loss = losses.of_rows(_scored_days(YEAR, seed=10_000 + seed, spread=spread, correlation=correlation, bias=bias), RULES.decide.score)
    for number, part in enumerate(loss.reshape(YEAR, PER_DAY)):
        track.take(losses.blocks(part, RULES), at=number * DAY_S)
        if track.failing:
            return number
    return None


def _scored_days(days: int, *, seed: int, spread: float, correlation: float, bias: float) -> Sample:
    """Answers and labels; the answers do not reflect what the rows of a day share, or *bias*."""
    draw = np.random.default_rng(seed)
    shared, fresh = np.zeros(days), draw.normal(0, spread, days) * math.sqrt(1 - correlation**2)
    for number in range(days):
        shared[number] = fresh[number] + (correlation * shared[number - 1] if number else 0.0)
    x = draw.normal(size=days * PER_DAY)
    label = (draw.random(days * PER_DAY) < _sigmoid(x + np.repeat(shared, PER_DAY) + bias)).astype(float)
    return Sample(at=np.arange(days * PER_DAY) / PER_DAY * DAY_S, columns={LABEL: label, PROBABILITY: _sigmoid(x)})


def _declines(size: Size) -> Table:
    years = 5
    found: dict[bool, list[WindowReport | None]] = {}
    for scores in (True, False):
        runs = [lived(seed=seed, spread=0.3, days=years * YEAR, turn=0.25, scores=scores) for seed in range(size.declines)]
        found[scores] = [next((one for one in run if one.change == "opened" and _is_late(one)), None) for run in runs]
    start, end = (_loss(seed=1, turned=turned) for turned in (0.0, 0.25))
    alarms = [one for one in found[True] if one is not None]
    at_alarm = [_loss(seed=one.number, turned=0.25 * one.number / (years * YEAR)) / start for one in alarms]
    rows = [
        Row(
            what="runs with an alarm",
            unit="%",
            ours=_percent(found[True]),
            peers={"without the loss": _percent(found[False])},
        ),
        Row(
            what="years until the alarm, median",
            unit="years",
            ours=statistics.median(one.number / YEAR for one in alarms) if alarms else None,
        ),
        Row(
            what="loss at the alarm, times that of a bundle trained anew, median",
            unit="x",
            ours=statistics.median(at_alarm) if alarms else None,
        ),
        Row(what="loss after five years, times that of a bundle trained anew", unit="x", ours=end / start),
    ]
    notes = [
        f"{size.declines} runs of five years, {PER_DAY} rows a day, every label there: what decides the label turns from one number to another. No input changes, nor the answers, nor how often the label is 1.",
        "An alarm of the first month is not counted.",
    ]
    return Table(title="Slow decline without any shift of inputs", rows=rows, notes=notes)


def _is_late(one: WindowReport) -> bool:
    return one.number > 30


def _percent(found: list[WindowReport | None]) -> float:
    return 100 * sum(one is not None for one in found) / len(found)


def _loss(*, seed: int, turned: float) -> float:
    sample = _joined([day(number, seed=seed, spread=0.3, turned=turned) for number in range(50)])
    return float(np.mean((sample.columns[PROBABILITY] - sample.columns[LABEL]) ** 2))


# --- a backtest --------------------------------------------------------------------------------------------


def _backtest(folder: Path, size: Size) -> Table:
    months = drift_year.prepared(folder / "months")
    settings = drift_year.make(folder / "project")
    start = drift_year.first_of(4)
    with release.open_context(settings) as ctx:
        behind = drift_year.build(ctx, months, trained=(1,), later=3, now=start - 3000)
        stable = drift_year.build(ctx, months, trained=(1, 2), later=3, now=start - 2000)
        drift_year.promote(ctx, behind, at=start - 1000)
        drift_year.promote(ctx, stable, at=start)
        what = drift_watch.watch_of_service(ctx, drift_year.SERVICE)
        assert what is not None
        came = drift_year.flights(months, *size.months)
        table = drift.reference(came)
        if LABEL not in table.column_names:
            table = table.append_column(LABEL, came["late"].cast(pa.float64()))
        began, cpu = time.perf_counter(), sum(os.times()[:2])
        found = backtest.run(ctx, what, table)
        wall, used = time.perf_counter() - began, sum(os.times()[:2]) - cpu
    said = f"{found.rows:,} flights in {len(found.windows)} days"
    outcomes = ", ".join(one.outcome for one in found.decisions)
    rows = [
        Row(
            what=f"{said}: whole backtest", unit="s", ours=wall, below=60.0, note=f"{len(found.alarms)} alarms; looks: {outcomes or 'none'}"
        ),
        Row(what=f"{said}: processor", unit="CPU s", ours=used),
    ]
    notes = [
        "Stable was trained on January and February, the one behind it on January; the reference is March. With every label and every decision."
    ]
    return Table(title="A backtest of a year", rows=rows, notes=notes)

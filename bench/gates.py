"""The gates: false rollbacks of a healthy release, and the time to detect a bad one, compared with rules used elsewhere.

Virtual time, seeded traffic, a thousand runs of each. Ours is the arithmetic of `lastgood.gates` in numpy (`gate_twin`), which
a test proves equal to `lastgood.gates.gate.GateState` on random paths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from bench import gate_rules as rules
from bench import gate_sims as sims
from bench import gate_twin as twin
from bench.table import Row, Table

ALPHA = 0.01
OURS, ARTICLE, ARGO, FLAGGER, UNIFORM = "ours", "+2 points, 5 min", "Argo-style", "Flagger-style", "uniform e-process"
BASE = 0.005

SHORT_S = 1500.0
"""How long a release of Flagger's own example lasts: its rule was not designed for a day."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The amount of work: runs of each, requests per second, hours of it; seconds between looks, and in the first hour (None: as later)."""

    runs: int
    rates: tuple[float, ...]
    hours: float
    look_s: float
    fine_s: float | None


QUICK = Size(runs=200, rates=(2.0, 20.0), hours=6.0, look_s=60.0, fine_s=None)
FULL = Size(runs=1_000, rates=(0.2, 2.0, 20.0, 200.0), hours=24.0, look_s=30.0, fine_s=2.0)

ABOUT = (
    f"Our alpha is {ALPHA:g} for the one gate; the split of it between evidence and windows is in lastgood/gates/evaluator.py.",
    "Argo-style and Flagger-style skip a minute in which the candidate had no request; with their own defaults it may abort.",
    "The uniform e-process is told the true share of traffic; ours reads it off the requests.",
)


def run(*, quick: bool) -> list[Table]:
    """All tables."""
    size = QUICK if quick else FULL
    return [_errors(size), _hard(size), _latency(size), _quality(size)]


def _rules(size: Size, *, share: float = 0.05) -> dict[str, rules.Rule]:
    return {
        OURS: rules.Ours(twin.Errors(runs=size.runs, alpha=ALPHA)),
        ARTICLE: rules.Article(runs=size.runs),
        ARGO: rules.Argo(runs=size.runs),
        FLAGGER: rules.Flagger(runs=size.runs),
        UNIFORM: rules.Uniform(runs=size.runs, w=share, alpha=ALPHA),
    }


def _traffic(size: Size, rate: float, draw: sims.Draw, **more: object) -> sims.Traffic:
    values = {"hours": size.hours, "look_s": size.look_s, "fine_s": size.fine_s, **more}
    return sims.Traffic(rate=rate, draw=draw, runs=size.runs, **values)  # type: ignore[arg-type]


def _clean(what: str, found: Mapping[str, sims.Outcome], *, promised: bool = True, note: str = "") -> Row:
    """One row on a healthy release: percent of runs that were rolled back."""
    share = {name: one.found for name, one in found.items()}
    ours = share.pop(OURS)
    return Row(what=f"{what}: false rollbacks", unit="%", ours=ours, peers=share, below=_limit(found) if promised else None, note=note)


def _limit(found: Mapping[str, sims.Outcome]) -> float:
    """Percent that a true rate of ALPHA stays below in all but one of a thousand such tables: three standard errors."""
    return 100 * (ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / len(found[OURS].seconds)))


def _found(what: str, found: Mapping[str, sims.Outcome], *, harmed: bool = True) -> list[Row]:
    """Rows on a bad release: whether it was found, minutes until then, bad answers until then."""
    rows = [
        _row(f"{what}: found", "%", found, lambda one: one.found),
        _row(f"{what}: median", "min", found, lambda one: one.minutes(0.5)),
        _row(f"{what}: p95", "min", found, lambda one: one.minutes(0.95)),
    ]
    return [*rows, *([_row(f"{what}: bad answers", "mean", found, lambda one: one.harmed)] if harmed else [])]


def _row(what: str, unit: str, found: Mapping[str, sims.Outcome], figure: Callable[[sims.Outcome], float | None]) -> Row:
    figures = {name: figure(one) for name, one in found.items()}
    peers = {name: value for name, value in figures.items() if name != OURS and value is not None}
    never = [name for name, value in figures.items() if value is None]
    return Row(what=what, unit=unit, ours=figures[OURS], peers=peers, note=f"never: {', '.join(never)}" if never else "")


def _errors(size: Size) -> Table:
    rows: list[Row] = []
    for rate in size.rates:
        name = f"{rate:g}/s"
        healthy = sims.play(_traffic(size, rate, sims.rates(BASE, BASE)), _rules(size))
        rows.append(_clean(f"{name} healthy", healthy))
        short = {rule: _before(one, SHORT_S) for rule, one in healthy.items()}
        rows.append(_clean(f"{name} healthy, first {SHORT_S / 60:g} min", short))
        for times in (10, 2):
            found = sims.play(_traffic(size, rate, sims.rates(times * BASE, BASE), seed=2), _rules(size))
            rows += _found(f"{name} x{times}", found)
    return Table(
        title=f"Error rate: candidate at 5 % of the traffic, 0.5 % errors, {size.hours:g} hours; healthy, ten times, twice as many",
        ours=OURS,
        rows=rows,
        notes=(f"{size.runs:,} runs; a look every {size.look_s:g} s{_fine(size)}.", *ABOUT),
    )


def _coarse(size: Size) -> Size:
    """One look a minute, where many runs continue to the end."""
    return dataclasses.replace(size, look_s=60.0, fine_s=None)


def _fine(size: Size) -> str:
    return f", in the first hour every {size.fine_s:g} s" if size.fine_s else ""


FIRST = "the uniform e-process keeps the share of the first step"
RAMP = ((0.0, 0.05), (600.0, 0.25), (1200.0, 0.5))


def _hard(size: Size) -> Table:
    """A ramp that changes the share, base rates that change, outages, and bursts, where the guarantee ends."""
    coarse = _coarse(size)

    def clean(what: str, draw: sims.Draw, *, rate: float = 20.0, promised: bool = True, note: str = "", **more: object) -> Row:
        return _clean(what, sims.play(_traffic(coarse, rate, draw, **more), _rules(coarse)), promised=promised, note=note)

    late = sims.rates(10 * BASE, BASE, since=1200.0)
    overnight = sims.rates(10 * BASE, BASE, since=size.hours / 2 * sims.HOUR_S)
    rows = [
        clean("ramp 5-25-50 %", sims.rates(BASE, BASE), shares=RAMP, note=FIRST),
        clean(
            "ramp, rate swings over the day",
            sims.daily(0.02),
            shares=((0.0, 0.05), (size.hours / 8 * sims.HOUR_S, 0.25), (size.hours / 3 * sims.HOUR_S, 0.5)),
            note=FIRST,
        ),
        clean("3 % errors in both arms", sims.rates(0.03, 0.03)),
        clean("30 % errors in both arms", sims.rates(0.3, 0.3)),
        clean("outages of both arms", sims.outages(BASE, during=0.3, per_hour=0.5, minutes=5, look_s=coarse.look_s)),
        *(
            clean(
                f"bursts of {size_} in one arm",
                sims.bursts(BASE, size=size_),
                promised=False,
                note="not promised: bad requests depend on each other",
            )
            for size_ in (2, 5, 20)
        ),
        *_later("x10 from the third step on", coarse, late, began=1200.0, shares=RAMP, hours=6.0),
        *_later(f"x10 after {size.hours / 2:g} h of calm", coarse, overnight, began=size.hours / 2 * sims.HOUR_S),
    ]
    return Table(
        title=f"Error rate where it is hard: 20 requests per second, {size.hours:g} hours",
        ours=OURS,
        rows=rows,
        notes=(
            f"{size.runs:,} runs; a look every {coarse.look_s:g} s. Times count from when the fault begins; runs rolled back before count as found.",
            "Bursts: as many bad requests in all, but the requests of one burst all go to one arm, as those of a user with a fixed side do.",
        ),
    )


def _later(what: str, size: Size, draw: sims.Draw, *, began: float, **more: object) -> list[Row]:
    """A fault that begins at *began*: only runs that a rule had not rolled back before count for its times."""
    found = sims.play(_traffic(size, 20.0, draw, seed=3, **more), _rules(size))
    after = {}
    for name, one in found.items():
        kept = one.seconds > began
        if kept.any():
            after[name] = sims.Outcome(seconds=one.seconds[kept] - began, bad=one.bad[kept])
    rows = [
        _row(f"{what}: median", "min", after, lambda one: one.minutes(0.5)),
        _row(f"{what}: p95", "min", after, lambda one: one.minutes(0.95)),
    ]
    return [_clean(f"{what}, before it", {name: _before(one, began) for name, one in found.items()}), *rows]


def _before(one: sims.Outcome, began: float) -> sims.Outcome:
    import numpy as np

    return sims.Outcome(seconds=np.where(one.seconds <= began, one.seconds, np.inf), bad=one.bad)


def _latency(size: Size) -> Table:
    """The share of requests over the ceiling of the 99th percentile, compared with rules on the P99 of each minute."""
    coarse = _coarse(size)

    def play(draw: sims.Draw, rate: float, seed: int = 1) -> dict[str, sims.Outcome]:
        gates: dict[str, rules.Rule] = {
            OURS: rules.Ours(twin.Ceiling(runs=size.runs, alpha=ALPHA)),
            "P99 of a minute, 3 in a row": rules.SlowMinutes(runs=size.runs),
            "P99 of a minute, once": rules.SlowOnce(runs=size.runs),
        }
        return sims.play(_traffic(coarse, rate, draw, seed=seed), gates)

    rows: list[Row] = []
    for rate in (2.0, 20.0, 200.0) if size is FULL else (20.0,):
        rows += [
            _clean(f"{rate:g}/s healthy (0.5 % slower)", play(sims.rates(0.005, 0.005), rate)),
            _clean(f"{rate:g}/s both arms slow (3 %)", play(sims.rates(0.03, 0.03), rate)),
            *_found(f"{rate:g}/s candidate slow (5 %)", play(sims.rates(0.05, 0.005), rate, 2)),
        ]
    return Table(
        title=f"Latency: at most 1 % of requests over the ceiling; candidate at 5 % of the traffic, {size.hours:g} hours",
        ours=OURS,
        rows=rows,
        notes=(f"{size.runs:,} runs; a look every {coarse.look_s:g} s. A bad answer here is one over the ceiling.",),
    )


MEAN, WORSE, MARGIN, BLOCK_S = 0.18, 0.04, 0.005, 60.0


def _quality(size: Size) -> Table:
    """The mean of a score, on the candidate's own rows and on the same rows as stable."""
    coarse = _coarse(size)

    def play(draw: sims.Draw, *, paired: bool, seed: int) -> dict[str, sims.Outcome]:
        gates: dict[str, rules.Rule] = {
            OURS: rules.Ours(twin.Scores(runs=size.runs, alpha=ALPHA, margin=MARGIN)),
            "worse in 5 blocks in a row": rules.WorseMinutes(runs=size.runs, margin=MARGIN, window_s=BLOCK_S),
            "t-test at every block": rules.PeekedT(runs=size.runs, margin=MARGIN, alpha=ALPHA),
        }
        share = 1.0 if paired else 0.05
        return sims.play(_traffic(coarse, 2.0 if paired else 10.0, draw, seed=seed, shares=((0.0, share),), paired=paired), gates)

    rows = [
        _clean("canary, healthy", play(sims.skewed(MEAN, 0.0), paired=False, seed=1)),
        _clean("canary, worse by the margin", play(sims.skewed(MEAN, MARGIN), paired=False, seed=2)),
        *_found("canary, worse by 0.04", play(sims.skewed(MEAN, WORSE), paired=False, seed=3), harmed=False),
        _clean("shadow, worse by the margin", play(sims.same_rows(MEAN, MARGIN, apart=0.05), paired=True, seed=4)),
        *_found("shadow, worse by 0.04", play(sims.same_rows(MEAN, WORSE, apart=0.05), paired=True, seed=5), harmed=False),
    ]
    return Table(
        title=f"Quality: mean Brier-like score {MEAN:g}, margin {MARGIN:g}, blocks of {BLOCK_S:g} s, {size.hours:g} hours",
        ours=OURS,
        rows=rows,
        notes=(
            f"{size.runs:,} runs. Scores are Gamma-distributed, skewness 2.2.",
            "Canary: 10 labelled rows per second, 5 % of them the candidate's. Shadow: 2 rows per second answered by both, which differ by 0.05 per row.",
        ),
    )

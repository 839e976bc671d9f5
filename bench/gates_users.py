"""The gate on errors where users differ: equal bundles taken out, and the time to detect a bad one, counted by user and by request.

Virtual time, seeded, every run one release of some hours with users who are assigned to an arm once. Ours is `lastgood.gates` itself,
given the observations of `user_worlds`; compared with the same gate without the users (as it was), and rules used elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bench import gate_rules, user_worlds
from bench.table import Row, Table
from bench.user_worlds import Look, World
from lastgood.gates.gate import GateState
from lastgood.service import gates

ALPHA = 0.01
OURS, REQUESTS, ARTICLE, ARGO, FLAGGER, ONE_LOOK = (
    "by user",
    "by request",
    "+2 points, 5 min",
    "Argo-style",
    "Flagger-style",
    "z-test at the end",
)
GATE = gates.ErrorRate(metric="error_rate")
RAMP = ((0.0, 0.05), (7200.0, 0.25), (14400.0, 0.5))
WORKERS = 2

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def _outage(of: str) -> Callable[[Floats, Bools], Floats]:
    """An error rate of one half in the second hour, of both arms or of stable alone."""
    return functools.partial(_outage_at, both=of == "both")


def _outage_at(hours: Floats, watched: Bools, *, both: bool) -> Floats:
    return np.where((hours > 1) & (hours < 2) & (both | ~watched), 0.5, 0.0)


def _better_first(hours: Floats, watched: Bools) -> Floats:
    return np.where(watched & (hours < 4), 0.2, 1.0)


def _worse(hours: Floats, watched: Bools, *, times: float, since_h: float = 0.0) -> Floats:
    return np.where(watched & (hours >= since_h), times, 1.0)


EQUAL: Mapping[str, World] = {
    "independent, 5 %": World(),
    "mild, 3 %": World(failing=1.0, activity=0.5, shares=((0.0, 0.03),)),
    "strong, 3 %": World(failing=2.0, activity=1.0, shares=((0.0, 0.03),)),
    "strong, 30 %": World(failing=2.0, activity=1.0, shares=((0.0, 0.3),)),
    "strong, ramp 5-25-50 %": World(failing=2.0, activity=1.0, shares=RAMP),
    "strong, 3,000 users, 5 %": World(users=3_000, failing=2.0, activity=1.0),
    "strong, 300 users, 30 %": World(users=300, failing=2.0, activity=1.0, shares=((0.0, 0.3),)),
    "sessions of an hour": World(failing=1.0, activity=1.0, session_h=1.0),
    "a bot with 30 % of requests": World(failing=1.0, activity=1.0, bot=0.3, bot_fails=0.02),
    "diurnal": World(failing=1.0, activity=1.0, diurnal=0.8),
    "outage of both arms": World(failing=1.0, activity=1.0, level=_outage("both")),
    "outage of stable alone, 5 %": World(failing=1.0, activity=1.0, level=_outage("stable")),
    "outage of stable alone, 30 %": World(failing=1.0, activity=1.0, shares=((0.0, 0.3),), level=_outage("stable")),
    "better at first, equal later": World(failing=1.0, activity=1.0, shares=((0.0, 0.3),), harm=_better_first),
    "candidate draws 1.5 times as many requests": World(failing=1.0, activity=1.0, speed=1.5, shares=((0.0, 0.2),)),
    "candidate draws twice as many, 1,000 users": World(users=1_000, failing=1.0, activity=1.0, speed=2.0, shares=((0.0, 0.1),)),
    "candidate draws 0.6 times as many": World(failing=1.0, activity=1.0, speed=0.6),
}

WORSE: Mapping[str, World] = {
    "x10, equal users, 5 %": World(hours=6.0, look_s=10.0, harm=functools.partial(_worse, times=10.0)),
    "x10, strong, 5 %": World(hours=6.0, look_s=10.0, failing=2.0, activity=1.0, harm=functools.partial(_worse, times=10.0)),
    "x2, equal users, 30 %": World(look_s=30.0, shares=((0.0, 0.3),), harm=functools.partial(_worse, times=2.0)),
    "always, for 5 % of users, 5 %": World(hours=6.0, look_s=10.0, always=0.05),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Runs of each world: of equal bundles, and of bad ones."""

    equal: int
    worse: int


QUICK, FULL = Size(equal=40, worse=20), Size(equal=2_000, worse=500)


class _Once:
    """A two-proportion z-test of requests, evaluated once, at the end."""

    def __init__(self, hours: float) -> None:
        self._end, self._sums = hours * 3600, np.zeros((4, 1))

    def take(self, at: float, seen: Floats, *, step: int) -> Bools:
        self._sums += seen
        (n, beside, bad, bad_beside) = self._sums[:, 0]
        if at < self._end or not n or not beside:
            return np.zeros(1, bool)
        pooled = (bad + bad_beside) / (n + beside)
        spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / beside)) or math.inf
        return np.array([(bad / n - bad_beside / beside) / spread > 2.326])  # one-sided at 1 %


def run(*, quick: bool) -> list[Table]:
    """Equal bundles, then bad ones."""
    size = QUICK if quick else FULL
    with ProcessPoolExecutor(WORKERS) as pool:
        equal = [_equal(name, world, _all(pool, world, size.equal)) for name, world in EQUAL.items()]
        worse = [row for name, world in WORSE.items() for row in _found(name, _all(pool, world, size.worse))]
    return [
        Table(title="Equal bundles taken out where users differ", ours=OURS, rows=equal, notes=_notes(size.equal)),
        Table(title="Bad bundles: until the gate fails, where users differ", ours=OURS, rows=worse, notes=_notes(size.worse)),
    ]


def _notes(runs: int) -> tuple[str, ...]:
    return (
        f"{runs:,} runs each, alpha {ALPHA:g} for the one gate. 7 requests per second, 10,000 users and 12 hours where no other number stands; base rate 0.5 %.",
        "Mild and strong: error rates of users are lognormal with sigma 1 and 2, their request rates with 0.5 and 1. '5 %' and the like: the share on the candidate.",
        "'By request' is the same gate without users, as it was before; the others see the same requests.",
    )


def _all(pool: ProcessPoolExecutor, world: World, runs: int) -> dict[str, list[float]]:
    """Seconds until each rule takes the candidate out, run by run; infinite if it never does."""
    found: dict[str, list[float]] = {}
    for one in pool.map(functools.partial(_play, world), range(runs), chunksize=4):
        for name, seconds in one.items():
            found.setdefault(name, []).append(seconds)
    return found


def _play(world: World, seed: int) -> dict[str, float]:
    """One run, evaluated by every rule."""
    states = {name: GateState("errors", GATE, mode="compare", alpha=ALPHA, since=0.0) for name in (OURS, REQUESTS)}
    others: dict[str, gate_rules.Rule] = {
        ARTICLE: gate_rules.Article(runs=1),
        ARGO: gate_rules.Argo(runs=1),
        FLAGGER: gate_rules.Flagger(runs=1),
        ONE_LOOK: _Once(world.hours),
    }
    out = dict.fromkeys((*states, *others), math.inf)
    for look in user_worlds.looks(world, seed):
        for name, state in states.items():
            if math.isinf(out[name]):
                state.take(look.seen if name == OURS else dataclasses.replace(look.seen, users=None), step=look.step)
                out[name] = look.seen.at if state.failing else math.inf
        for name, rule in others.items():
            if math.isinf(out[name]) and rule.take(look.seen.at, _seen(look), step=look.step)[0]:
                out[name] = look.seen.at
    return out


def _seen(look: Look) -> Floats:
    beside = look.seen.beside
    assert beside is not None  # a world has two arms
    return np.array([[look.seen.watched.n], [beside.n], [look.seen.watched.bad], [beside.bad]], float)


def _equal(name: str, world: World, found: Mapping[str, Sequence[float]]) -> Row:
    share = {rule: 100 * float(np.isfinite(seconds).mean()) for rule, seconds in found.items()}
    ours, runs = share.pop(OURS), len(found[OURS])
    promised = world.users >= 1_000
    low, high = _interval(round(ours * runs / 100), runs)
    return Row(
        what=name, unit="% taken out", ours=ours, peers=share, below=2.0 if promised else None, note=f"95 %: {low:.1f} to {high:.1f}"
    )


def _interval(count: int, runs: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent (Clopper and Pearson 1934)."""
    from scipy import stats

    low = 0.0 if count == 0 else float(stats.beta.ppf(0.025, count, runs - count + 1))
    high = 1.0 if count == runs else float(stats.beta.ppf(0.975, count + 1, runs - count))
    return 100 * low, 100 * high


def _found(name: str, found: Mapping[str, Sequence[float]]) -> list[Row]:
    rows = []
    for label, share in (("median", 0.5), ("95 %", 0.95)):
        figures = {rule: float(np.quantile(seconds, share, method="lower")) / 60 for rule, seconds in found.items()}
        ours = figures.pop(OURS)
        never = [rule for rule, value in figures.items() if math.isinf(value)]
        rows.append(
            Row(
                what=f"{name}: {label}",
                unit="min",
                ours=None if math.isinf(ours) else ours,
                peers={rule: value for rule, value in figures.items() if not math.isinf(value)},
                note=f"never: {', '.join(never)}" if never else "",
            )
        )
    return rows

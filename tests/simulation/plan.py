"""What is to happen in a world: drawn from a seed, or written down for one scenario."""

from __future__ import annotations

import dataclasses
import random

from tests.simulation.project import BUNDLES, CONFIGS
from tests.simulation.traffic import PROFILES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """At second `at` somebody asks for `what`, or a fault of that name begins and lasts `lasts_s` seconds.

    `of` says of what: a layer, a kind of source, the number of a bundle, the seconds of a jump.
    """

    at: float
    what: str
    of: str | int | None = None
    lasts_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """Probabilities of mischief, for each turn of a controller or each write.

    Killed in mid-turn, dropped and built anew between two turns, handed an old state, overtaken by somebody else, put to
    sleep before it writes down what it measured.
    """

    killed: float = 0.0
    dropped: float = 0.0
    stale: float = 0.0
    overtaken: float = 0.0
    asleep: float = 0.0


CALM = Chaos()
ROUGH = Chaos(killed=0.03, dropped=0.05, stale=0.03, overtaken=0.05, asleep=0.02)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One world: `profiles` of its bundles by number, `rate` in requests per second, `seconds` it lasts, who may tick in between."""

    seed: int
    config: str
    profiles: tuple[str, ...]
    rate: float = 20.0
    seconds: float = 3600.0
    events: tuple[Event, ...] = ()
    controllers: int = 1
    chaos: Chaos = CALM
    tick_s: tuple[float, float] = (20.0, 70.0)


FAULTS: dict[str, tuple[tuple[str | int | None, ...], tuple[float, float]]] = {
    "ledger_down": ((None,), (30.0, 30.0)),
    "layer_down": (("infrastructure", "traffic", "registry"), (20.0, 300.0)),
    "source_down": (("envoy", "inference", "workers", "prometheus"), (20.0, 1200.0)),
    "nonsense": (("envoy", "inference", "prometheus"), (20.0, 300.0)),
    "counters_reset": ((None,), (0.0, 0.0)),
    "clock_jump": ((-300, 300), (0.0, 0.0)),
    "no_traffic": ((None,), (300.0, 2400.0)),
    "outage": ((None,), (60.0, 300.0)),
    "starved": ((None,), (120.0, 900.0)),
    "search_down": ((None,), (60.0, 600.0)),
    "worker_dead": ((0, 1, 2, 3), (60.0, 400.0)),
    "damaged": ((0, 1, 2, 3), (300.0, 900.0)),
    "controller_dead": ((0, 1), (20.0, 200.0)),
}
"""Faults by name: of what, and from how many to how many seconds they last."""


def drawn(seed: int) -> Plan:
    """The world of *seed*: one kind of service, half of its bundles with a fault, operators who come every ten minutes or so."""
    draw = random.Random(seed)
    seconds, rate = draw.uniform(1800.0, 4800.0), draw.choice((4.0, 20.0, 60.0, 60.0, 200.0, 200.0))
    names = ["good", *(draw.choice(("good", "good", *(name for name in PROFILES if name != "good"))) for _ in range(BUNDLES - 1))]
    if draw.random() < 0.35:
        names = ["good"] * BUNDLES
    return Plan(
        seed=seed,
        config=draw.choice(list(CONFIGS)),
        profiles=tuple(names),
        rate=rate,
        tick_s=(60.0, 150.0) if rate < 10 else (25.0, 90.0),
        seconds=seconds,
        events=(Event(at=1.0, what="promote", of=0), *_wishes(draw, seconds), *_faults(draw, seconds)),
        controllers=draw.choice((1, 1, 2)),
        chaos=ROUGH if draw.random() < 0.7 else CALM,
    )


def _wishes(draw: random.Random, seconds: float) -> list[Event]:
    """A person does something; often somebody promotes, sometimes two come at the same moment."""
    events, at = [], draw.uniform(100.0, 400.0)
    while at < seconds:
        events += [Event(at=at, what="wish")] * draw.choice((1, 1, 1, 2))
        at += draw.expovariate(1 / 350.0)
    return events


def _faults(draw: random.Random, seconds: float) -> list[Event]:
    events = []
    for _ in range(draw.randint(0, 5)):
        what = draw.choice(list(FAULTS))
        of, (least, most) = FAULTS[what]
        events.append(Event(at=draw.uniform(0.0, seconds), what=what, of=draw.choice(of), lasts_s=draw.uniform(least, most)))
    return events

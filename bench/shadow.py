"""The effect on live requests of mirroring each one to a candidate: to a healthy one, one that sleeps, one that fails."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import live_load, live_project, live_stack, measure, processes
from bench.live_project import SERVICE, Faulty
from bench.live_stack import Live
from bench.table import Row, Table
from lastgood import testing
from lastgood.layers import base, reconcile
from lastgood.layers import desired as desired_state
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import stats as envoy_stats
from lastgood.ops import local_stack

RATE = 150.0
SLEEP_S = 0.5
SETTLE_S = 0.5
PLAIN = "no mirror"
KINDS: Mapping[str, Mapping[str, Any]] = {
    "a healthy candidate": {},
    f"one that sleeps {SLEEP_S:g} s": {"sleep_s": SLEEP_S},
    "one that answers 500": {"errors": 1.0},
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many rounds of each kind, and how many seconds each takes."""

    rounds: int
    seconds: float


QUICK = Size(rounds=2, seconds=2.0)
FULL = Size(rounds=10, seconds=4.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time interval (Unix seconds) with one kind of mirror, and how many copies were answered meanwhile, well or not."""

    kind: str
    began: float
    ended: float
    copies: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The live requests of one span."""

    kind: str
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int
    copies: int


def run(*, quick: bool) -> list[Table]:
    """One table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        settings = live_project.make(folder / "project")
        live_project.configure(settings, port=testing.free_port(), strategy=[{"phase": "shadow", "min_s": 3600}])
        with live_stack.up(settings) as live:
            candidate = live_project.build(live.ctx, 2)
            live.propose(candidate)
            live.until_phase("shadow")
            # The controller would take a bad candidate out.
            local_stack.down(settings, names=[SERVICE], keep_serving=True, say=lambda _: None)
            with live.load(rate=RATE) as load:
                spans = list(_spans(live, candidate, size=size))
                shots = load.end()
    return [_table([_round(span, shots) for span in spans], size=size)]


# --- measuring ---------------------------------------------------------------------------------------------


class _Proxy:
    """The traffic layer, with the mirror set by this process alone: it is not in the ledger."""

    def __init__(self, live: Live, candidate: Faulty) -> None:
        ctx = live.ctx
        self._wanted: base.Desired = desired_state.read(live.state(), ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
        self._layer = reconcile.build(ctx.settings, SERVICE)["traffic"]
        self._admin = envoy_admin.Admin(envoy_files.files_of_service(ctx.settings, SERVICE).admin)
        self._candidate = candidate.bundle

    def mirror(self, percent: float) -> None:
        """Copy this share of the requests to the candidate."""
        mirror = (self._candidate, percent) if percent else None
        self._wanted = dataclasses.replace(self._wanted, revision=self._wanted.revision + 1, mirror=mirror)
        self._layer.apply(self._wanted)

    def copies(self) -> int:
        """Copies that the candidate has answered so far."""
        found = envoy_stats.read(self._admin).get(envoy_config.cluster_name(self._candidate), envoy_stats.NOTHING)
        return sum(good + bad for good, bad in found.answers.values())

    def close(self) -> None:
        """Close connections."""
        self._layer.close()
        self._admin.close()


def _spans(live: Live, candidate: Faulty, *, size: Size) -> Iterator[Span]:
    """Rounds with each kind of mirror, and one without before each of them."""
    proxy = _Proxy(live, candidate)
    for _ in range(size.rounds):
        for kind, fault in KINDS.items():
            for what, percent in ((f"{PLAIN} before {kind}", 0.0), (kind, 100.0)):
                candidate.begin(**fault)
                proxy.mirror(percent)
                time.sleep(SETTLE_S)
                began, before = time.time(), proxy.copies()
                time.sleep(size.seconds)
                yield Span(kind=what, began=began, ended=time.time(), copies=proxy.copies() - before)
    proxy.close()


def _round(span: Span, shots: Sequence[live_load.Shot]) -> Round:
    here = [shot for shot in shots if span.began <= shot.sent < span.ended]
    took = measure.spread([shot.ms for shot in here])
    failed = len(live_load.failed(here))
    return Round(kind=span.kind, p50_ms=took.p50, p99_ms=took.p99, requests=len(here), failed=failed, copies=span.copies)


# --- table -------------------------------------------------------------------------------------------------


def _table(rounds: Sequence[Round], *, size: Size) -> Table:
    rows = [row for kind in KINDS for row in _rows(kind, rounds)]
    failed = sum(one.failed for one in rounds)
    return Table(
        title="Live requests while every one of them is copied to a candidate",
        rows=[*rows, Row(what="failed live requests, all rounds", unit="count", ours=failed, below=1)],
        ours="mirrored",
        notes=(
            (
                f"Medians of {size.rounds} rounds of {size.seconds:g} s, a round without a mirror before each one with; {RATE:g} requests/s over 8 "
                "connections. The candidate's worker shares the machine's cores with stable's, the proxy and the load."
            ),
        ),
    )


def _rows(kind: str, rounds: Sequence[Round]) -> list[Row]:
    plain = [one for one in rounds if one.kind == f"{PLAIN} before {kind}"]
    mirrored = [one for one in rounds if one.kind == kind]

    def row(what: str, figure: str) -> Row:
        ours, theirs = (measure.median([getattr(one, figure) for one in found]) for found in (mirrored, plain))
        return Row(what=f"{kind}: {what}", unit="ms", ours=ours, peers={PLAIN: theirs})

    copied = sum(one.copies for one in mirrored) / max(sum(one.requests for one in mirrored), 1)
    return [row("p50", "p50_ms"), row("p99", "p99_ms"), Row(what=f"{kind}: copies answered", unit="per request", ours=copied)]

"""Flips as fast as Envoy acknowledges them, and how many answers mix two releases; beside serving by MLflow aliases."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from bench import load, measure, project, shots
from bench.aliases import Control
from bench.running import Stack
from bench.shots import Shot
from bench.table import Row, Table
from lastgood import release
from lastgood.layers import base, reconcile
from lastgood.ops import stack as stacks

RATE = 400.0
PAUSE_S = 0.05


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One change of traffic: its revision, when it was acknowledged (Unix seconds), and how long the layer took."""

    revision: int
    acknowledged: float
    ms: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The flips, every request that was sent meanwhile, and how many of the answers were mixed."""

    flips: Sequence[Flip]
    shots: Sequence[Shot]
    mixed: int


def measure_flips(stack: Stack, *, count: int, out: Path) -> Measured:
    """Flip between two releases through the traffic layer; the controller is stopped first, for the ledger knows of none of it."""
    stacks.down(stack.settings, names=[project.SERVICE], keep_serving=True, say=lambda _: None)
    with release.open_context(stack.settings, read_only=True) as ctx:
        wanted = reconcile.read_desired(ctx.ledger.state(project.SERVICE), ledger=ctx.ledger, store=ctx.store, settings=stack.settings)
        known = {digest: ctx.ledger.bundle(digest) for digest in stack.releases}
    # Only two ready workers may take turns; whichever two the ledger keeps warm.
    one, other = [digest for digest in (wanted.stable, wanted.previous) if digest is not None]
    layer = reconcile.build(stack.settings, project.SERVICE)["traffic"]
    found = []
    with load.running(port=stack.port, out=out, log=stack.log, rate=RATE):
        for number in range(count):
            stable, previous = (other, one) if number % 2 == 0 else (one, other)
            found.append(_flip(layer, dataclasses.replace(
                wanted, revision=wanted.revision + 1 + number, stable=stable, previous=previous, weights={stable: 100.0}, bundles=known,
            )))  # fmt: skip
            time.sleep(PAUSE_S)
    layer.close()
    fired = shots.read(out)
    return Measured(flips=found, shots=fired, mixed=len(shots.mixed(fired, stack.releases)))


def _flip(layer: base.Layer, desired: base.Desired) -> Flip:
    ms = measure.timed_ms(lambda: layer.apply(desired))
    return Flip(revision=desired.revision, acknowledged=time.time(), ms=ms)


def table(found: Measured, controls: Sequence[Control]) -> Table:
    """Ours beside the controls."""
    applied = measure.spread([flip.ms for flip in found.flips])
    last = [shots.last_under(found.shots, before_revision=flip.revision) for flip in found.flips]
    late = [max(0.0, received - flip.acknowledged) * 1000 for flip, (_, received) in zip(found.flips, last, strict=True)]
    sent_late = sum(sent > flip.acknowledged for flip, (sent, _) in zip(found.flips, last, strict=True))
    after = measure.spread(late)
    rows = [
        Row(what="flips", unit="count", ours=len(found.flips), peers={one.name: one.flips for one in controls}),
        Row(what="answers", unit="count", ours=len(found.shots), peers={one.name: one.answers for one in controls}),
        Row(what="failed requests", unit="count", ours=len(shots.failed(found.shots)), peers={one.name: one.failed for one in controls}, below=1),
        Row(what="answers that mix two releases", unit="count", ours=found.mixed, peers={one.name: one.mixed for one in controls}, below=1),
        Row(what="flips with a mixed answer", unit="%", ours=100 * bool(found.mixed), peers={one.name: one.mixed_flips_pct for one in controls})
        if not found.mixed
        else Row(what="flips with a mixed answer", unit="%", ours=None, note="not counted by flip; see the answers"),
        Row(what="mixed answers go on for, after a flip began", unit="ms", ours=0.0 if not found.mixed else None,
            peers={one.name: one.mixed_for_ms.p50 for one in controls if one.mixed_for_ms}),
        Row(what="a connection went back to an older revision", unit="count", ours=shots.went_back(found.shots), below=1),
        Row(what="one flip: write, rename, acknowledged by Envoy", unit="ms", ours=applied.p50, spread=applied),
        Row(what="acknowledged -> last answer of the old bundle", unit="ms", ours=after.p50, spread=after),
        Row(what="requests sent after the acknowledgement, old answer", unit="flips", ours=sent_late, below=1),
    ]  # fmt: skip
    notes = [f"Ours: the traffic layer alone, {PAUSE_S * 1000:.0f} ms between flips, {RATE:.0f} requests/s over 8 connections; controller stopped."]
    return Table(title=f"{len(found.flips)} flips under load", rows=rows, notes=[*notes, *(note for one in controls for note in one.notes)])

"""Flips as fast as Envoy acknowledges them, and how many answers mix two releases; compared with serving by MLflow aliases."""

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
from lastgood.layers import desired as desired_state
from lastgood.ops import local_stack

RATE = 400.0
PAUSE_S = 0.05
ASKED = (
    f"{RATE:.0f} requests/s over 8 connections. "
    "Mixed: bundle id, model digest, configuration digest or computed result is not that of the bundle in the header."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One change of traffic: its revision, when it was acknowledged (Unix seconds), how long the layer took, and if it was a return."""

    revision: int
    acknowledged: float
    ms: float
    back: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The flips, every request that was sent meanwhile, and the answers among them that were mixed."""

    flips: Sequence[Flip]
    shots: Sequence[Shot]
    mixed: Sequence[Shot]


def measure_flips(stack: Stack, *, count: int, out: Path, rate: float = RATE, bodies: Sequence[bytes] = (project.BODY,)) -> Measured:
    """Switch between two releases through the traffic layer, while *bodies* are sent at *rate* requests per second.

    The controller is stopped first: the ledger does not contain any of this.
    """
    stack.promote(stack.bad)
    local_stack.down(stack.settings, names=[stack.service], keep_serving=True, say=lambda _: None)
    with release.open_context(stack.settings, read_only=True) as ctx:
        wanted = desired_state.read(ctx.ledger.state(stack.service), ledger=ctx.ledger, store=ctx.store, settings=stack.settings)
    layer = reconcile.build(stack.settings, stack.service)["traffic"]
    found = []
    with load.running(port=stack.port, out=out, log=stack.log, rate=rate, bodies=bodies):
        for number in range(count):
            found.append(_flip(layer, _next(wanted, stack, revision=wanted.revision + 1 + number, back=number % 2 == 0)))
            time.sleep(PAUSE_S)
    layer.close()
    fired = shots.read(out)
    return Measured(flips=found, shots=fired, mixed=shots.mixed(fired, stack.releases))


def _next(wanted: base.Desired, stack: Stack, *, revision: int, back: bool) -> base.Desired:
    """What the ledger would contain after a rollback (without a remaining target), or after the next cut-over."""
    stable, previous = (stack.good.bundle, None) if back else (stack.bad.bundle, stack.good.bundle)
    return dataclasses.replace(wanted, revision=revision, stable=stable, previous=previous, weights={stable: 100.0})


def _flip(layer: base.Layer, desired: base.Desired) -> Flip:
    ms = measure.timed_ms(lambda: layer.apply(desired))
    return Flip(revision=desired.revision, acknowledged=time.time(), ms=ms, back=desired.previous is None)


def table(found: Measured, controls: Sequence[Control], *, title: str = "flips under load", asked: str = ASKED) -> Table:
    """Ours compared with the controls; *asked* describes for the note what was requested and what counts as mixed."""
    last = [shots.last_under(found.shots, before_revision=flip.revision) for flip in found.flips]
    pairs = list(zip(found.flips, last, strict=True))
    after = measure.spread([max(0.0, received - flip.acknowledged) * 1000 for flip, (_, received) in pairs])
    stale = sum(sent > flip.acknowledged for flip, (sent, _) in pairs)
    back, forth = ([flip.ms for flip in found.flips if flip.back == way] for way in (True, False))
    rows = [
        *_beside(found, controls),
        Row(what="times a connection went back to an older revision", unit="count", ours=shots.went_back(found.shots), below=1),
        Row(what="flips after whose acknowledgement a request still went to the old", unit="count", ours=stale, below=1),
        Row(what="acknowledged -> last answer of the old bundle received", unit="ms", ours=after.p50, spread=after, below=50),
        _took("one rollback of traffic: look, write, acknowledged by Envoy", back),
        _took("one cut-over of traffic: the same", forth),
    ]
    note = f"Ours: the traffic layer alone, {PAUSE_S * 1000:.0f} ms between flips, controller stopped; {asked}"
    return Table(title=f"{len(found.flips)} {title}", rows=rows, notes=[note, *(one.note for one in controls)])


def _beside(found: Measured, controls: Sequence[Control]) -> list[Row]:
    """The figures that ours and the controls have in common."""
    touched = len({shot.revision for shot in found.mixed})
    lasting = {one.name: one.mixed_for_ms.p50 for one in controls if one.mixed_for_ms}
    pairs = {
        "flips": (len(found.flips), {one.name: one.flips for one in controls}),
        "answers": (len(found.shots), {one.name: one.answers for one in controls}),
        "failed requests": (len(shots.failed(found.shots)), {one.name: one.failed for one in controls}),
        "answers that mix two releases": (len(found.mixed), {one.name: one.mixed for one in controls}),
        "flips in which an answer was mixed": (touched, {one.name: one.mixed_flips for one in controls}),
    }
    promised = ("failed requests", "answers that mix two releases")
    rows = [
        Row(what=what, unit="count", ours=ours, peers=peers, below=1 if what in promised else None) for what, (ours, peers) in pairs.items()
    ]
    if lasting:
        rows.append(Row(what="start of such a flip -> its last mixed answer", unit="ms", ours=None, peers=lasting))
    return rows


def _took(what: str, values: Sequence[float]) -> Row:
    found = measure.spread(values)
    return Row(what=what, unit="ms", ours=found.p50, spread=found)

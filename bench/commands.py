"""`lastgood rollback` as a command, repeatedly, while requests continue."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from bench import load, measure, project, shots
from bench.running import Stack
from bench.shots import Shot
from bench.table import Row, Table

RATE = 200.0
"""Requests per second over 8 connections: one every 5 ms, which is how finely the last old answer is known."""
SETTLE_S = 0.3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One rollback. Moments are Unix seconds; `committed` is when the ledger had it, `ended` when the command ended."""

    revision: int
    began: float
    committed: float
    ended: float
    cpu_s: float
    commit_ms: float
    traffic_ms: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rollbacks, and every request that was sent meanwhile."""

    changes: Sequence[Change]
    shots: Sequence[Shot]
    mixed: int

    @property
    def failed(self) -> int:
        return len(shots.failed(self.shots))

    def to_commit_ms(self) -> measure.Spread:
        """From the start of the command to the commit."""
        return measure.spread([(one.committed - one.began) * 1000 for one in self.changes])

    def to_last_old_ms(self) -> measure.Spread:
        """From the start of the command to the last answer that the old bundle gave."""
        return measure.spread([(self._last_old(one)[1] - one.began) * 1000 for one in self.changes])

    def after_commit_ms(self) -> tuple[measure.Spread, measure.Spread]:
        """From the commit until the old bundle's last request was sent, and its last answer had arrived."""
        last = [(one.committed, *self._last_old(one)) for one in self.changes]
        sent = measure.spread([max(0.0, sent - committed) * 1000 for committed, sent, _ in last])
        return sent, measure.spread([max(0.0, received - committed) * 1000 for committed, _, received in last])

    def _last_old(self, change: Change) -> tuple[float, float]:
        return shots.last_under(self.shots, before_revision=change.revision)


def measure_rollbacks(stack: Stack, *, count: int, out: Path) -> Measured:
    """Release the bad bundle and roll it back, *count* times, under load."""
    changes = []
    with load.running(port=stack.port, out=out, log=stack.log, rate=RATE):
        for _ in range(count):
            stack.promote(stack.bad)
            stack.wait_until_drained()
            time.sleep(SETTLE_S)
            changes.append(_roll_back(stack))
            time.sleep(SETTLE_S)
    return measured(stack, changes, out)


def measured(stack: Stack, changes: Sequence[Change], out: Path) -> Measured:
    """*changes* with what the load wrote to *out*."""
    found = shots.read(out)
    return Measured(changes=changes, shots=found, mixed=len(shots.mixed(found, stack.releases)))


def _roll_back(stack: Stack) -> Change:
    done = stack.lastgood("rollback", project.SERVICE, "--yes", "--json", codes=(0, 6))
    told = json.loads(done.out)
    if told["to"] != stack.good.bundle:
        raise RuntimeError(f"rolled back to {told['to']}, not to {stack.good.bundle}; read {stack.log}")
    return Change(
        revision=told["revision"],
        began=done.began,
        # The revision's own time is taken right before it is written, which takes commit_ms.
        committed=stack.revision(told["revision"]).at + told["commit_ms"] / 1000,
        ended=done.ended,
        cpu_s=done.cpu_s,
        commit_ms=told["commit_ms"],
        traffic_ms=told["traffic_ms"],
    )


def table(found: Measured, *, stack: str) -> Table:
    """What an operator waits for at 3 AM, and what happened to requests meanwhile."""
    sent, received = found.after_commit_ms()
    commit = measure.spread([one.commit_ms for one in found.changes])
    acknowledged = [one.traffic_ms for one in found.changes if one.traffic_ms is not None]
    wall = measure.spread([(one.ended - one.began) * 1000 for one in found.changes])
    cpu = measure.spread([one.cpu_s * 1000 for one in found.changes])
    to_last_old, to_commit = found.to_last_old_ms(), found.to_commit_ms()
    rows = [
        Row(what="command start -> last answer of the old bundle", unit="ms", ours=to_last_old.p50, spread=to_last_old, below=1000),
        Row(what="  of it: command start -> ledger commit", unit="ms", ours=to_commit.p50, spread=to_commit),
        Row(what="  of it: the commit itself", unit="ms", ours=commit.p50, spread=commit),
        Row(what="commit -> last request sent that the old bundle answered", unit="ms", ours=sent.p50, spread=sent, below=50),
        Row(what="commit -> last answer of the old bundle received", unit="ms", ours=received.p50, spread=received, below=50),
        *([_acknowledged(acknowledged)] if acknowledged else []),
        Row(what="whole command, wall time", unit="ms", ours=wall.p50, spread=wall),
        Row(what="whole command, processor time", unit="ms", ours=cpu.p50, spread=cpu),
        Row(what="requests", unit="count", ours=len(found.shots)),
        Row(what="failed requests", unit="count", ours=found.failed, below=1),
        Row(what="answers that mix two bundles", unit="count", ours=found.mixed, below=1),
    ]
    return Table(
        title=f"`lastgood rollback` under load, {len(found.changes)} times",
        rows=rows,
        ours="lastgood (p50)",
        notes=(
            (
                f"Stack: {stack}. Load: {RATE:.0f} requests/s over 8 kept-alive connections from "
                "another process, also during the promotions in between; their requests count as well."
            ),
            (
                "The whole command also waits until every layer has followed (a worker for the bundle one further back is started, if there is one), "
                "and prints the receipt; the traffic has moved long before."
            ),
            "Mixed: bundle id, model digest, configuration digest and the computed result of each answer belong to the bundle in its header.",
            "A promise is held against the median (p50).",
        ),
    )


def _acknowledged(values: Sequence[float]) -> Row:
    found = measure.spread(values)
    return Row(what="commit -> new routes acknowledged by Envoy (receipt)", unit="ms", ours=found.p50, spread=found, below=50)

"""When the layers first agreed with a revision: noted in the audit trail, so that a record shows how long a change took to reach users.

A command that waits writes the note for its own changes (`release.convergence`). This module notes what the controller commits, and
changes that nobody has noted because the command died or did not wait.

What does not belong here: making a layer follow (`layers.reconcile`), use of the notes (`reports.record`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection
from typing import Any

from lastgood import context, ledger
from lastgood.core.state import State
from lastgood.layers.receipts import Receipt
from lastgood.ledger import audit

OTHERS_S = 10.0
"""Seconds after a change for which its note waits for layers other than traffic."""
FOREIGN_S = 90.0
"""Seconds after which another process's change is noted here, if that process has not done so: commands wait for a minute."""
LOST_S = 3600.0
"""Seconds after which a change that traffic never followed is given up."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _Change:
    """One revision to be followed; `commit_ms` is None for another process's change."""

    revision: ledger.Revision
    own: bool
    commit_ms: float | None
    layers: dict[str, Receipt] = dataclasses.field(default_factory=dict)


class Convergence:
    """How the layers named *layers* followed each change of one service. Thread-safe; only `note` touches the ledger."""

    def __init__(self, layers: Collection[str]) -> None:
        self._names = tuple(layers)
        self._lock = threading.Lock()
        self._open: dict[int, _Change] = {}
        self._newest: dict[str, Receipt] = {}

    def expect(self, revision: ledger.Revision, *, commit_ms: float | None = None, own: bool = False) -> None:
        """*revision* has just been committed: by this controller (*own*), in `commit_ms` milliseconds, or by another process."""
        if not self._names:
            return
        with self._lock:
            known = self._open.get(revision.number)
            if known is not None:
                known.own, known.commit_ms = known.own or own, commit_ms if own else known.commit_ms
                return
            # A change that no layer has followed yet and that is no longer wanted was never in force.
            self._open = {
                number: change
                for number, change in self._open.items()
                if "traffic" in change.layers or _traffic(change.revision.state) == _traffic(revision.state)
            }
            self._open[revision.number] = change = _Change(revision=revision, own=own, commit_ms=commit_ms)
            change.layers = {name: receipt for name, receipt in self._newest.items() if receipt.covers(revision.number)}

    def followed(self, receipt: Receipt) -> None:
        """Record a layer's receipt; the first one that agrees with a change counts."""
        with self._lock:
            newest = self._newest.get(receipt.layer)
            if receipt.status != "converged" or (newest is not None and newest.covers(receipt.desired_revision)):
                return
            self._newest[receipt.layer] = receipt
            for number, change in self._open.items():
                if receipt.covers(number):
                    change.layers.setdefault(receipt.layer, receipt)

    def note(self, ctx: context.Context, *, actor: str, now: float) -> None:
        """Note each followed change once in the audit trail, and sign a checkpoint of it. Raises LastgoodError, OSError."""
        for change in self._due(now):
            revision = change.revision
            if change.own or not _noted(ctx.ledger, revision):
                ctx.ledger.note(revision.service, kind="receipt", body=self._body(change), actor=actor, now=now)
                audit.checkpoint(ctx.ledger, revision.service, ctx.settings.keys)
            with self._lock:
                self._open.pop(revision.number, None)

    def _due(self, now: float) -> list[_Change]:
        with self._lock:
            ages = {number: abs(now - change.revision.at) for number, change in self._open.items()}
            self._open = {number: change for number, change in self._open.items() if ages[number] < LOST_S}
            return [change for number, change in self._open.items() if self._ripe(change, ages[number])]

    def _ripe(self, change: _Change, age_s: float) -> bool:
        followed = set(self._names) <= change.layers.keys()
        moved = followed or "traffic" in change.layers
        return moved and (age_s >= FOREIGN_S if not change.own else followed or age_s >= OTHERS_S)

    def _body(self, change: _Change) -> dict[str, Any]:
        traffic = change.layers.get("traffic")
        return {
            "revision": change.revision.number,
            "commit_ms": change.commit_ms,
            "traffic_ms": None if traffic is None else round(max(traffic.at - change.revision.at, 0.0) * 1000, 3),
            "layers": {name: "converged" if name in change.layers else "lagging" for name in self._names},
        }


def _traffic(state: State) -> tuple[object, ...]:
    """What the traffic layer must do in *state*."""
    return state.stable, state.candidate, state.weight_pct, state.mirror_pct, state.control_pct


def _noted(book: ledger.Ledger, revision: ledger.Revision) -> bool:
    return any(note["revision"] == revision.number for note in book.notes(revision.service, kind="receipt"))

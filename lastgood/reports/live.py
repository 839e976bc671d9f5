"""The current state of a release for people who watch it: one value, updated in constant time.

What does not belong here: how it is shown (`cli.watch`), its history from the beginning (`record`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import errors, ledger, release
from lastgood.analysis import follow
from lastgood.core.state import State
from lastgood.gates import base
from lastgood.layers import receipts
from lastgood.reports import rollouts as episode
from lastgood.system import plain

SCHEMA = "lastgood.watch/v1"
LAST = 5
"""Number of newest revisions that are shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """One rollout at `at` (Unix seconds). `verdicts` are the current results of the gates, by name.

    `actual` is each bundle's share of the traffic in percent as last reported by the traffic layer, None if unknown.
    `ended` means that the rollout is over, including the measurement after its rollback. `trouble` names what cannot be read.
    """

    at: float
    state: State
    episode: episode.Rollout
    verdicts: Mapping[str, base.Verdict]
    revisions: tuple[ledger.Revision, ...]
    layers: Mapping[str, receipts.Receipt]
    trouble: str = ""

    @property
    def actual(self) -> Mapping[str, float] | None:
        told = self.layers.get("traffic")
        weights = told.facts.get("weights") if told else None
        return weights if isinstance(weights, Mapping) else None

    @property
    def ended(self) -> bool:
        return self.episode.over_at is not None

    @property
    def exit_code(self) -> int | None:
        """0 released, 5 rejected or rolled back by a gate, 1 given up, 3 stopped by a person; None while it is under way."""
        if not self.ended:
            return None
        if self.episode.outcome == "released":
            return 0
        if self.episode.taken_back_by:
            return errors.GateFailed.exit_code
        return errors.PromotionFailed.exit_code if self.episode.outcome == "given up" else errors.Conflict.exit_code

    def to_json(self) -> dict[str, Any]:
        """The stable form of one line of `lastgood watch --json`."""
        state = self.state.to_json()
        names = ("stable", "candidate", "previous", "phase", "phase_since", "phase_until", "chain", "position")
        told: dict[str, Any] = plain.mended(
            {
                "schema": SCHEMA,
                "service": self.state.service,
                "at": self.at,
                "revision": self.state.revision,
                "rollout": self.episode.number,
                "bundle": self.episode.candidate,
                "outcome": self.episode.outcome,
                **{name: state[name] for name in (*names, "weight_pct", "mirror_pct", "approved", "hold", "verifying")},
                "actual_pct": self.actual,
                "gates": [verdict.to_json() for verdict in self.verdicts.values()],
                "layers": [_layer(receipt) for receipt in self.layers.values()],
                "last": [_revision(revision) for revision in self.revisions],
                "trouble": self.trouble,
                "ended": self.ended,
                "exit_code": self.exit_code,
            }
        )
        return told


def _layer(receipt: receipts.Receipt) -> dict[str, Any]:
    names = ("layer", "status", "desired_revision", "observed_revision", "detail")
    return {name: getattr(receipt, name) for name in names}


def _revision(revision: ledger.Revision) -> dict[str, Any]:
    return {name: getattr(revision, name) for name in ("number", "at", "verb", "actor", "reason")}


class Watcher:
    """Polls whichever rollout is the newest. Read-only."""

    def __init__(self, ctx: release.Context, service: str) -> None:
        """Raises NotFound if the service was never released."""
        self._ctx = ctx
        self._service = service
        self._rollout = episode.newest(ctx.ledger, service)
        self._evidence = follow.Evidence(batch=None)
        self._seen = -1
        self._state = State(service=service)
        self._episode = episode.find(ctx.ledger, service, self._rollout)

    def look(self, now: float) -> LiveStatus:
        """The rollout at Unix time *now*. Reads only what is new since the last call."""
        if self._ctx.ledger.newest(self._service) != self._seen:
            self._catch_up()
        verdicts, trouble = self._verdicts(now)
        return LiveStatus(
            at=now,
            state=self._state,
            episode=self._episode,
            verdicts=verdicts,
            revisions=tuple(self._ctx.ledger.history(self._service, limit=LAST)),
            layers=receipts.read(self._ctx.settings.run(self._service) / "layers"),
            trouble=trouble,
        )

    def _catch_up(self) -> None:
        self._state = self._ctx.ledger.state(self._service)
        self._episode = episode.find(self._ctx.ledger, self._service, self._rollout)
        self._seen = self._state.revision

    def _verdicts(self, now: float) -> tuple[dict[str, base.Verdict], str]:
        """The results of the gates, and the reason if they cannot be read."""
        try:
            answers = self._evidence.look(self._ctx, self._state, now=now).answers
        except (errors.Damaged, errors.NotFound, errors.UsageError) as error:
            return {}, f"the gates cannot be read: {error}"
        return {gate: said.verdict for gate, said in answers.items()}, ""

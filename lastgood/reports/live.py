"""What a release looks like at this moment, for whoever watches it: one value, brought up to date in constant time.

What does not belong here: how it is shown (`cli.watch`), what it was like from the beginning (`record`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import context, errors, ledger, release
from lastgood.analysis import run as judge
from lastgood.core import transitions as rollout
from lastgood.gates import base
from lastgood.layers import receipts
from lastgood.reports import rollouts as episode
from lastgood.service import schema as services
from lastgood.system import plain

SCHEMA = "lastgood.watch/v1"
LAST = 5
"""Newest revisions that are shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """One rollout at `at` (Unix seconds). `verdicts` are what the gates say now, by name.

    `actual` is each bundle's share of the traffic in percent as the traffic layer last reported it, None if unknown.
    `ended` says that the rollout is over, and the measurement after its way back as well. `trouble` says what cannot be read.
    """

    at: float
    state: rollout.State
    episode: episode.Episode
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
        """0 released, 5 a gate took it out, 1 given up, 3 a person stopped it; None while it is under way."""
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
    """Looks at the rollout that is the newest one now, again and again. Only reads."""

    def __init__(self, ctx: release.Context, service: str) -> None:
        """Raises NotFound if the service was never released."""
        self._ctx = ctx
        self._service = service
        self._rollout = episode.newest(ctx.ledger, service)
        self._analyses: dict[str, judge.Analysis] = {}
        self._seen = -1
        self._state = rollout.State(service=service)
        self._episode = episode.find(ctx.ledger, service, self._rollout)
        self._judged: services.Service | None = None
        self._proposed_at = 0.0
        self._trouble = ""

    def look(self, now: float) -> Glance:
        """The rollout at Unix time *now*. Reads what is new since the last look."""
        if self._ctx.ledger.newest(self._service) != self._seen:
            self._catch_up()
        return Glance(
            at=now,
            state=self._state,
            episode=self._episode,
            verdicts=self._verdicts(now),
            revisions=tuple(self._ctx.ledger.history(self._service, limit=LAST)),
            layers=receipts.read(self._ctx.settings.run(self._service) / "layers"),
            trouble=self._trouble,
        )

    def _catch_up(self) -> None:
        ctx, service = self._ctx, self._service
        self._state = ctx.ledger.state(service)
        self._episode = episode.find(ctx.ledger, service, self._rollout)
        self._judged, self._trouble = None, ""
        self._proposed_at = ctx.ledger.revision(service, self._state.rollout).at if self._state.rollout else 0.0
        try:
            self._judged = context.judged_by(ctx, self._state)
        except errors.LastgoodError as error:
            self._trouble = f"cannot read the gates: {error}"
        self._seen = self._state.revision

    def _verdicts(self, now: float) -> dict[str, base.Verdict]:
        """What the gates say; a measurement after a way back comes last and takes the place of others."""
        asked = judge.questions(self._state, self._judged, proposed_at=self._proposed_at, now=now) if self._judged else []
        wanted = {question.key: question for question in asked}
        self._analyses = {
            key: one for key, one in self._analyses.items() if key in wanted and set(one.question.gates) == set(wanted[key].gates)
        }
        found: dict[str, base.Verdict] = {}
        for key, question in wanted.items():
            if key in self._analyses:
                self._analyses[key].catch_up()
            else:
                self._analyses[key] = judge.Analysis(question, book=self._ctx.ledger, service=self._service)
            found |= self._analyses[key].verdicts(now)
        return found

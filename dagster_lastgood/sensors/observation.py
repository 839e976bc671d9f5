"""What there is to report about one service, compared with the last report. Values only; `rollout_mirror` presents it in the UI."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_lastgood import gate_checks as gates
from dagster_lastgood import metadata, parts
from lastgood.analysis import follow
from lastgood.bundle import manifest

if TYPE_CHECKING:
    from lastgood.core.state import State
    from lastgood.ledger import Revision
    from lastgood.release import Context

POSITION = "lastgood/position"
"""Metadata key under which an observation stores its position."""

SPACING = 0.01
"""Unless a verdict changes, figures are reported again only after this share of the phase's time so far: every tick for eight minutes,
then 230 times for every tenfold of the time, where every tick would be 17,280 a day."""

SHOWN = ("n", "estimate", "reference", "evidence", "boundary", "needs")
"""Figures of a gate in an observation; its check has all of them."""

Position = Mapping[str, Any]
"""What was reported: `revision` and its `hash`, the `rollout` in progress and whether anything was (`busy`), the newest measurement of
each analysis (`measured`), each gate's verdict (`said`), and when (`at`, Unix seconds)."""

START: Position = {"revision": 0, "hash": "", "rollout": None, "busy": False, "measured": {}, "said": {}, "at": 0.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSnapshot:
    """One service at Unix time `now`: its newest revision, the decisions since `told`, and the gates' verdicts.

    `ended` is the rollout that has ended since `told`; `extra` is additional metadata to report.
    """

    revision: "Revision"
    decided: follow.Answers
    look: follow.FollowedVerdicts
    told: Position
    now: float
    ended: int | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> "State":
        """The newest release state."""
        return self.revision.state

    @property
    def busy(self) -> bool:
        """Whether a release is in progress, or the recovery from a rollback is being measured."""
        return self.state.phase != "idle" or self.state.verifying is not None

    @property
    def answers(self) -> follow.Answers:
        """Each gate's verdict. One that has just led to a decision comes first: it is reported once, the others again and again."""
        looked = {} if self.look.behind else self.look.answers
        if not self.busy:
            # On watch, the evidence starts anew each day; until there is enough of it, the last verdict stands.
            looked = {gate: said for gate, said in looked.items() if said.verdict.cause != "too_few"}
        return {**looked, **self.decided}

    @property
    def changed(self) -> list[follow.Said]:
        """The verdicts that differ from those reported."""
        return [said for gate, said in self.answers.items() if self.told["said"].get(gate) != said.mark]

    @property
    def news(self) -> bool:
        """Whether there is anything to report; while measurements are still to be read, only decisions count."""
        if self.look.behind and not self.decided:
            return False
        if self.changed:
            return True
        if self.revision.hash != self.told["hash"]:
            return self.busy or self.told["busy"]
        since = self.state.phase_since or (self.state.verifying.since if self.state.verifying else self.now)
        due = self.now - self.told["at"] >= SPACING * (self.now - since)
        return self.busy and due and self.look.measured != self.told["measured"]

    def position(self) -> Position:
        """The position once the events of this snapshot are stored."""
        return {
            "revision": self.revision.number,
            "hash": self.revision.hash,
            "rollout": self.state.rollout,
            "busy": self.busy,
            "measured": dict(self.look.measured),
            "said": {**self.told["said"], **{gate: said.mark for gate, said in self.answers.items()}},
            "at": self.now,
        }

    def events(self) -> Iterator[dg.AssetObservation | dg.AssetCheckEvaluation]:
        """One observation, and an evaluation of each check whose gate has a new conclusive verdict."""
        yield dg.AssetObservation(parts.release_key(self.revision.service), description=self.words(), metadata=self._metadata())
        yield from gates.evaluations(self.revision.service, self.changed)

    def _metadata(self) -> dict[str, Any]:
        state = self.state
        rows = [
            {"gate": gate, "says": one.verdict.outcome, "of": one.bundle[7:19], "why": one.verdict.why}
            for gate, one in self.answers.items()
        ]
        return {
            "lastgood/revision": self.revision.number,
            "lastgood/bundle": state.stable or "none",
            "candidate": state.candidate or "none",
            "phase": state.phase,
            "weight_pct": float(state.weight_pct),
            "mirror_pct": float(state.mirror_pct),
            **{f"{gate}/outcome": one.verdict.outcome for gate, one in self.answers.items()},
            **{
                f"{gate}/{name}": value for gate, one in self.answers.items() for name, value in gates.figures(one).items() if name in SHOWN
            },
            **({"gates": metadata.table(rows)} if rows else {}),
            **self.extra,
            POSITION: dg.MetadataValue.json(self.position()),
        }

    def words(self) -> str:
        """The state of the release and what it waits for, on one line."""
        if self.look.behind and not self.decided:
            return f"{self._phase()}, still reading {', '.join(f'{n:,} measurements of {key}' for key, n in self.look.measured.items())}"
        held = f"held by {self.state.hold.actor} ({self.state.hold.reason})" if self.state.hold else ""
        return ", ".join(filter(None, (self._phase(), held, self._gates())))

    def _phase(self) -> str:
        state = self.state
        if state.phase != "idle":
            share = f" {state.weight_pct:g} %" if state.weight_pct else ""
            mirrored = f", {state.mirror_pct:g} % mirrored" if state.mirror_pct else ""
            return f"{state.phase}{share} of {manifest.short(state.candidate or state.stable or '')}{mirrored}"
        verifying = " while a rollback is measured" if state.verifying else ""
        return f"{manifest.short(state.stable)} serves{verifying}" if state.stable else "no bundle serves"

    def _gates(self) -> str:
        counted = [said for said in self.answers.values() if said.verdict.kind != "observe"]
        waiting = [said for said in counted if said.verdict.outcome != "pass"]
        if not waiting:
            return "every gate passes" if counted else ""
        first = min(waiting, key=lambda said: said.verdict.outcome != "fail")
        more = f" (and {len(waiting) - 1} more)" if waiting[1:] else ""
        return f"gate {first.gate!r} {VERBS[first.verdict.outcome]}: {first.verdict.why}{more}"


VERBS = {"fail": "fails", "inconclusive": "cannot tell"}


def set_up(ctx: "Context", service: str, evidence: follow.Evidence, *, told: Position, now: float) -> RolloutSnapshot:
    """The snapshot of *service*. A position from another ledger that was in this place is ignored."""
    state = ctx.ledger.state(service)
    known = 0 < told["revision"] <= state.revision and ctx.ledger.revision(service, told["revision"]).hash == told["hash"]
    told = told if known else START
    new = [one for one in ctx.ledger.history(service, limit=follow.HISTORY) if one.number > told["revision"]]
    rollouts = {told["rollout"], *(one.state.rollout for one in new)} - {None, state.rollout}
    return RolloutSnapshot(
        revision=ctx.ledger.revision(service, state.revision),
        decided=follow.decided(new, ledger=ctx.ledger),
        look=evidence.look(ctx, state, now=now),
        told=told,
        now=now,
        ended=max(rollouts, default=None),
    )

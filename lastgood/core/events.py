"""What can happen to a release, and what goes with the state that follows. Values only.

What does not belong here: what follows from an event (`transitions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lastgood.core.state import MarkKind, PlannedPhase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Somebody asks to release *bundle*. `verified` says that its bytes were checked just now.

    `ready_s` is how many seconds its workers may take to become ready. `chain` is its phases in order, with a control arm
    if `control` is set; without a stable bundle to compare with, neither is used. `skipped` says that a
    person skips the phases that the bundle's own configuration names. `override` gives the reason for which a person lifts the bundle's
    quarantine in the same revision.
    """

    bundle: str
    verified: bool
    ready_s: float = 60.0
    chain: tuple[PlannedPhase, ...] = ()
    control: bool = False
    skipped: bool = False
    override: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The present phase has been passed (or the candidate's workers are ready): the next phase of the chain begins."""

    bundle: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Approve:
    """A person lets the candidate through the approval that it waits for."""

    bundle: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """In an emergency a person lets the candidate pass the rest of its chain. Marks and holds still count."""

    bundle: str
    ready_s: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CutOver:
    """The chain is passed and the candidate's workers are ready: it takes all traffic. `bake_s` seconds of watching begin."""

    bundle: str
    bake_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """The candidate never became ready, could not be judged in time, or its rollout is called off; stable is not touched."""

    bundle: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A gate failed: the candidate loses its traffic and is quarantined; stable has all of it again.

    `verify_s` is for how many seconds it is then measured whether that helped; 0: not at all.
    """

    bundle: str
    reason: str
    verify_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BakeEnded:
    """The watched time after a cut-over is over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Roll back, now.

    `seen` is the stable bundle that whoever asked was looking at. If a promotion slipped in since, it is
    withdrawn (not quarantined: it was not judged) and *seen* is quarantined in any case; automation instead
    gets a Conflict, for it may blame only what it measured.
    `to` names a target; None means the rollback-target rule; the stable bundle itself means: only call off the
    rollout in flight. The target must stand in the lineage, or `proven` says that the ledger knows it was stable
    longer ago. `verified` says of each possible target whether its bytes were checked just now.
    `unready` says that automation leaves a target that did not get ready, which it may even right after a rollback.
    `verify_s` is for how many seconds it is then measured whether the step helped; 0: not at all.
    """

    reason: str
    seen: str | None = None
    to: str | None = None
    proven: bool = False
    verified: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    automatic: bool = False
    unready: bool = False
    verify_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The analysis after a rollback ended: did the rollback help?"""

    outcome: Literal["recovered", "not_recovered", "inconclusive"]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condemn:
    """Quarantine or revoke *bundle*; if it serves, the service is rolled back in the same revision.

    With `take_down`, a service without a rollback target stops answering instead of keeping it.
    """

    bundle: str
    kind: MarkKind
    reason: str
    verified: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    take_down: bool = False
    verify_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """A person lifts the quarantine of *bundle*."""

    bundle: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetHold:
    """No releases from now on, and no step further in one that is under way. `gate` names the gate that asks, if one does.

    `stranded` says that what serves is bad and there is nothing to go back to: a person is needed at once.
    """

    reason: str
    actor: str
    gate: str | None = None
    stranded: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """Releases are allowed again; a gate that had asked for the hold is overruled for the rollout under way."""


Event = (
    Propose
    | Advance
    | Approve
    | Skip
    | CutOver
    | Abandon
    | Reject
    | BakeEnded
    | RollBack
    | Verified
    | Condemn
    | Lift
    | SetHold
    | ReleaseHold
)


# --- what goes with the next state -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Write this mark in the same transaction as the revision."""

    bundle: str
    kind: Literal["quarantined", "revoked", "lifted"]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """Tell a person: kept in the same transaction as the revision, delivered after it, and never delays it.

    Pages with one `key` are about one thing, so that pagers join them; one that `resolves` closes the earlier ones.
    """

    summary: str
    key: str = "release"
    severity: Literal["critical", "warning", "info"] = "critical"
    resolves: bool = False
    about: int | None = None
    """The earlier revision that it is about, which has one page of this key; None for the revision that it goes with."""
    body: Mapping[str, Any] | None = None
    """What it tells beside its summary; None for what its revision changed."""


Effect = Marked | Paged

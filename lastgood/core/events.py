"""The events that can happen to a release, and the effects that accompany the next state. Values only.

What does not belong here: what follows from an event (`transitions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lastgood.core.state import MarkKind, PlannedPhase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """A request to release *bundle*. `verified` means that its bytes have just been checked.

    `ready_s` is how many seconds its workers may take to become ready. `chain` is its phases in order, with a control arm
    if `control` is set; neither is used without a stable bundle to compare with. `skipped` means that a
    person skips the phases named in the bundle's own configuration. `override` is a person's reason for lifting the bundle's
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
    """The current phase is passed (or the candidate's workers are ready): the next phase of the chain begins."""

    bundle: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Approve:
    """A person approves the candidate that is waiting for approval."""

    bundle: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """In an emergency, a person skips the rest of the candidate's chain. Marks and holds still apply."""

    bundle: str
    ready_s: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CutOver:
    """The chain is passed and the candidate's workers are ready: it takes all traffic, and a bake of `bake_s` seconds begins."""

    bundle: str
    bake_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """The candidate never became ready, could not be judged in time, or its rollout is cancelled; stable is not touched."""

    bundle: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A gate failed: the candidate loses its traffic and is quarantined; all traffic returns to stable.

    `verify_s` is how many seconds the recovery is measured afterwards; 0 means not at all.
    """

    bundle: str
    reason: str
    verify_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BakeEnded:
    """The bake after a cut-over has ended."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Roll back, now.

    `seen` is the stable bundle that the caller was looking at. If a promotion was committed since then, it is
    withdrawn (not quarantined, since it was not judged) and *seen* is quarantined in any case; automation gets a
    Conflict instead, because it may only blame what it measured.
    `to` names a target. None applies the rollback-target rule; the stable bundle itself only cancels the
    rollout in flight. The target must be in the lineage, unless `proven` says that the ledger has it as stable
    longer ago. `verified` says of each possible target whether its bytes have just been checked.
    `unready` means that automation leaves a target that did not become ready, which is allowed even right after a rollback.
    `verify_s` is how many seconds the recovery is measured afterwards; 0 means not at all.
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
    """The analysis after a rollback has ended, with its result: did the rollback help?"""

    outcome: Literal["recovered", "not_recovered", "inconclusive"]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condemn:
    """Quarantine or revoke *bundle*; if it is serving, roll the service back in the same revision.

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
    """No new releases, and no further step of a release in progress. `gate` names the gate that asked for the hold, if one did.

    `stranded` means that the serving bundle is bad and there is no rollback target: a person is needed at once.
    """

    reason: str
    actor: str
    gate: str | None = None
    stranded: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """Releases are allowed again; a gate that asked for the hold is overruled for the rollout in progress."""


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
    """Page a person. Stored in the same transaction as the revision and delivered afterwards, so that it never delays the revision.

    Pages with the same `key` are about the same incident, so that pagers group them; one that `resolves` closes the earlier ones.
    """

    summary: str
    key: str = "release"
    severity: Literal["critical", "warning", "info"] = "critical"
    resolves: bool = False
    about: int | None = None
    """The earlier revision that the page is about, which gets one page with this key; None for the revision it is stored with."""
    body: Mapping[str, Any] | None = None
    """What the page reports besides its summary; None for what its revision changed."""


Effect = Marked | Paged

"""The release state of one service: what a revision row holds. Values only.

What does not belong here: how a state follows another (`transitions`), SQL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from lastgood import errors
from lastgood.core import arms

SCHEMA = "lastgood.state/v1"

Phase = Literal["idle", "preparing", "shadow", "canary", "approval", "baking"]
MarkKind = Literal["quarantined", "revoked"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Why a bundle may not serve. A person can lift a quarantine; a revocation is final."""

    kind: MarkKind
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No new releases, and no further step of a release in progress, until a person releases the hold. Rollbacks are still possible.

    `gate` names the gate that asked for the hold, if one did; releasing the hold overrules that gate for this rollout.
    """

    reason: str
    actor: str
    since: float
    gate: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPhase:
    """One phase of a release, as planned when it was proposed. Shares are percentages of live requests, times are seconds."""

    kind: Literal["shadow", "canary", "approval"]
    weight_pct: float = 0.0
    mirror_pct: float = 0.0
    min_s: float = 0.0
    max_s: float = 259_200.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """The recovery after a rollback: measured on the stable bundle from `since` until `until` (Unix seconds).

    `rollout` is the rollout that was rolled back, whose measurements serve as the reference for good; None if there was none.
    `left` is the bundle that was left behind.
    """

    since: float
    until: float
    left: str | None = None
    rollout: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The release state of one service. `revision` 0 is the empty state before the first revision.

    `lineage` lists the bundles that have been stable, newest first and each once, at most 16 of them.
    `phase_since` and `phase_until` are when the phase began and when it ends at the latest, as Unix time in seconds: a
    candidate that is not ready, or not judged, by then is abandoned; a baking release has passed its bake.

    While a release is in progress, `rollout` is the revision that proposed it, `chain` its planned phases, `position`
    the index of the current one (None while preparing), `weight_pct` its share of live requests and `mirror_pct` the
    share that is copied to it. `control` means that a control arm of stable answers an equal share; `approved` that a person
    has approved the candidate; `waived` names the gates that a person has overruled.
    While baking, `rollout` is still set. `verifying` is set after a rollback.

    `hops` counts automatic rollbacks since the last promotion, `automatic_at` when the latest ones were (Unix
    seconds, the last hour). `marks` holds the marks of the bundles concerned; the ledger keeps them all.
    """

    service: str
    revision: int = 0
    stable: str | None = None
    candidate: str | None = None
    previous: str | None = None
    phase: Phase = "idle"
    phase_since: float | None = None
    phase_until: float | None = None
    rollout: int | None = None
    chain: tuple[PlannedPhase, ...] = ()
    position: int | None = None
    weight_pct: float = 0.0
    mirror_pct: float = 0.0
    control: bool = False
    approved: bool = False
    waived: tuple[str, ...] = ()
    verifying: Verifying | None = None
    lineage: tuple[str, ...] = ()
    hold: Hold | None = None
    hops: int = 0
    automatic_at: tuple[float, ...] = ()
    marks: Mapping[str, Mark] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", MappingProxyType(dict(self.marks)))

    @property
    def planned(self) -> PlannedPhase | None:
        """The current phase as planned; None while preparing, baking or idle."""
        return self.chain[self.position] if self.position is not None else None

    @property
    def control_pct(self) -> float:
        """The control arm's share of live requests: equal to the candidate's, but at most half of the remainder.

        Stable's own workers stay in use, so that all users can return to them at once.
        """
        return min(self.weight_pct, (100.0 - self.weight_pct) / 2) if self.control else 0.0

    @property
    def awaited(self) -> tuple[str, ...]:
        """The arms whose workers must be ready before the candidate moves on."""
        control = (arms.control_of(self.stable),) if self.control and self.chain and self.stable else ()
        return (self.candidate, *control) if self.candidate else ()

    @property
    def last_phase(self) -> bool:
        """Whether the cut-over comes next because no phase of the chain is left."""
        return (-1 if self.position is None else self.position) == len(self.chain) - 1

    def to_json(self) -> dict[str, Any]:
        """The state as stored in a revision row; marks are stored in a table of their own."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "marks"}
        nested = {
            "chain": [dataclasses.asdict(phase) for phase in self.chain],
            "waived": list(self.waived),
            "verifying": dataclasses.asdict(self.verifying) if self.verifying else None,
            "lineage": list(self.lineage),
            "hold": dataclasses.asdict(self.hold) if self.hold else None,
            "automatic_at": list(self.automatic_at),
        }
        return {"schema": SCHEMA, **plain, **nested}


def from_json(value: Mapping[str, Any], marks: Mapping[str, Mark]) -> State:
    """The state read from a revision row. Raises Damaged if this release cannot read it."""
    if value.get("schema") != SCHEMA:
        raise errors.Damaged(f"revision has schema {value.get('schema')!r}, but this release reads {SCHEMA!r}; upgrade lastgood")
    fields = {key: value[key] for key in value if key != "schema"}
    try:
        fields["lineage"] = tuple(fields["lineage"])
        for name in ("waived", "automatic_at"):
            fields[name] = tuple(fields.get(name, ()))
        fields["chain"] = tuple(PlannedPhase(**phase) for phase in fields.get("chain", ()))
        fields["hold"] = Hold(**fields["hold"]) if fields.get("hold") else None
        fields["verifying"] = Verifying(**fields["verifying"]) if fields.get("verifying") else None
        return State(**fields, marks=marks)
    except (KeyError, TypeError) as error:
        raise errors.Damaged(f"the revision cannot be parsed: {error}; run 'lastgood audit verify'") from error


def target(state: State, *, without: frozenset[str] = frozenset(), verified: Mapping[str, bool] | None = None) -> str | None:
    """The newest bundle that has been stable, is not marked, not in *without*, and not known to be damaged.

    With *verified* given, a bundle counts only if it maps to True. Without it, the bytes are not considered.
    """
    for digest in state.lineage:
        if digest in without or digest in state.marks:
            continue
        if verified is None or verified.get(digest) is True:
            return digest
    return None

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
    """Why a bundle may not serve. A quarantine can be lifted by a person, a revocation never."""

    kind: MarkKind
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No releases, and no step further in one that is under way, until a person says so. Rollbacks pass.

    `gate` names the gate that asked for it, if one did; a person who releases the hold overrules that gate for this rollout.
    """

    reason: str
    actor: str
    since: float
    gate: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPhase:
    """One phase of a release, as planned when it was proposed; percentages of live requests, seconds."""

    kind: Literal["shadow", "canary", "approval"]
    weight_pct: float = 0.0
    mirror_pct: float = 0.0
    min_s: float = 0.0
    max_s: float = 259_200.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """After a rollback: whether it helped is being measured on the stable bundle, from `since` until `until` (Unix seconds).

    `rollout` is the rollout that was taken back, whose measurements say what good looked like; None if there was none.
    `left` is the bundle that was left behind.
    """

    since: float
    until: float
    left: str | None = None
    rollout: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The release state of one service. `revision` 0 is the empty state before the first revision.

    `lineage` lists the bundles that have been stable, the latest first and each once, at most 16 of them.
    `phase_since` and `phase_until` are when the phase began and when it ends at the latest, as Unix time in seconds: a
    candidate that is not ready, or not judged, by then is abandoned; a baking release has proved itself.

    While a release is in progress, `rollout` is the revision that proposed it, `chain` its planned phases, `position`
    the index of the present one (None while preparing), `weight_pct` its share of live requests and `mirror_pct` the
    share that is copied to it; `control` says that a second worker of stable answers as large a share; `approved` says that a person has let it through, `waived` names the gates that a
    person has overruled. While baking, `rollout` is still set. `verifying` is set after a rollback.

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
        """The present phase as it was planned; None while preparing, baking or idle."""
        return self.chain[self.position] if self.position is not None else None

    @property
    def control_pct(self) -> float:
        """The control arm's share of live requests: as large as the candidate's, but half of what that leaves at most.

        Stable's own workers stay in use, so that all users can come back to them at once.
        """
        return min(self.weight_pct, (100.0 - self.weight_pct) / 2) if self.control else 0.0

    @property
    def awaited(self) -> tuple[str, ...]:
        """The arms whose workers must be ready before the candidate goes its way."""
        control = (arms.control_of(self.stable),) if self.control and self.chain and self.stable else ()
        return (self.candidate, *control) if self.candidate else ()

    @property
    def last_phase(self) -> bool:
        """Whether the cut-over comes next: no phase of the chain is left."""
        return (-1 if self.position is None else self.position) == len(self.chain) - 1

    def to_json(self) -> dict[str, Any]:
        """The state as a revision row keeps it; marks stand in their own table."""
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
    """The state of a revision row. Raises Damaged if it is not one this release can read."""
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

    With *verified* given, a bundle counts only if it maps to True. Without it the bytes are not considered.
    """
    for digest in state.lineage:
        if digest in without or digest in state.marks:
            continue
        if verified is None or verified.get(digest) is True:
            return digest
    return None

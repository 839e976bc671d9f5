"""The decision core: what the release state of a service becomes when something happens. Pure.

`step(state, event, now)` returns the next state and the effects that go with it, or raises an error that
says which rule forbids the event. It reads no clock, no file and no database, so every interleaving of a
small world can be searched exhaustively (`tests/test_rollout_search.py`) and the audit log can be replayed.

    promote      Propose -> preparing -> CutOver -> baking -> BakeEnded -> idle
                              `-> Abandon -> idle (stable untouched)
    roll back    RollBack: any rollout is cancelled, the bad bundle is quarantined, stable becomes the
                 newest bundle that has been stable, verifies now, and is neither quarantined nor revoked

Rules, each with a test: a quarantined or revoked bundle never becomes stable or candidate; a revoked one
stays revoked; a held service takes no releases but can always roll back; a rollback is never undone by an
older promotion; after three steps back by automation a person has to look.

What does not belong here: I/O of any kind, SQL, layers, percentages of traffic that a gateway really serves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from lastgood import errors
from lastgood.bundle import short

SCHEMA = "lastgood.state/v1"
LINEAGE_LENGTH = 16
MAX_HOPS = 3

Phase = Literal["idle", "preparing", "baking"]
MarkKind = Literal["quarantined", "revoked"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Why a bundle may not serve. A quarantine can be lifted by a person, a revocation never."""

    kind: MarkKind
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No releases until a person says so. Rollbacks pass."""

    reason: str
    actor: str
    since: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The release state of one service. `revision` 0 is the empty state before the first revision.

    `lineage` lists the bundles that have been stable, the latest first and each once, at most 16 of them.
    `phase_until` is when the phase ends as Unix time in seconds: a candidate that is not ready by then is
    abandoned, a baking release has proved itself. `hops` counts steps back by automation
    since the last promotion. `marks` holds the marks of the bundles concerned; the ledger keeps them all.
    """

    service: str
    revision: int = 0
    stable: str | None = None
    candidate: str | None = None
    previous: str | None = None
    phase: Phase = "idle"
    phase_until: float | None = None
    lineage: tuple[str, ...] = ()
    hold: Hold | None = None
    hops: int = 0
    marks: Mapping[str, Mark] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", MappingProxyType(dict(self.marks)))

    def to_json(self) -> dict[str, Any]:
        """The state as a revision row keeps it; marks stand in their own table."""
        return {
            "schema": SCHEMA,
            "service": self.service,
            "revision": self.revision,
            "stable": self.stable,
            "candidate": self.candidate,
            "previous": self.previous,
            "phase": self.phase,
            "phase_until": self.phase_until,
            "lineage": list(self.lineage),
            "hold": dataclasses.asdict(self.hold) if self.hold else None,
            "hops": self.hops,
        }


def from_json(value: Mapping[str, Any], marks: Mapping[str, Mark]) -> State:
    """The state of a revision row. Raises Damaged if it is not one this release can read."""
    if value.get("schema") != SCHEMA:
        raise errors.Damaged(f"revision has schema {value.get('schema')!r}, this release reads {SCHEMA!r}; upgrade lastgood")
    fields = {key: value[key] for key in value if key != "schema"}
    try:
        fields["lineage"] = tuple(fields["lineage"])
        fields["hold"] = Hold(**fields["hold"]) if fields["hold"] else None
        return State(**fields, marks=marks)
    except (KeyError, TypeError) as error:
        raise errors.Damaged(f"revision does not parse: {error}; run 'lastgood audit verify'") from error


# --- what can happen ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Somebody asks to release *bundle*. `verified` says that its bytes were checked just now.

    `ready_s` is how many seconds its workers may take to become ready. `override` gives the reason for which
    a person lifts the bundle's quarantine in the same revision.
    """

    bundle: str
    verified: bool
    ready_s: float = 60.0
    override: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CutOver:
    """The candidate's workers are ready: it takes all traffic. `bake_s` seconds of watching begin."""

    bundle: str
    bake_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """The candidate never became ready, or its rollout is called off; stable is not touched."""

    bundle: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BakeEnded:
    """The watched time after a cut-over is over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Go back, now.

    `seen` is the stable bundle that whoever asked was looking at. If a promotion slipped in since, it is
    withdrawn (not quarantined: nobody judged it) and *seen* is quarantined all the same; automation instead
    gets a Conflict, for it may blame only what it measured.
    `to` names a target; None means the rollback-target rule; the stable bundle itself means: only call off the
    rollout in flight. The target must stand in the lineage, or `proven` says that the ledger knows it was stable
    longer ago. `verified` says of each possible target whether its bytes were checked just now.
    """

    reason: str
    seen: str | None = None
    to: str | None = None
    proven: bool = False
    verified: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    automatic: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condemn:
    """Quarantine or revoke *bundle*; if it serves, the service goes back in the same revision.

    With `take_down`, a service that has nothing to go back to stops answering instead of keeping it.
    """

    bundle: str
    kind: MarkKind
    reason: str
    verified: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    take_down: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """A person lifts the quarantine of *bundle*."""

    bundle: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetHold:
    """No releases from now on."""

    reason: str
    actor: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """Releases are allowed again."""


Event = Propose | CutOver | Abandon | BakeEnded | RollBack | Condemn | Lift | SetHold | ReleaseHold


# --- what goes with the next state -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Write this mark in the same transaction as the revision."""

    bundle: str
    kind: Literal["quarantined", "revoked", "lifted"]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """Tell a person, after the commit; never delays it."""

    summary: str


Effect = Marked | Paged


# --- the rules ---------------------------------------------------------------------------------------------


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


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """The state that follows *event* at Unix time *now*, with `revision` one higher, and its effects.

    Raises NotAllowed, NothingToDo or Conflict, each saying which rule and what to do; never changes *state*.
    """
    match event:
        case Propose():
            after, effects = _propose(state, event, now)
        case CutOver():
            after, effects = _cut_over(state, event, now)
        case Abandon():
            after, effects = _abandon(state, event)
        case BakeEnded():
            after, effects = _bake_ended(state)
        case RollBack():
            after, effects = _roll_back(state, event, now)
        case Condemn():
            after, effects = _condemn(state, event)
        case Lift():
            after, effects = _lift(state, event)
        case SetHold():
            after, effects = _set_hold(state, event, now)
        case ReleaseHold():
            after, effects = _release_hold(state)
    previous = target(after, without=frozenset(filter(None, (after.stable,))))
    return dataclasses.replace(after, revision=state.revision + 1, previous=previous), effects


Step = tuple[State, tuple[Effect, ...]]


def _propose(state: State, event: Propose, now: float) -> Step:
    lifted: tuple[Effect, ...] = ()
    if event.override is not None and event.bundle in state.marks:
        state, lifted = _lift(state, Lift(bundle=event.bundle, reason=event.override))
    _check_may_serve(state, event.bundle)
    if not event.verified:
        raise errors.NotAllowed(
            f"bundle {short(event.bundle)!r} does not verify; see 'lastgood verify {state.service} {short(event.bundle)}' and rebuild it"
        )
    if state.hold is not None:
        raise errors.NotAllowed(
            f"{state.service!r} is held by {state.hold.actor} ({state.hold.reason}); run 'lastgood release-hold {state.service}' first"
        )
    if event.bundle == state.stable:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is stable already; see 'lastgood status {state.service}'")
    if event.bundle == state.candidate:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is being released already; see 'lastgood status {state.service}'")
    if state.candidate is not None:
        raise errors.NotAllowed(
            f"a release of {short(state.candidate)!r} is in flight; wait for it, or call it off with 'lastgood rollback {state.service} stable', "
            "which quarantines the candidate"
        )
    return dataclasses.replace(state, candidate=event.bundle, phase="preparing", phase_until=now + event.ready_s), lifted


def _cut_over(state: State, event: CutOver, now: float) -> Step:
    if state.candidate != event.bundle:
        raise errors.Conflict(f"bundle {short(event.bundle)!r} is no longer the candidate; see 'lastgood history {state.service}'")
    _check_may_serve(state, event.bundle)
    after = dataclasses.replace(_idle(state), phase="baking", phase_until=now + event.bake_s, hops=0)
    return _with_stable(after, event.bundle), ()


def _abandon(state: State, event: Abandon) -> Step:
    if state.candidate != event.bundle:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is not the candidate; see 'lastgood status {state.service}'")
    return _idle(state), (Paged(summary=f"{state.service}: the release of {short(event.bundle)} was given up: {event.reason}"),)


def _bake_ended(state: State) -> Step:
    if state.phase != "baking":
        raise errors.NothingToDo(f"{state.service!r} is not baking; see 'lastgood status {state.service}'")
    return _idle(state), ()


def _roll_back(state: State, event: RollBack, now: float) -> Step:
    seen = event.seen or state.stable
    if event.automatic and (seen is None or seen != state.stable):
        raise errors.Conflict(f"{short(seen or 'nothing')!r} no longer serves, so it cannot be blamed; measure what serves now")
    if event.automatic and state.hops >= MAX_HOPS:
        return _stop_hopping(state, now)
    goal, bad = _named_goal(state, event, event.to) if event.to is not None else _goal(state, event, seen)
    after, effects = _mark(_idle(state), bad, "quarantined", event.reason) if bad is not None else (_idle(state), ())
    if goal is not None:
        after = _with_stable(after, goal)
    if event.automatic:
        effects += (
            Paged(summary=f"{state.service}: rolled back from {short(bad or 'nothing')} to {short(goal or 'nothing')}: {event.reason}"),
        )
    return dataclasses.replace(after, hops=state.hops + 1 if event.automatic else 0), effects


def _named_goal(state: State, event: RollBack, to: str) -> tuple[str, str | None]:
    """The target somebody named, and the bundle that is left behind: stable, or the candidate that is called off."""
    _check_may_serve(state, to)
    if to not in state.lineage and not event.proven:
        raise errors.NotAllowed(
            f"bundle {short(to)!r} has never been stable, so nobody can go back to it; "
            f"release it with 'lastgood promote {state.service} {short(to)}'"
        )
    if to == state.stable:
        if state.candidate is None:
            raise errors.NothingToDo(f"bundle {short(to)!r} is stable already; see 'lastgood status {state.service}'")
        return to, state.candidate
    if event.verified.get(to) is not True:
        raise errors.NotAllowed(f"bundle {short(to)!r} does not verify; leave out the target to get the newest bundle that does")
    return to, state.stable


def _goal(state: State, event: RollBack, seen: str | None) -> tuple[str | None, str | None]:
    """The target by the rule, and the bundle to quarantine."""
    if seen is None and state.candidate is not None:
        return None, None
    if seen is None:
        raise errors.NothingToDo(f"{state.service!r} serves nothing; promote a bundle with 'lastgood promote {state.service} BUNDLE'")
    if seen != state.stable and (seen in state.marks or seen not in state.lineage):
        raise errors.NothingToDo(f"bundle {short(seen)!r} was rolled back already; see 'lastgood history {state.service}'")
    goal = target(state, without=frozenset(filter(None, (seen, state.stable))), verified=event.verified)
    if goal is None and state.stable not in (None, seen):
        goal = state.stable
    if goal is None:
        raise errors.NotAllowed(
            f"{state.service!r} has no other bundle that was stable, verifies and is not quarantined; {short(seen)!r} keeps serving; "
            f"promote a good bundle with 'lastgood promote {state.service} BUNDLE'"
        )
    return goal, seen


def _stop_hopping(state: State, now: float) -> Step:
    reason = f"{MAX_HOPS} automatic rollbacks in a row did not help"
    if state.hold is not None:
        raise errors.NothingToDo(f"{state.service!r} is held already ({state.hold.reason}); a person has to look")
    held = dataclasses.replace(state, hold=Hold(reason=reason, actor="lastgood", since=now))
    return held, (Paged(summary=f"{state.service}: {reason}; the service is held, a person has to look"),)


def _condemn(state: State, event: Condemn) -> Step:
    mark = state.marks.get(event.bundle)
    if mark is not None and (mark.kind == event.kind or mark.kind == "revoked"):
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is {mark.kind} already ({mark.reason})")
    after, effects = _mark(state, event.bundle, event.kind, event.reason)
    if event.bundle == state.candidate:
        after = _idle(after)
    if event.bundle != state.stable:
        return after, effects
    goal = target(after, verified=event.verified)
    if goal is not None:
        return _with_stable(_idle(after), goal), effects
    if not event.take_down:
        raise errors.NotAllowed(
            f"{short(event.bundle)!r} serves and {state.service!r} has nothing to go back to; promote another bundle first, "
            "or add --take-down to stop answering"
        )
    return dataclasses.replace(_idle(after), stable=None), effects


def _lift(state: State, event: Lift) -> Step:
    mark = state.marks.get(event.bundle)
    if mark is None:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is not quarantined")
    if mark.kind == "revoked":
        raise errors.NotAllowed(f"bundle {short(event.bundle)!r} is revoked ({mark.reason}), which is for good; build a new bundle")
    marks = {digest: kept for digest, kept in state.marks.items() if digest != event.bundle}
    return dataclasses.replace(state, marks=marks), (Marked(bundle=event.bundle, kind="lifted", reason=event.reason),)


def _set_hold(state: State, event: SetHold, now: float) -> Step:
    if state.hold is not None:
        raise errors.NothingToDo(f"{state.service!r} is held already by {state.hold.actor} ({state.hold.reason})")
    return dataclasses.replace(state, hold=Hold(reason=event.reason, actor=event.actor, since=now)), ()


def _release_hold(state: State) -> Step:
    if state.hold is None:
        raise errors.NothingToDo(f"{state.service!r} is not held; see 'lastgood status {state.service}'")
    return dataclasses.replace(state, hold=None, hops=0), ()


def _check_may_serve(state: State, digest: str) -> None:
    mark = state.marks.get(digest)
    if mark is None:
        return
    remedy = "build a new bundle"
    if mark.kind == "quarantined":
        remedy += f", or lift it with 'lastgood promote {state.service} {short(digest)} --override-quarantine --reason …'"
    raise errors.NotAllowed(f"bundle {short(digest)!r} is {mark.kind} ({mark.reason}); {remedy}")


def _mark(state: State, digest: str, kind: MarkKind, reason: str) -> Step:
    marks = {**state.marks, digest: Mark(kind=kind, reason=reason)}
    return dataclasses.replace(state, marks=marks), (Marked(bundle=digest, kind=kind, reason=reason),)


def _with_stable(state: State, digest: str) -> State:
    rest = tuple(known for known in state.lineage if known != digest)
    return dataclasses.replace(state, stable=digest, lineage=(digest, *rest)[:LINEAGE_LENGTH])


def _idle(state: State) -> State:
    return dataclasses.replace(state, candidate=None, phase="idle", phase_until=None)

"""Rules shared by all transitions of a release. Pure.

What does not belong here: what an event leads to (`transitions` for releases, `rollback` for rollbacks).
"""

from __future__ import annotations

import dataclasses

from lastgood import errors
from lastgood.bundle.manifest import short
from lastgood.core.events import Effect, Marked
from lastgood.core.state import Mark, MarkKind, State

LINEAGE_LENGTH = 16

Step = tuple[State, tuple[Effect, ...]]


def check_may_serve(state: State, digest: str) -> None:
    """Raise NotAllowed if the bundle is quarantined or revoked."""
    mark = state.marks.get(digest)
    if mark is None:
        return
    remedy = "build a new bundle"
    if mark.kind == "quarantined":
        remedy += f", or lift it with 'lastgood promote {state.service} {short(digest)} --override-quarantine --reason …'"
    raise errors.NotAllowed(f"bundle {short(digest)!r} is {mark.kind} ({mark.reason}); {remedy}")


def check_not_held(state: State) -> None:
    """Raise NotAllowed if the service is held."""
    if state.hold is not None:
        raise errors.NotAllowed(
            f"{state.service!r} is held by {state.hold.actor} ({state.hold.reason}); run 'lastgood release-hold {state.service}' first"
        )


def check_candidate(state: State, digest: str) -> None:
    """Raise Conflict if *digest* is no longer the candidate."""
    if state.candidate != digest:
        raise errors.Conflict(f"bundle {short(digest)!r} is no longer the candidate; see 'lastgood history {state.service}'")


def marked(state: State, digest: str, kind: MarkKind, reason: str) -> Step:
    """The transition that quarantines or revokes *digest*."""
    marks = {**state.marks, digest: Mark(kind=kind, reason=reason)}
    return dataclasses.replace(state, marks=marks), (Marked(bundle=digest, kind=kind, reason=reason),)


def with_stable(state: State, digest: str) -> State:
    """The state in which *digest* is stable."""
    rest = tuple(known for known in state.lineage if known != digest)
    return dataclasses.replace(state, stable=digest, lineage=(digest, *rest)[:LINEAGE_LENGTH])


def idle(state: State) -> State:
    """The state without a release in progress: all live traffic goes to stable, and nothing is mirrored."""
    return dataclasses.replace(
        state, candidate=None, phase="idle", phase_since=None, phase_until=None, rollout=None, chain=(), position=None,
        weight_pct=0.0, mirror_pct=0.0, control=False, approved=False, waived=(),
    )  # fmt: skip

"""The decision core: what the release state of a service becomes when something happens. Pure.

`step(state, event, now)` returns the next state and its effects, or raises an error that names
the rule which forbids the event. It reads no clock, file or database, so every interleaving of a
small world can be searched exhaustively (`tests/core/test_search.py`) and the audit log can be replayed.

    promote      Propose -> preparing -> Advance -> shadow, canary, ... -> CutOver -> baking -> BakeEnded -> idle
                              |-> Abandon -> idle (not ready, or never judged: stable untouched, nobody blamed)
                              `-> Reject  -> idle (a gate failed: stable untouched, the candidate quarantined)
    roll back    RollBack: any rollout is cancelled, the bad bundle is quarantined, stable becomes the
                 newest bundle that has been stable, verifies now, and is neither quarantined nor revoked
    after it     Verified: the result of the analysis after a rollback

Rules, each with a test: a quarantined or revoked bundle never becomes stable or candidate; a revoked one
stays revoked; no phase of a chain is omitted unless a person skips it; a held service accepts no releases and no
further step of one, but can always roll back; a rollback is never undone by an older promotion, nor by automation; after
three automatic rollbacks in a row, or within an hour, automation stops and a person has to investigate.

This module covers releases, `rollback` covers rollbacks. What does not belong here: I/O of any kind, SQL, layers, measurements
(`gates`).
"""

from __future__ import annotations

import dataclasses

from lastgood import errors
from lastgood.bundle.manifest import short
from lastgood.core import rollback
from lastgood.core.events import (
    Abandon,
    Advance,
    Approve,
    BakeEnded,
    Condemn,
    CutOver,
    Effect,
    Event,
    Lift,
    Marked,
    Paged,
    Propose,
    Reject,
    ReleaseHold,
    RollBack,
    SetHold,
    Skip,
    Verified,
)
from lastgood.core.guards import Step, check_candidate, check_may_serve, check_not_held, idle, with_stable
from lastgood.core.state import Hold, State, target


def step(state: State, event: Event, now: float) -> Step:  # noqa: C901, PLR0912  # one line for each event
    """The state that follows *event* at Unix time *now*, with `revision` one higher, and its effects.

    Raises NotAllowed, NothingToDo or Conflict, each naming the rule and what to do; never changes *state*.
    """
    match event:
        case Propose():
            after, effects = _propose(state, event, now)
        case Advance():
            after, effects = _advance(state, event, now)
        case Approve():
            after, effects = _approve(state, event)
        case Skip():
            after, effects = _skip(state, event, now)
        case CutOver():
            after, effects = _cut_over(state, event, now)
        case Abandon():
            after, effects = _abandon(state, event)
        case Reject():
            after, effects = rollback.reject(state, event, now)
        case BakeEnded():
            after, effects = _bake_ended(state)
        case RollBack():
            after, effects = rollback.roll_back(state, event, now)
        case Verified():
            after, effects = rollback.verified(state, event)
        case Condemn():
            after, effects = rollback.condemn(state, event, now)
        case Lift():
            after, effects = _lift(state, event)
        case SetHold():
            after, effects = _set_hold(state, event, now)
        case ReleaseHold():
            after, effects = _release_hold(state)
    previous = target(after, without=frozenset(filter(None, (after.stable,))))
    return dataclasses.replace(after, revision=state.revision + 1, previous=previous), effects


def _propose(state: State, event: Propose, now: float) -> Step:
    lifted: tuple[Effect, ...] = ()
    if event.override is not None and event.bundle in state.marks:
        state, lifted = _lift(state, Lift(bundle=event.bundle, reason=event.override))
    check_may_serve(state, event.bundle)
    if not event.verified:
        raise errors.NotAllowed(
            f"bundle {short(event.bundle)!r} does not verify; see 'lastgood verify {state.service} {short(event.bundle)}' and rebuild it"
        )
    check_not_held(state)
    if event.bundle == state.stable:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is already stable; see 'lastgood status {state.service}'")
    if event.bundle == state.candidate:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is already being released; see 'lastgood status {state.service}'")
    if state.candidate is not None:
        raise errors.NotAllowed(
            f"a release of {short(state.candidate)!r} is in progress; wait for it, or cancel it with 'lastgood rollback {state.service} stable', "
            "which quarantines the candidate"
        )
    after = dataclasses.replace(
        idle(state),
        candidate=event.bundle,
        phase="preparing",
        phase_since=now,
        phase_until=now + event.ready_s,
        rollout=state.revision + 1,
        # Without a stable bundle there is nothing to compare the first one with.
        chain=event.chain if state.stable is not None else (),
        control=event.control and state.stable is not None and any(phase.kind == "canary" for phase in event.chain),
    )
    told = (_skipped(state, event.bundle),) if event.skipped and state.stable is not None else ()
    return after, (*lifted, *told)


def _skipped(state: State, bundle: str) -> Paged:
    summary = f"{state.service}: the analysis of {short(bundle)} was skipped by a person"
    return Paged(summary=summary, key="skip", severity="warning")


def _advance(state: State, event: Advance, now: float) -> Step:
    check_candidate(state, event.bundle)
    check_may_serve(state, event.bundle)
    check_not_held(state)
    if state.last_phase:
        raise errors.NotAllowed(f"no phase remains before the cut-over of {short(event.bundle)!r}; see 'lastgood status {state.service}'")
    position = 0 if state.position is None else state.position + 1
    planned = state.chain[position]
    after = dataclasses.replace(
        state,
        phase=planned.kind,
        position=position,
        phase_since=now,
        phase_until=now + planned.max_s,
        weight_pct=planned.weight_pct or (state.weight_pct if planned.kind == "approval" else 0.0),
        mirror_pct=planned.mirror_pct,
    )
    asks = f"{state.service}: {short(event.bundle)} waits for approval: 'lastgood approve {state.service}', or 'lastgood rollback {state.service} stable'"
    return after, (Paged(summary=asks, key=f"approval-{state.rollout}", severity="info"),) if planned.kind == "approval" else ()


def _approve(state: State, event: Approve) -> Step:
    check_candidate(state, event.bundle)
    if state.phase != "approval" or state.approved:
        what = "is already approved" if state.approved else f"is in phase {state.phase!r} and does not wait for approval"
        raise errors.NothingToDo(f"the release of {short(event.bundle)!r} {what}; see 'lastgood status {state.service}'")
    done = Paged(
        summary=f"{state.service}: {short(event.bundle)} was approved", key=f"approval-{state.rollout}", severity="info", resolves=True
    )
    return dataclasses.replace(state, approved=True), (done,)


def _skip(state: State, event: Skip, now: float) -> Step:
    check_candidate(state, event.bundle)
    check_not_held(state)
    if not state.chain:
        raise errors.NothingToDo(f"the release of {short(event.bundle)!r} has no phase to skip; see 'lastgood status {state.service}'")
    # The share stays as it is: until the cut-over, no user who is on the candidate changes sides.
    after = dataclasses.replace(state, chain=(), position=None, phase="preparing", phase_since=now, phase_until=now + event.ready_s)
    return after, (_skipped(state, event.bundle),)


def _cut_over(state: State, event: CutOver, now: float) -> Step:
    check_candidate(state, event.bundle)
    check_may_serve(state, event.bundle)
    check_not_held(state)
    if not state.last_phase:
        raise errors.NotAllowed(
            f"{short(event.bundle)!r} still has phases to pass before its cut-over; see 'lastgood status {state.service}'"
        )
    if state.phase == "approval" and not state.approved:
        raise errors.NotAllowed(f"{short(event.bundle)!r} waits for approval; run 'lastgood approve {state.service} --reason …'")
    state, told = rollback.overtaken(state)
    after = dataclasses.replace(
        idle(state), phase="baking", phase_since=now, phase_until=now + event.bake_s, hops=0, rollout=state.rollout, waived=state.waived
    )
    return with_stable(after, event.bundle), told


def _abandon(state: State, event: Abandon) -> Step:
    if state.candidate != event.bundle:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is not the candidate; see 'lastgood status {state.service}'")
    summary = f"{state.service}: the release of {short(event.bundle)} was given up: {event.reason}"
    return idle(state), (Paged(summary=summary, key=f"rollout-{state.rollout}", severity="warning"),)


def _bake_ended(state: State) -> Step:
    if state.phase != "baking":
        raise errors.NothingToDo(f"{state.service!r} is not baking; see 'lastgood status {state.service}'")
    return idle(state), ()


def _lift(state: State, event: Lift) -> Step:
    mark = state.marks.get(event.bundle)
    if mark is None:
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is not quarantined")
    if mark.kind == "revoked":
        raise errors.NotAllowed(f"bundle {short(event.bundle)!r} is revoked ({mark.reason}), which is permanent; build a new bundle")
    marks = {digest: kept for digest, kept in state.marks.items() if digest != event.bundle}
    return dataclasses.replace(state, marks=marks), (Marked(bundle=event.bundle, kind="lifted", reason=event.reason),)


def _set_hold(state: State, event: SetHold, now: float) -> Step:
    if state.hold is not None:
        raise errors.NothingToDo(f"{state.service!r} is already held by {state.hold.actor} ({state.hold.reason})")
    held = dataclasses.replace(state, hold=Hold(reason=event.reason, actor=event.actor, since=now, gate=event.gate))
    if event.gate is None:
        return held, ()
    summary = f"{state.service}: held by gate {event.gate!r} until a person decides: {event.reason}"
    return held, (Paged(summary=summary, key=f"hold-{event.gate}", severity="critical" if event.stranded else "warning"),)


def _release_hold(state: State) -> Step:
    if state.hold is None:
        raise errors.NothingToDo(f"{state.service!r} is not held; see 'lastgood status {state.service}'")
    overruled = state.hold.gate is not None and state.hold.gate not in state.waived
    waived = (*state.waived, state.hold.gate) if overruled and state.hold.gate else state.waived
    return dataclasses.replace(state, hold=None, hops=0, automatic_at=(), waived=waived), ()

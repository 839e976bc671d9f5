"""The rules of rollbacks: rejecting a candidate, rolling back, condemning a bundle, and the result of the analysis afterwards. Pure.

What does not belong here: releases (`transitions`).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from lastgood import errors
from lastgood.bundle.manifest import short
from lastgood.core.events import Condemn, Effect, Paged, Reject, RollBack, Verified
from lastgood.core.guards import Step, check_candidate, check_may_serve, idle, marked, with_stable
from lastgood.core.state import Hold, State, Verifying, target

MAX_HOPS = 3
"""Automatic rollbacks in a row, without a promotion in between, after which a person has to investigate."""

BREAKER = 3
BREAKER_S = 3600.0
"""With more than BREAKER automatic rollbacks within BREAKER_S seconds, the service is held."""


def reject(state: State, event: Reject, now: float) -> Step:
    """A gate failed: the candidate is removed and quarantined; stable, which kept serving, gets all traffic."""
    check_candidate(state, event.bundle)
    touched = state.weight_pct > 0
    after, effects = marked(idle(state), event.bundle, "quarantined", event.reason)
    after = _verifying(after, left=event.bundle, before=state, now=now, seconds=event.verify_s if touched else 0.0)
    summary = f"{state.service}: candidate {short(event.bundle)} was taken out and quarantined; {_serves(after)}: {event.reason}"
    after, broken = _counted(after, now)
    page = Paged(summary=summary, key=_key(state.rollout, event.bundle), severity=_urgency(after))
    return after, (*effects, page, *broken)


def roll_back(state: State, event: RollBack, now: float) -> Step:
    """The target becomes stable, the bundle left behind is quarantined, and a rollout in progress is cancelled."""
    seen = event.seen or state.stable
    if event.automatic:
        if seen is None or seen != state.stable:
            raise errors.Conflict(
                f"{short(seen or 'nothing')!r} no longer serves, so it is not to blame; measure the bundle that serves now"
            )
        if state.verifying is not None and not event.unready:
            raise errors.NothingToDo(f"{state.service!r} was just rolled back and is being measured; see 'lastgood status {state.service}'")
        if state.hops >= MAX_HOPS or len(_recent(state, now)) >= BREAKER:
            return _stop(state, now)
    goal, bad = _named_goal(state, event, event.to) if event.to is not None else _goal(state, event, seen)
    after, effects = marked(idle(state), bad, "quarantined", event.reason) if bad is not None else (idle(state), ())
    if goal is not None:
        after = with_stable(after, goal)
    moved = after.stable != state.stable or state.weight_pct > 0
    after = _verifying(after, left=bad, before=state, now=now, seconds=event.verify_s if moved else 0.0)
    if not event.automatic:
        return dataclasses.replace(after, hops=0), effects
    summary = f"{state.service}: rolled back from {short(bad or 'nothing')} to {short(goal or 'nothing')}: {event.reason}"
    after, broken = _counted(dataclasses.replace(after, hops=state.hops + 1), now)
    # If the target was not ready, traffic has not moved, so a person has to look now.
    page = Paged(summary=summary, key=_key(state.rollout, bad), severity="critical" if event.unready else _urgency(after))
    return after, (*effects, page, *broken)


def condemn(state: State, event: Condemn, now: float) -> Step:
    """The bundle is quarantined or revoked; if it is serving, the service is rolled back."""
    mark = state.marks.get(event.bundle)
    if mark is not None and (mark.kind == event.kind or mark.kind == "revoked"):
        raise errors.NothingToDo(f"bundle {short(event.bundle)!r} is already {mark.kind} ({mark.reason})")
    after, effects = marked(state, event.bundle, event.kind, event.reason)
    if event.bundle == state.candidate:
        after = idle(after)
    if event.bundle != state.stable:
        return after, effects
    goal = target(after, verified=event.verified)
    if goal is not None:
        after = _verifying(with_stable(idle(after), goal), left=event.bundle, before=state, now=now, seconds=event.verify_s)
        return after, effects
    if not event.take_down:
        raise errors.NotAllowed(
            f"{short(event.bundle)!r} serves and {state.service!r} has no rollback target; promote another bundle first, "
            "or add --take-down to stop answering"
        )
    return dataclasses.replace(idle(after), stable=None, verifying=None), effects


def verified(state: State, event: Verified) -> Step:
    """The analysis after a rollback has ended; the page reports its result."""
    if state.verifying is None:
        raise errors.NothingToDo(f"no rollback is being measured on {state.service!r}; see 'lastgood history {state.service}'")
    told = {
        "recovered": ("recovered after the rollback", "info"),
        "not_recovered": (
            "not recovered, so the release was not the cause, or not the only one; check what the service depends on",
            "critical",
        ),
        "inconclusive": ("inconclusive: it cannot be determined whether the service recovered", "warning"),
    }
    what, severity = told[event.outcome]
    page = Paged(
        summary=f"{state.service}: {what}: {event.reason}",
        key=_key(state.verifying.rollout, state.verifying.left),
        severity=severity,  # type: ignore[arg-type]
        resolves=event.outcome == "recovered",
    )
    return dataclasses.replace(state, verifying=None), (page,)


def overtaken(state: State) -> Step:
    """Another bundle becomes stable while the recovery from a rollback is still being measured: that analysis ends."""
    if state.verifying is None:
        return state, ()
    reason = "another release took over before recovery could be determined"
    return verified(state, Verified(outcome="inconclusive", reason=reason))


def _named_goal(state: State, event: RollBack, to: str) -> tuple[str, str | None]:
    """The named target, and the bundle that is left behind: stable, or the candidate whose rollout is cancelled."""
    check_may_serve(state, to)
    if to not in state.lineage and not event.proven:
        raise errors.NotAllowed(
            f"bundle {short(to)!r} has never been stable, so it is not a rollback target; "
            f"release it with 'lastgood promote {state.service} {short(to)}'"
        )
    if to == state.stable:
        if state.candidate is None:
            raise errors.NothingToDo(f"bundle {short(to)!r} is already stable; see 'lastgood status {state.service}'")
        return to, state.candidate
    if event.verified.get(to) is not True:
        raise errors.NotAllowed(f"bundle {short(to)!r} does not verify; omit the target to roll back to the newest bundle that does")
    return to, state.stable


def _goal(state: State, event: RollBack, seen: str | None) -> tuple[str | None, str | None]:
    """The target according to the rule, and the bundle to quarantine."""
    if seen is None and state.candidate is not None:
        return None, None
    if seen is None:
        raise errors.NothingToDo(f"{state.service!r} serves no bundle; promote one with 'lastgood promote {state.service} BUNDLE'")
    if seen == state.stable and state.weight_pct > 0 and not event.automatic:
        # The latest change is the candidate that now answers users: that is what an on-call person wants removed.
        return seen, state.candidate
    if seen != state.stable and (seen in state.marks or seen not in state.lineage):
        raise errors.NothingToDo(f"bundle {short(seen)!r} was already rolled back; see 'lastgood history {state.service}'")
    goal = target(state, without=frozenset(filter(None, (seen, state.stable))), verified=event.verified)
    if goal is None and state.stable not in (None, seen):
        goal = state.stable
    if goal is None:
        raise errors.NotAllowed(
            f"{state.service!r} has no other bundle that was stable, verifies and is not quarantined; {short(seen)!r} keeps serving; "
            f"promote a good bundle with 'lastgood promote {state.service} BUNDLE'"
        )
    return goal, seen


def _verifying(state: State, *, left: str | None, before: State, now: float, seconds: float) -> State:
    if seconds <= 0 or state.stable is None:
        return dataclasses.replace(state, verifying=None if state.stable != before.stable else state.verifying)
    return dataclasses.replace(state, verifying=Verifying(since=now, until=now + seconds, left=left, rollout=before.rollout))


def _recent(state: State, now: float) -> tuple[float, ...]:
    """Automatic rollbacks of the last hour; setting the clock back does not hide any of them."""
    return tuple(at for at in state.automatic_at if abs(now - at) < BREAKER_S)


def _counted(state: State, now: float) -> tuple[State, tuple[Effect, ...]]:
    """Count one more automatic rollback; one too many within an hour holds the service."""
    recent = (*_recent(state, now), now)[-(BREAKER + 1) :]
    after = dataclasses.replace(state, automatic_at=recent)
    if len(recent) <= BREAKER or state.hold is not None:
        return after, ()
    return _held(after, now, f"{len(recent)} automatic rollbacks within an hour")


def _stop(state: State, now: float) -> Step:
    if state.hold is not None:
        raise errors.NothingToDo(f"{state.service!r} is already held ({state.hold.reason}); a person has to investigate")
    count = state.hops if state.hops >= MAX_HOPS else len(_recent(state, now))
    within = "in a row" if state.hops >= MAX_HOPS else "within an hour"
    return _held(state, now, f"{count} automatic rollbacks {within} did not help")


def _held(state: State, now: float, reason: str) -> tuple[State, tuple[Effect, ...]]:
    held = dataclasses.replace(state, hold=Hold(reason=reason, actor="lastgood", since=now))
    return held, (Paged(summary=f"{state.service}: {reason}; the service is held until a person investigates", key="breaker"),)


def _key(rollout: int | None, left: str | None) -> str:
    """The key of the pages about a rollback and its result: the rollout that it ended, or else the bundle it left."""
    return f"rollout-{rollout}" if rollout is not None else f"bundle-{short(left or 'nothing')}"


def _urgency(state: State) -> Literal["critical", "warning"]:
    """Nothing is urgent once another bundle is stable; whether traffic follows is paged by the process that sees the workers."""
    return "warning" if state.stable else "critical"


def _serves(state: State) -> str:
    return f"all traffic goes to {short(state.stable)} again" if state.stable else "no bundle serves"

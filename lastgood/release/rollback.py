"""Rolling back to a bundle that was good, and taking a bundle out of use."""

from __future__ import annotations

import contextlib

from lastgood import context, errors
from lastgood.context import Context
from lastgood.core.events import Condemn, Lift, RollBack
from lastgood.core.state import MarkKind, State
from lastgood.hosts import readiness
from lastgood.release import targets
from lastgood.release.request import Request
from lastgood.release.transaction import Committed, check_request, commit, note_refusals

ATTEMPTS = 8
"""How often a rollback decides anew after another commit was first; each round takes milliseconds."""

NOT_UNDONE = (
    "answers that users already received, and what other systems did with them",
    "actions that the bundle took in other systems (bookings, messages): see the audit of what it did",
    "labels and feedback on its answers; they stay in the log, marked with its digest",
)
"""What no rollback undoes."""

SAME_ALARM_S = 30.0
"""A second rollback within this time is refused unless it names a target or the revision it was planned on (a confirmed plan
does), so that two people answering the same alarm do not roll back twice."""

SAME_PAGE_S = 300.0
"""The same after a rollback by a gate, where the page may need some minutes to wake somebody."""

WAYS_BACK = ("rollback", "quarantine", "revoke")
"""Verbs that can move stable to an older bundle."""


def roll_back(ctx: Context, service: str, request: Request, *, to: str | None = None, unready: bool = False) -> Committed:
    """Roll back to the newest bundle that was stable, verifies now and is not quarantined; or to the digest *to*.

    A warm bundle is preferred to one that is not, and one whose workers cannot be started comes last; *unready* means that the
    workers of the serving bundle cannot be started.

    Wins over a promotion that commits at the same moment by deciding again on the new state, unless the request expects a state or is
    automatic: then a Conflict names the change. Raises NothingToDo if there was a rollback moments ago and the request does not
    show that its author knows.
    """
    seen: str | None = None
    for _ in range(ATTEMPTS):
        state = ctx.ledger.state(service, about=(to,) if to else ())
        seen = seen or state.stable
        check_request(ctx, state, request)
        if to is None and request.expected is None and request.planned is None and not request.automatic:
            check_not_the_same_alarm(ctx, state)
        event = plan_roll_back(ctx, state, reason=request.reason, to=to, seen=seen, automatic=request.automatic, unready=unready)
        noted = note_refusals(ctx, service, verb="rollback", digest=to, actor=request.actor)
        with contextlib.nullcontext() if request.automatic else noted:
            try:
                return commit(ctx, state, event, request, verb="rollback")
            except errors.Conflict:
                if request.expected is not None or request.automatic:
                    raise
    raise errors.Conflict(f"{service!r} changed {ATTEMPTS} times during this rollback; see 'lastgood history {service}' and run it again")


def check_not_the_same_alarm(ctx: Context, state: State) -> None:
    """Raise NothingToDo if a person or a gate rolled back moments ago, even if that only removed a candidate.

    A bundle released since then is another one, and a rollback from it answers another alarm.
    """
    now = ctx.clock()
    for last in ctx.ledger.history(state.service, limit=10):
        if last.verb == "cut-over":
            return
        limit_s = SAME_PAGE_S if last.evidence.get("verdicts") else SAME_ALARM_S
        if last.verb in WAYS_BACK and abs(now - last.read_at) < limit_s:
            only = f"to cancel only the release in progress, run 'lastgood rollback {state.service} stable'; " if state.candidate else ""
            raise errors.NothingToDo(
                f"{state.service!r} was rolled back {max(now - last.read_at, 0):.0f} s ago by {last.actor} (revision {last.number}); "
                f"{only}to roll back one bundle further, run it again with --expect {state.revision}"
            )


def plan_roll_back(
    ctx: Context,
    state: State,
    *,
    reason: str,
    to: str | None = None,
    seen: str | None = None,
    automatic: bool = False,
    unready: bool = False,
) -> RollBack:
    """The event of a rollback from *state*, with the possible targets checked: by what the hosts report now, and byte by byte."""
    if to is not None and to not in state.marks:
        targets.check_lives(ctx, to)
    view = readiness.read(ctx.ledger, state.service, settings=ctx.settings, now=ctx.clock())
    wanted = (to,) if to else readiness.ranked(state.lineage, view)
    skip = {state.stable, seen or state.stable} if to is None else set()
    verified: dict[str, bool] = {}
    for digest in wanted:
        if digest in skip or digest in state.marks:
            continue
        verified[digest] = targets.verifies(ctx, digest)
        if verified[digest]:
            break
    proven = to is not None and ctx.ledger.was_stable(state.service, to)
    return RollBack(
        reason=reason, seen=seen, to=to, proven=proven, verified=verified, automatic=automatic, unready=unready,
        verify_s=verify_s(ctx, state),
    )  # fmt: skip


def verify_s(ctx: Context, state: State) -> float:
    """How many seconds a recovery is measured, as declared in the stable bundle before the rollback; 0 if that cannot be read."""
    with contextlib.suppress(errors.LastgoodError):
        return context.read_service(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings).release.recovery.within_s
    return 0.0


def condemn(
    ctx: Context,
    service: str,
    digest: str,
    request: Request,
    *,
    kind: MarkKind,
    take_down: bool = False,
) -> Committed:
    """Quarantine or revoke *digest*; if it is serving, roll the service back in the same transaction."""
    for _ in range(ATTEMPTS):
        state = ctx.ledger.state(service, about=(digest,))
        check_request(ctx, state, request)
        verified = {d: targets.verifies(ctx, d) for d in state.lineage if digest == state.stable and d != digest and d not in state.marks}
        event = Condemn(
            bundle=digest, kind=kind, reason=request.reason, verified=verified, take_down=take_down, verify_s=verify_s(ctx, state)
        )
        with contextlib.suppress(errors.Conflict):
            verb = "quarantine" if kind == "quarantined" else "revoke"
            return commit(ctx, state, event, request, verb=verb)
    raise errors.Conflict(f"{service!r} changed {ATTEMPTS} times meanwhile; see 'lastgood history {service}' and run it again")


def lift(ctx: Context, service: str, digest: str, request: Request) -> Committed:
    """Lift the quarantine of *digest*. Raises NotAllowed if it is revoked."""
    state = ctx.ledger.state(service, about=(digest,))
    event = Lift(bundle=digest, reason=request.reason)
    return commit(ctx, state, event, request, verb="lift")

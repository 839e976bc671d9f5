"""Stopping all releases of a service, and letting them go on."""

from __future__ import annotations

from lastgood.context import Context
from lastgood.core import transitions as rollout
from lastgood.release.transaction import Clock, Committed, commit
from lastgood.system import clock as wallclock


def hold(ctx: Context, service: str, *, reason: str, actor: str, expected: int | None = None, clock: Clock = wallclock.now) -> Committed:
    """No releases of *service* from now on; rollbacks pass."""
    event = rollout.SetHold(reason=reason, actor=actor)
    return commit(ctx, ctx.ledger.state(service), event, verb="hold", reason=reason, actor=actor, expected=expected, clock=clock)


def release_hold(
    ctx: Context, service: str, *, reason: str, actor: str, expected: int | None = None, clock: Clock = wallclock.now
) -> Committed:
    """Releases of *service* are allowed again."""
    state = ctx.ledger.state(service)
    return commit(ctx, state, rollout.ReleaseHold(), verb="release-hold", reason=reason, actor=actor, expected=expected, clock=clock)

"""Stopping all releases of a service, and letting them go on."""

from __future__ import annotations

from lastgood.context import Context
from lastgood.core.events import ReleaseHold, SetHold
from lastgood.release.request import Request
from lastgood.release.transaction import Committed, commit


def hold(ctx: Context, service: str, request: Request) -> Committed:
    """No releases of *service* from now on; rollbacks pass."""
    event = SetHold(reason=request.reason, actor=request.actor)
    return commit(ctx, ctx.ledger.state(service), event, request, verb="hold")


def release_hold(ctx: Context, service: str, request: Request) -> Committed:
    """Releases of *service* are allowed again."""
    return commit(ctx, ctx.ledger.state(service), ReleaseHold(), request, verb="release-hold")

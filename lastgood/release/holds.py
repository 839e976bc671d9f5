"""Holding all releases of a service, and releasing the hold."""

from __future__ import annotations

from lastgood.context import Context
from lastgood.core.events import ReleaseHold, SetHold
from lastgood.release.request import Request
from lastgood.release.transaction import Committed, commit


def hold(ctx: Context, service: str, request: Request) -> Committed:
    """Hold *service*: no releases from now on; rollbacks are still possible."""
    event = SetHold(reason=request.reason, actor=request.actor)
    return commit(ctx, ctx.ledger.state(service), event, request, verb="hold")


def release_hold(ctx: Context, service: str, request: Request) -> Committed:
    """Release the hold of *service*: releases are allowed again."""
    return commit(ctx, ctx.ledger.state(service), ReleaseHold(), request, verb="release-hold")

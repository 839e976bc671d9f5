"""The only way into the ledger: one decision of the pure core, one transaction.

What does not belong here: what each verb checks before it decides (`promotion`, `rollback`, `holds`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from lastgood import errors, ledger
from lastgood.bundle import manifest
from lastgood.context import Context
from lastgood.core import transitions
from lastgood.core.events import Condemn, Event, Paged, RollBack
from lastgood.core.state import State
from lastgood.release.request import Request
from lastgood.system import clock as system_clock
from lastgood.system import failpoints, plain


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A committed change: the state before, the new revision, and the pages it calls for."""

    before: State
    revision: ledger.Revision
    ms: float
    pages: tuple[str, ...] = ()


def commit(
    ctx: Context,
    state: State,
    event: Event,
    request: Request,
    *,
    verb: str,
    pages: tuple[Paged, ...] = (),
) -> Committed:
    """Decide on *event* and write the next revision, with its own pages and *pages*; all or nothing.

    Raises Conflict if *state* is no longer the newest revision, is not what *request* expects, or if the lease of its fence has changed
    hands; and whatever `core.transitions.step` raises.
    """
    check_request(ctx, state, request)
    now = ctx.clock()
    after, effects = transitions.step(state, event, now)
    effects = (*effects, *pages)
    began = time.perf_counter()
    failpoints.failpoint("release.before_append")
    emergency = isinstance(event, RollBack | Condemn)
    skew_s = system_clock.skew_s() if ctx.clock is system_clock.now else 0.0
    clock = {"clock": {"machine": now + skew_s}} if skew_s else {}
    revision = ctx.ledger.append(
        after,
        effects,
        verb=verb,
        actor=request.actor,
        reason=request.reason,
        evidence={**request.evidence, **clock},
        emergency=emergency,
        fence=request.fence,
        now=now,
    )
    failpoints.failpoint("release.after_append")
    told = tuple(effect.summary for effect in effects if isinstance(effect, Paged))
    return Committed(before=state, revision=revision, ms=round((time.perf_counter() - began) * 1000, 3), pages=told)


def check_request(ctx: Context, state: State, request: Request) -> None:
    """Raise Conflict if *state* differs from what *request* expects."""
    check_expected(ctx, state, request.expected)
    check_planned(ctx, state, request.planned)


def check_expected(ctx: Context, state: State, expected: int | None) -> None:
    """Raise Conflict if *state* is not at revision *expected*; None expects nothing."""
    if expected is not None and state.revision != expected:
        raise errors.Conflict(_what_changed(ctx, state.service, since=expected))


def check_planned(ctx: Context, state: State, planned: State | None) -> None:
    """Raise Conflict if a bundle other than in the planned state is stable or candidate."""
    if planned is not None and (planned.stable, planned.candidate) != (state.stable, state.candidate):
        raise errors.Conflict(_what_changed(ctx, state.service, since=planned.revision))


def _what_changed(ctx: Context, service: str, *, since: int) -> str:
    newer = [r for r in ctx.ledger.history(service, limit=10) if r.number > since]
    lines = "; ".join(
        f"revision {r.number} by {r.actor}: {r.verb}, stable is {manifest.short(r.state.stable or 'none')}" for r in reversed(newer)
    )
    return f"{service!r} has changed since revision {since}: {lines}; check 'lastgood status {service}' and decide again"


def last_move(ctx: Context, state: State) -> ledger.Revision:
    """The revision by which the present stable bundle became stable; later revisions (a hold, say) moved nothing."""
    moved = ctx.ledger.revision(state.service, state.revision)
    while older := ctx.ledger.history(state.service, limit=50, before=moved.number):
        for revision in older:
            if revision.state.stable != state.stable:
                return moved
            moved = revision
    return moved


@contextlib.contextmanager
def note_refusals(ctx: Context, service: str, *, verb: str, digest: str | None, actor: str) -> Iterator[None]:
    """Note in the audit trail if a rule forbids what is done within the block; the error propagates."""
    try:
        yield
    except errors.NotAllowed as refusal:
        body = {"verb": verb, "bundle": digest, "why": plain.printable(str(refusal))}
        with contextlib.suppress(errors.Unavailable):
            ctx.ledger.note(service, kind="refusal", body=body, actor=actor, now=ctx.clock())
        raise

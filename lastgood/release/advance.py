"""One step of a release in progress, taken by the controller or by a command that waits for the release.

Each function reads the ledger, decides on the observations it is given (ready workers, gate verdicts), and
commits at most one event. Callers pass what all hosts report in the ledger (`hosts.readiness`), never what they
see themselves, and prove with a *fence* that they hold the lease (`hosts.lease`). A host that cannot start or reach a
worker, or was frozen for a while, therefore moves nothing.

What does not belong here: measuring (`analysis.run`), deciding (`analysis.policy`, `core`), a person's requests
(`promotion`, `rollback`, `holds`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection

from lastgood import context, errors, ledger, release
from lastgood.analysis import policy
from lastgood.bundle.manifest import short
from lastgood.core.events import Paged, RollBack, SetHold
from lastgood.core.state import State
from lastgood.gates import base
from lastgood.hosts import readiness
from lastgood.service import gates, schema
from lastgood.system import clock, failpoints


def advance(
    ctx: release.Context,
    service: str,
    *,
    ready: Collection[str],
    actor: str,
    verdicts: policy.Verdicts = policy.NOTHING,
    judged_at: int | None = None,
    trouble: str = "",
    unknown: Collection[str] = (),
    fence: ledger.Fence | None = None,
) -> release.Committed | None:
    """Advance the release in flight by one step, or roll it back, if that is due; None if there is nothing to do.

    *ready* names the arms whose workers are ready, *unknown* those whose readiness is unknown. *verdicts* are the gates' verdicts, measured
    at revision *judged_at*; they are ignored if the service has moved on since. *trouble* is the latest complaint of the workers'
    layer. Safe to call from several processes: one wins.
    """
    state = ctx.ledger.state(service)
    if judged_at is not None and judged_at != state.revision:
        verdicts = policy.NOTHING
        if state.phase not in ("preparing", "baking"):
            return None
    if state.phase in ("shadow", "canary") and judged_at is None:
        return None  # without measurements there is no decision
    service_ = context.judged_by(ctx, state)
    # A clock other than this machine's cannot tell when the machine was off.
    unwatched_s = clock.unwatched_s(state.phase_since or 0.0) if ctx.clock is clock.now else 0.0
    decision = policy.decide(
        state,
        service_,
        ready=ready,
        unknown=unknown,
        verdicts=verdicts,
        trouble=trouble,
        now=ctx.clock(),
        unwatched_s=unwatched_s,
    )
    signals = _signals(state, service_, verdicts)
    if decision is None:
        _tell(ctx, state, signals, fence=fence)
        return None
    failpoints.failpoint("release.before_cutover")
    request = _request(decision, ready=ready, trouble=trouble, actor=actor, fence=fence)
    return _commit(ctx, state, decision, request, pages=signals)


def verify(
    ctx: release.Context,
    service: str,
    *,
    verdicts: policy.Verdicts,
    actor: str,
    fence: ledger.Fence | None = None,
) -> release.Committed | None:
    """End the measurement of a recovery once it has a result, or once its time is over; None before."""
    state = ctx.ledger.state(service)
    decision = policy.verify(state, verdicts, now=ctx.clock())
    if decision is None:
        return None
    return _commit(ctx, state, decision, _request(decision, ready=(), trouble="", actor=actor, fence=fence))


def go_on_back(
    ctx: release.Context,
    service: str,
    *,
    view: readiness.View,
    actor: str,
    fence: ledger.Fence | None = None,
) -> release.Committed | None:
    """Roll back once more if the target of the newest rollback did not become ready in time; None if that is not due.

    The bundle that was left keeps its traffic until a target is ready, so this must not wait for a person. Only a bundle that is
    warm according to *view* is eligible, because traffic could not follow to any other. Raises NotAllowed if there is none: then a
    person has to be paged.
    """
    state = ctx.ledger.state(service)
    if state.stable is None or view.word(state.stable) != "not ready" or state.phase != "idle" or state.revision == 0:
        return None
    moved = release.last_move(ctx, state)
    limit_s = context.read_service(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings).serving.ready_timeout_s
    unready_s = ctx.clock() - max(moved.at, view.since(state.stable) or 0.0)
    if moved.verb not in release.WAYS_BACK or unready_s < limit_s:
        return None
    warm = sorted(view.ready)
    if not any(digest in warm for digest in state.lineage if digest not in state.marks and digest != state.stable):
        raise errors.NotAllowed(
            f"no older bundle is warm; name one with 'lastgood rollback {service} BUNDLE', or correct what keeps "
            f"{short(state.stable)} from starting: {view.why(state.stable) or 'see its log'}"
        )
    reason = f"its workers were not ready within {limit_s:g} s after the rollback"
    evidence = {"ready": warm, "trouble": view.why(state.stable) or reason, "verdicts": []}
    request = release.Request(actor=actor, reason=reason, automatic=True, evidence=evidence, fence=fence)
    with contextlib.suppress(errors.Conflict, errors.NothingToDo):
        return release.roll_back(ctx, service, request, unready=True)
    return None


def _commit(
    ctx: release.Context,
    state: State,
    decision: policy.Decision,
    request: release.Request,
    *,
    pages: tuple[Paged, ...] = (),
) -> release.Committed | None:
    """Commit the decision made on *state*, with its *pages*; None if another process was faster, or if a rule says that it is done already.

    In that case nobody is paged: a cause that persists is found again at the next look.
    """
    event = decision.event
    with contextlib.suppress(errors.Conflict, errors.NothingToDo):
        try:
            if isinstance(event, RollBack):
                event = release.plan_roll_back(ctx, state, reason=event.reason, seen=event.seen, automatic=True)
            return release.commit(ctx, state, event, request, verb=decision.verb, pages=pages)
        except errors.NotAllowed as error:
            if not isinstance(event, RollBack):
                raise
            if state.hold is not None:
                _tell(ctx, state, (*pages, *_stranded(state, decision, error)), fence=request.fence)
                return None
            # No rollback target: a person has to know, and no new release may start meanwhile.
            held = SetHold(reason=f"{decision.reason}; {error}", actor="lastgood", gate=decision.verdicts[0].gate, stranded=True)
            return release.commit(ctx, state, held, dataclasses.replace(request, reason=held.reason), verb="hold", pages=pages)
    return None


def _tell(ctx: release.Context, state: State, pages: tuple[Paged, ...], *, fence: ledger.Fence | None) -> None:
    """Store *pages* that accompany no change, each once; none if this host no longer decides for the service."""
    for page in pages:
        with contextlib.suppress(errors.Conflict):
            ctx.ledger.page(
                state.service,
                revision=state.revision if page.about is None else page.about,
                key=page.key,
                severity=page.severity,
                summary=page.summary,
                body=page.body or {},
                now=ctx.clock(),
                fence=fence,
            )


def _stranded(state: State, decision: policy.Decision, error: errors.NotAllowed) -> tuple[Paged, ...]:
    """The page that the serving bundle is bad and no rollback target is left; none if the service is held for that very reason."""
    if state.hold is not None and state.hold.gate == decision.verdicts[0].gate:
        return ()
    summary = f"{state.service}: {decision.reason}; {error}"
    return (Paged(summary=summary, key="stranded", body={"verdicts": [verdict.to_json() for verdict in decision.verdicts]}),)


def _signals(state: State, service: schema.Service, verdicts: policy.Verdicts) -> tuple[Paged, ...]:
    """Pages for failed signals that do not hold the release: once per rollout, or once for the serving bundle."""
    waits = (
        f"{short(state.candidate)} does not advance until it passes" if state.candidate else f"{short(state.stable or '')} keeps serving"
    )
    return tuple(
        Paged(
            summary=f"{state.service}: gate {name!r} failed, {waits}: {verdict.why}",
            key=f"signal-{name}",
            severity="warning",
            about=state.rollout or state.revision,
            body={"verdicts": [verdict.to_json()]},
        )
        for name, verdict in verdicts.items()
        if name in service.gates and _is_only_told(service.gates[name], verdict) and name not in state.waived
    )


def _is_only_told(gate: gates.AnyGate, verdict: base.Verdict) -> bool:
    """Whether it is a failed signal that clears by itself, so that no person has to decide."""
    return verdict.kind == "signal" and verdict.outcome == "fail" and gate.resume != "person"


def _request(decision: policy.Decision, *, ready: Collection[str], trouble: str, actor: str, fence: ledger.Fence | None) -> release.Request:
    """The request of an automatic decision: its reason, its evidence, and the lease it was made under."""
    evidence = {"ready": sorted(ready), "trouble": trouble, "verdicts": [verdict.to_json() for verdict in decision.verdicts]}
    return release.Request(actor=actor, reason=decision.reason, automatic=True, evidence=evidence, fence=fence)

"""From verdicts to the next event of a release: what a failed gate does, and what an inconclusive one does. Pure.

    guardrail failed          the candidate is rejected (before the cut-over), or the service rolled back (after it)
    signal failed             no step further until it passes, or until a person releases the hold
    inconclusive too long     the gate's own policy: wait, roll back, or ask; never "fine"
    all passed                after the phase's minimum time: the next phase, or the cut-over

What does not belong here: statistics (`gates`), the rules that apply to every event (`core`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from lastgood.core.events import Abandon, Advance, BakeEnded, CutOver, Event, Reject, RollBack, SetHold, Verified
from lastgood.core.state import State
from lastgood.gates import base
from lastgood.service import gates
from lastgood.service.schema import Service

MAX_SKEW_S = 60.0
"""Seconds by which the clocks of two hosts may differ."""

ABANDONED_S = 86_400.0
"""Seconds after a phase's end from which its measurements say nothing about today, so that it can no longer be passed."""

Verdicts = Mapping[str, base.Verdict]

NOTHING: Verdicts = {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An event that is due, its verb in the ledger, its reason, and the verdicts that led to it."""

    event: Event
    verb: str
    reason: str
    verdicts: tuple[base.Verdict, ...] = ()


def decide(
    state: State,
    service: Service,
    *,
    ready: Collection[str],
    verdicts: Verdicts,
    now: float,
    trouble: str = "",
    unknown: Collection[str] = (),
    unwatched_s: float = 0.0,
) -> Decision | None:
    """The decision that is due for the release in flight, or for the serving bundle; None if there is none.

    *service* is the configuration frozen in the bundle under judgement; *ready* names the arms whose workers are
    ready, *unknown* those whose readiness is unknown, *trouble* is the latest complaint of their layer. *unwatched_s* of the seconds since
    the phase began do not count towards a minimum time, because it is unknown whether they passed (`system.clock`).
    """
    counted = {name: verdict for name, verdict in verdicts.items() if name not in state.waived and name in service.gates}
    match state.phase:
        case "preparing":
            return _prepared(state, service, ready=ready, unknown=unknown, now=now, trouble=trouble)
        case "shadow" | "canary" | "approval":
            return _on_its_way(state, service, counted, ready=ready, now=now, unwatched_s=unwatched_s)
        case _:
            return _serving(state, service, counted, now=now, unwatched_s=unwatched_s)


def verify(state: State, verdicts: Verdicts, *, now: float) -> Decision | None:
    """The result of a recovery, as soon as it is conclusive or its time limit has passed; None before."""
    if state.verifying is None:
        return None
    told = tuple(verdict for verdict in verdicts.values() if verdict.kind != "observe")
    failed = tuple(verdict for verdict in told if verdict.outcome == "fail")
    open_ = tuple(verdict for verdict in told if verdict.outcome == "inconclusive")
    if failed:
        return _verified("not_recovered", "; ".join(verdict.why for verdict in failed), told)
    if told and not open_:
        return _verified("recovered", "; ".join(verdict.why for verdict in told), told)
    if now >= state.verifying.until or _set_back(state.verifying.since, now):
        why = "; ".join(verdict.why for verdict in open_) or "no gate of this service can measure stable alone"
        return _verified("inconclusive", why, told)
    return None


def _verified(outcome: str, why: str, told: tuple[base.Verdict, ...]) -> Decision:
    event = Verified(outcome=outcome, reason=why)  # type: ignore[arg-type]
    return Decision(event=event, verb="verified", reason=f"{outcome.replace('_', ' ')}: {why}", verdicts=told)


# --- before the cut-over -----------------------------------------------------------------------------------


def _prepared(
    state: State, service: Service, *, ready: Collection[str], unknown: Collection[str], now: float, trouble: str
) -> Decision | None:
    if state.candidate is None:
        return None
    missing = [arm for arm in state.awaited if arm not in ready]
    if not missing:
        return None if state.hold is not None else _next_phase(state, service, why="the candidate's workers are ready")
    # Workers of unknown readiness are not called "not ready": their hosts get the same time once more.
    more_s = (state.phase_until or now) - (state.phase_since or now) if any(arm in unknown for arm in missing) else 0.0
    if state.phase_until is not None and (now >= state.phase_until + more_s or _set_back(state.phase_since or now, now)):
        whose = "candidate's" if state.candidate in missing else "control arm's"
        why = f"the {whose} workers did not become ready in time" + (f": {trouble}" if trouble else "")
        return Decision(event=Abandon(bundle=state.candidate, reason="not ready in time"), verb="abandon", reason=why)
    return None


def _on_its_way(
    state: State, service: Service, verdicts: Verdicts, *, ready: Collection[str], now: float, unwatched_s: float
) -> Decision | None:
    if state.candidate is None:
        return None
    bad = _bad(service, verdicts, now=now, over=_over(state, now))
    if bad:
        event = Reject(bundle=state.candidate, reason=_words(bad, service), verify_s=service.release.recovery.within_s)
        return Decision(event=event, verb="rollback", reason=_words(bad, service), verdicts=bad)
    if state.hold is not None:
        return None
    asked = _question(service, verdicts, now=now, over=_over(state, now))
    forward = _forward(state, service, verdicts, ready=ready, now=now, unwatched_s=unwatched_s)
    return asked or forward or _late(state, verdicts, now=now)


def _question(service: Service, verdicts: Verdicts, *, now: float, over: bool) -> Decision | None:
    """The hold that a gate asks for, if one does."""
    asking = _asking(service, verdicts, now=now, over=over)
    if not asking:
        return None
    event = SetHold(reason=_words(asking, service), actor="lastgood", gate=asking[0].gate)
    return Decision(event=event, verb="hold", reason=_words(asking, service), verdicts=asking)


def _forward(
    state: State, service: Service, verdicts: Verdicts, *, ready: Collection[str], now: float, unwatched_s: float
) -> Decision | None:
    """The next phase or the cut-over, if the current phase is passed."""
    needed = state.awaited[:1] if state.last_phase else state.awaited  # the cut-over needs no arm to compare with
    if any(arm not in ready for arm in needed):
        return None
    if state.phase == "approval":
        return _next_phase(state, service, why="approved by a person") if state.approved else None
    if not _passed(state, verdicts, now=now - unwatched_s) or (state.phase_until is not None and now - state.phase_until > ABANDONED_S):
        return None
    told = tuple(verdict for verdict in verdicts.values() if verdict.kind != "observe")
    why = "; ".join(verdict.why for verdict in told) or "its time limit has passed"
    return dataclasses.replace(_next_phase(state, service, why=f"{state.phase} passed: {why}"), verdicts=told)


def _next_phase(state: State, service: Service, *, why: str) -> Decision:
    candidate = state.candidate or ""
    if state.last_phase:
        return Decision(event=CutOver(bundle=candidate, bake_s=service.release.bake_s), verb="cut-over", reason=why)
    return Decision(event=Advance(bundle=candidate), verb="advance", reason=why)


def _late(state: State, verdicts: Verdicts, *, now: float) -> Decision | None:
    """The end of a release that could not be judged in time: it is abandoned, and no bundle is blamed."""
    if not _over(state, now):
        return None
    missing = tuple(verdict for verdict in verdicts.values() if verdict.outcome != "pass" and verdict.kind != "observe")
    limit_s = state.planned.max_s if state.planned else 0.0
    unapproved = state.phase == "approval" and not state.approved
    said = "; ".join(verdict.why for verdict in missing) or ("nobody approved it" if unapproved else "its workers are not ready")
    why = f"no verdict within {limit_s:g} s: {said}"
    told = missing or tuple(verdict for verdict in verdicts.values() if verdict.kind != "observe")
    return Decision(event=Abandon(bundle=state.candidate or "", reason=why), verb="abandon", reason=why, verdicts=told)


def _passed(state: State, verdicts: Verdicts, *, now: float) -> bool:
    planned, since = state.planned, state.phase_since
    if planned is None or since is None or now - since < planned.min_s:
        return False
    return all(verdict.outcome == "pass" for verdict in verdicts.values() if verdict.kind != "observe")


def _over(state: State, now: float) -> bool:
    if state.phase_until is not None and now >= state.phase_until:
        return True
    return state.phase_since is not None and _set_back(state.phase_since, now)


def _set_back(since: float, now: float) -> bool:
    """True if *since* lies in the future: it was written under a clock that was ahead, so its true age is unknown.

    A phase that waits for its end then ends now, as one that could not be judged, instead of when that clock's time comes.
    """
    return since - now > MAX_SKEW_S


# --- after it ----------------------------------------------------------------------------------------------


def _serving(state: State, service: Service, verdicts: Verdicts, *, now: float, unwatched_s: float) -> Decision | None:
    """The decision while baking, or while idle with triggers on stable. What stable cannot be blamed for ends in a hold, or in nothing."""
    if state.stable is None:
        return None
    baking = state.phase == "baking"
    over = baking and _over(state, now - unwatched_s)
    bad = () if state.verifying else _bad(service, verdicts, now=now, over=False)
    if bad:
        event = RollBack(
            reason=_words(bad, service), seen=state.stable, automatic=True, verify_s=service.release.recovery.within_s
        )  # fmt: skip
        return Decision(event=event, verb="rollback", reason=_words(bad, service), verdicts=bad)
    asked = None if state.hold else _question(service, verdicts, now=now, over=False)
    if asked:
        return asked
    return _proven(state, verdicts, now=now - unwatched_s) if over else None


def _proven(state: State, verdicts: Verdicts, *, now: float) -> Decision:
    """The end of a bake without a rollback. Gates that did not pass, or were inconclusive, are named in the reason."""
    told = tuple(verdict for verdict in verdicts.values() if verdict.kind != "observe")
    open_ = "; ".join(f"{verdict.gate}: {verdict.why}" for verdict in told if verdict.outcome != "pass")
    reason = "the release stayed healthy during its bake"
    if open_:
        reason = f"no guardrail failed in the {now - (state.phase_since or now):.0f} s of its bake; without a verdict: {open_}"
    return Decision(event=BakeEnded(), verb="bake-ended", reason=reason, verdicts=told)


# --- what a verdict calls for ------------------------------------------------------------------------------


def _bad(service: Service, verdicts: Verdicts, *, now: float, over: bool) -> tuple[base.Verdict, ...]:
    """Verdicts that end the release: failed guardrails, and inconclusive gates whose policy demands it."""
    return tuple(
        verdict
        for name, verdict in verdicts.items()
        if (verdict.outcome == "fail" and verdict.kind == "guardrail")
        or _policy(service.gates[name], verdict, now=now, over=over) == "roll_back"
    )


def _asking(service: Service, verdicts: Verdicts, *, now: float, over: bool) -> tuple[base.Verdict, ...]:
    """Verdicts that require a person."""
    return tuple(
        verdict
        for name, verdict in verdicts.items()
        if (verdict.outcome == "fail" and verdict.kind == "signal" and service.gates[name].resume == "person")
        or _policy(service.gates[name], verdict, now=now, over=over) == "ask"
    )


def _policy(gate: gates.AnyGate, verdict: base.Verdict, *, now: float, over: bool) -> gates.WhenUnknown:
    """What the policy of an inconclusive gate calls for by now."""
    if verdict.outcome != "inconclusive" or verdict.kind == "observe":
        return "wait"
    patient = verdict.since is None or now - verdict.since < gate.patience_s
    if verdict.cause == "no_traffic":
        return "wait" if patient else gate.no_traffic
    if verdict.cause == "source_down":
        return "wait" if patient else gate.source_down
    return gate.too_few if over else "wait"


def _words(verdicts: tuple[base.Verdict, ...], service: Service) -> str:
    audits = any(service.gates[verdict.gate].audit for verdict in verdicts)
    said = "; ".join(f"gate {verdict.gate!r}: {verdict.why}" for verdict in verdicts)
    return said + ("; audit what this bundle did" if audits else "")

"""The verbs: each is a guard, one decision of the pure core, and one ledger transaction.

A verb returns as soon as the ledger has committed; making the layers follow is `lastgood.converge`.
Nothing here loads a heavy library: this is the path that has to work at 3 AM.

What does not belong here: rules (`rollout`), SQL (`ledger`), how a layer is changed (`layers`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lastgood import bundle as bundles
from lastgood import errors, failpoints, ledger, lifetimes, readiness, rollout, trial, wallclock
from lastgood import service as services
from lastgood import strategy as strategies
from lastgood.context import Context as Context
from lastgood.context import check_known as check_known
from lastgood.context import check_there as check_there
from lastgood.context import open_context as open_context
from lastgood.layers import reconcile
from lastgood.ledger import audit

_logger = logging.getLogger(__name__)

DEEP_VERIFY_BYTES = 256 * 1024 * 1024
"""Up to this size a rollback target is hashed again before it serves (0.6 s per GiB); above it, sizes are compared
and the worker hashes it while loading, as it always does."""

ATTEMPTS = 8
"""How often a rollback decides anew because somebody else committed first; each round takes milliseconds."""

SAME_ALARM_S = 30.0
"""Two people who answer the same alarm must not go back twice: within this time after a rollback, another one needs
to say which revision it saw (a person who confirmed a plan has), or name its target."""

SAME_PAGE_S = 300.0
"""The same after a step back that a gate took: the page needs some minutes to wake somebody."""

WAYS_BACK = ("rollback", "quarantine", "revoke")
"""Verbs that can move stable to an older bundle."""

Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A change that is in the ledger: the state before, the new revision, and what a person must be told."""

    before: rollout.State
    revision: ledger.Revision
    ms: float
    pages: tuple[str, ...] = ()


# --- building ----------------------------------------------------------------------------------------------


def register(ctx: Context, bundle: bundles.Bundle, *, provenance: Mapping[str, Any], actor: str, now: float, untried: bool = False) -> bool:
    """Make *bundle* known: every part is in the store and verified byte by byte, and it was tried, then the ledger row is written.

    Tried means: its own code loads it and answers, its prompt is rendered, index and references are read as they will be (see
    `trial`), in another process. Its provenance says what came of that, under `trial`; with *untried*, that it was not.

    Returns False if it was known already. Raises Damaged, NotFound (a part is missing) or NotAllowed (a part that
    the service requires is missing, the frozen configuration is of another service, model and index do not fit, or it
    could not be used).
    """
    ctx.store.verify_bundle(bundle, deep=True)
    service = reconcile.frozen_service(bundle, store=ctx.store)
    if service is None or service.service != bundle.service:
        raise errors.NotAllowed(f"the config part does not describe {bundle.service!r}; freeze services/{bundle.service} and rebuild")
    missing = [name for name in service.parts if name not in bundle.parts]
    if missing:
        raise errors.NotAllowed(
            f"bundle of {bundle.service!r} lacks {', '.join(missing)}; build the missing parts or change 'parts' in service.yaml"
        )
    bundles.check_embedder(bundle)
    # The manifest's bytes hash to the bundle's id, so a worker can load a bundle with nothing but the store.
    ctx.store.put_bytes(bundles.canonical(bundle.manifest()), name="manifest.json")
    audit.begin(ctx.ledger, bundle.service, ctx.settings.keys)
    tried = _tried(ctx, bundle, service, untried=untried)
    for note in tried.notes if tried.outcome != "skipped" else ():
        _logger.warning("bundle %s of %r: %s", bundles.short(bundle.id), bundle.service, note)
    provenance = {**provenance, "trial": tried.to_json()}
    new = ctx.ledger.register(bundle, provenance=provenance, actor=actor, now=now)
    audit.checkpoint(ctx.ledger, bundle.service, ctx.settings.keys)
    return new


def _tried(ctx: Context, bundle: bundles.Bundle, service: services.Service, *, untried: bool) -> trial.Tried:
    """What came of trying *bundle*; one that is registered already was accepted then. Raises NotAllowed."""
    if untried:
        return trial.Tried(outcome="skipped", notes=(trial.SKIPPED,))
    with contextlib.suppress(errors.NotFound):
        ctx.ledger.bundle(bundle.id)
        return trial.Tried(outcome="skipped", notes=("registered already",))
    return trial.run(ctx.settings, bundle, timeout_s=service.serving.ready_timeout_s)


# --- releasing ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a bundle is to take over, where its own strategy is not wanted.

    `strategy` names the phases instead of the bundle's own; `skip` passes over all of them, in an emergency.
    """

    strategy: strategies.Chain | None = None
    skip: bool = False


OWN = Way()


def plan_propose(ctx: Context, state: rollout.State, digest: str, *, override: str | None = None, way: Way = OWN) -> rollout.Propose:
    """The event of proposing *digest*, with its bytes and its offline evaluation checked. Raises NotAllowed."""
    ready_s, control, skipped = 0.0, False, False
    chain: tuple[rollout.PlannedPhase, ...] = ()
    if digest not in state.marks or override is not None:
        frozen = _check_evaluated(ctx, digest)
        ready_s, control = frozen.serving.ready_timeout_s, frozen.release.control_arm
        chain = chain_of(state, digest, frozen, way=way)
        skipped = bool(chain_of(state, digest, frozen)) and not chain
        _check_lives(ctx, digest)
    verified = _verifies(ctx, digest)
    asked: dict[str, Any] = {"chain": chain, "control": control, "skipped": skipped, "override": override}
    return rollout.Propose(bundle=digest, verified=verified, ready_s=ready_s, **asked)


def chain_of(state: rollout.State, digest: str, frozen: services.Service, *, way: Way = OWN) -> tuple[rollout.PlannedPhase, ...]:
    """The phases that *digest* would pass before its cut-over; none for one that proved itself as stable not long ago."""
    proven = digest in state.lineage[: frozen.release.rollback_window]
    if way.skip or state.stable is None or (proven and way.strategy is None):
        return ()
    return strategies.planned(frozen.chain if way.strategy is None else way.strategy)


def propose(
    ctx: Context,
    service: str,
    digest: str,
    *,
    reason: str,
    actor: str,
    override: str | None = None,
    way: Way = OWN,
    expected: int | None = None,
    planned: rollout.State | None = None,
    clock: Clock = wallclock.now,
) -> Committed | None:
    """Make *digest* the candidate, whose workers are then made ready. None if it is the candidate already.

    With `way.skip` a candidate that is on its way passes over the phases that are left.

    *expected* is the revision the caller decided on, *planned* the state that a plan was made on: if the service has
    moved on (for *planned*: if another bundle is stable or candidate), Conflict. A refusal is noted in the
    audit trail before NotAllowed is raised.
    """
    state = ctx.ledger.state(service, about=(digest,))
    if state.candidate == digest and not (way.skip and state.chain):
        _check_same_way(state, digest, way)
        return None
    check_planned(ctx, state, planned)
    with _refusals_noted(ctx, service, verb="promote", digest=digest, actor=actor, clock=clock):
        asked: dict[str, Any] = {"reason": reason, "actor": actor, "expected": expected, "clock": clock}
        if state.candidate == digest:
            skip = rollout.Skip(bundle=digest, ready_s=_check_evaluated(ctx, digest).serving.ready_timeout_s)
            return commit(ctx, state, skip, verb="skip", **asked)
        event = plan_propose(ctx, state, digest, override=override, way=way)
        evidence = {"chain": [dataclasses.asdict(phase) for phase in event.chain], "skipped": way.skip}
        return commit(ctx, state, event, verb="promote", evidence=evidence, **asked)


def _check_same_way(state: rollout.State, digest: str, way: Way) -> None:
    """Raise NotAllowed if *digest* is on another way already than the one asked for: a way is chosen once."""
    if way.strategy is not None and strategies.planned(way.strategy) != state.chain:
        raise errors.NotAllowed(
            f"{bundles.short(digest)!r} is on its way with another strategy; call that off with 'lastgood rollback {state.service} stable' "
            f"and promote it again with --override-quarantine, or let it go on without --strategy"
        )


def approve(ctx: Context, service: str, *, reason: str, actor: str, expected: int | None = None, clock: Clock = wallclock.now) -> Committed:
    """A person lets the candidate through its approval. Raises NothingToDo if none is waited for."""
    state = ctx.ledger.state(service)
    if state.candidate is None:
        raise errors.NothingToDo(f"no release of {service!r} is on its way; see 'lastgood status {service}'")
    event = rollout.Approve(bundle=state.candidate)
    return commit(ctx, state, event, verb="approve", reason=reason, actor=actor, expected=expected, clock=clock)


def roll_back(
    ctx: Context,
    service: str,
    *,
    reason: str,
    actor: str,
    to: str | None = None,
    expected: int | None = None,
    planned: rollout.State | None = None,
    automatic: bool = False,
    unready: bool = False,
    evidence: Mapping[str, Any] = MappingProxyType({}),
    fence: ledger.Fence | None = None,
    clock: Clock = wallclock.now,
) -> Committed:
    """Go back to the newest bundle that was stable, verifies now and is not quarantined; or to the digest *to*.

    A bundle that is warm comes before one that is not, and one whose workers cannot be started comes last. What is done without
    a person needs the *fence* of whoever decides for the service.

    Beats a promotion that commits at the same moment by deciding again on what it finds. With *expected* (a
    revision) or *planned* (the state of a plan that a person confirmed) it raises Conflict instead if the service is not
    at that revision, or if another bundle is stable or candidate than planned, so that the person sees what changed.
    Raises NothingToDo if somebody rolled back moments ago and the caller does not say that it knows.
    """
    seen: str | None = None
    for _ in range(ATTEMPTS):
        state = ctx.ledger.state(service, about=(to,) if to else ())
        seen = seen or state.stable
        check_planned(ctx, state, planned)
        if to is None and expected is None and planned is None and not automatic:
            check_not_the_same_alarm(ctx, state, now=clock())
        event = plan_roll_back(ctx, state, reason=reason, to=to, seen=seen, automatic=automatic, unready=unready, now=clock())
        noted = _refusals_noted(ctx, service, verb="rollback", digest=to, actor=actor, clock=clock)
        with contextlib.nullcontext() if automatic else noted:
            try:
                asked: dict[str, Any] = {"reason": reason, "actor": actor, "expected": expected, "evidence": evidence, "clock": clock}
                return commit(ctx, state, event, verb="rollback", fence=fence, **asked)
            except errors.Conflict:
                if expected is not None or automatic:
                    raise
    raise errors.Conflict(f"{service!r} changed {ATTEMPTS} times while rolling back; see 'lastgood history {service}' and run it again")


def check_not_the_same_alarm(ctx: Context, state: rollout.State, *, now: float) -> None:
    """Raise NothingToDo if a step back was taken moments ago, by a person or by a gate, also if only a candidate was taken out.

    What was released since then is another bundle, and whoever goes back from that answers another alarm.
    """
    for last in ctx.ledger.history(state.service, limit=10):
        if last.verb == "cut-over":
            return
        limit_s = SAME_PAGE_S if last.evidence.get("verdicts") else SAME_ALARM_S
        if last.verb in WAYS_BACK and abs(now - last.read_at) < limit_s:
            only = f"to call off only the release under way, 'lastgood rollback {state.service} stable'; " if state.candidate else ""
            raise errors.NothingToDo(
                f"{state.service!r} was rolled back {max(now - last.read_at, 0):.0f} s ago by {last.actor} (revision {last.number}); "
                f"{only}to go back one further, run it again with --expect {state.revision}"
            )


def last_move(ctx: Context, state: rollout.State) -> ledger.Revision:
    """The revision by which the present stable bundle became stable; what came after it (a hold, say) moved nothing."""
    moved = ctx.ledger.revision(state.service, state.revision)
    while older := ctx.ledger.history(state.service, limit=50, before=moved.number):
        for revision in older:
            if revision.state.stable != state.stable:
                return moved
            moved = revision
    return moved


def check_planned(ctx: Context, state: rollout.State, planned: rollout.State | None) -> None:
    """Raise Conflict if another bundle is stable or candidate than in the state that a plan was made on."""
    if planned is not None and (planned.stable, planned.candidate) != (state.stable, state.candidate):
        raise errors.Conflict(_what_changed(ctx, state.service, since=planned.revision))


def check_expected(ctx: Context, state: rollout.State, expected: int | None) -> None:
    """Raise Conflict if *state* is not at revision *expected*; None expects nothing."""
    if expected is not None and state.revision != expected:
        raise errors.Conflict(_what_changed(ctx, state.service, since=expected))


def plan_roll_back(
    ctx: Context,
    state: rollout.State,
    *,
    reason: str,
    to: str | None = None,
    seen: str | None = None,
    automatic: bool = False,
    unready: bool = False,
    now: float | None = None,
) -> rollout.RollBack:
    """The event of a rollback from *state*, with the possible targets checked: by what the hosts say of them at *now*, and byte by byte."""
    if to is not None and to not in state.marks:
        _check_lives(ctx, to)
    view = readiness.read(ctx.ledger, state.service, settings=ctx.settings, now=wallclock.now() if now is None else now)
    wanted = (to,) if to else readiness.ranked(state.lineage, view)
    skip = {state.stable, seen or state.stable} if to is None else set()
    verified: dict[str, bool] = {}
    for digest in wanted:
        if digest in skip or digest in state.marks:
            continue
        verified[digest] = _verifies(ctx, digest)
        if verified[digest]:
            break
    proven = to is not None and ctx.ledger.was_stable(state.service, to)
    return rollout.RollBack(
        reason=reason, seen=seen, to=to, proven=proven, verified=verified, automatic=automatic, unready=unready,
        verify_s=verify_s(ctx, state),
    )  # fmt: skip


def verify_s(ctx: Context, state: rollout.State) -> float:
    """For how many seconds a step back is measured, as declared in the stable bundle before it; 0 if that cannot be read."""
    with contextlib.suppress(errors.LastgoodError):
        return reconcile.read_service(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings).release.recovery.within_s
    return 0.0


def condemn(
    ctx: Context,
    service: str,
    digest: str,
    *,
    kind: rollout.MarkKind,
    reason: str,
    actor: str,
    take_down: bool = False,
    expected: int | None = None,
    clock: Clock = wallclock.now,
) -> Committed:
    """Quarantine or revoke *digest*; if it serves, the service goes back in the same transaction.

    With *expected*, Conflict if the service is not at that revision.
    """
    for _ in range(ATTEMPTS):
        state = ctx.ledger.state(service, about=(digest,))
        check_expected(ctx, state, expected)
        verified = {d: _verifies(ctx, d) for d in state.lineage if digest == state.stable and d != digest and d not in state.marks}
        event = rollout.Condemn(
            bundle=digest, kind=kind, reason=reason, verified=verified, take_down=take_down, verify_s=verify_s(ctx, state)
        )
        with contextlib.suppress(errors.Conflict):
            verb = "quarantine" if kind == "quarantined" else "revoke"
            return commit(ctx, state, event, verb=verb, reason=reason, actor=actor, clock=clock)
    raise errors.Conflict(f"{service!r} changed {ATTEMPTS} times meanwhile; see 'lastgood history {service}' and run it again")


def lift(
    ctx: Context, service: str, digest: str, *, reason: str, actor: str, expected: int | None = None, clock: Clock = wallclock.now
) -> Committed:
    """Lift the quarantine of *digest*. Raises NotAllowed if it is revoked."""
    state = ctx.ledger.state(service, about=(digest,))
    event = rollout.Lift(bundle=digest, reason=reason)
    return commit(ctx, state, event, verb="lift", reason=reason, actor=actor, expected=expected, clock=clock)


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


# --- the one way into the ledger ---------------------------------------------------------------------------


def commit(
    ctx: Context,
    state: rollout.State,
    event: rollout.Event,
    *,
    verb: str,
    reason: str,
    actor: str,
    expected: int | None = None,
    evidence: Mapping[str, Any] = MappingProxyType({}),
    fence: ledger.Fence | None = None,
    clock: Clock = wallclock.now,
) -> Committed:
    """Decide on *event* and write the next revision; all or nothing.

    Raises Conflict if *state* (or *expected*) is no longer the newest revision, or the lease of *fence* changed hands, and whatever rule `rollout.step` finds.
    """
    check_expected(ctx, state, expected)
    now = clock()
    after, effects = rollout.step(state, event, now)
    began = time.perf_counter()
    failpoints.failpoint("release.before_append")
    emergency = isinstance(event, rollout.RollBack | rollout.Condemn)
    skew_s = wallclock.skew_s() if clock is wallclock.now else 0.0
    if skew_s:
        evidence = {**evidence, "clock": {"machine": now + skew_s}}
    written: dict[str, Any] = {"evidence": evidence, "emergency": emergency, "fence": fence}
    revision = ctx.ledger.append(after, effects, verb=verb, actor=actor, reason=reason, now=now, **written)
    failpoints.failpoint("release.after_append")
    pages = tuple(effect.summary for effect in effects if isinstance(effect, rollout.Paged))
    return Committed(before=state, revision=revision, ms=round((time.perf_counter() - began) * 1000, 3), pages=pages)


def _what_changed(ctx: Context, service: str, *, since: int) -> str:
    newer = [r for r in ctx.ledger.history(service, limit=10) if r.number > since]
    lines = "; ".join(
        f"revision {r.number} by {r.actor}: {r.verb}, stable is {bundles.short(r.state.stable or 'none')}" for r in reversed(newer)
    )
    return f"{service!r} has moved on since revision {since}: {lines}; look at 'lastgood status {service}' and decide again"


def _check_lives(ctx: Context, digest: str) -> None:
    """Raise NotAllowed if a model that *digest* asks is known to be gone."""
    why = lifetimes.gone(ctx.ledger, digest, now=wallclock.now())
    if why is not None:
        bundle = ctx.ledger.bundle(digest)
        raise errors.NotAllowed(
            f"bundle {bundles.short(digest)!r} answers no more, {why}; name a bundle with another model, "
            f"or ask again with 'lastgood liveness {bundle.service}'"
        )


def _verifies(ctx: Context, digest: str) -> bool:
    """Whether *digest* could serve now: its bytes are whole, and no model that it asks is known to be gone."""
    if lifetimes.gone(ctx.ledger, digest, now=wallclock.now()) is not None:
        return False
    bundle = ctx.ledger.bundle(digest)
    deep = sum(part.size for part in bundle.parts.values()) <= DEEP_VERIFY_BYTES
    try:
        ctx.store.verify_bundle(bundle, deep=deep)
    except (errors.Damaged, errors.NotFound, errors.Unavailable, OSError):
        # A disk that cannot be read now is no place to go back to.
        return False
    return True


def _check_evaluated(ctx: Context, digest: str) -> services.Service:
    """The bundle's frozen service configuration, if its newest offline evaluation keeps the limits set there."""
    bundle = ctx.ledger.bundle(digest)
    frozen = reconcile.frozen_service(bundle, store=ctx.store)
    if frozen is None:
        raise errors.NotAllowed(f"bundle {bundles.short(digest)!r} has no configuration; rebuild it")
    broken = missed_limits(frozen.evaluation, _newest_metrics(ctx, digest))
    if broken:
        raise errors.NotAllowed(
            f"bundle {bundles.short(digest)!r} misses its offline limits: {'; '.join(broken)}; evaluate it, or build a better one"
        )
    return frozen


def missed_limits(limits: services.Evaluation, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Which of *limits* the metrics miss, in words; a metric that was not measured is missed."""
    missed = []
    for name, floor in limits.floors.items():
        if not metrics.get(name, float("nan")) >= floor:
            missed.append(f"{name} is {metrics.get(name, 'not measured')}, at least {floor} is required")
    for name, ceiling in limits.ceilings.items():
        if not metrics.get(name, float("nan")) <= ceiling:
            missed.append(f"{name} is {metrics.get(name, 'not measured')}, at most {ceiling} is allowed")
    return tuple(missed)


def _newest_metrics(ctx: Context, digest: str) -> Mapping[str, float]:
    offline = [e for e in ctx.ledger.evaluations(digest) if e.kind == "offline"]
    metrics: Mapping[str, float] = max(offline, key=lambda e: e.at).report.get("metrics", {}) if offline else {}
    return metrics


@contextlib.contextmanager
def _refusals_noted(ctx: Context, service: str, *, verb: str, digest: str | None, actor: str, clock: Clock) -> Iterator[None]:
    try:
        yield
    except errors.NotAllowed as refusal:
        body = {"verb": verb, "bundle": digest, "why": str(refusal)}
        with contextlib.suppress(errors.Unavailable):
            ctx.ledger.note(service, kind="refusal", body=body, actor=actor, now=clock())
        raise

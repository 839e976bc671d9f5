"""Proposing a bundle, letting it through an approval, passing over its phases."""

from __future__ import annotations

import dataclasses
import os

from lastgood import errors, ledger
from lastgood.bundle import manifest as bundles
from lastgood.context import Context
from lastgood.core import transitions as rollout
from lastgood.release import targets
from lastgood.release.transaction import Clock, Committed, check_planned, commit, note_refusals
from lastgood.service import schema as services
from lastgood.service import strategy as strategies
from lastgood.system import clock as wallclock


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a bundle is to take over, where its own strategy is not wanted.

    `strategy` names the phases instead of the bundle's own; `skip` passes over all of them, in an emergency.
    """

    strategy: strategies.Chain | None = None
    skip: bool = False


OWN = Way()

SALT_BYTES = 16


def plan_propose(ctx: Context, state: rollout.State, digest: str, *, override: str | None = None, way: Way = OWN) -> rollout.Propose:
    """The event of proposing *digest*, with its bytes and its offline evaluation checked. Raises NotAllowed."""
    ready_s, control, skipped = 0.0, False, False
    chain: tuple[rollout.PlannedPhase, ...] = ()
    if digest not in state.marks or override is not None:
        frozen = targets.check_evaluated(ctx, digest)
        ready_s, control = frozen.serving.ready_timeout_s, frozen.release.control_arm
        chain = chain_of(state, digest, frozen, way=way)
        skipped = bool(chain_of(state, digest, frozen)) and not chain
        targets.check_lives(ctx, digest)
    verified = targets.verifies(ctx, digest)
    return rollout.Propose(
        bundle=digest, verified=verified, ready_s=ready_s, chain=chain, control=control, skipped=skipped, override=override
    )


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
    with note_refusals(ctx, service, verb="promote", digest=digest, actor=actor, clock=clock):
        if state.candidate == digest:
            skip = rollout.Skip(bundle=digest, ready_s=targets.check_evaluated(ctx, digest).serving.ready_timeout_s)
            return commit(ctx, state, skip, verb="skip", reason=reason, actor=actor, expected=expected, clock=clock)
        event = plan_propose(ctx, state, digest, override=override, way=way)
        evidence = {
            "chain": [dataclasses.asdict(phase) for phase in event.chain],
            "skipped": way.skip,
            # Drawn once for a release, and kept where every host of the service finds it.
            ledger.SALT: os.urandom(SALT_BYTES).hex(),
        }
        return commit(ctx, state, event, verb="promote", reason=reason, actor=actor, expected=expected, evidence=evidence, clock=clock)


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

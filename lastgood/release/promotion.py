"""Proposing a bundle, approving it, skipping its phases."""

from __future__ import annotations

import dataclasses
import os

from lastgood import errors, ledger
from lastgood.bundle import manifest
from lastgood.context import Context
from lastgood.core.events import Approve, Propose, Skip
from lastgood.core.state import PlannedPhase, State
from lastgood.release import targets
from lastgood.release.request import Request
from lastgood.release.transaction import Committed, check_request, commit, note_refusals
from lastgood.service import schema
from lastgood.service import strategy as strategies


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PhaseOverride:
    """How a bundle is to be released when its own strategy is not wanted.

    `strategy` replaces the bundle's own phases; `skip` skips all of them, in an emergency.
    """

    strategy: strategies.Chain | None = None
    skip: bool = False


OWN = PhaseOverride()

SALT_BYTES = 16


def draw_salt() -> str:
    """A secret for one release, which determines the users that get the candidate."""
    return os.urandom(SALT_BYTES).hex()


def plan_propose(ctx: Context, state: State, digest: str, *, override: str | None = None, way: PhaseOverride = OWN) -> Propose:
    """The event that proposes *digest*, once its bytes and offline evaluation are checked. Raises NotAllowed."""
    ready_s, control, skipped = 0.0, False, False
    chain: tuple[PlannedPhase, ...] = ()
    if digest not in state.marks or override is not None:
        frozen = targets.check_evaluated(ctx, digest)
        ready_s, control = frozen.serving.ready_timeout_s, frozen.release.control_arm
        chain = chain_of(state, digest, frozen, way=way)
        skipped = bool(chain_of(state, digest, frozen)) and not chain
        targets.check_lives(ctx, digest)
    verified = targets.verifies(ctx, digest)
    return Propose(bundle=digest, verified=verified, ready_s=ready_s, chain=chain, control=control, skipped=skipped, override=override)


def chain_of(state: State, digest: str, frozen: schema.Service, *, way: PhaseOverride = OWN) -> tuple[PlannedPhase, ...]:
    """The phases that *digest* would pass before its cut-over; none for a bundle that was recently proven as stable."""
    proven = digest in state.lineage[: frozen.release.rollback_window]
    if way.skip or state.stable is None or (proven and way.strategy is None):
        return ()
    return strategies.planned(frozen.chain if way.strategy is None else way.strategy)


def propose(
    ctx: Context,
    service: str,
    digest: str,
    request: Request,
    *,
    override: str | None = None,
    way: PhaseOverride = OWN,
) -> Committed | None:
    """Make *digest* the candidate, so that its workers are started. None if it is the candidate already.

    With `way.skip`, a candidate in progress skips the phases that are left.

    A refusal is noted in the audit trail before NotAllowed is raised.
    """
    state = ctx.ledger.state(service, about=(digest,))
    if state.candidate == digest and not (way.skip and state.chain):
        _check_same_way(state, digest, way)
        return None
    check_request(ctx, state, request)
    with note_refusals(ctx, service, verb="promote", digest=digest, actor=request.actor):
        if state.candidate == digest:
            skip = Skip(bundle=digest, ready_s=targets.check_evaluated(ctx, digest).serving.ready_timeout_s)
            return commit(ctx, state, skip, request, verb="skip")
        event = plan_propose(ctx, state, digest, override=override, way=way)
        evidence = {
            "chain": [dataclasses.asdict(phase) for phase in event.chain],
            "skipped": way.skip,
            # Drawn once per release, and stored where every host of the service finds it.
            ledger.SALT: draw_salt(),
        }
        return commit(ctx, state, event, dataclasses.replace(request, evidence=evidence), verb="promote")


def _check_same_way(state: State, digest: str, way: PhaseOverride) -> None:
    """Raise NotAllowed if *digest* is already being released by another strategy than requested: it is chosen once."""
    if way.strategy is not None and strategies.planned(way.strategy) != state.chain:
        raise errors.NotAllowed(
            f"{manifest.short(digest)!r} is already being released with another strategy; cancel that with 'lastgood rollback {state.service} stable' "
            f"and promote it again with --override-quarantine, or continue it without --strategy"
        )


def approve(ctx: Context, service: str, request: Request) -> Committed:
    """Approve the candidate on behalf of a person. Raises NothingToDo if no approval is pending."""
    state = ctx.ledger.state(service)
    if state.candidate is None:
        raise errors.NothingToDo(f"no release of {service!r} is in progress; see 'lastgood status {service}'")
    event = Approve(bundle=state.candidate)
    return commit(ctx, state, event, request, verb="approve")

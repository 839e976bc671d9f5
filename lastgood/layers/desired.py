"""The desired state of the layers, from the ledger: traffic shares, bundles to keep warm, configuration.

What does not belong here: making the layers follow (`layers.reconcile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lastgood import context
from lastgood.core import arms
from lastgood.core.state import State
from lastgood.hosts import readiness
from lastgood.layers import base
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood import ledger
    from lastgood.bundle import manifest
    from lastgood.bundle import store as bundle_store


SPARES = 2
"""Maximum number of further bundles kept warm while the rollback target cannot be."""


def desired_traffic(
    state: State,
    *,
    bundles: Mapping[str, manifest.Bundle],
    service: schema.Service,
    spares: tuple[str, ...] = (),
    salt: str = "",
) -> base.Desired:
    """The layers' desired state for *state*: the candidate's traffic share, by the release's *salt*, the rest to stable, and the mirror."""
    weights = {state.stable: 100.0} if state.stable else {}
    if state.stable and state.candidate and state.weight_pct > 0:
        # The newest bundle comes first, so that a user who is in at 5 % is still in at 20 %.
        weights = {state.candidate: state.weight_pct}
        if state.control_pct > 0:
            weights[arms.control_of(state.stable)] = state.control_pct
        weights[state.stable] = 100.0 - state.weight_pct - state.control_pct
    return base.Desired(
        service=service,
        revision=state.revision,
        stable=state.stable,
        candidate=state.candidate,
        previous=state.previous,
        weights=weights,
        salt=salt,
        mirror=(state.candidate, state.mirror_pct) if state.candidate and state.mirror_pct > 0 else None,
        control=state.control and state.candidate is not None,
        spares=spares,
        bundles=bundles,
    )


def read(state: State, *, ledger: ledger.Ledger, store: bundle_store.Store, settings: Settings) -> base.Desired:
    """Like `of`, with bundles from the ledger and the service's configuration as frozen in the stable bundle."""
    kept = spares(state, readiness.read(ledger, state.service, settings=settings, now=clock.now()))
    named = {digest for digest in (state.stable, state.candidate, state.previous, *kept) if digest is not None}
    bundles = {digest: ledger.bundle(digest) for digest in named}
    service = context.read_service(state, ledger=ledger, store=store, settings=settings)
    split_since = state.rollout if state.weight_pct > 0 else None
    salt = "" if split_since is None else ledger.revision(state.service, split_since).salt
    return desired_traffic(state, bundles=bundles, service=service, spares=kept, salt=salt)


def spares(state: State, view: readiness.View) -> tuple[str, ...]:
    """What is kept warm in addition while previous cannot be: one bundle that can be started, and those tried in vain before it."""
    found: list[str] = []
    behind = [digest for digest in state.lineage if digest not in state.marks and digest not in (state.stable, state.candidate)]
    for number, digest in enumerate(behind[: SPARES + 1]):
        if number > 0:
            found.append(digest)
        if not view.failing(digest):
            break
    return tuple(found)

"""From ledger to layers: what is desired, which layers there are, and one attempt at one layer."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import arms, errors, readiness, wallclock
from lastgood import service as services
from lastgood.layers import base, catalog, receipts

if TYPE_CHECKING:
    from lastgood import artifacts, bundle, ledger, rollout, settings


SPARES = 2
"""So many more bundles are kept warm at most while the one behind stable cannot be."""


def desired(
    state: rollout.State, *, bundles: Mapping[str, bundle.Bundle], service: services.Service, spares: tuple[str, ...] = ()
) -> base.Desired:
    """What *state* asks of the layers: the candidate's share of the traffic, the rest to stable, and what is mirrored."""
    weights = {state.stable: 100.0} if state.stable else {}
    if state.stable and state.candidate and state.weight_pct > 0:
        # The newest bundle stands first, so that a user who is in at 5 % is still in at 20 %.
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
        mirror=(state.candidate, state.mirror_pct) if state.candidate and state.mirror_pct > 0 else None,
        control=state.control and state.candidate is not None,
        spares=spares,
        bundles=bundles,
    )


def read_desired(state: rollout.State, *, ledger: ledger.Ledger, store: artifacts.Store, settings: settings.Settings) -> base.Desired:
    """Like `desired`, with bundles from the ledger and the service's configuration as frozen in the stable bundle."""
    kept = spares(state, readiness.read(ledger, state.service, settings=settings, now=wallclock.now()))
    named = {digest for digest in (state.stable, state.candidate, state.previous, *kept) if digest is not None}
    bundles = {digest: ledger.bundle(digest) for digest in named}
    service = read_service(state, ledger=ledger, store=store, settings=settings)
    return desired(state, bundles=bundles, service=service, spares=kept)


def spares(state: rollout.State, view: readiness.View) -> tuple[str, ...]:
    """What is kept warm beside previous while that cannot be: one bundle that can be started, and those tried in vain before it."""
    found: list[str] = []
    behind = [digest for digest in state.lineage if digest not in state.marks and digest not in (state.stable, state.candidate)]
    for number, digest in enumerate(behind[: SPARES + 1]):
        if number > 0:
            found.append(digest)
        if not view.failing(digest):
            break
    return tuple(found)


def read_service(state: rollout.State, *, ledger: ledger.Ledger, store: artifacts.Store, settings: settings.Settings) -> services.Service:
    """The configuration frozen in the stable bundle; the project's own before the first release, or if that is damaged.

    The layers have to be driven even then: what they need of it (a port, time limits) seldom differs.
    """
    serving = state.stable or state.candidate
    if serving is not None:
        with contextlib.suppress(errors.NotFound, errors.Damaged):
            frozen = frozen_service(ledger.bundle(serving), store=store)
            if frozen is not None:
                return frozen
    return services.load(settings.services / state.service)


def frozen_service(of: bundle.Bundle | None, *, store: artifacts.Store) -> services.Service | None:
    """The service configuration inside *of*'s config part; None if there is no bundle. Raises NotFound or Damaged."""
    if of is None:
        return None
    if "config" not in of.parts:
        raise errors.NotFound(f"bundle of {of.service!r} has no config part; rebuild it with one")
    return _parsed(store.path(of.parts["config"].digest) / services.FILE)


@functools.lru_cache(maxsize=64)
def _parsed(file: Path) -> services.Service:
    """Parsed once per process: the folder is named by its content."""
    try:
        return services.parse_frozen(file.read_text("utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError, errors.UsageError) as error:
        raise errors.Damaged(f"{file} is no usable {services.FILE}: {error}; build the bundle again") from error


def build(settings: settings.Settings, service: str) -> dict[str, base.Layer]:
    """The configured layers of one service, by name, in the order in which a new bundle passes through them."""
    chosen = settings.layers
    layers: dict[str, base.Layer] = {}
    if chosen.infrastructure:
        processes = catalog.load("infrastructure", chosen.infrastructure)(settings, service)
        layers["infrastructure"] = processes
        if chosen.traffic:
            layers["traffic"] = catalog.load("traffic", chosen.traffic)(settings, service, processes.endpoints)
    if chosen.registry:
        layers["registry"] = catalog.load("registry", chosen.registry)(settings, service)
    parts = _parts(settings, service)
    if chosen.index and "index" in parts:
        layers["index"] = catalog.load("index", chosen.index)(settings, service)
    if chosen.prompts and "prompt" in parts:
        layers["prompts"] = catalog.load("prompts", chosen.prompts)(settings, service)
    if chosen.answers and settings.cache.url:
        layers["answers"] = catalog.load("answers", chosen.answers)(settings, service)
    return layers


def _parts(settings: settings.Settings, service: str) -> tuple[str, ...]:
    """The parts that bundles of *service* have; none if its folder cannot be read, for the layers that serve do not need it."""
    try:
        return services.load(settings.services / service).parts
    except (errors.LastgoodError, OSError):
        return ()


_JUDGED: dict[bool | None, tuple[receipts.Status, str]] = {
    True: ("converged", ""),
    False: ("lagging", "on its way"),
    None: ("unknown", "cannot tell yet"),
}


def attempt(
    layer: base.Layer, desired: base.Desired, *, look_first: bool = True, clock: Callable[[], float] = wallclock.now
) -> receipts.Receipt:
    """Make *layer* agree with *desired* once; whatever happens becomes its receipt, nothing is raised.

    Without *look_first* the change is applied before the world is looked at, which is a few milliseconds faster.
    """
    began = time.perf_counter()
    status: receipts.Status
    observed = None
    detail = ""
    try:
        if look_first:
            observed = layer.observe()
        if observed is None or layer.verify(desired, observed) is not True:
            layer.apply(desired)
            observed = layer.observe()
        status, detail = _JUDGED[layer.verify(desired, observed)]
        if status != "converged":
            detail = str(observed.facts.get("trouble", detail))
        if observed.revision is not None and observed.revision > desired.revision:
            detail = (
                f"follows revision {observed.revision}, newer than the ledger's: it was put back from an older copy; see docs/critiques.md"
            )
    except base.LayerError as error:
        status, detail = "failed", str(error)
        if observed is None and not look_first:
            with contextlib.suppress(base.LayerError):  # what is there all the same, for whoever asks
                observed = layer.observe()
    except Exception as error:  # noqa: BLE001  # the border: an adapter's own bug is this layer's outcome, never the loop's end
        status, detail = "failed", f"{type(error).__name__}: {error}; this is a fault in the {layer.name!r} adapter"
    return receipts.Receipt(
        layer=layer.name,
        status=status,
        desired_revision=desired.revision,
        observed_revision=observed.revision if observed else None,
        ms=round((time.perf_counter() - began) * 1000, 3),
        at=clock(),
        detail=detail,
        facts=dict(observed.facts) if observed else {},
    )


def look(layer: base.Layer, desired: base.Desired, *, clock: Callable[[], float] = wallclock.now) -> receipts.Receipt:
    """Compare *layer* with *desired* and change nothing."""
    return attempt(_Onlooker(layer), desired, clock=clock)


class _Onlooker(base.Layer):
    """A layer that may be looked at but not touched."""

    def __init__(self, layer: base.Layer) -> None:
        self._layer = layer
        self.name = layer.name

    def observe(self) -> base.Observed:
        return self._layer.observe()

    def apply(self, desired: base.Desired) -> None:
        """Leave everything as it is."""

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        return self._layer.verify(desired, observed)

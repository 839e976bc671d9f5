"""One attempt at one layer, and the list of layers.

What does not belong here: their desired state (`layers.desired`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lastgood import errors
from lastgood.layers import base, catalog, receipts
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import clock as system_clock

if TYPE_CHECKING:
    pass


def build(settings: Settings, service: str) -> dict[str, base.Layer]:
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


def _parts(settings: Settings, service: str) -> tuple[str, ...]:
    """The parts that bundles of *service* have; empty if its folder cannot be read, because the serving layers do not need it."""
    try:
        return schema.load(settings.services / service).parts
    except (errors.LastgoodError, OSError):
        return ()


_JUDGED: dict[bool | None, tuple[receipts.ReceiptStatus, str]] = {
    True: ("converged", ""),
    False: ("lagging", "in progress"),
    None: ("unknown", "not known yet"),
}


def attempt(
    layer: base.Layer, desired: base.Desired, *, look_first: bool = True, clock: Callable[[], float] = system_clock.now
) -> receipts.Receipt:
    """Make *layer* agree with *desired* once; any result becomes its receipt, nothing is raised.

    Without *look_first* the change is applied before the layer is observed, which is a few milliseconds faster.
    """
    return _answer(layer, desired, look_first=look_first, change=True, clock=clock)


def observe_layer(layer: base.Layer, desired: base.Desired, *, clock: Callable[[], float] = system_clock.now) -> receipts.Receipt:
    """Compare *layer* with *desired* and change nothing."""
    return _answer(layer, desired, look_first=True, change=False, clock=clock)


def _answer(layer: base.Layer, desired: base.Desired, *, look_first: bool, change: bool, clock: Callable[[], float]) -> receipts.Receipt:
    began = time.perf_counter()
    status: receipts.ReceiptStatus
    observed = None
    detail = ""
    try:
        if look_first:
            observed = layer.observe()
        if observed is None or (change and layer.verify(desired, observed) is not True):
            layer.apply(desired)
            observed = layer.observe()
        status, detail = _JUDGED[layer.verify(desired, observed)]
        if status != "converged":
            detail = str(observed.facts.get("trouble", detail))
        if observed.revision is not None and observed.revision > desired.revision:
            detail = f"follows revision {observed.revision}, newer than the ledger's: the ledger was restored from an older copy; see docs/critiques.md"
    except base.LayerError as error:
        status, detail = "failed", str(error)
        if observed is None and not look_first:
            with contextlib.suppress(base.LayerError):  # the present state anyway, for readers of the receipt
                observed = layer.observe()
    except Exception as error:  # noqa: BLE001  # the border: an adapter's own bug is this layer's outcome, never the loop's end
        status, detail = "failed", f"{type(error).__name__}: {error}; this is a bug in the {layer.name!r} adapter"
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

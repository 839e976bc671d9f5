"""Registering a bundle: its parts are verified, the bundle is tried, its ledger row is written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.context import Context
from lastgood.ledger import audit, rows
from lastgood.model_retirement import records
from lastgood.release import trial
from lastgood.service import frozen as frozen_service
from lastgood.service import schema

_logger = logging.getLogger("lastgood.release")


def register(
    ctx: Context, bundle: manifest.Bundle, *, provenance: Mapping[str, Any], actor: str, now: float, untried: bool = False
) -> bool:
    """Register *bundle*: verify every part in the store byte by byte, try the bundle, then write the ledger row.

    The trial runs in another process: the bundle's own code loads it and answers, its prompt is rendered, its index and references are
    read as they will be in use (see `trial`). The provenance records the result under `trial`; with *untried*, that there was no trial.

    Returns False if the bundle was registered already. Raises Damaged, NotFound (a part is missing) or NotAllowed (a part that
    the service requires is missing, the frozen configuration belongs to another service, model and index do not match, or the bundle
    could not be used); and UsageError, before the trial, for facts that would not survive being stored and read back.
    """
    rows.check_text(actor=actor)
    rows.registration(bundle, provenance=provenance, now=now)
    records.check(bundle)
    ctx.store.verify_bundle(bundle, deep=True)
    service = frozen_service.read(bundle, store=ctx.store)
    if service is None or service.service != bundle.service:
        raise errors.NotAllowed(f"the config part does not describe {bundle.service!r}; freeze services/{bundle.service} and rebuild")
    schema.check(service)
    missing = [name for name in service.parts if name not in bundle.parts]
    if missing:
        raise errors.NotAllowed(
            f"bundle of {bundle.service!r} lacks {', '.join(missing)}; build the missing parts or change 'parts' in service.yaml"
        )
    manifest.check_embedder(bundle)
    # The manifest's bytes hash to the bundle's id, so the store alone is enough for a worker to load a bundle.
    ctx.store.put_bytes(manifest.canonical(bundle.manifest()), name="manifest.json")
    audit.begin(ctx.ledger, bundle.service, ctx.settings.keys)
    tried = _tried(ctx, bundle, service, untried=untried)
    for note in tried.notes if tried.outcome != "skipped" else ():
        _logger.warning("bundle %s of %r: %s", manifest.short(bundle.id), bundle.service, note)
    provenance = {**provenance, "trial": tried.to_json()}
    new = ctx.ledger.register(bundle, provenance=provenance, actor=actor, now=now)
    audit.checkpoint(ctx.ledger, bundle.service, ctx.settings.keys)
    return new


def _tried(ctx: Context, bundle: manifest.Bundle, service: schema.Service, *, untried: bool) -> trial.Tried:
    """The result of trying *bundle*; a registered bundle was accepted before. Raises NotAllowed."""
    if untried:
        return trial.Tried(outcome="skipped", notes=(trial.SKIPPED,))
    with contextlib.suppress(errors.NotFound):
        ctx.ledger.bundle(bundle.id)
        return trial.Tried(outcome="skipped", notes=("already registered",))
    return trial.run(ctx.settings, bundle, timeout_s=service.serving.ready_timeout_s)

"""Whether a bundle can serve now: its bytes, its offline evaluation, the hosted models that it calls."""

from __future__ import annotations

from collections.abc import Mapping

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.context import Context
from lastgood.model_retirement import records
from lastgood.service import frozen as frozen_service
from lastgood.service import schema

DEEP_VERIFY_BYTES = 256 * 1024 * 1024
"""Up to this size, a rollback target is hashed again before it serves (0.6 s per GiB); above it, only sizes are compared
and the worker hashes it while loading, as it always does."""


def check_lives(ctx: Context, digest: str) -> None:
    """Raise NotAllowed if a model that *digest* calls is known to be gone."""
    why = records.gone(ctx.ledger, digest, now=ctx.clock())
    if why is not None:
        bundle = ctx.ledger.bundle(digest)
        raise errors.NotAllowed(
            f"bundle {manifest.short(digest)!r} cannot answer any more, {why}; name a bundle with another model, "
            f"or check again with 'lastgood liveness {bundle.service}'"
        )


def verifies(ctx: Context, digest: str) -> bool:
    """Whether *digest* could serve now: its bytes are intact, and no model that it calls is known to be gone."""
    if records.gone(ctx.ledger, digest, now=ctx.clock()) is not None:
        return False
    bundle = ctx.ledger.bundle(digest)
    deep = sum(part.size for part in bundle.parts.values()) <= DEEP_VERIFY_BYTES
    try:
        ctx.store.verify_bundle(bundle, deep=deep)
    except (errors.Damaged, errors.NotFound, errors.Unavailable, OSError):
        # An unreadable target is not a rollback target.
        return False
    return True


def check_evaluated(ctx: Context, digest: str) -> schema.Service:
    """The bundle's frozen service configuration, if its newest offline evaluation meets the limits set there."""
    bundle = ctx.ledger.bundle(digest)
    frozen = frozen_service.read(bundle, store=ctx.store)
    if frozen is None:
        raise errors.NotAllowed(f"bundle {manifest.short(digest)!r} has no configuration; rebuild it")
    broken = missed_limits(frozen.evaluation, _newest_metrics(ctx, digest))
    if broken:
        raise errors.NotAllowed(
            f"bundle {manifest.short(digest)!r} does not meet its offline limits: {'; '.join(broken)}; evaluate it, or build a better one"
        )
    return frozen


def missed_limits(limits: schema.Evaluation, metrics: Mapping[str, float | None]) -> tuple[str, ...]:
    """The *limits* that the metrics miss, as text; a metric that was not measured counts as missed."""
    figures = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    missed = []
    for name, floor in limits.floors.items():
        if not figures.get(name, float("nan")) >= floor:
            missed.append(f"{name} is {figures.get(name, 'not measured')}, at least {floor} is required")
    for name, ceiling in limits.ceilings.items():
        if not figures.get(name, float("nan")) <= ceiling:
            missed.append(f"{name} is {figures.get(name, 'not measured')}, at most {ceiling} is allowed")
    return tuple(missed)


def _newest_metrics(ctx: Context, digest: str) -> Mapping[str, float | None]:
    """The newest offline metrics. In an older ledger they may have any form, which counts as not measured."""
    offline = [e for e in ctx.ledger.evaluations(digest) if e.kind == "offline"]
    metrics = max(offline, key=lambda e: e.at).report.get("metrics") if offline else None
    return metrics if isinstance(metrics, dict) else {}

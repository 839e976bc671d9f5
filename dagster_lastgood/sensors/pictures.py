"""Pictures of a release that has ended, embedded in the event itself: they show as long as Dagster keeps its history."""

import bisect
from typing import TYPE_CHECKING, Any

from dagster_lastgood import metadata

if TYPE_CHECKING:
    from lastgood.release import Context

KEY = "pictures"

MOST = 100_000
"""Most measurements for which a tick draws, a day at one per second; reading them takes 10 to 20 s, and a tick may take 60 s."""

MAX_BYTES = 200_000
"""Most bytes of all pictures of one event; base64 adds a third, and Dagster keeps each event in its database."""

TRIED: set[str] = set()
"""Releases that this process has begun to draw. If one is requested again, it took longer than a tick may."""


def rollout_pictures(ctx: "Context", service: str, rollout: int) -> dict[str, Any]:
    """Metadata with the pictures of *rollout*, or with the reason why there are none. Raises nothing: figures and checks come first."""
    try:
        reason = _too_much(ctx, service, rollout)
        if not reason:
            from lastgood.reports import plots, record

            drawn = plots.pictures(record.collect(ctx, service, rollout=rollout), max_bytes=MAX_BYTES)
            return {KEY: metadata.pictures(drawn)} if drawn else {}
    except Exception as error:  # noqa: BLE001  # a missing extra, or a fault in drawing, would otherwise fail this tick and all later ones
        reason = f"{type(error).__name__}: {error}"
    return {KEY: f"left out: {reason}; run 'lastgood report {service} --rollout {rollout}'"}


def _too_much(ctx: "Context", service: str, rollout: int) -> str:
    """Why a tick should not even start to draw, or nothing."""
    proposed = ctx.ledger.revision(service, rollout).hash
    if proposed in TRIED:
        return "drawing them took too long last time"
    TRIED.add(proposed)
    if sum(_measured(ctx, service, f"{rollout}/{phase}") for phase in ("shadow", "canary", "bake")) > MOST:
        return f"more than {MOST:,} measurements take too long for a sensor"
    return ""


def _measured(ctx: "Context", service: str, analysis: str) -> int:
    """The number of the newest measurement, at most one more than can be drawn; found without reading them all."""
    return bisect.bisect_left(range(MOST + 1), 1, key=lambda after: next(ctx.ledger.recorded(service, analysis, after=after), None) is None)

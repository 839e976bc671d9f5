"""What hosts say of their workers, made up for tests."""

from __future__ import annotations

from collections.abc import Collection

from lastgood.hosts import readiness
from lastgood.ledger import Readiness

STALE_S = 30.0


def row(
    arm: str, *, ready: bool, host: str = "one", now: float, age_s: float = 0.0, failures: int = 0, since: float | None = None
) -> Readiness:
    """One row, written *age_s* seconds before *now*."""
    at = now - age_s
    began = at if since is None else since
    return Readiness(
        service="toy", arm=arm, host=host, ready=ready, failures=failures, since=began, seen_at=at, detail="no disk" if failures else ""
    )


def view(*rows: Readiness, now: float) -> readiness.View:
    """All of them together at *now*."""
    return readiness.View(rows=rows, now=now, stale_s=STALE_S)


def seen(*, now: float, ready: Collection[str] = (), unready: Collection[str] = ()) -> readiness.View:
    """One host that speaks of all: ready ones, and ones that are not for an hour."""
    spoken = [row(arm, ready=True, now=now) for arm in ready] + [row(arm, ready=False, now=now, since=now - 3600) for arm in unready]
    return view(*spoken, now=now)

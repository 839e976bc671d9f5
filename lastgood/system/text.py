"""Times as text, the same everywhere: UTC, to the second or to the day.

What does not belong here: sentences about a subject (they are where the subject is).
"""

from __future__ import annotations

import datetime


def moment(at: float) -> str:
    """Unix time *at* as `2026-12-01 13:05:07 UTC`. Raises ValueError or OverflowError beyond the years that a calendar has."""
    return _utc(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def day(at: float) -> str:
    """Unix time *at* as `2026-12-01`, the day in UTC. Raises as `moment`."""
    return _utc(at).date().isoformat()


def _utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)

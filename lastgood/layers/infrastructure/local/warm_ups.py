"""How long each bundle's warm-up took on this machine, as its workers reported: a plan's estimate for a bundle that is not running.

One small file per service, safe to lose.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from lastgood.system import files

REMEMBERED = 200


def read(run: Path, bundle: str) -> float | None:
    """Seconds that the last warm-up of *bundle* took; None if none is recorded in the service's folder *run*."""
    return _all(run).get(bundle)


def keep(run: Path, found: Mapping[str, float | None]) -> None:
    """Record *found*; on a full disk nothing is recorded."""
    known = _all(run)
    fresh = {bundle: seconds for bundle, seconds in found.items() if seconds is not None and known.get(bundle) != seconds}
    if not fresh:
        return
    kept = {**{bundle: seconds for bundle, seconds in known.items() if bundle not in fresh}, **fresh}
    with contextlib.suppress(OSError):
        files.write(run / "warm-ups.list", json.dumps(dict(list(kept.items())[-REMEMBERED:])), kept="fast")


def _all(run: Path) -> dict[str, float]:
    try:
        value = json.loads((run / "warm-ups.list").read_text("utf-8"))
        return {str(bundle): float(seconds) for bundle, seconds in value.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}

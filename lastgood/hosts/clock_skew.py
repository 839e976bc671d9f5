"""Clocks of other hosts, beside the one that this host goes by: told from the signs of life that come in while somebody looks.

How old a sign of life is by this host's clock says nothing of the other's. When one has just come in, it was written a moment ago.

What does not belong here: one machine's own clock that is set (`system.clock`), what is told (`controller`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lastgood.hosts import readiness

MAX_SKEW_S = 60.0
"""Seconds by which the clocks of two hosts may differ."""


class Peers:
    """What the other hosts' clocks said when they were last seen to speak. Not for several threads."""

    def __init__(self, *, host: str, counting: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._counting = counting
        self._known: dict[str, float] = {}
        self._looked_at: float | None = None

    def ahead_s(self, view: readiness.View) -> dict[str, float]:
        """By how many seconds the clocks of hosts that have spoken since the last look are ahead of that of *view*; 0.0 if they agree.

        A host that has said nothing new is not among them, nor is any at the first look.
        """
        counted = self._counting()
        # A sign of life came at any moment since the last look.
        unsure_s = counted - self._looked_at if self._looked_at is not None else 0.0
        said = {row.host: row.seen_at for row in sorted(view.rows, key=lambda row: row.seen_at) if row.host != self._host}
        fresh = {host: at - view.now for host, at in said.items() if host in self._known and self._known[host] != at}
        self._known, self._looked_at = said, counted
        return {host: ahead if not -MAX_SKEW_S - unsure_s <= ahead <= MAX_SKEW_S else 0.0 for host, ahead in fresh.items()}

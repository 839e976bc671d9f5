"""Clock skew of other hosts against this one, determined from the heartbeats that arrive while this host is reading.

The age of a heartbeat by this host's clock says nothing about the other's. One that has just arrived was written a moment ago.

What does not belong here: changes of one machine's own clock (`system.clock`), what is reported (`controller`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lastgood.hosts import readiness

MAX_SKEW_S = 60.0
"""Seconds by which the clocks of two hosts may differ."""


class Peers:
    """The other hosts' clocks at their latest heartbeats. Not for several threads."""

    def __init__(self, *, host: str, counting: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._counting = counting
        self._known: dict[str, float] = {}
        self._looked_at: float | None = None

    def ahead_s(self, view: readiness.View) -> dict[str, float]:
        """How many seconds the clocks of hosts that reported since the last reading are ahead of that of *view*; 0.0 if they agree.

        A host that has reported nothing new is not included, nor is any at the first reading.
        """
        counted = self._counting()
        # A heartbeat arrived at any moment since the last reading.
        unsure_s = counted - self._looked_at if self._looked_at is not None else 0.0
        said = {row.host: row.seen_at for row in sorted(view.rows, key=lambda row: row.seen_at) if row.host != self._host}
        fresh = {host: at - view.now for host, at in said.items() if host in self._known and self._known[host] != at}
        self._known, self._looked_at = said, counted
        return {host: ahead if not -MAX_SKEW_S - unsure_s <= ahead <= MAX_SKEW_S else 0.0 for host, ahead in fresh.items()}

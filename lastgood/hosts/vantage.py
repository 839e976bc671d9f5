"""Which host may report: what a host reads in its own log, or finds on its own disk, it reports for the serving hosts, or not at all.

A host that does not serve a service has no log of it: what it does not see may still have happened. The ledger records which hosts
serve (`readiness`), including those that have fallen silent.

What does not belong here: who decides about a release (`lease`).
"""

from __future__ import annotations

import dataclasses

from lastgood import context, errors
from lastgood.bundle.manifest import short
from lastgood.hosts import readiness


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The viewpoint of an observation: this `host`, and the `others` that serve the same bundle, or did when last heard of."""

    host: str
    others: tuple[str, ...] = ()

    def told(self) -> str:
        """Text to append that names the reporting host and the others; empty if there is only one host."""
        return f"; as seen by host {self.host}; {', '.join(self.others)} also serves" if self.others else ""


def check_vantage(ctx: context.Context, service: str, arm: str, *, now: float) -> HostView:
    """The viewpoint of this host on *arm* of *service*. Raises Conflict if other hosts serve it and this one does not.

    Where no host reports workers, as without an infrastructure layer, each may report for itself.
    """
    homes = readiness.read(ctx.ledger, service, settings=ctx.settings, now=now).homes(arm)
    host = readiness.host(ctx.settings)
    if homes and host not in homes:
        raise errors.Conflict(
            f"{short(arm)} is served by {', '.join(sorted(homes))}, which has its log; host {host} does not serve it and cannot report on it: "
            "run the command on that host"
        )
    return HostView(host=host, others=tuple(sorted(homes - {host})))

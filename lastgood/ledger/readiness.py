"""Each host's report on the workers that it runs: one row per service, arm and host.

Only the host that runs a worker writes its row: when something has changed, and regularly as a heartbeat. Writing takes a lock of
its own, so on Postgres it never waits for a release or a rollback, nor they for it.

What does not belong here: combining the rows of several hosts (`lastgood.hosts.readiness`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lastgood.ledger import migrate, queries, rows
from lastgood.ledger.rows import Readiness
from lastgood.ledger.session import Session
from lastgood.system import plain

_SINCE_SCHEMA = 3
MAX_DETAIL = 500


class Seen(NamedTuple):
    """What a host sees of one worker: `failures` counts consecutive failed starts, `detail` is what went wrong."""

    ready: bool
    failures: int = 0
    detail: str = ""


class ReadinessRows(Session):
    """The readiness rows of a ledger."""

    def readiness(self, service: str) -> list[Readiness]:
        """All hosts' reports on the workers of *service*; empty in a ledger created by an older release and not yet opened by this one."""
        with self.reading():
            if migrate.check(self.dialect) < _SINCE_SCHEMA:
                return []
            return [rows.readiness(row) for row in self.dialect.fetch(queries.READINESS, service=service)]

    def report_readiness(self, service: str, *, host: str, seen: Mapping[str, Seen], now: float) -> None:
        """Replace *host*'s report on *service* by *seen*, by arm, as of *now* (Unix seconds). One transaction.

        `since` of a row stays as long as the worker stays ready, or not ready.
        """
        rows.check_text(service=service, host=host)
        rows.check_time(now)
        with self._writing(f"readiness/{service}"):
            before = {row["arm"]: row for row in self.dialect.fetch(queries.READINESS, service=service) if row["host"] == host}
            for arm in before.keys() - seen.keys():
                self.dialect.fetch(queries.DROP_READINESS, service=service, arm=arm, host=host)
            for arm, one in sorted(seen.items()):
                known = before.get(arm)
                kept = known is not None and bool(known["ready"]) == one.ready
                detail = plain.printable(one.detail)[:MAX_DETAIL]
                row = {
                    "service": service, "arm": arm, "host": host, "ready": int(one.ready), "failures": one.failures,
                    "since": known["since"] if known is not None and kept else now, "seen_at": now, "detail": detail,
                }  # fmt: skip
                self.dialect.fetch(queries.ADD_READINESS if known is None else queries.CHANGE_READINESS, **row)

"""The measurements for the gates, one by one, so that a process that continues an analysis reaches the same verdict.

They are evidence, not history: removed after a time, and not part of the audit chain. What a change was based on is in the
evidence of its revision. Writing takes a lock of its own, so on Postgres it never waits for a release or a rollback,
nor they for it; on SQLite each transaction is one row, or a few hundred when old ones are removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lastgood.ledger import queries, rows
from lastgood.ledger.session import Session

_PAGE = 500
_REMOVE = 500
"""Rows removed in one transaction: a few milliseconds, for which a rollback can wait on SQLite."""


class Measurements(Session):
    """The measurements of a ledger, by service and analysis."""

    def record(self, service: str, analysis: str, body: Mapping[str, Any], *, now: float) -> int:
        """Add one measurement, made at *now* (Unix seconds), to an analysis; returns its number, from 1 on.

        Raises DiskFull, with nothing written, on a full disk; the reserve for rollbacks is left alone.
        """
        rows.check_text(service=service, analysis=analysis)
        row: dict[str, Any] = {"service": service, "analysis": analysis, "body": rows.dump(body), "at": rows.check_time(now)}
        with self._writing(f"measurement/{service}"):
            newest = self.dialect.fetch(queries.NEWEST_MEASUREMENT, service=service, analysis=analysis)
            row["seq"] = int(newest[0]["seq"] or 0) + 1
            self.dialect.fetch(queries.ADD_MEASUREMENT, **row)
        return int(row["seq"])

    def recorded(self, service: str, analysis: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """The measurements of an analysis with numbers above *after*, oldest first: `seq`, `at` and the `body`.

        Read in pages while it is consumed, so that measurements added meanwhile are included. Numbers may have gaps where old
        ones were removed.
        """
        while True:
            with self.reading():
                page = self.dialect.fetch(queries.MEASUREMENTS, service=service, analysis=analysis, after=after, limit=_PAGE)
            for row in page:
                what = f"measurement {row['seq']} of {analysis!r} of {service!r}"
                yield {"seq": row["seq"], "at": row["at"], "body": rows.parse(row["body"], what)}
            if len(page) < _PAGE:
                return
            after = page[-1]["seq"]

    def forget_measurements(self, service: str, *, before: float, at_most: int | None = None) -> int:
        """Remove the measurements made before Unix time *before*; returns how many. Done in many small transactions.

        With *at_most* it ends after about that many; the oldest are removed first.
        """
        gone = 0
        while True:
            with self._writing(f"measurement/{service}"):
                removed = len(self.dialect.fetch(queries.FORGET_MEASUREMENTS, service=service, before=before, limit=_REMOVE))
            gone += removed
            if removed < _REMOVE or (at_most is not None and gone >= at_most):
                return gone

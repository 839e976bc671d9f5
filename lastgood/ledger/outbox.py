"""Pages that a person must get: written together with the change they are about, so that a crash after it loses none.

A page is a fact and stays as written. Each channel has its own delivery: tried, postponed, done; one dead channel does not delay the
others. Once every configured channel has a page, the page is settled and no longer looked up, so that a channel added later does
not send old news.

What does not belong here: channels and sending (`paging.delivery`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lastgood.core.events import Paged
from lastgood.ledger import queries, rows
from lastgood.ledger.leases import Fence, Leases
from lastgood.ledger.rows import Page

_SEVERITIES = ("critical", "warning", "info")
_SETTLE = 100
LONGEST_WAIT_S = 2 * 3600.0
"""Tries are an hour apart at most: one due later was postponed under a clock that was ahead, and is due now."""


class Outbox(Leases):
    """The pages of a ledger."""

    def page(
        self,
        service: str,
        *,
        revision: int,
        key: str,
        severity: str,
        summary: str,
        body: Mapping[str, Any],
        now: float,
        resolves: bool = False,
        fence: Fence | None = None,
    ) -> bool:
        """Add a page about *revision* (0: before the first) without a change; False if that revision has one of this *key*.

        `severity` is critical, warning or info. Raises NotAllowed for a revision that does not exist yet, so that no page
        can block a later change, and Conflict if the lease of *fence* has changed hands.
        """
        told = Paged(summary=summary, key=key, severity=severity, resolves=resolves)  # type: ignore[arg-type]  # the table checks it
        row = _row(service, revision, told, body=rows.dump(body), at=rows.check_time(now))
        with self._writing(f"page/{service}"):
            if fence is not None:
                self._check_fence(fence)
            return self._add_page(row)

    def _add_pages(self, row: Mapping[str, Any], told: Iterable[Paged], *, before: rows.Record | None) -> None:
        """Add the pages that belong to a revision *row*, inside its transaction."""
        for paged in merged(told):
            revision = row["number"] if paged.about is None else paged.about
            body = _about(row, before) if paged.body is None else paged.body
            self._add_page(_row(row["service"], revision, paged, body=rows.dump(body), at=row["at"]))

    def _add_page(self, row: Mapping[str, Any]) -> bool:
        if self.dialect.fetch(queries.PAGE, service=row["service"], revision=row["revision"], key=row["key"]):
            return False
        self.dialect.fetch(queries.ADD_PAGE, **row)
        return True

    def pages(self, service: str, *, limit: int = 50) -> list[Page]:
        """The pages of *service* with all their deliveries, newest revision first."""
        with self.reading():
            found = self.dialect.fetch(queries.PAGES, service=service, limit=limit)
            if not found:
                return []
            first, last = found[-1]["revision"], found[0]["revision"]
            deliveries = self.dialect.fetch(queries.DELIVERIES, service=service, first=first, last=last)
        tried: dict[tuple[int, str], list[rows.Record]] = {}
        for row in deliveries:
            tried.setdefault((row["revision"], row["key"]), []).append(row)
        return [rows.page(row, tried.get((row["revision"], row["key"]), [])) for row in found]

    def due_pages(self, channel: str, *, now: float, limit: int = 20) -> list[Page]:
        """Pages that *channel* is to deliver by *now* (Unix seconds); those never tried first, then the oldest.

        A page waits until the channel has delivered the earlier ones of its key. The pages contain only the channel's own
        deliveries.
        """
        with self.reading():
            found = self.dialect.fetch(queries.DUE_PAGES, channel=channel, now=now, latest=now + LONGEST_WAIT_S, limit=limit)
        return [rows.page(row, [{**row, "channel": channel, "delivered_at": None}] if row["tries"] else []) for row in found]

    def page_tried(self, page: Page, channel: str, *, now: float, delivered: bool, error: str = "", next_at: float = 0.0) -> None:
        """Record that *channel* tried to deliver *page* at *now*; if that failed, why, and when (Unix seconds) it is due again.

        What was delivered stays delivered, whatever a second controller records later.
        """
        rows.check_text(channel=channel, error=error)
        name = {"service": page.service, "revision": page.revision, "key": page.key, "channel": channel}
        outcome = {
            "next_at": rows.check_time(next_at),
            "delivered_at": rows.check_time(now) if delivered else None,
            "error": "" if delivered else error,
        }
        with self._writing(f"page/{page.service}"):
            found = self.dialect.fetch(queries.DELIVERY, **name)
            if not found:
                self.dialect.fetch(queries.ADD_DELIVERY, **name, **outcome, tries=1)
            elif found[0]["delivered_at"] is None:
                self.dialect.fetch(queries.CHANGE_DELIVERY, **name, **outcome, tries=found[0]["tries"] + 1)

    def settle_pages(self, channels: Collection[str], *, now: float) -> int:
        """Mark the pages that all *channels* have delivered as delivered; returns how many. Only reads if there are none."""
        names = {f"v{n}": channel for n, channel in enumerate(sorted(set(channels)))}
        query = queries.SETTLED_PAGES.format(values=", ".join(f":{name}" for name in names))
        with self.reading():
            found: Sequence[rows.Record] = self.dialect.fetch(query, **names, wanted=len(names), limit=_SETTLE) if names else []
        for row in found:
            with self._writing(f"page/{row['service']}"):
                self.dialect.fetch(queries.SETTLE_PAGE, **row, now=rows.check_time(now))
        return len(found)


def merged(told: Iterable[Paged]) -> list[Paged]:
    """One page per key: of several, all summaries and the highest severity, so that no second page can prevent a change."""
    kept: dict[tuple[int | None, str], Paged] = {}
    for paged in told:
        held = kept.get((paged.about, paged.key))
        if held is not None and held != paged:
            paged = dataclasses.replace(  # noqa: PLW2901  # the page to keep
                held,
                summary=f"{held.summary}; {paged.summary}",
                severity=min(held.severity, paged.severity, key=_SEVERITIES.index),
                resolves=held.resolves and paged.resolves,
            )
        kept[paged.about, paged.key] = paged
    return list(kept.values())


def _row(service: str, revision: int, paged: Paged, *, body: str, at: float) -> dict[str, Any]:
    rows.check_text(service=service, summary=paged.summary, key=paged.key)
    told = {"severity": paged.severity, "resolves": int(paged.resolves), "summary": paged.summary}
    return {"service": service, "revision": revision, "key": paged.key, **told, "body": body, "at": at}


def _about(row: Mapping[str, Any], before: rows.Record | None) -> dict[str, Any]:
    """The body of a revision's page besides its summary: who did what, the bundles now and before, the gates' results."""
    aliases = ("stable", "candidate", "previous")
    evidence = rows.parse(row["evidence"], f"the evidence of revision {row['number']} of {row['service']!r}")
    return {
        **{name: row[name] for name in ("verb", "actor", "reason", *aliases)},
        "before": {alias: before[alias] for alias in aliases} if before is not None else {},
        "verdicts": evidence.get("verdicts", []),
    }

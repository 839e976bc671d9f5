"""Idempotent notification: one page per key, and on request a note in the audit trail, across restarts and concurrent watchers.

A permanent fact is reported once (`Notifier`). A problem that lasts for a while and may recur is reported when it begins and when
it ends, once each (`OpenProblem`).

What does not belong here: how a page is delivered (`delivery`), and its text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lastgood import context
from lastgood.paging import message
from lastgood.system import plain

MOST = 1000
"""Number of newest pages that are searched for an earlier notification."""
AGAIN_S = 60.0
"""Seconds after which the pages of other processes are read again."""


class Notifier:
    """The notifications already sent about one service. Read on first use; not for several threads."""

    def __init__(self, ctx: context.Context, service: str) -> None:
        self._ctx = ctx
        self._service = service
        self._paged: set[str] | None = None
        self._noted: dict[str, set[str]] = {}

    def once(self, key: str, summary: str, *, severity: str, body: Mapping[str, Any], now: float, note: str = "") -> None:
        """Page *summary* under *key* unless that page exists, after an audit note of the kind *note* unless that exists.

        The note comes first: if a process dies between the two, nobody was paged, and the next watcher sends the page.
        """
        ledger, body, summary = self._ctx.ledger, plain.mended(body), plain.printable(summary)
        if key in self._pages():
            return
        if note and key not in self._notes(note):
            ledger.note(self._service, kind=note, body={"key": key, **body}, actor="lastgood", now=now)
            self._notes(note).add(key)
        revision = ledger.newest(self._service)
        ledger.page(self._service, revision=revision, key=key, severity=severity, summary=summary, body=body, now=now)
        self._pages().add(key)

    def _pages(self) -> set[str]:
        if self._paged is None:
            self._paged = {page.key for page in self._ctx.ledger.pages(self._service, limit=MOST)}
        return self._paged

    def _notes(self, kind: str) -> set[str]:
        if kind not in self._noted:
            self._noted[kind] = {str(body.get("key")) for body in self._ctx.ledger.notes(self._service, kind=kind)}
        return self._noted[kind]


class _Told(NamedTuple):
    """The page that reported a problem that still lasts."""

    revision: int
    key: str
    summary: str


class OpenProblem:
    """Temporary problems of one service. Another process continues where this one ended. Not for several threads.

    A problem that recurs has the page key KEY-2, then KEY-3; its end has the same key and `message.OVER`, by which a pager closes it.
    """

    def __init__(self, ctx: context.Context, service: str) -> None:
        self._ctx = ctx
        self._service = service
        self._open: dict[str, _Told] = {}
        self._times: dict[str, int] = {}
        self._read_at = float("-inf")

    def begun(self, key: str, summary: str, *, severity: str, now: float, body: Mapping[str, Any] | None = None) -> None:
        """Report that problem *key* exists: page *summary*, unless it was already paged and has not ended since."""
        if key in self._open:
            return
        self._read(now)
        if key in self._open:
            return
        times, revision = self._times.get(key, 0) + 1, self._ctx.ledger.newest(self._service)
        name = key if times == 1 else f"{key}-{times}"
        about = {**(body or {}), "trouble": key, "times": times}
        self._ctx.ledger.page(self._service, revision=revision, key=name, severity=severity, summary=summary, body=about, now=now)
        self._open[key], self._times[key] = _Told(revision, name, summary), times

    def over(self, prefix: str, *, now: float, but: Collection[str] = ()) -> None:
        """Report the end of every paged problem whose key begins with *prefix*, except those in *but*."""
        if abs(now - self._read_at) >= AGAIN_S:
            self._read(now)
        for key in [one for one in self._open if one.startswith(prefix) and one not in but]:
            told = self._open[key]
            self._ctx.ledger.page(
                self._service,
                revision=self._ctx.ledger.newest(self._service),
                key=told.key + message.OVER,
                severity="info",
                summary=_over(self._service, told.summary),
                body={"ended": [told.revision, told.key]},
                now=now,
                resolves=True,
            )
            del self._open[key]

    def _read(self, now: float) -> None:
        pages = self._ctx.ledger.pages(self._service, limit=MOST)
        ended = {tuple(page.body["ended"]) for page in pages if "ended" in page.body}
        self._times, self._open = {}, {}
        for page in pages:
            key = page.body.get("trouble")
            if key is None:
                continue
            self._times[key] = max(self._times.get(key, 0), page.body["times"])
            if (page.revision, page.key) not in ended:
                self._open[key] = _Told(page.revision, page.key, page.summary)
        self._read_at = now


def _over(service: str, summary: str) -> str:
    return f"{service}: over: {summary.removeprefix(f'{service}: ')}"

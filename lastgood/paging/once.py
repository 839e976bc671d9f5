"""Idempotent notification: one page per key, and on request a note in the audit trail, across restarts and concurrent watchers.

What is there and stays is told once (`Notifier`). What lasts for a while and can come again is told when it begins and when it
is over, each once (`OpenProblem`).

What does not belong here: how a page is delivered (`delivery`), and what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lastgood import context
from lastgood.paging import message
from lastgood.system import plain

MOST = 1000
"""So many pages back it is looked whether somebody was told already."""
AGAIN_S = 60.0
"""Seconds after which it is read again what other processes have told meanwhile."""


class Notifier:
    """What was told about one service. Reads it on first use; not for several threads."""

    def __init__(self, ctx: context.Context, service: str) -> None:
        self._ctx = ctx
        self._service = service
        self._paged: set[str] | None = None
        self._noted: dict[str, set[str]] = {}

    def once(self, key: str, summary: str, *, severity: str, body: Mapping[str, Any], now: float, note: str = "") -> None:
        """Page *summary* under *key* unless there is such a page, after a note of the kind *note* in the audit trail unless that is there.

        The note comes first: a process that dies between the two has told nobody, and whoever looks next does.
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
    """The page by which a trouble that still lasts was told."""

    revision: int
    key: str
    summary: str


class OpenProblem:
    """Troubles of one service that last for a while. Another process goes on where this one ended. Not for several threads.

    A trouble that comes again has the page key KEY-2, then KEY-3; its end has the same and `message.OVER`, by which a pager closes it.
    """

    def __init__(self, ctx: context.Context, service: str) -> None:
        self._ctx = ctx
        self._service = service
        self._open: dict[str, _Told] = {}
        self._times: dict[str, int] = {}
        self._read_at = float("-inf")

    def begun(self, key: str, summary: str, *, severity: str, now: float, body: Mapping[str, Any] | None = None) -> None:
        """The trouble *key* is there: page *summary*, unless it was told and is not over since."""
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
        """All troubles whose key begins with *prefix* are over, *but* those; says so of each that was told."""
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

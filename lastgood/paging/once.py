"""Telling a person once: a page, and where asked for a note in the audit trail, however often it is looked and whoever died meanwhile.

What does not belong here: how a page is delivered (`ops.paging`), and what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lastgood import context
from lastgood.system import plain

MOST = 1000
"""So many pages back it is looked whether somebody was told already."""


class Teller:
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

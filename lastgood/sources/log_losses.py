"""Rows missing from the logs of a service: lost while writing, or skipped while reading. Shown by `status`, and paged once.

What does not belong here: who counts them (`serving.segments`, `sources.inference`), how a page is delivered (`paging.delivery`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lastgood import context
from lastgood.paging import once
from lastgood.serving import losses
from lastgood.settings import Settings

CAUSES = {
    "disk": "were lost because the disk refused them; free some space there, and see 'lastgood doctor'",
    "unwritable": "were lost because their values did not fit a column; the worker's log says which",
    "unreadable": "cannot be read and are skipped; they are older than the checks that refuse such rows, and will be removed with the old log",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A number of rows lost from a log, for one cause of CAUSES; `why` is the latest reason."""

    log: str
    cause: str
    rows: int
    why: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        """One sentence, with the remedy."""
        return f"{self.rows:,} rows of the log of {self.log} {CAUSES[self.cause]}{f' ({self.why})' if self.why else ''}"


def missing(settings: Settings, service: str) -> list[Missing]:
    """The rows missing from the logs of *service*, by log and cause. Of several gates that skip the same rows, the highest count."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for one in losses.read(settings.inference(service)):
        for cause, rows in (("disk", one.lost - one.unwritable), ("unwritable", one.unwritable), ("unreadable", one.unreadable)):
            if rows > 0:
                known, why = found.get((one.log, cause), (0, ""))
                found[one.log, cause] = (max(known, rows) if cause == "unreadable" else known + rows, one.why or why)
    return [Missing(log=log, cause=cause, rows=rows, why=why) for (log, cause), (rows, why) in sorted(found.items())]


def page_losses(ctx: context.Context, service: str, *, now: float) -> None:
    """Page each cause once."""
    found = missing(ctx.settings, service)
    teller = once.Notifier(ctx, service) if found else None
    for one in found:
        if teller is not None:
            teller.once(f"log-{one.log}-{one.cause}", f"{service}: {one.text()}", severity="warning", body=one.to_json(), now=now)

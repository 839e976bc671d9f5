"""How a worker ends: it accepts nothing new, answers what it has for as long as a request may take, and only then is killed.

What was cut off by that is written down, since the receipt of the change was printed long before. Nothing here waits:
each pass asks how much is left, so a restarted controller continues where the last one stopped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood.core import arms
from lastgood.layers.infrastructure.local import in_flight
from lastgood.service import timeouts
from lastgood.system import files, processes

MARGIN_S = 10.0
"""Seconds beyond the time for a request until a worker is killed; for a worker without requests, the whole time until then."""
REMEMBERED = 20


def patience_s(*timeouts_s: float | None) -> float:
    """Seconds that a worker may take to end: the longest known time for a request plus the margin; if none is known, the maximum."""
    known = [seconds for seconds in timeouts_s if seconds is not None]
    return max(known, default=timeouts.LONGEST_S) + MARGIN_S


def left(workers: Path, record: processes.Record) -> in_flight.Left:
    """What a worker that was asked to end still has to answer, by its own report."""
    return in_flight.read(in_flight.file_of(workers.parent, record.pid))


def until(record: processes.Record) -> float:
    """The latest time at which the worker is killed, in Unix seconds."""
    return float(record.facts.get("asked", 0.0)) + float(record.facts.get("patience_s", MARGIN_S))


def is_overdue(record: processes.Record, has: in_flight.Left, *, now: float) -> bool:
    """Whether a worker that was asked to end is to be killed: its time is over, or it has no requests left and does not end."""
    idle = has.requests == 0 and now - float(record.facts.get("asked", 0.0)) >= MARGIN_S
    return idle or now >= until(record)


def forget(workers: Path, pid: int) -> None:
    """Remove the file left by an earlier process with this pid: it does not apply to the next one."""
    in_flight.file_of(workers.parent, pid).unlink(missing_ok=True)


def cut_off(workers: Path, record: processes.Record, *, now: float) -> dict[str, Any] | None:
    """Record what the worker, just killed, had not answered, and return it; None if it had answered everything."""
    has = left(workers, record)
    if has.requests == 0:
        return None
    entry = {
        "bundle": record.facts.get("bundle"),
        "arm": record.facts.get("arm"),
        "pid": record.pid,
        "revision": record.facts.get("left_at"),
        "at": now,
        "requests": has.requests,
    }
    with contextlib.suppress(OSError):
        known = [*cuts(workers), entry][-REMEMBERED:]
        files.write(_file(workers), json.dumps(known), kept="fast")
    return entry


def cuts(workers: Path) -> list[dict[str, Any]]:
    """The newest cuts, oldest first."""
    try:
        found = json.loads(_file(workers).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def leaving(workers: Path, records: Mapping[Path, processes.Record]) -> list[dict[str, Any]]:
    """What draining workers still have to answer, and their time limits; for the layer's facts."""
    return [
        {
            "bundle": record.facts.get("bundle"),
            "arm": record.facts.get("arm"),
            "pid": record.pid,
            "revision": record.facts.get("left_at"),
            "requests": left(workers, record).requests,
            "until": until(record),
        }
        for record in records.values()
    ]


def cut_off_sentence(cut: Mapping[str, Any]) -> str:
    """One cut in readable form."""
    number = cut["requests"]
    of = arms.label(str(cut.get("arm") or cut.get("bundle")))
    if number is None:
        return f"the worker of {of} was killed; the number of requests it left unanswered is unknown"
    return f"the worker of {of} was killed with {number} request{'' if number == 1 else 's'} unanswered"


def _file(workers: Path) -> Path:
    return workers / "cut-off.list"

"""Rows that a log has lost, or that could not be read from it: small files beside the log, for operators.

    <folder>/.losses/<who>.json     {"lost": 3, "unwritable": 3, "unreadable": 0, "why": …, "at": …}

A writer records the rows lost since it started, a reader the rows it skipped.

What does not belong here: who is notified (`sources.log_losses`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lastgood.system import files

FOLDER = ".losses"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Rows that one writer or reader of a log missed by Unix time `at`; `log` is the log's name."""

    log: str
    who: str
    lost: int = 0
    unwritable: int = 0
    unreadable: int = 0
    why: str = ""
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def record(folder: Path, who: str, *, lost: int = 0, unwritable: int = 0, unreadable: int = 0, why: str = "", now: float) -> bool:
    """Record what *who* missed of the log in *folder* by *now*, replacing its earlier record. False if the disk refuses."""
    value = {"lost": lost, "unwritable": unwritable, "unreadable": unreadable, "why": why[:500], "at": now}
    file = folder / FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]', '-', who)[:100]}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(value), kept="fast")
        os.utime(file, (now, now))
    except OSError:
        return False
    return True


def read(inference: Path) -> list[Loss]:
    """All losses of the logs in *inference* (`settings.inference(service)`); unreadable files are ignored."""
    return [loss for file in sorted(inference.glob(f"*/{FOLDER}/*.json")) for loss in _read(file)]


def _read(file: Path) -> Iterator[Loss]:
    try:
        value = json.loads(file.read_bytes())
        counts = {name: int(value[name]) for name in ("lost", "unwritable", "unreadable")}
        found = Loss(log=file.parent.parent.name, who=file.stem, why=str(value["why"]), at=float(value["at"]), **counts)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return
    if any(counts.values()):
        yield found


def forget(folder: Path, *, before: float) -> None:
    """Remove records from before Unix time *before* about the log in *folder*. Raises OSError."""
    for file in (folder / FOLDER).glob("*.json"):
        if file.stat().st_mtime < before:
            file.unlink(missing_ok=True)

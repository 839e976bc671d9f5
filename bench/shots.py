"""The records of a load, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import running


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request. Moments are Unix seconds; `status` 0 means that the connection broke; `revision` is 0 if none was named."""

    connection: int
    sent: float
    received: float
    status: int
    bundle: str
    revision: int
    body: str

    @property
    def value(self) -> dict[str, Any]:
        """The answer, parsed; empty if it is not a JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def read(file: Path) -> list[Shot]:
    """The requests in *file*, in the order in which they were answered."""
    lines = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    return [Shot(**{**line, "revision": int(line["revision"] or 0)}) for line in lines]


def failed(shots: Iterable[Shot]) -> list[Shot]:
    """Requests that got no answer, or another one than 200."""
    return [shot for shot in shots if shot.status != 200]


def mixed(shots: Iterable[Shot], releases: Mapping[str, running.Release]) -> list[Shot]:
    """Answers that are not wholly of the bundle that their header names: its id, model and config digests, and result."""
    return [shot for shot in shots if shot.status == 200 and not (shot.bundle in releases and releases[shot.bundle].made(shot.value))]


def went_back(shots: Iterable[Shot]) -> int:
    """How often a connection got an answer under an older revision than the answer before it."""
    newest: dict[int, int] = {}
    count = 0
    for shot in shots:
        if shot.status == 200:
            count += shot.revision < newest.get(shot.connection, 0)
            newest[shot.connection] = max(newest.get(shot.connection, 0), shot.revision)
    return count


def last_under(shots: Sequence[Shot], *, before_revision: int) -> tuple[float, float]:
    """When the last request was sent, and the last one answered, under a revision older than *before_revision*."""
    old = [shot for shot in shots if shot.status == 200 and shot.revision < before_revision]
    return max(shot.sent for shot in old), max(shot.received for shot in old)

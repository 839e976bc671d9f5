"""Requests that a worker is answering now; while it drains, also in a file that outlives it.

The process that finally kills a worker reads there how many requests were unanswered. A worker that was killed before it could
write leaves no file; the number is then unknown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from lastgood.system import files


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """How many requests of users, and how many mirrored copies, are unanswered. None: unknown."""

    requests: int | None = None
    copies: int | None = None


class InFlight:
    """Counts requests; used in the event loop's thread, and by a signal handler that interrupts it."""

    def __init__(self) -> None:
        self._requests = self._copies = 0
        self._file: Path | None = None

    @property
    def now(self) -> Left:
        return Left(self._requests, self._copies)

    def begin(self, *, copy: bool) -> None:
        self._add(1, copy=copy)

    def end(self, *, copy: bool) -> None:
        self._add(-1, copy=copy)

    def write_to(self, file: Path) -> None:
        """From now on, write the number of remaining requests to *file*."""
        self._file = file
        self._write(file)

    def _add(self, more: int, *, copy: bool) -> None:
        if copy:
            self._copies += more
        else:
            self._requests += more
        if self._file is not None:
            self._write(self._file)

    def _write(self, file: Path) -> None:
        """A stale number is worse than none, so a file that cannot be rewritten is deleted."""
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(file, json.dumps(dataclasses.asdict(self.now)), kept="fast")
        except OSError:
            with contextlib.suppress(OSError):
                file.unlink()


def file_of(run: Path, pid: int) -> Path:
    """Where worker *pid* of the service with the folder *run* writes its remaining requests."""
    return run / "workers" / "draining" / f"{pid}.json"


def read(file: Path) -> Left:
    """The content of *file*; unknown if it does not exist or cannot be read."""
    try:
        value = json.loads(file.read_text("utf-8"))
        return Left(int(value["requests"]), int(value["copies"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Left()

"""What the workers layer remembers between two passes: failed attempts, draining workers.

One JSON file per service, read and written under the layer's lock. It is safe to lose: back-off then starts from the beginning.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lastgood.system import files

FIRST_PAUSE_S = 0.5


@dataclasses.dataclass(slots=True, kw_only=True)
class Note:
    """One bundle's worker. Times are Unix seconds. `started` means that it has been started at least once.

    `failures` counts consecutive failed attempts, `restarts` all starts after the first. `begun` is when the current attempt began,
    None if there is none; `left` when the bundle left the set that must be warm. `oom_kills` counts consecutive workers that ran out
    of memory; like `failures` it survives the restart that follows each of them, and is reset only by a steady minute.
    """

    started: bool = False
    failures: int = 0
    restarts: int = 0
    oom_kills: int = 0
    not_before: float = 0.0
    begun: float | None = None
    left: float | None = None
    last_exit: int | None = None
    trouble: str = ""
    log_from: int = 0

    def failed(self, trouble: str, *, now: float, longest_s: float, jitter: float) -> None:
        """Record a failed attempt. The next one is due at once after the first failure, then with growing delays.

        *jitter* is a random number in [0, 1): workers that died of one cause do not restart in step.
        """
        self.failures += 1
        self.trouble = trouble
        self.begun = None
        pause = min(longest_s, FIRST_PAUSE_S * 2.0 ** min(self.failures - 2, 30)) if self.failures > 1 else 0.0
        self.not_before = now + pause * (0.5 + jitter / 2)

    def waiting_since(self, last_ready: float, *, now: float) -> float:
        """Since when the worker is not ready: its start, or when it was last seen ready if that is later."""
        return max(now if self.begun is None else self.begun, last_ready)

    def forgive(self, last_ready: float, *, steady_s: float) -> None:
        """Reset failed attempts and out-of-memory kills once the current worker has been ready for *steady_s*."""
        if self.begun is not None and last_ready - self.begun >= steady_s:
            self.failures, self.oom_kills, self.trouble = 0, 0, ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Notes:
    """All workers of one service: `revision` is the newest ledger revision that was taken over."""

    revision: int | None = None
    bundles: dict[str, Note] = dataclasses.field(default_factory=dict)

    def of(self, bundle: str) -> Note:
        return self.bundles.setdefault(bundle, Note())


def load(path: Path) -> Notes:
    """The notes in *path*, empty if there are none or they cannot be parsed. Raises OSError if the disk fails."""
    try:
        value: Any = json.loads(path.read_text("utf-8"))
        return Notes(revision=value["revision"], bundles={d: Note(**note) for d, note in value["bundles"].items()})
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Notes()


def save(path: Path, notes: Notes) -> None:
    """Replace the notes atomically. Raises OSError."""
    files.write(path, json.dumps(dataclasses.asdict(notes)), kept="fast")

"""Heartbeats of the controller: a process that exists is not necessarily working.

Once a second the controller writes the machine's own running time to a small file of fixed size, which needs no space on a full
disk. That time stands still while a laptop sleeps and is unaffected by clock changes, so neither is mistaken for a frozen
controller.

What does not belong here: starting and replacing it (`ops.local_stack`), heartbeats of a host in the ledger (`readiness`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lastgood.settings import Settings
from lastgood.system import processes

FROZEN_S = 20.0
"""Seconds without a heartbeat after which the controller counts as frozen; a slow ledger delays one iteration by some seconds."""
EVERY_S = 1.0
_SIZE = 4096


def record_path(settings: Settings) -> Path:
    """The record of the controller's process."""
    return settings.home / "run" / "controller.json"


def _file(settings: Settings) -> Path:
    return settings.home / "run" / "controller.alive"


class Pulse:
    """The controller's own heartbeat. On a disk that cannot be written it writes none, and is not taken for frozen because of that."""

    def __init__(self, settings: Settings) -> None:
        self._handle: int | None = None
        self._own = processes.current()
        self._at = -math.inf
        with contextlib.suppress(OSError):
            path = _file(settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.beat({})

    def beat(self, overdue: Mapping[str, float]) -> None:
        """Record a heartbeat, at most once a second; *overdue* maps threads by name to the seconds since their last iteration."""
        now = time.monotonic()
        if self._handle is None or now - self._at < EVERY_S:
            return
        said = {"pid": self._own.pid, "started": self._own.started, "at": now, "overdue": dict(sorted(overdue.items())[:20])}
        line = json.dumps(said).encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, line.ljust(_SIZE)[:_SIZE], 0)
        self._at = now

    def end(self) -> None:
        """The controller ends normally; nothing is left that could look frozen."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ControllerHealth:
    """The controller's process.

    `silent_s` are the seconds since its last heartbeat, None if it gives none; `overdue` maps its overdue threads to the seconds since
    their last iteration.
    """

    record: processes.Record
    silent_s: float | None = None
    stopped: bool = False
    overdue: Mapping[str, float] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def frozen(self) -> bool:
        return self.stopped or (self.silent_s is not None and self.silent_s > FROZEN_S)

    @property
    def trouble(self) -> str:
        """What is wrong with it, and what to do; empty if nothing is."""
        if self.frozen:
            silent = f"no heartbeat for {self.silent_s:.0f} s" if self.silent_s is not None else "it is not running"
            how = f"{silent}, stopped by a signal" if self.stopped else silent
            return f"frozen: {how}; nothing is decided or repaired; run 'lastgood up' to replace it"
        if self.overdue:
            which = ", ".join(f"{name} ({seconds:.0f} s)" for name, seconds in self.overdue.items())
            return f"some of its threads hang: {which}; end it with 'kill {self.record.pid}' and run 'lastgood up'"
        return ""


def controller_health(settings: Settings) -> ControllerHealth | None:
    """The controller's process and its heartbeats; None if none runs."""
    record = processes.find_running(record_path(settings))
    if record is None:
        return None
    stopped = processes.stopped(record)
    try:
        said = json.loads(_file(settings).read_bytes())
        if (said["pid"], said["started"]) != (record.pid, record.started):
            return ControllerHealth(record=record, stopped=stopped)
        overdue = {str(name): float(seconds) for name, seconds in said["overdue"].items()}
        return ControllerHealth(record=record, silent_s=max(0.0, time.monotonic() - float(said["at"])), stopped=stopped, overdue=overdue)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ControllerHealth(record=record, stopped=stopped)

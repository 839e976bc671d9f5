"""Unix time that does not jump: the machine's clock, unless it was set by more than a minute since the last reading.

Rules compare times that several processes recorded: a phase's minimum duration, a pause after a failure, how long logs are kept.
A clock set a year ahead must not end a phase, and one set back must not keep anybody waiting. So each process continues by the time
that has really passed (the kernel's count since boot), and a note in the home folder lets the next process of the same boot do the
same. `skew_s` is then the error of the machine's clock; an operator who finds it right after all accepts it with `lastgood up`.

Times that other programs on this machine recorded by the machine's clock (the times of files, Envoy's logs) are corrected by
`of_machine`.

Across a boot of the machine it is unknown how long it was off, or whether its clock is right now. So the time between the last
note before it and the first reading after it is not counted where a rule requires a minimum duration (`unwatched_s`). Between
machines the rules use absolute differences (`ledger`, `analysis.policy`).

What does not belong here: durations within one process (`time.monotonic`), the order of revisions (`ledger`).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from lastgood.system import files

MAX_SKEW_S = 60.0
"""Seconds by which a clock may be set at once and is simply followed, as by a leap second or a first contact with a time server."""
NOTE_EVERY_S = 60.0
NOTE = "clock.json"
GAPS = 20
"""Number of boots of the machine that are remembered."""

Gap = tuple[float, float]
"""A period, in Unix seconds, in which no process was watching."""


class Clock:
    """One process's view of the time. `reading` is the machine's clock, `counting` the seconds since boot."""

    def __init__(self, *, reading: Any = None, counting: Any = None, boot: str | None = None) -> None:
        self._reading = reading or time.time
        self._counting = counting or _since_boot
        self._boot = _boot_id() if boot is None else boot
        self._lock = threading.Lock()
        self._base: float | None = None
        self._skew_s = 0.0
        self._note: Path | None = None
        self._noted_at = float("-inf")
        self._gaps: tuple[Gap, ...] = ()

    def now(self) -> float:
        """Unix time in seconds, common to all processes on this machine."""
        with self._lock:
            found = self._look()
            if self._note is not None and self._counting() - self._noted_at >= NOTE_EVERY_S:
                self._follow_note()
                found = self._look()
            return found

    def skew_s(self) -> float:
        """By how many seconds the machine's clock is ahead of `now`; 0 unless it was set by more than `MAX_SKEW_S`."""
        self.now()
        return self._skew_s

    def unwatched_s(self, since: float) -> float:
        """Seconds between *since* and now that may not have passed: the machine was off, or its clock has been wrong since."""
        now = self.now()
        return sum(max(0.0, min(end, now) - max(begin, since)) for begin, end in self._gaps)

    def of_machine(self, stamp: float) -> float:
        """The Unix time *stamp* of a file or of another program's log on the scale of `now`, corrected if the clock was set before it.

        Which applies is decided by which of the two current readings it is nearer to.
        """
        now = self.now()
        skew_s = self._skew_s
        return stamp - skew_s if abs(stamp - now - skew_s) < abs(stamp - now) else stamp

    def anchor(self, home: Path) -> None:
        """Adopt the time of earlier processes of *home*, if the machine has not been rebooted since."""
        with self._lock:
            self._note = home / "run" / NOTE
            self._follow_note()

    def look(self, home: Path) -> None:
        """Like `anchor`, but leaves no note."""
        with self._lock:
            note = self._note or home / "run" / NOTE
            noted = _read_note(note)
            if noted is not None and noted.boot == self._boot:
                self._base, self._gaps = noted.base, noted.gaps
            self._look()

    def accept(self, home: Path) -> float:
        """Accept the machine's clock as it is from now on, for all processes of *home*; returns its error so far, in seconds."""
        with self._lock:
            self._note = home / "run" / NOTE
            self._follow_note()
            self._look()
            skew_s, self._skew_s = self._skew_s, 0.0
            self._base = self._reading() - self._counting()
            self._write_note()
            return skew_s

    def _look(self) -> float:
        wall, count = self._reading(), self._counting()
        if self._base is None:
            self._base = wall - count
        ahead = wall - (count + self._base)
        if abs(ahead) <= MAX_SKEW_S:
            self._base, self._skew_s = wall - count, 0.0
            return float(wall)
        self._skew_s = ahead
        return float(count + self._base)

    def _follow_note(self) -> None:
        """Adopt the time of the other processes; leave a note if there is none of this boot."""
        self._noted_at = self._counting()
        noted = _read_note(self._note) if self._note else None
        ours = noted is not None and noted.boot == self._boot
        if noted is not None and ours:
            self._base = noted.base
        now = self._look()
        if noted is not None:
            begun = () if ours or noted.at is None or now <= noted.at else ((noted.at, now),)
            self._gaps = (*noted.gaps, *begun)[-GAPS:]
            # A clock that runs slightly fast or slow gradually departs from the note.
        if noted is None or not ours or noted.at is None or abs(now - noted.at) >= NOTE_EVERY_S or self._drifted(noted.base):
            self._write_note()

    def _drifted(self, noted: float) -> bool:
        return not self._skew_s and abs((self._base or 0.0) - noted) > MAX_SKEW_S / 4

    def _write_note(self) -> None:
        """Safe to lose, so it is not synced, and a full disk changes nothing."""
        if self._note is None or not self._boot or not self._note.parent.parent.is_dir():
            return
        with contextlib.suppress(OSError):
            self._note.parent.mkdir(mode=0o700, exist_ok=True)
            said = {"boot": self._boot, "base": self._base, "at": self._look(), "gaps": self._gaps}
            files.write(self._note, json.dumps(said), kept="fast")


class _Note(NamedTuple):
    """The time base of a home's processes: Unix time at the machine's boot `boot`, when that was noted, and the unwatched periods."""

    boot: str
    base: float
    at: float | None
    gaps: tuple[Gap, ...]


def _read_note(note: Path) -> _Note | None:
    """None if there is none, or it cannot be read. One left by an earlier release does not record when it was written."""
    try:
        value = json.loads(note.read_text("utf-8"))
        at = float(value["at"]) if "at" in value else None
        gaps = tuple((float(begin), float(end)) for begin, end in value.get("gaps", ()))
        return _Note(str(value["boot"]), float(value["base"]), at, gaps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _since_boot() -> float:
    """Seconds since the machine started, sleep included; the same for all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot_id() -> str:
    """Identifies the boot that the count starts at; empty if unknown, so that no note is left."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


_clock = Clock()
now = _clock.now
skew_s = _clock.skew_s
of_machine = _clock.of_machine
unwatched_s = _clock.unwatched_s
anchor = _clock.anchor
look = _clock.look
accept = _clock.accept

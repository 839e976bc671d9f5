"""One pass over the workers of a service: what exists, what is due now, what to remember."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.infrastructure.local import drain, readiness, sockets, worker_files
from lastgood.layers.infrastructure.local import worker_state as notes_
from lastgood.system import permissions, processes

STEADY_S = 60.0
"""A worker that has lived and been ready this long has its earlier failed attempts cleared."""

OUT_OF_MEMORY = (-9, 137)
"""How a worker that ran out of memory ends: killed by the kernel, since we kill none that is on record here; or by itself
(`lastgood.serving.worker`), with the status that a container gives a killed process."""

Command = Callable[[str, Path], list[str]]
"""(bundle digest, socket) -> argv of a worker."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How workers are started, and how long an unwanted one is kept, in seconds."""

    command: Command
    environment: Mapping[str, str]
    drain_s: float
    backoff_max_s: float


class Step:
    """One pass under the lock: observe everything, do what is due now, record it."""

    def __init__(self, where: worker_files.Folder, rules: Rules, desired: base.Desired, *, now: float) -> None:
        self._where = where
        self._rules = rules
        self._desired = desired
        self._now = now

    def run(self, *, thorough: bool) -> dict[str, notes_.Note]:
        """The wanted arms that are not ready after this pass; empty if a newer revision was taken over meanwhile.

        A *thorough* pass also looks for workers whose record was lost.
        """
        self._all = notes_.load(self._where.notes)
        if self._all.revision is not None and self._all.revision > self._desired.revision:
            return {}
        self._all.revision = self._desired.revision
        if thorough:
            for arm in self._where.adopt():
                self._all.of(arm).started = True
        try:
            return self._look_after_all()
        finally:
            notes_.save(self._where.notes, self._all)

    def _look_after_all(self) -> dict[str, notes_.Note]:
        live = self._where.recorded()
        answers = readiness.check_workers(live)
        ready = {arm for arm in live if answers[arm].ready(arms.bundle_of(arm))}
        for arm in self._desired.warm:
            note = self._all.of(arm)
            note.left = None
            note.forgive(self._where.last_ready(arm), steady_s=STEADY_S)
            if arm in ready:
                self._where.saw_ready(arm, now=self._now)
            elif arm in live:
                self._is_not_ready(arm, live[arm], answers[arm])
            else:
                self._is_missing(arm)
        self._drain({d: r for d, r in live.items() if d not in self._desired.warm}, ready, answers)
        self._where.finish_retired(now=self._now)
        return {arm: self._all.of(arm) for arm in self._desired.warm if arm not in ready}

    def _is_not_ready(self, arm: str, record: processes.Record, answer: readiness.ReadyzAnswer) -> None:
        note = self._all.of(arm)
        note.begun = self._now if note.begun is None else note.begun
        limit = self._desired.service.serving.ready_timeout_s
        if processes.stopped(record):
            self._where.end(arm, record, now=self._now, revision=self._desired.revision)  # it would not react to a request to end
            self._failed(note, "was stopped by a signal and did not answer; it was ended")
        elif self._unreachable(arm, record):
            self._retire(arm, record, answer)
            self._failed(note, "is running, but its socket is gone; it was ended")
        elif answer.wrong(arms.bundle_of(arm)):
            self._retire(arm, record, answer)
            self._failed(note, f"reports that it serves {manifest.short(answer.bundle or '')!r}; it was ended")
        elif self._now - note.waiting_since(self._where.last_ready(arm), now=self._now) >= limit:
            self._retire(arm, record, answer)
            self._failed(note, f"was not ready within {limit:g} s{self._last_words(arm, note)}")

    def _unreachable(self, arm: str, record: processes.Record) -> bool:
        """Whether a worker that was ready has lost its socket, as happens when temporary folders are cleaned up."""
        path = worker_files.endpoint(record).path
        gone = bool(path) and not (Path(path).exists() and permissions.is_own_folder(Path(path).parent))
        return gone and self._where.last_ready(arm) > 0

    def _is_missing(self, arm: str) -> None:
        note = self._all.of(arm)
        path = self._where.record(arm)
        dead = processes.read(path)
        if dead is not None:
            note.last_exit = processes.reap(dead)
            note.oom_kills += note.last_exit in OUT_OF_MEMORY
            self._failed(note, f"{_ended(note.last_exit)}{self._last_words(arm, note)}")
            path.unlink()
        if self._now >= note.not_before:
            self._start(arm, note)

    def _start(self, arm: str, note: notes_.Note) -> None:
        note.restarts += 1 if note.started else 0
        note.started = True
        note.begun = self._now
        log = self._where.log(arm)
        note.log_from = worker_files.turn_log(log)
        try:
            socket = sockets.path(self._where.sockets, arm)
            processes.start(
                self._rules.command(arms.bundle_of(arm), socket),
                record=self._where.record(arm),
                log=log,
                env=self._rules.environment,
                facts=worker_files.facts(arm, socket=socket),
            )
        except errors.Unavailable as error:
            self._failed(note, f"could not be started: {error}")

    def _failed(self, note: notes_.Note, trouble: str) -> None:
        note.failed(trouble, now=self._now, longest_s=self._rules.backoff_max_s, jitter=secrets.randbelow(1000) / 1000)

    def _last_words(self, arm: str, note: notes_.Note) -> str:
        line = worker_files.last_error(self._where.log(arm), since=note.log_from)
        return f": {line}" if line else ""

    def _retire(self, arm: str, record: processes.Record, answer: readiness.ReadyzAnswer) -> None:
        """Ask the worker to end. Its requests were given the time in its own settings or, since then, in stable's."""
        timeouts = self._desired.service.traffic.timeout_s, answer.timeout_s
        self._where.retire(arm, record, now=self._now, patience_s=drain.patience_s(*timeouts), revision=self._desired.revision)

    def _drain(self, leaving: Mapping[str, processes.Record], ready: set[str], answers: Mapping[str, readiness.ReadyzAnswer]) -> None:
        """Ask unwanted workers whose traffic has moved to end, but keep the last ready one in case stable is broken."""
        stable = self._desired.stable
        for arm, record in leaving.items():
            note = self._all.of(arm)
            note.left = self._now if note.left is None else note.left
            last = arm in ready and len(ready) == 1
            if self._now - note.left >= self._rules.drain_s and not (last and stable is not None):
                self._retire(arm, record, answers[arm])
                ready.discard(arm)
                del self._all.bundles[arm]
        for arm in [d for d in self._all.bundles if d not in self._desired.warm and d not in leaving]:
            self._where.forget(arm)
            del self._all.bundles[arm]


def _ended(status: int | None) -> str:
    if status is None:
        return "ended"
    if status == -9:
        return "was killed (signal 9; if no person did it, it ran out of memory)"
    if status in OUT_OF_MEMORY:
        return f"ran out of memory (exit status {status})"
    return f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"

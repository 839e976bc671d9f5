"""One round of looking after the workers of a service: what is there, what is due now, what to remember."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping

from lastgood import bundle as bundles
from lastgood import daemon, errors
from lastgood.layers import base
from lastgood.layers.infrastructure import folder, readiness
from lastgood.layers.infrastructure import notes as notes_

STEADY_S = 60.0
"""A worker that has lived and been ready this long has its earlier failed attempts forgotten."""

OUT_OF_MEMORY = (-9, 137)
"""How a worker ends that has run out of memory: killed by the kernel, for we kill none that is on record here; or by itself
(`lastgood.serving.worker`), with the status that a container gives a killed process."""

Command = Callable[[str, str, int], list[str]]
"""(bundle digest, host, port) -> argv of a worker."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How workers are started and for how long an unwanted one is kept, in seconds."""

    command: Command
    environment: Mapping[str, str]
    drain_s: float
    backoff_max_s: float


class Step:
    """One round under the lock: look at everything, do what is due now, remember it."""

    def __init__(self, where: folder.Folder, rules: Rules, desired: base.Desired, *, now: float) -> None:
        self._where = where
        self._rules = rules
        self._desired = desired
        self._now = now

    def run(self, *, thorough: bool) -> dict[str, notes_.Note]:
        """The wanted bundles that are not ready after this round; empty if a newer revision was taken over meanwhile.

        A *thorough* round also looks for workers whose record was lost.
        """
        self._all = notes_.load(self._where.notes)
        if self._all.revision is not None and self._all.revision > self._desired.revision:
            return {}
        self._all.revision = self._desired.revision
        if thorough:
            for digest, record in self._where.adopt().items():
                self._all.of(digest).port = record.facts["port"]
        try:
            return self._look_after_all()
        finally:
            notes_.save(self._where.notes, self._all)

    def _look_after_all(self) -> dict[str, notes_.Note]:
        live = self._where.recorded()
        answers = readiness.check_all({digest: folder.endpoint(record) for digest, record in live.items()})
        ready = {digest for digest in live if answers[digest].ready(digest)}
        for digest in self._desired.warm:
            note = self._all.of(digest)
            note.left = None
            note.forgive(self._where.last_ready(digest), steady_s=STEADY_S)
            if digest in ready:
                self._where.saw_ready(digest, now=self._now)
            elif digest in live:
                self._is_not_ready(digest, live[digest], answers[digest])
            else:
                self._is_missing(digest)
        self._drain({d: r for d, r in live.items() if d not in self._desired.warm}, ready)
        self._where.finish_retired(now=self._now)
        return {digest: self._all.of(digest) for digest in self._desired.warm if digest not in ready}

    def _is_not_ready(self, digest: str, record: daemon.Record, answer: readiness.Answer) -> None:
        note = self._all.of(digest)
        note.begun = self._now if note.begun is None else note.begun
        limit = self._desired.service.serving.ready_timeout_s
        if answer.wrong(digest):
            self._where.retire(digest, record, now=self._now)
            self._failed(note, f"says that it serves {bundles.short(answer.bundle or '')!r}; it was stopped")
        elif self._now - note.waiting_since(self._where.last_ready(digest), now=self._now) >= limit:
            self._where.retire(digest, record, now=self._now)
            self._failed(note, f"was not ready within {limit:g} s{self._last_words(digest, note)}")

    def _is_missing(self, digest: str) -> None:
        note = self._all.of(digest)
        path = self._where.record(digest)
        dead = daemon.read(path)
        if dead is not None:
            note.last_exit = daemon.reap(dead)
            note.oom_kills += note.last_exit in OUT_OF_MEMORY
            self._failed(note, f"{_ended(note.last_exit)}{self._last_words(digest, note)}")
            path.unlink()
        if self._now >= note.not_before:
            self._start(digest, note)

    def _start(self, digest: str, note: notes_.Note) -> None:
        taken = {other.port for d, other in self._all.bundles.items() if d != digest and other.port}
        note.restarts += 1 if note.port is not None else 0
        note.port = notes_.choose_port(note.port, taken={*taken, self._desired.service.traffic.port})
        note.begun = self._now
        log = self._where.log(digest)
        note.log_from = folder.turn_log(log)
        try:
            daemon.start(
                self._rules.command(digest, notes_.HOST, note.port),
                record=self._where.record(digest),
                log=log,
                env=self._rules.environment,
                facts={"bundle": digest, "host": notes_.HOST, "port": note.port},
            )
        except errors.Unavailable as error:
            self._failed(note, f"could not be started: {error}")

    def _failed(self, note: notes_.Note, trouble: str) -> None:
        note.failed(trouble, now=self._now, longest_s=self._rules.backoff_max_s, jitter=secrets.randbelow(1000) / 1000)

    def _last_words(self, digest: str, note: notes_.Note) -> str:
        line = folder.last_error(self._where.log(digest), since=note.log_from)
        return f": {line}" if line else ""

    def _drain(self, leaving: Mapping[str, daemon.Record], ready: set[str]) -> None:
        """Stop workers that nobody wants any more once their time is over, keeping the last ready one for a broken stable."""
        stable = self._desired.stable
        for digest, record in leaving.items():
            note = self._all.of(digest)
            note.left = self._now if note.left is None else note.left
            last = digest in ready and len(ready) == 1
            if self._now - note.left >= self._rules.drain_s and not (last and stable is not None):
                self._where.retire(digest, record, now=self._now)
                ready.discard(digest)
                del self._all.bundles[digest]
        for digest in [d for d in self._all.bundles if d not in self._desired.warm and d not in leaving]:
            self._where.forget(digest)
            del self._all.bundles[digest]


def _ended(status: int | None) -> str:
    if status is None:
        return "ended"
    if status == -9:
        return "was killed (signal 9; if nobody did it, it ran out of memory)"
    if status in OUT_OF_MEMORY:
        return f"ran out of memory (exit status {status})"
    return f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"

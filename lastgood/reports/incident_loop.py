"""Incident records, written by a reader of the ledger for every rollback, whoever committed it and whether or not a reader was running.

The ledger determines which rollouts were taken back and which records exist. A process that dies between a rollback and its
record loses nothing: the next reader finds it.

What does not belong here: the contents of a record (`incident`), measuring and deciding (`controller`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from lastgood import errors, ledger, release
from lastgood.reports import incident, rollouts
from lastgood.settings import Settings
from lastgood.system import clock as system_clock

log = logging.getLogger("lastgood.incident")

BACK = 200
"""Number of a service's newest revisions that a newly started reader searches for rollbacks without a record."""
RECEIPT_S = 30.0
"""Seconds after a rollback for which its record waits for the note on how long the traffic took to move."""
AGAIN_S = 30.0
"""Seconds before a failed write of a record is retried."""
LEASE, LEASE_S = "incidents", 300.0
"""Of several readers on one ledger only one writes; another takes over after this many seconds."""


class IncidentLoop(threading.Thread):
    """Checks every *every_s* seconds for rollouts that were taken back and writes their records; runs until `end` is called."""

    def __init__(self, settings: Settings, *, every_s: float = 1.0, clock: Callable[[], float] = system_clock.now) -> None:
        super().__init__(name="incidents", daemon=True)
        self._settings = settings
        self._every_s = every_s
        self._clock = clock
        self._stopped = threading.Event()
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{id(self)}"
        self._seen: dict[str, int] = {}
        self._waiting: dict[str, set[int]] = {}
        self._again_at = float("-inf")
        self.turned_at = time.monotonic()
        self.due_s = LEASE_S

    @property
    def threads(self) -> Sequence[IncidentLoop]:
        """Itself alone."""
        return (self,)

    def end(self, wait_s: float = 0.0) -> None:
        """Stop at the next iteration; waits up to *wait_s* seconds for it. Records not written yet are found by the next reader."""
        self._stopped.set()
        if self.is_alive():
            self.join(wait_s)

    def run(self) -> None:
        said = ""
        while not self._stopped.is_set():
            trouble = ""
            try:
                with release.open_context(self._settings, create=False) as ctx:
                    self._turns(ctx)
            except errors.LastgoodError as error:
                trouble = str(error)
            except Exception:
                log.exception("%s: unexpected fault; the next look goes on", self.name)
            if trouble and trouble != said:
                log.warning("%s: %s", self.name, trouble)
            said = trouble
            self._stopped.wait(self._every_s)

    def _turns(self, ctx: release.Context) -> None:
        while not self._stopped.is_set():
            self.turned_at = time.monotonic()
            self.turn(ctx)
            self._stopped.wait(self._every_s)
        with contextlib.suppress(errors.LastgoodError):
            ctx.ledger.give_up_lease(LEASE, holder=self._holder)

    def turn(self, ctx: release.Context) -> None:
        """One pass over every service. A record that cannot be written is logged and retried later."""
        for service in ctx.ledger.services():
            self._find(ctx, service)
        if not any(self._waiting.values()) or time.monotonic() < self._again_at:
            return
        if not ctx.ledger.lease(LEASE, holder=self._holder, now=self._clock(), ttl_s=LEASE_S):
            return
        for service, waiting in self._waiting.items():
            for number in sorted(waiting):
                self.turned_at = time.monotonic()
                if self._done(ctx, service, number):
                    waiting.discard(number)

    def _find(self, ctx: release.Context, service: str) -> None:
        """Note the rollbacks among the revisions since the last pass."""
        newest = ctx.ledger.newest(service)
        seen = self._seen.get(service, max(newest - BACK, 0))
        if newest > seen:
            new = ctx.ledger.history(service, limit=newest - seen)
            back = {revision.number for revision in new if revision.number > seen and revision.verb in release.WAYS_BACK}
            self._waiting.setdefault(service, set()).update(back)
        self._seen[service] = newest

    def _done(self, ctx: release.Context, service: str, number: int) -> bool:
        """Whether nothing is left to do for the rollback by revision *number*."""
        try:
            rollout = rollouts.rollout_ended_by(ctx.ledger, service, number)
            if rollout is None:
                return True
            if not self._due(ctx, rollouts.find(ctx.ledger, service, rollout)):
                return False
            incident.close(ctx, service, number, clock=self._clock)
        except errors.LastgoodError as error:
            log.warning("%s: the incident record is missing: %s", service, error)
            self._again_at = time.monotonic() + AGAIN_S
            return False
        return True

    def _due(self, ctx: release.Context, found: rollouts.Rollout) -> bool:
        """Whether all that the record needs is known: the result of the rollback, and how long the traffic took to move."""
        if found.ending is None or not incident.over(ctx.ledger, found):
            return False
        return abs(self._clock() - found.ending.at) >= RECEIPT_S or _receipted(ctx.ledger, found.ending)


def _receipted(book: ledger.Ledger, revision: ledger.Revision) -> bool:
    return any(note["revision"] == revision.number for note in book.notes(revision.service, kind="receipt"))

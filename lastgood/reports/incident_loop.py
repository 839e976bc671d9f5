"""Incident records, written by a reader of the ledger: of every rollback, whoever committed it, also while nobody was looking.

It is the ledger that says which rollouts were taken back and which records there are, so whoever dies between a rollback and its
record loses nothing: the next reader finds it.

What does not belong here: what a record says (`incident`), measuring and deciding (`controller`).
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
"""Newest revisions of a service in which a reader that has just started looks for rollbacks without a record."""
RECEIPT_S = 30.0
"""Seconds after a rollback for which its record waits for the note of how long the traffic took."""
AGAIN_S = 30.0
"""Seconds until a record that could not be written is tried again."""
LEASE, LEASE_S = "incidents", 300.0
"""Of several readers on one ledger one writes; another takes over after so many seconds."""


class IncidentLoop(threading.Thread):
    """Looks every *every_s* seconds for rollouts that were taken back, and writes their records; nothing ends it but `end`."""

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
        """Stop at the next turn; waits up to *wait_s* seconds for it. What is not written yet is found by the next reader."""
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
        """One look at every service. A record that cannot be written is told in the log and tried again later."""
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
        """Note the rollbacks among the revisions since the last look."""
        newest = ctx.ledger.newest(service)
        seen = self._seen.get(service, max(newest - BACK, 0))
        if newest > seen:
            new = ctx.ledger.history(service, limit=newest - seen)
            back = {revision.number for revision in new if revision.number > seen and revision.verb in release.WAYS_BACK}
            self._waiting.setdefault(service, set()).update(back)
        self._seen[service] = newest

    def _done(self, ctx: release.Context, service: str, number: int) -> bool:
        """Whether nothing is left to do about the rollback by revision *number*."""
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
        """Whether everything is known that the record says: what came of the rollback, and how long the traffic took."""
        if found.ending is None or not incident.over(ctx.ledger, found):
            return False
        return abs(self._clock() - found.ending.at) >= RECEIPT_S or _receipted(ctx.ledger, found.ending)


def _receipted(book: ledger.Ledger, revision: ledger.Revision) -> bool:
    return any(note["revision"] == revision.number for note in book.notes(revision.service, kind="receipt"))

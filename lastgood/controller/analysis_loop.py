"""The thread that measures one service and acts on its gates, with a ledger connection of its own.

It never touches a layer: it measures, decides and commits; the controller makes the layers follow. Only the holder of the
service's lease measures and decides, based on the readiness that all hosts report in the ledger, and each commit proves the lease.

What does not belong here: what is measured (`analysis.run`), what a verdict leads to (`analysis.policy`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection

from lastgood import errors, release
from lastgood.analysis import run as analysis_run
from lastgood.core.state import State
from lastgood.hosts import lease, readiness
from lastgood.release import advance
from lastgood.settings import Settings
from lastgood.sources import catalog
from lastgood.system import clock

log = logging.getLogger("lastgood.gatekeeper")

ACTOR = "lastgood-controller"

FORGET_EVERY_S = 3600.0
FORGET_AT_MOST = 10_000
"""Rows; more than accumulate in the meantime, and deleted within a second or two."""

Moved = Callable[[release.Context, release.Committed], None]


class Gatekeeper(threading.Thread):
    """Looks at one service repeatedly, every second while a release is in progress.

    *moved* is called after each commit with the ledger that was written, so that the layers follow at once.
    """

    def __init__(self, settings: Settings, service: str, *, holder: str, moved: Moved) -> None:
        super().__init__(name=f"{service}/gates", daemon=True)
        self._settings = settings
        self._service = service
        self._holder = holder
        self._moved = moved
        self._stop = threading.Event()
        self._forgot_at = float("-inf")
        self.turned_at = time.monotonic()
        limits = settings.controller
        self.due_s = max(limits.measure_s, limits.watch_s) + limits.layer_timeout_s
        """The next turn is due within this many seconds."""

    def end(self) -> None:
        """Stop at the next turn."""
        self._stop.set()

    def run(self) -> None:
        while not self._stop.is_set():
            self.turned_at = time.monotonic()
            try:
                with release.open_context(self._settings, create=False) as ctx:
                    self._turns(ctx)
            except errors.LastgoodError as error:
                log.warning("%s: the ledger cannot be opened: %s", self.name, error)
                self._stop.wait(self._settings.controller.measure_s)

    def _turns(self, ctx: release.Context) -> None:
        with contextlib.closing(catalog.Sources(ctx.settings, self._service)) as sources:
            bench = analysis_run.RunningAnalyses(ctx.ledger, self._service, sources)
            while not self._stop.is_set():
                began = self.turned_at = time.monotonic()
                pause_s = self._turn(ctx, bench)
                self._stop.wait(max(0.05, pause_s - (time.monotonic() - began)))
            with contextlib.suppress(errors.LastgoodError):
                ctx.ledger.give_up_lease(lease.lease_name(self._service), holder=self._holder)

    def _turn(self, ctx: release.Context, bench: analysis_run.RunningAnalyses) -> float:
        """One look; returns the seconds until the next is due. An error in one turn is logged and does not end the loop."""
        limits = ctx.settings.controller
        try:
            return self._look(ctx, bench)
        except errors.LastgoodError as error:
            log.warning("%s: %s", self.name, error)
        except Exception:
            log.exception("%s: unexpected error; the next pass tries again", self.name)
        bench.forget()
        return limits.measure_s

    def _look(self, ctx: release.Context, bench: analysis_run.RunningAnalyses) -> float:
        limits = ctx.settings.controller
        state = ctx.ledger.state(self._service)
        view = readiness.read(ctx.ledger, self._service, settings=ctx.settings, now=clock.now())
        fence = lease.decide(ctx.ledger, state, view, holder=self._holder, ttl_s=limits.lease_s)
        if fence is None:
            bench.forget()
            return limits.measure_s
        asked = analysis_run.open_questions(ctx, state, now=clock.now())
        bench.measure(asked, now=clock.now())
        verdicts, afterwards = bench.verdicts(clock.now())
        done = None
        if verdicts or state.phase in ("approval", "baking"):
            known = readiness.arms_by_readiness(view, state.awaited)
            done = advance.advance(
                ctx,
                self._service,
                ready=known.ready,
                unknown=known.unknown,
                actor=ACTOR,
                verdicts=verdicts,
                judged_at=state.revision,
                fence=fence,
            )
        if done is None and state.verifying is not None:
            done = advance.verify(ctx, self._service, verdicts=afterwards, actor=ACTOR, fence=fence)
        if done is not None:
            log.info("%s: revision %s: %s: %s", self._service, done.revision.number, done.revision.verb, done.revision.reason)
            self._moved(ctx, done)
        else:
            self._forget(ctx, state, asked, now=clock.now())
        busy = state.phase != "idle" or state.verifying is not None
        return limits.measure_s if busy or done else limits.watch_s if asked else limits.measure_s

    def _forget(self, ctx: release.Context, state: State, asked: Collection[analysis_run.Question], *, now: float) -> None:
        """Delete old measurements from time to time, but not those of a rollout that is still judged or was just rolled back."""
        if abs(now - self._forgot_at) < FORGET_EVERY_S:
            return
        self._forgot_at = now
        needed = filter(None, (state.rollout, state.verifying.rollout if state.verifying else None))
        began = [*(ctx.ledger.revision(self._service, number).at for number in needed), *(question.began for question in asked)]
        oldest = min([now - ctx.settings.controller.keep_measurements_days * 86_400, *began])
        with contextlib.suppress(errors.Unavailable):  # the next attempt will do
            gone = ctx.ledger.forget_measurements(self._service, before=oldest, at_most=FORGET_AT_MOST)
            log.info("%s: %s measurements were removed", self._service, gone)

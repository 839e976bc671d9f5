"""The loop: read the ledger, take releases in flight a step further, make every layer follow, each alone.

One thread per service and layer, so that a registry that hangs for a minute delays no traffic. All of them are
level-triggered: they get the newest desired state, never a list of events, and look at the world again every
`resync_s` seconds, which puts hand edits back. Two controllers at once are harmless (compare-and-set in the
ledger, a lock inside each layer), but only one is started.

What does not belong here: rules (`rollout`), moving a single layer (`layers`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from lastgood import errors, gatekeeper, private, proceed, release
from lastgood.layers import base, receipts, reconcile
from lastgood.ledger import audit
from lastgood.ops import incident, loss, paging
from lastgood.settings import Settings

log = logging.getLogger("lastgood.controller")

ACTOR = gatekeeper.ACTOR
LOSSES_EVERY_S = 30.0
"""Seconds between two looks at what the logs lack."""


class LayerLoop(threading.Thread):
    """Keeps one layer of one service in agreement with the newest desired state it was handed."""

    def __init__(self, settings: Settings, layer: base.Layer, *, service: str) -> None:
        super().__init__(name=f"{service}/{layer.name}", daemon=True)
        self._settings = settings.controller
        self._reports = settings.run(service) / "layers"
        self._layer = layer
        self._wanted: base.Desired | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.busy_since: float | None = None

    def want(self, desired: base.Desired) -> None:
        """Hand over the newest desired state; an older one still waiting is dropped, as it should be."""
        self._wanted = desired
        self._wake.set()

    def end(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._wake.clear()
            wanted = self._wanted
            pause = self._settings.resync_s
            if wanted is not None:
                receipt = self._once(wanted)
                failures = 0 if receipt.status == "converged" else failures + 1
                if failures:
                    pause = min(backoff(failures, self._settings.backoff_max_s), self._settings.resync_s)
            self._wake.wait(pause)
        self._layer.close()

    def _once(self, wanted: base.Desired) -> receipts.Receipt:
        self.busy_since = time.monotonic()
        try:
            receipt = reconcile.attempt(self._layer, wanted)
        finally:
            self.busy_since = None
        receipts.write(self._reports, receipt)
        if receipt.status != "converged":
            log.warning("%s revision %s: %s: %s", self.name, wanted.revision, receipt.status, receipt.detail)
        return receipt


def backoff(failures: int, longest_s: float) -> float:
    """Seconds to wait before the next attempt: full jitter over a doubling range that starts at 0.2 s."""
    return random.uniform(0.05, min(longest_s, 0.1 * 2.0 ** min(failures, 20)))  # noqa: S311  # jitter, not a secret


class ServiceLoop:
    """Everything the controller does for one service."""

    def __init__(self, ctx: release.Context, service: str, *, moved: Callable[[], None]) -> None:
        self._ctx = ctx
        self._service = service
        self._layers = reconcile.build(ctx.settings, service)
        self._loops = {name: LayerLoop(ctx.settings, layer, service=service) for name, layer in self._layers.items()}
        self._reports = ctx.settings.run(service) / "layers"
        self._seen = 0
        self._losses_at = -math.inf
        self._stranded = -1
        """Revision from which there is no way further back; a person was told once."""
        self._proven = -1
        """Revision whose stable bundle was seen ready; until then its workers are watched closely."""
        holder = f"{socket.gethostname()}/{os.getpid()}/{id(self)}"
        self._woken = moved
        self._gatekeeper = gatekeeper.Gatekeeper(ctx.settings, service, holder=holder, moved=self._moved)
        for loop in self._loops.values():
            loop.start()
        self._gatekeeper.start()

    def _moved(self, ctx: release.Context, committed: release.Committed) -> None:
        """A gate has decided: the layers follow now, and what it came to is written down after that."""
        self._woken()
        try:
            incident.close(ctx, self._service, committed.revision.number)
        except errors.LastgoodError as error:
            log.warning("%s: the incident record is missing: %s", self._service, error)

    def tick(self) -> None:
        """One look: hand a new revision to the layers, and take a release in flight one step further."""
        try:
            self._hand_over()
        finally:
            # Also with a configuration that cannot be read: going one further back is then the way out.
            self._advance()
            self._report_stuck()
            self._report_losses()

    def _hand_over(self) -> None:
        newest = self._ctx.ledger.newest(self._service)
        if newest != self._seen:
            state = self._ctx.ledger.state(self._service)
            wanted = reconcile.read_desired(state, ledger=self._ctx.ledger, store=self._ctx.store, settings=self._ctx.settings)
            for loop in self._loops.values():
                loop.want(wanted)
            self._seen = state.revision
            audit.checkpoint(self._ctx.ledger, self._service, self._ctx.settings.keys)

    def end(self) -> None:
        self._gatekeeper.end()
        for loop in self._loops.values():
            loop.end()

    def _advance(self) -> None:
        state = self._ctx.ledger.state(self._service)
        processes = self._layers.get("infrastructure")
        if not isinstance(processes, base.Processes):
            proceed.advance(self._ctx, self._service, ready=state.awaited, actor=ACTOR)
            return
        if state.phase == "baking":
            return  # the gatekeeper's: whoever has measured nothing does not say that a release is good
        if state.phase == "idle" and state.revision == self._proven:
            return
        ready = {digest for digest, where in processes.endpoints().items() if where}
        if state.stable in ready and state.phase == "idle":
            self._proven = state.revision
        told = receipts.read(self._reports).get("infrastructure")
        trouble = told.detail if told and told.status == "failed" else ""
        proceed.advance(self._ctx, self._service, ready=ready, actor=ACTOR, trouble=trouble)
        if state.revision == self._stranded:
            return
        try:
            proceed.go_on_back(self._ctx, self._service, ready=ready, actor=ACTOR)
        except errors.NotAllowed as error:
            self._stranded = state.revision
            summary = f"{self._service}: the bundle gone back to does not get ready, and there is nothing further back: {error}"
            page: dict[str, Any] = {"revision": state.revision, "key": "stranded", "severity": "critical", "summary": summary}
            self._ctx.ledger.page(self._service, **page, body={}, now=time.time())

    def _report_losses(self) -> None:
        """Rows that the service's logs lack are told once; it is looked now and then."""
        now = time.monotonic()
        if now - self._losses_at >= LOSSES_EVERY_S:
            self._losses_at = now
            try:
                loss.tell(self._ctx, self._service, now=time.time())
            except errors.LastgoodError as error:
                log.warning("%s: that rows of its log are missing could not be told: %s", self._service, error)

    def _report_stuck(self) -> None:
        limit = self._ctx.settings.controller.layer_timeout_s
        for name, loop in self._loops.items():
            since = loop.busy_since
            if since is not None and time.monotonic() - since > limit:
                detail = f"no answer for {limit:g} s; other layers go on without it"
                receipt = receipts.Receipt(
                    layer=name,
                    status="failed",
                    desired_revision=self._seen,
                    observed_revision=None,
                    ms=limit * 1000,
                    at=time.time(),
                    detail=detail,
                )
                receipts.write(self._reports, receipt)


def run(settings: Settings, *, stop: threading.Event, wait: Callable[[float], object] | None = None) -> None:
    """Reconcile every service of the ledger until *stop* is set; a fault in one service does not stop the others.

    With the ledger unreachable it keeps what runs, says so in its log, and goes on trying.
    """
    woken = threading.Event()

    def until_woken(seconds: float) -> None:
        woken.wait(seconds)
        woken.clear()

    pause = wait or until_woken
    with _opened(settings, stop=stop, pause=pause) as ctx:
        services: dict[str, ServiceLoop] = {}
        pager = paging.PageLoop(settings)
        pager.start()
        try:
            while not stop.is_set():
                for name in _services(ctx):
                    if settings.parked(name).exists():
                        _let_go(services, name)
                    else:
                        _look_after(ctx, services, name, woken=woken)
                pause(settings.controller.poll_s)
        finally:
            for loop in services.values():
                loop.end()
            pager.end(wait_s=2.0)


def _look_after(ctx: release.Context, services: dict[str, ServiceLoop], name: str, *, woken: threading.Event) -> None:
    """One turn for one service; whatever broke for it, the others still have to be served."""
    try:
        if name not in services:
            services[name] = ServiceLoop(ctx, name, moved=woken.set)
        services[name].tick()
    except errors.LastgoodError as error:
        log.warning("%s: %s", name, error)
    except Exception:
        # The border of the loop.
        log.exception("%s: unexpected fault; other services go on", name)


def _let_go(services: dict[str, ServiceLoop], name: str) -> None:
    """Leave a service alone that somebody took down on purpose."""
    loop = services.pop(name, None)
    if loop is not None:
        log.info("%s was taken down", name)
        loop.end()


@contextlib.contextmanager
def _opened(settings: Settings, *, stop: threading.Event, pause: Callable[[float], object]) -> Iterator[release.Context]:
    """The ledger and the store, as soon as they can be opened; an empty turn of the loop costs nothing meanwhile."""
    while True:
        with contextlib.ExitStack() as opened:
            try:
                ctx = opened.enter_context(release.open_context(settings))
            except errors.LastgoodError as error:
                log.warning("the ledger cannot be opened: %s", error)
                if stop.is_set():
                    raise
                pause(max(settings.controller.poll_s, 1.0))
                continue
            yield ctx
            return


def _services(ctx: release.Context) -> list[str]:
    try:
        return ctx.ledger.services()
    except errors.LastgoodError as error:
        log.warning("the ledger does not answer: %s", error)
        return []


def main() -> None:
    """`python -m lastgood.controller`: run until SIGTERM or SIGINT."""
    import signal

    from lastgood import settings as settings_

    os.umask(private.UMASK)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings_.load(), stop=stop)


if __name__ == "__main__":
    main()

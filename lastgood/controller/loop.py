"""The loop: read the ledger, advance releases in flight, make every layer follow, each independently.

One thread per service and layer, so that a registry that hangs for a minute does not delay traffic. All threads are
level-triggered: they get the newest desired state, never a list of events, and observe the world again every
`resync_s` seconds, which reverts manual edits. Each controller looks after the layers of its own host and reports in the
ledger which workers are ready there; of several on one ledger, the holder of the lease decides, from the reports of all hosts.

What does not belong here: rules (`core`), changing a single layer (`layers`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from lastgood import errors, release
from lastgood.bundle import manifest
from lastgood.controller import analysis_loop, convergence_notes, layer_loop
from lastgood.core.state import State
from lastgood.hosts import clock_skew, heartbeat, lease, readiness
from lastgood.layers import base, housekeeping, receipts, reconcile
from lastgood.layers import desired as desired_state
from lastgood.ledger import Fence, audit
from lastgood.paging import delivery, once
from lastgood.release import advance
from lastgood.settings import Settings
from lastgood.sources import log_losses
from lastgood.system import clock, permissions

log = logging.getLogger("lastgood.controller")

ACTOR = analysis_loop.ACTOR
LOSSES_EVERY_S = 30.0
"""Seconds between two checks for rows missing from the logs."""
IDLE_LOOK_S = 2.0
"""Seconds between looks at the workers of a service without a release in progress, once its stable bundle has been ready."""
STRANDED_AGAIN_S = 5.0
"""Seconds until the search for an older rollback target is repeated when there was none: targets are read from the disk."""
NOT_FOLLOWED_S = 5.0
"""Seconds after a rollback from which a person is paged that traffic could not follow it."""
COLD_S = 60.0
"""Seconds that `previous` must be cold before a person is paged, and warm again before the page is closed."""
COLD, NOT_FOLLOWED, STRANDED = "cold-", "not-followed-", "stranded-"
"""Prefixes of page keys; the bundle follows."""


def overdue(threads: Iterable[Any]) -> dict[str, float]:
    """Seconds since the last turn (`turned_at`) of those *threads* that have ended or made no turn within their `due_s`, by name."""
    now = time.monotonic()
    silent = {thread.name: (now - thread.turned_at, thread.due_s if thread.is_alive() else 0.0) for thread in threads}
    return {name: seconds for name, (seconds, due_s) in silent.items() if seconds > due_s}


class ServiceLoop:
    """Everything the controller does for one service."""

    def __init__(self, ctx: release.Context, service: str, *, moved: Callable[[], None]) -> None:
        self._ctx = ctx
        self._service = service
        self._layers = reconcile.build(ctx.settings, service)
        self._convergence = convergence_notes.Convergence(self._layers)
        followed = self._convergence.followed
        self._loops = {
            name: layer_loop.LayerLoop(ctx.settings, layer, service=service, followed=followed) for name, layer in self._layers.items()
        }
        self._reports = ctx.settings.run(service) / "layers"
        self._losses_at = -math.inf
        self._begin()
        self._holder = lease.holder(ctx.settings)
        self._woken = moved
        self._gatekeeper = analysis_loop.Gatekeeper(ctx.settings, service, holder=self._holder, moved=self._moved)
        for loop in self._loops.values():
            loop.start()
        self._gatekeeper.start()

    def _begin(self) -> None:
        """State carried from one turn to the next, which is safe to lose."""
        self._proven = -1
        """The revision whose stable bundle was ready; until then, its workers are watched closely."""
        self._looked_at = float("-inf")
        self._seen = self._handed = 0
        self._spares: tuple[str, ...] = ()
        """The spares that the layers were last given."""
        self._no_way_until = float("-inf")
        self._lasting = once.OpenProblem(self._ctx, self._service)
        self._peers = clock_skew.Peers(host=readiness.host(self._ctx.settings), counting=time.monotonic)

    def _moved(self, ctx: release.Context, committed: release.Committed) -> None:
        """A gate has decided: the layers follow now."""
        self._woken()
        self._expect(committed)

    def _expect(self, committed: release.Committed | None) -> None:
        """Register a commit made here, so that the time the layers take to follow is noted."""
        if committed is not None:
            self._convergence.expect(committed.revision, commit_ms=committed.ms, own=True)

    def tick(self) -> None:
        """One look: pass a new revision to the layers, and advance a release in flight by one step."""
        try:
            self._hand_over()
        finally:
            # Even with an unreadable configuration: rolling back further is then the remedy.
            self._advance()
            self._report_stuck()
            self._report_losses()
            self._report_clock()
            self._report_convergence()

    def _hand_over(self) -> None:
        newest = self._ctx.ledger.newest(self._service)
        if newest != self._seen:
            state = self._ctx.ledger.state(self._service)
            if 0 < self._handed < state.revision:
                # For a revision older than this process, the time it was followed is unknown.
                self._convergence.expect(self._ctx.ledger.revision(self._service, state.revision))
            self._handed = state.revision
            wanted = desired_state.read(state, ledger=self._ctx.ledger, store=self._ctx.store, settings=self._ctx.settings)
            for loop in self._loops.values():
                loop.want(wanted)
            self._seen, self._spares = state.revision, wanted.spares
            audit.checkpoint(self._ctx.ledger, self._service, self._ctx.settings.keys)

    def overdue(self) -> dict[str, float]:
        """Threads that made no turn in time, by name; see `overdue`."""
        return overdue([*self._loops.values(), self._gatekeeper])

    def end(self) -> None:
        self._gatekeeper.end()
        for loop in self._loops.values():
            loop.end()

    def _advance(self) -> None:
        """Report which workers are ready here; then, as the lease holder, advance what is in progress by the reports of all hosts."""
        state = self._ctx.ledger.state(self._service)
        settled = state.phase == "idle" and state.revision == self._proven
        if settled and time.monotonic() - self._looked_at < IDLE_LOOK_S:
            return
        view = self._look(state)
        self._tell_clocks(view)
        if state.phase == "idle" and state.stable is not None and view.word(state.stable) == "ready":
            self._proven = state.revision
        limits = self._ctx.settings.controller
        fence = lease.decide(self._ctx.ledger, state, view, holder=self._holder, ttl_s=limits.lease_s)
        self._tell_nobody(state, view, decided=fence is not None)
        if fence is None:
            return  # another controller decides, from the same rows
        self._tell_cold(state, view)
        self._tell_followed(state, view)
        if state.phase == "baking":
            return  # left to the analysis loop: a loop that measures nothing must not call a release good
        trouble = "; ".join(filter(None, (view.why(arm) for arm in state.awaited if view.word(arm) == "not ready")))
        known = readiness.arms_by_readiness(view, state.awaited)
        done = advance.advance(
            self._ctx, self._service, ready=known.ready, unknown=known.unknown, actor=ACTOR, trouble=trouble, fence=fence
        )
        self._expect(done)
        if state.revision != self._proven:
            self._go_on_back(state, view, fence)

    def _look(self, state: State) -> readiness.View:
        """Observe this host's workers and record the result in the ledger; returns all hosts' reports. On failure, nothing is recorded."""
        self._looked_at = time.monotonic()
        ctx, now = self._ctx, clock.now()
        processes = self._layers.get("infrastructure")
        try:
            if isinstance(processes, base.Processes):
                wanted = tuple(dict.fromkeys(filter(None, (state.stable, *state.awaited, state.previous, *self._spares))))
                seen = base.readiness_of(processes)
                view = readiness.report(
                    ctx.ledger, self._service, settings=ctx.settings, ready=seen.ready, wanted=wanted, troubles=seen.troubles, now=now
                )
            else:
                view = readiness.read(ctx.ledger, self._service, settings=ctx.settings, now=now)
        except base.LayerError as error:
            log.warning("%s: cannot tell which workers are ready: %s", self._service, error)
            view = readiness.read(ctx.ledger, self._service, settings=ctx.settings, now=now)
        if desired_state.spares(state, view) != self._spares:
            self._seen = -1  # the layers get a new list of what to keep warm
        return view

    def _go_on_back(self, state: State, view: readiness.View, fence: Fence) -> None:
        """Roll back further if the rollback target does not become ready; meanwhile a person is paged with what really answers."""
        if time.monotonic() < self._no_way_until:
            return
        try:
            done = advance.go_on_back(self._ctx, self._service, view=view, actor=ACTOR, fence=fence)
            self._expect(done)
            if done is None:
                self._tell_not_followed(state, view)
        except errors.NotAllowed as error:
            self._no_way_until = time.monotonic() + STRANDED_AGAIN_S
            why = f"the rollback target {manifest.short(state.stable or '')} does not become ready, and there is no older target"
            self._begun(f"{STRANDED}{manifest.short(state.stable or '')}", "critical", f"{why}: {error}; {self._answering(state)}")

    def _tell_clocks(self, view: readiness.View) -> None:
        """Page about two hosts whose clocks differ: each considers the other silent, and the one ahead may end a phase too early."""
        own = readiness.host(self._ctx.settings)
        for host, ahead_s in self._peers.ahead_s(view).items():
            key = f"clocks-{'-'.join(sorted((own, host)))}"
            if not ahead_s:
                self._lasting.over(key, now=view.now)
                continue
            first, last = (host, own) if ahead_s > 0 else (own, host)
            why = f"the clock of {first} is {abs(ahead_s):.0f} s ahead of that of {last}, and each host decides by its own clock"
            self._begun(key, "critical", f"{why}; correct the wrong clock, then run 'lastgood up' on that host")

    def _tell_nobody(self, state: State, view: readiness.View, *, decided: bool) -> None:
        """Page if the hosts that have the serving bundle no longer report, and this host does not have it: a person has to look."""
        serving = state.stable or state.candidate
        if decided or serving is None or view.word(serving) != "unknown":
            self._lasting.over("nobody-decides", now=clock.now())
            return
        if readiness.host(self._ctx.settings) in view.homes(serving):
            return
        if self._ctx.ledger.lease_holder(lease.lease_name(self._service), now=view.now) is not None:
            return  # a host does decide, though it cannot observe which workers are ready
        why = f"no automatic decisions: {manifest.short(serving)} was ready elsewhere, but {view.why(serving)}"
        here = f"on {socket.gethostname()} it is not ready; run 'lastgood up' on the host where it was"
        self._begun("nobody-decides", "warning", f"{why}; {here}")

    def _tell_not_followed(self, state: State, view: readiness.View) -> None:
        """Page about a committed rollback whose target has no ready worker: traffic has not moved."""
        if state.stable is None or state.phase != "idle" or view.word(state.stable) != "not ready":
            return
        if set(receipts.serving(receipts.read(self._reports)) or ()) == {state.stable}:
            return  # it did follow; the worker has ended since
        moved = release.last_move(self._ctx, state)
        if moved.verb in release.WAYS_BACK and abs(clock.now() - moved.read_at) >= NOT_FOLLOWED_S:
            why = f"traffic could not follow the rollback to {manifest.short(state.stable)} yet, which is {view.text(state.stable)}"
            remedy = f"correct the cause, or name another bundle with 'lastgood rollback {self._service} BUNDLE'"
            self._begun(f"{NOT_FOLLOWED}{manifest.short(state.stable)}", "critical", f"{why}; {self._answering(state)}; {remedy}")

    def _tell_followed(self, state: State, view: readiness.View) -> None:
        """Close the page about a rollback that traffic could not follow, once its target is ready or another bundle serves."""
        waits = state.stable is not None and view.word(state.stable) != "ready"
        for begins in (NOT_FOLLOWED, STRANDED):
            self._lasting.over(begins, but={f"{begins}{manifest.short(state.stable or '')}"} if waits else (), now=clock.now())

    def _tell_cold(self, state: State, view: readiness.View) -> None:
        """Page if `previous` cannot be kept warm: a rollback to it would take more than milliseconds. Closed once it is warm as long."""
        key = f"{COLD}{manifest.short(state.previous or '')}"
        since = view.since(state.previous) if state.previous else None
        lasts = since is not None and abs(clock.now() - since) >= COLD_S
        warm_again = state.previous is None or (lasts and view.word(state.previous) == "ready")
        self._lasting.over(COLD, but=() if warm_again else {key}, now=clock.now())
        if state.previous is None or not lasts or not view.failing(state.previous):
            return
        warm = [
            manifest.short(digest)
            for digest in state.lineage
            if digest in view.ready and digest != state.stable and digest not in state.marks
        ]
        instead = f"a rollback goes to {warm[0]}, which is warm" if warm else "no rollback target is warm"
        where = f"previous, {manifest.short(state.previous)}, cannot be kept warm on {', '.join(view.denied(state.previous))}"
        self._begun(key, "warning", f"{where}: {view.text(state.previous)}; {instead}; see 'lastgood status {self._service}'")

    def _answering(self, state: State) -> str:
        """The bundles that answer requests, as this host's proxy last reported."""
        seen = receipts.serving(receipts.read(self._reports))
        if seen is None:
            return "this host does not know which bundle answers requests"
        shares = ", ".join(
            f"{manifest.short(digest)} {share:g} %{' (quarantined)' if digest in state.marks else ''}" for digest, share in seen.items()
        )
        return f"requests are answered by: {shares or 'no bundle'}"

    def _begun(self, key: str, severity: str, summary: str) -> None:
        """Page *summary* once for as long as the condition lasts."""
        self._lasting.begun(key, f"{self._service}: {summary}", severity=severity, now=clock.now())

    def _report_clock(self) -> None:
        """Page once about a clock that was set; closed when it is right or accepted: until then it is not followed."""
        skew_s, key = clock.skew_s(), f"clock-{readiness.host(self._ctx.settings)}"
        said = (
            f"{self._service}: the clock of {socket.gethostname()} was set {'ahead' if skew_s > 0 else 'back'} by {abs(skew_s):.0f} s; "
            "lastgood keeps using the time before the change; correct the clock, or accept it with 'lastgood up' if it is right now"
        )
        try:
            if skew_s:
                self._lasting.begun(key, said, severity="critical", now=clock.now(), body={"skew_s": skew_s})
            else:
                self._lasting.over(key, now=clock.now())
        except errors.LastgoodError as error:
            log.warning("%s: could not page that the clock was set, or is right again: %s", self._service, error)

    def _report_convergence(self) -> None:
        """Note in the audit trail how long the layers took to follow a change, once they have."""
        try:
            self._convergence.note(self._ctx, actor=ACTOR, now=clock.now())
        except (OSError, errors.LastgoodError) as error:
            log.warning("%s: that the layers have followed could not be noted: %s", self._service, error)

    def _report_losses(self) -> None:
        """Page once about rows missing from the service's logs; checked from time to time."""
        now = time.monotonic()
        if now - self._losses_at >= LOSSES_EVERY_S:
            self._losses_at = now
            try:
                log_losses.page_losses(self._ctx, self._service, now=clock.now())
            except errors.LastgoodError as error:
                log.warning("%s: could not page that rows of its log are missing: %s", self._service, error)

    def _report_stuck(self) -> None:
        limit = self._ctx.settings.controller.layer_timeout_s
        for name, loop in self._loops.items():
            since = loop.busy_since
            if since is not None and time.monotonic() - since > limit:
                detail = f"no answer for {limit:g} s; other layers continue without it"
                receipt = receipts.Receipt(
                    layer=name,
                    status="failed",
                    desired_revision=self._seen,
                    observed_revision=None,
                    ms=limit * 1000,
                    at=clock.now(),
                    detail=detail,
                )
                receipts.write(self._reports, receipt)


class Reader(Protocol):
    """A reader of the ledger next to the loops, with threads of its own that have `turned_at` and `due_s`, which acts on what it finds."""

    @property
    def threads(self) -> Sequence[Any]: ...

    def start(self) -> None: ...

    def end(self, wait_s: float = 0.0) -> None: ...


MakeReader = Callable[[Settings], Reader]


def run(
    settings: Settings,
    *,
    stop: threading.Event,
    wait: Callable[[float], object] | None = None,
    readers: Sequence[MakeReader] = (),
) -> None:
    """Reconcile every service of the ledger until *stop* is set; a fault in one service does not stop the others.

    Pages are delivered meanwhile, and *readers* run alongside. If the ledger is unreachable, running services are kept, the log reports
    it, and the loop keeps trying.
    """
    woken = threading.Event()

    def until_woken(seconds: float) -> None:
        woken.wait(seconds)
        woken.clear()

    pause = wait or until_woken
    with _opened(settings, stop=stop, pause=pause) as ctx:
        services: dict[str, ServiceLoop] = {}
        beside: list[Reader] = [delivery.PageLoop(settings), *(make(settings) for make in readers)]
        for reader in beside:
            reader.start()
        sweeper = housekeeping.Sweeper(settings, lambda: list(services), every_s=housekeeping.EVERY_S)
        sweeper.start()
        pulse = heartbeat.Pulse(settings)

        def beat() -> None:
            hanging = overdue([thread for reader in beside for thread in reader.threads])
            for loop in services.values():
                hanging |= loop.overdue()
            pulse.beat(hanging)

        try:
            while not stop.is_set():
                beat()
                for name in _services(ctx):
                    if settings.parked(name).exists():
                        _let_go(services, name)
                    else:
                        _look_after(ctx, services, name, woken=woken)
                    beat()
                pause(settings.controller.poll_s)
        finally:
            for loop in services.values():
                loop.end()
            sweeper.end()
            for reader in beside:
                reader.end(wait_s=2.0)
            pulse.end()


def _look_after(ctx: release.Context, services: dict[str, ServiceLoop], name: str, *, woken: threading.Event) -> None:
    """One turn for one service; an error there must not keep the others from being served."""
    try:
        if name not in services:
            services[name] = ServiceLoop(ctx, name, moved=woken.set)
        services[name].tick()
    except errors.LastgoodError as error:
        log.warning("%s: %s", name, error)
    except Exception:
        # The outermost boundary of the loop.
        log.exception("%s: unexpected error; other services continue", name)


def _let_go(services: dict[str, ServiceLoop], name: str) -> None:
    """Stop managing a service that a person took down on purpose."""
    loop = services.pop(name, None)
    if loop is not None:
        log.info("%s was taken down", name)
        loop.end()


@contextlib.contextmanager
def _opened(settings: Settings, *, stop: threading.Event, pause: Callable[[float], object]) -> Iterator[release.Context]:
    """The ledger and the store, as soon as they can be opened; meanwhile the loop makes empty turns, which cost nothing."""
    while True:
        with contextlib.ExitStack() as opened:
            try:
                ctx = opened.enter_context(release.open_context(settings, create=False))
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
        log.warning("the ledger cannot be read: %s", error)
        return []


def main(*, readers: Sequence[MakeReader] = ()) -> None:
    """Run until SIGTERM or SIGINT, with *readers* of the ledger alongside the loops; see `lastgood.controller.__main__`."""
    import signal

    from lastgood import settings as settings_

    os.umask(permissions.UMASK)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = settings_.load()
        # A ledger that does not answer is waited for; one that never existed means the wrong folder.
        release.check_there(settings)
    except errors.UsageError as error:
        log.error("the controller cannot start: %s", error)  # noqa: TRY400  # the message says all
        sys.exit(error.exit_code)
    except errors.LastgoodError as error:
        log.warning("%s", error)
    run(settings, stop=stop, readers=readers)

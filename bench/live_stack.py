"""The small project with everything running: Envoy, workers, the controller as a process of its own; controlled through the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench import live_load, live_project
from bench.live_project import SERVICE, Faulty
from lastgood import errors, ledger, release
from lastgood.core.state import State
from lastgood.layers import receipts
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.ops import local_stack
from lastgood.release import convergence
from lastgood.service import schema, strategy
from lastgood.settings import Settings
from lastgood.system import failpoints, processes

READY_S = 60.0
LOOK_S = 0.02
ACTOR = "bench"
MEASURED = release.Request(actor=ACTOR, reason="measured")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A running stack. `ctx` is this process's own connection to its ledger; nothing of the controller runs in here."""

    ctx: release.Context
    stable: Faulty

    @property
    def settings(self) -> Settings:
        return self.ctx.settings

    @property
    def port(self) -> int:
        return schema.load(self.settings.services / SERVICE).traffic.port

    def state(self) -> State:
        """The newest state in the ledger."""
        return self.ctx.ledger.state(SERVICE)

    def propose(self, wanted: Faulty, *phases: Mapping[str, Any]) -> int:
        """Release *wanted* by its own strategy, or by *phases*; returns the revision of the proposal."""
        way = release.PhaseOverride(strategy=strategy.parse(list(phases))) if phases else release.OWN
        done = release.propose(self.ctx, SERVICE, wanted.bundle, MEASURED, override="measured again", way=way)
        if done is None:
            raise RuntimeError(f"{wanted.bundle} is on its way already")
        return done.revision.number

    def cut_over(self, wanted: Faulty) -> None:
        """Make *wanted* stable at once, without analysis."""
        release.propose(self.ctx, SERVICE, wanted.bundle, MEASURED, override="measured again", way=release.PhaseOverride(skip=True))
        self.until(lambda: self.state().stable == wanted.bundle, what="cut-over")
        self.until(self.all_stable, what="traffic on stable")

    def release_hold(self) -> None:
        """Release the hold, as a person would after more than three automatic rollbacks in an hour; no effect if there is none."""
        if self.state().hold is not None:
            release.release_hold(self.ctx, SERVICE, MEASURED)

    def call_off(self) -> None:
        """Take the candidate out by hand."""
        release.roll_back(self.ctx, SERVICE, release.Request(actor=ACTOR, reason="called off"), to=self.state().stable)

    def until(self, found: Callable[[], object], *, what: str, within_s: float = READY_S) -> None:
        """Wait until *found* is true. Raises RuntimeError with the newest revisions if it is not within *within_s* seconds."""
        if not self.within(found, within_s):
            newest = self.ctx.ledger.history(SERVICE, limit=3)
            told = " <- ".join(f"revision {one.number}, {one.verb} by {one.actor}: {one.reason} ({one.state.phase})" for one in newest)
            raise RuntimeError(f"no {what} within {within_s:g} s; {told}; read {self.settings.home / 'logs'}")

    @staticmethod
    def within(found: Callable[[], object], seconds: float) -> bool:
        """Whether *found* becomes true within *seconds*. A ledger that is locked meanwhile is read again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(errors.Unavailable):
                if found():
                    return True
            time.sleep(LOOK_S)
        return False

    def until_phase(self, phase: str, *, position: int = 0, within_s: float = READY_S) -> None:
        """Wait until the candidate is in *phase* and the proxy follows."""
        self.until(lambda: (self.state().phase, self.state().position) == (phase, position), what=f"phase {phase}", within_s=within_s)
        self.until(self.followed, what=f"traffic of phase {phase}")

    def followed(self) -> bool:
        """Whether the proxy serves the newest revision."""
        told = receipts.read(self.settings.run(SERVICE) / "layers").get("traffic")
        return told is not None and told.covers(self.state().revision)

    def all_stable(self) -> bool:
        """Whether the proxy follows and sends everything to stable."""
        state = self.state()
        return self.followed() and state.candidate is None and state.weight_pct == 0

    def since(self, revision: int, *verbs: str) -> list[ledger.Revision]:
        """Revisions after *revision*, oldest first; only those of *verbs* if any are named."""
        newer = self.ctx.ledger.history(SERVICE, limit=100)
        return [one for one in reversed(newer) if one.number > revision and (not verbs or one.verb in verbs)]

    def until_verb(self, revision: int, *verbs: str, within_s: float) -> ledger.Revision | None:
        """The first revision after *revision* with one of *verbs*; None if none comes within *within_s* seconds."""
        self.within(lambda: self.since(revision, *verbs), within_s)
        return next(iter(self.since(revision, *verbs)), None)

    # --- the controller ------------------------------------------------------------------------------------

    def controller(self) -> processes.Record | None:
        """Its process, None if none runs."""
        return convergence.controller_record(self.settings)

    def kill_controller(self) -> None:
        """End it as a crash does, and wait until it is gone."""
        record = self.controller()
        if record is None:
            raise RuntimeError("no controller runs")
        os.kill(record.pid, signal.SIGKILL)
        self.until(lambda: self.controller() is None, what="end of the controller")

    def start_controller(self, *, failing: str = "") -> None:
        """Restart it. *failing* arms failpoints in it."""
        with _environ({failpoints.VARIABLE: failing} if failing else {}):
            local_stack.start_controller(self.settings)

    def load(self, *, rate: float, connections: int = 8, label_delay_s: float | None = None, name: str = "load") -> Any:
        """Requests from a process of their own, as a context manager that gives `live_load.Running`."""
        out, log = self.settings.project / f"{name}.jsonl", self.settings.project / f"{name}.log"
        token_file = envoy_files.debug_token_file(self.settings)
        return live_load.running(
            port=self.port, token_file=token_file, out=out, log=log, rate=rate, connections=connections, label_delay_s=label_delay_s
        )


@contextlib.contextmanager
def up(settings: Settings) -> Iterator[Live]:
    """Start everything with release 1 as stable, built with the current `service.yaml`; stop everything at the end."""
    with release.open_context(settings) as ctx:
        live = Live(ctx=ctx, stable=live_project.build(ctx, 1))
        try:
            local_stack.up(settings, names=[SERVICE], say=lambda _: None)
            live.cut_over(live.stable)
            yield live
        finally:
            local_stack.down(settings, names=[SERVICE], keep_serving=False, say=lambda _: None)


def bad_answers(shots: Sequence[live_load.Shot], *, stable: str, since: float, slower_than_ms: float) -> list[live_load.Shot]:
    """Requests sent from *since* on that failed or took too long, except those that the bundle *stable* itself answered."""
    wrong = (shot for shot in shots if shot.sent >= since and (shot.status != 200 or shot.ms > slower_than_ms))
    return [shot for shot in wrong if shot.bundle != stable]


@contextlib.contextmanager
def _environ(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

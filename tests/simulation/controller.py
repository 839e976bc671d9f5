"""A controller as a process that can be killed: the real gatekeeper and the real loop, without their threads, turn by turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lastgood import errors, release
from lastgood.analysis import run as analysis_run
from lastgood.controller import analysis_loop, convergence_notes, loop
from lastgood.hosts import readiness
from lastgood.layers import base, reconcile
from tests.simulation.line import Killed
from tests.simulation.project import SERVICE

if TYPE_CHECKING:
    from tests.simulation.world import World

ACTOR = analysis_loop.ACTOR


class _Loop(loop.ServiceLoop):
    """The loop of one service, as after its start; nothing of it runs by itself."""

    def __init__(self, context: release.Context, workers: base.Processes, *, holder: str) -> None:
        self._ctx, self._service = context, SERVICE
        self._layers = {"infrastructure": workers}
        self._convergence = convergence_notes.Convergence(self._layers)
        self._reports = context.settings.run(SERVICE) / "layers"
        self._holder, self._seen, self._spares = holder, 0, ()
        self._begin()


def _holder(world: World, name: str) -> str:
    """All run on one host."""
    return f"{readiness.host(world.settings)} {name}"


class Controller:
    """One controller of the service. `died` is how often it was killed."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.line = world.line(interrupt=lambda call: world.between(self, call))
        self._context = world.context(self.line)
        self._keeper = analysis_loop.Gatekeeper(world.settings, SERVICE, holder=_holder(world, name), moved=lambda *_: None)
        self.back_at = 0.0
        self._start()

    def _start(self) -> None:
        self.bench = analysis_run.RunningAnalyses(self.line, SERVICE, self._world.numbers)  # type: ignore[arg-type]  # the double
        self._loop = _Loop(self._context, self._world.workers, holder=_holder(self._world, self.name))
        self._seen = 0
        self._wanted: Any = None
        self.line.fuse, self.line.behind = None, 0

    def die(self, *, back_at: float = 0.0) -> None:
        """Lose everything in memory, and come back at *back_at* (virtual seconds)."""
        self.back_at = back_at
        self._start()

    def turn(self) -> str:
        """One turn of each of its loops, in some order; says what went wrong, if something did."""
        if self._world.clock.true < self.back_at:
            return "is dead"
        parts = [self.follow, self._advance, self._look]
        if self._world.draw.random() < 0.5:
            parts.reverse()
        try:
            self.line.leads = None
            at = -1 if self.line.behind else self._world.book.newest(SERVICE)
            # A step of the world may take longer than a host may be silent; a live one says every few seconds what is ready.
            told = "; ".join(filter(None, [self._guarded(part) for part in (self._say_ready, *parts)]))
            if not told:
                self._world.watch.turned(self, at=at)
        except Killed:
            self._world.tally["killed"] += 1
            self.die(back_at=self._world.clock.true + self._world.mischief.choice((0.0, 0.0, 20.0, 120.0)))
            return "was killed"
        return told

    def _guarded(self, part: Any) -> str:
        """Each loop has its border: an error ends its turn, not the loop."""
        try:
            part()
        except errors.LastgoodError as error:
            if part == self._look:
                self.bench.forget()
            self._world.watch.trouble(self, error)
            return f"{part.__name__} {type(error).__name__}: {str(error)[:70]}"
        finally:
            self._world.watch.look()
        return ""

    def follow(self) -> None:
        """Hand the newest state to the layers; each of them gets to it in its own time."""
        if self._context.ledger.newest(SERVICE) != self._seen:
            state = self._context.ledger.state(SERVICE)
            self._wanted = self._world.desired(self._context, state)
            self._seen = state.revision
        layers = list(self._world.layers)
        self._world.draw.shuffle(layers)
        for layer in layers:
            if self._wanted is not None and (self._world.chaos.killed == 0 or self._world.mischief.random() < 0.9):
                reconcile.attempt(layer, self._wanted, clock=self._world.clock)

    def _say_ready(self) -> None:
        self._loop._look(self._context.ledger.state(SERVICE))

    def _advance(self) -> None:
        """The loop's own part in a release that is on its way."""
        self._loop._advance()

    def _look(self) -> None:
        """One look of the real gatekeeper."""
        self._keeper._look(self._context, self.bench)
        self._world.watch.one_pair(self)

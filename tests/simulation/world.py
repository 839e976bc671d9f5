"""One deterministic world per plan: traffic, layers in memory, sources, controllers, operators, faults, on a virtual clock.

The code under test is real: verbs, decision core, judge, tracks, gatekeeper, reconciling. What is simulated is what it
looks at and what it looks like from outside.

What does not belong here: what must hold (`watch`), what happens (`plan`).
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from typing import Any

from lastgood import release, testing
from lastgood.layers import base, reconcile
from lastgood.layers import desired as desired_state
from tests.simulation import clock as clocks
from tests.simulation.book import Book
from tests.simulation.controller import Controller
from tests.simulation.line import Line
from tests.simulation.numbers import Numbers
from tests.simulation.people import Person
from tests.simulation.plan import CALM, Event, Plan
from tests.simulation.project import SERVICE, Project
from tests.simulation.traffic import PROFILES, Traffic
from tests.simulation.watch import Violation, Watch

TRACE = 30
LONGEST_PAUSE_S = 900.0
WATCH_S = 120.0
"""Between looks at a stable that is on watch."""
SETTLE = 4
"""Turns after the end of all faults, for the layers to agree with the ledger."""


class World:
    """Everything of one service. *book* is the ledger it lives on; one in memory if none is given."""

    def __init__(self, plan: Plan, project: Project, *, book: Any = None) -> None:
        self.plan, self.project, self.settings = plan, project, project.settings
        self.chaos = plan.chaos
        self.draw = random.Random(f"{plan.seed}/world")
        self.mischief = random.Random(f"{plan.seed}/mischief")
        self.clock = clocks.Clock()
        self.trace: collections.deque[str] = collections.deque(maxlen=TRACE)
        self.tally: collections.Counter[str] = collections.Counter()
        made = project.bundles[plan.config][: len(plan.profiles)]
        self.bundles = [bundle.id for bundle in made]
        self.book = book if book is not None else Book(SERVICE)
        for bundle in made:
            self.book.register(bundle, provenance={}, actor="builder", now=self.clock())
        project.store.damaged.clear()
        profiles = dict(zip(self.bundles, (PROFILES[name] for name in plan.profiles), strict=True))
        self.traffic = Traffic(plan.seed, rate=plan.rate, profiles=profiles)
        self.numbers = Numbers(self.traffic)
        self.workers = testing.MemoryInfrastructure(never_ready=(one for one, profile in profiles.items() if not profile.ready))
        self.gateway = testing.MemoryTraffic(self.workers.endpoints)
        self.registry = testing.MemoryRegistry()
        self.layers: tuple[base.Layer, ...] = (self.workers, self.gateway, self.registry)
        self.late_flips: list[base.Desired] = []
        self.jumped_s = 0.0
        self.locked = 0
        self._interrupting = False
        self._due = sorted(plan.events, key=lambda event: event.at)
        self._ends: list[tuple[float, Event]] = []
        self.watch = Watch(self)
        self.controllers = [Controller(self, f"controller-{number}") for number in range(plan.controllers)]
        self.people = [Person(self, name) for name in ("ann", "bob")]

    # --- parts -----------------------------------------------------------------------------------------------

    def line(self, interrupt: Callable[[str], None] | None = None) -> Line:
        """A new connection to the ledger."""
        return Line(self.book, down=lambda: self.locked > 0, interrupt=interrupt or self._outrun)

    def context(self, line: Line) -> release.Context:
        """What the verbs work on."""
        return release.Context(settings=self.settings, ledger=line, store=self.project.store, clock=self.clock)  # type: ignore[arg-type]  # the double

    def desired(self, context: release.Context, state: release.rollout.State) -> base.Desired:
        """What *state* asks of the layers."""
        return desired_state.read(state, ledger=context.ledger, store=context.store, settings=context.settings)

    # --- time ------------------------------------------------------------------------------------------------

    def run(self) -> World:
        """Everything that was planned, then the end of all faults. Raises Violation with the trace."""
        with clocks.running(self.clock):
            try:
                while self.clock.true < self.plan.seconds:
                    self.step()
                self._settle()
            except Violation as violation:
                raise violation.told(self.plan, self.trace) from None
        return self

    def step(self, seconds: float | None = None) -> None:
        """Let time pass, then let everybody do what is due."""
        self.tally["steps"] += 1
        self._pass(self._pause() if seconds is None else seconds)
        self._begin_and_end()
        for controller in self.controllers:
            self._turn(controller)
        if self.late_flips and self.draw.random() < 0.05:
            # A command that hung since: what it wants is old by now.
            reconcile.attempt(self.gateway, self.late_flips.pop(), look_first=False, clock=self.clock)
        self.watch.look()

    def say(self, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.clock.true:8.1f}  {what}")

    def _pause(self) -> float:
        ends = [until for until, _ in self._ends] + [event.at for event in self._due[:1]]
        ahead = min((at for at in ends if at > self.clock.true), default=self.clock.true + LONGEST_PAUSE_S) - self.clock.true
        usual = self.draw.uniform(*self.plan.tick_s) if self.busy else WATCH_S if self.plan.config == "watched" else LONGEST_PAUSE_S
        return min(usual, ahead)

    @property
    def busy(self) -> bool:
        """Whether something is under way or watched, so that the controllers look often."""
        state = self.book.state(SERVICE)
        if state.phase != "idle" or state.verifying is not None:
            return True
        newest = self.watch.number
        return any(layer.revision != newest for layer in (self.workers, self.gateway, self.registry))

    def _pass(self, seconds: float) -> None:
        self.clock.true += seconds
        self.traffic.flow(seconds, weights=self.gateway.served, mirror=self.gateway.mirror)

    # --- people, faults, controllers -------------------------------------------------------------------------

    def _begin_and_end(self) -> None:
        now = self.clock.true
        for until, event in [end for end in self._ends if end[0] <= now]:
            self._ends.remove((until, event))
            self._fault(event, begins=False)
        while self._due and self._due[0].at <= now:
            self.happen(self._due.pop(0))
            self.watch.look()

    def happen(self, event: Event) -> None:
        """A person does what *event* says, or its fault begins."""
        person = self.draw.choice(self.people)
        if event.what == "wish":
            self.say(person.ask(person.wish(self.draw)))
        elif hasattr(person, f"_{event.what}"):
            self.say(person.ask(event.what, bundle=self.bundles[event.of] if isinstance(event.of, int) else None))
        else:
            self.tally[f"fault {event.what}"] += 1
            self._fault(event, begins=True)
            self._ends.append((self.clock.true + event.lasts_s, event))

    def _fault(self, event: Event, *, begins: bool) -> None:
        self.say(f"{event.what} {event.of if event.of is not None else ''} {'begins' if begins else 'ends'}")
        getattr(self, f"_{event.what}")(event.of, begins)

    def _turn(self, controller: Controller) -> None:
        chaos = self.chaos
        if self.mischief.random() < chaos.dropped and controller.back_at <= self.clock.true:
            self.watch.compare(controller)
            self.tally["dropped"] += 1
            controller.die()
        if self.mischief.random() < chaos.killed:
            controller.line.fuse = self.mischief.randint(0, 60)
        controller.line.behind = int(self.mischief.random() < chaos.stale)
        told = controller.turn()
        if told:
            self.say(f"{controller.name} {told}")

    def between(self, controller: Controller, call: str) -> None:
        """What can happen to a controller between two calls to the ledger."""
        if call == "record" and len(self.controllers) > 1 and not self._interrupting and self.mischief.random() < self.chaos.asleep:
            self._interrupting = True
            self.tally["asleep"] += 1
            self.say(f"{controller.name} sleeps for 25 s with what it measured")
            self._pass(25.0)
            for other in self.controllers:
                if other is not controller:
                    self._turn(other)
            self._interrupting = False
        self._outrun(call)

    def _outrun(self, call: str) -> None:
        if call == "append" and not self._interrupting and self.mischief.random() < self.chaos.overtaken:
            self._interrupting = True
            self.tally["overtaken"] += 1
            self.happen(Event(at=self.clock.true, what="wish"))
            self._interrupting = False

    # --- faults ----------------------------------------------------------------------------------------------

    def _ledger_down(self, of: object, begins: bool) -> None:
        self.locked += 1 if begins else -1

    def _layer_down(self, of: object, begins: bool) -> None:
        (layer,) = (one for one in (self.workers, self.gateway, self.registry) if one.name == of)
        layer.failure = base.LayerError(f"{of} is down; wait") if begins else None

    def _source_down(self, of: str, begins: bool) -> None:
        (self.numbers.down.add if begins else self.numbers.down.discard)(of)

    def _nonsense(self, of: str, begins: bool) -> None:
        (self.numbers.nonsense.add if begins else self.numbers.nonsense.discard)(of)

    def _counters_reset(self, of: object, begins: bool) -> None:
        if begins:
            self.traffic.reset()

    def _clock_jump(self, of: float, begins: bool) -> None:
        if begins:
            self.clock.offset += of
            self.jumped_s += abs(of)

    def _no_traffic(self, of: object, begins: bool) -> None:
        self.traffic.stopped = begins

    def _outage(self, of: object, begins: bool) -> None:
        self.traffic.outage = begins
        self.watch.outage_at = self.clock.true

    def _starved(self, of: object, begins: bool) -> None:
        self.traffic.starved = begins

    def _search_down(self, of: object, begins: bool) -> None:
        self.numbers.downstream_is_well = not begins

    def _worker_dead(self, of: int, begins: bool) -> None:
        bundle = self.bundles[of % len(self.bundles)]
        if self.traffic.profiles[bundle].ready:
            (self.workers.never_ready.add if begins else self.workers.never_ready.discard)(bundle)

    def _damaged(self, of: int, begins: bool) -> None:
        bundle = self.bundles[of % len(self.bundles)]
        (self.project.store.damaged.add if begins else self.project.store.damaged.discard)(bundle)

    def _controller_dead(self, of: int, begins: bool) -> None:
        controller = self.controllers[of % len(self.controllers)]
        controller.die(back_at=float("inf") if begins else self.clock.true)

    # --- the end ---------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """All faults end; then the layers must come to agree with the ledger."""
        for _, event in self._ends:
            self._fault(event, begins=False)
        self._ends = []
        self._due = []
        self.workers.never_ready.clear()
        for controller in self.controllers:
            controller.back_at, controller.line.fuse = 0.0, None
        self.chaos = CALM
        for _ in range(SETTLE):
            self.step(30.0)
        # What the last turn has decided is still on its way: as often as there are layers that wait for each other.
        for _ in self.layers:
            for controller in self.controllers:
                controller.follow()
        self.watch.converged()

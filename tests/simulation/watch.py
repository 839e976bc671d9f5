"""What must hold in every world, checked after every step. Each rule has a name."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.analysis import run as analysis_run
from lastgood.core.state import State
from lastgood.layers import reconcile
from lastgood.ledger import rows
from tests.simulation import rules
from tests.simulation.controller import ACTOR, Controller
from tests.simulation.plan import Plan
from tests.simulation.project import SERVICE

if TYPE_CHECKING:
    from tests.simulation.world import World


class Violation(AssertionError):
    """A rule was broken: its name, and what was seen."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule

    def told(self, plan: Plan, trace: Iterable[str]) -> Violation:
        """The same, with how to see it again."""
        how = f"LASTGOOD_TEST_SEED={plan.seed} repeats it; {plan.config}, {plan.rate:g} requests/s, bundles {', '.join(plan.profiles)}"
        return Violation(self.rule, "\n".join([str(self).removeprefix(f"{self.rule}: "), how, *trace]))


@dataclasses.dataclass(slots=True, kw_only=True)
class Judged:
    """A release that gates judged: of a sound bundle against a sound one, or of one with a fault. `blamed` by a test of chance."""

    profile: str
    fair: bool
    chained: bool
    proposed_at: float
    blamed: bool = False
    done: str = ""


class Watch:
    """Looks on, and raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.number = 0
        self._before = State(service=SERVICE)
        self._gateway = 0
        self.outage_at = float("-inf")
        self.releases: dict[int, Judged] = {}
        self._about: dict[str, tuple[str, str | None]] = {}
        self.automatic_at: list[float] = []
        self.step_pages: dict[float, str] = {}

    def look(self) -> None:
        """Check every revision since the last look, and the gateway."""
        world = self._world
        while self.number < world.book.newest(SERVICE):
            revision = world.book.revision(SERVICE, self.number + 1)
            self._tell(revision)
            for rule in rules.OF_A_STEP:
                rule(self._world, self._before, revision)
            self._note(revision)
            self.number, self._before = revision.number, revision.state
        self._gateway_is_well()

    def _gateway_is_well(self) -> None:
        gateway = self._world.gateway
        if gateway.revision < self._gateway:
            raise Violation("the gateway's revision never decreases", f"{gateway.revision} after {self._gateway}")
        self._gateway = gateway.revision
        if gateway.served and abs(sum(gateway.served.values()) - 100) > 1e-9:
            raise Violation("shares sum to 100", repr(gateway.served))

    def _tell(self, revision: rows.Revision) -> None:
        state = revision.state
        names = {digest: f"b{number}" for number, digest in enumerate(self._world.bundles)}
        stable, candidate = names.get(state.stable or "", "-"), names.get(state.candidate or "", "-")
        self._world.say(
            f"revision {revision.number} {revision.verb} by {revision.actor}: stable {stable}, candidate {candidate} in {state.phase} "
            f"at {state.weight_pct:g} %{', held' if state.hold else ''}{', verifying' if state.verifying else ''}: {revision.reason[:110]}"
        )
        self._world.tally[f"{'auto' if revision.actor == ACTOR else 'person'} {revision.verb}"] += 1

    def _note(self, revision: rows.Revision) -> None:
        """Keep what the rules over whole worlds need."""
        before, after, profiles = self._before, revision.state, self._world.traffic.profiles
        if revision.verb == "promote" and after.candidate:
            beside = profiles[after.stable] if after.stable else None
            fair = beside is not None and beside.sound and profiles[after.candidate].sound
            self.releases[revision.number] = Judged(
                profile=profiles[after.candidate].name, fair=fair, chained=bool(after.chain), proposed_at=self._world.clock.true
            )
        release = self.releases.get(before.rollout or 0)
        if release is not None and not release.done and after.rollout != before.rollout:
            release.done = revision.verb if revision.actor == ACTOR else f"person {revision.verb}"
            release.fair &= self.outage_at < release.proposed_at
            release.blamed = revision.actor == ACTOR and rules.by_chance(revision)
        if revision.actor == ACTOR and rules.steps_back(before, revision):
            self.automatic_at.append(revision.at)
        if revision.verb == "release-hold":
            self.automatic_at = []

    # --- what a controller must do ---------------------------------------------------------------------------

    def turned(self, controller: Controller, *, at: int) -> None:
        """A whole turn came to its end; it began at revision *at*. What was due must be done by now."""
        state, now = self._world.book.state(SERVICE), self._world.clock()
        if not controller.line.leads or state.revision != at:
            return
        if state.verifying is not None and now >= state.verifying.until:
            raise Violation("after a step back a Verified follows in time", f"open since {now - state.verifying.until:g} s")
        late = state.phase in ("shadow", "canary", "approval", "baking") and state.phase_until is not None and now >= state.phase_until
        # Where automation has stopped, or nothing is left to go back to, a bake does not end as if the bundle were good.
        stopped = state.hold is not None and (state.hold.actor == "lastgood" or state.previous is None or self._stranded(state))
        if late and (state.hold is None or (state.phase == "baking" and not stopped)):
            raise Violation("no phase outlasts its limit", f"{state.phase} is over since {now - (state.phase_until or 0):g} s")

    def _stranded(self, state: State) -> bool:
        """Whether all that was stable before is damaged or marked, and a person was told so."""
        lost = {*self._world.project.store.damaged, *state.marks, state.stable}
        told = (page.key for page in self._world.book.pages(SERVICE, limit=500) if page.revision == state.revision)
        return set(state.lineage) <= lost and "stranded" in told

    def one_pair(self, controller: Controller) -> None:
        """No analysis goes over to another bundle."""
        for key, analysis in controller.bench._analyses.items():  # nothing else tells
            pair = analysis.question.watched, analysis.question.beside
            if self._about.setdefault(key, pair) != pair:
                raise Violation("an analysis is about one pair of bundles", f"{key}: {pair} after {self._about[key]}")

    def compare(self, controller: Controller) -> None:
        """A judge that is built anew from the ledger says what the one in memory says."""
        now = self._world.clock()
        for key, analysis in controller.bench._analyses.items():
            if next(self._world.book.recorded(SERVICE, key, after=analysis.seq), None) is not None:
                continue  # another controller has taken over since; this one finds out at its next look
            anew = analysis_run.Analysis.resumed(analysis.question, book=self._world.book, service=SERVICE)
            said, says = analysis.verdicts(now), anew.verdicts(now)
            self._world.tally["compared"] += 1
            if said != says:
                wrong = [f"{said[name]} was said, {says[name]} anew" for name in said if said[name] != says[name]]
                raise Violation("a crashed judge says what one that was not says", f"{key}: {'; '.join(wrong)}")

    def trouble(self, controller: Controller, error: errors.LastgoodError) -> None:
        """A turn ended early; only for a reason that a turn may end early for."""
        locked = isinstance(error, errors.Unavailable) and self._world.locked
        split = isinstance(error, errors.Conflict) and len(self._world.controllers) > 1
        if not (locked or split):
            raise Violation("a turn fails only while something is down", f"{type(error).__name__}: {error}") from error
        self._world.tally[f"turn failed {type(error).__name__}"] += 1

    # --- the end ---------------------------------------------------------------------------------------------

    def converged(self) -> None:
        """Every layer agrees with the newest revision."""
        world = self._world
        wanted = world.desired(world.context(world.line()), world.book.state(SERVICE))
        for layer in world.layers:
            told = reconcile.observe_layer(layer, wanted, clock=world.clock)
            if not told.covers(wanted.revision):
                raise Violation("layers converge once faults end", f"{layer.name} {told.status}: {told.detail} {told.facts}")


def outcomes(worlds: Iterable[Any]) -> collections.Counter[tuple[str, str]]:
    """How releases ended, by what was wrong with the bundle."""
    return collections.Counter((one.profile, one.done or "open") for world in worlds for one in world.watch.releases.values())

"""Operators: whatever a person may ask of a service, at any moment, sensible or not."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

from lastgood import errors, release
from lastgood.layers import reconcile
from tests.simulation.project import SERVICE

if TYPE_CHECKING:
    from tests.simulation.world import World

WISHES = {
    "promote": 40, "rollback": 8, "rollback_to": 5, "call_off": 5, "hold": 4, "release_hold": 16, "approve": 14, "skip": 4,
    "promote_skipping": 3, "override": 4, "quarantine": 4, "lift": 3, "revoke": 1, "stale_plan": 2,
}  # fmt: skip
"""What people ask for, and how often."""

UNHURT = (errors.NotAllowed, errors.NothingToDo, errors.Conflict, errors.Unavailable, errors.NotFound)
"""Answers that an operator must be ready for; anything else is a bug."""


class Person:
    """One operator with a connection of their own."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.context = world.context(world.line())

    def wish(self, draw: random.Random) -> str:
        """Something that comes to a person's mind."""
        return draw.choices(list(WISHES), list(WISHES.values()))[0]

    def ask(self, what: str, *, bundle: str | None = None) -> str:
        """Ask for it, and say what became of it. Whoever moves the service also moves its traffic at once, as the command does."""
        world, draw = self._world, self._world.draw
        try:
            before = self.context.ledger.newest(SERVICE)
            done = getattr(self, f"_{what}")(bundle)
            told = "nothing to do" if done is None else f"revision {done.revision.number}"
            if done is not None and done.revision.number > before and draw.random() < 0.7:
                self._flip(done)
        except UNHURT as error:
            told = f"{type(error).__name__}: {str(error)[:60]}"
        world.tally[f"asked {what}"] += 1
        return f"{self.name} {what} {bundle[7:13] if bundle else ''}: {told}"

    def _flip(self, done: release.Committed) -> None:
        world = self._world
        wanted = world.desired(self.context, done.revision.state)
        world.late_flips.append(wanted)
        reconcile.attempt(world.gateway, wanted, look_first=False, clock=world.clock)

    def _state(self) -> release.rollout.State:
        return self.context.ledger.state(SERVICE)

    def _some(self, bundle: str | None) -> str:
        return bundle or self._world.draw.choice(self._world.bundles)

    @property
    def _asks(self) -> release.Request:
        return release.Request(actor=self.name, reason="because")

    def _promote(self, bundle: str | None) -> release.Committed | None:
        state = self._state()
        known = [one for one in self._world.bundles if one != state.stable]
        return release.propose(self.context, SERVICE, bundle or self._world.draw.choice(known), self._asks)

    def _promote_skipping(self, bundle: str | None) -> release.Committed | None:
        return release.propose(self.context, SERVICE, self._some(bundle), self._asks, way=release.PhaseOverride(skip=True))

    def _override(self, bundle: str | None) -> release.Committed | None:
        return release.propose(self.context, SERVICE, self._some(bundle), self._asks, override="it was not the cause")

    def _skip(self, bundle: str | None) -> release.Committed | None:
        candidate = self._state().candidate
        if candidate is None:
            return None
        return release.propose(self.context, SERVICE, candidate, self._asks, way=release.PhaseOverride(skip=True))

    def _rollback(self, bundle: str | None) -> release.Committed:
        return release.roll_back(self.context, SERVICE, self._asks)

    def _rollback_to(self, bundle: str | None) -> release.Committed:
        return release.roll_back(self.context, SERVICE, self._asks, to=self._some(bundle))

    def _call_off(self, bundle: str | None) -> release.Committed | None:
        stable = self._state().stable
        return None if stable is None else release.roll_back(self.context, SERVICE, self._asks, to=stable)

    def _stale_plan(self, bundle: str | None) -> release.Committed:
        return release.roll_back(self.context, SERVICE, dataclasses.replace(self._asks, expected=self._state().revision - 1))

    def _hold(self, bundle: str | None) -> release.Committed:
        return release.hold(self.context, SERVICE, self._asks)

    def _release_hold(self, bundle: str | None) -> release.Committed:
        return release.release_hold(self.context, SERVICE, self._asks)

    def _approve(self, bundle: str | None) -> release.Committed:
        return release.approve(self.context, SERVICE, self._asks)

    def _condemn(self, bundle: str | None, kind: str) -> release.Committed:
        return release.condemn(self.context, SERVICE, self._some(bundle), self._asks, kind=kind)

    def _quarantine(self, bundle: str | None) -> release.Committed:
        return self._condemn(bundle, "quarantined")

    def _revoke(self, bundle: str | None) -> release.Committed:
        return self._condemn(bundle, "revoked")

    def _lift(self, bundle: str | None) -> release.Committed | None:
        marked = sorted(self.context.ledger.state(SERVICE, about=self._world.bundles).marks)
        if not marked:
            return None
        return release.lift(self.context, SERVICE, bundle or self._world.draw.choice(marked), self._asks)

"""Evidence from users with a key: each user counts once, and requests count for as much as they are worth.

What does not belong here: requests without a key (`proportions`), the gate's verdict on all of it (`error_rate`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from lastgood.gates.base import EMPTY, Group, Observation, Tally, Users
from lastgood.gates.evaluator import Setup
from lastgood.gates.first_failures import FirstFailures, more_active
from lastgood.gates.persistence import tail
from lastgood.gates.user_groups import UserGroups
from lastgood.service import gates


class UserEvidence:
    """The evidence from users with a key, each counted once, and the worth of their requests."""

    def __init__(self, gate: gates.ErrorRate, setup: Setup) -> None:
        self._margin = gate.margin
        # The other half of the alpha for rows of windows is for requests without a key.
        self._level = dataclasses.replace(setup, alpha=setup.alpha / 2).level(gate)
        self._chance = 0.0
        self._windows = setup.windows(gate, self._over)
        self.groups = UserGroups()
        self.firsts = FirstFailures(since=setup.since)
        self.seen = self.seen_beside = 0

    def take(self, users: Users, *, at: float, step: int) -> None:
        """Add what users did since the last look."""
        activity = self.groups.activity
        self._chance = more_active(users.share, activity)
        self.groups.take(users.groups, share=users.share)
        watched, beside = self.firsts.take(users.failed, share=users.share, activity=activity, at=at, step=step)
        tally, tally_beside = both_arms(users.groups)
        self._windows.take(at, dataclasses.replace(tally, total=watched), dataclasses.replace(tally_beside, total=beside))
        self.seen, self.seen_beside = max(self.seen, users.seen), max(self.seen_beside, users.seen_beside)

    def _over(self, watched: Tally, beside: Tally | None) -> bool | None:
        """Over the threshold both by requests and by users who fail for the first time, whose number is the `total`."""
        if not beside or not beside.n or not watched.n:
            return None
        if watched.bad / watched.n <= beside.bad / beside.n + self._margin:
            return False
        return tail(int(watched.total), int(watched.total + beside.total), self._chance) <= self._level

    @property
    def log_e(self) -> float:
        """Natural log of the e-value."""
        return self.firsts.log_e

    @property
    def failing(self) -> bool:
        """Whether enough windows in a row were over, and more users failed on the watched arm than by chance."""
        return self._windows.failing and self.firsts.more

    @property
    def streak(self) -> int:
        """Windows in a row that were over."""
        return self._windows.streak

    @property
    def story(self) -> str:
        """The counts, for people."""
        firsts, seen = self.firsts, f" of {self.seen:,}" if self.seen else ""
        return f"; {firsts.watched:,}{seen} users failed on it where {firsts.expected:,.1f} would be its share"


def both_arms(groups: Iterable[Group]) -> tuple[Tally, Tally]:
    """The requests of users of both arms, without their groups."""
    n = bad = n_beside = bad_beside = 0
    for group in groups:
        n, bad, n_beside, bad_beside = n + group.n, bad + group.bad, n_beside + group.n_beside, bad_beside + group.bad_beside
    return Tally(n=n, bad=bad), Tally(n=n_beside, bad=bad_beside)


def keyless(seen: Observation) -> tuple[Tally, Tally]:
    """The requests of both arms that came without a key; all of them where each request is assigned to an arm individually."""
    beside = seen.beside or EMPTY
    if seen.users is None:
        return seen.watched, beside
    watched, other = both_arms(seen.users.groups)
    return _without(seen.watched, watched), _without(beside, other)


def _without(tally: Tally, part: Tally) -> Tally:
    return dataclasses.replace(tally, n=max(tally.n - part.n, 0), bad=max(tally.bad - part.bad, 0))

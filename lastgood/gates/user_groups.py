"""Rates of requests whose spread is valid when users differ: sums by group of users, not requests taken as independent.

A user makes many requests, and if one of them is bad, often all are. Users are put into groups by a hash; the groups are
independent of each other, and the spread between them shows how many independent requests those of an arm are worth
(batch means over users; the delta method for ratios: Deng, Knoblich, Lu, Applying the delta method in metric analytics, 2018).

What does not belong here: who failed first (`first_failures`), bounds on a rate (`confidence`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lastgood.gates.base import GROUPS, Group


class Arm:
    """One arm's requests by group."""

    def __init__(self) -> None:
        self.n = [0] * GROUPS
        self.bad = [0] * GROUPS

    def add(self, group: int, n: int, bad: int) -> None:
        """Add some requests of the users of *group*."""
        self.n[group] += n
        self.bad[group] += bad

    @property
    def rate(self) -> float:
        """The fraction of bad requests; 0 if there are no requests."""
        return sum(self.bad) / max(sum(self.n), 1)

    @property
    def variance(self) -> float:
        """Variance of the rate, estimated from the groups; 0 before a second group."""
        used = sum(n > 0 for n in self.n)
        if used < 2:
            return 0.0
        rate = self.rate
        spread = math.fsum((bad - rate * n) ** 2 for n, bad in zip(self.n, self.bad, strict=True))
        # as in `confidence.Blocks`: the spread of few groups is itself uncertain
        return spread * (used + 2) / (used - 1) / sum(self.n) ** 2

    @property
    def effect(self) -> float:
        """How many requests are worth one independent request (design effect), at least 1."""
        rate, n = self.rate, sum(self.n)
        chance = rate * (1 - rate) / n if n else 0.0
        return max(1.0, self.variance / chance) if chance else 1.0


class UserGroups:
    """Both arms' requests by group of users, and the users' relative activity. Constant memory."""

    def __init__(self) -> None:
        self.watched, self.beside = Arm(), Arm()
        self._expected = [0.0] * GROUPS
        self._expected_beside = [0.0] * GROUPS

    def take(self, groups: Iterable[Group], *, share: float) -> None:
        """Add one look; the watched arm has the fraction *share* of the users."""
        for seen in groups:
            self.watched.add(seen.group, seen.n, seen.bad)
            self.beside.add(seen.group, seen.n_beside, seen.bad_beside)
            both = seen.n + seen.n_beside
            self._expected[seen.group] += share * both
            self._expected_beside[seen.group] += (1 - share) * both

    @property
    def fair(self) -> float:
        """How many requests the watched arm would have had if users of both arms were equally active."""
        return math.fsum(self._expected)

    @property
    def activity(self) -> float:
        """How many times as many requests a user of the watched arm makes as one of the other; 1 while that is unknown.

        Excludes the group that is most above its share: one user with very many requests does not make an arm more active.
        """
        most = max(range(GROUPS), key=lambda group: self.watched.n[group] - self._expected[group])
        watched, expected = (sum(of) - of[most] for of in (self.watched.n, self._expected))
        beside, expected_beside = (sum(of) - of[most] for of in (self.beside.n, self._expected_beside))
        if not watched or not beside or not expected or not expected_beside:
            return 1.0
        return (watched / expected) / (beside / expected_beside)

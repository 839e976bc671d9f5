"""Evidence that counts each user once: on which arm users fail for the first time.

Users, not requests, are assigned to the candidate at random, so several failures of one user are not independent evidence.
If the arm changes nothing, whether and when a user first fails does not depend on the arm either. Then each first failure falls
on the watched arm with exactly its share of the users, whatever the users are like and however often one of them fails.

A user's place in the draw is a number, uniform in [0, 1); the watched arm has the places below its share. When the share
changes (a step), counting starts anew: what earlier failures revealed about a user's place gives the chance that the next
one falls on the watched arm; a user whose arm is already certain adds no information.

What does not belong here: rates of requests and their spread (`user_groups`), the bets (`eprocess`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

from lastgood.gates import eprocess
from lastgood.gates.base import Failure

MOST_USERS = 50_000
"""Most users remembered because they failed; later ones are not counted. By then there is enough evidence, or none to be had."""

DEPLETED_Z = 3.0
"""By how many standard errors too many users of the watched arm must have failed, of all since the release began, before a later
start may fail the gate. After an outage of stable alone, nearly all users without a failure are the candidate's."""


def more_active(chance: float, activity: float) -> float:
    """The highest chance that a first failure falls on an arm with *chance* of the users, who make *activity* times as many requests.

    Never below *chance* itself: a bet that is fair for a higher chance is also fair for a lower one.
    """
    return max(chance, chance * activity / (1 - chance + chance * activity))


class Place(NamedTuple):
    """What is known of a user's place in the draw: it lies in [low, high). `step` is the last step in which it was counted."""

    low: float
    high: float
    step: int


UNKNOWN = Place(0.0, 1.0, -1)


@dataclasses.dataclass(slots=True)
class _Chance:
    """First failures with the same chance of falling on the watched arm."""

    watched: int = 0
    both: int = 0


class FirstFailures:
    """The e-process over users' first failures. Memory grows with the number of users who failed, up to MOST_USERS."""

    def __init__(self, *, since: float) -> None:
        self._places: dict[str, Place] = {}
        self._wealth = eprocess.Wealth(eprocess.RATIO_PRIOR, since=since)
        self._expected = self._variance = 0.0
        self.watched = self.beside = 0

    def take(self, failures: Iterable[Failure], *, share: float, activity: float, at: float, step: int) -> tuple[int, int]:
        """Add the users who failed, at the watched arm's *share* of the users; returns how many were new, on the watched and the other arm.

        *activity* is how many times as many requests its users make, as known beforehand: more active users fail sooner at the same rate.
        """
        chances: dict[float, _Chance] = {}
        new = [0, 0]
        for failure in failures:
            chance = self._place(failure, share=share, step=step)
            if chance is None:
                continue
            new[not failure.watched] += 1
            held = chances.setdefault(chance, _Chance())
            held.watched += failure.watched
            held.both += 1
        for chance, seen in chances.items():
            self._count(more_active(chance, activity), seen, at=at, step=step)
        return new[0], new[1]

    def _place(self, failure: Failure, *, share: float, step: int) -> float | None:
        """Narrow down the user's place; returns the chance that this failure fell there, None if it adds no information."""
        known = self._places.get(failure.user, UNKNOWN)
        if known.step == step or (known is UNKNOWN and len(self._places) >= MOST_USERS):
            return None
        edge = min(max(share, known.low), known.high)
        chance = (edge - known.low) / (known.high - known.low)
        if chance in (0.0, 1.0):
            # Its arm was already certain. If it is on the other one anyway, the proxy does not split by user, which another gate checks.
            self._places[failure.user] = known._replace(step=step)
            return None
        self._places[failure.user] = Place(known.low, edge, step) if failure.watched else Place(edge, known.high, step)
        return chance

    def _count(self, chance: float, seen: _Chance, *, at: float, step: int) -> None:
        self._wealth.grow(eprocess.above(seen.watched, seen.both, limit=chance), at=at, step=step)
        self._expected += seen.both * chance
        self._variance += seen.both * chance * (1 - chance)
        self.watched += seen.watched
        self.beside += seen.both - seen.watched

    @property
    def log_e(self) -> float:
        """Natural log of the e-value; only of its part that began with the release unless `more` holds."""
        return self._wealth.log_e if self.more else self._wealth.whole

    @property
    def expected(self) -> float:
        """The expected number of counted users on the watched arm if the arm changed nothing."""
        return self._expected

    @property
    def more(self) -> bool:
        """Whether more users failed on the watched arm than its share explains by chance."""
        return self.watched - self._expected >= DEPLETED_Z * math.sqrt(self._variance) > 0

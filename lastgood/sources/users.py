"""The users behind requests: who failed, how many there are, and their requests by group, for gates that count each user once.

A user is the name in the proxy's log, a hash keyed per home. Only users whom their key puts on an arm are counted; a request without
a key is assigned to an arm by itself.

What does not belong here: whose failure a request is (`requests`), what the numbers mean (`gates.user_evidence`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from lastgood.gates.base import GROUPS, Failure, Group, Users
from lastgood.gates.first_failures import MOST_USERS
from lastgood.layers.traffic.envoy.requests import Place, Request

NAME_DIGITS = 12
"""Hex digits kept of a user's name: of fifty thousand who failed, two share a name once in two hundred thousand releases."""

MOST_SEEN = 200_000
"""Users of one arm that are distinguished; with more of them the count is a lower bound."""


class Judged(NamedTuple):
    """A request that counts for its arm: whether the arm failed it, and whether its user got an error."""

    request: Request
    failed: bool
    user_error: bool


class Census:
    """The users of both arms of one comparison, in memory only: after a restart the count starts over, and failed users are named again."""

    def __init__(self) -> None:
        self._seen: tuple[set[str], set[str]] = (set(), set())
        self._named: set[Failure] = set()
        self._last: frozenset[Failure] = frozenset()
        self._share = 0.0
        self._end: Place | None = None

    def take(self, watched: Iterable[Judged], beside: Iterable[Judged], *, share: float, since: Place | None, end: Place) -> Users:
        """What the users of these requests did; *share* of all users are the watched arm's.

        A failed user is named once at each share, and at most MOST_USERS are, as many as a gate remembers. The requests are those in
        the log from *since* to *end*. If the previous reading did not end at *since*, it was not kept, and the users it named are named again.
        """
        if since != self._end:
            self._named -= self._last
        if share != self._share:
            self._share, self._named = share, set()
        counts = [[0, 0, 0, 0] for _ in range(GROUPS)]
        failed: dict[str, Failure] = {}
        for place, judged in ((0, watched), (1, beside)):
            for one in judged:
                user = one.request.user[:NAME_DIGITS]
                if not user:
                    continue
                self._note(user, place)
                group = counts[_group(user)]
                group[2 * place] += 1
                group[2 * place + 1] += one.failed
                if one.failed:
                    failed.setdefault(user, Failure(user, place == 0))
        # By name, which knows nothing of arms: whoever invents ids cannot make the ledger grow, nor choose whose failures are left out.
        fresh = sorted(frozenset(failed.values()) - self._named)[: max(MOST_USERS - len(self._named), 0)]
        self._last, self._end = frozenset(fresh), end
        self._named |= self._last
        groups = tuple(Group(number, *group) for number, group in enumerate(counts) if any(group))
        return Users(share=share, failed=tuple(fresh), groups=groups, seen=len(self._seen[0]), seen_beside=len(self._seen[1]))

    def _note(self, user: str, place: int) -> None:
        if len(self._seen[place]) < MOST_SEEN:
            self._seen[place].add(user)


def _group(user: str) -> int:
    return zlib.crc32(user.encode()) % GROUPS

"""Whose turn it is: no caller takes the capacity of all, and one that is alone has all of it.

Two names are known of a caller: the *user* that the request names (`traffic.user_header`, `traffic.user_cookie`), which
anybody can make up, and the *peer*, the address that the connection came from, which the proxy saw. A team's backend is one
peer with many users. So turns go round by peer, and for each peer by user: when nobody else waits, nobody is held back, and under
overload a peer with a thousand requests waits longer than one with a single one.

A user may have so many requests under way, and send so much feedback a minute; more is refused. Counts are those of one worker.

What does not belong here: what a request is (`app`); that the process as a whole has too much to do (the proxy's limits).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator

WAITING = 2_000
"""Requests that may wait for their turn in all; past that the peer that has the most of them is refused."""
_REMEMBERED = 10_000
"""Users whose feedback of the last minute is counted; the one that sent the least recently is forgotten."""

_Queue = deque["asyncio.Future[None]"]


class TooMany(Exception):
    """Refused for now; `retry_after_s` is when to ask again, in whole seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class UserBounds:
    """How much one user may have under way: *requests* at a time, *feedback* rows a minute. A request without a user has no bound."""

    def __init__(self, *, requests: int, feedback: int, clock: Callable[[], float]) -> None:
        self._requests, self._feedback, self._clock = requests, feedback, clock
        self._under_way: dict[str, int] = {}
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @contextlib.contextmanager
    def request(self, user: str | None) -> Iterator[None]:
        """A request is under way within the block. Raises TooMany."""
        if user is None:
            yield
            return
        under_way = self._under_way.get(user, 0)
        if under_way >= self._requests:
            raise TooMany(
                f"this user has {under_way} requests in progress, the most that one user may have; wait for an answer, or raise serving.user_requests",
                retry_after_s=1,
            )
        self._under_way[user] = under_way + 1
        try:
            yield
        finally:
            left = self._under_way[user] - 1
            if left:
                self._under_way[user] = left
            else:
                del self._under_way[user]

    def feedback(self, user: str | None, rows: int) -> None:
        """Take *rows* off what the user may send. Raises TooMany, and then takes nothing."""
        if user is None:
            return
        now = self._clock()
        left, at = self._allowance.get(user, (float(self._feedback), now))
        left = min(float(self._feedback), left + max(0.0, now - at) * self._feedback / 60)
        if rows > left:
            self._keep(user, left, now)
            raise TooMany(
                f"one user may send {self._feedback} rows of feedback a minute; send the rest later, or raise serving.user_feedback_per_min",
                retry_after_s=math.ceil(min(60.0, (rows - left) * 60 / self._feedback)),
            )
        self._keep(user, left - rows, now)

    def _keep(self, user: str, left: float, now: float) -> None:
        self._allowance[user] = (left, now)
        self._allowance.move_to_end(user)
        if len(self._allowance) > _REMEMBERED:
            self._allowance.popitem(last=False)


class Turns:
    """*slots* at a time, in turn by peer and user. For one event loop."""

    def __init__(self, slots: int, *, waiting: int = WAITING) -> None:
        self._free = slots
        self._most = waiting
        self._waiting = 0
        self._peers: OrderedDict[str, OrderedDict[str | None, _Queue]] = OrderedDict()
        """Who waits; the first peer is the next, and of it the first user."""

    @contextlib.asynccontextmanager
    async def turn(self, peer: str, user: str | None) -> AsyncIterator[None]:
        """Waits for a slot and has it within the block. Raises TooMany."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait(peer, user)
        try:
            yield
        finally:
            self._free += 1
            self._next()

    async def _wait(self, peer: str, user: str | None) -> None:
        if self._waiting >= self._most and self._count(peer) >= max(map(self._count, self._peers), default=0):
            raise TooMany("too many requests from this address are already waiting; send fewer at a time", retry_after_s=1)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._peers.setdefault(peer, OrderedDict()).setdefault(user, deque()).append(mine)
        self._waiting += 1
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # its turn came in the same moment
                self._free += 1
                self._next()
            else:
                self._leave(peer, user, mine)
            raise

    def _count(self, peer: str) -> int:
        return sum(map(len, self._peers.get(peer, {}).values()))

    def _leave(self, peer: str, user: str | None, mine: asyncio.Future[None]) -> None:
        users = self._peers.get(peer)
        queue = users.get(user) if users else None
        if queue and mine in queue:  # else it was passed over a moment ago
            queue.remove(mine)
            self._waiting -= 1
            self._tidy(peer, user)

    def _next(self) -> None:
        while self._free and self._waiting:
            peer, users = next(iter(self._peers.items()))
            user, queue = next(iter(users.items()))
            mine = queue.popleft()
            self._waiting -= 1
            users.move_to_end(user)
            self._peers.move_to_end(peer)
            self._tidy(peer, user)
            if not mine.done():
                self._free -= 1
                mine.set_result(None)

    def _tidy(self, peer: str, user: str | None) -> None:
        users = self._peers[peer]
        if not users[user]:
            del users[user]
        if not users:
            del self._peers[peer]

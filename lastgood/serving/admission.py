"""Fair queueing: no caller takes the capacity of all, and a caller that is alone has all of it.

A caller has two names: the *user* named in the request (`traffic.user_header`, `traffic.user_cookie`), which
anybody can make up, and the *peer*, the address of the connection as seen by the proxy. A team's backend is one
peer with many users. So turns rotate by peer, and within each peer by user: when nobody else waits, nobody is held back, and under
overload a peer with a thousand requests waits longer than one with a single request.

Each user may have a limited number of requests in progress, and send limited feedback per minute; more is refused. Limits apply per
worker.

What does not belong here: what a request is (`app`); overload of the process as a whole (the proxy's limits).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator

WAITING = 2_000
"""The most requests waiting in total; beyond that, the peer with the most waiting requests is refused."""
_REMEMBERED = 10_000
"""Users whose feedback of the last minute is counted; the one that has been quiet for longest is forgotten."""

_Queue = deque["asyncio.Future[None]"]


class TooMany(Exception):
    """Refused for now; `retry_after_s` is when to try again, in whole seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class UserBounds:
    """Limits of one user: *requests* in progress at a time, *feedback* rows per minute. A request without a user has no limit."""

    def __init__(self, *, requests: int, feedback: int, clock: Callable[[], float]) -> None:
        self._requests, self._feedback, self._clock = requests, feedback, clock
        self._under_way: dict[str, int] = {}
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @contextlib.contextmanager
    def request(self, user: str | None) -> Iterator[None]:
        """Count a request as in progress within the block. Raises TooMany."""
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
        """Deduct *rows* from the user's allowance. Raises TooMany, and then deducts nothing."""
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
    """*slots* at a time, rotating by peer and user. For a single event loop."""

    def __init__(self, slots: int, *, waiting: int = WAITING) -> None:
        self._free = slots
        self._most = waiting
        self._waiting = 0
        self._peers: OrderedDict[str, OrderedDict[str | None, _Queue]] = OrderedDict()
        """The waiting requests; the first peer is next, and within it the first user."""

    @contextlib.asynccontextmanager
    async def turn(self, peer: str, user: str | None) -> AsyncIterator[None]:
        """Wait for a slot and hold it within the block. Raises TooMany."""
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
            if mine.done() and not mine.cancelled():  # its turn came at the same moment
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
        if queue and mine in queue:  # otherwise it was skipped a moment ago
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

"""Which of several controllers currently does a piece of work, and makes the commits that need no person.

The holder of a lease also has its token. A change decided under a lease is committed only if the lease has not
changed hands since (`Ledger.append`), so a controller that was frozen, or slow, cannot act on outdated observations.
"""

from __future__ import annotations

from typing import NamedTuple

from lastgood import errors
from lastgood.ledger import queries, rows
from lastgood.ledger.session import Session

MAX_SKEW_S = 60.0
"""Seconds by which the clocks of two hosts may differ. A lease that ends later than such a clock allows was taken by a wrong
clock, and would otherwise lock out everybody until then."""


class Fence(NamedTuple):
    """Proof of having a lease: its name, its holder, and its token, which changes each time the lease changes hands."""

    name: str
    holder: str
    token: int


class Leases(Session):
    """The leases of a ledger, by name."""

    def lease(self, name: str, *, holder: str, now: float, ttl_s: float) -> bool:
        """Whether *holder* has the lease from *now* (Unix seconds) on; see `take_lease`."""
        return self.take_lease(name, holder=holder, now=now, ttl_s=ttl_s) is not None

    def take_lease(self, name: str, *, holder: str, now: float, ttl_s: float) -> Fence | None:
        """Proof that *holder* has the lease from *now* (Unix seconds) on: taken if it was free or over, renewed if it was its own.

        None if another holder has it. One compare-and-set, so of any number of controllers one gets it. While more than half of
        `ttl_s` seconds is left to the holder, its call only reads. A clock that is ahead by some seconds takes the lease that much
        early; the previous holder learns of it at its next call, so the two overlap by one iteration of its loop at most. Leases are
        compared by the callers' clocks: a holder that dies is replaced after `ttl_s` plus the difference of the clocks.
        """
        rows.check_text(name=name, holder=holder)
        until = rows.check_time(now + ttl_s)
        if ttl_s <= 0 or not name or not holder:
            raise errors.UsageError(f"invalid lease {name!r} of {holder!r} for {ttl_s!r} s; give both names and a positive time")
        with self.reading():
            found = self.dialect.fetch(queries.LEASE, name=name)
        if found and _is_held(found[0], now=now, ttl_s=ttl_s):
            if found[0]["holder"] != holder:
                return None
            if found[0]["until"] - now > ttl_s / 2:
                return Fence(name, holder, found[0]["token"])
        with self._writing(f"lease/{name}"):
            return self._take(name, holder=holder, now=now, until=until, ttl_s=ttl_s)

    def lease_holder(self, name: str, *, now: float = 0.0) -> str | None:
        """The last holder of the lease; None if there never was one, it was given up, or it was over by *now* (Unix seconds)."""
        with self.reading():
            found = self.dialect.fetch(queries.LEASE, name=name)
        return str(found[0]["holder"]) if found and found[0]["until"] > now else None

    def _take(self, name: str, *, holder: str, now: float, until: float, ttl_s: float) -> Fence | None:
        found = self.dialect.fetch(queries.LEASE, name=name)
        if not found:
            self.dialect.fetch(queries.ADD_LEASE, name=name, holder=holder, until=until)
            return Fence(name, holder, 1)
        lease = found[0]
        ours = lease["holder"] == holder
        if not ours and _is_held(lease, now=now, ttl_s=ttl_s):
            return None
        token = lease["token"] + (not ours)
        self.dialect.fetch(queries.TAKE_LEASE, name=name, holder=holder, until=until, token=token)
        return Fence(name, holder, token)

    def _check_fence(self, fence: Fence) -> None:
        """Raise Conflict if the lease has changed hands; it cannot until the transaction is over."""
        if not self.dialect.fetch(queries.HOLD_LEASE, name=fence.name, holder=fence.holder, token=fence.token):
            raise errors.Conflict(
                f"{fence.holder} no longer holds the lease {fence.name!r}, so it may not decide; the present holder decides"
            )

    def give_up_lease(self, name: str, *, holder: str) -> None:
        """Release the lease at once; no effect if *holder* does not have it."""
        with self._writing(f"lease/{name}"):
            self.dialect.fetch(queries.END_LEASE, name=name, holder=holder)


def _is_held(lease: rows.Record, *, now: float, ttl_s: float) -> bool:
    return bool(now < lease["until"] <= now + ttl_s + MAX_SKEW_S)

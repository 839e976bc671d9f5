"""Who of several controllers does a piece of work just now.

A lease saves double work and nothing else. Safety never rests on it: two that act at once are sorted out by the
compare-and-set of revisions.
"""

from __future__ import annotations

from lastgood import errors
from lastgood.ledger import queries, rows
from lastgood.ledger.session import Session

MAX_SKEW_S = 60.0
"""Seconds that the clocks of two hosts may differ. A lease that ends later than such a clock can mean was taken by one
that was wrong, and would otherwise keep everybody out until then."""


class Leases(Session):
    """The leases of a ledger, by name."""

    def lease(self, name: str, *, holder: str, now: float, ttl_s: float) -> bool:
        """Whether *holder* has the lease from *now* (Unix seconds): taken if it was free or over, renewed if it was its own.

        One compare-and-set, so of any number of controllers one gets it. While more than half of `ttl_s` seconds is left
        to the holder, its call only reads. A clock that is ahead by some seconds takes the lease that much early; the
        holder before learns of it at its next call, so the two overlap by one turn of its loop at most. Leases are
        compared by the callers' clocks: a holder that dies is replaced after `ttl_s` and the difference of the clocks.
        """
        rows.check_text(name=name, holder=holder)
        until = rows.check_time(now + ttl_s)
        if ttl_s <= 0 or not name or not holder:
            raise errors.UsageError(f"lease {name!r} of {holder!r} for {ttl_s!r} s is none; give both names and a positive time")
        with self.reading():
            found = self.dialect.fetch(queries.LEASE, name=name)
        if found and _is_held(found[0], now=now, ttl_s=ttl_s):
            if found[0]["holder"] != holder:
                return False
            if found[0]["until"] - now > ttl_s / 2:
                return True
        with self._writing(f"lease/{name}"):
            return self._take(name, holder=holder, now=now, until=until, ttl_s=ttl_s)

    def _take(self, name: str, *, holder: str, now: float, until: float, ttl_s: float) -> bool:
        found = self.dialect.fetch(queries.LEASE, name=name)
        if not found:
            self.dialect.fetch(queries.ADD_LEASE, name=name, holder=holder, until=until)
            return True
        lease = found[0]
        ours = lease["holder"] == holder
        if not ours and _is_held(lease, now=now, ttl_s=ttl_s):
            return False
        self.dialect.fetch(queries.TAKE_LEASE, name=name, holder=holder, until=until, token=lease["token"] + (not ours))
        return True

    def give_up_lease(self, name: str, *, holder: str) -> None:
        """Let somebody else have the lease at once; nothing happens if *holder* does not have it."""
        with self._writing(f"lease/{name}"):
            self.dialect.fetch(queries.END_LEASE, name=name, holder=holder)


def _is_held(lease: rows.Row, *, now: float, ttl_s: float) -> bool:
    return bool(now < lease["until"] <= now + ttl_s + MAX_SKEW_S)

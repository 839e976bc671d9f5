"""Who decides for a service what is done without a person: whoever has its lease in the ledger, and nobody else.

The lease is proven with every commit (`ledger.leases.Fence`). A process of this host that died keeps nobody waiting: the next
one of the same host takes over at once. One that only seems to be dead loses nothing but its turn, for its token is old then.

What does not belong here: what is decided (`release.advance`), and on what (`readiness`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from lastgood import errors
from lastgood.core.state import State
from lastgood.hosts import readiness
from lastgood.ledger import Fence, Ledger
from lastgood.settings import Settings
from lastgood.system import processes

_NUMBERS = itertools.count()


def lease_name(service: str) -> str:
    """The lease of whoever decides for *service*."""
    return f"gates/{service}"


def drift_lease_name(service: str) -> str:
    """The lease of whoever decides what a drift alarm of *service* comes to: minutes of work, while the gates go on."""
    return f"drift/{service}"


def holder(settings: Settings) -> str:
    """A new name for a holder in this process, from which others on this host can tell whether the process lives."""
    own = processes.current()
    return f"{readiness.host(settings)} {own.pid} {own.started} {next(_NUMBERS)}"


def decide(ledger: Ledger, state: State, view: readiness.View, *, holder: str, ttl_s: float) -> Fence | None:
    """Proof that *holder* decides for the service of *state* at the time of *view*; None if somebody else does.

    A host on which what serves is not ready leaves that to those on which it was when they were heard of last: they have its
    bytes, its traffic and its log. So a host that has none of it measures nothing and decides nothing, also while they are silent.
    """
    name, arm = lease_name(state.service), state.stable or state.candidate
    homes = view.homes(arm) if arm is not None else frozenset()
    if homes and holder.split(" ", maxsplit=1)[0] not in homes:
        if ledger.lease_holder(name, now=view.now) == holder:
            ledger.give_up_lease(name, holder=holder)
        return None
    return acquire(ledger, name, holder=holder, now=view.now, ttl_s=ttl_s)


def acquire(ledger: Ledger, name: str, *, holder: str, now: float, ttl_s: float) -> Fence | None:
    """Proof that *holder* has the lease *name* from now on; None if somebody else has. A dead process of the same host is succeeded at once."""
    fence = ledger.take_lease(name, holder=holder, now=now, ttl_s=ttl_s)
    if fence is not None:
        return fence
    other = ledger.lease_holder(name)
    if other is None or not _died_here(other, like=holder):
        return None
    ledger.give_up_lease(name, holder=other)
    return ledger.take_lease(name, holder=holder, now=now, ttl_s=ttl_s)


def _died_here(other: str, *, like: str) -> bool:
    """Whether *other* was a process of the same host and home, and is gone."""
    host, *process = other.split(" ")
    if host != like.split(" ", maxsplit=1)[0] or len(process) != 3 or not process[0].isdecimal():
        return False
    return not processes.alive(processes.Record(pid=int(process[0]), started=process[1]))


@contextlib.contextmanager
def given_up(ledger: Ledger, name: str, *, holder: str) -> Iterator[None]:
    """Afterwards *holder* leaves the lease to others, if it has it."""
    try:
        yield
    finally:
        with contextlib.suppress(errors.LastgoodError):
            if ledger.lease_holder(name) == holder:
                ledger.give_up_lease(name, holder=holder)

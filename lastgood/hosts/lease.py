"""Which process makes the automatic decisions for a service: only the one that has its lease in the ledger.

The lease is proven with every commit (`ledger.leases.Fence`). A dead process of this host delays nobody: the next one on the same
host takes over at once. One that only seems dead loses nothing but its turn, because its token is then old.

What does not belong here: what is decided (`release.advance`), and on what basis (`readiness`).
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
    """Name of the lease for decisions about *service*."""
    return f"gates/{service}"


def drift_lease_name(service: str) -> str:
    """Name of the lease for deciding a drift alarm of *service*: minutes of work, while the gates continue."""
    return f"drift/{service}"


def holder(settings: Settings) -> str:
    """A new name for a holder in this process, from which others on this host can determine whether the process is alive."""
    own = processes.current()
    return f"{readiness.host(settings)} {own.pid} {own.started} {next(_NUMBERS)}"


def decide(ledger: Ledger, state: State, view: readiness.View, *, holder: str, ttl_s: float) -> Fence | None:
    """Proof that *holder* decides for the service of *state* at the time of *view*; None if another process does.

    A host on which the serving bundle is not ready leaves that to those on which it was when last heard of: they have its bytes, its
    traffic and its log. So a host that has none of it measures nothing and decides nothing, even while they are silent.
    """
    name, arm = lease_name(state.service), state.stable or state.candidate
    homes = view.homes(arm) if arm is not None else frozenset()
    if homes and holder.split(" ", maxsplit=1)[0] not in homes:
        if ledger.lease_holder(name, now=view.now) == holder:
            ledger.give_up_lease(name, holder=holder)
        return None
    return acquire(ledger, name, holder=holder, now=view.now, ttl_s=ttl_s)


def acquire(ledger: Ledger, name: str, *, holder: str, now: float, ttl_s: float) -> Fence | None:
    """Proof that *holder* has the lease *name* from now on; None if another has it. Succeeds a dead process of the same host at once."""
    fence = ledger.take_lease(name, holder=holder, now=now, ttl_s=ttl_s)
    if fence is not None:
        return fence
    other = ledger.lease_holder(name)
    if other is None or not _died_here(other, like=holder):
        return None
    ledger.give_up_lease(name, holder=other)
    return ledger.take_lease(name, holder=holder, now=now, ttl_s=ttl_s)


def _died_here(other: str, *, like: str) -> bool:
    """Whether *other* was a process of the same host and home, and no longer exists."""
    host, *process = other.split(" ")
    if host != like.split(" ", maxsplit=1)[0] or len(process) != 3 or not process[0].isdecimal():
        return False
    return not processes.alive(processes.Record(pid=int(process[0]), started=process[1]))


@contextlib.contextmanager
def given_up(ledger: Ledger, name: str, *, holder: str) -> Iterator[None]:
    """Context: on exit, *holder* releases the lease, if it has it."""
    try:
        yield
    finally:
        with contextlib.suppress(errors.LastgoodError):
            if ledger.lease_holder(name) == holder:
                ledger.give_up_lease(name, holder=holder)

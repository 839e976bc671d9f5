"""A promotion and a rollback as three operations that may be repeated; the body of every crash test.

python -m tests.ledger.scenario URL      prints the name of each operation once it is acknowledged
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import CutOver, Effect, Propose, RollBack
from lastgood.core.state import State
from lastgood.ledger import Ledger, audit, connect
from lastgood.system import signing
from tests.ledger.world import SERVICE, Everything, digest, promote, register

BASE = 4
OPERATIONS = ("propose", "cut over", "roll back")
_EVENTS = (
    Propose(bundle=digest(3), verified=True),
    CutOver(bundle=digest(3), bake_s=60),
    RollBack(reason="bad answers", verified=Everything()),
)


def prepare(url: str, keys: Path | None = None) -> None:
    """A ledger where bundle 2 serves and 1 is previous, signed with *keys*."""
    with connect(url) as ledger:
        ledger.migrate()
        register(ledger, 1, 2, 3)
        promote(ledger, digest(1))
        promote(ledger, digest(2))
        if keys is not None:
            audit.checkpoint(ledger, SERVICE, keys)


def states() -> list[tuple[State, tuple[Effect, ...]]]:
    """The base state and what each operation makes of it, computed without a ledger."""
    state = State(service=SERVICE)
    for number in (1, 2):
        for event in (Propose(bundle=digest(number), verified=True), CutOver(bundle=digest(number), bake_s=60)):
            state, _ = transitions.step(state, event, 100.0)
    found: list[tuple[State, tuple[Effect, ...]]] = [(state, ())]
    for event in _EVENTS:
        found.append(transitions.step(found[-1][0], event, 200.0))
    return found


def run(url: str, keys: Path | None = None) -> Iterator[str]:
    """Do the three operations, each under its own name; yields each name when it is acknowledged."""
    with connect(url) as ledger:
        for name, (state, effects) in zip(OPERATIONS, states()[1:], strict=True):
            ledger.append(state, effects, verb=name, actor="op", reason="r", now=200.0, operation=name)
            yield name
            if keys is not None:
                audit.checkpoint(ledger, SERVICE, keys)


def check(url: str, acknowledged: list[str], keys: Path) -> None:
    """Nothing acknowledged is lost, the state is one of the four that may be, and the trail is whole."""
    with connect(url) as ledger:
        done = _operations(ledger)
        assert done == list(OPERATIONS[: len(done)]), done
        assert acknowledged == done[: len(acknowledged)], (acknowledged, done)
        assert ledger.state(SERVICE) == states()[len(done)][0]
        report = audit.verify(ledger, SERVICE, keys)
        assert report.problems == ()


def repeat(url: str, keys: Path) -> None:
    """Whoever does not know the outcome repeats the operations: each has been applied once in the end."""
    assert list(run(url, keys if (keys / signing.PUBLIC).exists() else None)) == list(OPERATIONS)
    check(url, list(OPERATIONS), keys)


def _operations(ledger: Ledger) -> list[str]:
    return [str(r.operation) for r in reversed(ledger.history(SERVICE)) if r.number > BASE]


if __name__ == "__main__":
    try:
        for acknowledged in run(sys.argv[1]):
            os.write(1, f"{acknowledged}\n".encode())
    except errors.Unavailable as refused:
        os.write(2, f"{refused}\n".encode())
        sys.exit(3)

"""Many operators at once, and a Postgres that dies under them."""

from __future__ import annotations

import collections
import json
import multiprocessing
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import Effect, ReleaseHold, SetHold
from lastgood.core.state import State
from lastgood.ledger import Ledger, audit, connect
from tests import postgres
from tests.ledger.world import SERVICE, act, decide, promote, register

OPERATORS = 4
ROUNDS = 6
DEADLINE_S = 60.0


def _toggle(ledger: Ledger, name: str) -> tuple[State, tuple[Effect, ...]]:
    held = ledger.state(SERVICE).hold is not None
    return decide(ledger, ReleaseHold() if held else SetHold(reason=name, actor=name), now=100.0)


def _operator(url: str, name: str, barrier: Barrier, out: Path) -> None:
    """In each round: all look, then all act on what they saw."""
    outcomes: list[int | str] = []
    with connect(url, busy_timeout_s=30.0) as ledger:
        for _ in range(ROUNDS):
            barrier.wait(DEADLINE_S)
            state, effects = _toggle(ledger, name)
            barrier.wait(DEADLINE_S)
            try:
                outcomes.append(ledger.append(state, effects, verb="hold", actor=name, reason="r", now=100.0).number)
            except errors.Conflict as conflict:
                outcomes.append(str(conflict))
    out.write_text(json.dumps(outcomes))


def test_one_of_many_operators_wins_each_round(ledger: Ledger, url: str, tmp_path: Path, keys: Path):
    """Of processes that decide on the same state exactly one commits; the others learn who was faster; no revision is lost."""
    (first,) = register(ledger, 1)
    promote(ledger, first)
    ledger.close()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(OPERATORS)
    files = [tmp_path / f"operator-{n}.json" for n in range(OPERATORS)]
    operators = [context.Process(target=_operator, args=(url, f"operator-{n}", barrier, file)) for n, file in enumerate(files)]
    for operator in operators:
        operator.start()
    for operator in operators:
        operator.join(DEADLINE_S)
    assert [operator.exitcode for operator in operators] == [0] * OPERATORS
    outcomes = [json.loads(file.read_text()) for file in files]
    for number, together in enumerate(zip(*outcomes, strict=True), start=3):
        assert [outcome for outcome in together if isinstance(outcome, int)] == [number]
        losers = [outcome for outcome in together if isinstance(outcome, str)]
        winner = ledger.revision(SERVICE, number).actor
        assert all(f"already at revision {number}: {winner} did" in loser for loser in losers), losers
    assert ledger.newest(SERVICE) == 2 + ROUNDS
    assert audit.verify(ledger, SERVICE, keys.parent / "unsigned").ok


def test_a_killed_postgres_loses_nothing_that_was_acknowledged(budget: float, tmp_path: Path):
    """The server is killed while an operator commits; he repeats what he is not sure of, and each change is there once."""
    kills = max(2, round(2 * budget))
    acknowledged: list[str] = []
    stop = threading.Event()
    refusals: collections.Counter[str] = collections.Counter()
    with postgres.serving(durable=True) as server:
        url = server.create_schema()
        with connect(url) as ledger:
            ledger.migrate()
            register(ledger, 1)
        writer = threading.Thread(target=_write_until, args=(url, stop, acknowledged, refusals))
        writer.start()
        for _ in range(kills):
            enough, deadline = len(acknowledged) + 10, time.monotonic() + DEADLINE_S
            while len(acknowledged) < enough:
                assert writer.is_alive()
                assert time.monotonic() < deadline, refusals
                time.sleep(0.005)
            server.kill()
            server.start()
        stop.set()
        writer.join(DEADLINE_S)
        assert not writer.is_alive()
        with connect(url) as ledger:
            operations = [r.operation for r in reversed(ledger.history(SERVICE, limit=100_000))]
            assert operations == acknowledged
            assert audit.verify(ledger, SERVICE, tmp_path / "keys").ok
    assert sum(refusals.values()) >= 1, "no kill hit an operator at work"


def _write_until(url: str, stop: threading.Event, acknowledged: list[str], refusals: collections.Counter[str]) -> None:
    with connect(url, busy_timeout_s=5.0) as ledger:
        state, effects = _toggle(ledger, "op")
        while not stop.is_set() or len(acknowledged) < state.revision:
            operation = f"operation {state.revision}"
            try:
                ledger.append(state, effects, verb="hold", actor="op", reason="r", now=100.0, operation=operation)
            except errors.Unavailable as refused:
                refusals[str(refused)[:60]] += 1
                time.sleep(0.02)
                continue
            acknowledged.append(operation)
            event = ReleaseHold() if state.hold else SetHold(reason="op", actor="op")
            if stop.is_set():
                return
            state, effects = transitions.step(state, event, 100.0)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_connection_that_the_server_ended_is_replaced(ledger: Ledger, url: str):
    """After the server has dropped the connection one call fails with a clear error and the next one works."""
    register(ledger, 1)
    with connect(url) as other:
        other.newest(SERVICE)
        other.dialect.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'lastgood'"
        )
    with pytest.raises(errors.Unavailable, match="cannot be reached"):
        act(ledger, SetHold(reason="r", actor="a"))
    assert act(ledger, SetHold(reason="r", actor="a")).number == 1

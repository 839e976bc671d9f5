"""What hosts say of their workers, and commits that only the holder of a lease may make."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import SetHold
from lastgood.ledger import Ledger, Seen, audit, connect, migrate
from tests.ledger import foreign
from tests.ledger.world import SERVICE, digest, promote, register

NAME = "gates/flights"


def said(ledger: Ledger) -> list[tuple[str, str, bool, float, float]]:
    """Arm, host, ready, since and seen_at of each row."""
    return [(row.arm, row.host, row.ready, row.since, row.seen_at) for row in ledger.readiness(SERVICE)]


def test_each_host_has_rows_of_its_own(ledger: Ledger):
    """A report replaces what that host said, of that service, and touches nobody else's; `since` stays while nothing changes."""
    ledger.report_readiness(
        SERVICE, host="one", seen={"a": Seen(ready=True), "b": Seen(ready=False, failures=2, detail="no disk\0")}, now=10.0
    )
    ledger.report_readiness(SERVICE, host="two", seen={"a": Seen(ready=False)}, now=11.0)
    ledger.report_readiness("other", host="one", seen={"a": Seen(ready=True)}, now=12.0)
    assert said(ledger) == [("a", "one", True, 10.0, 10.0), ("a", "two", False, 11.0, 11.0), ("b", "one", False, 10.0, 10.0)]
    assert [(row.failures, row.detail) for row in ledger.readiness(SERVICE) if row.arm == "b"] == [(2, "no disk?")]
    ledger.report_readiness(SERVICE, host="one", seen={"a": Seen(ready=True)}, now=20.0)
    assert said(ledger) == [("a", "one", True, 10.0, 20.0), ("a", "two", False, 11.0, 11.0)]
    ledger.report_readiness(SERVICE, host="one", seen={"a": Seen(ready=False)}, now=21.0)
    ledger.report_readiness(SERVICE, host="two", seen={}, now=21.0)
    assert said(ledger) == [("a", "one", False, 21.0, 21.0)]
    assert len(ledger.readiness("other")) == 1


def test_a_change_decided_under_a_lost_lease_is_not_committed(ledger: Ledger):
    """The token is checked in the transaction: after the lease has changed hands, also back again, nothing of the first holder goes in."""
    register(ledger, 1)
    promote(ledger, digest(1))
    held = transitions.step(ledger.state(SERVICE), SetHold(reason="r", actor="a"), 200.0)
    asked = {"verb": "hold", "actor": "a", "reason": "r", "now": 200.0}
    first = ledger.take_lease(NAME, holder="a", now=100.0, ttl_s=15.0)
    assert first is not None
    assert ledger.take_lease(NAME, holder="b", now=101.0, ttl_s=15.0) is None
    assert ledger.take_lease(NAME, holder="b", now=200.0, ttl_s=15.0) is not None
    again = ledger.take_lease(NAME, holder="a", now=300.0, ttl_s=15.0)
    assert again is not None
    before = ledger.newest(SERVICE)
    with pytest.raises(errors.Conflict, match="no longer holds the lease"):
        ledger.append(*held, **asked, fence=first)
    assert ledger.newest(SERVICE) == before
    assert ledger.append(*held, **asked, fence=again).number == before + 1


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_lease_does_not_change_hands_within_a_commit(ledger: Ledger, url: str):
    """Between the check of the token and the commit nobody takes the lease over; whoever wants it waits that long."""
    register(ledger, 1)
    promote(ledger, digest(1))
    fence = ledger.take_lease(NAME, holder="a", now=100.0, ttl_s=15.0)
    assert fence is not None
    taken = threading.Event()

    def take() -> None:
        with connect(url) as other:
            assert other.take_lease(NAME, holder="b", now=200.0, ttl_s=15.0) is not None
        taken.set()

    thread = threading.Thread(target=take)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE lease%'"
    with ledger._writing(SERVICE):
        ledger._check_fence(fence)
        thread.start()
        with foreign.connected(url) as watcher:
            while watcher.run(waiting)[0][0] == 0:
                assert not taken.is_set()
    thread.join(20)
    assert taken.is_set()


def test_a_ledger_of_the_second_schema_is_brought_up_to_date(url: str, keys: Path):
    """Nothing in it changes; a reader of this release that does not migrate finds no rows; the release before works on afterwards."""
    known = migrate.migrations_of
    with pytest.MonkeyPatch.context() as earlier, connect(url) as old:
        earlier.setattr(migrate, "migrations_of", lambda engine: known(engine)[:2])
        old.migrate()
        register(old, 1, 2)
        promote(old, digest(1))
        assert old.lease(NAME, holder="a", now=1.0, ttl_s=1.0)
        audit.checkpoint(old, SERVICE, keys)
        assert old.schema_version() == 2
    with connect(url, read_only=True) as reader:
        assert reader.readiness(SERVICE) == []
    with foreign.connected(url) as client:
        tables = [table for table in foreign.TABLES if table not in ("readiness", "schema_version")]
        before = {table: sorted(client.run(f"SELECT * FROM {table}"), key=repr) for table in tables}
        with connect(url) as ledger:
            ledger.migrate()
            assert ledger.schema_version() == migrate.ours("sqlite") >= 3
            after = client.dump()
            assert {table: after[table] for table in tables} == before
            ledger.report_readiness(SERVICE, host="one", seen={digest(1): Seen(ready=True)}, now=10.0)
            assert [row.ready for row in ledger.readiness(SERVICE)] == [True]
            assert audit.verify(ledger, SERVICE, keys).ok
    with pytest.MonkeyPatch.context() as earlier, connect(url) as old:
        earlier.setattr(migrate, "migrations_of", lambda engine: known(engine)[:2])
        promote(old, digest(2))
        assert old.state(SERVICE).stable == digest(2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE readiness SET host = 'two'",
        "INSERT INTO readiness SELECT * FROM readiness",
        "INSERT INTO readiness VALUES ('s', 'a', 'h', 2, 0, 1, 1, '')",
        "INSERT INTO readiness VALUES ('s', 'a', 'h', 1, 0, 1, 1e13, '')",
    ],
)
def test_a_foreign_client_cannot_bend_a_row(ledger: Ledger, url: str, statement: str):
    """What a host said is replaced by that host's name only, and holds what can be read back."""
    ledger.report_readiness(SERVICE, host="one", seen={"a": Seen(ready=True)}, now=10.0)
    with foreign.connected(url) as client, pytest.raises(foreign.REFUSALS):
        client.run(statement)
    assert said(ledger) == [("a", "one", True, 10.0, 10.0)]

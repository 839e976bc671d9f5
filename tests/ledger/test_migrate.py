"""Going to the next release of lastgood and back to the previous one, on the same ledger."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from lastgood import errors, rollout
from lastgood.ledger import Ledger, audit, connect, migrate
from tests.ledger import foreign
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back

NEXT = "ALTER TABLE revision ADD COLUMN approved_by TEXT;\nCREATE TABLE approval (service TEXT, number BIGINT, person TEXT);\n"


def _as_next_release(monkeypatch: pytest.MonkeyPatch, *, min_reader: int, text: str = NEXT) -> None:
    known = migrate.known
    monkeypatch.setattr(migrate, "known", lambda engine: (*known(engine), migrate.Migration(version=2, min_reader=min_reader, text=text)))


def test_the_previous_release_reads_and_writes_the_next_schema(ledger: Ledger, url: str, keys: Path):
    """After a later release has added a nullable column and a table, this one promotes, rolls back and verifies as before."""
    register(ledger, 1, 2, 3)
    promote(ledger, digest(1))
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=1)
        with connect(url) as upgraded:
            upgraded.migrate()
            assert upgraded.schema_version() == 2
    for connection in (ledger, connect(url)):
        with connection:
            connection.migrate()
            assert connection.schema_version() == 2
            promote(connection, digest(2))
            assert roll_back(connection).state.stable == digest(1)
            act(connection, rollout.Propose(bundle=digest(2), verified=True, override="again"))
            act(connection, rollout.Abandon(bundle=digest(2), reason="x"))
            assert audit.verify(connection, SERVICE, keys.parent / "unsigned").problems == ()


def test_a_ledger_that_needs_a_later_release_says_so(ledger: Ledger, url: str):
    """If the schema can no longer be used by this release, every call says which schema it needs and to upgrade."""
    register(ledger, 1)
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=2)
        with connect(url) as upgraded:
            upgraded.migrate()
    for call in (lambda: ledger.state(SERVICE), lambda: register(ledger, 2), ledger.migrate, ledger.schema_version):
        with pytest.raises(errors.LastgoodError, match="needs a release that knows schema 2; this one knows 1; upgrade lastgood"):
            call()


def test_a_failing_migration_leaves_nothing(ledger: Ledger, url: str):
    """The statements before the one that fails are taken back too."""
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=1, text=NEXT + "SELECT nonsense FROM nowhere;\n")
        with connect(url) as upgraded, pytest.raises(errors.LastgoodError):
            upgraded.migrate()
    assert ledger.schema_version() == 1
    assert "approval" not in ledger.dialect.tables()
    with foreign.connected(url) as client, pytest.raises(foreign.REFUSALS):
        client.run("SELECT approved_by FROM revision")


def _migrate(url: str) -> None:
    with connect(url, busy_timeout_s=30.0) as ledger:
        ledger.migrate()
        register(ledger, 1)


def test_many_processes_may_set_up_one_ledger(url: str):
    """Four first starts at once make one schema, and all go on to work."""
    context = multiprocessing.get_context("fork")
    starters = [context.Process(target=_migrate, args=(url,)) for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(60)
    assert [starter.exitcode for starter in starters] == [0] * 4
    with connect(url) as ledger:
        assert (ledger.schema_version(), len(ledger.bundles(SERVICE))) == (1, 1)


def test_both_engines_have_the_same_tables(postgres_server, tmp_path: Path):
    """The two files of each migration make tables of the same names and columns, and guards for the same tables."""
    with connect(f"sqlite:///{tmp_path / 'ledger.db'}") as one, connect(postgres_server.create_schema()) as two:
        one.migrate()
        two.migrate()
        columns = "SELECT column_name AS name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = :name ORDER BY ordinal_position"
        for table in foreign.TABLES:
            names = [row["name"] for row in one.dialect.fetch("SELECT name FROM pragma_table_info(:name)", name=table)]
            assert names == [row["name"] for row in two.dialect.fetch(columns, name=table)]
            for ledger in (one, two):
                assert {f"{table}_guard"} <= set(ledger.dialect.schema())
        assert one.dialect.tables() == two.dialect.tables() == frozenset(foreign.TABLES)


def test_migrations_are_numbered_without_a_gap():
    """Both engines know the same versions, from 1 on."""
    versions = {engine: [step.version for step in migrate.known(engine)] for engine in ("sqlite", "postgres")}
    assert versions["sqlite"] == versions["postgres"] == list(range(1, len(versions["sqlite"]) + 1))

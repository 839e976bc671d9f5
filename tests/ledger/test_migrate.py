"""Going to the next release of lastgood and back to the previous one, on the same ledger."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import Abandon, Paged, Propose, SetHold
from lastgood.ledger import Ledger, audit, connect, migrate
from tests.ledger import foreign
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back

NEXT = "ALTER TABLE revision ADD COLUMN approved_by TEXT;\nCREATE TABLE approval (service TEXT, number BIGINT, person TEXT);\n"


OURS = migrate.ours("sqlite")


def _as_next_release(monkeypatch: pytest.MonkeyPatch, *, min_reader: int, text: str = NEXT) -> None:
    known, following = migrate.migrations_of, migrate.Migration(version=OURS + 1, min_reader=min_reader, text=text)
    monkeypatch.setattr(migrate, "migrations_of", lambda engine: (*known(engine), following))


def _as_first_release(monkeypatch: pytest.MonkeyPatch) -> None:
    known = migrate.migrations_of
    monkeypatch.setattr(migrate, "migrations_of", lambda engine: known(engine)[:1])


def test_the_previous_release_reads_and_writes_the_next_schema(ledger: Ledger, url: str, keys: Path):
    """After a later release has added a nullable column and a table, this one promotes, rolls back and verifies as before."""
    register(ledger, 1, 2, 3)
    promote(ledger, digest(1))
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=OURS)
        with connect(url) as upgraded:
            upgraded.migrate()
            assert upgraded.schema_version() == OURS + 1
    for connection in (ledger, connect(url)):
        with connection:
            connection.migrate()
            assert connection.schema_version() == OURS + 1
            promote(connection, digest(2))
            assert roll_back(connection).state.stable == digest(1)
            act(connection, Propose(bundle=digest(2), verified=True, override="again"))
            act(connection, Abandon(bundle=digest(2), reason="x"))
            assert audit.verify(connection, SERVICE, keys.parent / "unsigned").problems == ()


def test_a_ledger_that_needs_a_later_release_says_so(ledger: Ledger, url: str):
    """If the schema can no longer be used by this release, every call says which schema it needs and to upgrade."""
    register(ledger, 1)
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=OURS + 1)
        with connect(url) as upgraded:
            upgraded.migrate()
    for call in (lambda: ledger.state(SERVICE), lambda: register(ledger, 2), ledger.migrate, ledger.schema_version):
        with pytest.raises(
            errors.LastgoodError, match=f"needs a release that knows schema {OURS + 1}; this one knows {OURS}; upgrade lastgood"
        ):
            call()


def _first_release(url: str, keys: Path) -> str:
    """A ledger made by the first release, with a row in each of its tables; the hash of its newest audit entry."""
    with pytest.MonkeyPatch.context() as earlier, connect(url) as ledger:
        _as_first_release(earlier)
        ledger.migrate()
        register(ledger, 1, 2, 3)
        promote(ledger, digest(1))
        promote(ledger, digest(2))
        roll_back(ledger)
        ledger.evaluate(digest(1), kind="offline", report={"auc": 0.7}, actor="ci", now=1.0)
        ledger.note(SERVICE, kind="n", body={"x": 1}, actor="ann", now=1.0)
        audit.checkpoint(ledger, SERVICE, keys)
        report = audit.verify(ledger, SERVICE, keys)
        assert report.ok
        assert ledger.schema_version() == 1
        return report.head


def test_a_ledger_of_the_first_release_is_brought_up_to_date(url: str, keys: Path):
    """Nothing in it changes, the audit verifies before and after, and leases, measurements and pages work."""
    head = _first_release(url, keys)
    with foreign.connected(url) as client:
        tables = ("bundle", "revision", "mark", "evaluation", "audit")
        before = {table: sorted(client.run(f"SELECT * FROM {table}"), key=repr) for table in tables}
        with connect(url) as ledger:
            ledger.migrate()
            ledger.migrate()
            assert ledger.schema_version() == OURS
            after = client.dump()
            assert {table: after[table] for table in tables} == before
            report = audit.verify(ledger, SERVICE, keys)
            assert (report.problems, report.head) == ((), head)
            page = Paged(summary="held", key="k")
            state, effects = transitions.step(ledger.state(SERVICE), SetHold(reason="r", actor="a"), 200.0)
            ledger.append(state, (*effects, page), verb="hold", actor="a", reason="r", now=200.0)
            assert ledger.lease("gates", holder="a", now=1.0, ttl_s=1.0)
            assert ledger.record(SERVICE, "x", {}, now=1.0) == 1
            assert [page.key for page in ledger.pages(SERVICE)] == ["k"]
            assert audit.verify(ledger, SERVICE, keys).ok


def test_the_first_release_stops_at_a_ledger_of_this_one(url: str, keys: Path):
    """A process of the first release that still runs while the ledger is upgraded reads and writes nothing more."""
    _first_release(url, keys)
    known = migrate.migrations_of
    with connect(url) as old, connect(url) as new:
        assert old.newest(SERVICE) == 5
        new.migrate()
        before = new.state(SERVICE)
        with pytest.MonkeyPatch.context() as earlier:
            earlier.setattr(migrate, "migrations_of", lambda engine: known(engine)[:1])
            for call in (lambda: old.state(SERVICE), lambda: register(old, 9), old.migrate):
                with pytest.raises(errors.LastgoodError, match="needs a release that knows schema 2; this one knows 1; upgrade lastgood"):
                    call()
        assert new.state(SERVICE) == before


def test_missing_guards_of_the_second_schema_are_found(ledger: Ledger, url: str, keys: Path):
    """The audit names each guard of the newer tables that somebody has taken away."""
    register(ledger, 1)
    with foreign.connected(url) as client:
        client.run("DROP TRIGGER page_no_delete" + (" ON page" if client.engine == "postgres" else ""))
    (problem,) = (line for line in audit.verify(ledger, SERVICE, keys).problems if "own guards" in line)
    assert "'page_no_delete'" in problem


def test_a_failing_migration_leaves_nothing(ledger: Ledger, url: str):
    """The statements before the one that fails are taken back too."""
    with pytest.MonkeyPatch.context() as later:
        _as_next_release(later, min_reader=OURS, text=NEXT + "SELECT nonsense FROM nowhere;\n")
        with connect(url) as upgraded, pytest.raises(errors.LastgoodError):
            upgraded.migrate()
    assert ledger.schema_version() == OURS
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
        assert (ledger.schema_version(), len(ledger.bundles(SERVICE))) == (OURS, 1)


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
    versions = {engine: [step.version for step in migrate.migrations_of(engine)] for engine in ("sqlite", "postgres")}
    assert versions["sqlite"] == versions["postgres"] == list(range(1, len(versions["sqlite"]) + 1))

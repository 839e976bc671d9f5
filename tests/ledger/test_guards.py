"""I1 holds against any client: the database itself refuses what breaks the rules."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from lastgood.core.events import Condemn, CutOver, Propose, ReleaseHold, SetHold
from lastgood.core.state import State
from lastgood.ledger import Ledger, audit, connect
from tests.ledger import foreign
from tests.ledger.foreign import REFUSALS, Client
from tests.ledger.world import SERVICE, act, digest, make, promote, register, roll_back

GOOD, BAD, REVOKED, NEXT, FRESH = 1, 2, 3, 4, 5
NEWEST = 7
STABLE, CANDIDATE = digest(GOOD), digest(NEXT)


@pytest.fixture
def client(ledger: Ledger, url: str) -> Iterator[Client]:
    """A foreign client of a ledger where GOOD serves, BAD is quarantined, REVOKED is revoked and NEXT is candidate."""
    _fill(ledger)
    with foreign.connected(url) as found:
        yield found


@pytest.fixture(scope="module")
def victim(shared_url: str) -> Iterator[Client]:
    """The same, one for all attacks, since none leaves a trace."""
    with connect(shared_url) as ledger:
        ledger.migrate()
        _fill(ledger)
    with foreign.connected(shared_url) as found:
        yield found


def _fill(ledger: Ledger) -> None:
    register(ledger, GOOD, BAD, REVOKED, NEXT, FRESH)
    register(ledger, GOOD, service="other")
    promote(ledger, digest(GOOD))
    promote(ledger, digest(BAD))
    roll_back(ledger)
    act(ledger, Condemn(bundle=digest(REVOKED), kind="revoked", reason="leaked"))
    act(ledger, Propose(bundle=digest(NEXT), verified=True))
    ledger.evaluate(digest(GOOD), kind="offline", report={"auc": 0.7}, actor="ci", now=1.0)
    ledger.lease("gates", holder="a", now=100.0, ttl_s=15.0)
    ledger.record(SERVICE, "5/canary", {"n": 1}, now=100.0)
    for key in ("open", "done"):
        ledger.page(SERVICE, revision=NEWEST, key=key, severity="critical", summary="s", body={}, now=100.0)
        (page,) = (page for page in ledger.pages(SERVICE) if page.key == key)
        ledger.page_tried(page, "mail", now=100.0, delivered=key == "done")
    ledger.settle_pages(["mail"], now=100.0)


def _state(**change: object) -> str:
    return json.dumps(State(service=SERVICE, revision=NEWEST + 1, stable=STABLE).to_json() | change)


ATTACKS: dict[str, Callable[[Client], object]] = {
    "update bundle": lambda c: c.run("UPDATE bundle SET registered_at = 5"),
    "update bundle in place": lambda c: c.run("UPDATE bundle SET id = id"),
    "update revision": lambda c: c.run("UPDATE revision SET reason = 'x' WHERE number = 1"),
    "update mark": lambda c: c.run("UPDATE mark SET kind = 'lifted'"),
    "update evaluation": lambda c: c.run("UPDATE evaluation SET at = 2"),
    "update audit": lambda c: c.run("UPDATE audit SET actor = 'nobody'"),
    "update schema version": lambda c: c.run("UPDATE schema_version SET min_reader = 0"),
    "delete bundle": lambda c: c.run("DELETE FROM bundle WHERE id = ?", digest(FRESH)),
    "delete revision": lambda c: c.run("DELETE FROM revision WHERE number = ?", NEWEST),
    "delete mark": lambda c: c.run("DELETE FROM mark"),
    "delete evaluation": lambda c: c.run("DELETE FROM evaluation"),
    "delete audit": lambda c: c.run("DELETE FROM audit"),
    "delete schema version": lambda c: c.run("DELETE FROM schema_version"),
    "revision twice": lambda c: c.add_revision(NEWEST, stable=STABLE),
    "revision with a gap": lambda c: c.add_revision(NEWEST + 2, stable=STABLE),
    "revision zero": lambda c: c.add_revision(0, service="other"),
    "first revision is not one": lambda c: c.add_revision(2, service="other"),
    "revision in the past": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, at=1.0),
    "revision at infinity": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, at=float("inf")),
    "quarantined stable": lambda c: c.add_revision(NEWEST + 1, stable=digest(BAD)),
    "quarantined candidate": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, candidate=digest(BAD)),
    "revoked stable": lambda c: c.add_revision(NEWEST + 1, stable=digest(REVOKED)),
    "revoked candidate": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, candidate=digest(REVOKED)),
    "unregistered stable": lambda c: c.add_revision(NEWEST + 1, stable=digest(99)),
    "unregistered candidate": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, candidate=digest(99)),
    "unregistered previous": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, previous=digest(99)),
    "stable of another service": lambda c: c.add_revision(NEWEST + 1, stable=make(GOOD, "other").id),
    "stable that is no digest": lambda c: c.add_revision(NEWEST + 1, stable=""),
    "state with another stable": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state=_state(stable=digest(BAD))),
    "state with another candidate": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state=_state(candidate=digest(BAD))),
    "state with another previous": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state=_state(previous=digest(BAD))),
    "state of another service": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state=_state(service="other")),
    "state of another revision": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state=_state(revision=1)),
    "state that says two things": lambda c: c.add_revision(
        NEWEST + 1, stable=STABLE, state='{"stable":"' + STABLE + '",' + _state(stable=digest(BAD))[1:]
    ),
    "state that is no JSON": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state="stable"),
    "state that is a list": lambda c: c.add_revision(NEWEST + 1, stable=STABLE, state="[]"),
    "condemn stable": lambda c: c.add_mark(GOOD, NEWEST, "quarantined"),
    "revoke stable": lambda c: c.add_mark(GOOD, NEWEST, "revoked"),
    "condemn candidate": lambda c: c.add_mark(NEXT, NEWEST, "quarantined"),
    "condemn stable in the next revision": lambda c: c.add_mark(GOOD, NEWEST + 1, "quarantined"),
    "condemn in the past": lambda c: c.add_mark(FRESH, NEWEST - 1, "quarantined"),
    "lift in the past": lambda c: c.add_mark(BAD, 5, "lifted"),
    "lift a revocation": lambda c: c.add_mark(REVOKED, NEWEST + 1, "lifted"),
    "mark of an unknown kind": lambda c: c.add_mark(FRESH, NEWEST, "fine"),
    "mark of an unknown bundle": lambda c: c.add_mark(99, NEWEST, "quarantined"),
    "evaluation with a gap": lambda c: c.run("INSERT INTO evaluation VALUES (?, 3, 'x', '{}', 1)", STABLE),
    "evaluation of an unknown bundle": lambda c: c.run("INSERT INTO evaluation VALUES (?, 1, 'x', '{}', 1)", digest(99)),
    "audit entry with a gap": lambda c: c.run("INSERT INTO audit VALUES (?, 99, 'note', 'x', '{}', 'x', 1, '', 'x')", SERVICE),
    "audit entry beside the chain": lambda c: c.run(
        "INSERT INTO audit SELECT service, max(seq) + 1, 'note', 'x', '{}', 'x', 1, 'nothing', 'x' FROM audit WHERE service = ? GROUP BY service",
        SERVICE,
    ),
    "bundle whose manifest is of another service": lambda c: c.run(
        "INSERT INTO bundle VALUES (?, 'flights', '{\"service\":\"other\"}', '{}', 1)", digest(98)
    ),
    "bundle whose id is no digest": lambda c: c.run(
        "INSERT INTO bundle VALUES ('sha256:x', 'flights', '{\"service\":\"flights\"}', '{}', 1)"
    ),
    "schema version with a gap": lambda c: c.run("INSERT INTO schema_version VALUES (9, 1, 9)"),
    "lease twice": lambda c: c.run("INSERT INTO lease VALUES ('gates', 'b', 1, 1)"),
    "lease that begins with a later token": lambda c: c.run("INSERT INTO lease VALUES ('other', 'b', 1, 2)"),
    "lease without a holder": lambda c: c.run("INSERT INTO lease VALUES ('other', '', 1, 1)"),
    "lease for ever": lambda c: c.run("UPDATE lease SET until = 1e13"),
    "lease that changes hands under its token": lambda c: c.run("UPDATE lease SET holder = 'b'"),
    "lease that skips a token": lambda c: c.run("UPDATE lease SET holder = 'b', token = token + 2"),
    "lease whose token goes back": lambda c: c.run("UPDATE lease SET token = token - 1"),
    "lease under another name": lambda c: c.run("UPDATE lease SET name = 'other'"),
    "delete lease": lambda c: c.run("DELETE FROM lease"),
    "measurement with a gap": lambda c: c.run("INSERT INTO measurement VALUES (?, '5/canary', 3, '{}', 1)", SERVICE),
    "measurement twice": lambda c: c.run("INSERT INTO measurement VALUES (?, '5/canary', 1, '{}', 1)", SERVICE),
    "measurement that is no JSON": lambda c: c.run("INSERT INTO measurement VALUES (?, '5/canary', 2, 'x', 1)", SERVICE),
    "update measurement": lambda c: c.run("UPDATE measurement SET body = '{}'"),
    "page twice": lambda c: c.run("INSERT INTO page VALUES (?, ?, 'open', 'info', 0, 's', '{}', 1, NULL)", SERVICE, NEWEST),
    "page of a revision to come": lambda c: c.run(
        "INSERT INTO page VALUES (?, ?, 'k', 'info', 0, 's', '{}', 1, NULL)", SERVICE, NEWEST + 1
    ),
    "page of an unknown severity": lambda c: c.run("INSERT INTO page VALUES (?, 1, 'k', 'grave', 0, 's', '{}', 1, NULL)", SERVICE),
    "page that is delivered from the start": lambda c: c.run("INSERT INTO page VALUES (?, 1, 'k', 'info', 0, 's', '{}', 1, 1)", SERVICE),
    "page that is no JSON": lambda c: c.run("INSERT INTO page VALUES (?, 1, 'k', 'info', 0, 's', 'x', 1, NULL)", SERVICE),
    "update page": lambda c: c.run("UPDATE page SET severity = 'info' WHERE key = 'open'"),
    "update page in place": lambda c: c.run("UPDATE page SET summary = 'all is well', delivered_at = 1 WHERE key = 'open'"),
    "take a delivery of a page back": lambda c: c.run("UPDATE page SET delivered_at = NULL WHERE key = 'done'"),
    "delete page": lambda c: c.run("DELETE FROM page WHERE key = 'open'"),
    "delivery twice": lambda c: c.run("INSERT INTO delivery VALUES (?, ?, 'open', 'mail', 1, 1, 1, '')", SERVICE, NEWEST),
    "delivery of no page": lambda c: c.run("INSERT INTO delivery VALUES (?, ?, 'nothing', 'mail', 1, 1, 1, '')", SERVICE, NEWEST),
    "delivery that is taken back": lambda c: c.run("UPDATE delivery SET delivered_at = NULL WHERE key = 'done'"),
    "delivery of another channel": lambda c: c.run("UPDATE delivery SET channel = 'slack' WHERE key = 'open'"),
}

ONLY = {
    "sqlite": {
        "replace bundle": lambda c: c.run("REPLACE INTO bundle SELECT id, service, manifest, '{}', 5 FROM bundle LIMIT 1"),
        "replace revision": lambda c: c.add_revision(NEWEST, stable=STABLE, verb="INSERT OR REPLACE"),
        "replace mark": lambda c: c.add_mark(BAD, 5, "quarantined", verb="INSERT OR REPLACE"),
        "replace lease": lambda c: c.run("REPLACE INTO lease VALUES ('gates', 'b', 1, 1)"),
        "replace measurement": lambda c: c.run("REPLACE INTO measurement VALUES (?, '5/canary', 1, '{}', 1)", SERVICE),
        "replace page": lambda c: c.run("REPLACE INTO page VALUES (?, ?, 'open', 'info', 0, 's', '{}', 1, NULL)", SERVICE, NEWEST),
        "replace delivery": lambda c: c.run("REPLACE INTO delivery VALUES (?, ?, 'open', 'mail', 1, 1, 1, '')", SERVICE, NEWEST),
        "replace by operation": lambda c: c.run(
            "INSERT OR REPLACE INTO revision SELECT service, number + 1, json_set(state, '$.revision', number + 1), stable, candidate, previous, verb, "
            "actor, reason, evidence, 'op-1', at FROM revision WHERE number = 9"
        ),
        "update or replace": lambda c: c.run("UPDATE OR REPLACE revision SET number = 2 WHERE number = 1"),
        "upsert": lambda c: c.run("INSERT INTO schema_version VALUES (1, 1, 1) ON CONFLICT (version) DO UPDATE SET min_reader = 9"),
        "column of another type": lambda c: c.run("INSERT INTO schema_version VALUES (3, 1, 'x')"),
    },
    "postgres": {
        "truncate audit": lambda c: c.run("TRUNCATE audit"),
        "truncate lease": lambda c: c.run("TRUNCATE lease"),
        "truncate pages": lambda c: c.run("TRUNCATE page, delivery"),
        "truncate everything": lambda c: c.run("TRUNCATE bundle, revision, mark, evaluation CASCADE"),
        "upsert": lambda c: c.run("INSERT INTO schema_version VALUES (2, 1, 1) ON CONFLICT (version) DO UPDATE SET min_reader = 9"),
        "bundle whose id is another digest": lambda c: c.run(
            "INSERT INTO bundle VALUES (?, 'flights', '{\"service\":\"flights\"}', '{}', 1)", digest(98)
        ),
        "a mark that the schema hides": lambda c: [
            c.run("CREATE TEMP TABLE revision (service TEXT, number BIGINT, stable TEXT, candidate TEXT)"),
            c.run("INSERT INTO pg_temp.revision VALUES (?, ?, NULL, NULL)", SERVICE, NEWEST),
            c.add_mark(GOOD, NEWEST, "quarantined"),
        ],
        "an old snapshot": lambda c: [c.run("BEGIN ISOLATION LEVEL REPEATABLE READ"), c.add_mark(FRESH, NEWEST, "quarantined")],
    },
}
ONLY["postgres"]["upsert"] = ONLY["sqlite"]["upsert"]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_foreign_client_is_refused(victim: Client, name: str):
    """Each attack is refused by the database and leaves every table as it was."""
    before = victim.dump()
    with pytest.raises(REFUSALS):
        ATTACKS[name](victim)
    assert victim.dump() == before


@pytest.mark.parametrize(("url", "name"), [(engine, name) for engine in ONLY for name in ONLY[engine]], indirect=["url"])
def test_a_foreign_client_is_refused_tricks_of_one_engine(client: Client, ledger: Ledger, name: str):
    """What only one engine knows, such as REPLACE, TRUNCATE and temporary tables, does not get round the guards."""
    act(ledger, SetHold(reason="r", actor="a"), operation="op-1")
    act(ledger, ReleaseHold(), operation="op-2")
    before = ledger.history(SERVICE), ledger.bundles(SERVICE), list(audit.export(ledger, SERVICE)), ledger.schema_version()
    with pytest.raises(REFUSALS):
        ONLY[client.engine][name](client)
    if client.engine == "postgres":
        client._connection.rollback()
    assert (ledger.history(SERVICE), ledger.bundles(SERVICE), list(audit.export(ledger, SERVICE)), ledger.schema_version()) == before


def test_the_guards_let_good_rows_in(client: Client, ledger: Ledger, keys):
    """The attacks fail for their own reasons: the same inserts with good values are taken, and the audit names each."""
    client.add_revision(NEWEST + 1, stable=STABLE, candidate=digest(FRESH))
    client.add_mark(NEXT, NEWEST + 1, "quarantined")
    assert ledger.state(SERVICE).candidate == digest(FRESH)
    assert "revision 8 is not in any audit entry" in "\n".join(audit.verify(ledger, SERVICE, keys).problems)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_stray_lift_does_not_block_a_rollback(client: Client, ledger: Ledger, keys):
    """A lift written by hand ahead of its revision is in nobody's way, and a quarantine in that revision counts more."""
    act(ledger, CutOver(bundle=digest(NEXT), bake_s=1))
    client.add_mark(NEXT, ledger.newest(SERVICE) + 1, "lifted")
    problems = "\n".join(audit.verify(ledger, SERVICE, keys).problems)
    assert f"a mark (lifted {digest(NEXT)}) names revision 9, which does not exist" in problems
    done = roll_back(ledger)
    assert done.state.stable == digest(GOOD)
    assert ledger.state(SERVICE, about=[digest(NEXT)]).marks[digest(NEXT)].kind == "quarantined"


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_two_foreign_clients_at_once_cannot_pass_each_other(client: Client, ledger: Ledger, url: str):
    """While one transaction makes FRESH stable, another cannot quarantine it behind its back."""
    client.run("BEGIN")
    client.add_revision(NEWEST + 1, stable=digest(FRESH))
    outcome: list[BaseException] = []

    def condemn() -> None:
        with foreign.connected(url) as other:
            try:
                other.add_mark(FRESH, NEWEST, "quarantined")
            except REFUSALS as error:
                outcome.append(error)

    thread = threading.Thread(target=condemn)
    thread.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO mark%'"
    with foreign.connected(url) as watcher:
        while watcher.run(waiting)[0][0] == 0 and thread.is_alive():
            pass
    client.run("COMMIT")
    thread.join(20)
    assert len(outcome) == 1
    assert "revision that is being written" in str(outcome[0])

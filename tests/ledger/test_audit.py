"""No edit, deletion, insertion or cut of what was recorded goes unnoticed."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core.events import Condemn
from lastgood.ledger import Ledger, audit, chain, connect
from tests.ledger import foreign
from tests.ledger.foreign import Client
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back

ENTRIES = 11


@pytest.fixture
def full(ledger: Ledger, keys: Path) -> Ledger:
    """A ledger with something of everything, whose newest entry is signed."""
    register(ledger, 1, 2, 3)
    register(ledger, 1, service="other")
    promote(ledger, digest(1))
    promote(ledger, digest(2))
    roll_back(ledger)
    act(ledger, Condemn(bundle=digest(3), kind="revoked", reason="leaked"))
    ledger.evaluate(digest(1), kind="offline", report={"auc": 0.7}, actor="ci", now=1.0)
    ledger.note(SERVICE, kind="refusal", body={"why": "held"}, actor="anna", now=2.0)
    audit.checkpoint(ledger, SERVICE, keys)
    assert audit.verify(ledger, SERVICE, keys).problems == ()
    return ledger


@pytest.fixture
def client(full: Ledger, url: str) -> Iterator[Client]:
    """Somebody with the rights of the database's owner, who has switched the guards off."""
    with foreign.connected(url) as found:
        found.guards(on=False)
        if found.engine == "postgres":  # foreign keys are kept by triggers too
            found.run("SET session_replication_role = replica")
        yield found


def test_a_whole_trail_verifies(full: Ledger, keys: Path):
    """The report counts the entries, names the head and says how far the signature reaches."""
    report = audit.verify(full, SERVICE, keys)
    exported = list(audit.export(full, SERVICE))
    assert (report.ok, report.entries, report.anchored, report.head) == (True, ENTRIES, ENTRIES, exported[-1]["hash"])
    assert audit.verify(full, "other", keys.parent / "none").ok


def test_every_change_adds_exactly_one_entry(full: Ledger):
    """Registrations, revisions, evaluations and notes each have one entry, in order, gapless and chained."""
    entries = list(audit.export(full, SERVICE))
    kinds = ["bundle"] * 3 + ["revision"] * 6 + ["evaluation", "note"]
    assert [e["kind"] for e in entries] == kinds
    assert [e["seq"] for e in entries] == list(range(1, ENTRIES + 1))
    assert [e["prev_hash"] for e in entries[1:]] == [e["hash"] for e in entries[:-1]]
    assert entries[-1]["body"]["note"] == {"why": "held"}


def test_export_takes_a_span_of_time(full: Ledger):
    """Only entries inside [since, until] are handed out, and they are plain JSON."""
    found = list(audit.export(full, SERVICE, since=2.0, until=99.0))
    assert [e["kind"] for e in found] == ["note"]
    assert json.loads(json.dumps(found)) == found


ON_BOTH = 5  # every fifth edit is made on Postgres too: what finds it is one code path
EDITS: dict[str, tuple[str, str]] = {
    "reason of a revision": ("UPDATE revision SET reason = 'x' WHERE number = 3", "revision 3 differs from what entry 6 recorded"),
    "actor of a revision": ("UPDATE revision SET actor = 'x' WHERE number = 1", "revision 1 differs from what"),
    "time of a revision": ("UPDATE revision SET at = at + 0.001 WHERE number = 1", "revision 1 differs from what"),
    "stable of a revision": ("UPDATE revision SET stable = previous WHERE number = 4", "revision 4 differs from what"),
    "state of a revision": (
        "UPDATE revision SET state = replace(state, 'idle', 'baking') WHERE number = 6",
        "revision 6 differs from what",
    ),
    "one space in a state": ("UPDATE revision SET state = state || ' ' WHERE number = 6", "revision 6 differs from what"),
    "evidence of a revision": ("UPDATE revision SET evidence = '{\"x\":1}' WHERE number = 2", "revision 2 differs from what"),
    "operation of a revision": ("UPDATE revision SET operation = 'x' WHERE number = 2", "revision 2 differs from what"),
    "service of a revision": ("UPDATE revision SET service = 'other' WHERE number = 6", "revision 6 is missing although entry 9"),
    "number of a revision": ("UPDATE revision SET number = 9 WHERE number = 6", "revision 6 is missing although entry 9"),
    "kind of a mark": ("UPDATE mark SET kind = 'lifted' WHERE kind = 'quarantined'", "revision 5 differs from what"),
    "reason of a mark": ("UPDATE mark SET reason = 'x' WHERE kind = 'revoked'", "revision 6 differs from what"),
    "revision of a mark": ("UPDATE mark SET revision = 4 WHERE revision = 5", "revision 5 differs from what"),
    "no mark": ("DELETE FROM mark WHERE revision = 5", "revision 5 differs from what"),
    "another mark": ("INSERT INTO mark VALUES ('flights', '" + digest(3) + "', 5, 'quarantined', 'x')", "revision 5 differs from what"),
    "mark without revision": ("INSERT INTO mark VALUES ('flights', '" + digest(3) + "', 99, 'quarantined', 'x')", "names revision 99"),
    "manifest of a bundle": ("UPDATE bundle SET manifest = replace(manifest, '1', '2') WHERE registered_at = 1", "bundle sha256:"),
    "provenance of a bundle": ("UPDATE bundle SET provenance = '{}' WHERE registered_at = 1", "differs from what entry 1 recorded"),
    "time of a bundle": ("UPDATE bundle SET registered_at = 2", "differs from what entry 1 recorded"),
    "no bundle": ("DELETE FROM bundle WHERE id = '" + digest(3) + "'", "is missing although entry 3 recorded it"),
    "report of an evaluation": ("UPDATE evaluation SET report = '{\"auc\":0.9}'", "differs from what entry 10 recorded"),
    "no evaluation": ("DELETE FROM evaluation", "is missing although entry 10 recorded it"),
    "no revision at the end": ("DELETE FROM revision WHERE number = 6", "revision 6 is missing although entry 9"),
    "no revision in the middle": ("DELETE FROM revision WHERE number = 3", "revisions 3 to 3 are missing"),
    "no revision at all": ("DELETE FROM revision", "revision 1 is missing although entry 4"),
    "body of an entry": ("UPDATE audit SET body = replace(body, 'held', 'fine') WHERE seq = 11", "entry 11 (note refusal)"),
    "actor of an entry": ("UPDATE audit SET actor = 'x' WHERE seq = 2", "entry 2 (bundle"),
    "time of an entry": ("UPDATE audit SET at = 5 WHERE seq = 2", "entry 2 (bundle"),
    "hash of an entry": ("UPDATE audit SET hash = prev_hash WHERE seq = 2", "does not follow from entry 2"),
    "no entry in the middle": ("DELETE FROM audit WHERE seq = 4", "entries 4 to 4 are missing"),
    "no first entry": ("DELETE FROM audit WHERE seq = 1", "entries 1 to 1 are missing"),
    "no last entry": ("DELETE FROM audit WHERE seq = 11", "the newest entries were removed"),
    "no entries": ("DELETE FROM audit WHERE service = 'flights'", "the newest entries were removed"),
    "body that does not parse": ("UPDATE audit SET body = '[' || body || ']' WHERE seq = 5", "entry 5 (revision 2) does not parse"),
}


@pytest.mark.parametrize(("url", "name"), [("sqlite", e) for e in EDITS] + [("postgres", e) for e in [*EDITS][::ON_BOTH]], indirect=["url"])
def test_every_edit_is_found_and_named(client: Client, full: Ledger, keys: Path, name: str):
    """Whatever the owner of the database changes behind lastgood's back, the report says what and where."""
    statement, expected = EDITS[name]
    client.run(statement)
    problems = [p for p in audit.verify(full, SERVICE, keys).problems if "own guards" not in p]
    assert any(expected in problem for problem in problems), problems


def test_all_problems_are_reported(client: Client, full: Ledger, keys: Path):
    """Three edits in three tables are three lines, besides those about the guards."""
    client.run("UPDATE revision SET reason = 'x' WHERE number IN (2, 3)")
    client.run("DELETE FROM evaluation")
    problems = [p for p in audit.verify(full, SERVICE, keys).problems if "own guards" not in p]
    assert len(problems) == 3


def test_missing_guards_are_reported(client: Client, full: Ledger, keys: Path):
    """Triggers that were dropped or switched off are named, although every row is right."""
    problems = audit.verify(full, SERVICE, keys).problems
    assert any("'revision_guard'" in problem for problem in problems)
    assert all("own guards" in problem for problem in problems)


def test_a_cut_tail_with_all_its_rows_shows_by_the_signature(client: Client, full: Ledger, keys: Path):
    """Rows and entries cut off together leave a perfect chain; only the signed checkpoint tells."""
    client.run("DELETE FROM audit WHERE seq > 8 AND service = 'flights'")
    client.run("DELETE FROM revision WHERE number > 5")
    client.run("DELETE FROM mark WHERE revision > 5")
    client.run("DELETE FROM evaluation")
    problems = [p for p in audit.verify(full, SERVICE, keys).problems if "own guards" not in p]
    assert problems == ["entry 11 was signed but the audit ends at entry 8; the newest entries were removed"]
    with pytest.raises(errors.Damaged, match="does not match what was signed"):
        audit.checkpoint(full, SERVICE, keys)


def test_a_rewritten_trail_shows_by_the_signature(full: Ledger, keys: Path, tmp_path: Path):
    """A ledger made anew with other contents but as many entries does not match what was signed."""
    with connect(f"sqlite:///{tmp_path / 'forged.db'}") as forged:
        forged.migrate()
        for number in range(ENTRIES + 3):
            forged.note(SERVICE, kind="n", body={"n": number}, actor="x", now=1.0)
        assert "does not match what was signed" in audit.verify(forged, SERVICE, keys).problems[0]
        with pytest.raises(errors.Damaged):
            audit.checkpoint(forged, SERVICE, keys)


def test_checkpoints_grow_and_are_not_repeated(full: Ledger, keys: Path):
    """A new entry gets a new line; no new entry, no new line; a crash's half line is mended."""
    file = audit.checkpoint_file(keys, SERVICE)
    audit.checkpoint(full, SERVICE, keys)
    assert len(file.read_text().splitlines()) == 1
    with file.open("a") as out:
        out.write('{"hash":"sha2')
    assert audit.verify(full, SERVICE, keys).ok
    full.note(SERVICE, kind="x", body={}, actor="x", now=1.0)
    audit.checkpoint(full, SERVICE, keys)
    assert [json.loads(line)["seq"] for line in file.read_text().splitlines()] == [ENTRIES, ENTRIES + 1]
    assert audit.verify(full, SERVICE, keys).anchored == ENTRIES + 1


DAMAGE: dict[str, Callable[[Path, Path], Any]] = {
    "deleted": lambda file, keys: file.unlink(),
    "signature": lambda file, keys: file.write_text(file.read_text().replace('"signature":"', '"signature":"00')),
    "number": lambda file, keys: file.write_text(file.read_text().replace('"seq":11', '"seq":10')),
    "hash": lambda file, keys: file.write_text(file.read_text().replace('"hash":"sha256:', '"hash":"sha256:0')),
    "service": lambda file, keys: file.write_text(file.read_text().replace("flights", "other")),
    "rubbish": lambda file, keys: file.write_bytes(b"\xff\x00\n" + file.read_bytes()),
    "a list": lambda file, keys: file.write_text("[]\n" + file.read_text()),
    "deep": lambda file, keys: file.write_text("[" * 5000 + "\n" + file.read_text()),
    "no public key": lambda file, keys: (keys / "audit.pub").unlink(),
    "another public key": lambda file, keys: (keys / "audit.pub").write_text("-----BEGIN PUBLIC KEY-----\n"),
}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_file_is_reported(full: Ledger, keys: Path, name: str):
    """A checkpoint that is gone, forged, of another service or unreadable is a problem, not an exception."""
    DAMAGE[name](audit.checkpoint_file(keys, SERVICE), keys)
    report = audit.verify(full, SERVICE, keys)
    assert (report.ok, len(report.problems)) == (False, 1)


def test_without_a_key_nothing_is_signed(ledger: Ledger, tmp_path: Path):
    """A missing signing key is Unavailable with the remedy; the ledger is not touched."""
    ledger.note(SERVICE, kind="x", body={}, actor="x", now=1.0)
    with pytest.raises(errors.Unavailable, match="cannot be signed"):
        audit.checkpoint(ledger, SERVICE, tmp_path / "nowhere" / "keys")


def test_checkpoints_by_many_processes_are_whole_lines(full: Ledger, keys: Path):
    """Threads that write and sign at once leave only valid lines."""
    import concurrent.futures

    def one(number: int) -> None:
        full.note(SERVICE, kind="n", body={"n": number}, actor="x", now=1.0)
        audit.checkpoint(full, SERVICE, keys)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(20)))
    report = audit.verify(full, SERVICE, keys)
    assert (report.ok, report.anchored) == (True, ENTRIES + 20)


def _content(file: Path) -> list[str]:
    """Everything that is logically in a database file."""
    connection = sqlite3.connect(file)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_no_flipped_byte_goes_undetected(full: Ledger, keys: Path, tmp_path: Path, budget: float):
    """After any flip of a byte of the file, either verify finds a problem or the contents are the same to the last byte."""
    full.close()
    source = tmp_path / "home" / "ledger.db"
    original, contents = source.read_bytes(), _content(source)
    dice = random.Random(20131101)
    found = 0
    for _ in range(round(60 * budget)):
        broken = bytearray(original)
        broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        source.write_bytes(broken)
        for leftover in ("ledger.db-wal", "ledger.db-shm"):
            (source.parent / leftover).unlink(missing_ok=True)
        if _problem(source, keys) is None:
            assert _content(source) == contents
        else:
            found += 1
    assert found > 5 * budget


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_truncated_file_is_detected(full: Ledger, keys: Path, tmp_path: Path):
    """Cut at any page boundary or in between, the file does not verify."""
    full.close()
    source = tmp_path / "home" / "ledger.db"
    original = source.read_bytes()
    # Zeros at the end are no loss: SQLite reads a page that is short of them as the same page.
    for size in (0, 1, 100, 4096, 5000, len(original) // 2, len(original.rstrip(b"\0")) - 1):
        target = tmp_path / "cut" / f"{size}.db"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(original[:size])
        assert _problem(target, keys) is not None, size


def _problem(file: Path, keys: Path) -> str | None:
    """What is wrong with a database file; None if nothing is."""
    with connect(f"sqlite:///{file}") as damaged:
        try:
            problems = audit.verify(damaged, SERVICE, keys).problems + audit.verify(damaged, "other", keys.parent / "none").problems
        except errors.LastgoodError as error:
            return str(error)
    return problems[0] if problems else None


_scalars = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.dictionaries(st.sampled_from(["at", "seq", "body", "service", "prev_hash"]), _scalars))
def test_the_fast_canonical_form_is_rfc_8785(flat: dict[str, Any]):
    """What the chain hashes is byte for byte what the reference encoder writes."""
    import hashlib

    assert chain._digest(flat) == "sha256:" + hashlib.sha256(rfc8785.dumps(flat)).hexdigest()

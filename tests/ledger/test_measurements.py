"""What was measured is there for whoever goes on, and is forgotten in time."""

from __future__ import annotations

import concurrent.futures
import resource
import signal
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.ledger import DiskFull, Ledger, audit, connect, measurements
from tests.ledger import foreign
from tests.ledger.children import killed
from tests.ledger.test_files import BALLAST, _fill_disk, fill, may_mount, mounted, open_at
from tests.ledger.world import SERVICE, digest, promote, register, roll_back

CANARY = "4/canary"


def numbers(ledger: Ledger, analysis: str = CANARY, *, after: int = 0, service: str = SERVICE) -> list[int]:
    """The numbers of what is recorded."""
    return [row["seq"] for row in ledger.recorded(service, analysis, after=after)]


def test_measurements_come_back_as_they_were(ledger: Ledger):
    """Numbered from 1 in each analysis of each service, oldest first, with time and body."""
    body = {"n": 12, "arms": {"stable": [0.25, None, "ünï"]}}
    assert [ledger.record(SERVICE, CANARY, body, now=100.5), ledger.record(SERVICE, CANARY, {}, now=101.0)] == [1, 2]
    assert ledger.record(SERVICE, "4/shadow", {"n": 1}, now=50.0) == 1
    assert ledger.record("helpdesk", CANARY, {"n": 2}, now=50.0) == 1
    assert list(ledger.recorded(SERVICE, CANARY)) == [{"seq": 1, "at": 100.5, "body": body}, {"seq": 2, "at": 101.0, "body": {}}]
    assert numbers(ledger, after=1) == [2]
    assert numbers(ledger, after=2) == numbers(ledger, "5/canary") == numbers(ledger, service="nobody") == []


def test_a_long_analysis_is_read_in_pages(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Every measurement comes once, also those that are added while it is read, whatever the size of a page."""
    monkeypatch.setattr(measurements, "_PAGE", 3)
    for number in range(6):
        ledger.record(SERVICE, CANARY, {"n": number}, now=100.0 + number)
    reader = ledger.recorded(SERVICE, CANARY)
    found = [next(reader)["seq"] for _ in range(6)]
    assert ledger.record(SERVICE, CANARY, {}, now=200.0) == 7
    assert [*found, *(row["seq"] for row in reader)] == list(range(1, 8))
    assert numbers(ledger, after=2) == [3, 4, 5, 6, 7]


def test_old_measurements_are_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Those made before a time go, in many small transactions, of one service only; numbers go on where they were."""
    monkeypatch.setattr(measurements, "_REMOVE", 2)
    for number in range(1, 6):
        ledger.record(SERVICE, CANARY, {}, now=float(number))
        ledger.record(SERVICE, "4/shadow", {}, now=float(number))
        ledger.record("helpdesk", CANARY, {}, now=float(number))
    assert ledger.forget_measurements(SERVICE, before=4.0) == 6
    assert numbers(ledger) == numbers(ledger, "4/shadow") == [4, 5]
    assert numbers(ledger, service="helpdesk") == [1, 2, 3, 4, 5]
    assert ledger.forget_measurements(SERVICE, before=4.0) == 0
    assert ledger.record(SERVICE, CANARY, {}, now=6.0) == 6
    assert numbers(ledger, after=5) == [6]


def test_forgetting_can_end_early_with_the_oldest_gone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Whoever has something more urgent to do asks for a part of it."""
    monkeypatch.setattr(measurements, "_REMOVE", 2)
    for number in range(1, 8):
        ledger.record(SERVICE, CANARY, {}, now=float(number))
    assert ledger.forget_measurements(SERVICE, before=7.0, at_most=3) == 4
    assert numbers(ledger) == [5, 6, 7]


def test_measurements_are_no_history(ledger: Ledger, keys: Path):
    """Recording and forgetting leave revisions and audit chain as they were."""
    register(ledger, 1)
    promote(ledger, digest(1))
    audit.checkpoint(ledger, SERVICE, keys)
    before = ledger.history(SERVICE), list(audit.export(ledger, SERVICE))
    ledger.record(SERVICE, CANARY, {}, now=1.0)
    assert ledger.forget_measurements(SERVICE, before=2.0) == 1
    assert (ledger.history(SERVICE), list(audit.export(ledger, SERVICE))) == before
    assert audit.verify(ledger, SERVICE, keys).problems == ()


def test_writers_at_once_leave_no_gap(ledger: Ledger, url: str):
    """Connections that record at once in one analysis get every number once."""

    def write(writer: int) -> list[int]:
        with connect(url, busy_timeout_s=30) as own:
            return [own.record(SERVICE, CANARY, {"writer": writer}, now=100.0) for _ in range(10)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        given = [number for made in pool.map(write, range(4)) for number in made]
    assert sorted(given) == numbers(ledger) == list(range(1, 41))


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": float("inf")}, {"x": b"bytes"}])
def test_what_json_cannot_hold_is_refused(ledger: Ledger, body: dict[str, object]):
    """A figure that is none must not become a measurement."""
    with pytest.raises(errors.Damaged):
        ledger.record(SERVICE, CANARY, body, now=1.0)
    assert numbers(ledger) == []


def test_names_and_times_that_no_engine_stores_are_refused(ledger: Ledger):
    """The caller is told, and nothing is written."""
    for service, analysis, now in (
        (SERVICE, "a\0b", 1.0),
        ("\ud800", CANARY, 1.0),
        (SERVICE, CANARY, -1.0),
        (SERVICE, CANARY, float("nan")),
    ):
        with pytest.raises(errors.UsageError):
            ledger.record(service, analysis, {}, now=now)
    assert numbers(ledger) == []


def test_a_measurement_that_is_no_object_is_damage(ledger: Ledger, url: str):
    """What somebody else wrote is named, not taken for a measurement."""
    with foreign.connected(url) as client:
        client.run("INSERT INTO measurement VALUES (?, ?, 1, '[]', 1)", SERVICE, CANARY)
    with pytest.raises(errors.Damaged, match="measurement 1 of '4/canary' of 'flights' is not a JSON object"):
        list(ledger.recorded(SERVICE, CANARY))


@pytest.mark.parametrize(("place", "left"), [("ledger.after_begin", []), ("ledger.before_commit", []), ("ledger.after_commit", [1])])
def test_a_recorder_that_is_killed(ledger: Ledger, url: str, place: str, left: list[int]):
    """The measurement under way is there or not, and the next one follows without a gap."""
    ledger.close()
    assert killed(url, f"{place}=kill", lambda own: own.record(SERVICE, CANARY, {}, now=1.0)) == -signal.SIGKILL
    assert numbers(ledger) == left
    assert ledger.record(SERVICE, CANARY, {}, now=2.0) == len(left) + 1


def test_an_error_of_the_system_is_an_error_of_the_ledger(ledger: Ledger, url: str):
    """No space for the transaction: refused as a full disk, with nothing written."""
    ledger.close()

    def refused(own: Ledger) -> None:
        with pytest.raises(DiskFull, match="free some space"):
            own.record(SERVICE, CANARY, {}, now=1.0)

    assert killed(url, "ledger.before_commit=raise:ENOSPC", refused) == 0
    assert numbers(ledger) == []


def test_measurements_leave_a_full_disk_to_a_rollback(tmp_path: Path):
    """They stop with a clear error when the disk is full, and leave the reserve for the rollback, which commits."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not may_mount():
        _under_a_file_limit(folder)
        return
    with mounted(folder, "2m"):
        fill(folder / "ledger.db", ballast_bytes=BALLAST)
        with open_at(folder / "ledger.db", ballast_bytes=BALLAST) as ledger:
            ledger.newest(SERVICE)
            _fill_disk(folder)
            _record_until_full(ledger, folder)
            assert roll_back(ledger, emergency=True).state.stable == digest(1)


def test_measurements_that_a_file_limit_stops(tmp_path: Path):
    """A process that may not make files larger is refused cleanly, and goes on once it may again."""
    _under_a_file_limit(tmp_path)


def _record_until_full(ledger: Ledger, folder: Path) -> None:
    with pytest.raises(DiskFull, match="free some space"):
        _record(ledger, 2000)
    assert (folder / "ledger.db.ballast").stat().st_size == BALLAST
    found = numbers(ledger)
    assert found == list(range(1, len(found) + 1))


def _record(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.record(SERVICE, CANARY, {"x": "y" * 20_000}, now=float(number))


def _under_a_file_limit(folder: Path) -> None:
    """In a process of its own, since the limit is a process's."""
    fill(folder / "ledger.db", ballast_bytes=BALLAST)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def work(ledger: Ledger) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, hard))
        _record_until_full(ledger, folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert ledger.record(SERVICE, CANARY, {}, now=1.0) == len(numbers(ledger))
        assert roll_back(ledger, emergency=True).state.stable == digest(1)

    assert killed(f"sqlite:///{folder / 'ledger.db'}", "", work) == 0

"""What can happen to an SQLite ledger's file and disk, and what an operator is told."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import ReleaseHold, SetHold
from lastgood.ledger import DiskFull, Ledger, audit, connect
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back

BALLAST = 512 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A closed ledger where bundle 2 serves and 1 is previous."""
    path = tmp_path / "data" / "ledger.db"
    fill(path)
    return path


def fill(path: Path, *, ballast_bytes: int = 0) -> None:
    """Make a ledger at *path*."""
    with connect(f"sqlite:///{path}", ballast_bytes=ballast_bytes) as ledger:
        ledger.migrate()
        register(ledger, 1, 2, 3)
        promote(ledger, digest(1))
        promote(ledger, digest(2))


def open_at(path: Path, **more: object) -> Ledger:
    """A connection to the ledger at *path*."""
    return connect(f"sqlite:///{path}", **more)  # type: ignore[arg-type]


@functools.cache
def may_mount() -> bool:
    """True for root outside of containers that forbid it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), "64k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small file system of its own in *folder*; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """*folder* cannot be written, not even by root."""
    if os.geteuid() == 0 and not may_mount():
        pytest.skip("root may write everywhere, and may not mount here; run as another user")
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_settings_of_the_connection(file: Path):
    """Write-ahead log, every commit synced, foreign keys kept."""
    with open_at(file) as ledger:
        ledger.newest(SERVICE)
        pragmas = {name: ledger.dialect.fetch(f"PRAGMA {name}")[0][name] for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_missing_file_is_not_replaced_by_an_empty_one(tmp_path: Path):
    """Without `migrate` nothing is created, read-only or not."""
    path = tmp_path / "gone.db"
    for mode in (False, True):
        with open_at(path, read_only=mode) as ledger, pytest.raises(errors.Unavailable, match="there is no ledger at"):
            ledger.state(SERVICE)
    assert not path.exists()


def test_a_file_that_is_moved_away_takes_no_commit(file: Path):
    """An open connection notices that its file has gone, or was replaced, before it acknowledges a write to nowhere."""
    with open_at(file) as ledger:
        ledger.newest(SERVICE)
        away = file.with_name("away.db")
        file.rename(away)
        with pytest.raises(errors.Unavailable, match="there is no ledger"):
            act(ledger, SetHold(reason="r", actor="a"))
        fill(file)
        act(ledger, SetHold(reason="r", actor="a"))
        assert ledger.state(SERVICE).hold is not None
    with open_at(file) as again:
        assert again.state(SERVICE).hold is not None


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, content: bytes):
    """Rubbish is Damaged with the remedy, for reading, writing and setting up."""
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with open_at(path) as ledger, open_at(path, read_only=True) as reader:
        for call in (ledger.migrate, lambda: ledger.state(SERVICE), lambda: reader.state(SERVICE)):
            with pytest.raises(errors.Damaged, match="restore a backup"):
                call()
    assert path.read_bytes() == content


def test_a_truncated_file_is_an_error_with_the_remedy(file: Path):
    """Half a database does not answer as if it were whole."""
    os.truncate(file, file.stat().st_size // 2)
    with open_at(file, read_only=True) as ledger, pytest.raises(errors.LastgoodError, match="restore a backup"):
        _read_everything(ledger)


def _read_everything(ledger: Ledger) -> None:
    for number in range(1, 5):
        ledger.revision(SERVICE, number)
    ledger.bundles(SERVICE)
    list(audit.export(ledger, SERVICE))


def test_a_locked_ledger_says_so_and_works_again(file: Path):
    """While somebody else holds the lock a write is Unavailable and may be repeated; reads go on."""
    holder = sqlite3.connect(file, isolation_level=None)
    with open_at(file, busy_timeout_s=0.05) as ledger:
        holder.execute("BEGIN IMMEDIATE")
        assert ledger.newest(SERVICE) == 4
        with pytest.raises(errors.Unavailable, match="locked by another process"):
            act(ledger, SetHold(reason="r", actor="a"))
        holder.execute("ROLLBACK")
        assert act(ledger, SetHold(reason="r", actor="a")).number == 5
    holder.close()


def test_a_read_only_connection_cannot_write(file: Path):
    """A ledger opened to look at refuses changes."""
    with open_at(file, read_only=True) as ledger:
        assert ledger.newest(SERVICE) == 4
        with pytest.raises(errors.Unavailable, match="cannot be written"):
            ledger.note(SERVICE, kind="x", body={}, actor="x", now=1.0)


def test_a_read_only_folder_can_be_read(file: Path, tmp_path: Path):
    """Where not even a lock file can be made, a closed ledger is still read and audited; writing says what to do."""
    with read_only(file.parent):
        with open_at(file, read_only=True) as ledger:
            assert ledger.state(SERVICE).stable == digest(2)
            assert audit.verify(ledger, SERVICE, tmp_path / "no-keys").ok
        with open_at(file) as ledger, pytest.raises(errors.Unavailable, match=r"write access|is writable"):
            ledger.note(SERVICE, kind="x", body={}, actor="x", now=1.0)


def test_commits_that_a_read_only_folder_hides_are_not_passed_over(file: Path):
    """If the newest commits stand only in the log beside the file, old contents are not shown as if they were new."""
    copy = file.parent / "copy.db"
    with open_at(file) as ledger:
        act(ledger, SetHold(reason="r", actor="a"))
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(file.with_name(file.name + suffix).read_bytes())
    with read_only(file.parent), open_at(copy, read_only=True) as reader:
        try:
            assert reader.newest(SERVICE) == 5
        except errors.Unavailable as error:
            assert "copy both files" in str(error)  # noqa: PT017  # both answers are right, a stale one is not


def test_ballast_is_really_allocated(tmp_path: Path):
    """The reserve takes real blocks, not a hole, and comes back after it was used."""
    path = tmp_path / "ledger.db"
    fill(path, ballast_bytes=BALLAST)
    reserve = tmp_path / "ledger.db.ballast"
    assert reserve.stat().st_blocks * 512 >= BALLAST
    reserve.unlink()
    with open_at(path, ballast_bytes=BALLAST) as ledger:
        act(ledger, SetHold(reason="r", actor="a"), emergency=True)
        assert not reserve.exists()
        act(ledger, ReleaseHold())
        assert reserve.stat().st_size == BALLAST


def _fill_disk(folder: Path) -> None:
    with (folder / "fill").open("wb", buffering=0) as out:
        for size in (65536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * size)


def _check_full_disk(path: Path, *, fill_disk: Callable[[], None], keep_open: bool) -> None:
    ledger = open_at(path, ballast_bytes=BALLAST)
    ledger.migrate()
    if keep_open:
        ledger.newest(SERVICE)
    else:
        ledger.close()
    fill_disk()
    before = ledger.state(SERVICE)
    with pytest.raises(DiskFull, match="free some space"):
        ledger.note(SERVICE, kind="x", body={"x": "y" * 2_000_000}, actor="x", now=1.0)
    state, effects = transitions.step(before, SetHold(reason="x" * 2_000_000, actor="a"), 1.0)
    with pytest.raises(DiskFull):
        ledger.append(state, effects, verb="hold", actor="a", reason="r", now=1.0)
    assert ledger.state(SERVICE) == before
    done = roll_back(ledger, emergency=True)
    assert (done.number, done.state.stable) == (before.revision + 1, digest(1))
    reserve = path.with_name("ledger.db.ballast")
    assert not reserve.exists() or reserve.stat().st_size < BALLAST
    ledger.close()
    with open_at(path) as again:
        assert again.state(SERVICE).stable == digest(1)
        assert audit.verify(again, SERVICE, path.parent / "no-keys").ok


@pytest.mark.parametrize("keep_open", [True, False], ids=["controller running", "first command after"])
def test_a_rollback_commits_on_a_full_disk(tmp_path: Path, keep_open: bool):
    """On a full disk other writes are refused clearly, and a rollback spends the reserve and commits."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not may_mount():
        _run_with_file_limit(folder)
        return
    with mounted(folder, "2m"):
        fill(folder / "ledger.db", ballast_bytes=BALLAST)
        _check_full_disk(folder / "ledger.db", fill_disk=lambda: _fill_disk(folder), keep_open=keep_open)
        assert (folder / "fill").exists()


def _run_with_file_limit(folder: Path) -> None:
    """The same without root, as far as it goes: no file may grow, so the rollback is refused cleanly or commits."""
    code = f"from tests.ledger import test_files; test_files.under_file_limit({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def under_file_limit(folder: str) -> None:
    """Body of a process of its own, since a limit of file size cannot be taken back."""
    path = Path(folder) / "ledger.db"
    fill(path, ballast_bytes=BALLAST)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_at(path, ballast_bytes=BALLAST) as ledger:
        before = ledger.state(SERVICE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        large = {"x": "y" * 100_000}
        for attempt in (
            lambda: act(ledger, SetHold(reason="r", actor="a"), evidence=large),
            lambda: roll_back(ledger, emergency=True, evidence=large),
        ):
            with pytest.raises(DiskFull):
                attempt()
        assert not path.with_name("ledger.db.ballast").exists()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
        assert ledger.state(SERVICE) == before
        assert roll_back(ledger, emergency=True).number == before.revision + 1
        assert audit.verify(ledger, SERVICE, path.parent / "no-keys").ok


def test_a_limit_of_file_size_is_a_full_disk(tmp_path: Path):
    """A process that may not make files larger is refused cleanly, spends the reserve, and works once it may again."""
    _run_with_file_limit(tmp_path)


def test_status_can_be_read_on_a_full_disk(tmp_path: Path):
    """A read-only look needs no byte of space; without the right to mount, a folder without write access stands in."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "1m") if may_mount() else contextlib.nullcontext():
        fill(folder / "ledger.db")
        if may_mount():
            _fill_disk(folder)
        with contextlib.nullcontext() if may_mount() else read_only(folder), open_at(folder / "ledger.db", read_only=True) as ledger:
            assert ledger.state(SERVICE).stable == digest(2)


SECOND = f"import sys; from lastgood.ledger import connect\nwith connect(sys.argv[1]) as ledger: print(ledger.newest({SERVICE!r}))"


def test_a_second_connection_takes_no_lock_from_the_first(file: Path) -> None:
    """A process that opens its ledger twice keeps its hold on it: whoever looks meanwhile and leaves does not take the log away.

    A file that is opened and closed beside SQLite drops the whole process's locks, and what is committed after that is lost.
    """

    def elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", SECOND, url], check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    url = f"sqlite:///{file}"
    with connect(url) as first:
        before = first.newest(SERVICE)
        with connect(url) as second:
            second.migrate()
        assert elsewhere() == str(before)  # opens and leaves
        roll_back(first)
        assert first.newest(SERVICE) == before + 1
        assert elsewhere() == str(before + 1)
    assert elsewhere() == str(before + 1)

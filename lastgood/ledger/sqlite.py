"""The ledger in a file on this machine.

What does not belong here: anything that Postgres does the same way (`dialect`, `ledger`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.ledger.dialect import UNSURE, Dialect, Row


class Sqlite(Dialect):
    """A file on this machine; write-ahead log, every commit reaches the disk."""

    name = "sqlite"

    def __init__(self, path: Path, *, busy_timeout_s: float, read_only: bool) -> None:
        super().__init__()
        self.path = path
        self.where = str(path)
        self._busy_timeout_s = busy_timeout_s
        self._read_only = read_only
        self._inode: tuple[int, int] | None = None
        self._frozen = False

    def connect(self, *, create: bool = False) -> None:
        """Make sure there is a connection to the file that currently has the ledger's name.

        Without this check a commit would go, and be acknowledged, to a file that was moved away or deleted; and a
        connection without locks would never see another user's writes.
        """
        if self._connection is not None and (self._frozen or _inode(self.path) != self._inode):
            self.close()
        super().connect(create=create)

    def open(self, *, create: bool) -> sqlite3.Connection:
        if create:
            with self.translating_os():
                self._make()
        elif not self.path.is_file():
            raise errors.Unavailable(f"there is no ledger at {self.where}; run 'lastgood up' to create one, or restore the file")
        with self.translating():
            try:
                return self._opened("ro" if self._read_only else "rwc" if create else "rw")
            except sqlite3.OperationalError as error:
                if not self._read_only or error.sqlite_errorcode & 0xFF not in _NO_LOCK_FILE:
                    raise
                return self._opened_immutable()

    def _make(self) -> None:
        """The file, readable only by its owner from the first moment; SQLite gives its log the same mode."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Only a missing file is opened here: closing a file drops all of this process's locks on it, including those of other connections,
        # and the next one to leave then takes itself for the last and removes the log that these still write to.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _opened_immutable(self) -> sqlite3.Connection:
        """Open where no lock file can be made (read-only folder, full disk); only right if all commits are in the main file."""
        log = self.path.with_name(self.path.name + "-wal")
        if log.is_file() and log.stat().st_size > 0:
            raise errors.Unavailable(
                f"ledger {self.where} has commits in {log.name} that cannot be read in a read-only folder or on a full disk; "
                "copy both files to a writable folder and read them there"
            )
        return self._opened("ro&immutable=1")

    def _opened(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(str(self.path))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: without it fsync leaves data in the drive's cache
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA recursive_triggers = ON")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._inode, self._frozen = _inode(self.path), "immutable" in mode
            if mode == "rwc":
                connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def begin(self, lock: str) -> None:
        self.fetch("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        self.fetch("BEGIN")

    def script(self, text: str) -> None:
        statement = ""
        for line in text.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.fetch(statement)
                statement = ""

    def tables(self) -> frozenset[str]:
        return frozenset(row["name"] for row in self.fetch("SELECT name FROM sqlite_master WHERE type = 'table'"))

    def schema(self) -> dict[str, str]:
        return {row["name"]: row["sql"] for row in self.fetch(_SCHEMA)}

    def integrity(self) -> list[str]:
        found = [str(row["integrity_check"]) for row in self.fetch("PRAGMA integrity_check(20)")]
        found += [f"a row of {row['table']} refers to a missing row of {row['parent']}" for row in self.fetch("PRAGMA foreign_key_check")]
        return [line for line in found if line != "ok"]

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        rows: Sequence[Row] = self._connection.execute(sql, parameters).fetchall()
        return rows

    def translate(self, error: Exception) -> Exception:
        code, text = getattr(error, "sqlite_errorcode", None), str(error)
        if isinstance(error, OSError):
            return self.of_os(error)
        if code is None or text.startswith(("no such table", "no such column")):
            return self.no_schema(text) if code is not None else errors.Damaged(_DAMAGED.format(self.where, text))
        primary = code & 0xFF
        if primary in _DROPS:
            self.close()
        if primary == sqlite3.SQLITE_CONSTRAINT:
            return self.refused(text)
        if primary == sqlite3.SQLITE_FULL or code in _NO_ROOM:
            return self.full()
        kind, message = _MEANING.get(primary, (errors.Damaged, _DAMAGED))
        return kind(message.format(self.where, text))


# SQLite recognizes only "no space left" as a full disk; an exceeded quota or file size fails as a plain write.
_NO_ROOM = (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)

# The error when SQLite cannot create the file that readers and writers lock.
_NO_LOCK_FILE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)

# After these the connection's view of the file cannot be trusted; the next use opens another.
_DROPS = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT),
)

_DAMAGED = "ledger {0} is damaged: {1}; restore a backup, then run 'lastgood audit verify'"
_LOCKED = (
    "ledger {0} is locked by another process ({1}); try again, or end that process (a controller that is frozen: 'lastgood up' replaces it)"
)
_READ_ONLY = "ledger {0} cannot be written: {1}; give this user write access to the file and its folder"
_MEANING: Mapping[int, tuple[type[errors.LastgoodError], str]] = {
    sqlite3.SQLITE_BUSY: (errors.Unavailable, _LOCKED),
    sqlite3.SQLITE_LOCKED: (errors.Unavailable, _LOCKED),
    sqlite3.SQLITE_READONLY: (errors.Unavailable, _READ_ONLY),
    sqlite3.SQLITE_PERM: (errors.Unavailable, _READ_ONLY),
    sqlite3.SQLITE_CANTOPEN: (errors.Unavailable, "ledger {0} cannot be opened: {1}; check that its folder exists and is writable"),
    sqlite3.SQLITE_IOERR: (errors.Unavailable, "ledger {0} cannot be read or written: {1}; check the disk; " + UNSURE),
}


_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"


def schema_of(scripts: Iterable[str]) -> dict[str, str]:
    """The expected result of `Sqlite.schema` after these migrations."""
    with contextlib.closing(sqlite3.connect(":memory:")) as blank:
        for script in scripts:
            blank.executescript(script)
        return dict(blank.execute(_SCHEMA))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

"""What SQLite and Postgres do differently, one small class each; everything else is one code path.

Both speak plain SQL through their own driver with explicit transactions: the emergency path must start in
milliseconds, so there is no toolkit in between. psycopg is imported only for `postgresql://` addresses.

What does not belong here: what the rows mean (`ledger`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import errors

Row = Mapping[str, Any]

_GUARD = "lastgood: "
_UNSURE = "whether the change was written is not certain; repeat the command, it is applied once"


class DiskFull(errors.Unavailable):
    """The ledger cannot grow because its disk is full; nothing was changed."""


class Dialect(ABC):
    """One connection to one ledger, opened at first use and again after it broke."""

    name: str
    where: str
    """The ledger's address for people, without a password."""

    def __init__(self) -> None:
        self._connection: Any = None

    @abstractmethod
    def open(self, *, create: bool) -> Any:
        """A connection. Raises Unavailable or Damaged."""

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """The error of our tree that says what *error* of the driver means."""

    @abstractmethod
    def begin(self, lock: str) -> None:
        """Start a transaction that writes; no other one with the same *lock* runs meanwhile."""

    @abstractmethod
    def begin_reading(self) -> None:
        """Start a transaction that sees one snapshot."""

    @abstractmethod
    def script(self, text: str) -> None:
        """Run the statements of a migration inside the transaction."""

    @abstractmethod
    def tables(self) -> frozenset[str]:
        """The names of the tables that are there."""

    @abstractmethod
    def guards(self) -> dict[str, str]:
        """The triggers that are there and switched on: name -> text as written in the migration."""

    def fetch(self, sql: str, /, **parameters: Any) -> Sequence[Row]:
        """All rows of a query; none for a statement that returns none."""
        with self.translating():
            return self._fetch(sql, parameters)

    @abstractmethod
    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]: ...

    def connect(self, *, create: bool = False) -> None:
        """Make sure there is a connection."""
        if self._connection is None:
            self._connection = self.open(create=create)

    def commit(self) -> None:
        """End the transaction, durably. A failure drops the connection: its state is not to be trusted."""
        try:
            self.fetch("COMMIT")
        except BaseException:
            self.close()
            raise

    def undo(self) -> None:
        """Leave the transaction as if it had not been; never raises, at worst the connection is dropped."""
        if self._connection is None:
            return
        try:
            self._fetch("ROLLBACK", {})
        except Exception:
            self.close()

    def close(self) -> None:
        """Drop the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    @contextlib.contextmanager
    def translating_os(self) -> Iterator[None]:
        """Turn errors of the operating system into ours."""
        try:
            yield
        except OSError as error:
            raise self.translate(error) from error

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Turn errors of the driver and the operating system into ours."""
        try:
            yield
        except errors.LastgoodError:
            raise
        except Exception as error:
            raise self.translate(error) from error


def of(url: str, *, busy_timeout_s: float, read_only: bool) -> Dialect:
    """The dialect for *url*: `sqlite:///absolute/path` or `postgresql://…`. Opens nothing yet."""
    if url.startswith("sqlite:///"):
        path = Path("/" + url.removeprefix("sqlite:").lstrip("/"))
        return Sqlite(path, busy_timeout_s=busy_timeout_s, read_only=read_only)
    if url.startswith(("postgresql://", "postgres://")):
        return Postgres(url, busy_timeout_s=busy_timeout_s, read_only=read_only)
    raise errors.UsageError(
        f"ledger address {_without_password(url)!r} is not known; write sqlite:///absolute/path or postgresql://user@host/database"
    )


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

    def connect(self, *, create: bool = False) -> None:
        """Make sure there is a connection to the file that has the ledger's name now.

        Without this check a commit would go, and be acknowledged, to a file that was moved away or deleted.
        """
        if self._connection is not None and _inode(self.path) != self._inode:
            self.close()
        super().connect(create=create)

    def open(self, *, create: bool) -> sqlite3.Connection:
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_file():
            raise errors.Unavailable(f"there is no ledger at {self.where}; run 'lastgood up' to start one, or put the file back")
        with self.translating():
            try:
                return self._opened("ro" if self._read_only else "rwc" if create else "rw")
            except sqlite3.OperationalError:
                if not self._read_only or os.access(self.path.parent, os.W_OK):
                    raise
                return self._opened_immutable()

    def _opened_immutable(self) -> sqlite3.Connection:
        """Open in a folder where no lock file can be made; only right if all commits are in the main file."""
        log = self.path.with_name(self.path.name + "-wal")
        if log.is_file() and log.stat().st_size > 0:
            raise errors.Unavailable(
                f"ledger {self.where} has commits in {log.name} that cannot be read in a read-only folder; "
                "copy both files to a folder that can be written and read them there"
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
            self._inode = _inode(self.path)
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

    def guards(self) -> dict[str, str]:
        return {row["name"]: row["sql"] for row in self.fetch("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")}

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        rows: Sequence[Row] = self._connection.execute(sql, parameters).fetchall()
        return rows

    def translate(self, error: Exception) -> Exception:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, OSError):
            return _of_os(error, self.where)
        if not isinstance(error, sqlite3.Error) or code is None:
            return errors.Damaged(f"ledger {self.where} answers nonsense: {error}; run 'lastgood audit verify', or restore a backup")
        return self._translated(error, code)

    def _translated(self, error: sqlite3.Error, code: int) -> Exception:
        primary = code & 0xFF
        text = str(error)
        if primary == sqlite3.SQLITE_CONSTRAINT:
            return _refused(text)
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return errors.Unavailable(
                f"ledger {self.where} has been locked for {self._busy_timeout_s:g} s by another process; try again, or end that process"
            )
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
            self.close()
            return errors.Damaged(f"ledger {self.where} is damaged: {text}; restore a backup, then run 'lastgood audit verify'")
        if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
            self.close()
            return DiskFull(f"the disk of ledger {self.where} is full; free some space and try again")
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return errors.Unavailable(
                f"ledger {self.where} cannot be written: {text}; give this user write access to the file and its folder"
            )
        if primary == sqlite3.SQLITE_CANTOPEN:
            self.close()
            return errors.Unavailable(f"ledger {self.where} cannot be opened: {text}; check that the folder is there and can be written")
        if primary == sqlite3.SQLITE_IOERR:
            self.close()
            return errors.Unavailable(f"ledger {self.where} cannot be read or written: {text}; check the disk; {_UNSURE}")
        if text.startswith(("no such table", "no such column")):
            return _no_schema(self.where, text)
        return errors.Damaged(f"ledger {self.where} refuses a query: {text}; run 'lastgood audit verify', or restore a backup")


class Postgres(Dialect):
    """A Postgres server, always the primary: a replica may show a bundle that was rolled back already."""

    name = "postgres"

    def __init__(self, url: str, *, busy_timeout_s: float, read_only: bool) -> None:
        super().__init__()
        self.where = _without_password(url)
        self._url = url
        self._timeout_ms = max(1, round(busy_timeout_s * 1000))
        self._read_only = read_only

    def connect(self, *, create: bool = False) -> None:
        """Make sure there is a connection that is not known to be broken."""
        if self._connection is not None and self._connection.closed:
            self.close()
        super().connect(create=create)

    def open(self, *, create: bool) -> Any:
        import psycopg
        from psycopg.rows import dict_row

        # An operator's process that stops in the middle of a transaction must not block a rollback for ever.
        options = " ".join(
            f"-c {name}={value}"
            for name, value in {
                "lock_timeout": self._timeout_ms,
                "statement_timeout": max(60_000, self._timeout_ms),
                "idle_in_transaction_session_timeout": max(60_000, self._timeout_ms),
                "default_transaction_read_only": "on" if self._read_only else "off",
                "client_encoding": "UTF8",
            }.items()
        )
        seconds = max(2, -(-self._timeout_ms // 1000))
        with self.translating():
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                options=options,
                connect_timeout=seconds,
                target_session_attrs="primary",
                application_name="lastgood",
            )
            self._check_primary(connection)
        return connection

    def _check_primary(self, connection: Any) -> None:
        query = "SELECT pg_is_in_recovery() AS standby, current_setting('synchronous_commit') AS durable"
        row = connection.execute(query).fetchone()
        if row["standby"]:
            connection.close()
            raise errors.Unavailable(f"{self.where} is a standby, which may show an old state; set the ledger's address to the primary")
        if row["durable"] == "off":  # an acknowledged change must survive a crash, whatever the server's default is
            connection.execute("SET synchronous_commit = on")

    def begin(self, lock: str) -> None:
        self.fetch("BEGIN ISOLATION LEVEL READ COMMITTED")
        self.fetch("SELECT pg_advisory_xact_lock(hashtextextended('lastgood/' || :lock, 0))", lock=lock)

    def begin_reading(self) -> None:
        self.fetch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def script(self, text: str) -> None:
        with self.translating():
            self._connection.execute(text)

    def tables(self) -> frozenset[str]:
        rows = self.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema()")
        return frozenset(row["name"] for row in rows)

    def guards(self) -> dict[str, str]:
        rows = self.fetch(
            "SELECT t.tgname AS name, p.prosrc AS body FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND n.nspname = current_schema()"
        )
        return {row["name"]: row["body"] for row in rows}

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        cursor = self._connection.execute(_pyformat(sql), parameters or None)
        rows: Sequence[Row] = cursor.fetchall() if cursor.description is not None else []
        return rows

    def translate(self, error: Exception) -> Exception:
        import psycopg

        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, OSError):
            return _of_os(error, self.where)
        if isinstance(error, psycopg.errors.IntegrityError):
            return _refused(text)
        if isinstance(error, psycopg.errors.DiskFull):
            return DiskFull(f"the disk of ledger {self.where} is full; free some space and try again")
        if isinstance(error, (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)):
            return errors.Unavailable(
                f"ledger {self.where} has been locked for {self._timeout_ms / 1000:g} s by another process; try again, or end that process"
            )
        if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)):
            return _no_schema(self.where, text)
        if isinstance(error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            return errors.Unavailable(f"ledger {self.where} refuses: {text}; give this user the right, or use the primary")
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            self.close()
            return errors.Unavailable(f"ledger {self.where} cannot be reached: {text}; check the server; {_UNSURE}")
        return errors.Damaged(f"ledger {self.where} refuses a query: {text}; run 'lastgood audit verify', or restore a backup")


def _pyformat(sql: str) -> str:
    return re.sub(r"(?<!:):([a-z_]\w*)", r"%(\1)s", sql)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refused(text: str) -> errors.NotAllowed:
    rule = text.removeprefix(_GUARD) if text.startswith(_GUARD) else f"the ledger refuses it ({text})"
    return errors.NotAllowed(f"{rule}; see 'lastgood history', then decide again")


def _no_schema(where: str, text: str) -> errors.Unavailable:
    return errors.Unavailable(f"ledger {where} holds nothing usable yet ({text}); run 'lastgood up' to set it up, or restore a backup")


def _of_os(error: OSError, where: str) -> errors.Unavailable:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"the disk of ledger {where} is full; free some space and try again")
    return errors.Unavailable(f"ledger {where} cannot be used: {error}; check the disk and the rights of this user")


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1@", re.sub(r"(?i)([?&]password=)[^&]*", r"\1…", url))

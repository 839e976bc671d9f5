"""The ledger in a Postgres database.

What does not belong here: anything that SQLite does the same way (`dialect`, `ledger`). psycopg is imported inside
the functions, so that an SQLite ledger does not pay for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lastgood import errors
from lastgood.ledger.dialect import UNSURE, Dialect, Row


class Postgres(Dialect):
    """A Postgres server, always the primary: a replica may show a bundle that was rolled back already."""

    name = "postgres"

    def __init__(self, url: str, *, busy_timeout_s: float, read_only: bool) -> None:
        super().__init__()
        self.where = without_password(url)
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

        with self.translating():
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=max(2, -(-self._timeout_ms // 1000)),
                target_session_attrs="primary",
                client_encoding="UTF8",
                application_name="lastgood",
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: Any) -> None:
        # An operator's process that stops in the middle of a transaction must not block a rollback indefinitely; and an
        # acknowledged change must survive a crash, whatever the server's default is.
        patient_ms = max(60_000, self._timeout_ms)
        row = connection.execute(
            "SELECT pg_is_in_recovery() AS standby, set_config('lock_timeout', %(wait)s, false), "
            "set_config('statement_timeout', %(patient)s, false), set_config('idle_in_transaction_session_timeout', %(patient)s, false), "
            "set_config('default_transaction_read_only', %(read_only)s, false), "
            "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END",
            {"wait": str(self._timeout_ms), "patient": str(patient_ms), "read_only": "on" if self._read_only else "off"},
        ).fetchone()
        if row["standby"]:
            raise errors.Unavailable(f"{self.where} is a standby, which may return an old state; set the ledger's address to the primary")

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

    def schema(self) -> dict[str, str]:
        rows = self.fetch(
            "SELECT t.tgname AS name, p.prosrc AS body FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND n.nspname = current_schema()"
        )
        return {row["name"]: row["body"] for row in rows}

    def integrity(self) -> list[str]:
        return []  # page checksums are the server's responsibility

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        cursor = self._connection.execute(_pyformat(sql), parameters or None)
        rows: Sequence[Row] = cursor.fetchall() if cursor.description is not None else []
        return rows

    def translate(self, error: Exception) -> Exception:
        import psycopg

        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, OSError):
            return self.of_os(error)
        if isinstance(error, psycopg.errors.IntegrityError):
            return self.refused(text)
        if isinstance(error, psycopg.errors.DiskFull):
            return self.full()
        if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)):
            return self.no_schema(text)
        return self._translated(error, text)

    def _translated(self, error: Exception, text: str) -> Exception:
        import psycopg

        if isinstance(error, (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)):
            return errors.Unavailable(
                f"ledger {self.where} is locked by another process ({text}); try again, or end that process (a controller that is frozen: 'lastgood up' replaces it)"
            )
        if isinstance(error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            return errors.Unavailable(f"ledger {self.where} refuses the request: {text}; grant this user permission, or use the primary")
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            self.close()
            return errors.Unavailable(f"ledger {self.where} cannot be reached: {text}; check the server; {UNSURE}")
        return errors.Damaged(f"ledger {self.where} rejects a query: {text}; restore a backup, then run 'lastgood audit verify'")


def without_password(url: str) -> str:
    """*url* for logs and messages."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1@", re.sub(r"(?i)([?&]password=)[^&]*", r"\1…", url))


def _pyformat(sql: str) -> str:
    return re.sub(r"(?<!:):([a-z_]\w*)", r"%(\1)s", sql)

"""The differences between SQLite and Postgres, one small class each (`sqlite`, `postgres`); all else is one code path.

Both use plain SQL through their own driver with explicit transactions: the emergency path must start in
milliseconds, so there is no toolkit in between. psycopg is imported only for `postgresql://` addresses.

What does not belong here: what the rows mean (`ledger`).
"""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lastgood import errors

Row = Mapping[str, Any]

UNSURE = "the change may or may not have been written; repeat the command, it is applied only once"


class DiskFull(errors.Unavailable):
    """The ledger cannot grow because its disk is full or refuses more; nothing was changed."""


class NoSchema(errors.Unavailable):
    """The database exists but contains no ledger, or not all of it."""


class Dialect(ABC):
    """One connection to one ledger, opened at first use and reopened after it broke."""

    name: str
    where: str
    """The ledger's address in readable form, without a password."""

    def __init__(self) -> None:
        self._connection: Any = None

    @abstractmethod
    def open(self, *, create: bool) -> Any:
        """A connection. Raises Unavailable or Damaged."""

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """The error of our hierarchy that corresponds to the driver's *error*."""

    @abstractmethod
    def begin(self, lock: str) -> None:
        """Start a write transaction; no other one with the same *lock* runs meanwhile."""

    @abstractmethod
    def begin_reading(self) -> None:
        """Start a transaction that sees one snapshot."""

    @abstractmethod
    def script(self, text: str) -> None:
        """Run the statements of a migration inside the transaction."""

    @abstractmethod
    def tables(self) -> frozenset[str]:
        """The names of the existing tables."""

    @abstractmethod
    def schema(self) -> dict[str, str]:
        """The guards of the rows that are in force: name -> text, to compare with the migrations."""

    @abstractmethod
    def integrity(self) -> list[str]:
        """Problems that the engine itself finds in its storage, one line each."""

    def fetch(self, sql: str, /, **parameters: Any) -> Sequence[Row]:
        """All rows of a query; empty for a statement that returns none."""
        with self.translating():
            return self._fetch(sql, parameters)

    @abstractmethod
    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]: ...

    def connect(self, *, create: bool = False) -> None:
        """Make sure there is a connection."""
        if self._connection is None:
            self._connection = self.open(create=create)

    def commit(self) -> None:
        """Commit the transaction durably. A failure drops the connection, because its state cannot be trusted."""
        try:
            self.fetch("COMMIT")
        except BaseException:
            self.close()
            raise

    def undo(self) -> None:
        """Roll the transaction back; never raises, at worst the connection is dropped."""
        if self._connection is None:
            return
        try:
            self.fetch("ROLLBACK")
        except errors.LastgoodError:
            self.close()

    def close(self) -> None:
        """Drop the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    @contextlib.contextmanager
    def translating_os(self) -> Iterator[None]:
        """Convert operating system errors to ours."""
        try:
            yield
        except OSError as error:
            raise self.translate(error) from error

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Convert driver and operating system errors to ours."""
        try:
            yield
        except errors.LastgoodError:
            raise
        except Exception as error:
            raise self.translate(error) from error

    def full(self) -> DiskFull:
        """The message for a full disk."""
        return DiskFull(f"the disk of ledger {self.where} is full, over quota or failing; free some space and try again")

    def no_schema(self, text: str) -> NoSchema:
        """The message for a missing table."""
        return NoSchema(f"ledger {self.where} has not been set up ({text}); run 'lastgood up' to set it up, or restore a backup")

    def of_os(self, error: OSError) -> errors.Unavailable:
        """The message for an operating system error."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return self.full()
        return errors.Unavailable(f"ledger {self.where} cannot be used: {error}; check the disk and this user's permissions")

    def refused(self, text: str) -> errors.NotAllowed:
        """The message when a guard of the database refuses a row."""
        rule = text.removeprefix(_GUARD) if text.startswith(_GUARD) else f"the ledger refuses it ({text})"
        return errors.NotAllowed(f"{rule}; see 'lastgood history', then decide again")


_GUARD = "lastgood: "

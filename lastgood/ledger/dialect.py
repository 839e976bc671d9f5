"""What SQLite and Postgres do differently, one small class each (`sqlite`, `postgres`); all else is one code path.

Both speak plain SQL through their own driver with explicit transactions: the emergency path must start in
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
    """The ledger cannot grow because its disk is full or will not take more; nothing was changed."""


class NoSchema(errors.Unavailable):
    """The database is there but holds no ledger, or not all of it."""


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
    def schema(self) -> dict[str, str]:
        """What guards the rows, as it is in force: name -> text, to compare with the migrations."""

    @abstractmethod
    def integrity(self) -> list[str]:
        """What the engine itself finds wrong with its storage, one line each."""

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

    def full(self) -> DiskFull:
        """What to say about a full disk."""
        return DiskFull(f"the disk of ledger {self.where} is full, over quota or failing; free some space and try again")

    def no_schema(self, text: str) -> NoSchema:
        """What to say about a missing table."""
        return NoSchema(f"ledger {self.where} has not been set up ({text}); run 'lastgood up' to set it up, or restore a backup")

    def of_os(self, error: OSError) -> errors.Unavailable:
        """What to say about an error of the operating system."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return self.full()
        return errors.Unavailable(f"ledger {self.where} cannot be used: {error}; check the disk and this user's permissions")

    def refused(self, text: str) -> errors.NotAllowed:
        """What to say when a guard of the database refuses a row."""
        rule = text.removeprefix(_GUARD) if text.startswith(_GUARD) else f"the ledger refuses it ({text})"
        return errors.NotAllowed(f"{rule}; see 'lastgood history', then decide again")


_GUARD = "lastgood: "

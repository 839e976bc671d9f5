"""One connection to a ledger and its transactions: the base of every part of the ledger.

What does not belong here: any table (`ledger`, `leases`, `measurements`, `outbox`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from lastgood.ledger import migrate
from lastgood.ledger.ballast import Ballast
from lastgood.ledger.dialect import Dialect, DiskFull
from lastgood.system.failpoints import failpoint


class Session:
    """Opened at first use, and reopened after it broke; may be shared by threads, which then wait for each other."""

    def __init__(self, connection: Dialect, *, ballast: Ballast | None = None) -> None:
        self.dialect = connection
        self._ballast = ballast
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; using the ledger reopens it."""
        with self._lock:
            self.dialect.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for all reads inside."""
        with self._lock:
            self._open()
            self.dialect.begin_reading()
            try:
                migrate.check(self.dialect)
                yield
            finally:
                self.dialect.undo()

    @contextlib.contextmanager
    def _writing(self, lock: str) -> Iterator[None]:
        """One durable transaction, alone among those with the same *lock*: a service's name for its release log.

        SQLite lets one transaction write at a time, whatever its lock; so each of them has to be short.
        """
        with self._lock:
            self._open()
            self.dialect.begin(lock)
            try:
                with self.dialect.translating_os():
                    failpoint("ledger.after_begin")
                    migrate.check(self.dialect)
                    yield
                    failpoint("ledger.before_commit")
                self.dialect.commit()
            except BaseException:
                self.dialect.undo()
                raise
        failpoint("ledger.after_commit")

    def _open(self, *, create: bool = False) -> None:
        try:
            self.dialect.connect(create=create)
        except DiskFull:
            # Opening needs a few pages for SQLite's lock file; without them not even the state can be read.
            if self._ballast is None or not self._ballast.shrink():
                raise
            self.dialect.connect(create=create)

    def migrate(self) -> None:
        """Create the ledger or bring it to this release's schema. Safe to call at every start."""
        with self._lock:
            self._open(create=True)
            try:
                migrate.migrate(self.dialect)
            except DiskFull:
                # The first command after an upgrade may be a rollback on a full disk; new tables take some pages.
                if self._ballast is None or not self._ballast.shrink():
                    raise
                self._open(create=True)
                migrate.migrate(self.dialect)
            if self._ballast is not None:
                self._ballast.keep()

    def schema_version(self) -> int:
        """The ledger's schema version; 0 if it was never set up."""
        with self._lock:
            self._open()
            return migrate.version(self.dialect)

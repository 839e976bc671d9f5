"""Disk space kept in reserve beside a ledger, so that a rollback still commits when the disk is full.

What does not belong here: deciding which change may use the reserve (`Ledger.append`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FOR_OPENING = 256 * 1024


class Ballast:
    """A file of `size` bytes, fully allocated. Losing it is harmless; it is recreated when there is room."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def keep(self) -> bool:
        """Make sure that the reserve exists; False if the disk has no room for it."""
        if self._size <= 0:
            return False
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == self._size:
                return True
        try:
            _allocate(self._path, self._size)
        except OSError:
            # What is left of it stays: on a full disk it is the space that the next rollback needs.
            return False
        return True

    def shrink(self) -> bool:
        """Free just what opening a database needs; False if there is nothing to free."""
        try:
            size = self._path.stat().st_size
            os.truncate(self._path, max(0, size - _FOR_OPENING))
        except OSError:
            return False
        return size > 0

    def drop(self) -> bool:
        """Free all of it; False if there was none."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def _allocate(path: Path, size: int) -> None:
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.write(bytes(max(0, size - file.tell())))  # macOS lacks this call
        file.flush()
        os.fsync(file.fileno())

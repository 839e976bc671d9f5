"""File ownership, and that no other user may read or write our files.

Everything below the home folder belongs to the user that runs lastgood: folders 0700, files 0600, sealed files 0400.
On a shared machine another user can then reach neither the ledger nor a socket, and anything found under one of our
names that belongs to another user is not ours.

What does not belong here: the meaning of the files, and the owners of processes (`processes`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from lastgood import errors

UMASK = 0o077
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_TRUSTED = ("ledger.db", "ledger.db-wal", "keys", "keys/audit.key", "keys/debug.token", "keys/users.key", "audit", "store", "run", "envoy")
"""The files on which trust in a home rests; each must belong to this user or to root."""
_SEALED = ("store", "index")
"""Folders whose files are also identified by their change times: only the folder itself is restricted."""


class _Private:
    """The umask of this process while any thread is inside `files`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = os.umask(UMASK)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                os.umask(self._before)


_private = _Private()


@contextlib.contextmanager
def files() -> Iterator[None]:
    """Inside, this process and its children create files and folders for their owner alone; the umask applies to all threads."""
    _private.enter()
    try:
        yield
    finally:
        _private.leave()


def ours(found: os.stat_result) -> bool:
    """True if this user owns it and no other user may write it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_own_folder(folder: Path) -> bool:
    """True for a folder, not a link to one, that this user owns and no other may even enter: names inside it cannot be forged."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS


def check_home(home: Path) -> None:
    """Raise NotAllowed if *home* exists and is not writable by this user alone; changes nothing.

    One that others can only read is not refused: `close_home` restricts it.
    """
    try:
        found = home.stat()
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise errors.NotAllowed(
            f"{home} belongs to {user(found.st_uid)}, but this process runs as {user(os.geteuid())}; run it as that user "
            f"('sudo -u {user(found.st_uid)} lastgood …'), or set LASTGOOD_HOME to a folder of your own"
        )
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _alone_in(found.st_gid)):
        raise errors.NotAllowed(
            f"{home} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}), so its content cannot be trusted; "
            f"inspect it, then run 'chmod -R go-w {home}' and 'lastgood audit verify'; a team shares one account, see docs/security.md"
        )
    for name in _TRUSTED:
        with contextlib.suppress(FileNotFoundError):
            owner = (home / name).lstat().st_uid
            if owner not in (os.geteuid(), 0):
                raise errors.NotAllowed(
                    f"{home / name} belongs to {user(owner)}, so it is not trusted; "
                    f"restore your own from a backup, or 'chown' it if you know why its owner changed"
                )


def close_home(home: Path) -> None:
    """Make *home*, which passed `check_home`, readable by its owner alone: once, for one that an older release created.

    Marked as done by the mode of *home* itself, which is changed last.
    """
    if not stat.S_IMODE(home.stat().st_mode) & _OTHERS:
        return
    for below, folders, names in os.walk(home):
        folders[:] = [name for name in folders if not (Path(below) == home and name in _SEALED)]
        for name in names:
            _close(Path(below) / name)
        if Path(below) != home:
            _close(Path(below))
    for name in _SEALED:
        _close(home / name)
    _close(home)


def foreign(home: Path, *, limit: int = 20) -> list[tuple[Path, int]]:
    """Files and folders below *home* that belong neither to this user nor to root, with their owners; *limit* at most."""
    found = []
    for below, folders, names in os.walk(home):
        for path in (Path(below) / name for name in (*folders, *names)):
            with contextlib.suppress(OSError):
                owner = path.lstat().st_uid
                if owner not in (os.geteuid(), 0):
                    found.append((path, owner))
        if len(found) >= limit:
            break
    return found[:limit]


def user(uid: int) -> str:
    """The name of a user, else the number as `uid 1234`."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _close(path: Path) -> None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def _alone_in(gid: int) -> bool:
    """True for a user's private group, which many systems give every user; their umask leaves folders open to it."""
    import grp

    try:
        return gid == pwd.getpwuid(os.geteuid()).pw_gid and not set(grp.getgrgid(gid).gr_mem) - {user(os.geteuid())}
    except KeyError:
        return False

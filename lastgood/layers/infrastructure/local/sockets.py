"""Where a worker listens: a Unix socket that only our user can reach, however long the home's path is.

Nobody else can take the place of a dead worker, as anybody can take a port: the folder belongs to us and is closed to all others,
and that is checked before each start.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from lastgood import errors
from lastgood.core import arms

PATH_BYTES = 100
"""The path of a Unix socket is limited to 104 (macOS) or 108 bytes (Linux); some room is left."""


def path(folder: Path, arm: str) -> Path:
    """The socket of *arm*'s worker: in *folder*, or below the temp dir if that path would be too long. Creates the folder.

    Raises Unavailable if the folder is not ours, or is open to others.
    """
    name = f"{arms.label(arm)}.sock"
    if len(os.fsencode(folder / name)) > PATH_BYTES:
        marked = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"lastgood-{os.getuid()}-{marked}"
    if len(os.fsencode(folder / name)) > PATH_BYTES:
        raise errors.Unavailable(f"{folder / name} is too long for a socket; set TMPDIR to a folder with a shorter name")
    _own(folder)
    return folder / name


def _own(folder: Path) -> None:
    """Create *folder*, accessible to us alone. An existing foreign one, or a link, is refused: its creator could impersonate a worker."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o077:
            folder.chmod(0o700)  # ours, created earlier or under a umask that left it open
            found = folder.lstat()
    except OSError as error:
        raise errors.Unavailable(f"cannot create {folder} for worker sockets: {error}; correct its owner or mode") from error
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise errors.Unavailable(f"{folder} belongs to another user or is accessible to others; remove it, or set TMPDIR to another place")

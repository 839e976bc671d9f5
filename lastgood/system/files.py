"""Files that survive a power cut once a function has returned: copy, seal, sync, and delete.

What does not belong here: the meaning of the files (`bundle.store`, `bundle.archive`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

STAMPS = "stamps.json"

_CHUNK = 1 << 20
_SYNC_THREADS = 8  # fsyncs that wait together share a journal commit


def copy(source: BinaryIO, target: Path) -> tuple[int, str]:
    """Copy a stream to the new file *target*; returns its bytes and hex SHA-256. Not yet durable: `seal` makes it so."""
    digest = hashlib.sha256()
    size = 0
    with target.open("xb") as out:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def new_folder(folder: Path) -> Path:
    """*folder*, created with its parents; an existing empty one is accepted. Raises FileExistsError for one that is not empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"folder {str(folder)!r} holds something already; name a new or an empty one")
    return folder


def measure(source: BinaryIO) -> tuple[int, str]:
    """Remaining bytes of a stream and their hex SHA-256."""
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


Kept = Literal["durable", "whole", "fast"]
"""What a power cut may do to a file just written: durable: nothing; whole: the old content may return; fast: it may be empty."""


def write(target: Path, data: bytes | str, *, mode: int = 0o600, kept: Kept = "durable") -> None:
    """Replace *target* by *data* (text as UTF-8) atomically: a concurrent reader finds the old content or the new one.

    Any number of processes and threads may write the same file. Leaves nothing behind if it fails. Raises OSError.
    """
    handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(handle, mode)
            out.write(data.encode("utf-8") if isinstance(data, str) else data)
            out.flush()
            if kept != "fast":
                os.fsync(handle)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    if kept == "durable":
        sync(target.absolute().parent)


def seal(folder: Path, names: Sequence[str]) -> None:
    """Make everything below *folder* read-only for its owner alone and durable, and note the files' stamps in `stamps.json`.

    The folder itself stays writable: a read-only folder cannot be renamed.
    """
    for name in names:
        (folder / name).chmod(0o400)
    (folder / STAMPS).write_text(json.dumps({name: stamp(folder / name) for name in names}), "utf-8")
    (folder / STAMPS).chmod(0o400)
    with concurrent.futures.ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(sync, [folder / STAMPS, *(folder / name for name in names)]))
    for below, _, _ in os.walk(folder, topdown=False):
        if below != str(folder):
            Path(below).chmod(0o500)
        sync(Path(below))


def sync(path: Path) -> None:
    """Force a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stamp(path: Path) -> list[int]:
    """Size in bytes, modification and change time in ns: equal stamps mean that nobody wrote (or forged all three)."""
    found = os.lstat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def stamps(folder: Path) -> Mapping[str, list[int]]:
    """The stamps recorded by `seal`; empty if they cannot be read, so that the caller checks the bytes instead."""
    try:
        noted = json.loads((folder / STAMPS).read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def discard(folder: Path) -> None:
    """Remove a folder that may contain read-only ones; it is not an error if another process removes part of it meanwhile."""
    for below, _, _ in os.walk(folder):
        try:
            Path(below).chmod(0o700)
        except FileNotFoundError:
            continue
    shutil.rmtree(folder, ignore_errors=True)

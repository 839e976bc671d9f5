"""Bounds for the logs that Envoy writes endlessly: its requests, its ejections, its messages.

Requests are rotated when their file is full or a day old, whether or not anything is released; Envoy then opens a new one.
Readers follow (`requests`): a rotated file stays complete until three newer ones have been rotated.

What does not belong here: reading them, and calling this often enough (`lastgood.layers.housekeeping`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy.files import Files
from lastgood.system import clock

FULL_BYTES = 64 * 1024 * 1024
"""Requests are rotated at this size: with the files kept, a quarter of a GB, plus what arrives between two checks."""
OLD_S = 86_400.0
"""... or when the first line is this old."""
GONE_S = (envoy_requests.PUT_ASIDE + 1) * OLD_S
"""A rotated file that began this long ago is removed, even if nothing new arrives."""
EJECTIONS_BYTES = 8 * 1024 * 1024
SAID_BYTES = 8 * 1024 * 1024


def put_aside(files: Files, *, now: float, full_bytes: int | None = None) -> bool:
    """Rotate what is full or old at Unix time *now*; True if anything was. Raises OSError, or Down if Envoy cannot be notified.

    The caller holds the lock of *files*. A process killed in between loses nothing: Envoy continues in the file that it has open, and
    the next call notifies it.
    """
    moved = _turn_requests(files.access_log, now=now, full_bytes=FULL_BYTES if full_bytes is None else full_bytes)
    if _size(files.ejections) > EJECTIONS_BYTES:
        files.ejections.replace(files.ejections.with_name(files.ejections.name + ".1"))
        moved = True
    cut(files.log, most=SAID_BYTES)
    untold = any(path.with_name(path.name + ".1").exists() and not path.exists() for path in (files.access_log, files.ejections))
    if moved or untold:
        admin = envoy_admin.Admin(files.admin)
        try:
            admin.ask("/reopen_logs", method="POST")
        finally:
            admin.close()
    return moved


def cut(log: Path, *, most: int) -> bool:
    """Empty a *log* of more than *most* bytes, whose writer appends to it; its last *most* bytes are kept next to it as `….1`.

    For writers that cannot be asked to open a new file. What is written during the copy is lost, a line or two.
    """
    if _size(log) <= most:
        return False
    staged = log.with_name(f".{log.name}.{os.getpid()}")
    with log.open("rb") as file:
        file.seek(-most, os.SEEK_END)
        file.readline()
        handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as kept:
            kept.write(file.read(most))
    staged.replace(log.with_name(log.name + ".1"))
    os.truncate(log, 0)
    return True


def _turn_requests(log: Path, *, now: float, full_bytes: int) -> bool:
    newest, *aside = envoy_requests.names(log)
    for path in aside:
        began = envoy_requests.began(path)
        if began is not None and _age_s(began, now=now) > GONE_S:
            path.unlink(missing_ok=True)
    began = envoy_requests.began(newest)
    if began is None or (_size(newest) <= full_bytes and _age_s(began, now=now) <= OLD_S):
        return False
    for older, newer in zip(reversed(aside), reversed([newest, *aside[:-1]]), strict=True):
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)
    return True


def _age_s(began: float, *, now: float) -> float:
    """Age of a file by the first time that Envoy, which uses the machine's clock, wrote in it; unknown for a time in the future."""
    return max(now - clock.of_machine(began), 0.0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

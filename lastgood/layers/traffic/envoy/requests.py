"""The proxy's access log: one value per request, read continuously from the last position, across every rotation.

The log is a file `access.log` and the rotated ones, `access.log.1` (the newest) to `access.log.3`. A position is identified by the
first line of its file, never by a name or an inode, which may belong to another file later. A rotated file is complete once a newer
one exists: Envoy closes the old one before it opens the new one.

What does not belong here: whose failure a request is (`sources.requests`), rotating files (`logs`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

PUT_ASIDE = 3
"""Number of rotated files kept in addition to the one that Envoy writes."""

CHUNK_BYTES = 1 << 20
LINE_BYTES = 1 << 16
"""A first line is not searched for beyond this many bytes."""

LIMIT_S = 1.0
"""Maximum seconds that one call reads; the rest follows with the next."""


class Unreadable(Exception):
    """The log cannot be read; the text gives the reason and the remedy."""


class Request(NamedTuple):
    """One request, however many workers were asked for an answer. A tuple, because there are many of them.

    `route` is the cluster that it was routed to, empty if the proxy answered by itself. `arm` is the word for that arm, `bundle` the
    full id of the bundle that gave the last answer, empty if none did; `host` the worker asked last, empty if none was. `code` is what
    the caller got, 0 if nothing. `ms` is how long the caller waited after sending the whole request, None if no answer was completed;
    `hung_up_ms` how long it had waited when it hung up. `user` is the name of the user, the same in every release of this home and
    never the id itself; empty if the request named none, or an older release started the proxy.
    """

    route: str
    arm: str
    path: str
    bundle: str
    host: str
    code: int
    flags: frozenset[str]
    attempts: int
    ms: float | None
    hung_up_ms: float | None
    problem: str
    peer: str
    user: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where reading continues: after `offset` bytes of the file whose first line has the digest `file` and the time `first`.

    An empty `file` means the very beginning: there was no line yet.
    """

    file: str = ""
    first: float = 0.0
    offset: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


BEGINNING = Place()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The requests up to `end`. `lines` were read, of which `bad` are invalid."""

    requests: tuple[Request, ...]
    end: Place
    lines: int = 0
    bad: int = 0


def place(value: object) -> Place | None:
    """The place in the form of `Place.to_json`; None if it is not valid."""
    if not isinstance(value, Mapping):
        return None
    try:
        return Place(file=str(value["file"]), first=float(value["first"]), offset=int(value["offset"]))
    except (KeyError, TypeError, ValueError):
        return None


def parse(line: bytes) -> Request | None:
    """The request of one line; None if it is invalid. Lines of an Envoy started by an older release are valid too."""
    try:
        value = json.loads(line)
        flags = _flags(value["flags"] or "")
        return Request(
            route=value["cluster"] or "",
            arm=value["arm"] or "",
            path=value["path"] or "",
            bundle=value["bundle"] or "",
            host=value["host"] or "",
            code=int(value["code"] or 0),
            flags=flags,
            attempts=int(value["attempts"] or 0),
            ms=_waited(value),
            hung_up_ms=_hung_up(value, flags),
            problem=value.get("problem") or "",
            peer=value.get("peer") or "",
            user=value.get("user") or "",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@functools.lru_cache(maxsize=1000)
def _flags(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.replace("-", "").split(",")))


def _waited(value: Mapping[str, Any]) -> float | None:
    # A proxy started by an older release logs no other time.
    waited = value["waited_us"] if "waited_us" in value else value["total_us"] if value["upstream_us"] is not None else None
    return None if waited is None else float(waited) / 1000


def _hung_up(value: Mapping[str, Any], flags: frozenset[str]) -> float | None:
    """None also for a caller who hung up before the request was complete: it had not begun to wait."""
    received, whole = value.get("received_us"), value.get("all_ms")
    if not flags & HUNG_UP or received is None or whole is None:
        return None
    return max(float(whole) - float(received) / 1000, 0.0)


HUNG_UP = frozenset({"DC", "DR"})
"""Envoy's flags for a caller that closed the connection, or reset its stream."""


class RequestLog:
    """The access log at *path*. Read-only; opens it anew for each call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def end(self) -> Place:
        """The position after the current last complete line. Raises Unreadable."""
        with _Files(self._path) as files:
            for file in reversed(files.named):
                return dataclasses.replace(file.begin, offset=file.last_line_end())
        return BEGINNING

    def read(self, since: Place, *, limit_s: float = LIMIT_S) -> Batch:
        """The requests after *since*, for *limit_s* seconds at most. Raises Unreadable.

        If the file of *since* is gone, files rotated after it are read from their beginning; if Envoy's clock was set back since then, so
        that none seems to be newer, reading continues with the next line.
        """
        until = time.monotonic() + limit_s
        found: list[Request] = []
        lines = bad = 0
        end = since
        with _Files(self._path) as files:
            for file, begin in files.behind(since):
                end = dataclasses.replace(file.begin, offset=begin)
                for line, behind in file.lines(begin):
                    lines += 1
                    request = parse(line)
                    if request is None:
                        bad += 1
                    else:
                        found.append(request)
                    if lines % 1000 == 0 and time.monotonic() > until:
                        return Batch(requests=tuple(found), end=dataclasses.replace(end, offset=behind), lines=lines, bad=bad)
                end = dataclasses.replace(end, offset=file.read_to)
        return Batch(requests=tuple(found), end=end, lines=lines, bad=bad)


class _File:
    """One open file of the log."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read_to = 0
        first = file.readline(LINE_BYTES)
        whole = first.endswith(b"\n")
        self.begin = Place(file=hashlib.blake2b(first, digest_size=8).hexdigest(), first=_time(first)) if whole else BEGINNING

    def lines(self, begin: int) -> Iterator[tuple[bytes, int]]:
        """Complete lines from byte *begin* on, each with the position of the next one."""
        self._file.seek(begin)
        self.read_to, rest = begin, b""
        while fresh := self._file.read(CHUNK_BYTES):
            *whole, rest = (rest + fresh).split(b"\n")
            for line in whole:
                self.read_to += len(line) + 1
                if line:
                    yield line, self.read_to

    def last_line_end(self) -> int:
        size = self._file.seek(0, os.SEEK_END)
        while size > 0:
            begin = max(size - LINE_BYTES, 0)
            self._file.seek(begin)
            at = self._file.read(size - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            size = begin
        return 0


def _time(line: bytes) -> float:
    try:
        return float(json.loads(line)["t"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0.0


class _Files:
    """The files of the log, open, oldest first; `named` are those with a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: list[BinaryIO] = []
        self.named: list[_File] = []

    def __enter__(self) -> _Files:
        # The newest first: a rotation during the loop moves files this way, so that none is missed; one met twice counts once.
        known: set[tuple[int, int]] = set()
        try:
            for name in names(self._path):
                try:
                    file = name.open("rb")
                except FileNotFoundError:
                    continue
                self._open.append(file)
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) not in known:
                    known.add((status.st_dev, status.st_ino))
                    self.named.append(_File(file))
        except OSError as error:
            self.__exit__()
            raise Unreadable(f"the proxy's access log cannot be read: {error}; correct its owner or mode") from error
        if not known:
            raise Unreadable(f"the proxy writes no access log at {self._path}; run 'lastgood down' and 'lastgood up' to make it write one")
        self.named = [file for file in reversed(self.named) if file.begin != BEGINNING]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open:
            file.close()

    def behind(self, since: Place) -> list[tuple[_File, int]]:
        """The files with lines after *since*, oldest first, each with the byte where they begin."""
        for number, file in enumerate(self.named):
            if since.file == file.begin.file and since.offset <= file.last_line_end():
                return [(file, since.offset), *((newer, 0) for newer in self.named[number + 1 :])]
        # Its file is gone, or was truncated: what is newer has not been read. Order takes precedence over time: a clock may be set back.
        later = next((number for number, file in enumerate(self.named) if file.begin.first > since.first or since == BEGINNING), None)
        if later is not None:
            return [(file, 0) for file in self.named[later:]]
        return [(file, file.last_line_end()) for file in self.named[-1:]]


def names(path: Path) -> tuple[Path, ...]:
    """The log and the rotated files, the newest first."""
    return (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, PUT_ASIDE + 1)))


def began(path: Path) -> float | None:
    """When the first request in a file of the log arrived (Unix seconds); None if it has no complete line, or does not exist."""
    try:
        with path.open("rb") as file:
            first = file.readline(LINE_BYTES)
    except OSError:
        return None
    return _time(first) if first.endswith(b"\n") else None

"""An append-only log of rows in Parquet segments: bounded loss, no partial writes, readable while it grows.

    <folder>/dt=2013-03-01/<writer>.00000001-00000001.parquet   written every half `flush_s`
    <folder>/dt=2013-03-01/<writer>.00000001-00000120.parquet   several of one writer merged; the parts go a moment later
    <folder>/.writers/<writer>.lock                             held while the writer lives

A segment appears by one rename after its bytes are on disk. A segment whose range of numbers lies inside another's of
the same writer is a left-over and is not read, so a kill between merging and removing duplicates nothing. The segments of a
writer that died (its lock is free) are merged by the next one that starts.

Only the standard column `at` (UTC, microseconds) is known here; every row has it. All others are defined by the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import io
import itertools
import logging
import math
import os
import re
import secrets
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.serving import losses
from lastgood.system import clock as system_clock

if TYPE_CHECKING:
    import pyarrow as pa

LogRow = tuple[Any, ...]
"""One row to be written; its first item is the time, in microseconds since 1970, UTC."""
ToTable = Callable[[Sequence[LogRow]], "pa.Table"]

MERGE_EVERY_S = 60.0
"""Seconds between merges of the day's segments into one, until that one holds enough rows."""
MAX_WAITING = 20_000
"""Rows kept in memory while the disk refuses them (about 20 MB); beyond that, older ones are lost, and counted."""
_EXPIRE_EVERY_S = 3600.0
_SURE_S = 86_400.0
"""Minimum age of the process before it deletes all of a log at once, so that a machine that starts with a wrong clock can correct it."""
_READ_ATTEMPTS = 8
_logger = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<writer>[a-z0-9-]+)\.(?P<first>\d{8})-(?P<last>\d{8})\.parquet")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of one log since its start, in rows; `failures` in attempts. `unwritable` counts the lost rows that no column could hold."""

    written: int = 0
    lost: int = 0
    unwritable: int = 0
    waiting: int = 0
    failures: int = 0


class SegmentLog:
    """Accepts rows from any thread without waiting and writes them from its own thread.

    *to_table* turns rows into a table. Nothing here ever raises into the caller: a row that cannot be stored is counted.
    A kill -9 loses rows younger than *flush_s* seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        to_table: ToTable,
        flush_s: float,
        segment_rows: int,
        keep_days: float,
        clock: Callable[[], float] = system_clock.now,
    ) -> None:
        self.folder = folder
        self.writer = f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._to_table = to_table
        self._pause_s = flush_s / 2  # the other half is for writing
        self._segment_rows = segment_rows
        self._keep_days = keep_days
        self._clock = clock
        self._guard = threading.Lock()
        self._flushing = threading.Lock()
        self._rows: list[LogRow] = []
        self._written = self._lost = self._unwritable = self._failures = self._sequence = 0
        self._why = ""
        self._reported = (0, 0)
        self._open: dict[str, list[_Segment]] = defaultdict(list)
        self._merged_at = self._expired_at = clock()
        self._begun = time.monotonic()
        self._left_over: list[Path] = []
        self._lock_file: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log-{folder.name}", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def append(self, rows: Sequence[LogRow]) -> None:
        """Queue *rows*; returns at once."""
        with self._guard:
            self._rows.extend(rows)

    def rehearse(self, rows: Sequence[LogRow]) -> None:
        """Encode *rows* as a segment in memory and discard it, so that everything is loaded before the first write."""
        import pyarrow.parquet as pq

        pq.write_table(self._to_table(rows), io.BytesIO(), compression="zstd")

    def stats(self) -> Stats:
        """The current counts."""
        with self._guard:
            return Stats(
                written=self._written,
                lost=self._lost,
                unwritable=self._unwritable,
                waiting=len(self._rows),
                failures=self._failures,
            )

    def close(self) -> None:
        """Write the queued rows and end the thread; rows that the disk refuses now are lost."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        with self._guard:
            self._lost += len(self._rows)
            self._rows = []
        self._report()
        if self._lock_file is not None:
            os.close(self._lock_file)  # the file stays, so that the next writer merges what this one leaves
            self._lock_file = None

    def flush(self) -> None:
        """Write the queued rows, one segment for each day; rows that the disk refuses are kept for the next time.

        Waits for a flush in progress, so that rows appended before are on disk afterwards.
        """
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        with self._guard:
            rows, self._rows = self._rows, []
        for day, of_day in _by_day(rows).items():
            self._write_whole(day, of_day)
        self._report()

    def _write_whole(self, day: str, rows: list[LogRow]) -> None:
        """Write *rows*; a row that cannot be written is lost alone: it is found by bisection, and the others are written."""
        try:
            self._write(day, rows)
        except OSError as error:
            self._keep(rows, error)
        except Exception as error:  # rows come from a team's code; one odd value must not end the log
            if len(rows) > 1:
                self._write_whole(day, rows[: len(rows) // 2])
                self._write_whole(day, rows[len(rows) // 2 :])
                return
            _logger.exception("a row of log %s cannot be written; it is lost", self.folder)
            with self._guard:
                self._lost += 1
                self._unwritable += 1
                self._failures += 1
                self._why = f"{type(error).__name__} while a row was written"
        else:
            with self._guard:
                self._written += len(rows)

    def _report(self) -> None:
        """Record on disk how much was lost, for operators; retried until it is written."""
        with self._guard:
            found, why = (self._lost, self._unwritable), self._why
        if found != self._reported and losses.record(
            self.folder, self.writer, lost=found[0], unwritable=found[1], why=why, now=self._clock()
        ):
            self._reported = found

    def _run(self) -> None:
        self._guarded(self._register)
        self._guarded(self._adopt)
        self._guarded(self._expire)
        while not self._stop.wait(self._pause_s):
            self._guarded(self._remove_left_over)
            self.flush()
            if abs(self._clock() - self._merged_at) >= MERGE_EVERY_S:
                self._guarded(self._merge)
            if abs(self._clock() - self._expired_at) >= _EXPIRE_EVERY_S:
                self._guarded(self._expire)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Housekeeping that fails is retried later and never ends the log."""
        try:
            step()
        except Exception:  # for example a disk that is full or missing, or a segment that somebody damaged
            _logger.exception("housekeeping of log %s failed; retrying", self.folder)
            with self._guard:
                self._failures += 1

    def _keep(self, rows: list[LogRow], error: OSError) -> None:
        with self._guard:
            self._failures += 1
            self._rows = rows + self._rows
            surplus = max(0, len(self._rows) - MAX_WAITING)
            self._lost += surplus
            self._rows = self._rows[surplus:]
            self._why = f"the disk refused: {error}"
        _logger.warning(
            "log %s cannot be written: %s; answers continue, %d rows wait in memory; free some space there",
            self.folder,
            error,
            len(self._rows),
        )

    def _register(self) -> None:
        """Hold this writer's lock, which shows that it is alive."""
        if self._lock_file is not None:
            return
        folder = self.folder / ".writers"
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{self.writer}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._lock_file = handle

    def _write(self, day: str, rows: list[LogRow]) -> None:
        self._register()
        number = self._sequence + 1
        write_segment(self._to_table(rows), self.folder / day, name=segment_name(self.writer, number, number), at=self._clock())
        self._sequence = number
        self._open[day].append(_Segment(number, number, len(rows)))

    def _merge(self) -> None:
        self._merged_at = self._clock()
        for day in list(self._open):
            merged = self._merge_into_one(self.folder / day, self.writer, self._open[day])
            if merged.rows >= self._segment_rows or day < day_name(self._merged_at):
                del self._open[day]
            else:
                self._open[day] = [merged]

    def _merge_into_one(self, folder: Path, writer: str, segments: Sequence[_Segment]) -> _Segment:
        """Replace *segments*, which are in order, by one segment; the parts are removed at the next turn."""
        whole = _Segment(segments[0].first, segments[-1].last, sum(segment.rows for segment in segments))
        if len(segments) > 1:
            files = [folder / segment_name(writer, segment.first, segment.last) for segment in segments]
            write_segment(_read(files, None), folder, name=segment_name(writer, whole.first, whole.last), at=self._clock())
            self._left_over += files
        return whole

    def _remove_left_over(self) -> None:
        # One turn after the merge: a reader that lists the folder meanwhile sees the old ones or the new one, or both.
        files, self._left_over = self._left_over, []
        for file in files:
            file.unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Merge what dead writers left, and forget those writers."""
        for lock in sorted((self.folder / ".writers").glob("*.lock")):
            self._guarded(functools.partial(self._adopt_one, lock))

    def _adopt_one(self, lock: Path) -> None:
        handle = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)  # it is alive
            return
        try:
            for folder in sorted(self.folder.glob("dt=*")):
                self._merge_dead(folder, lock.stem)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _merge_dead(self, folder: Path, writer: str) -> None:
        names = {path.name for path in folder.iterdir() if path.name.lstrip(".").startswith(f"{writer}.")}
        whole = current(names)
        for name in names - whole.keys():
            (folder / name).unlink(missing_ok=True)
        segments = [_Segment(first, last, _rows(folder / name)) for first, last, name in sorted(whole.values())]
        # A merge covers a range without holes, so it takes everything from the first unfinished one on.
        unfinished = list(itertools.dropwhile(lambda segment: segment.rows >= self._segment_rows, segments))
        if unfinished:
            self._merge_into_one(folder, writer, unfinished)

    def _expire(self) -> None:
        self._expired_at = self._clock()
        oldest = datetime.datetime.fromtimestamp(self._expired_at - self._keep_days * 86_400, datetime.UTC)
        losses.forget(self.folder, before=oldest.timestamp())
        days = sorted(folder for folder in self.folder.glob("dt=*") if folder.name != day_name(self._expired_at))
        old = [folder for folder in days if folder.name < day_name(oldest.timestamp())]
        if len(old) > 1 and old == days and time.monotonic() - self._begun < _SURE_S:
            _logger.warning(
                "log %s: all %d days of it are older than %g days, which may be due to a wrong clock; they will be removed in a day unless the clock is corrected",
                self.folder, len(old), self._keep_days,
            )  # fmt: skip
            return
        for folder in old:
            shutil.rmtree(folder)


@dataclasses.dataclass(frozen=True, slots=True)
class _Segment:
    """Numbers *first* to *last* of a writer, in one file."""

    first: int
    last: int
    rows: int


def write_segment(table: pa.Table, folder: Path, *, name: str, at: float | None = None) -> None:
    """Write *table* as the segment *name* at Unix time *at*: complete and on disk, or not present. Raises OSError.

    Readers skip a file by its modification time, so that is set to the time by which rows are written, not the disk's.
    """
    import pyarrow.parquet as pq

    target, staged = folder / name, folder / f".{name}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        if at is not None:
            os.utime(staged, (at, at))
        staged.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    _sync(folder)


def read(folder: Path, *, since: float, until: float, columns: Collection[str] | None = None) -> pa.Table | None:
    """Rows with *since* <= `at` < *until* (Unix seconds), oldest first; None if there are none.

    Columns that a segment lacks are null, so bundles with different fields can be read together. Safe while the log is being written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    days = [path for path in sorted(folder.glob("dt=*")) if day_name(since) <= path.name <= day_name(until)]
    tables = [table for table in (_read_day(path, columns) for path in days) if table is not None]
    if not tables:
        return None
    whole = pa.concat_tables(tables, promote_options="permissive")
    bounds = [pa.scalar(round(_within(moment) * 1e6), pa.int64()).cast(whole["at"].type) for moment in (since, until)]
    whole = whole.filter(pc.and_(pc.greater_equal(whole["at"], bounds[0]), pc.less(whole["at"], bounds[1])))
    return whole.sort_by("at") if whole.num_rows else None


def load_segment(path: Path, *, since: float, columns: Collection[str], until: float = math.inf) -> pa.Table | None:
    """The rows of one segment; None, from its statistics alone, if none has *since* <= `at` < *until* (Unix seconds).

    Raises FileNotFoundError, or Damaged.
    """
    import pyarrow.parquet as pq

    with path.open("rb") as file, _damage_named(path):
        segment = pq.ParquetFile(file)
        spans = [_span(segment.metadata.row_group(number)) for number in range(segment.metadata.num_row_groups)]
        if spans and all(span is not None and (span[1] < since or span[0] >= until) for span in spans):
            return None
        return segment.read(columns=[name for name in segment.schema_arrow.names if name in columns or name == "at"])


def _span(group: Any) -> tuple[float, float] | None:
    """The lowest and highest `at` of a row group in Unix seconds; None if its statistics lack them."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "at":
            found = column.statistics
            return (found.min.timestamp(), found.max.timestamp()) if found is not None and found.has_min_max else None
    return None


def day_name(moment: float) -> str:
    """The folder of the UTC day of *moment* (Unix seconds)."""
    return datetime.datetime.fromtimestamp(_within(moment), datetime.UTC).strftime("dt=%Y-%m-%d")


def _within(moment: float) -> float:
    """*moment*, clamped to the years of the calendar, so that a window may be open at either end."""
    return min(max(moment, -2e9), 2e11)


def segment_name(writer: str, first: int, last: int) -> str:
    """The file name for numbers *first* to *last* of *writer*."""
    return f"{writer}.{first:08d}-{last:08d}.parquet"


def _read_day(folder: Path, columns: Collection[str] | None) -> pa.Table | None:
    for attempt in range(_READ_ATTEMPTS):
        try:
            files = sorted(folder / name for name in current(path.name for path in folder.iterdir()))
            return _read(files, columns) if files else None
        except FileNotFoundError:  # merged or expired since the folder was listed
            if attempt == _READ_ATTEMPTS - 1:
                raise
    return None


def current(names: Iterable[str]) -> dict[str, tuple[int, int, str]]:
    """The segments among *names* that are not contained in another one: first and last number, and name, by name."""
    by_writer: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for found in map(_NAME.fullmatch, names):
        if found:
            by_writer[found["writer"]].append((int(found["first"]), int(found["last"]), found.string))
    kept = {}
    for segments in by_writer.values():
        reach = 0
        for first, last, name in sorted(segments, key=lambda item: (item[0], -item[1])):
            if last > reach:
                kept[name] = (first, last, name)
                reach = last
    return kept


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    with path.open("rb") as file, _damage_named(path):
        return int(pq.ParquetFile(file).metadata.num_rows)


def _read(files: Sequence[Path], columns: Collection[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        with path.open("rb") as file, _damage_named(path):
            segment = pq.ParquetFile(file)
            names = segment.schema_arrow.names
            tables.append(segment.read(columns=None if columns is None else [name for name in names if name in columns or name == "at"]))
    return pa.concat_tables(tables, promote_options="permissive")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise errors.Damaged(f"log segment {path} cannot be read: {error}; move it out of its folder to read the rest") from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _by_day(rows: Sequence[LogRow]) -> dict[str, list[LogRow]]:
    days: dict[str, list[LogRow]] = {}
    for row in rows:
        days.setdefault(day_name(row[0] / 1e6), []).append(row)
    return days

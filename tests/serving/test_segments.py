"""Parquet segments: whole or absent, merged without loss or doubles, readable while they change."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lastgood import errors
from lastgood.serving import losses, segments

DAY_S = 86_400.0
NOON = 1_362_139_200.0  # 2013-03-01 12:00 UTC
EVER = {"since": 0.0, "until": 4e9}


def to_table(rows: Sequence[segments.LogRow]) -> pa.Table:
    """Rows of (time, number)."""
    at = pa.array([row[0] for row in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"at": at, "number": pa.array([row[1] for row in rows], pa.int64())})


def log_in(folder: Path, *, clock: Callable[[], float] = lambda: NOON, **changes: Any) -> segments.SegmentLog:
    """A log that is not started: each test says when it writes."""
    limits: dict[str, Any] = {"flush_s": 1.0, "segment_rows": 1000, "keep_days": 30.0, **changes}
    return segments.SegmentLog(folder, name="test", to_table=to_table, clock=clock, **limits)


def row(number: int, at: float = NOON) -> segments.LogRow:
    """One row, a microsecond after the one before."""
    return (round(at * 1e6) + number, number)


def numbers(folder: Path, **window: float) -> list[int]:
    """The numbers that a reader sees, in order."""
    table = segments.read(folder, **{**EVER, **window})
    return [] if table is None else table["number"].to_pylist()


def files(folder: Path) -> list[str]:
    """Names of all files of all days, hidden ones too."""
    return sorted(path.name for day in folder.glob("dt=*") for path in day.iterdir())


def test_flushed_rows_are_read_back_in_order(tmp_path: Path) -> None:
    """What was appended and flushed is there, oldest first, and filed by its own UTC day."""
    log = log_in(tmp_path)
    log.append([row(2), row(1)])
    log.append([row(3, NOON + DAY_S)])
    assert numbers(tmp_path) == []
    log.flush()
    assert numbers(tmp_path) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("dt=*")) == ["dt=2013-03-01", "dt=2013-03-02"]
    assert log.stats() == segments.Stats(written=3)
    log.close()


def test_a_window_includes_its_beginning_and_not_its_end(tmp_path: Path) -> None:
    """since <= at < until, to the microsecond, also across days."""
    log = log_in(tmp_path)
    log.append([row(0), row(1), row(0, NOON + DAY_S)])
    log.close()
    assert numbers(tmp_path, since=NOON, until=NOON + 1e-6) == [0]
    assert numbers(tmp_path, since=NOON + 1e-6) == [1, 0]
    assert numbers(tmp_path, until=NOON) == []


def test_nothing_flushed_is_nothing_written(tmp_path: Path) -> None:
    """An idle log makes no segments and reads as None."""
    log = log_in(tmp_path)
    log.flush()
    log.close()
    assert files(tmp_path) == []
    assert segments.read(tmp_path, **EVER) is None
    assert segments.read(tmp_path / "absent", **EVER) is None


def test_merging_keeps_every_row_once_at_each_step(tmp_path: Path) -> None:
    """Before, between and after the two steps of a merge a reader sees each row exactly once."""
    log = log_in(tmp_path)
    for number in range(5):
        log.append([row(number)])
        log.flush()
    assert (len(files(tmp_path)), numbers(tmp_path)) == (5, [0, 1, 2, 3, 4])
    log._merge()
    assert (len(files(tmp_path)), numbers(tmp_path)) == (6, [0, 1, 2, 3, 4])
    log._remove_left_over()
    assert (len(files(tmp_path)), numbers(tmp_path)) == (1, [0, 1, 2, 3, 4])
    log.append([row(5)])
    log.flush()
    log._merge()
    log._remove_left_over()
    assert (len(files(tmp_path)), numbers(tmp_path)) == (1, [0, 1, 2, 3, 4, 5])
    log.close()


def test_a_segment_that_is_large_enough_is_left_alone(tmp_path: Path) -> None:
    """Merging stops at the wanted number of rows, so a row is not rewritten for ever."""
    log = log_in(tmp_path, segment_rows=3)
    for number in range(8):
        log.append([row(number)])
        log.flush()
        log._merge()
        log._remove_left_over()
    sizes = [segments._rows(path) for path in sorted(tmp_path.glob("dt=*/*.parquet"))]
    assert sizes == [3, 3, 2]
    assert numbers(tmp_path) == list(range(8))
    log.close()


def test_the_next_writer_merges_what_a_dead_one_left(tmp_path: Path) -> None:
    """After a kill -9 with small, merged, half-merged and half-written files, the next start leaves one whole segment."""
    program = f"""
import os, signal
from pathlib import Path
from tests.serving import test_segments as t
log = t.log_in(Path({str(tmp_path)!r}))
for number in range(6):
    log.append([t.row(number)]); log.flush()
    if number == 3: log._merge()
day = next(Path({str(tmp_path)!r}).glob("dt=*"))
(day / f".{{log.writer}}.00000007-00000007.parquet.tmp").write_bytes(b"PAR1half")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert numbers(tmp_path) == list(range(6))
    assert len(files(tmp_path)) == 8
    successor = log_in(tmp_path)
    successor._adopt()
    assert numbers(tmp_path) == list(range(6))
    successor._remove_left_over()
    assert len(files(tmp_path)) == 1
    assert numbers(tmp_path) == list(range(6))
    assert list((tmp_path / ".writers").iterdir()) == []
    successor.close()


def test_a_large_segment_of_a_dead_writer_does_not_swallow_its_successors(tmp_path: Path) -> None:
    """Around a segment that is already large, adoption loses and doubles nothing."""
    dead = log_in(tmp_path, segment_rows=3)
    for size in (1, 5, 1, 1):
        dead.append([row(number) for number in range(dead.stats().written, dead.stats().written + size)])
        dead.flush()
    dead.close()
    successor = log_in(tmp_path, segment_rows=3)
    successor._adopt()
    successor._remove_left_over()
    assert numbers(tmp_path) == list(range(8))
    successor.close()


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    """Two workers of one service write side by side; neither takes the other's segments."""
    one, two = log_in(tmp_path), log_in(tmp_path)
    for number in range(3):
        one.append([row(number)])
        one.flush()
    two._adopt()
    assert len(files(tmp_path)) == 3
    one._merge()
    one._remove_left_over()
    assert numbers(tmp_path) == [0, 1, 2]
    for log in (one, two):
        log.close()


def test_an_unwritable_folder_loses_nothing_until_memory_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk refuses, rows wait; the oldest go when too many do, each counted; when it recovers, the rest is written."""
    monkeypatch.setattr(segments, "MAX_WAITING", 5)
    blocked = tmp_path / "inference"
    blocked.write_text("a file where the folder should be")
    log = log_in(blocked / "predictions")
    for number in range(7):
        log.append([row(number)])
        log.flush()
    assert log.stats() == segments.Stats(lost=2, waiting=5, failures=7)
    blocked.unlink()
    log.flush()
    assert log.stats() == segments.Stats(written=5, lost=2, failures=7)
    assert numbers(blocked / "predictions") == [2, 3, 4, 5, 6]
    log.close()


def test_rows_that_can_never_be_written_are_counted_at_the_end(tmp_path: Path) -> None:
    """Closing on a dead disk ends in time and counts what it could not write."""
    (tmp_path / "file").write_text("")
    log = log_in(tmp_path / "file" / "log")
    log.start()
    log.append([row(1), row(2)])
    log.close()
    assert log.stats().lost == 2
    assert log.stats().waiting == 0


def test_a_full_disk_leaves_no_half_segment(tmp_path: Path) -> None:
    """With a limit on file size a write fails in the middle; nothing of it is visible, and the rows are kept."""
    program = f"""
import resource, signal
from pathlib import Path
from tests.serving import test_segments as t
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({str(tmp_path)!r})
log = t.log_in(folder)
log.append([t.row(number * number * 7919 % 1_000_003) for number in range(5000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
log.flush()
assert log.stats().waiting == 5000, log.stats()
assert t.files(folder) == [], t.files(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close()
assert log.stats().written == 5000, log.stats()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert len(numbers(tmp_path)) == 5000


def test_a_row_that_no_column_can_hold_does_not_end_the_log(tmp_path: Path) -> None:
    """Rows that cannot be turned into a table are lost and counted; the next ones are written."""
    log = log_in(tmp_path)
    log.append([(round(NOON * 1e6), "not a number")])
    log.flush()
    log.append([row(1)])
    log.flush()
    assert (log.stats().lost, log.stats().written) == (1, 1)
    assert numbers(tmp_path) == [1]
    log.close()


def test_one_odd_row_takes_none_of_its_neighbours_along(tmp_path: Path) -> None:
    """However many rows a flush has, and wherever the odd ones are: they alone are lost, and it is left on disk how many, until that is old."""
    log = log_in(tmp_path / "predictions")
    odd = {0, 1, 417, 999}
    log.append([(round(NOON * 1e6) + number, 2**63 if number in odd else number) for number in range(1000)])
    log.flush()
    assert numbers(tmp_path / "predictions") == [number for number in range(1000) if number not in odd]
    assert log.stats() == segments.Stats(written=996, lost=4, unwritable=4, failures=4)
    (found,) = losses.read(tmp_path)
    assert (found.log, found.lost, found.unwritable, found.why != "") == ("predictions", 4, 4, True)
    log.close()
    assert losses.read(tmp_path) == [found]
    losses.forget(tmp_path / "predictions", before=4e9)
    assert losses.read(tmp_path) == []


def test_what_a_full_disk_costs_is_left_on_it_once_it_takes_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond the room in memory are lost; that is written down as soon as anything can be."""
    monkeypatch.setattr(segments, "MAX_WAITING", 5)
    folder = tmp_path / "predictions"
    folder.write_text("in the way")
    log = log_in(folder)
    log.append([row(number) for number in range(7)])
    log.flush()
    assert losses.read(tmp_path) == []
    folder.unlink()
    log.flush()
    (found,) = losses.read(tmp_path)
    assert (found.lost, found.unwritable) == (2, 0)
    assert "disk" in found.why
    log.close()


def test_old_days_are_removed(tmp_path: Path) -> None:
    """Days that ended longer ago than asked are removed, and no others."""
    log = log_in(tmp_path, keep_days=2.0)
    log.append([row(age, NOON - age * DAY_S) for age in range(5)])
    log.flush()
    log._expire()
    assert sorted(numbers(tmp_path)) == [0, 1, 2]
    log.close()


def test_a_damaged_segment_is_named(tmp_path: Path) -> None:
    """A reader says which file is broken instead of skipping it."""
    log = log_in(tmp_path)
    log.append([row(1)])
    log.close()
    (segment,) = tmp_path.glob("dt=*/*.parquet")
    segment.write_bytes(segment.read_bytes()[:-20])
    with pytest.raises(errors.Damaged, match=segment.name):
        segments.read(tmp_path, **EVER)


def test_columns_that_older_segments_lack_are_null(tmp_path: Path) -> None:
    """Two bundles may log different fields; both are read together."""
    log = log_in(tmp_path)
    log.append([row(1)])
    log.flush()
    log._to_table = lambda rows: to_table(rows).append_column("extra", pa.array(["new"]))
    log.append([row(2)])
    log.close()
    table = segments.read(tmp_path, columns=["number", "extra"], **EVER)
    assert table.select(["number", "extra"]).to_pylist() == [{"number": 1, "extra": None}, {"number": 2, "extra": "new"}]


def test_readers_see_a_growing_prefix_while_segments_are_merged(tmp_path: Path) -> None:
    """Reading again and again during writing and merging never misses, doubles or reorders a row that was there before."""
    log = log_in(tmp_path, segment_rows=40)
    seen: list[list[int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(numbers(tmp_path))

    reader = threading.Thread(target=watch)
    reader.start()
    for number in range(150):
        log.append([row(number)])
        log.flush()
        if number % 7 == 6:
            log._remove_left_over()
            log._merge()
    done.set()
    reader.join()
    log.close()
    assert len(seen) > 2
    for before, after in itertools.pairwise(seen):
        assert before == list(range(len(before)))
        assert len(after) >= len(before)
    assert numbers(tmp_path) == list(range(150))


def test_the_thread_writes_without_being_asked(tmp_path: Path) -> None:
    """A started log writes by itself; the row is visible while the log stays open."""
    log = log_in(tmp_path, flush_s=0.1)
    log.start()
    log.append([row(1)])
    while numbers(tmp_path) != [1]:
        pass
    log.close()

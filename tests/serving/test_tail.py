"""Reading a log on while it grows and is merged: every row once, and nothing opened that is known or old."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood import errors
from lastgood.serving import log_tail as tails
from lastgood.serving import segments
from tests.serving.test_segments import DAY_S, NOON, log_in, row


class Reader:
    """A tail that counts the files it opens."""

    def __init__(self, folder: Path, *, since: float = 0.0) -> None:
        self.opened: list[str] = []
        self.tail = tails.Tail(folder, since=since, columns=["number"], load=self._load)

    def _load(self, path: Path, **asked: Any) -> pa.Table | None:
        self.opened.append(path.name)
        return segments.load_segment(path, **asked)

    def read(self, now: float = NOON) -> list[int]:
        """The numbers that are new."""
        return [number for table in self.tail.read(now=now) for number in table["number"].to_pylist()]


def test_each_row_comes_once_while_the_log_grows_and_is_merged(tmp_path: Path) -> None:
    """A merged segment brings only what was not read before it was merged."""
    log, reader = log_in(tmp_path), Reader(tmp_path)
    assert reader.read() == []
    for number in (1, 2):
        log.append([row(number)])
        log.flush()
    assert reader.read() == [1, 2]
    log.append([row(3), row(4)])
    log.flush()
    log._merge()
    log._remove_left_over()
    assert reader.read() == [3, 4]
    assert reader.read() == []
    log.append([row(5)])
    log.flush()
    log._merge()
    assert reader.read() == [5]
    log._remove_left_over()
    assert reader.read() == []


def test_a_look_opens_only_what_is_new(tmp_path: Path) -> None:
    """After hundreds of segments a look with nothing new opens no file, and one with one new segment opens one."""
    log, reader = log_in(tmp_path), Reader(tmp_path)
    for number in range(300):
        log.append([row(number)])
        log.flush()
        if number % 30 == 29:
            assert len(reader.read()) == 30
            log._merge()
            log._remove_left_over()
    assert len(reader.opened) == len(set(reader.opened)) == 300
    reader.opened.clear()
    assert reader.read() == []
    assert reader.opened == []
    log.append([row(300)])
    log.flush()
    assert reader.read() == [300]
    assert len(reader.opened) == 1


def test_what_is_older_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its day, by its time of change, by its statistics: an old segment's rows are never loaded."""
    since = NOON + 100
    log = log_in(tmp_path)
    for number, at in enumerate((NOON - DAY_S, NOON, NOON + 50, NOON + 200)):
        log.append([row(number, at)])
        log.flush()
    long_ago = next(path for path in tmp_path.glob("dt=2013-03-01/*.parquet") if "00000002" in path.name)
    os.utime(long_ago, (NOON - 300, NOON - 300))
    reader = Reader(tmp_path, since=since)
    assert reader.read() == [3]
    assert [name.split(".")[1] for name in reader.opened] == ["00000003-00000003", "00000004-00000004"]
    path = next(path for path in tmp_path.glob("dt=2013-03-01/*.parquet") if "00000003" in path.name)
    assert segments.load_segment(path, since=since, columns=["number"]) is None


def test_a_writer_whose_clock_is_ahead_of_the_disks_is_read(tmp_path: Path) -> None:
    """Its file is older than the rows in it, by less than clocks may differ."""
    log = log_in(tmp_path)
    log.append([row(1, NOON + 110)])
    log.flush()
    (file,) = tmp_path.glob("dt=*/*.parquet")
    os.utime(file, (NOON - 100, NOON - 100))
    assert Reader(tmp_path, since=NOON + 100).read() == [1]


def test_a_writer_that_died_is_read_to_its_end(tmp_path: Path) -> None:
    """The next writer merges what a dead one left: only what had not been read comes."""
    dead, reader = log_in(tmp_path), Reader(tmp_path)
    for number in (1, 2):
        dead.append([row(number)])
        dead.flush()
    assert reader.read() == [1, 2]
    dead.append([row(3)])
    dead.flush()
    assert dead._lock_file is not None
    os.close(dead._lock_file)
    following = log_in(tmp_path)
    following._adopt()
    following._remove_left_over()
    assert reader.read() == [3]
    assert reader.read() == []


def test_a_segment_that_vanishes_is_found_in_the_merged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the opening the log is merged: nothing is lost, nothing raised."""
    log, reader = log_in(tmp_path), Reader(tmp_path)
    for number in (1, 2):
        log.append([row(number)])
        log.flush()
    load = reader._load

    def merging(path: Path, **asked: Any) -> pa.Table | None:
        log._merge()
        log._remove_left_over()
        return load(path, **asked)

    reader.tail._load = merging
    assert reader.read() == []
    assert reader.read() == [1, 2]
    assert reader.read() == []


def test_a_damaged_segment_costs_nothing_that_was_read_before(tmp_path: Path) -> None:
    """It is named each time; the rows before it come once, those behind it once it is gone."""
    log, reader = log_in(tmp_path), Reader(tmp_path)
    for number in (1, 2, 3):
        log.append([row(number)])
        log.flush()
    damaged = next(path for path in tmp_path.glob("dt=*/*.parquet") if "00000002" in path.name)
    damaged.write_bytes(b"PAR1 no")
    found: list[int] = []
    for _ in range(2):
        with pytest.raises(errors.Damaged, match="00000002"):
            found.extend(number for table in reader.tail.read(now=NOON) for number in table["number"].to_pylist())
    assert found == [] or found == [1]
    damaged.unlink()
    assert reader.read() == [3]


def test_a_new_day_is_followed_and_old_ones_are_let_go(tmp_path: Path) -> None:
    """Rows after midnight come too; what is known of days long past is forgotten."""
    log, reader = log_in(tmp_path), Reader(tmp_path)
    for day in range(4):
        log.append([row(day, NOON + day * DAY_S)])
        log.flush()
        assert reader.read(NOON + day * DAY_S) == [day]
    assert len(reader.tail._known) == 2


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["append", "flush", "merge", "tidy", "read", "midnight"]), max_size=60))
def test_nothing_is_lost_or_doubled_in_any_order(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Writing, merging, tidying up and reading in any order on one day: every row comes exactly once; over midnight at least once."""
    folder = tmp_path_factory.mktemp("log")
    day = 0.0
    log, reader = log_in(folder, clock=lambda: NOON + day), Reader(folder)
    written, found = 0, []
    for step in [*steps, "flush", "read"]:
        if step == "append":
            log.append([row(written, NOON + day)])
            written += 1
        elif step == "flush":
            log.flush()
        elif step == "merge":
            log._merge()
        elif step == "tidy":
            log._remove_left_over()
        elif step == "midnight":
            day = DAY_S - day
        else:
            found += reader.read()
    assert set(found) == set(range(written))
    if "midnight" not in steps:
        assert found == list(range(written))
    log.close()

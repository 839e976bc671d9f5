"""Who reads the machine's own clock, and what becomes of times that other programs wrote by it, when it is set an hour or a year."""

from __future__ import annotations

import ast
import datetime
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lastgood.layers import housekeeping
from lastgood.layers.infrastructure.local import worker_files
from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy import stats as envoy_stats
from lastgood.serving import log_tail as tail
from lastgood.serving import losses, segments
from lastgood.settings import Settings
from lastgood.system import clock as system_clock
from tests.sources.lines import line
from tests.system.test_clock import DAY_S, HOUR_S, JUMPS, START, Machine

ROOT = Path(__file__).parents[2]

# --- who reads it ----------------------------------------------------------------------------------------------

READINGS = {
    ("lastgood/system/clock.py", "time.time"): "the one that everybody goes by begins with it",
    ("lastgood/bundle/store.py", "st_mtime"): "the disk's own clock on both sides, so that no clock of ours removes anything",
    ("lastgood/system/files.py", "st_mtime_ns"): "told from another one, never compared with a time",
    ("lastgood/system/files.py", "st_ctime_ns"): "told from another one, never compared with a time",
    ("lastgood/layers/housekeeping.py", "st_mtime"): "worker logs by `of_machine`; pages only by their order, of which 2,000 are kept",
    ("lastgood/index/lancedb.py", "st_mtime"): "by `of_machine`",
    ("lastgood/index/pgvector.py", "now()"): "the database's own clock; what is needed is kept whatever it says",
    ("lastgood/layers/infrastructure/local/worker_files.py", "st_mtime"): "set by us to the time that everybody goes by",
    ("lastgood/drift/evidently_report.py", "st_mtime"): "only the order of reports",
    ("lastgood/serving/losses.py", "st_mtime"): "set by us to the time that everybody goes by",
    ("lastgood/serving/log_tail.py", "st_mtime"): "set by the writers of segments to the time that everybody goes by",
    ("lastgood/layers/traffic/envoy/stats.py", "fromisoformat"): "Envoy's ejections, by `of_machine`",
    ("lastgood/model_retirement/providers.py", "fromisoformat"): "a day that a provider names",
    ("lastgood/cli/inspect.py", "fromisoformat"): "what a person types",
    ("dagster_lastgood/jobs/verbs.py", "create_timestamp"): "by `of_machine`",
}
"""Each reading of the machine's clock, or of a time that another program wrote by one, and why it is none that a jump can spoil."""

NAMES = {
    "time.time", "time.time_ns", "time.localtime", "time.ctime", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "getmtime", "getctime", "fromisoformat", "create_timestamp",
}  # fmt: skip


def readings() -> Counter[tuple[str, str]]:
    """Every such name in the code, by file."""
    found: Counter[tuple[str, str]] = Counter()
    for folder_ in ("lastgood", "dagster_lastgood", "assets", "pipelines"):
        for path in sorted((ROOT / folder_).rglob("*.py")):
            text, where = path.read_text("utf-8"), str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Attribute):
                    of = (
                        node.value.attr
                        if isinstance(node.value, ast.Attribute)
                        else node.value.id
                        if isinstance(node.value, ast.Name)
                        else ""
                    )
                    found.update((where, name) for name in {node.attr, f"{of}.{node.attr}"} & NAMES)
            found[where, "now()"] += text.count("DEFAULT now()") + text.upper().count("CURRENT_TIMESTAMP")
    return +found


def test_every_reading_of_a_raw_clock_has_a_reason() -> None:
    """A new one goes by `system.clock.now`, puts what it read right by `system.clock.of_machine`, or says here why it may be spoiled."""
    assert set(readings()) - set(READINGS) == set(), "use clock.now, or give the reason"
    assert set(READINGS) - set(readings()) == set(), "entries of readings that are gone"


# --- what other programs wrote ---------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine at START, whose clock everything here goes by; see `write_at` for what others write."""
    made = Machine()
    clock = made.process()
    clock.now()
    for name in ("now", "skew_s", "of_machine"):
        monkeypatch.setattr(system_clock, name, getattr(clock, name))
    return made


@pytest.mark.parametrize("jump_s", JUMPS)
def test_times_by_the_machine_are_put_right(machine: Machine, jump_s: float) -> None:
    """What was written before the jump stands, what was written since is moved; without a jump nothing is, however old."""
    assert system_clock.of_machine(START - 400 * DAY_S) == START - 400 * DAY_S
    machine.passes(600)
    before = machine.wall
    machine.wall += jump_s
    machine.passes(600)
    assert system_clock.of_machine(machine.wall) == pytest.approx(before + 600)
    assert system_clock.of_machine(machine.wall - 300) == pytest.approx(before + 300)
    assert system_clock.of_machine(before - 300) == before - 300


def ejected(machine: Machine, path: Path) -> None:
    """Envoy puts a worker of `b` out now, by its own clock."""
    at = datetime.datetime.fromtimestamp(machine.wall, datetime.UTC).isoformat().replace("+00:00", "Z")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"action": "EJECT", "enforced": True, "cluster_name": "b", "timestamp": at}) + "\n")


@pytest.mark.parametrize("jump_s", JUMPS)
def test_an_ejection_counts_for_the_phase_that_it_was_in(machine: Machine, tmp_path: Path, jump_s: float) -> None:
    """Not for a later one because the clock was ahead, and for its own though it was behind; read at once, or all afterwards."""
    log = tmp_path / "ejections.log"
    watching = envoy_stats.Ejections(log)
    machine.wall += jump_s
    machine.passes(60)
    first = system_clock.now()
    machine.passes(60)
    ejected(machine, log)
    assert watching.count("b", since=first) == 1
    machine.passes(60)
    second = system_clock.now()
    assert watching.count("b", since=second) == envoy_stats.Ejections(log).count("b", since=second) == 0
    assert envoy_stats.Ejections(log).count("b", since=first) == 1
    machine.passes(60)
    ejected(machine, log)
    assert watching.count("b", since=second) == envoy_stats.Ejections(log).count("b", since=second) == 1


def test_an_ejection_of_a_future_that_never_was_counts_for_nothing(machine: Machine, tmp_path: Path) -> None:
    """The clock was ahead, and is right again: the next controller cannot tell when that was."""
    log = tmp_path / "ejections.log"
    machine.wall += HOUR_S
    machine.passes(60)
    ejected(machine, log)
    machine.wall -= HOUR_S
    machine.passes(60)
    since = system_clock.now()
    watching = envoy_stats.Ejections(log)
    assert watching.count("b", since=since) == 0
    machine.passes(2 * HOUR_S)
    assert watching.count("b", since=since) == 0


def asked(machine: Machine, path: Path, host: str) -> None:
    """Envoy writes the line of a request."""
    with path.open("ab") as file:
        file.write(line("sha256:" + "b" * 64, at=machine.wall, host=host))


@pytest.mark.parametrize("jump_s", JUMPS)
def test_no_jump_puts_requests_aside_early_or_removes_them(machine: Machine, tmp_path: Path, jump_s: float) -> None:
    """The sweep comes by every few seconds: what was written an hour ago by any clock stays, and readers find each line once."""
    log = tmp_path / "access.log"
    asked(machine, log, "before")
    machine.passes(HOUR_S)
    assert envoy_logs._turn_requests(log, now=system_clock.now(), full_bytes=0)
    reader = envoy_requests.RequestLog(log)
    machine.wall += jump_s
    for number in range(10):
        machine.passes(10)
        asked(machine, log, f"since-{number}")
        assert not envoy_logs._turn_requests(log, now=system_clock.now(), full_bytes=1 << 20)
    found = reader.read(envoy_requests.BEGINNING)
    assert [request.host for request in found.requests] == ["before", *(f"since-{number}" for number in range(10))]
    machine.passes(2 * DAY_S)
    assert envoy_logs._turn_requests(log, now=system_clock.now(), full_bytes=1 << 20), "a day old it is put aside, whatever the clock"


def test_a_reader_whose_file_is_gone_goes_on_by_order(tmp_path: Path) -> None:
    """The clock was set back between two files: the later one is not passed over; and where all seem older, it goes on with what comes."""
    machine, log = Machine(), tmp_path / "access.log"
    asked(machine, log, "read")
    place = envoy_requests.RequestLog(log).end()
    log.unlink()
    machine.passes(60)
    asked(machine, log.with_name("access.log.1"), "later")
    machine.wall -= HOUR_S
    asked(machine, log, "set back")
    assert [one.host for one in envoy_requests.RequestLog(log).read(place).requests] == ["later", "set back"]
    log.with_name("access.log.1").unlink()
    reader = envoy_requests.RequestLog(log)
    went_on = reader.read(place)
    asked(machine, log, "next")
    assert [one.host for one in reader.read(went_on.end).requests] == ["next"]


@pytest.mark.parametrize("jump_s", JUMPS)
def test_rows_that_are_written_after_a_jump_are_read(machine: Machine, tmp_path: Path, jump_s: float) -> None:
    """The disk says that their files are of another time; a reader goes by that of whoever wrote the rows, now and when the clock is right again."""
    machine.wall += jump_s
    since = system_clock.now()
    log = segments.SegmentLog(tmp_path, to_table=_table, name="a", keep_days=30, flush_s=1, segment_rows=10, clock=system_clock.now)
    machine.passes(60)
    log.append([(round(system_clock.now() * 1e6),)])
    log.flush()
    (file,) = tmp_path.glob("dt=*/*.parquet")
    assert file.stat().st_mtime == pytest.approx(system_clock.now(), abs=1)
    assert sum(table.num_rows for table in tail.Tail(tmp_path, since=since, columns=["at"]).read(now=system_clock.now())) == 1
    assert losses.record(tmp_path, "one", lost=1, now=system_clock.now())
    losses.forget(tmp_path, before=system_clock.now() - DAY_S)
    assert len(list((tmp_path / losses.FOLDER).glob("*.json"))) == 1


def _table(rows: Sequence[tuple[int]]) -> Any:
    import pyarrow as pa

    return pa.table({"at": pa.array([at for (at,) in rows], pa.int64()).cast(pa.timestamp("us", "UTC"))})


@pytest.mark.parametrize("jump_s", JUMPS)
def test_the_last_words_of_a_worker_stay_whatever_the_clock(machine: Machine, tmp_path: Path, jump_s: float) -> None:
    """Thirty days after its last line its log goes, and not because somebody set a clock."""
    settings = Settings(project=tmp_path, home=tmp_path / "home")
    logs = worker_files.worker_folder(settings, "toy").logs
    logs.mkdir(parents=True)
    machine.wall += jump_s
    (logs / "worker-aaaa.log").write_text("ValueError: no\n")
    os.utime(logs / "worker-aaaa.log", (machine.wall, machine.wall))
    machine.passes(DAY_S)
    housekeeping.sweep(settings, "toy", now=system_clock.now())
    assert (logs / "worker-aaaa.log").exists()
    machine.passes(31 * DAY_S)
    housekeeping.sweep(settings, "toy", now=system_clock.now())
    assert not (logs / "worker-aaaa.log").exists()

"""A controller that is there but does nothing is told from one that works, and replaced; also one whose parts hang."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lastgood import errors
from lastgood import settings as settings_
from lastgood.controller import loop
from lastgood.hosts import heartbeat
from lastgood.ops import local_stack
from lastgood.release import convergence
from lastgood.settings import Settings
from lastgood.system import processes
from lastgood.testing import projects
from tests import memory, timing

LONG_S = 60.0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project whose layers are in memory."""
    made = projects.project(tmp_path)
    (tmp_path / "lastgood.toml").write_text(memory.ADAPTERS)
    monkeypatch.setenv("LASTGOOD_PROJECT", str(made.project))
    monkeypatch.setenv("LASTGOOD_HOME", str(made.home))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return settings_.load(made.project, environ={})


@pytest.fixture
def record(settings: Settings) -> Iterator[processes.Record]:
    """A real controller, ended with whatever took its place."""
    yield local_stack.start_controller(settings)
    running = heartbeat.controller_health(settings)
    if running is not None:
        processes.stop(running.record, grace_s=0.0)


def until(condition: Callable[[], object], *, what: str) -> None:
    """Wait until *condition* holds; fails with *what* if it never does."""
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.02)


def gives_signs(settings: Settings) -> bool:
    """Whether the controller has given one."""
    life = heartbeat.controller_health(settings)
    return life is not None and life.silent_s is not None and not life.frozen


@pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is read from /proc")
def test_a_stopped_controller_is_frozen_for_everybody_and_replaced(settings: Settings, record: processes.Record) -> None:
    """`status`, `doctor` and whoever relies on it see that; `up` puts a working one in its place, and says so."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    until(lambda: gives_signs(settings), what="a sign of life")
    assert convergence.controller_record(settings) == record
    timing.freeze(record.pid)
    until(lambda: processes.stopped(record), what="the stop")
    assert convergence.controller_record(settings) is None
    for verb in (["status", "toy"], ["doctor"]):
        said = subprocess.run([sys.executable, "-m", "lastgood", *verb], capture_output=True, text=True, check=False).stdout
        assert "frozen" in said, said
        assert "lastgood up" in said
    told: list[str] = []
    local_stack.up(settings, names=["toy"], say=told.append)
    other = convergence.controller_record(settings)
    assert other is not None
    assert other.pid != record.pid
    assert not processes.alive(record)
    assert any("replaced" in line and "frozen" in line for line in told), told
    until(lambda: gives_signs(settings), what="a sign of life of the new one")
    assert local_stack.start_controller(settings).pid == other.pid, "up twice is up once"


@pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is read from /proc")
def test_a_controller_frozen_in_the_middle_of_a_commit_is_replaced(settings: Settings) -> None:
    """It holds the ledger's lock; a verb names the remedy, and `up` is it."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    commits = f"import sqlite3, time; book = sqlite3.connect({str(settings.home / 'ledger.db')!r}, isolation_level=None); "
    commits += "book.execute('BEGIN IMMEDIATE'); print('holds it', flush=True); time.sleep(600)"
    folder, log = settings.home / "run", settings.home / "logs" / "controller.log"
    frozen = processes.start([sys.executable, "-c", commits], record=folder / "controller.json", log=log, env=dict(os.environ))
    try:
        until(lambda: log.is_file() and "holds it" in log.read_text(), what="the lock")
        timing.freeze(frozen.pid)
        hasty = settings.model_copy(update={"ledger": settings.ledger.model_copy(update={"busy_timeout_s": 0.1})})
        with pytest.raises(errors.Unavailable, match=r"frozen: 'lastgood up' replaces it"), projects.opened(hasty):
            pass
        told: list[str] = []
        local_stack.up(hasty, names=["toy"], say=told.append)
        assert any("replaced" in line and "frozen" in line for line in told), told
        assert not processes.alive(frozen)
    finally:
        processes.stop(frozen, grace_s=0.0)
        running = heartbeat.controller_health(settings)
        if running is not None:
            processes.stop(running.record, grace_s=0.0)


class Frozen:
    """A process that lives, and what it last said of itself."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.now = 1000.0
        monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: self.now))
        processes.write(heartbeat.record_path(settings), processes.current())
        self.pulse = heartbeat.Pulse(settings)

    def look(self, *, after_s: float) -> heartbeat.ControllerHealth:
        self.now += after_s
        found = heartbeat.controller_health(self.settings)
        assert found is not None
        return found


def test_silence_is_told_by_running_time_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow turn is no freeze, a long silence is, whatever the wall clock says; a sign of life ends it."""
    (settings.home / "run").mkdir(parents=True)
    frozen = Frozen(settings, monkeypatch)
    assert not frozen.look(after_s=heartbeat.FROZEN_S - 1).frozen
    silent = frozen.look(after_s=30)
    assert silent.frozen
    assert "no heartbeat for 49 s" in silent.trouble
    frozen.pulse.beat({})
    assert frozen.look(after_s=1).trouble == ""
    frozen.pulse.beat({"toy/traffic": 77.0})
    hangs = frozen.look(after_s=1)
    assert (hangs.frozen, dict(hangs.overdue)) == (False, {"toy/traffic": 77.0})
    assert "toy/traffic (77 s)" in hangs.trouble


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"pid": 1}', b"\xff" * 4096])
def test_a_file_that_cannot_be_read_makes_nobody_frozen(settings: Settings, content: bytes) -> None:
    """Nor one of another process: then nothing is known but that it lives."""
    (settings.home / "run").mkdir(parents=True)
    processes.write(heartbeat.record_path(settings), processes.current())
    (settings.home / "run" / "controller.alive").write_bytes(content)
    life = heartbeat.controller_health(settings)
    assert life is not None
    assert (life.frozen, life.silent_s) == (False, None)


def test_threads_that_hang_or_ended_are_overdue() -> None:
    """Each by its own time: one that waits as it should is not among them."""
    released = threading.Event()
    threads = []
    for name, turned_at, due_s in (
        ("waits", time.monotonic(), 1e6),
        ("hangs", time.monotonic() - 50, 40.0),
        ("ended", time.monotonic() - 5, 1e6),
    ):
        thread = threading.Thread(target=released.wait, args=(0 if name == "ended" else 60,), name=name)
        thread.turned_at, thread.due_s = turned_at, due_s  # type: ignore[attr-defined]
        thread.start()
        threads.append(thread)
    threads[2].join()
    try:
        assert set(loop.overdue(threads)) == {"hangs", "ended"}
    finally:
        released.set()

"""A year without a release, on a clock of its own: every file below home that is written on and on stays within its bound."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lastgood.layers import housekeeping
from lastgood.layers.infrastructure.local import worker_files
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy.requests import RequestLog
from lastgood.settings import Settings
from tests.layers.traffic.world import A
from tests.sources.lines import line

STEP_S = 3 * 3600.0
STEPS = 365 * 8
FULL = 12_000
"""Limits of a small world: some thirty lines."""


class Stack:
    """Everything that writes, as it writes while it runs: the proxy keeps its files open until it is told, the rest appends."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(project=home.parent, home=home)
        self.files = envoy_files.files_of_service(self.settings, "s")
        self.files.make()
        self.files.bootstrap.write_text("{}")
        self.workers = worker_files.worker_folder(self.settings, "s")
        self.workers.logs.mkdir(parents=True)
        self.workers.workers.mkdir(parents=True)
        self.settings.pages.mkdir()
        (self.workers.workers / "aaaa.json").write_text("{}")
        self.said = [self.settings.home / "logs" / f"{name}.log" for name in ("controller", "dagster", "mlflow")]
        self.said += [self.workers.log("sha256:" + "a" * 64).with_name("worker-aaaa.log"), self.files.log]
        self.written = self.asked = 0
        self.reopen()
        monkeypatch.setattr(envoy_admin.Admin, "ask", lambda *_, **__: self.reopen())

    def reopen(self) -> None:
        self.asked += 1
        self._access, self._ejected = (path.open("ab", buffering=0) for path in (self.files.access_log, self.files.ejections))

    def some_hours(self, now: float, *, requests: int) -> None:
        for number in range(requests):
            self._access.write(line(A.id, at=now + number))
            self.written += 1
        self._ejected.write(b'{"action": "EJECT"}\n')
        for log in self.said:
            with log.open("a") as file:
                file.write("a line of a worker that has something to say\n" * 5)
        page = self.settings.pages / f"s-{int(now):012d}.json"
        page.write_text(json.dumps({"at": now}))
        os.utime(page, (now, now))


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A small world: its limits are some thousand times lower."""
    monkeypatch.setattr(envoy_logs, "FULL_BYTES", FULL)
    for name in ("EJECTIONS_BYTES", "SAID_BYTES"):
        monkeypatch.setattr(envoy_logs, name, FULL)
    monkeypatch.setattr(housekeeping, "LOG_BYTES", FULL)
    monkeypatch.setattr(housekeeping, "PAGES", 50)
    return Stack(tmp_path / "home", monkeypatch)


def test_a_year_without_a_release_is_bounded(stack: Stack) -> None:
    """Busy and quiet weeks: no file outgrows its bound, nor all of them theirs, and a reader has read each line once."""
    log, place, read = RequestLog(stack.files.access_log), envoy_requests.BEGINNING, 0
    for hour in range(STEPS):
        now = 1e9 + hour * STEP_S
        stack.some_hours(now, requests=0 if hour % 170 > 120 else 1 + hour % 12)
        housekeeping.sweep(stack.settings, "s", now=now + STEP_S)
        housekeeping.sweep_home(stack.settings)
        if hour % 7 == 0:
            batch = log.read(place)
            place, read = batch.end, read + len(batch.requests)
        if hour % 50 == 0:
            _check(stack.settings.home)
    _check(stack.settings.home)
    assert read + len(log.read(place).requests) == stack.written > 10_000
    assert stack.asked > 200


def _check(home: Path) -> None:
    sizes = {path.relative_to(home): path.stat().st_size for path in home.rglob("*") if path.is_file()}
    assert max(sizes.values()) <= FULL + 12 * 600, sizes
    # The request log and three put aside; seven more logs and one put aside of each; fifty pages.
    assert sum(sizes.values()) <= 4 * (FULL + 12 * 600) + 7 * 2 * (FULL + 600) + 50 * 40
    assert len(sizes) <= 4 + 7 * 2 + 50 + 10, sorted(sizes)


def test_a_quiet_service_keeps_nobody_s_requests_for_ever(stack: Stack) -> None:
    """After the last request come four days, and its line is gone."""
    stack.some_hours(1e9, requests=3)
    for day in range(1, 7):
        housekeeping.sweep(stack.settings, "s", now=1e9 + day * 86_400 + 5)
    assert [path.name for path in envoy_requests.names(stack.files.access_log) if path.exists() and path.stat().st_size] == []


def test_a_worker_keeps_the_log_within_bounds_while_the_controller_is_dead(stack: Stack) -> None:
    """Its own sweeper is the same one; what is locked by a release is left for the next time, and a trouble is told once."""
    sweeper = housekeeping.Sweeper(stack.settings, lambda: ("s",), every_s=60.0, clock=lambda: 1e9)
    stack.some_hours(1e9, requests=60)
    sweeper.turn()
    assert stack.files.access_log.with_name("access.log.1").exists()


def test_a_trouble_is_told_once_and_tried_again(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """The proxy does not answer: one warning, and the file that it still writes is told of at the next turn."""
    sweeper = housekeeping.Sweeper(stack.settings, lambda: ("s",), every_s=60.0, clock=lambda: 1e9)
    stack.some_hours(1e9, requests=60)
    asks = envoy_admin.Admin.ask

    def down(*_: object, **__: object) -> None:
        raise envoy_admin.Down("envoy does not answer")

    envoy_admin.Admin.ask = down  # type: ignore[method-assign]
    try:
        sweeper.turn()
        sweeper.turn()
    finally:
        envoy_admin.Admin.ask = asks  # type: ignore[method-assign]
    assert [record.getMessage() for record in caplog.records if "cannot limit the size of logs" in record.getMessage()] == [
        caplog.records[0].getMessage()
    ]
    before = stack.asked
    sweeper.turn()
    assert stack.asked == before + 1


def test_the_log_of_a_worker_that_is_long_gone_goes(stack: Stack) -> None:
    """One that still runs keeps its log, however silent it is."""
    for name in ("aaaa", "bbbb"):
        for suffix in (".log", ".log.1"):
            file = stack.workers.logs / f"worker-{name}{suffix}"
            file.write_text("x\n")
            os.utime(file, (1e9, 1e9))
    housekeeping.sweep(stack.settings, "s", now=1e9 + housekeeping.LEFT_S + 1)
    assert sorted(file.name for file in stack.workers.logs.iterdir()) == ["worker-aaaa.log", "worker-aaaa.log.1"]

"""The whole stack on this machine: real Envoy, real workers, real controller, the real command line."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lastgood import testing
from lastgood.settings import Settings
from lastgood.system import processes
from lastgood.testing import projects

pytestmark = pytest.mark.timeout(300)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A project whose stack runs, and how to talk to it."""

    settings: Settings
    port: int

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `lastgood ARGS`."""
        env = {**os.environ, "LASTGOOD_PROJECT": str(self.settings.project), "LASTGOOD_ACTOR": "tester"}
        return subprocess.run([sys.executable, "-m", "lastgood", *args], capture_output=True, text=True, env=env, timeout=120, check=False)

    def json(self, *args: str) -> dict[str, Any]:
        """The object that `lastgood ARGS --json` prints."""
        done = self.cli(*args, "--json")
        assert done.stdout, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def ask(self) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        """One prediction through the proxy: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/predict", body=b'{"x": 1}', headers={"content-type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        return response.status, dict(response.getheaders()), body

    def pids(self) -> dict[str, int]:
        """Controller and proxy."""
        controller = processes.read(self.settings.home / "run" / "controller.json")
        envoy = processes.read(self.settings.envoy("toy") / "envoy.json")
        assert controller is not None
        assert envoy is not None
        return {"controller": controller.pid, "envoy": envoy.pid}


class Load:
    """Requests on four connections until stopped; keeps every status and bundle."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self.answers: list[tuple[int, str | None]] = []
        self._threads = [threading.Thread(target=self._client) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._stack.port, timeout=10)
        while not self._stop.wait(0.02):
            try:
                connection.request("POST", "/predict", body=b'{"x": 1}', headers={"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                self.answers.append((response.status, response.headers.get("x-lastgood-bundle")))
            except (OSError, http.client.HTTPException):
                self.answers.append((0, None))
                connection.close()


def until(condition: Callable[[], object], *, what: str, seconds: float = 60.0) -> None:
    """Wait until *condition* holds; fails with *what* if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        threading.Event().wait(0.05)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A running stack of the service `toy`, which serves nothing yet."""
    port = testing.free_port()
    settings = projects.project(tmp_path, port=port, layers=True)
    made = Stack(settings=settings, port=port)
    up = made.cli("up")
    assert up.returncode == 0, up.stderr
    yield made
    assert made.cli("down", "--yes").returncode == 0


def test_from_up_to_rollback_and_down(stack: Stack) -> None:
    """Nothing serves, a release serves, a second one replaces it, a rollback brings the first back; headers tell which."""
    assert stack.ask()[0] == 503
    with projects.opened(stack.settings) as ctx:
        a, b = projects.build(ctx, 1), projects.build(ctx, 2)
    for digest, answer in ((a, 2.0), (b, 3.0)):
        done = stack.cli("promote", "toy", digest[7:19], "--yes")
        assert done.returncode == 0, done.stderr
        status, headers, body = stack.ask()
        assert (status, headers["x-lastgood-bundle"]) == (200, digest)
        assert body["predictions"] == [{"probability": answer}]
    with Load(stack) as load:
        until(lambda: len(load.answers) > 20, what="traffic")
        outcome = stack.json("rollback", "toy", "--yes", "--reason", "drill")
        after = len(load.answers)
        until(lambda: len(load.answers) > after + 20, what="traffic after the rollback")
    assert outcome["to"] == a
    assert outcome["converged"]
    assert {status for status, _ in load.answers} == {200}
    assert {bundle for _, bundle in load.answers[after + 8 :]} == {a}
    told = stack.json("status", "toy")
    assert told["converged"]
    assert stack.ask()[1]["x-lastgood-revision"] == str(told["revision"])


def test_up_twice_is_up_once(stack: Stack) -> None:
    """The second `up` adopts what runs."""
    before = stack.pids()
    assert stack.cli("up").returncode == 0
    assert stack.pids() == before


def test_a_dead_controller_stops_neither_requests_nor_a_rollback(stack: Stack) -> None:
    """With the controller killed, the command commits and flips the proxy itself; `up` brings the controller back."""
    with projects.opened(stack.settings) as ctx:
        a, b = projects.build(ctx, 1), projects.build(ctx, 2)
    for digest in (a, b):
        assert stack.cli("promote", "toy", digest, "--yes").returncode == 0
    os.kill(stack.pids()["controller"], signal.SIGKILL)
    with Load(stack) as load:
        until(lambda: len(load.answers) > 20, what="traffic")
        outcome = stack.json("rollback", "toy", "--yes", "--reason", "drill")
        assert outcome["to"] == a
        assert stack.ask()[1]["x-lastgood-bundle"] == a
    assert {status for status, _ in load.answers} == {200}
    assert "controller is not running" in stack.cli("status", "toy").stdout
    assert stack.cli("up").returncode == 0
    until(lambda: stack.json("status", "toy")["controller"]["running"], what="the controller is back")


def test_a_worker_that_cannot_start_fails_the_promotion_only(stack: Stack) -> None:
    """Its code raises: the promoter is told with the worker's own words, and stable keeps serving."""
    with projects.opened(stack.settings) as ctx:
        a = projects.build(ctx, 1)
        code = stack.settings.services / "toy" / "runtime.py"
        code.write_text(code.read_text().replace('float(options.get("shift", 0))', 'float("no number")'))
        manifest = stack.settings.services / "toy" / "service.yaml"
        manifest.write_text(manifest.read_text().replace("ready_timeout_s: 20", "ready_timeout_s: 14"))
        broken = projects.build(ctx, 2)
    assert stack.cli("promote", "toy", a, "--yes").returncode == 0
    done = stack.cli("promote", "toy", broken, "--yes")
    assert done.returncode == 1, done.stderr
    assert "stable was not touched" in done.stderr
    assert "could not convert string to float" in done.stderr
    assert stack.ask()[1]["x-lastgood-bundle"] == a


def test_a_killed_worker_comes_back_and_costs_no_request(stack: Stack) -> None:
    """kill -9 of stable's only worker: the previous bundle answers until it is back."""
    with projects.opened(stack.settings) as ctx:
        a, b = projects.build(ctx, 1), projects.build(ctx, 2)
    for digest in (a, b):
        assert stack.cli("promote", "toy", digest, "--yes").returncode == 0
    worker = processes.read(stack.settings.run("toy") / "workers" / f"{b[7:19]}.json")
    assert worker is not None
    with Load(stack) as load:
        until(lambda: len(load.answers) > 20, what="traffic")
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: a in {bundle for _, bundle in load.answers}, what="the previous bundle answered")
        until(lambda: stack.json("status", "toy")["converged"], what="the worker is back")
    failed = [status for status, _ in load.answers if status != 200]
    assert failed == []


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """Somebody else listens on the service's port: `up` names the port and how to mend it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = projects.project(tmp_path, port=taken.getsockname()[1], layers=True)
        stack = Stack(settings=settings, port=taken.getsockname()[1])
        done = stack.cli("up")
        assert done.returncode == 2, done.stderr
        assert str(stack.port) in done.stderr
    stack.cli("down", "--yes")


def test_with_the_ledger_gone_the_proxy_still_comes_up(stack: Stack) -> None:
    """After everything stopped and the ledger vanished, `up` says so and still serves the last good configuration."""
    with projects.opened(stack.settings) as ctx:
        a = projects.build(ctx, 1)
    assert stack.cli("promote", "toy", a, "--yes").returncode == 0
    os.kill(stack.pids()["controller"], signal.SIGKILL)
    os.kill(stack.pids()["envoy"], signal.SIGKILL)
    for file in stack.settings.home.glob("ledger.db*"):
        file.rename(file.with_name("away." + file.name))
    done = stack.cli("up")
    assert done.returncode == 1
    assert "restore the file" in done.stderr
    until(lambda: stack.ask()[0] == 200, what="the proxy answers")
    assert stack.ask()[1]["x-lastgood-bundle"] == a
    for file in stack.settings.home.glob("away.ledger.db*"):
        file.rename(file.with_name(file.name.removeprefix("away.")))


def test_one_service_can_be_taken_down_while_another_serves(stack: Stack) -> None:
    """The controller goes on for the other and does not start the first again; `up` does."""
    with projects.opened(stack.settings) as ctx:
        digest = projects.build(ctx, 1)
    assert stack.cli("promote", "toy", digest[7:19], "--yes").returncode == 0
    port = testing.free_port()
    other = stack.settings.services / "other"
    shutil.copytree(stack.settings.services / "toy", other)
    text = (other / "service.yaml").read_text("utf-8")
    (other / "service.yaml").write_text(text.replace("service: toy", "service: other").replace(str(stack.port), str(port)), "utf-8")
    assert stack.cli("up", "other").returncode == 0
    before = stack.pids()["controller"]
    assert stack.cli("down", "toy", "--yes").returncode == 0
    threading.Event().wait(3.0)
    with pytest.raises(OSError, match="refused"):
        stack.ask()
    running = processes.find_running(stack.settings.home / "run" / "controller.json")
    assert running is not None
    assert running.pid == before
    assert stack.cli("up", "toy").returncode == 0
    until(lambda: stack.ask()[0] == 200, what="toy serves again")
    assert stack.cli("down", "other", "--yes").returncode == 0
    assert stack.ask()[0] == 200

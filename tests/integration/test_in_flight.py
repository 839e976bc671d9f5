"""Requests that are in flight while their bundle is left, its worker dies, or everything is stopped; real Envoy, workers and controller."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import live_project, live_stack
from bench.live_project import SERVICE
from bench.live_stack import Live
from lastgood import release, testing
from lastgood.layers import reconcile
from lastgood.ops import local_stack

pytestmark = pytest.mark.timeout(300)

LONGER_THAN_THE_DRAIN_S = 24.0
"""A worker used to be killed some twenty seconds after its bundle was left, whatever it had to answer."""


class Request:
    """One request, under way in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._port = port
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/predict", json.dumps({"x": 0.5}), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            self.status = answer.status

    def end(self) -> Request:
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self


def answered_by(port: int) -> str | None:
    """The bundle that answers a request; None if it fails."""
    done = Request(port).end()
    return done.headers.get("x-lastgood-bundle") if done.status == 200 else None


def serving(live: Live) -> str | None:
    """The bundle that a new request gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{live.port}/healthz", timeout=30) as answer:
        return answer.headers.get("x-lastgood-bundle")


def infrastructure(live: Live) -> dict[str, Any]:
    """What the workers layer sees."""
    return dict(reconcile.build(live.settings, SERVICE)["infrastructure"].observe().facts)


@contextlib.contextmanager
def running(root: Path) -> Iterator[tuple[Live, live_project.Faulty]]:
    """Release 2 is stable, release 1 is previous; a request may take a minute and is never asked twice."""
    settings = live_project.make(root / "live", controller={"resync_s": 1.0})
    traffic = {"timeout_s": 60, "idempotent": False}
    live_project.configure(
        settings, port=testing.free_port(), strategy=(), release={"bake_s": 0, "recovery": {"within_s": 0}}, traffic=traffic
    )
    with live_stack.up(settings) as live:
        second = live_project.build(live.ctx, 2)
        live.cut_over(second)
        yield live, second


def test_whoever_has_a_request_answers_it_and_nobody_answers_it_twice(tmp_path: Path) -> None:
    """A killed worker's request fails and is done once; one in flight on a bundle that is left is answered by it; so is one at `down`."""
    with running(tmp_path) as (live, second):
        # The worker dies: previous is warm, and must not do the work again.
        live.stable.begin(count=True)
        second.begin(sleep_s=60, count=True)
        asked = Request(live.port)
        live.until(lambda: second.calls == 1, what="the request at its worker")
        os.kill(infrastructure(live)["workers"][second.bundle]["pid"], signal.SIGKILL)
        assert asked.end().status >= 500
        assert (second.calls, live.stable.calls) == (1, 0)
        live.until(lambda: infrastructure(live)["workers"][second.bundle]["ready"], what="the next worker")
        # The bundle is left.
        second.begin()
        live.until(live.followed, what="routes")
        live.until(lambda: answered_by(live.port) == second.bundle, what="the proxy sends requests to the next worker")
        second.begin(sleep_s=LONGER_THAN_THE_DRAIN_S, count=True)
        asked = Request(live.port)
        live.until(lambda: second.calls == 2, what="the request at its worker")
        revision = release.roll_back(live.ctx, SERVICE, release.Request(actor="test", reason="bad")).revision.number
        live.until(live.followed, what="traffic of the rollback")
        assert serving(live) == live.stable.bundle, "the rollback itself waits for nobody"
        assert asked.status == 0
        live.until(lambda: infrastructure(live)["leaving"], what="the worker asked to end")
        (leaving,) = infrastructure(live)["leaving"]
        assert (leaving["bundle"], leaving["requests"], leaving["revision"]) == (second.bundle, 1, revision)
        live.kill_controller()
        live.start_controller()
        assert asked.end().status == 200
        assert asked.headers["x-lastgood-bundle"] == second.bundle
        assert second.calls == 2
        live.until(lambda: not infrastructure(live)["leaving"], what="the end of the worker that has answered")
        assert infrastructure(live)["cut_off"] == []
        # Everything is stopped.
        live.stable.begin(sleep_s=5, count=True)
        before = live.stable.calls
        asked = Request(live.port)
        live.until(lambda: live.stable.calls == before + 1, what="the request at its worker")
        said: list[str] = []
        local_stack.down(live.settings, names=[SERVICE], keep_serving=False, say=said.append)
        assert asked.end().status == 200
        assert not any("cut off" in line or "unanswered" in line for line in said)

"""A worker that is killed under load and warms up again: nobody notices, also where nothing may be asked twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import live_project, live_stack
from bench.live_project import SERVICE
from bench.live_stack import Live
from lastgood import testing
from lastgood.layers.infrastructure.local import layer as local_layer
from lastgood.layers.infrastructure.local import worker_files
from lastgood.layers.traffic import headers
from lastgood.system import processes as system_processes

CLIENTS = 6
WARM_S = 6.0


class Clients:
    """Requests without pause on kept-alive connections. `answers` has (status, bundle) of each, `told` the names of all headers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[tuple[int, str]] = []
        self.told: set[str] = set()
        self.turns = [threading.Lock() for _ in range(CLIENTS)]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(turn,), daemon=True) for turn in self.turns]

    def _ask(self, turn: threading.Lock) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._over.is_set():
            with turn:
                connection.request("POST", "/predict", json.dumps({"x": 0.25}), {"content-type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
                self.told |= {name.lower() for name, _ in answer.getheaders()}
                self.answers.append((answer.status, answer.headers.get(headers.BUNDLE, body.decode())))
            time.sleep(0.002)

    @contextlib.contextmanager
    def between_requests(self) -> Iterator[None]:
        """Nothing is in flight meanwhile."""
        with contextlib.ExitStack() as held:
            for turn in self.turns:
                held.enter_context(turn)
            yield

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)


@pytest.mark.timeout(300)
def test_a_worker_that_warms_up_again_gets_no_traffic(tmp_path: Path) -> None:
    """Previous answers from the kill until the worker is ready; then the worker does; no request fails, and no mark of ours is seen."""
    settings = live_project.make(tmp_path / "live", controller={"resync_s": 2.0})
    # Nothing is taken back: this is about the proxy alone.
    kinds = {"errors": "error_rate", "oom": "oom_kills", "ejections": "ejections", "split": "sample_ratio"}
    gates = {name: {"metric": metric, "kind": "observe"} for name, metric in kinds.items()}
    live_project.configure(settings, port=testing.free_port(), gates=gates, traffic={"timeout_s": 30, "idempotent": False})
    with live_stack.up(settings) as live:
        second = live_project.build(live.ctx, 2)
        live.cut_over(second)
        live.until(lambda: ready(live, live.stable.bundle) and ready(live, second.bundle), what="two warm bundles")
        second.begin(warm_s=WARM_S)
        with Clients(live.port) as clients:
            live.until(lambda: len(clients.answers) > 100, what="answers")
            with clients.between_requests():
                victim = worker_files.worker_folder(live.settings, SERVICE).recorded()[second.bundle]
                os.kill(victim.pid, signal.SIGKILL)
                live.until(lambda: not system_processes.alive(victim), what="end of the worker")
                time.sleep(0.5)  # what the proxy sends before it hears of that is a request in flight at the kill
                clients.answers.clear()
            live.until(lambda: (200, live.stable.bundle) in clients.answers, what="answers of previous")
            live.until(lambda: not ready(live, second.bundle) and second.bundle in recorded(live), what="a new worker that warms up")
            live.until(lambda: clients.answers[-1:] == [(200, second.bundle)], what="answers of the worker that is ready again")
            seen = len(clients.answers)
            live.until(lambda: len(clients.answers) > seen + 100, what="more answers")
    assert {status for status, _ in clients.answers} == {200}, [one for one in clients.answers if one[0] != 200][:3]
    assert {bundle for _, bundle in clients.answers} == {live.stable.bundle, second.bundle}
    assert not {headers.UNREADY, headers.FAILED_CHECK} & clients.told


def recorded(live: Live) -> set[str]:
    """Bundles with a live worker, ready or not."""
    return set(worker_files.worker_folder(live.settings, SERVICE).recorded())


def ready(live: Live, bundle: str) -> bool:
    """Whether the bundle's worker says so now."""
    return bool(local_layer.build(live.settings, SERVICE).endpoints().get(bundle))

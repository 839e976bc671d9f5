"""The cost of the proxy: workers of one bundle, queried directly, through our Envoy, and through a proxy written with httpx."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import load, measure, processes, project, running, shots
from bench.running import ROOT, Stack
from bench.table import Row, Table
from lastgood import testing
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.system import processes as system_processes

DIRECT, ENVOY, HTTPX = "direct", "Envoy", "httpx proxy"
CONNECTIONS = 8
START_S = 30.0
WARM_UP_S = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many rounds of each path, and how many seconds each takes."""

    rounds: int
    seconds: float


QUICK = Size(rounds=2, seconds=1.0)
FULL = Size(rounds=7, seconds=3.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One path to a worker: the port to query, the worker's process, and the proxy's, None where there is none."""

    name: str
    port: int
    worker: int
    proxy: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The result of one round. Processor time is per request, in microseconds."""

    per_s: float
    proxy_us: float
    worker_us: float
    failed: int


def run(*, quick: bool) -> list[Table]:
    """One table."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder, running.up(folder / "project", older=False) as stack:
        _stop_controller(stack)
        worker = _worker(stack)
        with _on_a_port(folder, stack, bundle=worker.facts["bundle"]) as (direct, twin), _httpx_proxy(folder, to=direct) as (port, pid):
            serving = envoy.running(stack.settings, project.SERVICE)
            assert serving is not None
            paths = [
                Way(name=DIRECT, port=direct, worker=twin, proxy=None),
                Way(name=ENVOY, port=serving.port, worker=worker.pid, proxy=serving.pid),
                Way(name=HTTPX, port=port, worker=twin, proxy=pid),
            ]
            generator = _Wrk(folder) if shutil.which("wrk") else _Own(folder)
            rounds: dict[str, list[Round]] = {path.name: [] for path in paths}
            # A new worker loads the code that writes its log with the first requests, for a second or two.
            for place in (direct, serving.port):
                generator.fire(place, seconds=WARM_UP_S)
            for _ in range(size.rounds):
                for path in paths:
                    rounds[path.name].append(_round(path, worker=path.worker, generator=generator, seconds=size.seconds))
    return [_table(rounds, size=size, generator=generator.name)]


def _stop_controller(stack: Stack) -> None:
    """It checks the workers several times a second, and that would count as their time."""
    found = system_processes.find_running(stack.settings.home / "run" / "controller.json")
    if found is not None:
        system_processes.stop(found, grace_s=10.0)


def _worker(stack: Stack) -> system_processes.Record:
    """The process that serves the stable bundle."""
    workers = system_processes.running(stack.settings.run(project.SERVICE) / "workers")
    return next(record for record in workers.values() if record.facts["bundle"] == stack.good.bundle)


@contextlib.contextmanager
def _on_a_port(folder: Path, stack: Stack, *, bundle: str) -> Iterator[tuple[int, int]]:
    """A worker of the same bundle that listens on a port, for clients that cannot use a Unix socket: that port and its pid."""
    port = testing.free_port()
    argv = [sys.executable, "-m", "lastgood.serving.worker", "--service", project.SERVICE, "--bundle", bundle, "--port", str(port)]
    environment = {**os.environ, "LASTGOOD_PROJECT": str(stack.settings.project), "LASTGOOD_HOME": str(stack.settings.home)}
    with _started(argv, port=port, log=folder / "twin.log", env=environment) as pid:
        yield port, pid


@contextlib.contextmanager
def _httpx_proxy(folder: Path, *, to: int) -> Iterator[tuple[int, int]]:
    """A running proxy: its port and its pid."""
    port = testing.free_port()
    argv = [sys.executable, "-m", "bench.httpx_proxy", "--port", str(port), "--to", str(to)]
    with _started(argv, port=port, log=folder / "proxy.log", env=os.environ) as pid:
        yield port, pid


@contextlib.contextmanager
def _started(argv: Sequence[str], *, port: int, log: Path, env: Mapping[str, str]) -> Iterator[int]:
    """The process *argv* once it answers on *port*: its pid."""
    with log.open("ab") as talk:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=talk, stderr=talk, env=env)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[2]} did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# --- load --------------------------------------------------------------------------------------------------


class _Wrk:
    """wrk, which needs little processor time itself."""

    name = "wrk, one thread"

    def __init__(self, folder: Path) -> None:
        self._script = folder / "post.lua"
        self._script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{project.BODY.decode()}'\nwrk.headers['content-type'] = 'application/json'\n"
            "done = function(s) local e = s.errors; print(string.format('FOUND %d %d %d', s.requests, s.duration, "
            "e.connect + e.read + e.write + e.status + e.timeout)) end\n",
            "utf-8",
        )

    def fire(self, port: int, *, seconds: float) -> tuple[int, float, int]:
        """Requests answered, seconds taken, failures."""
        url = f"http://127.0.0.1:{port}/predict"
        # wrk counts in whole seconds.
        argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(self._script), url]
        out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
        requests, micro_s, failed = next(line.split()[1:] for line in out.splitlines() if line.startswith("FOUND"))
        return int(requests), int(micro_s) / 1e6, int(failed)


class _Own:
    """Our own loop, where wrk is not installed; it uses part of the machine itself."""

    name = "our own loop in Python (wrk is not installed)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fire(self, port: int, *, seconds: float) -> tuple[int, float, int]:
        """Requests answered, seconds taken, failures."""
        out = self._folder / "own.jsonl"
        with load.running(port=port, out=out, log=self._folder / "own.log", connections=CONNECTIONS):
            time.sleep(seconds)
        fired = shots.read(out)
        return len(fired), fired[-1].received - fired[0].sent, len(shots.failed(fired))


def _round(path: Way, *, worker: int, generator: _Wrk | _Own, seconds: float) -> Round:
    proxy_before, worker_before = measure.cpu_s(path.proxy) if path.proxy else 0.0, measure.cpu_s(worker)
    requests, took_s, failed = generator.fire(path.port, seconds=seconds)
    proxy_after, worker_after = measure.cpu_s(path.proxy) if path.proxy else 0.0, measure.cpu_s(worker)
    return Round(
        per_s=requests / took_s,
        proxy_us=(proxy_after - proxy_before) / requests * 1e6,
        worker_us=(worker_after - worker_before) / requests * 1e6,
        failed=failed,
    )


# --- table -------------------------------------------------------------------------------------------------


def _table(rounds: Mapping[str, Sequence[Round]], *, size: Size, generator: str) -> Table:
    def middle(name: str, figure: str) -> float:
        return measure.median([getattr(one, figure) for one in rounds[name]])

    def row(what: str, unit: str, figure: str, peers: tuple[str, ...]) -> Row:
        return Row(what=what, unit=unit, ours=middle(ENVOY, figure), peers={name: middle(name, figure) for name in peers})

    shares = {name: _paired(rounds, name) for name in (ENVOY, HTTPX)}
    rows = [
        row("requests answered", "per s", "per_s", (DIRECT, HTTPX)),
        Row(what="of what the worker answers directly, round by round", unit="share", ours=shares[ENVOY], peers={HTTPX: shares[HTTPX]}),
        row("processor time of the proxy", "us/request", "proxy_us", (HTTPX,)),
        row("processor time of the worker", "us/request", "worker_us", (DIRECT, HTTPX)),
        Row(what="failed requests", unit="count", ours=_failed(rounds, ENVOY), below=1, peers={n: _failed(rounds, n) for n in (DIRECT, HTTPX)}),
    ]  # fmt: skip
    return Table(
        title="One worker: asked directly, through Envoy as we configure it, through an httpx proxy",
        rows=rows,
        ours=ENVOY,
        notes=(
            (
                f"Medians of {size.rounds} rounds of {size.seconds:g} s, the paths taking turns; {generator}, {CONNECTIONS} connections, POST /predict "
                "of a service whose model is one addition, so the worker's share is the smallest possible."
            ),
            "Envoy: the product's whole configuration (retries, outlier detection, fallback cluster, sticky hash, JSON access log).",
            (
                "Proxy, worker and load share the machine's cores, so requests/s understate a proxy on a machine of its own; "
                "processor time per request does not."
            ),
        ),
    )


def _paired(rounds: Mapping[str, Sequence[Round]], name: str) -> float:
    return measure.median([one.per_s / direct.per_s for one, direct in zip(rounds[name], rounds[DIRECT], strict=True)])


def _failed(rounds: Mapping[str, Sequence[Round]], name: str) -> int:
    return sum(one.failed for one in rounds[name])

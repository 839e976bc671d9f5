"""Steady requests of many users from a process of their own: `python -m bench.live_load --port P --rate R --out FILE`.

Like `bench.load`, but every request has a user (`x-user-id`, the same users in turn), and its true outcome can be sent back as
feedback. Each request is recorded with its user, the moments it was sent and answered (Unix seconds), its status and
what the answer's headers name. It prints `ready` once every connection has had an answer, and ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import gc
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lastgood.layers.traffic import headers as traffic_headers

TIMEOUT_S = 15.0
USERS = 997
"""A prime, so that no user is tied to one connection."""
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request. Moments are Unix seconds; `status` 0 means that the connection broke or no answer arrived in time.

    `bundle` and `arm` are what the answer names, empty where the proxy answered by itself.
    """

    user: int
    sent: float
    received: float
    status: int
    bundle: str
    arm: str
    revision: int

    @property
    def ms(self) -> float:
        """How long the answer took."""
        return (self.received - self.sent) * 1000


class Load:
    """Connections that share one schedule of *rate* requests per second."""

    def __init__(self, *, port: int, connections: int, rate: float, label_delay_s: float | None, token: str) -> None:
        self._port = port
        self._token = token
        self._connections = connections
        self._every_s = connections / rate
        self._label_delay_s = label_delay_s
        self._labels: collections.deque[tuple[float, bytes]] = collections.deque()
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._answered: set[int] = set()
        self._name = f"{time.time():.0f}"
        self.shots: list[Shot] = []

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.call_later(seconds, self._stop.set)
        tasks = [self._client(number) for number in range(self._connections)]
        await asyncio.gather(*tasks, *([] if self._label_delay_s is None else [self._send_labels()]))

    async def _client(self, number: int) -> None:
        caller = _Caller(self._port)
        due = time.time() + self._every_s * number / self._connections
        while not self._stop.is_set():
            # A late connection skips turns instead of catching up; otherwise all of them would soon send at the same moment.
            due += self._every_s * max(0, math.ceil((time.time() - due) / self._every_s))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(0.0, due - time.time()))
            if self._stop.is_set():
                break
            due += self._every_s
            await self._ask(caller)
            self._answered.add(number)
            if len(self._answered) == self._connections:
                print("ready", flush=True)
                self._answered.add(-1)
        caller.close()

    async def _ask(self, caller: _Caller) -> None:
        number, truth = next(self._numbers), round(random.random(), 3)
        user, name = number % USERS, f"live-{self._name}-{number}"
        sent = time.time()
        status, headers = await caller.post(
            "/predict",
            json.dumps({"x": truth}).encode(),
            {"x-user-id": f"user-{user}", "x-request-id": name, traffic_headers.TOKEN: self._token},
        )
        named = {key: headers.get(b"x-lastgood-" + key.encode(), b"").decode() for key in ("bundle", "arm")}
        revision = int(headers.get(b"x-lastgood-revision", b"0"))
        self.shots.append(Shot(user=user, sent=sent, received=time.time(), status=status, revision=revision, **named))
        if self._label_delay_s is not None:
            label = {"request_id": name, "late": random.random() < truth}
            self._labels.append((time.time() + self._label_delay_s, json.dumps(label).encode()))

    async def _send_labels(self) -> None:
        caller = _Caller(self._port)
        while not self._stop.is_set():
            while self._labels and self._labels[0][0] <= time.time():
                await caller.post("/feedback", self._labels.popleft()[1], {})
            await asyncio.sleep(0.02)
        caller.close()


class _Caller:
    """One kept-alive connection; reopened after a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of the answer; status 0 if none came."""
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", f"content-length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{key}: {value}" for key, value in headers.items())]) + "\r\n\r\n"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                self._streams[1].write(head.encode() + body)
                return await _answer(self._streams[0])
        except (OSError, EOFError, ValueError, TimeoutError):
            self.close()
            await asyncio.sleep(0.01)
            return 0, {}

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines) if key}
    await reader.readexactly(int(headers[b"content-length"]))
    return int(first.split()[1]), headers


class Running:
    """Load in progress."""

    def __init__(self, process: Any, out: Path) -> None:
        self._process, self._out = process, out

    def end(self) -> list[Shot]:
        """Stop it; returns its records, in the order of the answers."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        return [Shot(**json.loads(line)) for line in self._out.read_text("utf-8").splitlines()]


@contextlib.contextmanager
def running(
    *,
    port: int,
    token_file: Path,
    out: Path,
    log: Path,
    rate: float,
    connections: int = 8,
    label_delay_s: float | None = None,
    seconds: float = 5400.0,
) -> Iterator[Running]:
    """Load from a process of its own while the block runs."""
    argv = [sys.executable, "-m", "bench.live_load", "--port", port, "--rate", rate, "--connections", connections, "--seconds", seconds]
    argv += ["--token-file", token_file, "--out", out, *([] if label_delay_s is None else ["--label-delay", label_delay_s])]
    with log.open("ab") as talk:
        process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=talk, cwd=ROOT)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError(f"the load did not start; read {log}")
        yield Running(process, out)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def failed(shots: Sequence[Shot]) -> list[Shot]:
    """Requests that got no answer, or another one than 200."""
    return [shot for shot in shots if shot.status != 200]


def main() -> None:
    """Send requests until stopped, then write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second over all connections")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--label-delay", type=float, help="seconds from an answer to the truth about it; left out: none is sent")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--token-file", type=Path, required=True, help="the debug token: answers then name their arm")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    gc.disable()  # a collection over a hundred thousand stored answers would look like a slow one
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    token = options.token_file.read_text("utf-8").strip()
    load = Load(port=options.port, connections=options.connections, rate=options.rate, label_delay_s=options.label_delay, token=token)
    await load.run(options.seconds)
    with options.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dataclasses.asdict(shot)) + "\n" for shot in load.shots)


if __name__ == "__main__":
    main()

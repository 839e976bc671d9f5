"""Steady requests from a process of their own: `python -m bench.load --port P --out FILE`.

A few kept-alive connections share one schedule, or send as fast as they are answered; the requests are taken in turn. Each is recorded
with the moments it was sent and answered (Unix seconds), its status, what the answer's headers name, and its body.
It prints `ready` on stdout once every connection has had an answer, and ends at SIGTERM or after `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import project

TIMEOUT_S = 10.0


class Load:
    """Connections to one port. With *rate* 0 each sends again as soon as it is answered."""

    def __init__(self, *, port: int, path: str, connections: int, rate: float, bodies: Sequence[bytes] = (project.BODY,)) -> None:
        self._port = port
        self._connections = connections
        self._every_s = connections / rate if rate else 0.0
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        requests = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._requests = itertools.cycle(requests)
        self._stop = asyncio.Event()
        self._answered: set[int] = set()
        self.shots: list[tuple[int, float, float, int, dict[bytes, bytes], bytes]] = []

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.call_later(seconds, self._stop.set)
        await asyncio.gather(*(self._client(number) for number in range(self._connections)))

    async def _client(self, number: int) -> None:
        streams = None
        due = time.time() + self._every_s * number / self._connections
        while not self._stop.is_set():
            if self._every_s:
                # A late connection skips turns instead of catching up; otherwise all of them would soon send at the same moment.
                due += self._every_s * max(0, math.ceil((time.time() - due) / self._every_s))
                await asyncio.sleep(due - time.time())
                due += self._every_s
            headers: dict[bytes, bytes] = {}
            sent, status, body = time.time(), 0, b""
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                        sent = time.time()
                    streams[1].write(next(self._requests))
                    status, headers, body = await _answer(streams[0])
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                body = repr(error).encode()
                if streams is not None:
                    streams[1].close()
                streams = None
                await asyncio.sleep(0.01)
            self.shots.append((number, sent, time.time(), status, headers, body))
            self._tell_ready(number)
        if streams is not None:
            streams[1].close()

    def _tell_ready(self, number: int) -> None:
        if len(self._answered) < self._connections:
            self._answered.add(number)
            if len(self._answered) == self._connections:
                print("ready", flush=True)

    def write(self, out: Path) -> None:
        """One line of JSON for each request."""
        with out.open("w", encoding="utf-8") as file:
            for number, sent, received, status, headers, body in self.shots:
                named = {key: headers.get(b"x-lastgood-" + key.encode(), b"").decode() for key in ("bundle", "revision")}
                line = {"connection": number, "sent": sent, "received": received, "status": status, **named, "body": body.decode()}
                file.write(json.dumps(line) + "\n")


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines) if key}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


@contextlib.contextmanager
def running(
    *,
    port: int,
    out: Path,
    log: Path,
    connections: int = 8,
    rate: float = 0.0,
    seconds: float = 600.0,
    bodies: Sequence[bytes] = (project.BODY,),
) -> Iterator[int]:
    """Load from a process of its own while the block runs; yields its pid. *out* is complete when the block has ended."""
    argv = [sys.executable, "-m", "bench.load", "--port", port, "--connections", connections, "--rate", rate, "--seconds", seconds]
    asked = out.with_suffix(".bodies")
    asked.write_bytes(b"\n".join(bodies))
    root = Path(__file__).resolve().parent.parent
    with log.open("ab") as talk:
        process: Any = subprocess.Popen(
            [*map(str, argv), "--bodies", str(asked), "--out", str(out)], stdout=subprocess.PIPE, stderr=talk, cwd=root
        )
    try:
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError(f"the load did not start; read {log}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def main() -> None:
    """Send requests until stopped, then write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/predict")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second over all connections; 0: as fast as they are answered")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--bodies", type=Path, help="what to ask, one JSON object a line, in turn; default: the small project's")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    gc.disable()  # a collection over a hundred thousand stored answers would look like a slow one
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    bodies = options.bodies.read_bytes().splitlines() if options.bodies else (project.BODY,)
    load = Load(port=options.port, path=options.path, connections=options.connections, rate=options.rate, bodies=bodies)
    await load.run(options.seconds)
    load.write(options.out)


if __name__ == "__main__":
    main()

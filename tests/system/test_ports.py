"""Who holds a port: the process we started, or somebody who took its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lastgood.system import ports as listening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")

LISTENER = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
one = socket.socket(family)
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind((sys.argv[1], int(sys.argv[2])))
one.listen()
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""
CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv.pop(1), *sys.argv[1:]])"


class Listener:
    """A process that listens at *host*, itself or by a child."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, by_child: bool = False) -> None:
        code = [CHILD, LISTENER] if by_child else [LISTENER]
        self._process = subprocess.Popen(
            [sys.executable, "-c", *code, host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.port = int(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture
def started() -> Iterator[list[Listener]]:
    """Listeners that end with the test."""
    made: list[Listener] = []
    yield made
    for one in made:
        one.end()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])  # noqa: S104  # a server of somebody else may listen anywhere
@pytest.mark.parametrize("by_child", [False, True])
def test_a_port_belongs_to_the_process_that_listens_and_to_who_started_it(started: list[Listener], host: str, by_child: bool) -> None:
    """Whether the process listens itself or its child does, at one address or at all; and to nobody else."""
    made = Listener(host, by_child=by_child)
    started.append(made)
    asked = "::1" if host == "::1" else "127.0.0.1"
    other = Listener()
    started.append(other)
    assert listening.belongs(made.pid, host=asked, port=made.port) is True
    assert listening.belongs(other.pid, host=asked, port=made.port) is False
    assert listening.belongs(os.getpid(), host=asked, port=made.port) is True, "we started it"


def test_who_took_the_place_of_a_dead_server_is_not_believed(started: list[Listener]) -> None:
    """The port of a process that ended, bound by another one, is not that process's; nor is a port that nobody holds."""
    dead = Listener()
    dead.end()
    assert listening.belongs(dead.pid, host="127.0.0.1", port=dead.port) is False
    started.append(Listener(port=dead.port))
    assert listening.belongs(dead.pid, host="127.0.0.1", port=dead.port) is False


def test_a_nearer_address_and_a_shared_port_are_seen(started: list[Listener]) -> None:
    """Ours listens at all addresses and another one at ours exactly, or both share the port: either may get the connection."""
    ours = Listener("0.0.0.0")  # noqa: S104
    started.append(ours)
    assert listening.belongs(ours.pid, host="127.0.0.1", port=ours.port) is True
    started.append(Listener("127.0.0.1", ours.port))
    assert listening.belongs(ours.pid, host="127.0.0.1", port=ours.port) is False
    shared = Listener()
    started.append(shared)
    started.append(Listener(port=shared.port))
    assert listening.belongs(shared.pid, host="127.0.0.1", port=shared.port) is False


def test_elsewhere_than_on_linux_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a yes and not a no."""
    monkeypatch.setattr(listening, "_LINUX", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening.belongs(os.getpid(), host="127.0.0.1", port=server.getsockname()[1]) is None

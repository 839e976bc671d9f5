"""A free port for a test's server, safe among tests that run in parallel."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_RESERVED: list[int] = []
_OUTGOING_FROM = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A loopback port that nothing listens on.

    It lies below the ports that the system assigns to outgoing connections: any client on the machine could take one of those
    between this call and the server's start. No other process that calls this gets the same one while this process lives.
    """
    try:
        end = int(_OUTGOING_FROM.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        end = 32768
    ports = range(max(1024, end - 16384), end)
    for port in random.sample(ports, min(200, len(ports))):  # nothing secret
        if _reserve(port) and _is_free(port):
            return port
    raise RuntimeError(f"200 ports below {end} are in use; stop the programs that listen there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Whether no other live process has this port from `free_port`; the lock is released with the process."""
    folder = Path(tempfile.gettempdir()) / f"lastgood-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return False
    _RESERVED.append(handle)
    return True

"""Whether a TCP port is held by the process that we started, or by a descendant of it.

Anybody on a machine may take the port of a server that died and answer in its place. The kernel reports who listens:
the listening sockets of `/proc/net/tcp`, and the sockets among a process's open files. Linux only; elsewhere it is unknown.

What does not belong here: asking the server (`layers.infrastructure.local.readiness`), Unix sockets, which files protect.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

_LINUX = sys.platform == "linux"
_PROC = Path("/proc")
_LISTENING = "0A"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def belongs(pid: int, *, host: str, port: int) -> bool | None:
    """True if a connection to *host*:*port* reaches the process *pid* or a descendant, and nobody else; None if unknown.

    Where several sockets could get the connection, as with SO_REUSEPORT, each of them has to belong.
    """
    if not _LINUX:
        return None
    try:
        reached = _reached(_addresses(host), port)
        return bool(reached) and reached <= {inode for one in (pid, *_descendants(pid)) for inode in _sockets(one)}
    except OSError:
        return False


def _addresses(host: str) -> set[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {_plain(ipaddress.ip_address(str(info[4][0]).partition("%")[0])) for info in found}


def _reached(addresses: set[Address], port: int) -> set[str]:
    """Inodes of the sockets that a connection to *port* at one of *addresses* may reach: an exact address precedes any address."""
    listeners = [(address, inode) for address, number, inode in _listeners() if number == port]
    exact = {inode for address, inode in listeners if address in addresses}
    return exact or {inode for address, inode in listeners if address.is_unspecified}


def _listeners() -> Iterator[tuple[Address, int, str]]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text("ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16), fields[9]


def _address(text: str) -> Address:
    """The kernel writes an address as 32-bit words in the machine's byte order."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    return _plain(ipaddress.ip_address(b"".join(words)))


def _plain(address: Address) -> Address:
    """An IPv4 address written as an IPv6 one, as IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that *pid* has open; none if it is gone or another user's."""
    try:
        handles = list(os.scandir(_PROC / str(pid) / "fd"))
    except OSError:
        return
    for handle in handles:
        try:
            target = os.readlink(handle.path)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").rstrip("]")


def _descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children.get(one, ())

"""Processes that outlive the command that started them, and the records by which they are found again.

A record is a small JSON file with the pid and the moment the process started. A pid alone is not enough:
the kernel reuses the pid later, and a foreign process must never be mistaken for a worker or be signalled.
The record's path and facts are also in the process's own environment, so a process whose record was lost,
or whose starter was killed between starting it and writing the record, is found again (Linux).

A name proves nothing on a shared machine: a record that another user owns or may write is ignored, and a process of
another user is not ours, whatever its environment contains (`strangers` reports both).

What does not belong here: what the processes are for, restarts and readiness (`layers.infrastructure`, `ops.local_stack`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lastgood import errors
from lastgood.system import files, permissions

MARKER = "LASTGOOD_DAEMON"
_PROC = Path("/proc")
_LINUX = sys.platform == "linux"
_STEP_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One process: `started` is an opaque name of its start time; `facts` are the starter's own JSON values."""

    pid: int
    started: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))

    def to_json(self) -> dict[str, Any]:
        return {**self.facts, "pid": self.pid, "started": self.started}


def start(
    argv: Sequence[str], *, record: Path, log: Path, env: Mapping[str, str] | None = None, facts: Mapping[str, Any] | None = None
) -> Record:
    """Start *argv* detached from this process and its terminal, and write its record; returns without waiting for it.

    Output is appended to *log*; input is empty. *env* is the whole environment (default: ours). *facts* are kept in
    the record beside pid and start. The caller makes sure that it does not run already (`find`) and holds a lock if
    others may start it too. Raises Unavailable if it cannot be started.
    """
    facts = {**(facts or {})}
    marker = json.dumps({"record": str(record.absolute()), "facts": facts})
    with permissions.files():
        log.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        pid = _spawn(argv, log=log, env={**(os.environ if env is None else env), MARKER: marker})
    made = Record(pid=pid, started=_look(pid)[1] or "unknown", facts=facts)
    write(record, made)
    return made


def _spawn(argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> int:
    try:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    except OSError as error:
        raise errors.Unavailable(f"cannot start {argv[0]!r}: {error}; check that it is installed and that {log} can be written") from error


def current() -> Record:
    """This process."""
    return Record(pid=os.getpid(), started=_look(os.getpid())[1] or "unknown")


def read(path: Path) -> Record | None:
    """The record in *path*; None if there is none, it cannot be read, or another user owns or may write it.

    The process may be alive nevertheless, see `find`.
    """
    try:
        value = json.loads(_own_text(path))
        return Record(
            pid=int(value["pid"]), started=str(value["started"]), facts={k: v for k, v in value.items() if k not in ("pid", "started")}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _own_text(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:
        if not permissions.ours(os.fstat(file.fileno())):
            raise PermissionError(f"{path} belongs to another user")
        return file.read()


def write(path: Path, record: Record) -> None:
    """Replace the record in *path* atomically. It is safe to lose, so it is not synced."""
    files.write(path, json.dumps(record.to_json()), kept="fast")


def find_running(path: Path) -> Record | None:
    """The live process that was started with this record path, even if the record itself is gone; None if none is alive."""
    known = read(path)
    if known is not None and alive(known):
        return known
    return _marked().get(path.absolute())


def running(folder: Path) -> dict[Path, Record]:
    """Every live process whose record belongs directly into *folder*, by record path; lost records included."""
    root = folder.absolute()
    found = {path: record for path, record in _marked().items() if path.parent == root}
    for path in sorted(root.glob("*.json")):
        known = read(path)
        if known is not None and alive(known):
            found[path] = known
    return found


def alive(record: Record) -> bool:
    """True while exactly this process runs. One that has ended and waits to be reaped is not alive."""
    return _started(record.pid) == record.started


def stopped(record: Record) -> bool:
    """Whether the process is alive but stopped, as after SIGSTOP: it does nothing, and holds its files and sockets."""
    state, moment = _look(record.pid)
    return moment == record.started and state in "Tt"


def reap(record: Record) -> int | None:
    """The exit status of a process that has ended, negative for a signal: only if it was our child, and only once.

    None if it still runs, was started by another process, or was reaped before: then it is unknown.
    """
    if _look(record.pid)[1] != record.started:
        return None
    try:
        pid, status = os.waitpid(record.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid == record.pid else None


def ask(record: Record) -> bool:
    """Ask the process to end (SIGTERM) and return at once. False if it was gone already."""
    return _signal(record, signal.SIGTERM)


def stop(record: Record, *, grace_s: float) -> bool:
    """End the process: SIGTERM, and SIGKILL for its whole group after *grace_s* seconds. False if it was gone already.

    The remains of its group are killed too. Never signals a process that merely has the same pid.
    """
    if not ask(record):
        return False
    if not _gone_within(record, grace_s) and alive(record):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(record.pid, signal.SIGKILL)
        _gone_within(record, 5.0)
    reap(record)
    _clear_group(record.pid)
    return True


def age_s(record: Record) -> float | None:
    """Seconds since the process started; None if unknown (it is gone, or this is not Linux)."""
    try:
        ticks = _ticks(record.started)
        up = float((_PROC / "uptime").read_text().split()[0])
    except (OSError, ValueError):
        return None
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK")) if alive(record) else None


def rss_bytes(record: Record) -> int | None:
    """Resident memory in bytes; None if unknown."""
    try:
        pages = int((_PROC / str(record.pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def uid(pid: int) -> int | None:
    """The user that the process *pid* runs as; None if there is no such process or it runs as several.

    Read from its status: the owner of its folder in /proc is root for any process that is not dumpable.
    """
    if not _LINUX:
        shown = subprocess.run(["/bin/ps", "-o", "uid=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
        return int(shown) if shown else None
    try:
        line = next(line for line in (_PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines() if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return None
    users = {int(number) for number in line.split()[1:]}
    return users.pop() if len(users) == 1 else None


def strangers(root: Path) -> list[str]:
    """Anything that poses as a process of ours below *root* but is another user's, one sentence each; none is trusted."""
    told = [
        f"{path} belongs to {permissions.user(path.lstat().st_uid)} or can be written by others"
        for path in sorted(root.glob("**/*.json"))
        if _is_record_of_others(path)
    ]
    for pid, value in _markers():
        owner = uid(pid)
        record = value.get("record") if isinstance(value, dict) else None
        if owner != os.geteuid() and isinstance(record, str) and Path(record).is_relative_to(root.absolute()):
            told.append(f"process {pid} of {'several users' if owner is None else permissions.user(owner)} names {record}")
    return told


def _is_record_of_others(path: Path) -> bool:
    try:
        return not permissions.ours(path.lstat())
    except OSError:
        return False


@contextlib.contextmanager
def locked(path: Path, *, wait_s: float) -> Iterator[None]:
    """Hold the lock file *path* exclusively, across processes and threads; the kernel frees it if the holder dies.

    Raises Unavailable if another process holds it for longer than *wait_s* seconds.
    """
    with permissions.files():
        path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + wait_s
        while not _try_lock(handle):
            if time.monotonic() >= end:
                raise errors.Unavailable(f"{path} has been locked for {wait_s:g} s; another lastgood command is running, try again")
            time.sleep(_STEP_S)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signal(record: Record, number: signal.Signals) -> bool:
    """Send the signal if the process lives. The pidfd pins the process, so a pid that changes hands in between is not hit."""
    try:
        if not hasattr(os, "pidfd_open"):
            if alive(record):
                os.kill(record.pid, number)
                return True
            return False
        handle = os.pidfd_open(record.pid)
        try:
            if not alive(record):
                return False
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except ProcessLookupError:
        return False
    return True


def _gone_within(record: Record, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(record):
        if time.monotonic() >= end:
            return False
        time.sleep(_STEP_S)
    return True


def _clear_group(pid: int) -> None:
    """Kill the remaining processes of the group.

    The kernel does not reuse a pid while a group has its number: as long as no process has that pid, the members are ours.
    """
    with contextlib.suppress(PermissionError):
        try:
            os.getpgid(pid)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _started(pid: int) -> str | None:
    """The start time of the live process *pid*, None if there is none; a zombie does not count."""
    state, moment = _look(pid)
    return None if state in "ZXx" else moment


def _look(pid: int) -> tuple[str, str | None]:
    """State letter and start of *pid*, zombies included; ("X", None) if there is no such process.

    A zombie whose threads are still ending counts as running: until they are gone they hold its files and ports.
    """
    if not _LINUX:
        shown = subprocess.run(["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
        state, _, moment = shown.strip().partition(" ")
        return (state[0], " ".join(moment.split())) if state else ("X", None)
    try:
        # The name in brackets may contain blanks and brackets itself; fields count from after the last one.
        fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "X", None
    state, threads, ticks = fields[0], int(fields[17]), fields[19]
    return "R" if state == "Z" and threads > 1 else state, f"{_boot_id()}/{ticks}"


def _ticks(started: str) -> int:
    return int(started.rpartition("/")[2])


def _boot_id() -> str:
    """Ticks count from boot, so the same pid and tick can come again after the next one."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "boot"


def _marked() -> dict[Path, Record]:
    """Live session leaders that carry our marker in their environment, by record path. Children inherit it; the oldest owns it."""
    found: dict[Path, Record] = {}
    for pid, value in _markers():
        try:
            moment = _started(pid) if uid(pid) == os.geteuid() else None
            path, older = Path(value["record"]), found.get(Path(value["record"]))
            if moment is not None and (older is None or _ticks(moment) < _ticks(older.started)):
                found[path] = Record(pid=pid, started=moment, facts=value["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _markers() -> Iterator[tuple[int, Any]]:
    """Session leaders whose environment has a readable marker, ours or not, with its content."""
    for folder in _PROC.glob("[0-9]*") if _LINUX else ():
        pid = int(folder.name)
        try:
            environ = (folder / "environ").read_bytes()
            if MARKER.encode() + b"=" not in environ or os.getsid(pid) != pid:
                continue
            entry = next(item for item in environ.split(b"\0") if item.startswith(MARKER.encode() + b"="))
            yield pid, json.loads(entry.partition(b"=")[2])
        except (OSError, StopIteration, ValueError):
            continue

"""Detached processes and their records."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lastgood import errors
from lastgood.system import processes

SLEEPER = [sys.executable, "-S", "-c", "import time\nprint('up', flush=True)\ntime.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)",
]


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")


def wait_until(condition, *, seconds=20):
    """Poll until *condition* holds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.02)
    return value


@pytest.fixture
def begin(tmp_path):
    """Start daemons that are ended with the test."""
    made = []

    def go(argv, **kwargs):
        record = processes.start(argv, record=tmp_path / "run" / "d.json", log=tmp_path / "log" / "d.log", **kwargs)
        made.append(record)
        return record

    yield go
    for record in made:
        processes.stop(record, grace_s=0)


def test_a_started_process_is_alive_recorded_and_logs(begin, tmp_path):
    """Start returns a live process whose record file names it and whose output goes to the log."""
    record = begin(SLEEPER, facts={"port": 7})
    assert processes.alive(record)
    stored = json.loads((tmp_path / "run" / "d.json").read_text())
    assert stored == {"port": 7, "pid": record.pid, "started": record.started}
    assert processes.read(tmp_path / "run" / "d.json") == record
    wait_until(lambda: (tmp_path / "log" / "d.log").read_text() == "up\n")


@only_linux
def test_age_and_memory_are_told(begin):
    """A live process has an age in seconds, memory in bytes and empty input."""
    record = begin(SLEEPER)
    wait_until(lambda: processes.rss_bytes(record) > 100_000)
    assert 0 <= processes.age_s(record) < 600
    assert os.readlink(f"/proc/{record.pid}/fd/0") == os.devnull
    assert processes.age_s(dataclasses.replace(record, started="x/1")) is None


def test_a_process_survives_the_command_that_started_it(tmp_path):
    """The starter is killed with -9; the daemon goes on in a session of its own, with empty input."""
    code = (
        "import os,signal\nfrom pathlib import Path\nfrom lastgood.system import processes as daemon\n"
        f"daemon.start({SLEEPER!r}, record=Path({str(tmp_path / 'd.json')!r}), log=Path({str(tmp_path / 'd.log')!r}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    record = processes.read(tmp_path / "d.json")
    try:
        assert processes.alive(record)
        assert os.getsid(record.pid) == record.pid
        assert processes.reap(record) is None, "not our child: nobody can tell"
    finally:
        assert processes.stop(record, grace_s=5)
    assert not processes.alive(record)


def test_a_reused_pid_is_never_taken_for_ours_nor_signalled(begin, tmp_path):
    """A record whose start time differs is dead, cannot be stopped, and the stranger keeps running."""
    real = begin(SLEEPER)
    stale = dataclasses.replace(real, started=real.started + "1")
    assert not processes.alive(stale)
    assert processes.stop(stale, grace_s=0) is False
    assert processes.reap(stale) is None
    assert processes.alive(real)


def test_stop_is_polite_first(begin, tmp_path):
    """A process that handles SIGTERM gets its time to end by itself."""
    code = "import signal,sys,time\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(3)))\nprint('up', flush=True)\ntime.sleep(600)"
    record = begin([sys.executable, "-S", "-c", code])
    wait_until(lambda: "up" in (tmp_path / "log" / "d.log").read_text())
    assert processes.stop(record, grace_s=20)
    assert (tmp_path / "log" / "d.log").read_text() == "up\nbye\n"
    assert processes.stop(record, grace_s=0) is False, "gone already"


def test_stop_kills_what_does_not_listen_and_its_children(begin, tmp_path):
    """A process that ignores SIGTERM is killed after the grace period, and so is what it started."""
    code = (
        "import signal,subprocess,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
    )
    record = begin([sys.executable, "-c", code])
    log = tmp_path / "log" / "d.log"
    child = int(wait_until(lambda: log.exists() and log.read_text().strip()))
    assert processes.stop(record, grace_s=0.2)
    assert not processes.alive(record)
    wait_until(lambda: processes._started(child) is None)


def test_stop_clears_children_of_a_process_that_ended_politely(begin, tmp_path):
    """A leader that goes on SIGTERM and forgets its child leaves nothing behind."""
    code = "import subprocess,time\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
    record = begin([sys.executable, "-c", code])
    log = tmp_path / "log" / "d.log"
    child = int(wait_until(lambda: log.exists() and log.read_text().strip()))
    assert processes.stop(record, grace_s=10)
    wait_until(lambda: processes._started(child) is None)


@pytest.mark.parametrize(("how", "status"), [("import sys; sys.exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_the_exit_status_of_our_child_is_told_once(begin, how, status):
    """A dead child is not alive though nobody reaped it; its status is the exit code or minus the signal."""
    record = begin([sys.executable, "-S", "-c", how])
    wait_until(lambda: not processes.alive(record))
    assert processes.reap(record) == status
    assert processes.reap(record) is None


@only_linux
def test_a_killed_process_is_gone_only_when_its_port_is_free(begin, tmp_path):
    """Its first thread may be dead while others still hold its socket; whoever starts the next one must not meet that."""
    code = (
        "import socket, threading, time\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "for _ in range(300): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print(listener.getsockname()[1], flush=True)\ntime.sleep(600)"
    )
    log = tmp_path / "log" / "d.log"
    for _ in range(5):
        record = begin([sys.executable, "-S", "-c", code])
        port = int(wait_until(lambda: log.exists() and log.read_text().endswith("\n") and log.read_text()))
        os.kill(record.pid, signal.SIGKILL)
        while processes.alive(record):
            pass
        socket.create_server(("127.0.0.1", port)).close()
        log.unlink()


@only_linux
def test_a_process_whose_record_was_lost_is_found_again(begin, tmp_path):
    """Killed before the record was written, or the run folder removed: the process is found with its facts."""
    path = tmp_path / "run" / "d.json"
    record = begin(SLEEPER, facts={"bundle": "b", "port": 9})
    path.unlink()
    wait_until(lambda: processes.find_running(path) == record)  # the kernel shows the environment some microseconds after the start
    assert processes.running(path.parent) == {path: record}
    path.write_text("{not json")
    assert processes.read(path) is None
    assert processes.find_running(path) == record
    assert processes.find_running(tmp_path / "run" / "other.json") is None


def test_a_dead_process_is_not_found(begin, tmp_path):
    """A record of a process that ended finds nothing and is not listed as running."""
    path = tmp_path / "run" / "d.json"
    processes.stop(begin(SLEEPER), grace_s=5)
    assert processes.read(path) is not None
    assert processes.find_running(path) is None
    assert processes.running(path.parent) == {}


def test_what_cannot_start_says_so(begin, tmp_path):
    """A missing program is Unavailable and leaves no record."""
    with pytest.raises(errors.Unavailable, match=r"no-such-program.*check that it is installed"):
        begin(["no-such-program"])
    assert not (tmp_path / "run" / "d.json").exists()


def test_the_environment_is_the_one_given(begin, tmp_path):
    """Only the variables handed over (and our marker) reach the process."""
    record = begin([sys.executable, "-S", "-c", "import os\nprint(sorted(os.environ))"], env={"ONLY": "this", "LC_ALL": "C"})
    wait_until(lambda: not processes.alive(record))
    assert (tmp_path / "log" / "d.log").read_text() == "['LASTGOOD_DAEMON', 'LC_ALL', 'ONLY']\n"


def test_a_lock_is_exclusive_and_bounded(tmp_path):
    """A second holder waits its time and is told who holds it; threads exclude each other too."""
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with processes.locked(tmp_path / "l", wait_s=5):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(errors.Unavailable, match="locked"), processes.locked(tmp_path / "l", wait_s=0.05):
        pass
    leave.set()
    thread.join()
    with processes.locked(tmp_path / "l", wait_s=0):
        pass


def test_a_started_process_does_not_inherit_the_lock(begin, tmp_path):
    """A daemon started under a lock does not keep it when the starter lets go."""
    with processes.locked(tmp_path / "l", wait_s=0):
        record = begin(STUBBORN)
    assert processes.alive(record)
    with processes.locked(tmp_path / "l", wait_s=0):
        pass


NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can be another user; reads /proc")

IMPOSTOR = """
import ctypes, os, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
if sys.argv[1] == "hidden":
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: /proc shows root as the owner of such a process
print("up", flush=True)
time.sleep(600)
"""


@as_root
@pytest.mark.parametrize("kind", ["plain", "hidden"])
def test_a_process_of_another_user_is_never_adopted(tmp_path, kind):
    """Its environment names our record, with the facts of a worker; it is neither found nor signalled, and doctor's words name it."""
    record = tmp_path / "run" / "workers" / "w.json"
    record.parent.mkdir(parents=True)
    marker = json.dumps({"record": str(record), "facts": {"bundle": "sha256:" + "0" * 64, "socket": "evil"}})
    impostor = subprocess.Popen(
        [sys.executable, "-S", "-c", IMPOSTOR, kind],
        env={**os.environ, processes.MARKER: marker},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert impostor.stdout.readline() == "up\n"
        assert processes.uid(impostor.pid) == NOBODY
        assert processes.find_running(record) is None
        assert processes.running(record.parent) == {}
        assert any(f"process {impostor.pid} of nobody names {record}" in said for said in processes.strangers(tmp_path))
        assert impostor.poll() is None
    finally:
        impostor.kill()
        impostor.communicate()


@as_root
@pytest.mark.parametrize("forge", ["owner", "group", "world", "link"])
def test_a_record_that_another_user_owns_or_may_write_is_none(begin, tmp_path, forge):
    """Whoever writes a record says which process is asked, trusted and killed."""
    victim = begin(SLEEPER)
    forged = tmp_path / "run" / "forged.json"
    processes.write(forged, victim)
    assert processes.read(forged) == victim
    if forge == "owner":
        os.chown(forged, NOBODY, NOBODY)
    elif forge == "link":
        forged.rename(tmp_path / "elsewhere")
        forged.symlink_to(tmp_path / "elsewhere")
    else:
        forged.chmod(0o620 if forge == "group" else 0o602)
    assert processes.read(forged) is None
    assert forged not in processes.running(forged.parent)
    if forge != "link":
        assert any(str(forged) in said for said in processes.strangers(tmp_path))


def test_what_is_started_and_written_is_for_its_owner_alone(begin, tmp_path):
    """Record, log, lock and their folders, and every file that the process makes, under the usual umask."""
    before = os.umask(0o022)
    try:
        made = tmp_path / "made"
        begin([sys.executable, "-S", "-c", f"open({str(made)!r}, 'w').close(); import time; time.sleep(600)"])
        with processes.locked(tmp_path / "l" / "lock", wait_s=1):
            wait_until(made.exists)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    found = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert {name: mode for name, mode in found.items() if mode & 0o077} == {}, found

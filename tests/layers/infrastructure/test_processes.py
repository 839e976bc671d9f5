"""The workers layer, on real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lastgood.bundle import manifest
from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.infrastructure.local import layer as local_layer
from lastgood.system import processes as system_processes
from tests import timing
from tests.layers.infrastructure.conftest import SERVICE, A, B, C, D


def test_every_warm_bundle_gets_a_ready_worker(world):
    """Stable, candidate and previous each have one process, whose record says bundle, pid, start and socket."""
    desired = world.desired(stable=A, candidate=B, previous=C)
    assert world.converged(desired) is False
    world.layer.apply(desired)
    assert world.converged(desired) is True
    endpoints = world.layer.endpoints()
    assert set(endpoints) == {A, B, C}
    assert len({e for found in endpoints.values() for e in found}) == 3
    record = json.loads((world.settings.run(SERVICE) / "workers" / f"{manifest.short(A)}.json").read_text())
    assert set(record) == {"bundle", "pid", "started", "socket"}
    assert endpoints[A] == (base.Endpoint(path=record["socket"]),)
    facts = world.worker(A)
    assert facts["pid"] == record["pid"]
    assert (facts["ready"], facts["restarts"], facts["failures"]) == (True, 0, 0)
    log = (world.settings.logs(SERVICE) / f"worker-{manifest.short(A)}.log").read_text()
    assert log.startswith(f"starting 1 {world.settings.home}")


def test_applying_twice_is_applying_once(world):
    """A second apply, by another layer object, leaves the same processes."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    before = world.worker(A)["pid"]
    world.make().apply(desired)
    assert world.worker(A)["pid"] == before


def test_many_who_apply_at_once_start_one_worker_per_bundle(world):
    """The controller and commands apply at the same moment: no bundle gets two processes."""
    desired = world.desired(stable=A, previous=B)
    threads = [threading.Thread(target=world.make().apply, args=(desired,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.converged(desired) is True
    assert len(system_processes.running(world.settings.run(SERVICE) / "workers")) == 2
    for digest in (A, B):
        log = (world.settings.logs(SERVICE) / f"worker-{manifest.short(digest)}.log").read_text()
        assert log.count("starting") == 1


def test_workers_survive_whoever_started_them(world):
    """The process that applied is killed with -9; the workers answer on."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.layers.infrastructure import conftest\n"
        "world = object.__new__(conftest.World)\n"
        f"world.settings = conftest.Settings(project=Path({str(world.settings.project)!r}), home=Path({str(world.settings.home)!r}))\n"
        "world.offset_s, world.ready_timeout_s = 0.0, 30.0\n"
        f"world.make().apply(world.desired(stable={A!r}, revision=1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(world.layer.endpoints()) == {A}


def test_a_killed_worker_comes_back_on_its_port_and_its_end_is_known(world):
    """A kill -9 is what the kernel does when memory runs out: seen, restarted at once, at the same place, counted."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    before = world.worker(A)
    os.kill(before["pid"], signal.SIGKILL)
    world.until(lambda: world.converged(desired) is False)
    assert world.layer.endpoints() == {}
    world.layer.apply(desired)
    after = world.worker(A)
    assert after["ready"]
    assert after["pid"] != before["pid"]
    assert (after["socket"], after["restarts"], after["last_exit"]) == (before["socket"], 1, -9)
    assert (before["oom_kills"], after["oom_kills"]) == (0, 1)


def test_kills_in_a_row_are_counted_until_a_steady_minute(world):
    """Each restart looks well at first: the count outlives it, and another layer object; a minute of good service ends it."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    for kills in (1, 2, 3):
        os.kill(world.worker(A)["pid"], signal.SIGKILL)
        world.until(lambda: world.worker(A)["pid"] is None)
        world.offset_s += 30
        world.layer = world.make()
        world.layer.apply(desired)
        assert world.worker(A)["ready"]
        assert world.worker(A)["oom_kills"] == kills
    world.offset_s += 59
    world.layer.observe()
    world.layer.apply(desired)
    assert world.worker(A)["oom_kills"] == 3
    world.offset_s += 2
    world.layer.observe()
    world.layer.apply(desired)
    assert (world.worker(A)["oom_kills"], world.worker(A)["failures"]) == (0, 0)


@pytest.mark.parametrize(("status", "kills"), [("137", True), ("1", False), ("9", False)])
def test_only_the_end_of_memory_counts_as_a_kill(world, status, kills):
    """A worker that says by its exit status that memory was short counts; any other crash does not."""
    world.behave(A, f"crash {status}")
    world.until_failed(world.desired(stable=A), A, failures=2)
    facts = world.worker(A)
    assert facts["failures"] >= 2
    assert facts["oom_kills"] == (facts["failures"] if kills else 0)


def test_a_worker_that_we_end_ourselves_is_no_kill(world):
    """One that ignores SIGTERM is killed by us, and comes back as a candidate with nothing held against it."""
    world.behave(B, "stubborn")
    world.layer.apply(world.desired(stable=A, candidate=B))
    world.behave(B, "never")
    world.ready_timeout_s = 5.0
    world.offset_s += 3600
    desired = world.desired(stable=A, candidate=B)
    assert "not ready within 5 s" in world.until_failed(desired, B)
    world.behave(B, "")
    world.offset_s += 60
    world.layer.apply(desired)
    world.until(lambda: world.converged(desired))
    assert world.worker(B)["oom_kills"] == 0


def test_a_worker_of_an_earlier_release_goes_on_at_its_port(world):
    """Workers used to listen on ports: one that still does is an endpoint, and nobody's, once it has ended, by being replaced."""
    desired = world.desired(stable=A)
    code = (
        "import http.server, json\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        f"        body = json.dumps({{'bundle': {A!r}}}).encode()\n"
        "        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers(); self.wfile.write(body)\n"
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    folder = world.settings.run(SERVICE) / "workers"
    log, path = world.settings.logs(SERVICE) / "old.log", folder / f"{manifest.short(A)}.json"
    old = system_processes.start([sys.executable, "-c", code], record=path, log=log)
    port = int(world.until(lambda: log.read_text().strip()))
    system_processes.write(
        path, system_processes.Record(pid=old.pid, started=old.started, facts={"bundle": A, "host": "127.0.0.1", "port": port})
    )
    world.layer.apply(desired)
    assert world.layer.endpoints() == {A: (base.Endpoint("127.0.0.1", port),)}
    assert (world.worker(A)["pid"], world.worker(A)["port"]) == (old.pid, port)
    system_processes.stop(old, grace_s=5)
    world.layer.apply(desired)
    assert world.layer.endpoints() == {A: (base.Endpoint(path=world.worker(A)["socket"]),)}


def test_a_worker_whose_socket_was_removed_is_replaced(world):
    """Somebody tidies the folder: the process lives and nobody reaches it. It is stopped at once, not after the time to get ready."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    before = world.worker(A)
    Path(before["socket"]).unlink()
    assert world.layer.endpoints() == {}
    world.layer.apply(desired)
    after = world.worker(A)
    assert after["ready"]
    assert after["pid"] != before["pid"]
    assert Path(after["socket"]).is_socket()


def test_a_worker_that_crashes_is_told_with_its_last_error_and_others_are_not_touched(world):
    """The candidate dies at each start: the error names it and quotes its log; stable's worker goes on."""
    world.layer.apply(world.desired(stable=A))
    stable_pid = world.worker(A)["pid"]
    world.behave(B, "crash 3")
    desired = world.desired(stable=A, candidate=B)
    complaint = world.until_failed(desired, B, failures=2)
    assert re.search(r"worker of candidate 'bbbb.*exit status 3: ValueError: part 'model' is damaged.*see .*logs", complaint)
    assert world.converged(desired) is False
    assert world.worker(A)["pid"] == stable_pid
    assert set(world.layer.endpoints()) == {A}
    facts = world.worker(B)
    assert facts["last_exit"] == 3
    assert facts["failures"] >= 2


def test_restarts_back_off_and_a_mended_worker_comes_back(world):
    """Attempts come at growing distance, recorded across layer objects, at most every 30 s; then it recovers."""
    world.behave(A, "crash 1")
    desired = world.desired(stable=A)
    failures = 0
    for _ in range(9):
        world.until_failed(desired, A, failures=failures + 1)
        failures = world.worker(A)["failures"]
        world.offset_s += 30
    world.until_failed(desired, A, failures=failures + 1)
    for _ in range(3):
        with pytest.raises(base.LayerError):
            world.make(patience_s=0.1).apply(desired)
    assert world.worker(A)["failures"] == failures + 1, "one attempt in 30 s, however often it is applied"
    world.offset_s += 30
    world.behave(A, "")
    world.layer.apply(desired)
    assert world.converged(desired) is True


def test_a_worker_that_never_gets_ready_fails_after_its_time(world):
    """Until ready_timeout_s it is on its way; after that it is stopped, an error tells so, and it is tried again."""
    world.behave(B, "never")
    world.layer.apply(world.desired(stable=A))
    desired = world.desired(stable=A, candidate=B)
    quick = world.make(patience_s=0.5)
    quick.apply(desired)
    assert world.converged(desired) is False
    pid = world.worker(B)["pid"]
    world.offset_s += 31
    complaint = world.until_failed(desired, B)
    assert re.search(r"worker of candidate 'bbb.*was not ready within 30 s", complaint)
    assert world.worker(B)["pid"] != pid
    assert set(world.layer.endpoints()) == {A}


def test_a_slow_moment_of_a_ready_worker_is_no_failed_start(world):
    """A worker that was ready an hour after its start and is not just now keeps its process."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    pid = world.worker(A)["pid"]
    world.offset_s += 3600
    assert world.converged(desired) is True
    world.behave(A, "never")
    world.make(patience_s=0).apply(desired)
    assert world.converged(desired) is False
    assert world.worker(A)["pid"] == pid
    world.behave(A, "")
    assert world.converged(desired) is True


def test_a_hanging_worker_is_not_ready_within_a_bounded_time(world):
    """A worker that is stopped (SIGSTOP) is no endpoint, and the question ends by itself."""
    desired = world.desired(stable=A, previous=B)
    world.layer.apply(desired)
    pid = world.worker(A)["pid"]
    timing.freeze(pid)
    try:
        assert set(world.layer.endpoints()) == {B}
        assert world.converged(desired) is False
    finally:
        os.kill(pid, signal.SIGCONT)
    world.until(lambda: set(world.layer.endpoints()) == {A, B})


def test_what_a_worker_says_of_its_callers_ids_is_among_the_facts(world):
    """One of an earlier release says nothing of them."""
    world.behave(A, "repeats 7")
    world.layer.apply(world.desired(stable=A, previous=B))
    assert (world.worker(A)["repeated_ids"], world.worker(A)["unclear_labels"]) == (7, 1)
    assert (world.worker(B)["repeated_ids"], world.worker(B)["unclear_labels"]) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is read from /proc")
@pytest.mark.parametrize("words", ["", "stubborn"])
def test_a_frozen_worker_is_ended_at_once_and_replaced(world, words):
    """It would take no notice of being asked to end; its note says what became of it, and what that cut off is said to be unknown."""
    world.behave(A, words)
    desired = world.desired(stable=A, previous=B)
    world.layer.apply(desired)
    pid, other = world.worker(A)["pid"], world.worker(B)["pid"]
    timing.freeze(pid)
    assert "was stopped by a signal and did not answer; it was ended" in world.until_failed(desired, A)
    assert system_processes._started(pid) is None
    (cut,) = world.layer.observe().facts["cut_off"]
    assert (cut["bundle"], cut["pid"], cut["revision"], cut["requests"]) == (A, pid, desired.revision, None)
    world.until(lambda: world.layer.apply(desired) or world.converged(desired))
    assert world.worker(A)["pid"] != pid
    assert world.worker(B)["pid"] == other, "one that is well keeps its process"
    world.layer.apply(desired)
    assert len(world.layer.observe().facts["cut_off"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is read from /proc")
def test_a_frozen_worker_that_nobody_wants_is_ended_in_its_time(world):
    """Nothing more is asked of it, so it gets the time of its requests, in case it goes on; then it is killed."""
    world.layer.apply(world.desired(stable=A, candidate=B))
    pid = world.worker(B)["pid"]
    timing.freeze(pid)
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    world.offset_s += 10
    world.layer.apply(desired)
    assert system_processes._started(pid) is not None
    assert [one["pid"] for one in world.layer.observe().facts["leaving"]] == [pid]
    world.offset_s += 3600
    world.layer.apply(desired)
    assert system_processes._started(pid) is None
    (cut,) = world.layer.observe().facts["cut_off"]
    assert (cut["pid"], cut["requests"]) == (pid, None)


def test_a_worker_that_names_another_bundle_is_stopped(world):
    """A worker that serves something else never counts as ready; it is ended and tried again."""
    world.behave(A, "wrong")
    desired = world.desired(stable=A)
    assert "reports that it serves 'ffff" in world.until_failed(desired, A)
    assert world.layer.endpoints() == {}
    world.behave(A, "")
    world.offset_s += 30
    world.layer.apply(desired)
    assert world.converged(desired) is True


def test_workers_no_longer_wanted_are_drained_then_stopped(world):
    """After it left the warm set a worker answers for ten more seconds; then the layer has diverged until it is stopped."""
    world.layer.apply(world.desired(stable=A, previous=B))
    pid = world.worker(B)["pid"]
    desired = world.desired(stable=C, previous=A)
    world.layer.apply(desired)
    assert world.converged(desired) is True
    assert set(world.layer.endpoints()) == {A, B, C}
    world.offset_s += 10
    assert world.converged(desired) is False
    world.layer.apply(desired)
    assert world.converged(desired) is True
    assert set(world.layer.endpoints()) == {A, C}
    world.until(lambda: system_processes._started(pid) is None)


def test_a_bundle_that_returns_while_draining_keeps_its_worker(world):
    """A rollback to a bundle on its way out finds it ready, and its time does not run on."""
    world.layer.apply(world.desired(stable=A))
    pid = world.worker(A)["pid"]
    world.layer.apply(world.desired(stable=B))
    back = world.desired(stable=A)
    world.layer.apply(back)
    world.offset_s += 30
    world.layer.apply(back)
    assert world.worker(A)["pid"] == pid
    assert set(world.layer.endpoints()) == {A}


def test_the_last_ready_worker_stays_while_stable_is_not_ready(world):
    """Nothing wants the old worker, but stable cannot start: the old one answers on until stable is ready."""
    world.layer.apply(world.desired(stable=A))
    world.behave(B, "crash 1")
    desired = world.desired(stable=B)
    for failures in (1, 2, 3):
        world.until_failed(desired, B, failures=failures)
        world.offset_s += 60
    assert set(world.layer.endpoints()) == {A}
    world.behave(B, "")
    world.layer.apply(desired)
    world.layer.apply(desired)
    assert set(world.layer.endpoints()) == {B}


def test_nothing_stable_means_no_worker_after_the_drain(world):
    """A service that was taken down has no worker left, not even the last ready one."""
    world.layer.apply(world.desired(stable=A))
    desired = world.desired()
    world.layer.apply(desired)
    world.offset_s += 10
    world.layer.apply(desired)
    assert world.layer.endpoints() == {}
    assert world.converged(desired) is True


def test_a_worker_that_does_not_end_is_killed(world):
    """A worker that ignores SIGTERM is no endpoint from then on, and killed ten seconds after the time for a request; what that cut off nobody knows."""
    world.behave(B, "stubborn")
    world.layer.apply(world.desired(stable=A, candidate=B))
    pid = world.worker(B)["pid"]
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    world.offset_s += 10
    world.layer.apply(desired)
    assert set(world.layer.endpoints()) == {A}
    assert system_processes._started(pid) is not None
    world.offset_s += 10
    assert world.converged(desired) is True, "its requests may still take their time"
    world.offset_s += 20
    assert world.converged(desired) is False
    world.layer.apply(desired)
    assert system_processes._started(pid) is None
    (cut,) = world.layer.observe().facts["cut_off"]
    assert (cut["bundle"], cut["requests"], cut["revision"]) == (B, None, desired.revision)
    assert world.converged(desired) is True


def test_an_older_revision_changes_nothing(world):
    """A late call with an old state does not bring old workers back."""
    world.layer.apply(world.desired(stable=A, revision=7))
    world.layer.apply(world.desired(stable=B, revision=6))
    assert set(world.layer.endpoints()) == {A}
    assert world.layer.observe().revision == 7


def test_lost_records_are_written_again(world):
    """The run folder's records vanish: the same processes are found, not started twice."""
    desired = world.desired(stable=A, previous=B)
    world.layer.apply(desired)
    pids = {digest: world.worker(digest)["pid"] for digest in (A, B)}
    for file in (world.settings.run(SERVICE) / "workers").glob("*"):
        if file.is_file():
            file.unlink()
    world.layer.apply(desired)
    assert {digest: world.worker(digest)["pid"] for digest in (A, B)} == pids
    assert world.converged(desired) is True


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"revision": 1, "bundles": {"x": {"nonsense": 1}}}', "null"])
def test_damaged_notes_cost_nothing_but_memory(world, damage):
    """A notes file that does not parse is begun anew; the worker keeps running."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    pid = world.worker(A)["pid"]
    (world.settings.run(SERVICE) / "workers" / "notes").write_text(damage)
    world.layer.apply(desired)
    assert world.worker(A)["pid"] == pid
    assert world.converged(desired) is True


def test_a_record_with_a_reused_pid_is_not_ours(world):
    """A record that points to a stranger's process: not an endpoint, never signalled, a new worker is started."""
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    world.layer.stop_all()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        folder = world.settings.run(SERVICE) / "workers"
        record = {"bundle": A, "pid": stranger.pid, "started": "boot/1", "socket": str(folder / "s" / "x.sock")}
        (folder / f"{manifest.short(A)}.json").write_text(json.dumps(record))
        assert world.layer.endpoints() == {}
        world.layer.apply(desired)
        assert world.worker(A)["ready"]
        assert world.layer.stop_all() == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_down_ends_every_worker(world):
    """stop_all ends wanted, draining and leaving workers, forgets the notes, and says how many there were."""
    world.layer.apply(world.desired(stable=A, candidate=B, previous=C))
    world.layer.apply(world.desired(stable=D))
    pids = [facts["pid"] for facts in world.layer.observe().facts["workers"].values()]
    assert len(pids) == 4
    assert local_layer.stop_all(world.settings, SERVICE, grace_s=5) == 4
    assert [system_processes._started(pid) for pid in pids] == [None] * 4
    assert world.layer.observe().revision is None
    assert local_layer.stop_all(world.settings, SERVICE) == 0
    assert world.layer.verify(world.desired(), world.layer.observe()) is False, "nobody has taken over that revision"


def test_a_program_that_is_missing_is_told(world):
    """A worker that cannot even be started is a LayerError with the remedy."""
    layer = world.make(command=lambda *_: ["/no/such/python"], patience_s=0)
    with pytest.raises(base.LayerError, match=r"could not be started: cannot start '/no/such/python'"):
        layer.apply(world.desired(stable=A))


def test_a_busy_lock_is_a_layer_error_in_bounded_time(world, monkeypatch):
    """Somebody sits on the lock: apply gives up and says so."""
    monkeypatch.setattr(local_layer, "LOCK_WAIT_S", 0.05)
    with (
        system_processes.locked(world.settings.run(SERVICE) / "workers" / "lock", wait_s=0),
        pytest.raises(base.LayerError, match="another lastgood command is running"),
    ):
        world.layer.apply(world.desired(stable=A))


def test_cannot_tell_is_not_agreement(world):
    """An observation without workers in it is neither true nor false."""
    assert world.layer.verify(world.desired(), base.Observed(revision=1)) is None


def test_a_control_arm_is_a_second_worker_of_stable_and_goes_with_the_release(world):
    """It is another process with another socket, restarted and counted by itself; stable's own is left alone throughout."""
    world.layer.apply(world.desired(stable=A))
    own = world.worker(A)["pid"]
    control = arms.control_of(A)
    both = world.desired(stable=A, candidate=B, control=True)
    world.layer.apply(both)
    assert world.converged(both) is True
    assert set(world.layer.endpoints()) == {A, B, control}
    second = world.worker(control)
    assert second["pid"] not in (own, world.worker(B)["pid"])
    assert second["socket"] != world.worker(A)["socket"]
    os.kill(second["pid"], signal.SIGKILL)
    world.until(lambda: world.converged(both) is False)
    world.layer.apply(both)
    assert world.worker(control)["restarts"] == 1
    assert (world.worker(A)["pid"], world.worker(A)["restarts"]) == (own, 0)
    (world.settings.run(SERVICE) / "workers" / f"{manifest.short(A)}-control.json").unlink()
    world.layer.apply(both)
    assert world.worker(control)["pid"], "a lost record is written again"
    back = world.desired(stable=A)
    world.layer.apply(back)
    world.offset_s += 60
    world.layer.apply(back)
    assert set(world.layer.endpoints()) == {A}
    assert world.worker(A)["pid"] == own

"""Envoy as a process: started, adopted, restarted, found again, refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.layers import base
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.settings import Settings
from lastgood.system import processes
from tests.layers.traffic.world import SERVICE, A, B, World, load, until


def files_of(world: World) -> envoy_files.Files:
    """The files of the world's Envoy."""
    return envoy_files.files_of_service(world.settings, SERVICE)


def kill(world: World) -> None:
    """Kill -9 the world's own Envoy and wait until it is gone."""
    record = processes.read(files_of(world).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not processes.alive(record), what="envoy is dead")


def test_a_second_start_adopts_the_first(world: World) -> None:
    """Starting twice is starting once; `running` and `stop` tell what there is."""
    assert envoy.running(world.settings, SERVICE) is None
    first, second = world.start(), world.start()
    assert (first.adopted, second.adopted, first.pid) == (False, True, second.pid)
    found = envoy.running(world.settings, SERVICE)
    assert found is not None
    assert (found.pid, found.port) == (first.pid, world.port)
    assert envoy.stop(world.settings, SERVICE)
    assert not envoy.stop(world.settings, SERVICE)
    assert envoy.running(world.settings, SERVICE) is None


def test_the_stack_starts_and_stops_it_through_the_layer(world: World) -> None:
    """`start_up` and `shut_down` of the layer are start and stop; both may come twice."""
    layer = world.layer()
    layer.start_up(world.desired(0, None))
    layer.start_up(world.desired(0, None))
    assert world.get().status == 503
    layer.shut_down()
    layer.shut_down()
    assert envoy.running(world.settings, SERVICE) is None


def test_envoy_outlives_the_process_that_started_it(world: World) -> None:
    """The starter is killed with SIGKILL; requests go on without one failure."""
    world.serve(A)
    code = (
        "import sys, time; from pathlib import Path; from tests.layers.traffic.world import World\n"
        "world = World(Path(sys.argv[1])); world.port = int(sys.argv[2]); world.service = world.configured()\n"
        "world.start(); print('started', flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", code, str(world.settings.project), str(world.port)]
    starter = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"started\n"
    world.layer().apply(world.desired(1, A))
    with load(world.port, connections=2) as running:
        starter.kill()
        starter.wait()
        more = running.count() + 200
        until(lambda: running.count() >= more, what="200 more requests after the starter's death")
    starter.stdout.close()
    assert running.failed == []
    assert envoy.running(world.settings, SERVICE) is not None


def test_a_taken_port_is_named(world: World) -> None:
    """A port that another program has is a usage error that says which and what to do; nothing is left running."""
    told = pytest.raises(errors.UsageError, match=rf"port {world.port} is in use .* traffic.port")
    with socket.create_server(("127.0.0.1", world.port)), told:
        world.start()
    assert envoy.running(world.settings, SERVICE) is None
    assert world.start().port == world.port


def test_nobody_can_share_its_port(world: World) -> None:
    """While Envoy runs, a program that asks to share the port is refused; by default it would get every other request."""
    world.start()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", world.port))


def test_another_port_in_the_configuration_is_not_ignored(world: World) -> None:
    """Envoy keeps its listener while it runs; a changed port asks for down and up."""
    world.start()
    other = world.service.model_copy(update={"traffic": world.service.traffic.model_copy(update={"port": 1})})
    with pytest.raises(errors.UsageError, match="lastgood down"):
        envoy.start(world.settings, SERVICE, other)


def test_it_serves_the_same_again_without_ledger_or_configuration(world: World) -> None:
    """Killed and started from its own files alone, Envoy serves the last revision."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(4, B, previous=A))
    kill(world)
    again = envoy.start_if_down(world.settings, SERVICE)
    assert not again.adopted
    assert not again.restored
    until(lambda: world.get().status == 200, what="the worker passed the health check")
    assert (world.get().bundle, world.get().revision) == (B.id, 4)
    assert envoy.start_if_down(world.settings, SERVICE).adopted


def test_what_was_never_started_cannot_be_started_again(world: World) -> None:
    """Without files there is nothing to start from, and apply does not start what nobody has started."""
    with pytest.raises(base.LayerError, match="lastgood up"):
        envoy.start_if_down(world.settings, SERVICE)
    world.serve(A)
    with pytest.raises(base.LayerError, match="lastgood up"):
        world.layer().apply(world.desired(1, A))


def test_apply_starts_a_crashed_envoy_again(world: World) -> None:
    """After kill -9 the next apply brings it back with the new revision; observe meanwhile cannot tell."""
    world.serve(A, B)
    world.start()
    layer = world.layer()
    layer.apply(world.desired(1, A))
    kill(world)
    assert layer.observe().revision is None
    layer.apply(world.desired(2, B))
    assert (world.get().bundle, world.get().revision) == (B.id, 2)


def test_a_stranger_with_the_same_pid_is_left_alone(world: World) -> None:
    """The record names a live process that is not ours: it is neither adopted nor signalled."""
    world.start()
    assert envoy.stop(world.settings, SERVICE)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        processes.write(files_of(world).record, processes.Record(pid=stranger.pid, started="another boot/1", facts={"port": world.port}))
        assert envoy.running(world.settings, SERVICE) is None
        assert not envoy.stop(world.settings, SERVICE)
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_lost_record_is_no_second_envoy(world: World) -> None:
    """The record was deleted: the running Envoy is found all the same."""
    if sys.platform != "linux":
        pytest.skip("processes are found by their environment on Linux only")
    first = world.start()
    files_of(world).record.unlink()
    assert world.start().pid == first.pid
    assert envoy.stop(world.settings, SERVICE)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version_info":"9-0123456789abcdef","resources":[]}', None])
def test_damaged_routes_are_never_loaded(world: World, damage: bytes | None) -> None:
    """Empty, cut, forged or missing routes on disk: the kept copy serves instead, and start says so."""
    world.serve(A)
    world.start()
    world.layer().apply(world.desired(5, A))
    assert envoy.stop(world.settings, SERVICE)
    routes = files_of(world).routes
    routes.unlink() if damage is None else routes.write_bytes(damage)
    assert world.start().restored
    until(lambda: world.get().status == 200, what="the worker passed the health check")
    assert (world.get().bundle, world.get().revision) == (A.id, 5)


def test_with_both_copies_damaged_it_refuses_to_start(world: World) -> None:
    """Nothing on disk can be trusted: an error with the remedy, and no Envoy that answers 404."""
    world.serve(A)
    world.start()
    world.layer().apply(world.desired(5, A))
    assert envoy.stop(world.settings, SERVICE)
    value = json.loads(files_of(world).kept.read_bytes())
    value["routes"]["resources"][0]["virtual_hosts"] = []
    for path in (files_of(world).routes, files_of(world).kept):
        path.write_text(json.dumps(value))
    with pytest.raises(errors.Damaged, match="move that folder away"):
        world.start()
    assert envoy.running(world.settings, SERVICE) is None


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    """A socket path that the kernel would refuse moves to a private folder under the temp dir, and is found again."""
    world = World(tmp_path / ("x" * 90))
    world.settings.project.mkdir()
    try:
        world.serve(A)
        running = world.start()
        assert len(os.fsencode(running.admin)) <= 100
        assert running.admin.parent.stat().st_mode & 0o777 == 0o700
        world.layer().apply(world.desired(1, A))
        assert world.layer().observe().revision == 1
        folder = running.admin.parent
    finally:
        world.close()
    folder.rmdir()


def test_the_emergency_path_stays_light() -> None:
    """Importing the layer loads none of the heavy libraries: `lastgood rollback` imports it."""
    code = "import sys, lastgood.layers.traffic.envoy; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    ).stdout.split()
    heavy = {"dagster", "mlflow", "numpy", "pandas", "fastapi", "httpx", "sqlalchemy", "envoy", "requests", "asyncio"}
    assert not heavy & set(loaded)


def test_settings_name_the_folder(tmp_path: Path) -> None:
    """Everything of one Envoy stays below its folder in the home."""
    files = envoy_files.files_of_service(Settings(project=tmp_path, home=tmp_path), SERVICE)
    for path in (files.bootstrap, files.routes, files.clusters, files.kept, files.log, files.access_log, files.ejections, files.lock):
        assert files.root in path.parents

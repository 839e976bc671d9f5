"""What happens between two writes, on a full disk, and when Envoy says no."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lastgood.bundle.manifest import Bundle
from lastgood.layers import base, housekeeping
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.system import failpoints
from tests import timing
from tests.layers.traffic.world import SERVICE, A, B, C, World, load, until

PLACES = ("traffic.before_cds", "traffic.after_cds", "traffic.before_rds", "traffic.after_rds")


def apply_elsewhere(world: World, revision: int, *, fault: str, **aliases: Bundle | None) -> subprocess.CompletedProcess[str]:
    """Apply in a process of its own with *fault* armed."""
    asked = {
        "folder": str(world.settings.project),
        "port": world.port,
        "revision": revision,
        "ready": {digest: [(place.host, place.port) for place in places] for digest, places in world.ready.items()},
        "aliases": {alias: bundle.id if bundle else None for alias, bundle in aliases.items()},
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.layers.traffic.applier", json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, failpoints.VARIABLE: fault},
    )


@pytest.fixture
def serving(world: World) -> World:
    """A serves at revision 1; B has a worker as well."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(1, A))
    return world


@pytest.mark.parametrize("place", PLACES)
def test_killed_between_two_writes(serving: World, place: str) -> None:
    """SIGKILL at each place: meanwhile old or new is served whole, Envoy restarts from what is on disk, a retry converges."""
    with load(serving.port, connections=2) as running:
        done = apply_elsewhere(serving, 2, fault=f"{place}=kill", stable=B, previous=A)
        assert done.returncode == -signal.SIGKILL, done.stderr
        served = serving.get()
        assert (served.bundle, served.revision) in {(A.id, 1), (B.id, 2)}
    assert running.failed == []
    assert envoy.stop(serving.settings, SERVICE)
    serving.start()
    until(lambda: serving.get().status == 200, what="workers passed the health check")
    again = serving.get()
    assert again.revision >= served.revision
    assert again.bundle == {1: A.id, 2: B.id}[again.revision]
    wanted = serving.desired(2, B, previous=A)
    layer = serving.layer()
    layer.apply(wanted)
    assert layer.verify(wanted, layer.observe()) is True
    assert (serving.get().bundle, serving.get().revision) == (B.id, 2)


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_moves_nothing_and_passes(serving: World, place: str) -> None:
    """ENOSPC is a retryable LayerError; what serves keeps serving, and with room again the retry is enough."""
    wanted = serving.desired(2, B, previous=A)
    layer = serving.layer()
    with failpoints.armed(f"{place}=raise:ENOSPC"), pytest.raises(base.LayerError, match="free some space") as caught:
        layer.apply(wanted)
    assert caught.value.retryable
    assert serving.get().status == 200
    layer.apply(wanted)
    assert layer.verify(wanted, layer.observe()) is True
    assert serving.get().bundle == B.id


def test_routes_that_envoy_refuses(serving: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the generator sends traffic to a cluster that is not there, and Envoy says no.

    Its reason is in the error, the old routes are back on disk and keep serving, the next good revision goes through.
    """
    made = envoy_config.routes

    def broken(desired: base.Desired, **more: Any) -> dict[str, Any]:
        value = made(desired, **more)
        value["virtual_hosts"][0]["routes"][-1]["route"]["weighted_clusters"]["clusters"][0]["name"] = "nosuch"
        return value

    files = envoy_files.files_of_service(serving.settings, SERVICE)
    before = files.routes.read_bytes()
    layer = serving.layer()
    with load(serving.port, connections=2) as running:
        with monkeypatch.context() as patched:
            patched.setattr(envoy_config, "routes", broken)
            with pytest.raises(base.Rejected, match="unknown weighted cluster 'nosuch'") as caught:
                layer.apply(serving.desired(2, B, previous=A))
        assert not caught.value.retryable
        assert files.routes.read_bytes() == before
        assert (serving.get().bundle, serving.get().revision) == (A.id, 1)
        layer.apply(serving.desired(3, B, previous=A))
        assert (serving.get().bundle, serving.get().revision) == (B.id, 3)
    assert running.failed == []


def test_routes_of_a_new_shape_are_tried_out_first(serving: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs in more than names and weights is checked by a second Envoy; the serving one never sees a bad one."""
    made = envoy_config.routes

    def broken(desired: base.Desired, **more: Any) -> dict[str, Any]:
        value = made(desired, **more)
        value["virtual_hosts"][0]["routes"][-1]["route"]["timeout"] = "soon"
        return value

    monkeypatch.setattr(envoy_config, "routes", broken)
    files = envoy_files.files_of_service(serving.settings, SERVICE)
    before = files.routes.stat().st_mtime_ns, files.clusters.stat().st_mtime_ns
    with pytest.raises(base.Rejected, match="soon"):
        serving.layer().apply(serving.desired(2, A))
    assert (files.routes.stat().st_mtime_ns, files.clusters.stat().st_mtime_ns) == before
    assert serving.get().revision == 1


def test_a_cluster_that_envoy_refuses(serving: World) -> None:
    """A worker address that is no IP address: refused with Envoy's reason, nothing moves, the old clusters are back."""
    files = envoy_files.files_of_service(serving.settings, SERVICE)
    before = files.read_clusters()
    serving.ready[C.id] = (base.Endpoint("worker.invalid", 80),)
    layer = serving.layer()
    with pytest.raises(base.Rejected, match=r"worker\.invalid"):
        layer.apply(serving.desired(2, C, previous=A))
    assert files.read_clusters() == before
    assert (serving.get().bundle, serving.get().revision) == (A.id, 1)
    layer.apply(serving.desired(3, B, previous=A))
    assert serving.get().bundle == B.id


def test_foreign_writes_to_the_clusters_are_put_back(serving: World) -> None:
    """Somebody empties the list of clusters, which Envoy takes over: seen, and mended by the same revision."""
    wanted = serving.desired(1, A)
    layer = serving.layer()
    files = envoy_files.files_of_service(serving.settings, SERVICE)
    envoy_files.write(files.clusters, b'{"version_info":"x","resources":[]}')
    until(lambda: not layer.observe().facts["clusters"], what="envoy has taken the empty list")
    assert serving.get().status == 503
    assert layer.verify(wanted, layer.observe()) is False
    layer.apply(wanted)
    until(lambda: layer.verify(wanted, layer.observe()), what="the layer agrees")
    assert serving.get().bundle == A.id


def test_an_envoy_that_was_stopped_by_a_signal_is_told_and_replaced(serving: World) -> None:
    """Nothing is known of what it serves, and it is said why; it holds the port and answers nobody, so the next step starts another one."""
    running = envoy.running(serving.settings, SERVICE)
    assert running is not None
    timing.freeze(running.pid)
    layer = serving.layer()
    observed = layer.observe()
    assert "stopped by a signal" in observed.facts["trouble"]
    assert layer.verify(serving.desired(1, A), observed) is None
    serving.layer().apply(serving.desired(2, B))
    again = envoy.running(serving.settings, SERVICE)
    assert again is not None
    assert again.pid != running.pid
    assert serving.get().bundle == B.id


def test_logs_are_put_aside_while_nothing_is_released(serving: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request log cannot fill the disk: past the limit it is renamed and Envoy opens a new one, also one who was killed before."""
    files = envoy_files.files_of_service(serving.settings, SERVICE)
    serving.get("/before")
    until(lambda: "/before" in files.access_log.read_text(), what="the log is flushed")
    monkeypatch.setattr(envoy_logs, "FULL_BYTES", 10)
    housekeeping.sweep(serving.settings, SERVICE, now=time.time())
    monkeypatch.undo()
    assert "/before" in files.access_log.with_name("access.log.1").read_text()
    until(files.access_log.exists, what="Envoy has opened a new one")
    os.replace(files.access_log, files.access_log.with_name("access.log.1"))  # and was killed before telling Envoy
    housekeeping.sweep(serving.settings, SERVICE, now=time.time())
    serving.get("/after")
    until(lambda: files.access_log.exists() and "/after" in files.access_log.read_text(), what="the new log is written")
    line = json.loads(files.access_log.read_text().splitlines()[-1])
    assert (line["bundle"], line["arm"], line["revision"], line["code"]) == (A.id, "stable", "1", 200)

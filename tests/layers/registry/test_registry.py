"""The MLflow mirror, on a real MLflow database."""

import contextlib
import errno
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time

import pytest

from lastgood import settings, testing
from lastgood.conformance import layers
from lastgood.layers import base, mlflow_base, registry
from lastgood.settings import Settings
from lastgood.system import processes
from tests.layers.registry.conftest import SERVICE, A, B, C, make_bundle, make_desired


def test_aliases_and_versions_mirror_the_ledger(world):
    """Each named bundle has one version with its parts and manifest in tags; the aliases point to them."""
    desired = make_desired(3, stable=A, candidate=B, previous=C)
    world.layer.apply(desired)
    assert world.aliases() == {"stable": A.id, "candidate": B.id, "previous": C.id}
    observed = world.layer.observe()
    assert observed.revision == 3
    assert observed.facts["aliases"] == desired.aliases
    assert world.layer.verify(desired, observed) is True
    version = world.client.get_model_version_by_alias(SERVICE, "stable")
    assert version.tags["lastgood.part.model"] == A.parts["model"].digest
    assert json.loads(version.tags["lastgood.manifest"]) == A.manifest()
    assert version.source == f"lastgood://bundle/{A.id}"
    assert "| model |" in version.description


def test_applying_again_creates_nothing(world):
    """Same state, other revision, other object, rollback to a known bundle: never a second version."""
    world.layer.apply(make_desired(1, stable=A))
    world.make().apply(make_desired(1, stable=A))
    world.make().apply(make_desired(2, stable=B, previous=A))
    world.layer.apply(make_desired(3, stable=A))
    assert [version.tags["lastgood.bundle"] for version in world.versions()] == [A.id, B.id]


def test_an_alias_that_is_no_longer_set_is_removed(world):
    """After the cut-over there is no candidate."""
    world.layer.apply(make_desired(1, stable=A, candidate=B))
    world.layer.apply(make_desired(2, stable=B, previous=A))
    assert world.aliases() == {"stable": B.id, "previous": A.id}


def test_edits_by_hand_are_put_back(world):
    """A moved alias, a deleted alias, an added one, a deleted version, a changed tag: seen, and put back."""
    desired = make_desired(4, stable=A, previous=B)
    world.layer.apply(desired)
    number = {alias: str(n) for alias, n in world.client.get_registered_model(SERVICE).aliases.items()}
    edits = [
        lambda: world.client.set_registered_model_alias(SERVICE, "stable", number["previous"]),
        lambda: world.client.delete_registered_model_alias(SERVICE, "stable"),
        lambda: world.client.set_registered_model_alias(SERVICE, "candidate", number["previous"]),
        lambda: world.client.delete_model_version(SERVICE, number["previous"]),
        lambda: world.client.set_model_version_tag(SERVICE, number["stable"], "lastgood.bundle", "mine"),
        lambda: world.client.delete_registered_model(SERVICE),
    ]
    for edit in edits:
        edit()
        assert world.layer.verify(desired, world.layer.observe()) is False
        world.layer.apply(desired)
        assert world.layer.verify(desired, world.layer.observe()) is True
        assert world.aliases() == {"stable": A.id, "previous": B.id}


def test_a_foreign_version_is_named_so(world):
    """Somebody registers a version of their own and calls it stable."""
    desired = make_desired(1, stable=A)
    world.layer.apply(desired)
    theirs = world.client.create_model_version(SERVICE, "file:///theirs", await_creation_for=0)
    world.client.set_registered_model_alias(SERVICE, "stable", theirs.version)
    observed = world.layer.observe()
    assert observed.facts["aliases"] == {"stable": "foreign"}
    assert world.layer.verify(desired, observed) is False


def test_what_is_not_ours_is_left_alone(world):
    """Aliases and versions of other people survive every apply."""
    world.layer.apply(make_desired(1, stable=A))
    theirs = world.client.create_model_version(SERVICE, "file:///theirs", await_creation_for=0)
    for alias in ("champion", "Stable"):
        world.client.set_registered_model_alias(SERVICE, alias, theirs.version)
    world.layer.apply(make_desired(2, stable=B, previous=A))
    world.layer.apply(make_desired(3))
    assert world.aliases() == {"champion": None, "Stable": None}
    assert str(theirs.version) in {str(version.version) for version in world.versions()}


def test_the_revision_never_decreases(world):
    """A late call with an older state changes nothing, and its state does not verify."""
    world.layer.apply(make_desired(7, stable=A))
    stale = make_desired(6, stable=B)
    world.make().apply(stale)
    assert world.aliases() == {"stable": A.id}
    observed = world.layer.observe()
    assert observed.revision == 7
    assert world.layer.verify(stale, observed) is False


def test_cannot_tell_is_not_agreement(world):
    """An observation without aliases in it is neither true nor false."""
    assert world.layer.verify(make_desired(1), base.Observed(revision=1)) is None


def test_the_training_run_is_linked(world):
    """The version belongs to the run its model part names, else to the newest run tagged with the model's digest."""
    runs = [world.client.create_run("0", start_time=start).info.run_id for start in (1, 2, 3)]
    named = make_bundle(10, mlflow_run_id=runs[0], mlflow_model_id="m-1", mlflow_model_version="4")
    tagged, gone, alone = make_bundle(11), make_bundle(12, mlflow_run_id="0" * 32), make_bundle(13)
    for run in runs[1:]:
        world.client.set_tag(run, "lastgood.part.model", tagged.parts["model"].digest)
    for bundle, run in ((named, runs[0]), (tagged, runs[2]), (gone, ""), (alone, "")):
        number = registry.register_bundle(world.settings, bundle)
        assert (world.client.get_model_version(SERVICE, number).run_id or "") == run
    tags = world.client.get_model_version(SERVICE, "1").tags
    assert (tags["lastgood.mlflow_model_id"], tags["lastgood.mlflow_model_version"]) == ("m-1", "4")


def test_a_built_bundle_is_shown_before_it_is_promoted(world):
    """register_bundle makes the version that a later promotion uses, with tags of the caller, and no alias."""
    number = registry.register_bundle(world.settings, A, tags={"dagster": "run 1"})
    assert registry.register_bundle(world.settings, A, tags={"dagster": "run 2"}) == number
    assert world.client.get_model_version(SERVICE, number).tags["dagster"] == "run 2"
    assert world.aliases() == {}
    world.layer.apply(make_desired(1, stable=A))
    assert [str(version.version) for version in world.versions()] == [number]


def test_many_who_apply_at_once_make_no_duplicates(world):
    """The controller and commands apply at the same moment: one version per bundle, the newest state wins."""
    desired = [make_desired(n, stable=(A, B)[n % 2], previous=(B, A)[n % 2]) for n in range(1, 5)]
    raised = []

    def work(layer, wanted):
        try:
            layer.apply(wanted)
        except base.LayerError as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(world.make(timeout_s=60), wanted)) for wanted in desired]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert sorted(version.tags["lastgood.bundle"] for version in world.versions()) == sorted([A.id, B.id])
    assert world.layer.verify(desired[-1], world.layer.observe()) is True


def test_a_duplicate_of_another_machine_is_not_kept(world, monkeypatch):
    """Two machines (no common lock) create the same version at once: the younger one removes its own."""
    world.layer.apply(make_desired(1))
    other = world.make()
    search, first = registry.Registry._find_version, []

    def late(self, client, digest):
        found = search(self, client, digest)
        if not first:
            first.append(other._version(client, digest, A) if found is None and first.append(None) is None else None)
        return found

    monkeypatch.setattr(registry.Registry, "_find_version", late)
    world.layer.apply(make_desired(2, stable=A))
    assert [str(version.version) for version in world.versions()] == [str(first[-1].version)]
    assert world.aliases() == {"stable": A.id}


def test_without_a_database_looking_creates_none(tmp_path):
    """Observe of a home where MLflow was never used is empty and writes nothing."""
    layer = registry.build(Settings(project=tmp_path, home=tmp_path / "home"), SERVICE)
    observed = layer.observe()
    assert observed.revision is None
    assert layer.verify(make_desired(1), observed) is False
    assert not (tmp_path / "home").exists()


@contextlib.contextmanager
def exclusive(db):
    """Hold MLflow's file so that nobody else can read or write it."""
    connection = sqlite3.connect(db)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def test_a_locked_database_is_told_and_recovers(world, monkeypatch):
    """Somebody holds the file: LayerError that says locked, and the next apply works."""
    monkeypatch.setattr(mlflow_base, "BUSY_S", 0.1)
    world.layer.apply(make_desired(1, stable=A))
    with exclusive(world.db):
        for call in (world.layer.observe, lambda: world.layer.apply(make_desired(2, stable=B))):
            with pytest.raises(base.LayerError, match="database is locked"):
                call()
    world.layer.apply(make_desired(2, stable=B))
    assert world.aliases() == {"stable": B.id}


def test_a_damaged_database_is_told_at_once(world):
    """A file that is no database is told without MLflow's ten attempts, and not touched."""
    world.db.write_bytes(b"no database at all" * 100)
    layer = world.make()
    with pytest.raises(base.LayerError, match="file is not a database"):
        layer.apply(make_desired(1, stable=A))
    assert world.db.read_bytes().startswith(b"no database")


def test_a_replaced_database_is_noticed(world, mlflow_template):
    """Writing into the deleted old file would look like success; it is told instead."""
    world.layer.apply(make_desired(1, stable=A))
    fresh = world.db.with_name("fresh.db")
    fresh.write_bytes(mlflow_template.read_bytes())
    fresh.replace(world.db)
    with pytest.raises(base.LayerError, match="was replaced while in use"):
        world.layer.apply(make_desired(2, stable=B))


def at(uri, tmp_path, **kwargs):
    """A layer that talks to the MLflow server at *uri*."""
    home = Settings(project=tmp_path, home=tmp_path / "home", registry=settings.RegistrySettings(tracking_uri=uri))
    return registry.Registry(home, SERVICE, **kwargs)


def test_a_server_that_is_down_is_a_layer_error(tmp_path, monkeypatch):
    """Nobody listens: LayerError, and it may be tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        layer = at(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
        for call in (layer.observe, lambda: layer.apply(make_desired(1, stable=A))):
            with pytest.raises(base.LayerError, match="cannot be used") as caught:
                call()
            assert caught.value.retryable


def test_a_server_that_never_answers_holds_nobody_up(tmp_path):
    """It accepts and is silent: the caller gets a LayerError after its time, and at once while that call still waits."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        layer = at(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, timeout_s=0.3)
        with pytest.raises(base.LayerError, match=r"has not answered within 0\.3 s"):
            layer.apply(make_desired(1, stable=A))
        with pytest.raises(base.LayerError, match="has still not answered"):
            layer.observe()


def test_through_a_real_server(world, tmp_path):
    """The same over HTTP: versions, aliases, deletion, revision; then the server dies and is told."""
    server = "import sys\nfrom mlflow.server import app\nimport werkzeug.serving as w\nw.run_simple('127.0.0.1', int(sys.argv[1]), app, threaded=True)"
    port = testing.free_port()
    uri = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "_MLFLOW_SERVER_FILE_STORE": world.settings.tracking_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": world.settings.tracking_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
    }
    record = processes.start([sys.executable, "-c", server, str(port)], record=tmp_path / "s.json", log=tmp_path / "s.log", env=env)
    try:
        end = time.monotonic() + 90
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert processes.alive(record), (tmp_path / "s.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        layer = at(uri, tmp_path)
        layer.apply(make_desired(1, stable=A, candidate=B))
        desired = make_desired(2, stable=B, previous=A)
        layer.apply(desired)
        assert layer.verify(desired, layer.observe()) is True
        assert world.aliases() == {"stable": B.id, "previous": A.id}
    finally:
        os.kill(record.pid, signal.SIGKILL)
    processes.stop(record, grace_s=1)
    with pytest.raises(base.LayerError, match="cannot be used"):
        layer.apply(make_desired(3, stable=A))


def test_cut_off_at_any_write_the_next_apply_completes_it(world, monkeypatch):
    """The first, second, … write to MLflow fails, until none is left to fail: each time the next apply mends it."""
    from mlflow import MlflowClient

    writes = ("create_model_version", "set_registered_model_alias", "delete_registered_model_alias", "set_registered_model_tag")
    countdown = [0]

    def failing(method):
        def call(*args, **kwargs):
            countdown[0] -= 1
            if countdown[0] == 0:
                raise OSError(errno.EIO, "the disk failed")
            return method(*args, **kwargs)

        return call

    for name in writes:
        monkeypatch.setattr(MlflowClient, name, failing(getattr(MlflowClient, name)))
    revision, cut = 1, 0
    while True:
        cut += 1
        world.layer.apply(make_desired(revision, stable=A, candidate=C))
        desired = make_desired(revision + 1, stable=make_bundle(100 + cut), previous=A)
        revision += 2
        countdown[0] = cut
        error = layers.fails(lambda wanted=desired: world.layer.apply(wanted))
        countdown[0] = 0
        if error is None:
            break
        assert "the disk failed" in str(error)
        assert world.layer.verify(desired, world.layer.observe()) is False
        world.layer.apply(desired)
        assert world.layer.verify(desired, world.layer.observe()) is True
    assert cut == 6, "a new version, two aliases set, one deleted, the revision"
    tags = [version.tags["lastgood.bundle"] for version in world.versions()]
    assert len(tags) == len(set(tags))

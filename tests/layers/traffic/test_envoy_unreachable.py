"""An Envoy that runs and that nobody reaches: told, and healed by whatever looks next, with the requests answered again."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastgood.layers import reconcile
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.system import processes
from tests.layers.traffic.world import SERVICE, A, B, World, until


def _files(world: World) -> envoy_files.Files:
    return envoy_files.files_of_service(world.settings, SERVICE)


@pytest.fixture(params=["short home", "long home"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Bundle A serves revision 1; bundle B has a worker too. The admin socket is in the home, or in a folder of temporary files."""
    world = World(tmp_path / ("x" * (90 if request.param == "long home" else 1)))
    world.settings.project.mkdir()
    try:
        world.serve(A)
        world.serve(B)
        world.start()
        world.layer().apply(world.desired(1, A))
        yield world
    finally:
        world.close()
        if _files(world).admin.parent != _files(world).root:
            shutil.rmtree(_files(world).admin.parent, ignore_errors=True)


def _tidy(world: World) -> None:
    """Take away the whole folder where it is one of temporary files, else the socket."""
    folder = _files(world).admin.parent
    if folder == _files(world).root:
        _files(world).admin.unlink()
    else:
        shutil.rmtree(folder)


def _only_the_socket(world: World) -> None:
    _files(world).admin.unlink()


def _nobody_listens(world: World) -> None:
    """A socket file that was put back from a copy, say."""
    import socket

    _files(world).admin.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(_files(world).admin))


LOST: dict[str, Callable[[World], None]] = {"tidied up": _tidy, "socket": _only_the_socket, "nobody listens": _nobody_listens}


@pytest.mark.parametrize("lost", LOST)
def test_it_is_told_and_healed_by_the_next_look(served: World, lost: str) -> None:
    """Looking alone says what is wrong and touches nothing; the controller's look heals, and a rollback moves traffic again."""
    LOST[lost](served)
    before = envoy.running(served.settings, SERVICE)
    assert before is not None
    assert served.get().status == 200
    told = reconcile.observe_layer(served.layer(), served.desired(1, A))
    assert told.status == "unknown"
    assert "admin socket" in told.detail
    assert "lastgood up" in told.detail
    assert envoy.running(served.settings, SERVICE) == before
    healed = reconcile.attempt(served.layer(), served.desired(2, B))
    assert (healed.status, healed.observed_revision) == ("converged", 2)
    assert served.get().status == 200
    assert served.get().bundle == B.id


@pytest.mark.parametrize("lost", LOST)
def test_up_says_up_only_of_what_it_has_reached(served: World, lost: str) -> None:
    """A second start does not adopt one that it cannot reach."""
    LOST[lost](served)
    again = served.start()
    assert not again.adopted
    assert served.layer().observe().revision == 1
    assert served.get().status == 200


def test_it_starts_again_after_a_crash_with_the_folder_gone(served: World) -> None:
    """What it was started with names a folder that is not there any more."""
    record = processes.read(_files(served).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not processes.alive(record), what="envoy is dead")
    if _files(served).admin.parent != _files(served).root:
        shutil.rmtree(_files(served).admin.parent)
    assert envoy.start_if_down(served.settings, SERVICE).adopted is False
    assert served.layer().observe().revision == 1


def test_a_lost_note_of_the_place_costs_no_restart(served: World) -> None:
    """Envoy's own configuration names the socket too."""
    (_files(served).root / "admin.path").unlink(missing_ok=True)
    before = envoy.running(served.settings, SERVICE)
    served.layer().apply(served.desired(2, B))
    after = envoy.running(served.settings, SERVICE)
    assert before is not None
    assert after is not None
    assert before.pid == after.pid
    assert served.layer().observe().revision == 2


def test_looks_keep_a_socket_among_temporary_files_young(served: World) -> None:
    """Whoever tidies up by age finds it as young as the last look."""
    admin = _files(served).admin
    for path in (admin, admin.parent):
        os.utime(path, (1, 1))
    served.layer().observe()
    young = admin.stat().st_mtime > 1
    assert young == (admin.parent != _files(served).root)

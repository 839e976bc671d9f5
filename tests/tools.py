"""Programs that no Python package brings: the suite runs without them, and the tests that drive one say how to get it.

`bare_path` makes a PATH of what a bare Debian has, and the whole session runs with it (conftest.py): a test that needs
anything else without asking `find` fails here as it would on a fresh machine, also where the program is installed.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

REMEDIES = {
    "git": "apt-get install git",
    "prometheus": "apt-get install prometheus",
    "strace": "apt-get install strace",
}
"""What tests may ask for, and the one command that brings it."""

WHOLE_PATH = os.environ.get("LASTGOOD_TEST_WHOLE_PATH", os.environ.get("PATH", os.defpath))
"""The PATH that the session was started with."""


def find(name: str) -> str:
    """The program *name* of REMEDIES; skips the test with the command that brings it where it is not installed."""
    found = where(name)
    if found is None:
        pytest.skip(f"{name} is not installed; to run this test: {REMEDIES[name]}")
    return found


def where(name: str) -> str | None:
    """The program *name* of REMEDIES; None where it is not installed, for tests that do without."""
    assert name in REMEDIES, f"say in REMEDIES how to get {name!r}"
    return shutil.which(name, path=WHOLE_PATH)


def bare_path(folder: Path, *, python: Path | None = None) -> str:
    """A PATH with the programs of a bare Debian, linked into *folder*, and *python* as `python3`.

    Where the system is not Debian, or its list cannot be read, only the programs that POSIX names are linked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in _essential() or _posix():
        (folder / path.name).symlink_to(path)
    if python is not None:
        (folder / "python3").unlink(missing_ok=True)
        (folder / "python3").symlink_to(python)
    return str(folder)


def session_path(folder: Path) -> str:
    """What tests run with: the programs beside this interpreter, then a bare Debian's."""
    return f"{Path(sys.executable).parent}{os.pathsep}{bare_path(folder)}"


@functools.cache
def _essential() -> tuple[Path, ...]:
    """The programs of the packages that every Debian has (essential, or of priority required); none where there is no dpkg."""
    if shutil.which("dpkg-query", path=WHOLE_PATH) is None:
        return ()
    told = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Essential}${Priority} ${binary:Package}\n"], capture_output=True, text=True, check=False
    )
    packages = [
        name
        for flag, _, name in (line.partition(" ") for line in told.stdout.splitlines())
        if flag.startswith("yes") or flag.endswith("required")
    ]
    if not packages:
        return ()
    files = subprocess.run(["dpkg-query", "--listfiles", *packages], capture_output=True, text=True, check=False)
    listed = {Path(line).name for line in files.stdout.splitlines() if "/bin/" in line or "/sbin/" in line}
    return _present(listed | {"sh", "awk", "which"})  # names that are links of the alternatives


def _posix() -> tuple[Path, ...]:
    names = "awk basename cat chmod chown cmp cp cut date dd df diff dirname env expr false find getconf grep head id kill ln"
    names += " ls mkdir mkfifo mv nice nohup od paste printf ps pwd readlink rm rmdir sed sh sleep sort stat tail tee test touch tr true uname uniq wc xargs"
    return _present(names.split())


def _present(names: Iterable[str]) -> tuple[Path, ...]:
    found = (shutil.which(name, path=WHOLE_PATH) for name in sorted(names))
    return tuple(Path(path) for path in found if path is not None)

"""The environment part: the locked packages and the interpreter that a bundle was built for.

It is a description, not a container: lastgood does not rebuild an environment, it reports when the one it runs in
differs. What does not belong here: judging a difference (the worker reports it, a person or gate judges).
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest

SCHEMA = "lastgood.environment/v1"
FILE = "environment.json"


def describe(lock: Path) -> dict[str, Any]:
    """This interpreter and the digest of the lock file *lock*, as plain JSON. Raises NotFound if there is no lock file."""
    try:
        locked = lock.read_bytes()
    except FileNotFoundError as error:
        raise errors.NotFound(f"lock file {lock} is missing; restore it from version control") from error
    return {
        "schema": SCHEMA,
        "lock": manifest.sha256(locked),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": sys.platform,
        "machine": platform.machine(),
    }


def encode(described: Mapping[str, Any]) -> bytes:
    """The bytes of the environment part, equal for equal descriptions."""
    return manifest.canonical(dict(described))


def read(file: Path) -> dict[str, Any]:
    """The description in *file*. Raises Damaged if it is not valid."""
    try:
        found = json.loads(file.read_bytes())
        if found["schema"] != SCHEMA or not all(isinstance(value, str) for value in found.values()):
            raise ValueError(f"expected strings and schema {SCHEMA!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.Damaged(f"{file} does not describe an environment: {error}; build the bundle again") from error
    return dict(found)


def differences(recorded: Mapping[str, Any], running: Mapping[str, Any]) -> list[str]:
    """Differences that may change results, as text: locked packages, interpreter, its minor version, platform, machine."""
    found = []
    if recorded.get("lock") != running.get("lock"):
        found.append(f"locked packages: built for {_short(recorded)}, running {_short(running)}")
    if _minor(recorded) != _minor(running):
        found.append(f"python: built for {recorded.get('python')}, running {running.get('python')}")
    rest = ("implementation", "platform", "machine")
    found += [f"{key}: built for {recorded.get(key)}, running {running.get(key)}" for key in rest if recorded.get(key) != running.get(key)]
    return found


def _short(described: Mapping[str, Any]) -> str:
    return manifest.short(str(described.get("lock")))


def _minor(described: Mapping[str, Any]) -> str:
    return ".".join(str(described.get("python")).split(".")[:2])

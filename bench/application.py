"""The application itself, Dagster's folders and all, in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("assets", "demos", "pipelines", "sensors", "services")
FILES = ("dagster.yaml", "dvc.lock", "dvc.yaml", "lastgood.toml", "params.yaml", "requirements.lock", "workspace.yaml")


def copy(to: Path) -> None:
    """Copy it into the new folder *to*; none of its generated files are included."""
    to.mkdir()
    for name in PARTS:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, to / name)
    shutil.copytree(ROOT / ".dvc", to / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))

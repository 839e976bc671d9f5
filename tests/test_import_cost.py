"""A rollback at three in the morning waits for no heavy library: what these modules load is counted in a fresh Python."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HEAVY = {
    "dagster", "dvc", "evidently", "fastapi", "great_expectations", "matplotlib", "mlflow", "numpy",
    "pandas", "pyarrow", "scipy", "sklearn", "skops", "sqlalchemy",
}  # fmt: skip

LIGHT = [
    "lastgood.errors",
    "lastgood.settings",
    "lastgood.bundle.manifest",
    "lastgood.bundle.store",
    "lastgood.service.schema",
    "lastgood.service.frozen",
    "lastgood.core.transitions",
    "lastgood.ledger",
    "lastgood.layers.base",
    "lastgood.layers.reconcile",
    "lastgood.release",
    "lastgood.release.convergence",
    "lastgood.cli",
    "lastgood.cli.release",
]

COUNT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{name.partition('.')[0] for name in sys.modules})
"""


def _loaded(*modules: str) -> set[str]:
    command = [sys.executable, "-c", COUNT, *modules]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return set(subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100).stdout.split())


def test_the_emergency_path_loads_nothing_heavy():
    """Importing all modules that a rollback runs through loads none of the heavy libraries."""
    assert _loaded(*LIGHT) & HEAVY == set()


def test_the_names_are_real():
    """A heavy library that is not installed, or misspelt above, would make the test before this one pass for nothing."""
    assert [name for name in sorted(HEAVY) if not importlib.util.find_spec(name)] == []

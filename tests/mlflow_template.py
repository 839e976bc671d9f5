"""An empty MLflow database, made once and copied per test: MLflow takes seconds to make one.

Use it by importing the fixtures `mlflow_template` and `mlflow_db` in a conftest.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = "import sys\nfrom mlflow import MlflowClient\nMlflowClient(sys.argv[1], sys.argv[1]).search_registered_models()"


@pytest.fixture(scope="session")
def mlflow_template(request: pytest.FixtureRequest) -> Path:
    """An SQLite file with MLflow's tables and nothing in them; kept in pytest's cache for the installed MLflow."""
    cache = Path(request.config.cache.mkdir("mlflow"))
    ready = cache / f"empty-{importlib.metadata.version('mlflow')}.db"
    if not ready.exists():
        made = cache / f"making-{os.getpid()}.db"
        subprocess.run([sys.executable, "-c", MAKE, f"sqlite:///{made}"], check=True, capture_output=True, cwd=cache)
        made.replace(ready)
    return ready


@pytest.fixture
def mlflow_db(mlflow_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the template, at the place where settings with home `tmp_path / "home"` expect it."""
    target = tmp_path / "home" / "mlflow.db"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(mlflow_template, target)
    return target

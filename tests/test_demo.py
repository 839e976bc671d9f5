"""The demonstration, whole: real data, Dagster, MLflow, Envoy, workers; every claim has to hold."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("assets", "pipelines", "sensors", "services")
FILES = ("dagster.yaml", "dvc.lock", "dvc.yaml", "lastgood.toml", "params.yaml", "requirements.lock", "workspace.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The application in a folder of its own, on a free port: a stack that runs in the clone is not disturbed."""
    made = tmp_path / "project"
    made.mkdir()
    for name in PARTS:
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, made / name)
    shutil.copytree(ROOT / ".dvc", made / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    manifest = made / "services" / "flights" / "service.yaml"
    text = manifest.read_text("utf-8")
    assert "port: 8380" in text
    manifest.write_text(text.replace("port: 8380", f"port: {port}"), "utf-8")
    return made


@pytest.mark.timeout(1200)
def test_every_claim_of_the_demonstration_holds(project: Path) -> None:
    """`lastgood demo --json` ends with exit code 0, and its one object says ok for each claim."""
    env = {**os.environ, "LASTGOOD_PROJECT": str(project), "DAGSTER_HOME": str(project)}
    argv = [sys.executable, "-m", "lastgood", "demo", "--json", "--down"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=project, timeout=1100, check=False)
    told = json.loads(done.stdout)
    assert [claim for claim in told["claims"] if not claim["ok"]] == [], done.stderr[-3000:]
    assert told["ok"] is True
    assert len(told["claims"]) >= 18
    assert done.returncode == 0

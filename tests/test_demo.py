"""The demonstrations, whole: real data, Dagster, MLflow, Envoy, workers; every claim has to hold. That of flights runs in `test_fresh_machine`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import project


@pytest.mark.timeout(1600)
@pytest.mark.parametrize(
    ("call", "claims"),
    [(("--service", "helpdesk"), 20), (("--year",), 19)],
    ids=["helpdesk", "year"],
)
def test_every_claim_of_the_demonstration_holds(tmp_path: Path, call: tuple[str, ...], claims: int) -> None:
    """`lastgood demo --json` ends with exit code 0, and its one object says ok for each claim. One after the other: they are about seconds."""
    made = tmp_path / "project"
    project.copy(made)
    env = {**os.environ, "LASTGOOD_PROJECT": str(made), "DAGSTER_HOME": str(made)}
    argv = [sys.executable, "-m", "lastgood", "demo", *call, "--json", "--down"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=made, timeout=1500, check=False)
    told = json.loads(done.stdout)
    assert [claim for claim in told["claims"] if not claim["ok"]] == [], done.stderr[-3000:]
    assert told["ok"] is True
    assert len(told["claims"]) >= claims
    assert done.returncode == 0

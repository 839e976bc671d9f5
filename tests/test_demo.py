"""The demonstrations, whole: real data, Dagster, MLflow, Envoy, workers; every claim has to hold."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import project

STORIES = {"flights": (("--service", "flights"), 18), "helpdesk": (("--service", "helpdesk"), 20), "year": (("--year",), 19)}
"""How each is called, and how many claims it makes at least."""
LONGEST_S = 1500

pytestmark = pytest.mark.timeout(LONGEST_S + 100)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A demonstration that goes on, and where it writes to."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """All of them at once, each in a project of its own: they wait more than they work."""
    root = tmp_path_factory.mktemp("demo")
    started = {}
    for name, (call, _) in STORIES.items():
        made = root / name
        project.copy(made)
        env = {**os.environ, "LASTGOOD_PROJECT": str(made), "DAGSTER_HOME": str(made)}
        out, err = root / f"{name}.out", root / f"{name}.err"
        with out.open("wb") as to, err.open("wb") as said:
            argv = [sys.executable, "-m", "lastgood", "demo", *call, "--json", "--down"]
            started[name] = Running(process=subprocess.Popen(argv, stdout=to, stderr=said, env=env, cwd=made), out=out, err=err)
    yield started
    for one in started.values():
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("name", STORIES)
def test_every_claim_of_the_demonstration_holds(name: str, stories: dict[str, Running]) -> None:
    """`lastgood demo --json` ends with exit code 0, and its one object says ok for each claim."""
    one = stories[name]
    code = one.process.wait(timeout=LONGEST_S)
    said = one.err.read_text("utf-8", "replace")[-3000:]
    told = json.loads(one.out.read_text("utf-8"))
    assert [claim for claim in told["claims"] if not claim["ok"]] == [], said
    assert told["ok"] is True
    assert len(told["claims"]) >= STORIES[name][1]
    assert code == 0

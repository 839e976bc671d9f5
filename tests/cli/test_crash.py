"""Commands that are killed half-way: the old state or the new one, never between, and running it again is safe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lastgood.ledger import audit
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run

POINTS = ("ledger.before_commit", "ledger.after_commit", "release.before_append", "release.after_append", "release.after_traffic")


def whole(settings: Settings) -> str | None:
    """Stable, after checking that the trail is whole."""
    with projects.opened(settings) as ctx:
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
        assert audit.verify(ctx.ledger, "toy", settings.keys).problems == ()
        return ctx.ledger.state("toy").stable


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_rollback_has_happened_or_not(spawn: Run, settings: Settings, point: str) -> None:
    """kill -9 around the commit: run again it is done once, not twice."""
    with projects.opened(settings) as ctx:
        _, b, c = projects.released(ctx, 1, 2, 3)
    killed = spawn("rollback", "toy", "--yes", env={"LASTGOOD_FAILPOINTS": f"{point}=kill"})
    assert killed.code == -signal.SIGKILL
    assert whole(settings) in (b, c)
    again = spawn("rollback", "toy", "--yes")
    assert again.code in (0, 7), again.err
    assert whole(settings) == b


@pytest.mark.parametrize("point", [*POINTS, "release.before_cutover"])
def test_a_killed_promotion_is_resumed_by_asking_again(spawn: Run, settings: Settings, point: str) -> None:
    """kill -9 anywhere in a promotion leaves stable or the new bundle; the same command finishes it."""
    with projects.opened(settings) as ctx:
        (a,) = projects.released(ctx, 1)
        b = projects.build(ctx, 2)
    killed = spawn("promote", "toy", b, "--yes", env={"LASTGOOD_FAILPOINTS": f"{point}=kill"})
    assert killed.code == -signal.SIGKILL
    assert whole(settings) in (a, b)
    again = spawn("promote", "toy", b, "--yes")
    assert again.code in (0, 7), again.err
    assert whole(settings) == b


def test_a_rollback_command_loads_nothing_heavy(settings: Settings) -> None:
    """Neither Dagster nor any ML library is imported on the way, whichever way the command goes."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
    code = (
        "import sys, atexit\n"
        "heavy = ('dagster', 'mlflow', 'evidently', 'great_expectations', 'pandas', 'numpy', 'scipy', 'langgraph', 'dvc',\n"
        "         'sklearn', 'pyarrow', 'fastapi', 'sqlalchemy')\n"
        "atexit.register(lambda: print('loaded:', sorted(set(heavy) & set(sys.modules))))\n"
        "from lastgood import cli\n"
        "cli.main(['rollback', 'toy', '--yes'])\n"
    )
    env = {**os.environ, "LASTGOOD_PROJECT": str(settings.project)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=60)
    assert "done: revision" in done.stdout
    assert "loaded: []" in done.stdout

"""The drift sensor under Dagster's own daemon, which is killed in the middle of ticks: every window is shown once, and decided once."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import home
from lastgood import release, testing
from lastgood.drift import decision as drift_decision
from lastgood.drift import watch as drift_watch
from lastgood.settings import Settings
from tests.drift import project as toy
from tests.pipelines import world

pytestmark = pytest.mark.timeout(500)

ASSETS = '''
"""The small service, as Dagster sees it."""

from dagster_lastgood import Service

SERVICE = Service(name="toy", owners=["team:toy"])
'''
HOURS = 6


class Dagster:
    """`dagster dev`, whose processes can be killed all at once."""

    def __init__(self, project: Path, env: Mapping[str, str]) -> None:
        self._project = project
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self.log = project / "dagster.log"

    def start(self, **more: str) -> None:
        """With *more* in its environment."""
        command = [
            str(Path(sys.executable).with_name("dagster")),
            "dev",
            "-w",
            "workspace.yaml",
            "-h",
            "127.0.0.1",
            "-p",
            str(testing.free_port()),
        ]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env={**self._env, **more}, cwd=self._project, stdout=out, stderr=out, start_new_session=True
            )

    def kill(self) -> None:
        """Signal 9 to every process of it, at one moment."""
        if self._process is None:
            return
        session = os.getsid(self._process.pid) if self._process.poll() is None else self._process.pid
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == session:
                    os.kill(int(folder.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        self._process.wait(timeout=60)
        self._process = None


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project with the small service alone, whose bundle has been serving for HOURS hours, four of them in another world."""
    monkeypatch.setattr(toy, "START", time.time() - HOURS * toy.HOUR_S - 60)
    root = tmp_path / "project"
    made = toy.make(root)
    for name in ("pipelines", "sensors", "lastgood", "workspace.yaml", "dagster.yaml"):
        (root / name).symlink_to(world.PROJECT / name)
    shutil.copytree(world.PROJECT / "assets", root / "assets", ignore=shutil.ignore_patterns("flights", "helpdesk", "__pycache__"))
    (root / "assets" / "toy").mkdir()
    (root / "assets" / "toy" / "__init__.py").write_text(ASSETS, "utf-8")
    for file in (world.PROJECT / "services").glob("*.py"):
        shutil.copyfile(file, root / "services" / file.name)
    with release.open_context(made) as ctx:
        for at, bias in ((toy.START - 1000, -2.0), (toy.START, 0.0)):
            digest = toy.build(ctx, bias)
            toy.promote(ctx, digest, at=at)
        traffic = toy.Traffic(made, digest)
        for hour in range(HOURS):
            traffic.hour(hour, toy.USUAL if hour < 2 else toy.World(mean=1.2, bias=-2.0))
    return made


@pytest.fixture
def dagster(settings: Settings, tmp_path: Path) -> Iterator[Dagster]:
    """Nothing of it is left running."""
    own = home.prepare(tmp_path / "dagster")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LASTGOOD_", "DAGSTER_")) or name == "LASTGOOD_TEST_SESSION"
    }
    env = {
        **inherited,
        **world.QUIET,
        "DAGSTER_HOME": str(own),
        "LASTGOOD_PROJECT": str(settings.project),
        "LASTGOOD_DRIFT_TICK_S": "2",
        "PYTHONPATH": str(settings.project),
    }
    made = Dagster(settings.project, env)
    yield made
    made.kill()


@pytest.fixture
def what(settings: Settings) -> drift_watch.DriftWatch:
    """The watch on the bundle that serves from START on."""
    with release.open_context(settings, read_only=True) as ctx:
        found = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert found is not None
    return found


def looked(settings: Settings, what: drift_watch.DriftWatch) -> list[drift_watch.WindowReport]:
    """The windows that the ledger has."""
    with release.open_context(settings, read_only=True) as ctx:
        return list(drift_watch.window_reports(ctx, what))


def test_a_daemon_that_is_killed_in_ticks_loses_nothing_and_doubles_nothing(
    settings: Settings, what: drift_watch.DriftWatch, dagster: Dagster, tmp_path: Path
) -> None:
    """Killed between a window in the ledger and in Dagster, and once more while it goes on; then left alone."""
    dagster.start(LASTGOOD_FAILPOINTS="drift.after_record=kill@3")
    world.wait_for(lambda: len(looked(settings, what)) >= 3, log=dagster.log)
    dagster.kill()
    dagster.start(LASTGOOD_FAILPOINTS="drift.after_record=delay:0.7")
    world.wait_for(lambda: len(looked(settings, what)) >= 5, log=dagster.log)
    dagster.kill()
    dagster.start()
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        key = dg.AssetKey(["toy", "drift"])

        def shown() -> dict[str, int]:
            found = instance.fetch_materializations(key, limit=200).records
            return dict(collections.Counter(str(one.asset_materialization.partition) for one in found if one.asset_materialization))

        def decided() -> list[str]:
            with release.open_context(settings, read_only=True) as ctx:
                return [str(one["outcome"]) for one in toy.evidence(ctx, what.bundle, drift_decision.KIND)]

        world.wait_for(lambda: bool(decided()), log=dagster.log)
        with release.open_context(settings, read_only=True) as ctx:
            told = [page for page in ctx.ledger.pages(toy.SERVICE, limit=100) if page.key.startswith(f"drift-{what.bundle[7:19]}")]
            stable = ctx.ledger.state(toy.SERVICE).stable
        mine, windows = what.bundle[7:15], looked(settings, what)
        world.wait_for(lambda: sum(name.startswith(mine) for name in shown()) == len(windows), log=dagster.log)
        assert [one.number for one in windows] == list(range(HOURS))
        assert {count for name, count in shown().items() if name.startswith(mine)} == {1}
        assert [page.key.rpartition("-")[2] for page in told] == ["opened"]
        assert decided() == ["roll_back"]
        assert stable != what.bundle
        runs = instance.get_runs(filters=dg.RunsFilter(job_name="evaluate_rollback"))
        assert len(runs) == 1, json.dumps([run.tags for run in runs])

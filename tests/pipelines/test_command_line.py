"""`dagster job launch` as people type it: real processes, with nothing else running and beside `dagster dev`."""

import json
import uuid

import dagster as dg
import pytest

import assets
from pipelines import home as homes
from tests.pipelines import world

ROLL_BACK = json.dumps({"ops": {"roll_back": {"config": {"service": "flights", "reason": "drill"}}}})
LAUNCH = ("job", "launch", "-w", "workspace.yaml", "-j", "rollback", "--config-json", ROLL_BACK)

pytestmark = pytest.mark.timeout(600)


def test_job_launch_rolls_back_with_nothing_running_but_a_dagster_home(tmp_path):
    """`export DAGSTER_HOME="$PWD"` is all it takes: no daemon, no web server, a fresh clone."""
    log = tmp_path / "log"
    first, _ = world.released(tmp_path / "home", "a", "b")
    project = world.clone(tmp_path / "project")
    env = world.environment(tmp_path / "home", DAGSTER_HOME=str(project))
    assert world.dagster(*LAUNCH, env=env, cwd=project, log=log) == 0
    world.wait_for(lambda: world.stable(tmp_path / "home") == first, log=log)
    world.wait_for(lambda: "RUN_SUCCESS" in log.read_text("utf-8", "replace"), log=log)
    assert not (project / "history").exists()
    assert (project / ".lastgood" / "dagster" / "history" / "runs.db").exists()


def test_beside_dagster_dev_the_rollback_shows_in_the_timeline(tmp_path):
    """With the UI open, a launched rollback takes effect and the sensor's daemon reports each revision once."""
    log, home = tmp_path / "log", tmp_path / "home"
    first, second = world.released(home, "a", "b")
    project, dagster_home = world.clone(tmp_path / "project"), homes.prepare(tmp_path / "dagster")
    env = world.environment(home, DAGSTER_HOME=str(dagster_home))
    with (
        dg.DagsterInstance.from_config(str(dagster_home)) as instance,
        world.dagster_dev(env=env, cwd=project, log=log, port=world.free_port()),
    ):
        world.wait_for(lambda: len(timeline(instance)) == 4, log=log)
        run_id = str(uuid.uuid4())
        assert world.dagster(*LAUNCH, "--run-id", run_id, env=env, cwd=project, log=log) == 0
        world.wait_for(lambda: len(timeline(instance)) == 5, log=log)
        world.wait_for(lambda: instance.get_run_by_id(run_id).is_finished, log=log)
        assert instance.get_run_by_id(run_id).is_success
        assert timeline(instance)[-1] == f"ROLLBACK {second[7:19]} -> {first[7:19]}"
    assert world.stable(home) == first


def timeline(instance: dg.DagsterInstance) -> list[str]:
    """The descriptions of `flights/release`, oldest first."""
    records = instance.fetch_materializations(assets.release_key("flights"), limit=100, ascending=True).records
    return [record.asset_materialization.description for record in records]

"""`dagster job launch` as people type it: real processes, with nothing else running and beside `dagster dev`."""

import json
import uuid

import dagster as dg
import pytest

from dagster_lastgood import home as homes
from dagster_lastgood import parts
from lastgood import release, testing
from tests.pipelines import world

KEY = parts.release_key("flights")

pytestmark = pytest.mark.timeout(600)


def launch(**config: str) -> tuple[str, ...]:
    """The arguments that roll flights back."""
    asked = json.dumps({"ops": {"roll_back": {"config": {"service": "flights", "reason": "drill", **config}}}})
    return ("job", "launch", "-w", "workspace.yaml", "-j", "rollback", "--config-json", asked)


def test_job_launch_rolls_back_with_nothing_running_but_a_dagster_home(tmp_path):
    """`export DAGSTER_HOME="$PWD"` is all it takes: no daemon, no web server, a fresh clone."""
    log = tmp_path / "log"
    first, _ = world.released(tmp_path / "home", "a", "b")
    project = world.clone(tmp_path / "project")
    env = world.environment(tmp_path / "home", DAGSTER_HOME=str(project))
    assert world.dagster(*launch(), env=env, cwd=project, log=log) == 0
    world.wait_for(lambda: world.stable(tmp_path / "home") == first, log=log)
    world.wait_for(lambda: "RUN_SUCCESS" in log.read_text("utf-8", "replace"), log=log)
    assert not (project / "history").exists()
    assert (project / ".lastgood" / "dagster" / "history" / "runs.db").exists()


def test_beside_dagster_dev_the_rollback_shows_in_the_timeline(tmp_path):
    """With the UI open, a launched rollback takes effect and the sensors' daemon reports each revision once, and the canary with its gates."""
    log, home = tmp_path / "log", tmp_path / "home"
    first, second = world.released(home, "a", "b")
    with release.open_context(world.settings(home)) as ctx:
        third = world.register(ctx, "c", home / "scratch")
        proposed = world.in_canary(ctx, third)
        world.measure(ctx, f"{proposed}/canary", errors=world.requests(15, 3000))
    project, dagster_home = world.clone(tmp_path / "project"), homes.prepare(tmp_path / "dagster")
    env = world.environment(home, DAGSTER_HOME=str(dagster_home))
    with (
        dg.DagsterInstance.from_config(str(dagster_home)) as instance,
        world.dagster_dev(env=env, cwd=project, log=log, port=testing.free_port()),
    ):
        world.wait_for(lambda: len(timeline(instance)) == 6 and observations(instance), log=log)
        world.wait_for(lambda: outcomes(instance, "errors"), log=log)
        assert observations(instance) == [("canary", third, 3000)]
        assert (outcomes(instance, "errors"), outcomes(instance, "quality")) == ([True], [])
        run_id = str(uuid.uuid4())
        assert world.dagster(*launch(to=first), "--run-id", run_id, env=env, cwd=project, log=log) == 0
        world.wait_for(lambda: len(timeline(instance)) == 7, log=log)
        world.wait_for(lambda: instance.get_run_by_id(run_id).is_finished, log=log)
        assert instance.get_run_by_id(run_id).is_success
        assert timeline(instance)[-1] == f"ROLLBACK {second[7:19]} -> {first[7:19]}"
        world.wait_for(lambda: len(observations(instance)) >= 2, log=log)
        assert [phase for phase, *_ in observations(instance)][:2] == ["canary", "idle"]
    assert world.stable(home) == first


def observations(instance: dg.DagsterInstance) -> list[tuple[str, str, int]]:
    """Phase, candidate and measured requests of the observations of `flights/release`, oldest first."""
    found = [one.asset_observation.metadata for one in instance.fetch_observations(KEY, limit=100, ascending=True).records]
    return [(one["phase"].value, one["candidate"].value, one["errors/n"].value) for one in found]


def outcomes(instance: dg.DagsterInstance, gate: str) -> list[bool]:
    """Whether the check of *gate* passed, time by time, the newest first."""
    history = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(KEY, gate), limit=10)
    return [one.evaluation.passed for one in history if one.evaluation]


def timeline(instance: dg.DagsterInstance) -> list[str]:
    """The descriptions of `flights/release`, oldest first."""
    records = instance.fetch_materializations(KEY, limit=100, ascending=True).records
    return [record.asset_materialization.description for record in records]

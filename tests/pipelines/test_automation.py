"""New data: what is built because of them, and what is proposed of it."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import automation
from dagster_lastgood.jobs import verbs as jobs
from dagster_lastgood.sensors import new_candidate as candidate
from lastgood import release
from lastgood.release import convergence
from lastgood.system import processes
from pipelines.definitions import defs
from services.flights import data
from tests.pipelines import world

PARTS = {"data", "model", "config", "environment", "bundle"}
SENSOR = candidate.new_candidate(jobs.promote_job)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


class Minutes:
    """What the sensor `new_data` would request, minute by minute."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._now = datetime.datetime(2026, 1, 1, 0, 0, 30, tzinfo=datetime.UTC)
        self._cursor = None

    def tick(self) -> set[str]:
        """The assets that are requested."""
        self._now += datetime.timedelta(minutes=1)
        found = dg.evaluate_automation_conditions(defs, self._instance, evaluation_time=self._now, cursor=self._cursor)
        self._cursor = found.cursor
        return {key.to_user_string() for key in defs.resolve_all_asset_keys() if found.get_num_requested(key)}


def observe(instance: dg.DagsterInstance, version: str) -> None:
    """What a run of `flights/source` finds."""
    tags = {"dagster/data_version": version}
    instance.report_runless_asset_event(dg.AssetObservation(automation.key("flights"), tags=tags))


def test_a_new_version_of_the_source_makes_every_part_and_the_bundle_in_one_run(instance: dg.DagsterInstance) -> None:
    """Once; the same version again makes nothing, and the other service is left alone."""
    minutes = Minutes(instance)
    assert minutes.tick() == set()
    observe(instance, "1")
    assert minutes.tick() == {f"flights/{part}" for part in PARTS}
    observe(instance, "1")
    assert minutes.tick() == set()
    observe(instance, "2")
    assert minutes.tick() >= {f"flights/{part}" for part in PARTS}


def test_sources_are_looked_at_every_five_minutes(instance: dg.DagsterInstance) -> None:
    """Nothing is launched in between."""
    minutes = Minutes(instance)
    asked = [minutes.tick() for _ in range(11)]
    assert [number for number, keys in enumerate(asked) if keys] == [4, 9]
    assert asked[4] == {"flights/source", "helpdesk/source"}


def test_nobody_is_surprised_by_it(tmp_path: Path) -> None:
    """The sensor that builds by itself is off until somebody turns it on; the one that proposes looks at nothing else."""
    status = {sensor.name: sensor.default_status for sensor in defs.sensors}
    assert status[automation.NAME] == dg.DefaultSensorStatus.STOPPED
    assert status["new_candidate"] == dg.DefaultSensorStatus.RUNNING


def test_the_version_of_the_flights_is_what_params_yaml_asks_for(tmp_path: Path) -> None:
    """Other months, or other files, are another version; the parameters of training are not."""
    text = (world.PROJECT / "params.yaml").read_text("utf-8")
    found = set()
    for number, (old, new) in enumerate([("", ""), ("train: [1, 2]", "train: [2, 3]"), ("weather_lag_h: 1", "weather_lag_h: 2")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "params.yaml").write_text(text.replace(old, new) if old else text, "utf-8")
        found.add(data.version(folder))
    assert len(found) == 3
    (folder / "params.yaml").write_text(text.replace("max_iter: 50", "max_iter: 60"), "utf-8")
    assert data.version(folder) in found


@pytest.mark.parametrize("service", ["flights", "helpdesk"])
def test_a_source_says_its_version(service: str, instance: dg.DagsterInstance) -> None:
    """The asset itself, as the daemon runs it."""
    done = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={automation.key(service)})
    assert done.execute_in_process(instance=instance).success
    (seen,) = instance.fetch_observations(automation.key(service), limit=1).records
    assert seen.asset_observation.tags["dagster/data_version"]


def built(instance: dg.DagsterInstance, bundle: str, **tags: str) -> dg.ExecuteInProcessResult:
    """A run that registered *bundle*."""

    @dg.op
    def register(context: dg.OpExecutionContext) -> None:
        context.log_event(dg.AssetMaterialization(["flights", "bundle"], metadata={"lastgood/bundle": bundle}))

    @dg.job(name="built", tags=tags)
    def job() -> None:
        register()

    return job.execute_in_process(instance=instance)


def tick(instance: dg.DagsterInstance, home: Path, done: dg.ExecuteInProcessResult):
    """What the sensor answers to the end of a run."""
    (ended,) = [event for event in done.all_events if event.event_type == dg.DagsterEventType.RUN_SUCCESS]
    context = dg.build_run_status_sensor_context("new_candidate", ended, instance, done.dagster_run)
    return candidate.propose(context, settings=world.settings(home))


def test_what_new_data_made_is_proposed_and_goes_through_the_phases(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that the sensor asks for makes it a candidate; stable stays."""
    home = tmp_path / "home"
    (stable,) = world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        fresh = world.register(ctx, "b", home / "scratch")
    monkeypatch.setattr(convergence, "controller_record", lambda _: processes.Record(pid=1, started="0"))  # it measures, in life
    done = built(instance, fresh, **{automation.CANDIDATE: "built from new data"})
    (asked,) = tick(instance, home, done).run_requests
    assert (asked.job_name, asked.run_key) == ("promote", f"flights/{done.run_id}")
    config = json.loads(json.dumps(asked.run_config))
    config["ops"]["promote"]["config"]["wait_s"] = 0
    ran = jobs.promote_job.execute_in_process(run_config=config, resources={"settings": world.settings(home)}, instance=instance)
    assert ran.success
    with release.open_context(world.settings(home), read_only=True) as ctx:
        state = ctx.ledger.state("flights")
        assert (state.stable, state.candidate) == (stable, fresh)
        assert ctx.ledger.revision("flights", ctx.ledger.newest("flights")).reason.startswith("built from new data")


def test_other_runs_and_what_serves_already_are_left_alone(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """A build by hand proposes nothing."""
    home = tmp_path / "home"
    (stable,) = world.released(home, "a")
    assert tick(instance, home, built(instance, stable)).skip_message == "no candidate was requested"
    again = built(instance, stable, **{automation.CANDIDATE: "built from new data"})
    assert tick(instance, home, again).skip_message == "the bundle that was built already serves"

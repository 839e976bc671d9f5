"""The sensor that watches what comes in, on a real ledger, log and Dagster instance: every window once, every look once."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import drift_assets, resources
from dagster_lastgood import live_checks as live
from dagster_lastgood.jobs import drift_report, retrain
from dagster_lastgood.jobs import evaluate_rollback as jobs
from dagster_lastgood.sensors import drift_watch as sensor
from lastgood import release
from lastgood.drift import decision as drift_decision
from lastgood.drift import watch as drift_watch
from lastgood.settings import Settings
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START

RETRAIN = retrain.retrain_job(lambda _: None)
EXPECTED: dict[str, live.Expectations] = {}
"""What is expected of what comes in, by service; `expected` sets it for a test."""
SENSOR = sensor.drift_watch([toy.SERVICE], jobs=[jobs.evaluate_rollback_job, drift_report.drift_report_job, RETRAIN], expected=EXPECTED)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The small service, and none besides."""
    return toy.make(tmp_path)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


@pytest.fixture
def stable(settings: Settings) -> str:
    """A bundle that serves from START on, with one behind it that knows the turned world."""
    with release.open_context(settings) as ctx:
        for at, bias in ((START - 1000, -2.0), (START, 0.0)):
            digest = toy.build(ctx, bias)
            toy.promote(ctx, digest, at=at)
    return digest


def tick(settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, *, hours: float, cursor: str | None = None):
    """What the sensor answers so many hours after START; its events and partitions are stored, as the daemon does."""
    monkeypatch.setattr("lastgood.system.clock.now", lambda: START + hours * HOUR_S + 10)
    monkeypatch.setattr(sensor, "BUDGET_S", 600.0)  # a busy machine takes longer for two windows than a tick may
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"settings": settings}) as context:
        answer = SENSOR(context)
    if isinstance(answer, dg.SensorResult):
        for asked in answer.dynamic_partitions_requests or ():
            instance.add_dynamic_partitions(asked.partitions_def_name, list(asked.partition_keys))
        for event in answer.asset_events:
            instance.report_runless_asset_event(event)
    return answer


def evaluate(settings: Settings, instance: dg.DagsterInstance, asked: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """The run that a tick asks for."""
    return jobs.evaluate_rollback_job.execute_in_process(
        run_config=asked.run_config, resources={"settings": settings, "mlflow": resources.mlflow}, instance=instance
    )


def test_windows_are_shown_once_with_numbers(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One partition for each; a tick whose cursor was lost shows none a second time."""
    traffic = toy.Traffic(settings, stable)
    for hour in range(2):
        traffic.hour(hour)
    answer = tick(settings, instance, monkeypatch, hours=2)
    assert [event.partition for event in answer.asset_events] == [
        f"{stable[7:15]} 2026-01-01 00:00:00",
        f"{stable[7:15]} 2026-01-01 01:00:00",
    ]
    metadata = answer.asset_events[0].metadata
    assert (metadata["outcome"].value, metadata["rows"].value, metadata["alarm"].value) == ("pass", 120, "none")
    assert 0 < metadata["distance/x"].value < 0.5
    assert "data:image/png;base64," in metadata["drift by feature"].value
    again = tick(settings, instance, monkeypatch, hours=2, cursor=None)
    assert isinstance(again, dg.SkipReason)
    assert again.skip_message == "toy: 2 windows evaluated, the last one: pass"


def test_a_service_that_is_not_watched_says_so(settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first release, too."""
    assert tick(settings, instance, monkeypatch, hours=1).skip_message == "toy: drift is not watched"


def test_a_window_that_is_not_over_is_waited_for(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says for how long a window goes on."""
    assert tick(settings, instance, monkeypatch, hours=0.5).skip_message == "toy: the first window of 3600 s is not complete yet"


def test_an_alarm_asks_for_its_decision_once_and_the_job_rolls_back(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same look has the same run key in every tick; the job compares, goes back, and nothing is due after it."""
    traffic = toy.Traffic(settings, stable)
    turned = toy.World(mean=1.2, bias=-2.0)
    for hour in range(3):
        traffic.hour(hour, turned)
    answer = tick(settings, instance, monkeypatch, hours=3)
    reported, asked = answer.run_requests
    assert (reported.job_name, reported.run_key) == ("drift_report", f"toy/{stable[7:19]}/5/{int(START)}/opened")
    assert (asked.job_name, asked.run_key) == ("evaluate_rollback", f"toy/{stable[7:19]}/5/{int(START)}/1")
    assert [event.metadata["alarm"].value for event in answer.asset_events] == ["none", "begins", "open"]
    again = tick(settings, instance, monkeypatch, hours=3, cursor=answer.cursor).run_requests
    assert [one.run_key for one in again] == [reported.run_key, asked.run_key]
    done = evaluate(settings, instance, asked)
    (output,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
    metadata = output.step_output_data.metadata
    assert metadata["outcome"].value == "roll_back"
    assert metadata["difference at least"].value > 0.002
    assert metadata["moved"].value.startswith("revision ")
    assert Path(str(metadata["evidently"].value)).stat().st_size > 100_000
    assert metadata["columns that Evidently calls drifted"].value >= 1
    (logged,) = instance.fetch_observations(drift_assets.key(toy.SERVICE), limit=5).records
    assert logged.asset_observation.description.startswith("look 1 of 2: roll_back: brier of ")
    with release.open_context(settings, read_only=True) as ctx:
        assert ctx.ledger.state(toy.SERVICE).stable != stable
        assert [one["outcome"] for one in toy.evidence(ctx, stable, drift_decision.KIND)] == ["roll_back"]


def to_retrain(settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[dg.RunRequest]]:
    """The stable bundle, and what a tick asks for after an alarm came to `retrain`: no other bundle is there to go back to."""
    with release.open_context(settings) as ctx:
        stable = toy.build(ctx, 0.0)
        toy.promote(ctx, stable, at=START)
    traffic = toy.Traffic(settings, stable)
    for hour in range(3):
        traffic.hour(hour, toy.World(mean=1.2, bias=-2.0))
    asked = next(one for one in tick(settings, instance, monkeypatch, hours=3).run_requests if one.job_name == "evaluate_rollback")
    evaluate(settings, instance, asked)
    answer = tick(settings, instance, monkeypatch, hours=3)
    return stable, [one for one in answer.run_requests or () if one.job_name == "retrain"]


def test_an_alarm_that_comes_to_retraining_waits_for_a_person(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the service says otherwise."""
    assert to_retrain(settings, instance, monkeypatch)[1] == []


def test_a_service_may_have_it_built_by_itself(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each decision, and no more once something was released; what is built is promoted as by hand, here without phases."""
    settings = toy.make(tmp_path, decide="retrain: build")
    stable, (asked,) = to_retrain(settings, instance, monkeypatch)
    assert asked.run_key == f"toy/{stable[7:19]}/2/{int(START)}/1/retrain"
    config = asked.run_config["ops"]["retrain"]["config"]
    assert config["reason"].startswith("drift: no other bundle")
    with release.open_context(settings) as ctx:
        assert config["expected"] == ctx.ledger.newest(toy.SERVICE)
        fresh = toy.build(ctx, -2.0)
    monkeypatch.setattr(retrain, "build", lambda context, config, builds: fresh)
    given = {**asked.run_config["ops"]["retrain"]["config"], "wait_s": 0.0}
    done = RETRAIN.execute_in_process(
        run_config={"ops": {"retrain": {"config": given}}}, resources={"settings": settings}, instance=instance, tags=asked.tags
    )
    assert done.success
    with release.open_context(settings, read_only=True) as ctx:
        assert ctx.ledger.state(toy.SERVICE).stable == fresh
        assert any(revision.reason == config["reason"] for revision in ctx.ledger.history(toy.SERVICE, limit=5))
    assert isinstance(tick(settings, instance, monkeypatch, hours=3), dg.SkipReason)


def test_an_alarm_is_reported_by_evidently_in_files_dagster_and_mlflow(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that a tick asks for: HTML and JSON, an observation with a bar for each column, and an MLflow run that holds both."""
    import mlflow

    traffic = toy.Traffic(settings, stable)
    for hour in range(2):
        traffic.hour(hour, toy.World(mean=1.2))
    (asked, _) = tick(settings, instance, monkeypatch, hours=2).run_requests
    report(settings, instance, asked.run_config)
    (seen,) = instance.fetch_observations(drift_assets.key(toy.SERVICE), limit=5).records
    metadata = seen.asset_observation.metadata
    assert metadata["columns that Evidently calls drifted"].value >= 1
    assert "data:image/png;base64," in metadata["drift by feature"].value
    html, told = (Path(str(metadata[name].value)) for name in ("evidently", "evidently as JSON"))
    assert html.stat().st_size > 100_000
    assert json.loads(told.read_text("utf-8"))["metrics"]
    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.tags["lastgood.bundle"] == stable
    assert run.data.metrics["distance.x"] > 0.5
    assert run.data.metrics["rocauc"] > 0.5
    assert {one.path for one in client.list_artifacts(run.info.run_id, "drift")} == {f"drift/{html.name}", f"drift/{told.name}"}


def test_a_report_on_nothing_is_a_result(settings: Settings, stable: str, instance: dg.DagsterInstance) -> None:
    """No rows, and a service that is not watched: the run succeeds and says why it has nothing."""
    for service, why in ((toy.SERVICE, "answered no request"), ("other", "drift is not watched")):
        done = report(settings, instance, {"ops": {"report": {"config": {"service": service}}}})
        (output,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
        assert why in output.step_output_data.metadata["evidently"].value


def report(settings: Settings, instance: dg.DagsterInstance, config: dict) -> dg.ExecuteInProcessResult:
    """A run of the job `drift_report`, which succeeds."""
    replaced = {"settings": settings, "mlflow": resources.mlflow}
    done = drift_report.drift_report_job.execute_in_process(run_config=config, resources=replaced, instance=instance)
    assert done.success
    return done


def test_reports_are_scheduled_where_something_is_watched(settings: Settings, stable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One schedule for each service, running; its run is named by its time."""
    monkeypatch.setenv("LASTGOOD_PROJECT", str(settings.project))
    first, second = drift_report.schedules([toy.SERVICE, "other"])
    assert (first.name, first.cron_schedule, first.default_status) == ("toy_drift_report", "0 6 * * *", dg.DefaultScheduleStatus.RUNNING)
    when = datetime.datetime(2026, 1, 2, 6, tzinfo=datetime.UTC)
    (asked,) = first.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=when)).run_requests
    assert (asked.run_key, asked.run_config) == (when.isoformat(), {"ops": {"report": {"config": {"service": "toy"}}}})
    assert second.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=when)).skip_message == "drift is not watched on 'other'"


def test_what_came_in_is_judged_by_the_services_own_expectations(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Great Expectations on each window, as checks of its partition; a check by hand judges the newest."""
    expected(monkeypatch, lambda: suite(low=-6))
    traffic = toy.Traffic(settings, stable)
    traffic.hour(0)
    traffic.hour(1, toy.World(mean=20.0, kinds=("a", "z")))
    answer = tick(settings, instance, monkeypatch, hours=2)
    said = [event for event in answer.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    begun = [f"{stable[7:15]} 2026-01-01 0{hour}:00:00" for hour in (0, 1)]
    assert [(one.partition, one.check_name, one.passed) for one in said] == [
        (begun[0], "schema", True),
        (begun[0], "ranges", True),
        (begun[0], "categories", True),
        (begun[1], "schema", True),
        (begun[1], "ranges", False),
        (begun[1], "categories", False),
    ]
    assert said[4].description == "x: expect_column_values_to_be_between"
    assert said[4].severity == dg.AssetCheckSeverity.WARN
    with release.open_context(settings, read_only=True) as ctx:
        what = drift_watch.watch_of_service(ctx, toy.SERVICE)
        assert set(live.rows(ctx, what, list(drift_watch.window_reports(ctx, what))[1])["kind"]) == {"a", "z"}
    check = live.checks(toy.SERVICE, {"schema": "", "ranges": "", "categories": ""}, suite=EXPECTED[toy.SERVICE])
    by_hand = list(check(dg.build_asset_check_context(instance=instance), settings=settings))
    assert [(one.check_name, one.passed) for one in by_hand] == [("schema", True), ("ranges", False), ("categories", False)]


def suite(*, low: float) -> list:
    """Fields, numbers and kinds."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=["x", "kind"], exact_match=True, meta={"check": "schema"}),
        gxe.ExpectColumnValuesToBeBetween(column="x", min_value=low, max_value=6, meta={"check": "ranges"}),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="kind", value_set=["a", "b"], meta={"check": "categories"}),
    ]


def expected(monkeypatch: pytest.MonkeyPatch, live_suite: Callable[[], list]) -> None:
    """What is expected of what comes in to the service."""
    monkeypatch.setitem(EXPECTED, toy.SERVICE, live_suite)


def test_an_empty_window_breaks_its_expectations_and_one_that_raises_costs_no_window(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rows have no columns; and a suite that cannot be made is a warning in the log."""
    expected(monkeypatch, lambda: suite(low=-6))
    said = tick(settings, instance, monkeypatch, hours=1).asset_events
    assert [one.passed for one in said if isinstance(one, dg.AssetCheckEvaluation)] == [False, False, False]
    expected(monkeypatch, lambda: [1 / 0])
    assert [type(one) for one in tick(settings, instance, monkeypatch, hours=2).asset_events] == [dg.AssetMaterialization]


def test_a_run_that_died_is_asked_for_again_and_one_that_did_not_is_not(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a key of its own each time, for Dagster launches no key twice; three attempts, and a run that ended well ends it."""

    @dg.op
    def end(context) -> None:
        if context.run.tags["ends"] == "badly":
            raise ValueError

    @dg.job
    def run() -> None:
        end()

    def asked() -> list[str]:
        answer = tick(settings, instance, monkeypatch, hours=3)
        return [one.run_key for one in answer.run_requests] if isinstance(answer, dg.SensorResult) else []

    def ran(key: str, ends: str) -> None:
        run.execute_in_process(instance=instance, tags={sensor.FOR: key, "ends": ends}, raise_on_error=False)

    traffic = toy.Traffic(settings, stable)
    for hour in range(3):
        traffic.hour(hour, toy.World(mean=1.2))
    reported, decided = asked()
    ran(decided, "badly")
    assert asked() == [reported, f"{decided}/again-1"]
    ran(reported, "well")
    assert asked() == [f"{decided}/again-1"]
    ran(decided, "badly")
    ran(decided, "badly")
    assert asked() == []


def test_a_window_whose_materialization_was_lost_is_shown_again(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon makes the partition first, and may die before it stores the event."""
    toy.Traffic(settings, stable).hour(0)
    instance.add_dynamic_partitions("toy_windows", [f"{stable[7:15]} 2026-01-01 00:00:00"])
    assert len(tick(settings, instance, monkeypatch, hours=1).asset_events) == 1
    assert isinstance(tick(settings, instance, monkeypatch, hours=1), dg.SkipReason)


def test_a_job_with_nothing_due_changes_nothing(
    settings: Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launched by hand, or twice."""
    toy.Traffic(settings, stable).hour(0)
    tick(settings, instance, monkeypatch, hours=1)
    config = {"ops": {"evaluate": {"config": {"service": toy.SERVICE}}}}
    done = jobs.evaluate_rollback_job.execute_in_process(
        run_config=config, resources={"settings": settings, "mlflow": resources.mlflow}, instance=instance
    )
    assert done.success
    with release.open_context(settings, read_only=True) as ctx:
        assert ctx.ledger.state(toy.SERVICE).stable == stable


def test_the_picture_shows_every_column() -> None:
    """A PNG, also with a column that has no threshold."""
    columns = [
        {"name": "x", "distance": 1.2, "threshold": 0.4, "outcome": "fail"},
        {"name": "kind", "distance": 0.1, "threshold": None, "outcome": "inconclusive"},
    ]
    assert drift_assets.bars(columns).startswith(b"\x89PNG")

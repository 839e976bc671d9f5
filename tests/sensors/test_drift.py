"""The sensor that watches what comes in, on a real ledger, log and Dagster instance: every window once, every look once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import assets
from assets import windows
from lastgood import release
from lastgood import settings as settings_
from lastgood.ops import drift_decision
from pipelines import drift as jobs
from sensors import drift as sensor
from tests.ops import drift_project as toy
from tests.ops.drift_project import HOUR_S, START


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> settings_.Settings:
    """The small service, and none besides."""
    monkeypatch.setattr(assets, "names", lambda: [toy.SERVICE])
    return toy.make(tmp_path)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


@pytest.fixture
def stable(settings: settings_.Settings) -> str:
    """A bundle that serves from START on, with one behind it that knows the turned world."""
    with release.open_context(settings) as ctx:
        for at, bias in ((START - 1000, -2.0), (START, 0.0)):
            digest = toy.build(ctx, bias)
            toy.promote(ctx, digest, at=at)
    return digest


def tick(
    settings: settings_.Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, *, hours: float, cursor: str | None = None
):
    """What the sensor answers so many hours after START; its events and partitions are stored, as the daemon does."""
    monkeypatch.setattr("time.time", lambda: START + hours * HOUR_S + 10)
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"settings": settings}) as context:
        answer = sensor.drift_watch(context)
    if isinstance(answer, dg.SensorResult):
        for asked in answer.dynamic_partitions_requests or ():
            instance.add_dynamic_partitions(asked.partitions_def_name, list(asked.partition_keys))
        for event in answer.asset_events:
            instance.report_runless_asset_event(event)
    return answer


def test_windows_are_shown_once_with_numbers(
    settings: settings_.Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
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
    assert again.skip_message == "toy: 2 windows looked at, the last one: pass"


def test_a_service_that_is_not_watched_says_so(
    settings: settings_.Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first release, too."""
    assert tick(settings, instance, monkeypatch, hours=1).skip_message == "toy: nothing is watched"


def test_a_window_that_is_not_over_is_waited_for(
    settings: settings_.Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says for how long a window goes on."""
    assert tick(settings, instance, monkeypatch, hours=0.5).skip_message == "toy: the first window of 3600 s is not over yet"


def test_an_alarm_asks_for_its_decision_once_and_the_job_rolls_back(
    settings: settings_.Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same look has the same run key in every tick; the job compares, goes back, and nothing is due after it."""
    traffic = toy.Traffic(settings, stable)
    turned = toy.World(mean=1.2, bias=-2.0)
    for hour in range(3):
        traffic.hour(hour, turned)
    answer = tick(settings, instance, monkeypatch, hours=3)
    (asked,) = answer.run_requests
    assert (asked.job_name, asked.run_key) == ("evaluate_rollback", f"toy/{stable[7:19]}/5/{int(START)}/1")
    assert [event.metadata["alarm"].value for event in answer.asset_events] == ["none", "begins", "open"]
    assert tick(settings, instance, monkeypatch, hours=3, cursor=answer.cursor).run_requests[0].run_key == asked.run_key
    done = jobs.evaluate_rollback_job.execute_in_process(run_config=asked.run_config, resources={"settings": settings}, instance=instance)
    (output,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
    metadata = output.step_output_data.metadata
    assert metadata["outcome"].value == "roll_back"
    assert metadata["difference at least"].value > 0.002
    assert metadata["moved"].value.startswith("revision ")
    assert Path(str(metadata["evidently"].value)).stat().st_size > 100_000
    with release.open_context(settings, read_only=True) as ctx:
        assert ctx.ledger.state(toy.SERVICE).stable != stable
        assert [one["outcome"] for one in toy.evidence(ctx, stable, drift_decision.KIND)] == ["roll_back"]


def test_a_job_with_nothing_due_changes_nothing(
    settings: settings_.Settings, stable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launched by hand, or twice."""
    toy.Traffic(settings, stable).hour(0)
    tick(settings, instance, monkeypatch, hours=1)
    config = {"ops": {"evaluate": {"config": {"service": toy.SERVICE}}}}
    done = jobs.evaluate_rollback_job.execute_in_process(run_config=config, resources={"settings": settings}, instance=instance)
    assert done.success
    with release.open_context(settings, read_only=True) as ctx:
        assert ctx.ledger.state(toy.SERVICE).stable == stable


def test_the_picture_shows_every_column() -> None:
    """A PNG, also with a column that has no threshold."""
    columns = [
        {"name": "x", "distance": 1.2, "threshold": 0.4, "outcome": "fail"},
        {"name": "kind", "distance": 0.1, "threshold": None, "outcome": "inconclusive"},
    ]
    assert windows.bars(columns).startswith(b"\x89PNG")

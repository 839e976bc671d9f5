"""The mirror of the ledger in Dagster, with a real ledger and a real Dagster instance."""

from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import parts
from dagster_lastgood.sensors.release_mirror import release_mirror
from lastgood import release
from lastgood.release import convergence
from tests.pipelines import world

KEY = parts.release_key("flights")


@pytest.fixture
def instance(tmp_path):
    """A Dagster instance on disk."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def tick(home: Path, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    """Evaluate the sensor once."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"settings": world.settings(home)})
    return release_mirror(["flights", "helpdesk"])(context)


def store(instance: dg.DagsterInstance, result: dg.SensorResult) -> None:
    """What the daemon does with the events of a tick."""
    for event in result.asset_events:
        instance.report_runless_asset_event(event)


def headlines(result: dg.SensorResult) -> list[str]:
    """The descriptions of the events."""
    return [event.description for event in result.asset_events]


def test_every_revision_is_told_once_and_in_order(tmp_path, instance):
    """Two promotions and a rollback give one event per revision, with from and to; the next tick has nothing to say."""
    home = tmp_path / "home"
    first, second = world.released(home, "a", "b")
    with release.open_context(world.settings(home)) as ctx:
        convergence.carry_out(ctx, "flights", release.roll_back, release.Request(actor="on-call", reason="drill"))
    result = tick(home, instance)
    a, b = first[7:19], second[7:19]
    assert headlines(result) == [f"PROMOTE {a}", f"CUT-OVER none -> {a}", f"PROMOTE {b}", f"CUT-OVER {a} -> {b}", f"ROLLBACK {b} -> {a}"]
    last = result.asset_events[-1]
    assert last.tags["dagster/data_version"] == first
    assert {name: last.metadata[name].value for name in ("action", "from", "to", "reason", "actor", "lastgood/revision")} == {
        "action": "rollback",
        "from": second,
        "to": first,
        "reason": "drill",
        "actor": "on-call",
        "lastgood/revision": 5,
    }
    again = tick(home, instance, result.cursor)
    assert isinstance(again, dg.SkipReason)
    assert "flights is at revision 5" in again.skip_message


def test_only_newer_revisions_follow_the_cursor(tmp_path, instance):
    """After a tick, only what was committed since is told."""
    home = tmp_path / "home"
    world.released(home, "a")
    cursor = tick(home, instance).cursor
    world.released(home, "b")
    assert [event.metadata["lastgood/revision"].value for event in tick(home, instance, cursor).asset_events] == [3, 4]


def test_a_daemon_that_died_before_it_kept_the_cursor_tells_nothing_twice(tmp_path, instance):
    """Events are stored before the cursor; what Dagster has stored counts as told."""
    home = tmp_path / "home"
    world.released(home, "a", "b")
    store(instance, tick(home, instance))
    assert isinstance(tick(home, instance, cursor=None), dg.SkipReason)
    record = instance.get_latest_data_version_record(KEY)
    assert dg.DataVersion(world.stable(home)).value == record.event_log_entry.asset_materialization.tags["dagster/data_version"]


def test_another_ledger_in_the_same_place_is_told_from_its_start(tmp_path, instance):
    """A cursor of a ledger that is gone does not hide the revisions of the new one."""
    world.released(tmp_path / "old", "a", "b", "c")
    old = tick(tmp_path / "old", instance)
    store(instance, old)
    world.released(tmp_path / "new", "d")
    assert [event.metadata["lastgood/revision"].value for event in tick(tmp_path / "new", instance, old.cursor).asset_events] == [1, 2]


def test_a_materialization_made_by_hand_does_not_confuse_the_mirror(tmp_path, instance):
    """Somebody who presses Materialize (or reports over REST) leaves an event without a revision."""
    home = tmp_path / "home"
    world.released(home, "a")
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY))
    assert len(tick(home, instance).asset_events) == 2


def test_a_missing_ledger_is_a_reason_to_skip(tmp_path, instance):
    """Before the first bundle there is no ledger; the sensor says so and does not fail."""
    skipped = tick(tmp_path / "nowhere", instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "the ledger cannot be read" in skipped.skip_message

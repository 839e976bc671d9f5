"""`lastgood drift`: windows, alarms, decisions and Evidently's report, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lastgood import release
from lastgood.bundle.manifest import short
from lastgood.ledger import Seen
from lastgood.settings import Settings
from tests.cli.conftest import Run
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START
from tests.drift.test_backtest import past


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The small service that is watched."""
    return toy.make(tmp_path)


@pytest.fixture
def released(settings: Settings) -> list[str]:
    """The bundle behind, which knows the turned world, and the one that serves from START on."""
    with release.open_context(settings) as ctx:
        found = [toy.build(ctx, -2.0), toy.build(ctx, 0.0)]
        for at, digest in ((START - 1000, found[0]), (START, found[1])):
            toy.promote(ctx, digest, at=at)
    return found


def at(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """It is so many hours after START."""
    monkeypatch.setattr("lastgood.system.clock.now", lambda: START + hours * HOUR_S + 10)


def test_before_any_window_is_over_nothing_has_been_judged(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is not the same as no alarm."""
    at(monkeypatch, 0.1)
    shown = run("drift", "toy")
    assert f"toy  {short(released[1])}  nothing has been judged yet" in shown.out
    assert "no window is complete yet" in shown.out


def test_windows_are_looked_at_and_shown(run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for people, everything for scripts; `--since` leaves out what is older."""
    traffic = toy.Traffic(settings, released[1])
    for hour in range(3):
        traffic.hour(hour)
    at(monkeypatch, 3)
    shown = run("drift", "toy")
    assert shown.code == 0
    assert f"toy  {short(released[1])}  no alarm" in shown.out
    assert shown.out.count("pass") == 3
    value = run("drift", "toy", "--json").json
    assert (value["schema"], value["bundle"], len(value["windows"]), value["decisions"]) == ("lastgood.drift/v1", released[1], 3, [])
    assert len(run("drift", "toy", "--since", "2026-01-01T02:30:00", "--json").json["windows"]) == 1


def test_an_alarm_is_decided_when_asked(run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With --dry-run it is shown and nothing moves; without, the service goes back; asked again, there is nothing more to do."""
    traffic = toy.Traffic(settings, released[1])
    for hour in range(4):
        traffic.hour(hour, toy.World(mean=1.2, bias=-2.0))
    at(monkeypatch, 4)
    assert "alarm since" in run("drift", "toy").out
    dry = run("drift", "toy", "--decide", "--dry-run")
    assert "! roll_back: brier of " in dry.out
    assert run("status", "toy", "--json").json["stable"] == released[1]
    done = run("drift", "toy", "--decide", "--json").json
    assert (done["decision"]["outcome"], len(done["decisions"])) == ("roll_back", 1)
    assert run("status", "toy", "--json").json["stable"] == released[0]


def test_another_bundle_is_held_beside_the_serving_one(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the labelled rows since the alarm, or since what is said; nothing is changed by it."""
    traffic = toy.Traffic(settings, released[1])
    for hour in range(4):
        traffic.hour(hour, toy.World(mean=1.2, bias=-2.0))
    with release.open_context(settings) as ctx:
        fresh = toy.build(ctx, -1.9)
    at(monkeypatch, 4)
    shown = run("drift", "toy", "--beside", fresh)
    assert f"compared with {short(fresh)}: brier of {short(released[1])} is" in shown.out
    value = run("drift", "toy", "--beside", fresh, "--since", "2026-01-01T02:00:00", "--json").json["beside"]
    assert (value["other"], value["since"], value["compared"]["rows"]) == (fresh, START + 2 * HOUR_S, 240)
    assert value["compared"]["low"] > 0
    assert run("status", "toy", "--json").json["stable"] == released[1]
    with_itself = run("drift", "toy", "--beside", "stable", "--json").json["beside"]
    assert with_itself["compared"]["difference"] == 0
    assert run("drift", "toy", "--beside", "abcdef012345").code == 2


def test_a_dry_run_looks_at_nothing(run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is opened read-only."""
    toy.Traffic(settings, released[1]).hour(0)
    at(monkeypatch, 1)
    assert run("drift", "toy", "--dry-run", "--json").json["windows"] == []


def test_evidentlys_report_is_written(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One page, or JSON by the name of the file: drift of each column, and the quality of the answers."""
    traffic = toy.Traffic(settings, released[1])
    for hour in range(2):
        traffic.hour(hour, toy.World(mean=1.0))
    at(monkeypatch, 2)
    assert run("drift", "toy", "--report", str(tmp_path / "a" / "drift.json")).code == 0
    metrics = json.loads((tmp_path / "a" / "drift.json").read_text())["metrics"]
    named = {one["metric_name"].partition("(")[0] for one in metrics}
    assert {"ValueDrift", "Accuracy"} <= named
    (drifted,) = [one["value"]["count"] for one in metrics if one["metric_name"].startswith("DriftedColumnsCount")]
    assert drifted >= 2
    assert run("drift", "toy", "--report", str(tmp_path / "drift.html")).code == 0
    assert (tmp_path / "drift.html").stat().st_size > 100_000


def test_a_report_of_nothing_is_refused(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the exit code for nothing to do."""
    at(monkeypatch, 1)
    done = run("drift", "toy", "--report", str(tmp_path / "drift.html"))
    assert done.code == 7
    assert "answered no request in that time" in done.err


def test_a_service_that_is_not_watched_says_how(run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the group of service.yaml that is missing from its bundle."""
    file = settings.services / toy.SERVICE / "service.yaml"
    file.write_text(file.read_text().partition("drift:")[0])
    with release.open_context(settings) as ctx:
        toy.promote(ctx, toy.build(ctx, 0.0), at=START)
    done = run("drift", "toy")
    assert done.code == 7
    assert "has no 'drift' in service.yaml" in done.err


def test_a_host_that_serves_nothing_shows_what_others_found(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at nothing new, says why and where to ask, and decides nothing."""
    toy.Traffic(settings, released[1]).hour(0)
    at(monkeypatch, 1)
    assert len(run("drift", "toy", "--json").json["windows"]) == 1
    at(monkeypatch, 4)
    with release.open_context(settings) as ctx:
        ctx.ledger.report_readiness("toy", host="elsewhere/0", seen={released[1]: Seen(ready=True)}, now=START + 4 * HOUR_S)
    done = run("drift", "toy")
    assert done.code == 0
    assert "no new window was evaluated" in done.out
    assert "served by elsewhere/0" in done.out
    value = run("drift", "toy", "--json").json
    assert len(value["windows"]) == 1
    assert "elsewhere/0" in value["not_looked"]


def test_a_backtest_shows_what_would_have_been_done(run: Run, settings: Settings, released: list[str], tmp_path: Path) -> None:
    """Alarms and decisions for people, every window for scripts, and a page with a picture of each column; nothing is recorded."""
    table = past([*[toy.USUAL] * 3, *[toy.World(mean=1.2, bias=-2.0)] * 5])
    pq.write_table(table, tmp_path / "past.parquet")
    shown = run("drift", "toy", "--backtest", str(tmp_path / "past.parquet"))
    assert shown.code == 0
    assert "960 rows in 8 windows" in shown.out
    assert ": roll_back: brier of " in shown.out
    value = run("drift", "toy", "--backtest", str(tmp_path / "past.parquet"), "--report", str(tmp_path / "page.html"), "--json").json
    assert (value["schema"], value["alarms"], len(value["windows"])) == ("lastgood.drift-backtest/v1", 1, 8)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 5
    assert "roll_back" in page
    assert run("drift", "toy", "--dry-run", "--json").json["windows"] == []


def test_labels_without_a_table_are_refused(run: Run, released: list[str], tmp_path: Path) -> None:
    """With the option that is missing."""
    (tmp_path / "labels.csv").write_text("id,label\n1,1\n")
    done = run("drift", "toy", "--labels", str(tmp_path / "labels.csv"))
    assert (done.code, "--backtest" in done.err) == (2, True)


def test_what_was_answered_lately_is_judged_before_the_window_is_over(
    run: Run, settings: Settings, released: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With numbers for each column; it is not recorded."""
    toy.Traffic(settings, released[1]).hour(0, toy.World(mean=2.0))
    at(monkeypatch, 0.99)
    shown = run("drift", "toy", "--now")
    assert "now, since 2026-01-01 00:00:00" in shown.out
    assert ": fail: x: " in shown.out
    value = run("drift", "toy", "--now", "--json").json
    assert (value["windows"], value["now"]["seen"], value["now"]["verdict"]["outcome"]) == ([], 120, "fail")

"""The watch on what comes in, on a real log and ledger: every window once, alarms told once, and no tick that crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, ledger, release
from lastgood.bundle.manifest import short
from lastgood.drift import watch as drift_watch
from lastgood.drift.verdict import LOSS
from lastgood.serving import inference_log
from lastgood.settings import Settings
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The small service."""
    return toy.make(tmp_path)


@pytest.fixture
def ctx(settings: Settings) -> Iterator[release.Context]:
    """Its ledger and store."""
    with release.open_context(settings) as ctx:
        yield ctx


@pytest.fixture
def stable(ctx: release.Context) -> str:
    """A bundle that serves from START on."""
    digest = toy.build(ctx, 0.0)
    toy.promote(ctx, digest, at=START)
    return digest


def tick(ctx: release.Context, hours: float, **options: int) -> list[drift_watch.WindowReport]:
    """A tick so many hours after START, and some seconds."""
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    return drift_watch.evaluate_next_window(ctx, what, now=START + hours * HOUR_S + 10, **options)


def told(ctx: release.Context) -> list[tuple[str, str]]:
    """Severity and summary of the pages about drift, the oldest first."""
    return [(page.severity, page.summary) for page in reversed(ctx.ledger.pages(toy.SERVICE)) if page.key.startswith("drift")]


def test_windows_begin_with_the_release_and_each_is_looked_at_once(ctx: release.Context, stable: str) -> None:
    """What is not over yet waits; a tick that comes again finds nothing."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(3):
        traffic.hour(hour)
    found = tick(ctx, 2.5)
    assert [(one.number, one.begin, one.seen, one.verdict["outcome"]) for one in found] == [
        (0, START, 120, "pass"),
        (1, START + HOUR_S, 120, "pass"),
    ]
    assert {one["name"] for one in found[0].verdict["columns"]} == {"x", "kind", "label", "probability", LOSS}
    assert tick(ctx, 2.5) == []
    assert [one.number for one in tick(ctx, 3.0)] == [2]
    assert told(ctx) == []


def test_drift_is_told_once_and_so_is_its_end(ctx: release.Context, stable: str) -> None:
    """After two windows in a row; and two that pass close it. Both stand in the audit trail."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(9):
        traffic.hour(hour, toy.World(mean=1.0) if 2 <= hour < 6 else toy.USUAL)
    found = tick(ctx, 9)
    assert [one.change for one in found] == ["", "", "", "opened", "", "", "", "closed", ""]
    (opened, closed) = told(ctx)
    assert opened[0] == "warning"
    assert f"toy: {short(stable)}: live traffic has drifted, 2 windows in a row: " in opened[1]
    assert "standard deviations from the reference, usual is at most 0." in opened[1]
    assert {one["name"] for one in found[3].verdict["columns"] if one["outcome"] == "fail"} == {"x", "probability", "label"}
    assert closed == ("info", f"toy: {short(stable)}: live traffic is as usual again")
    assert [note["change"] for note in ctx.ledger.notes(toy.SERVICE, kind=drift_watch.NOTE)] == ["opened", "closed"]


def test_only_answers_that_users_got_from_stable_count(ctx: release.Context, stable: str) -> None:
    """Copies, debugging and other bundles do not, however strange they are."""
    strange = toy.World(mean=9.0)
    for bundle, options in ((stable, {"shadow": True}), (stable, {"arm": "debug"}), ("sha256:" + "9" * 64, {})):
        toy.Traffic(ctx.settings, bundle).hour(0, strange, **options)
    toy.Traffic(ctx.settings, stable, bias=0.0).hour(0)
    (found,) = tick(ctx, 1)
    assert (found.seen, found.verdict["outcome"]) == (120, "pass")


def test_no_rows_is_an_alarm_of_its_own(ctx: release.Context, stable: str) -> None:
    """Nothing arrives, or nothing is logged: a person looks, and the tick goes on."""
    assert [one.verdict["outcome"] for one in tick(ctx, 2)] == ["broken", "broken"]
    assert [severity for severity, _ in told(ctx)] == ["critical"]
    assert "no rows in the window" in told(ctx)[0][1]


def test_values_that_are_gone_are_an_alarm_of_their_own(ctx: release.Context, stable: str) -> None:
    """All of x is missing: no statistics of what is not there."""
    traffic = toy.Traffic(ctx.settings, stable)
    traffic.hour(0)
    traffic.hour(1, broken="x")
    assert [one.change for one in tick(ctx, 2)] == ["", "opened"]
    assert "the data is broken: x: 100 % of the values are missing" in told(ctx)[0][1]


def test_a_category_that_was_never_seen_fails(ctx: release.Context, stable: str) -> None:
    """A third of the rows: not broken, and not as usual."""
    toy.Traffic(ctx.settings, stable).hour(0, toy.World(kinds=("a", "b", "z")))
    (found,) = tick(ctx, 1)
    assert found.verdict["outcome"] == "fail"
    assert found.verdict["columns"][0]["name"] == "kind"
    assert 0.2 < found.verdict["columns"][0]["strange"] < 0.5


def test_a_truncated_segment_is_told_and_the_rest_is_read(ctx: release.Context, stable: str) -> None:
    """The window is broken data; the one after it is looked at as always."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(2):
        traffic.hour(hour)
    first = min((ctx.settings.inference(toy.SERVICE) / "predictions").rglob("*.parquet"))
    kept = first.stat()
    first.write_bytes(first.read_bytes()[:200])
    os.utime(first, (kept.st_atime, kept.st_mtime))
    found = tick(ctx, 2)
    assert [one.verdict["outcome"] for one in found] == ["broken", "pass"]
    assert "cannot be read" in found[0].verdict["why"]
    assert found[0].seen == 0


def test_a_segment_of_another_version_is_a_column_that_is_missing(ctx: release.Context, stable: str) -> None:
    """Rows of a log that knows no `kind` yet."""
    traffic = toy.Traffic(ctx.settings, stable)
    traffic.hour(0)
    (file,) = (ctx.settings.inference(toy.SERVICE) / "predictions").rglob("*.parquet")
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file).read().drop_columns(["feature_kind"])
    file.unlink()
    traffic.write("predictions", table, START)
    (found,) = tick(ctx, 1)
    assert (found.verdict["outcome"], found.verdict["why"]) == ("broken", "kind: the column is not in the log")


def test_a_burst_is_thinned_and_counted(tmp_path: Path) -> None:
    """Ten times the rows: as many are held as the reference knows stretches of, evenly spread, and the verdict is the same."""
    settings = toy.make(tmp_path)
    with release.open_context(settings) as ctx:
        digest = toy.build(ctx, 0.0)
        toy.promote(ctx, digest, at=START)
        toy.Traffic(settings, digest).hour(0, rows=2500)
        (found,) = tick(ctx, 1)
    assert found.seen == 2500
    assert 150 <= found.verdict["rows"] <= 300
    assert found.verdict["outcome"] == "pass"


def test_small_segments_are_thinned_evenly_too(ctx: release.Context, stable: str) -> None:
    """One row each: of some nothing is left."""
    traffic = toy.Traffic(ctx.settings, stable)
    rows, _ = toy.USUAL.rows(40, seed=1)
    for place, row in enumerate(rows):
        at = START + place
        one = inference_log.Answered(
            request_id=f"r{place}",
            at=at,
            bundle=stable,
            arm="stable",
            shadow=False,
            latency_us=900,
            rows=[row],
            outputs=[{"probability": 0.5}],
        )
        traffic.write(inference_log.PREDICTIONS, inference_log.table_maker(toy.Row)(list(one.as_rows())), at)
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    window = drift_watch.read(ctx, what, since=START, until=START + HOUR_S, columns=["x", "kind"], most=10)
    assert (window.rows, window.sample.rows) == (40, 10)
    assert [one.timestamp() - START for one in window.table["at"].to_pylist()] == [4.0 * n for n in range(10)]


def test_without_labels_the_rest_is_watched(ctx: release.Context, stable: str) -> None:
    """Feedback that never comes is no drift of the label."""
    toy.Traffic(ctx.settings, stable).hour(0, labels=False)
    (found,) = tick(ctx, 1)
    assert found.verdict["outcome"] == "pass"
    assert {one["name"]: one["outcome"] for one in found.verdict["columns"]}["label"] == "inconclusive"


def test_a_release_on_its_way_is_judged_by_its_gates(ctx: release.Context, stable: str) -> None:
    """The alarm is recorded and says so."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(2):
        traffic.hour(hour, toy.World(mean=1.0))
    release.propose(ctx.with_clock(lambda: START + HOUR_S), toy.SERVICE, toy.build(ctx, 0.5), release.Request(actor="test", reason="test"))
    assert [one.change for one in tick(ctx, 2)] == ["", "opened"]
    assert told(ctx)[0][1].endswith("a release is in progress, and its gates decide")


def test_a_killed_tick_is_done_again_and_nothing_is_double(ctx: release.Context, stable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies after a window was written down and before anybody was told; the next one goes on behind it."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(4):
        traffic.hour(hour, toy.World(mean=1.0))

    class Killed(Exception):
        """As by kill -9."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(drift_watch, "_tell", die)
        with pytest.raises(Killed):
            tick(ctx, 4)
    assert [one.number for one in tick(ctx, 4)] == [1, 2, 3]
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    assert [one.number for one in drift_watch.window_reports(ctx, what)] == [0, 1, 2, 3]
    assert len(told(ctx)) == 1


def test_an_alarm_whose_teller_died_is_told_by_the_next_tick(ctx: release.Context, stable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window that opened it was written down, and nobody was told: that is made good."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(2):
        traffic.hour(hour, toy.World(mean=1.0))
    real = ledger.Ledger.page

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger.Ledger, "page", die)
    with pytest.raises(KeyboardInterrupt):
        tick(ctx, 2)
    monkeypatch.setattr(ledger.Ledger, "page", real)
    assert told(ctx) == []
    tick(ctx, 2)
    assert len(told(ctx)) == 1


def test_of_two_ticks_at_once_one_wins(ctx: release.Context, stable: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has looked at the same window meanwhile; the ledger has it once."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(2):
        traffic.hour(hour)
    real = drift_watch._look

    def overtaken(*args: object, **options: object) -> drift_watch.WindowReport:
        monkeypatch.setattr(drift_watch, "_look", real)
        with release.open_context(settings) as other:
            tick(other, 2)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(drift_watch, "_look", overtaken)
    assert tick(ctx, 2) == []
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    assert [one.number for one in drift_watch.window_reports(ctx, what)] == [0, 1]
    toy.Traffic(ctx.settings, stable).hour(2)
    assert [one.number for one in tick(ctx, 3)] == [2]


def test_a_long_absence_is_caught_up_in_parts(ctx: release.Context, stable: str) -> None:
    """A tick looks at so many windows at once, and the next goes on."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(5):
        traffic.hour(hour)
    assert [one.number for one in tick(ctx, 5, at_once=2)] == [0, 1]
    assert [one.number for one in tick(ctx, 5, at_once=2)] == [2, 3]


def test_windows_that_the_log_no_longer_has_are_passed_over(ctx: release.Context, stable: str) -> None:
    """After 30 days without a tick nobody is told of 30 days without rows."""
    found = tick(ctx, 40 * 24, at_once=1)
    assert found[0].number == 10 * 24 + 1


def test_a_new_bundle_begins_anew(ctx: release.Context, stable: str) -> None:
    """With its own reference; what was found of the old one stays with that."""
    toy.Traffic(ctx.settings, stable).hour(0)
    tick(ctx, 1)
    other = toy.build(ctx, 0.5, world=toy.World(mean=3.0))
    toy.promote(ctx, other, at=START + 5 * HOUR_S)
    toy.Traffic(ctx.settings, other, bias=0.5).hour(5, toy.World(mean=3.0))
    (found,) = tick(ctx, 6)
    assert (found.number, found.begin, found.verdict["outcome"]) == (0, START + 5 * HOUR_S, "pass")


def test_a_bundle_without_a_reference_says_what_to_do(ctx: release.Context, stable: str) -> None:
    """It was built before somebody asked for drift to be watched."""
    (file,) = ctx.settings.store.rglob("drift.parquet")
    file.parent.chmod(0o755)
    file.unlink()
    with pytest.raises(errors.LastgoodError, match=r"drift\.parquet"):
        tick(ctx, 1)


def test_nothing_is_watched_where_nothing_serves_or_nobody_asks(ctx: release.Context, settings: Settings) -> None:
    """Before the first release, and for a service without the group `drift`."""
    assert drift_watch.watch_of_service(ctx, toy.SERVICE) is None
    file = settings.services / toy.SERVICE / "service.yaml"
    file.write_text(file.read_text().partition("drift:")[0])
    toy.promote(ctx, toy.build(ctx, 0.0), at=START)
    assert drift_watch.watch_of_service(ctx, toy.SERVICE) is None


def labels_of(ctx: release.Context, hours: float = 1) -> list[float | None]:
    """The labels of the first window's rows, in the order of time, as they are known then."""
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    window = drift_watch.read(ctx, what, since=START, until=START + hours * HOUR_S, columns=["x", "kind", "label"], most=1000)
    return [] if window.table is None else list(window.table["label"].to_pylist())


def test_feedback_of_a_replica_whose_clock_is_behind_comes_before_its_prediction_and_counts(ctx: release.Context, stable: str) -> None:
    """Also for the first rows of a window, of which it is older than the window itself."""
    toy.Traffic(ctx.settings, stable).hour(0, told_after_s=-60.0)
    assert None not in labels_of(ctx)
    assert tick(ctx, 1)[0].verdict["outcome"] == "pass"


def test_feedback_that_comes_twice_counts_once_and_the_later_one(ctx: release.Context, stable: str) -> None:
    """Whichever of two replicas took it, and whichever file is read first; one for no prediction at all is left out."""
    traffic = toy.Traffic(ctx.settings, stable)
    traffic.hour(0)
    before = labels_of(ctx)
    traffic.tell({"r0-1": 7.0, "r0-2": 7.0, "never-asked": 1.0}, at=START + 2 * HOUR_S, writer="worker-0-aaaa")
    traffic.tell({"r0-1": 5.0}, at=START + 1.5 * HOUR_S, writer="worker-9-zzzz")
    assert labels_of(ctx) == [7.0, 7.0, *before[2:]]


def test_feedback_that_never_comes_is_no_label(ctx: release.Context, stable: str) -> None:
    """Half of the rows have none: they are missing, and not 0."""
    toy.Traffic(ctx.settings, stable).hour(0, labels=False)
    assert labels_of(ctx) == [None] * 120


def test_rows_of_replicas_with_clocks_of_their_own_count_once(ctx: release.Context, stable: str) -> None:
    """One is two minutes ahead of the disk's clock: its files look older than what is in them. No row is lost, none comes twice."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(2):
        traffic.hour(hour)
    folder = ctx.settings.inference(toy.SERVICE)
    for file in folder.rglob("*.parquet"):
        os.utime(file, (START + HOUR_S - 120,) * 2)
    found = tick(ctx, 2)
    assert [one.seen for one in found] == [120, 120]


@pytest.mark.parametrize("place", ["drift.before_record", "drift.after_record", "drift.after_page"])
def test_a_tick_that_is_killed_anywhere_loses_nothing_and_doubles_nothing(
    ctx: release.Context, stable: str, settings: Settings, place: str
) -> None:
    """A real process, killed at each place in the window that opens an alarm; the next tick goes on."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(3):
        traffic.hour(hour, toy.World(mean=1.0))
    code = f"""
import sys
from lastgood import release, settings
from lastgood.drift import watch as drift_watch
from lastgood.drift.verdict import LOSS
with release.open_context(settings.load()) as ctx:
    drift_watch.evaluate_next_window(ctx, drift_watch.watch_of_service(ctx, {toy.SERVICE!r}), now={START + 3 * HOUR_S + 10})
"""
    env = {**os.environ, "LASTGOOD_PROJECT": str(settings.project), "LASTGOOD_FAILPOINTS": f"{place}=kill@2"}
    killed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    tick(ctx, 3)
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    assert [one.number for one in drift_watch.window_reports(ctx, what)] == [0, 1, 2]
    assert len(told(ctx)) == 1
    assert [note["change"] for note in ctx.ledger.notes(toy.SERVICE, kind=drift_watch.NOTE)] == ["opened"]


DRIFTING = [toy.World(bias=-4.0 * hour / 60) for hour in range(60)]
"""What x says of y turns, so slowly that no hour differs from the one before; x itself stays as it was, and y as often 1."""


def test_a_slow_decline_without_any_shift_of_inputs_raises_an_alarm(tmp_path: Path) -> None:
    """Every label is in hand, and only the loss shows it: the label rate and the predictions are not watched here."""
    settings = toy.make(tmp_path, drift="ignore: [label]\n")
    with release.open_context(settings) as ctx:
        digest = toy.build(ctx, 0.0)
        toy.promote(ctx, digest, at=START)
        traffic = toy.Traffic(settings, digest)
        for hour, world in enumerate(DRIFTING):
            traffic.hour(hour, world)
        found = [*tick(ctx, 60), *tick(ctx, 60)]
        opened = next(one for one in found if one.change == "opened")
        assert opened.episode.alarm == opened.end
        assert {one["outcome"] for one in opened.verdict["columns"] if one["name"] != LOSS} == {"pass"}
        assert (
            "its answers are worse than they were on its reference: loss of answers: answers have become worse; brier 0." in told(ctx)[0][1]
        )


def test_a_window_that_was_looked_at_before_its_labels_came_is_scored_when_they_have(ctx: release.Context, stable: str) -> None:
    """It says what it waits for, and a later look takes it in; what was found of the other columns stays."""
    traffic = toy.Traffic(ctx.settings, stable)
    for hour in range(3):
        traffic.hour(hour, labels=False)
    first = tick(ctx, 2)
    column = next(one for one in first[0].verdict["columns"] if one["name"] == LOSS)
    assert (column["outcome"], "0 of 120 rows have a label" in column["why"]) == ("inconclusive", True)
    traffic.tell({f"r0-{number}": 1.0 for number in range(1, 121)}, at=START + 2.2 * HOUR_S, writer="worker-9-late")
    (third,) = tick(ctx, 3)
    known = [one for one in third.verdict["scored"] if one["blocks"]]
    assert [(one["window"], one["labelled"]) for one in known] == [(0, 120)]


def test_a_tick_that_begins_anew_goes_on_with_the_evidence_so_far(tmp_path: Path) -> None:
    """Window by window, each in a process of its own as it were, comes to the same as all at once."""
    columns = []
    for name, at_once in (("one", 1), ("all", 31)):
        settings = toy.make(tmp_path / name)
        with release.open_context(settings) as ctx:
            digest = toy.build(ctx, 0.0)
            toy.promote(ctx, digest, at=START)
            traffic = toy.Traffic(settings, digest)
            for hour in range(12):
                traffic.hour(hour, toy.World(bias=-2.0))
            found = []
            while more := tick(ctx, 12, at_once=at_once):
                found += more
            columns.append([next(one for one in each.verdict["columns"] if one["name"] == LOSS) for each in found])
    assert columns[0] == columns[1]
    assert len(columns[0]) == 12


@pytest.mark.parametrize(("quiet", "outcome"), [("[0, 1, 2]", "inconclusive"), ("[0, 2]", "broken"), ("[]", "broken")])
def test_a_night_without_traffic_is_no_alarm_where_that_is_usual(tmp_path: Path, quiet: str, outcome: str) -> None:
    """The hour from one to two in the morning, UTC; by day nothing at all is still broken data."""
    settings = toy.make(tmp_path, drift=f"quiet: {quiet}\n")
    with release.open_context(settings) as ctx:
        digest = toy.build(ctx, 0.0)
        toy.promote(ctx, digest, at=START)
        traffic = toy.Traffic(settings, digest)
        for hour in (0, 2):
            traffic.hour(hour)
        found = tick(ctx, 4)
    assert [one.verdict["outcome"] for one in found] == ["pass", outcome, "pass", "broken"]
    if outcome == "inconclusive":
        assert found[1].verdict["why"] == "no row, as is usual in these hours (drift.quiet)"


def test_declared_delays_put_the_labels_of_a_window_before_the_look_at_a_later_one(tmp_path: Path) -> None:
    """The label rate and the loss go by labels that are all there, and not by the quick ones of the newest window."""
    settings = toy.make(tmp_path, delay_s=HOUR_S)
    with release.open_context(settings) as ctx:
        digest = toy.build(ctx, 0.0)
        toy.promote(ctx, digest, at=START)
        traffic = toy.Traffic(settings, digest)
        for hour in range(3):
            traffic.hour(hour, told_after_s=HOUR_S - 60.0 if hour else 1.0)
        found = tick(ctx, 3)
    outcomes = [{one["name"]: one["outcome"] for one in look.verdict["columns"]} for look in found]
    assert [one["label"] for one in outcomes] == ["inconclusive", "pass", "pass"]
    assert [one[LOSS] for one in outcomes] == ["inconclusive", "pass", "pass"]
    assert [one["window"] for look in found for one in look.verdict.get("scored", ())] == [0, 1]

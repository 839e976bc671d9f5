"""The watch on a table of the past: the same windows, alarms and decisions as if it had been watched, and tables that are no such thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from lastgood import errors, release
from lastgood.drift import backtest
from lastgood.drift import decision as drift_decision
from lastgood.drift import watch as drift_watch
from lastgood.drift.verdict import LOSS
from lastgood.settings import Settings
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START

CALM_THEN_SHIFTED = [*[toy.USUAL] * 4, *[toy.World(mean=1.2)] * 5, *[toy.USUAL] * 3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The small service."""
    return toy.make(tmp_path)


@pytest.fixture
def ctx(settings: Settings) -> Iterator[release.Context]:
    """Its ledger and store, with a stable bundle and one behind it."""
    with release.open_context(settings) as ctx:
        for at, bias in ((START - 1000, -2.0), (START, 0.0)):
            toy.promote(ctx, toy.build(ctx, bias), at=at)
        yield ctx


def what(ctx: release.Context) -> drift_watch.DriftWatch:
    """The stable bundle and its rules."""
    found = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert found is not None
    return found


def past(worlds: Sequence[toy.World], *, rows: int = 120) -> pa.Table:
    """An hour of each world, in 2025, as somebody may have kept it."""
    made = []
    for hour, world in enumerate(worlds):
        asked, labels = world.rows(rows, seed=1000 + hour)
        for place, (row, label) in enumerate(zip(asked, labels, strict=True)):
            at = START - 1000 * HOUR_S + hour * HOUR_S + place * HOUR_S / rows
            made.append({"id": f"{hour}-{place}", "at": at, "x": row.x, "kind": row.kind, "label": label})
    return pa.Table.from_pylist(made)


def test_a_backtest_finds_what_the_watch_finds(ctx: release.Context) -> None:
    """Same rows, same bundle: the same verdicts window by window; and nothing is written."""
    stable = what(ctx).bundle
    traffic = toy.Traffic(ctx.settings, stable)
    for hour, world in enumerate(CALM_THEN_SHIFTED):
        traffic.hour(hour, world)
    live = []
    for hour in range(1, len(CALM_THEN_SHIFTED) + 1):
        live += drift_watch.evaluate_next_window(ctx, what(ctx), now=START + hour * HOUR_S + 10)
        look = drift_decision.due(ctx, what(ctx), now=START + hour * HOUR_S + 10)
        if look is not None:
            decision = drift_decision.decide(ctx, what(ctx), look)
            drift_decision.carry_out(ctx, what(ctx), decision, now=START + hour * HOUR_S + 10, actor="test")
    known = len(ctx.ledger.evaluations(stable))
    found = backtest.run(ctx, what(ctx), past(CALM_THEN_SHIFTED))
    assert [one.verdict["outcome"] for one in found.windows] == [one.verdict["outcome"] for one in live]
    assert [one.change for one in found.windows] == [one.change for one in live] == [*[""] * 5, "opened", "", "closed", *[""] * 4]
    assert [one.outcome for one in found.decisions] == ["keep"]
    assert len(list(drift_watch.window_reports(ctx, what(ctx)))) == len(live)
    assert len(ctx.ledger.evaluations(stable)) == known == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_read_as_people_keep_them(ctx: release.Context, tmp_path: Path, suffix: str) -> None:
    """Timestamps in place of seconds, more columns than the service takes, rows in any order."""
    table = past(CALM_THEN_SHIFTED)
    moments = pa.array([round(at * 1e6) for at in table["at"].to_pylist()]).cast(pa.timestamp("us", tz="UTC"))
    table = table.drop_columns(["at"]).append_column("asked", moments).append_column("note", pa.array(["a"] * table.num_rows))
    table = table.take(list(range(table.num_rows))[::-1])
    file = tmp_path / f"past{suffix}"
    pyarrow.csv.write_csv(table, file) if suffix == ".csv" else pq.write_table(table, file)
    found = backtest.run(ctx, what(ctx), backtest.read(file))
    assert [one.change for one in found.windows if one.change] == ["opened", "closed"]
    assert found.since == START - 1000 * HOUR_S


def test_labels_come_from_a_table_of_their_own_when_they_came(ctx: release.Context) -> None:
    """Joined by the column that both have; a label that came a day later is not known in the hour itself."""
    table = past([toy.USUAL] * 30)
    late = [at + (24 * HOUR_S if number < 120 else 1.0) for number, at in enumerate(table["at"].to_pylist())]
    labels = pa.table({"id": table["id"], "label": table["label"], "at": late})
    found = backtest.run(ctx, what(ctx), table.drop_columns(["label"]), labels=labels)
    scored = [(one["window"], look.number) for look in found.windows for one in look.verdict.get("scored", ()) if one["blocks"]]
    assert (1, 1) in scored
    assert not [look for window, look in scored if window == 0 and look < 24]
    without = backtest.run(ctx, what(ctx), table.drop_columns(["label"]))
    assert {one["outcome"] for look in without.windows for one in look.verdict["columns"] if one["name"] == LOSS} == {"inconclusive"}


@pytest.mark.parametrize(
    ("table", "labels", "said"),
    [
        (pa.table({"x": [1.0]}), None, "no column of the table says when a row was"),
        (pa.table({"at": ["today"], "x": [1.0]}), None, "column 'at' does not hold times"),
        (pa.table({"at": pa.array([None], pa.float64()), "x": [1.0]}), None, "some rows have no time"),
        (pa.table({"at": [1.0], "y": [1.0]}), None, "no column of it is a field of a request"),
        (pa.table({"at": [1.0], "x": [1.0]}), None, "the service takes none of the first 1 rows"),
        (pa.table({"at": [1.0], "x": ["much"], "kind": ["a"]}), None, "column 'x' \\(string\\) is not double"),
        (
            pa.table({"at": [1.0], "x": [1.0], "kind": ["a"]}),
            pa.table({"label": [1.0]}),
            "the labels need a column 'label' and one or more",
        ),
        (pa.table({"at": pa.array([], pa.float64())}), None, "the table has no rows"),
        (pa.table({"at": [0.0, 1e12], "x": [1.0, 1.0], "kind": ["a", "a"]}), None, "leave out what is older"),
    ],
)
def test_a_table_of_another_kind_is_refused_with_the_remedy(
    ctx: release.Context, table: pa.Table, labels: pa.Table | None, said: str
) -> None:
    """Before anything is judged."""
    with pytest.raises(errors.UsageError, match=said):
        backtest.run(ctx, what(ctx), table, labels=labels)
    with pytest.raises(errors.UsageError, match="cannot be read as a table"):
        backtest.read(ctx.settings.project / "none.parquet")

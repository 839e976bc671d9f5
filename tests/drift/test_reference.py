"""The reference as it travels: equal rows give equal bytes, stretches stay whole, and bad input is told."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lastgood import errors
from lastgood.drift import reference

DAY = datetime.datetime(2013, 3, 1, tzinfo=datetime.UTC)


def table(rows: int = 5) -> pa.Table:
    """Rows of every kind, the newest first."""
    moments = [DAY + datetime.timedelta(hours=n) for n in range(rows)][::-1]
    return pa.table(
        {
            "when": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "count": pa.array(range(rows), pa.int64()),
            "speed": pa.array([1.5 if n % 2 else None for n in range(rows)], pa.float64()),
            "late": pa.array([n % 3 == 0 for n in range(rows)], pa.bool_()),
            "carrier": pa.array([None if n == 1 else "UA" for n in range(rows)], pa.string()),
            "landed": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )


def test_what_is_written_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    """Numbers and booleans as floats, the rest as text; times are no column of the sample, and stay in the table."""
    reference.write(table(), tmp_path / "a" / reference.FILE, at="when")
    found = reference.read(tmp_path / "a" / reference.FILE)
    sample = found.sample
    assert sample.at.tolist() == [(DAY + datetime.timedelta(hours=n)).timestamp() for n in range(5)]
    assert set(sample.columns) == {"count", "speed", "late", "carrier"}
    assert sample.columns["count"].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert np.isnan(sample.columns["speed"]).tolist() == [True, False, True, False, True]
    assert sample.columns["late"].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert sample.columns["carrier"].tolist() == ["UA", "UA", "UA", None, "UA"]
    assert found.table.column_names == table().column_names


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    """In whatever order they come: a reference is a part of what a bundle is."""
    for name, rows in (("a", table()), ("b", table().take([2, 0, 1, 4, 3]))):
        reference.write(rows, tmp_path / name, at="when")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_of_many_rows_whole_stretches_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last are among them."""
    monkeypatch.setattr(reference, "MAX_ROWS", 400)
    monkeypatch.setattr(reference, "STRETCH", 100)
    reference.write(table(5000), tmp_path / "a", at="when")
    at = reference.read(tmp_path / "a").sample.at
    assert len(at) == 400
    jumps = np.flatnonzero(np.diff(at) > 3600)
    assert jumps.tolist() == [99, 199, 299]
    assert (at[0], at[-1]) == (DAY.timestamp(), (DAY + datetime.timedelta(hours=4999)).timestamp())


@pytest.mark.parametrize("rows", [table(0), table().drop_columns(["when"])], ids=["no rows", "no time"])
def test_a_reference_needs_rows_and_a_time(rows: pa.Table, tmp_path: Path) -> None:
    """Said with the name of the column."""
    with pytest.raises(errors.UsageError, match="rows with a column 'when'"):
        reference.write(rows, tmp_path / "a", at="when")


def test_what_is_no_reference_is_told(tmp_path: Path) -> None:
    """One that is not there, one that is cut, and a table that nobody wrote as one."""
    import pyarrow.parquet as pq

    with pytest.raises(errors.NotFound, match="build the bundle again with a reference"):
        reference.read(tmp_path / "none")
    reference.write(table(), tmp_path / "cut", at="when")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:100])
    pq.write_table(table(), tmp_path / "other")
    for name in ("cut", "other"):
        with pytest.raises(errors.Damaged, match="holds no reference for drift"):
            reference.read(tmp_path / name)


def test_a_log_of_years_that_was_copied_there_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and room go by the rows that are kept, whoever wrote the file; features of the same rows are thinned alike."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(reference, "MAX_ROWS", 400)
    monkeypatch.setattr(reference, "STRETCH", 100)
    rows = table(5000).sort_by("when").replace_schema_metadata({"lastgood.at": "when"})
    pq.write_table(rows, tmp_path / "whole", row_group_size=700)
    reference.write(rows, tmp_path / "written", at="when")
    whole, written = reference.read(tmp_path / "whole"), reference.read(tmp_path / "written")
    assert whole.sample.rows == 400
    assert whole.table.equals(written.table)

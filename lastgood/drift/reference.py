"""The reference: the rows that a bundle was built for, in order of time, stored in its data part as `drift.parquet`.

The file has the fields of a request unchanged, and `label` where it is known. Its metadata name the column with the time of each
row. For statistics, numbers and true/false become float64 (NaN is missing), everything else text (None is missing).

Above MAX_ROWS rows, evenly spread stretches of STRETCH rows are kept: consecutive rows depend on each other, and what is usual
for a stretch can only be seen on stretches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from lastgood.drift.distances import ReferenceColumn

    Values = npt.NDArray[Any]
    """float64 with NaN for missing, or text with None."""

FILE = "drift.parquet"
FEATURES = "features.parquet"
"""In a model part: the features that training computed from such rows, the numbers fed to the model; written in the same way."""
PROBABILITY, LABEL = "probability", "label"
"""Columns that are not fields of a request: the answer, and the true outcome where it is already known."""
_AT = "lastgood.at"
MAX_ROWS = 40_000
STRETCH = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows in order of time. `at` are Unix seconds, `columns` the values by name, all of equal length."""

    at: npt.NDArray[np.float64]
    columns: Mapping[str, Values]

    _known: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def rows(self) -> int:
        return len(self.at)

    def known(self, name: str) -> ReferenceColumn:
        """A column prepared for comparison with many others; sorted or counted on first use."""
        from lastgood.drift import distances

        if name not in self._known:
            self._known[name] = distances.ReferenceColumn(self.columns[name])
        found: ReferenceColumn = self._known[name]
        return found

    def take(self, which: Any) -> Sample:
        """The rows selected by a slice or an array of row numbers."""
        return Sample(at=self.at[which], columns={name: values[which] for name, values in self.columns.items()})


def empty() -> Sample:
    """No rows, no columns."""
    import numpy as np

    return Sample(at=np.zeros(0), columns={})


def is_numeric(values: Values) -> bool:
    """Whether a column holds numbers; else it holds categories."""
    return values.dtype.kind == "f"


def from_arrow(table: pa.Table, *, at: str) -> Sample:
    """The columns of *table* other than *at* (a time, or Unix seconds), in order of time.

    Time columns are left out, because times never repeat. Raises UsageError if there is no column *at*.
    """
    import numpy as np
    import pyarrow as pa

    if at not in table.column_names:
        raise errors.UsageError(f"the rows have no column {at!r}; name the column that holds the time of a row")
    moments = seconds(table[at])
    order = np.argsort(moments, kind="stable")
    columns = {name: values(table[name])[order] for name in table.column_names if name != at and not pa.types.is_temporal(table[name].type)}
    return Sample(at=moments[order], columns=columns)


def values(column: pa.ChunkedArray) -> Values:
    """A column as float64 (numbers, true and false) or as text; missing is NaN or None."""
    import numpy as np
    import pyarrow as pa

    column = plain(column)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        # Not safe: an integer above 2**53 is rounded to the nearest double, and must not make the evaluation of a whole window fail.
        found: Values = column.cast(pa.int8() if pa.types.is_boolean(kind) else pa.float64(), safe=False).cast(pa.float64()).to_numpy()
        return found
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    text: Values = column.cast(pa.string()).to_numpy(zero_copy_only=False)
    return text


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """*column* in plain types: categories as their values, lists and structures as JSON text.

    Raises UsageError for bytes that are not text.
    """
    import pyarrow as pa
    import pydantic_core

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_nested(column.type):
            texts = [None if value is None else pydantic_core.to_json(value).decode() for value in column.to_pylist()]
            return pa.chunked_array([pa.array(texts, pa.string())])
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
            return column.cast(pa.binary()).cast(pa.string())
    except (pa.ArrowException, ValueError, UnicodeError) as error:
        raise errors.UsageError(f"it holds values that are not text ({error}); give them as text, as in a request") from error
    return column


def _plain(table: pa.Table) -> pa.Table:
    """*table* with `plain` columns. Raises UsageError naming the column."""
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise errors.UsageError(f"the reference has the column {twice[0]!r} twice; give each column its own name")
    for place, name in enumerate(table.column_names):
        try:
            made = plain(table[name])
            values(made)  # as a reader will
        except Exception as error:
            raise errors.UsageError(
                f"column {name!r} of the reference ({table[name].type}) cannot be stored: {error}; give it as numbers, text or times, as in a request"
            ) from error
        if made.type != table[name].type:
            table = table.set_column(place, name, made)
    return table


def seconds(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column of times, or of Unix seconds, as Unix seconds. Raises ArrowException for any other type."""
    import pyarrow as pa

    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(column.type):
        unit: npt.NDArray[np.float64] = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64()).to_numpy() / 1e6
        return unit
    found: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return found


def write(table: pa.Table, file: Path, *, at: str) -> None:
    """Write the rows of *table*, ordered by their time *at* and thinned, to *file*; equal rows give equal bytes.

    Lists and structures become JSON text, categories their values. Raises UsageError if there are no rows, no column *at*, a row
    without a time, or a column that could not be read back.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if at not in table.column_names or not table.num_rows:
        raise errors.UsageError(f"a reference needs rows with a column {at!r}; pass the rows that the bundle is built for")
    table = _plain(table)
    try:
        timeless = int((~np.isfinite(seconds(table[at]))).sum()) if not table[at].null_count else table[at].null_count
    except (pa.ArrowException, ValueError) as error:
        raise errors.UsageError(
            f"column {at!r} of the reference ({table[at].type}) does not hold times: {error}; use timestamps or Unix seconds"
        ) from error
    if timeless:
        raise errors.UsageError(f"{timeless} rows of the reference have no time in {at!r}; leave these rows out, or add their time")
    ordered = table.sort_by(at)
    kept = ordered.take(_kept(ordered.num_rows)).replace_schema_metadata({_AT: at})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(kept, file, compression="zstd", version="2.6", row_group_size=MAX_ROWS)


def _kept(rows: int) -> npt.NDArray[Any]:
    """The indices of the rows to keep."""
    import numpy as np

    if rows <= MAX_ROWS:
        return np.arange(rows)
    starts = np.linspace(0, rows - STRETCH, MAX_ROWS // STRETCH).astype(int)
    return np.unique(np.concatenate([np.arange(start, start + STRETCH) for start in starts]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The original rows, and as a sample for statistics; both in order of time."""

    table: pa.Table
    sample: Sample


def read(file: Path) -> Reference:
    """The reference in *file*, thinned like in `write`, whichever program wrote it. Raises NotFound or Damaged."""
    import pyarrow as pa

    try:
        table = _read(file)
        at = (table.schema.metadata or {})[_AT.encode()].decode()
        return Reference(table=table, sample=from_arrow(table, at=at))
    except FileNotFoundError as error:
        raise errors.NotFound(f"{str(file)!r} does not exist; build the bundle again with a reference for drift") from error
    except (pa.ArrowException, OSError, KeyError, ValueError, errors.UsageError) as error:
        raise errors.Damaged(f"{str(file)!r} holds no reference for drift: {error!r}; build the bundle again") from error


def _read(file: Path) -> pa.Table:
    """At most MAX_ROWS rows of *file*, read as a stream: it may be a copy of a log of several years."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as source:
        kept, first, found = _kept(source.metadata.num_rows), 0, []
        for batch in source.iter_batches(batch_size=MAX_ROWS):
            inside = kept[np.searchsorted(kept, first) : np.searchsorted(kept, first + batch.num_rows)]
            found.append(batch.take(pa.array(inside - first, pa.int64())))
            first += batch.num_rows
        return pa.Table.from_batches(found, source.schema_arrow)

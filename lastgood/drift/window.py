"""A window of live requests and answers, as a sample to compare with a reference: read as a stream, in bounded memory.

It counts the answers that users of one bundle got; copies for a candidate in shadow and requests by debug token are excluded.
A segment that cannot be read is reported, and the rest is still read.

What does not belong here: how a window is judged (`verdict`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.drift import reference
from lastgood.drift.reference import LABEL, PROBABILITY, Sample
from lastgood.serving import inference_log, segments
from lastgood.serving import log_tail as tails

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The sample and its original rows from the log, in the same order; the total number of rows; what could not be read, as text."""

    sample: Sample
    table: pa.Table | None
    rows: int
    trouble: tuple[str, ...]


def read(folder: Path, *, bundle: str, since: float, until: float, columns: Collection[str], time: str = "", most: int = 50_000) -> Window:
    """The rows that *bundle* answered with *since* <= `at` < *until* (Unix seconds), thinned evenly to at most *most*.

    *folder* is `settings.inference(service)`. *columns* are fields of the request, `probability` and `label` (as known so far);
    a column that no segment has is left out. *time* names the field with the time of a row.
    """
    fields = [name for name in columns if name not in (PROBABILITY, LABEL)]
    wanted = {f"{inference_log.FEATURE}{name}" for name in [*fields, *([time] if time else [])]}
    labels = {"request_id", "caller_id", "row"} if LABEL in columns else set()
    trouble: list[str] = []
    kept = _Kept(most=most)
    for table in _segments(
        folder / inference_log.PREDICTIONS,
        since,
        until,
        {*wanted, *labels, PROBABILITY, inference_log.NAIVE, "bundle", "shadow", "arm"},
        trouble,
    ):
        kept.take(_answered(table, bundle=bundle, since=since, until=until))
    whole = kept.whole()
    if whole is None:
        return Window(sample=reference.empty(), table=None, rows=0, trouble=tuple(trouble))
    if labels:
        whole = _labelled(whole, folder, since=since, trouble=trouble)
    clock = f"{inference_log.FEATURE}{time}" if time else "at"
    if clock not in whole.column_names:
        raise errors.UsageError(f"the log has no field {time!r}; correct drift.time in service.yaml")
    whole = whole.sort_by(clock)
    return Window(sample=_sample(whole, clock=clock), table=whole, rows=kept.rows, trouble=tuple(trouble))


def _segments(folder: Path, since: float, until: float, columns: Collection[str], trouble: list[str]) -> Iterator[pa.Table]:
    """Each segment with rows of the window, once, even while writers are merging segments."""

    def load(path: Path, *, since: float, columns: Collection[str]) -> pa.Table | None:
        try:
            return segments.load_segment(path, since=since, columns=columns, until=until)
        except errors.Damaged as error:
            trouble.append(str(error))
            return None

    tail = tails.Tail(folder, since=since, columns=columns, load=load)
    for _ in range(2):  # segments merged away during the first pass are found by the second
        yield from tail.read(now=min(until, 2e11))


def _answered(table: pa.Table, *, bundle: str, since: float, until: float) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.divide(table["at"].cast(pa.int64()).cast(pa.float64()), 1e6)
    wanted = pc.and_(pc.and_(pc.greater_equal(at, since), pc.less(at, until)), pc.equal(table["bundle"], bundle))
    if "shadow" in table.column_names:
        wanted = pc.and_(wanted, pc.invert(pc.fill_null(table["shadow"], fill_value=False)))
    if "arm" in table.column_names:
        wanted = pc.and_(wanted, pc.not_equal(pc.fill_null(table["arm"], ""), "debug"))
    return table.filter(wanted).drop_columns([name for name in ("bundle", "shadow", "arm") if name in table.column_names])


class _Kept:
    """Rows that are thinned evenly whenever there are too many: every row, every second, every fourth ...

    While reading, up to twice as many are kept, so that *most* of them are left in the end, and not half of that.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._tables: list[pa.Table] = []
        self._held = 0
        self._step = 1
        self.rows = 0

    def take(self, table: pa.Table) -> None:
        first = -self.rows % self._step
        self.rows += table.num_rows
        self._tables.append(_every(table, first, self._step))
        self._held += self._tables[-1].num_rows
        while self._held > 2 * self._most:
            self._halve()

    def _halve(self) -> None:
        self._step *= 2
        place, tables = 0, []
        for table in self._tables:
            tables.append(_every(table, place % 2, 2))
            place += table.num_rows
        self._tables, self._held = tables, sum(table.num_rows for table in tables)

    def whole(self) -> pa.Table | None:
        """The rows kept as one table, *most* of them; None if there are none."""
        import numpy as np
        import pyarrow as pa

        found = [table for table in self._tables if table.num_rows]
        if not found:
            return None
        held = pa.concat_tables(found, promote_options="permissive")
        if held.num_rows <= self._most:
            return held
        return held.take(pa.array(np.arange(self._most) * held.num_rows // self._most, pa.int64()))


def _every(table: pa.Table, first: int, step: int) -> pa.Table:
    if step == 1:
        return table
    import pyarrow as pa

    return table.take(pa.array(range(first, table.num_rows, step), pa.int64()))


def _labelled(table: pa.Table, folder: Path, *, since: float, trouble: list[str]) -> pa.Table:
    """*table* with the column `label`: the latest feedback for each row, null where there is none yet.

    Feedback may have been received by another replica with its own clock, so it may be dated slightly before the answer it is about.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = list(zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True))
    owners = inference_log.caller_ids(table)
    labels: dict[tuple[str, int], tuple[Any, float | None]] = dict.fromkeys(keys, (None, None))
    named = pa.array({*(request_id for request_id, _ in keys), *owners}, pa.string())
    names = ("request_id", "row", "at", "label")
    for whole in _segments(folder / inference_log.FEEDBACK, since - tails.SKEW_S, math.inf, set(names), trouble):
        told = whole.filter(pc.and_(pc.is_valid(whole["label"]), pc.is_in(whole["request_id"], value_set=named)))
        for request_id, row, at, label in zip(*(told[name].to_pylist() for name in names), strict=True):
            key = (request_id, row) if (request_id, row) in labels else (owners.get(request_id, request_id), row)
            known = labels.get(key)
            if known is not None and (known[0] is None or at >= known[0]):
                labels[key] = (at, label)
    return table.append_column(LABEL, pa.array([labels[key][1] for key in keys], pa.float64()))


def _sample(table: pa.Table, *, clock: str) -> Sample:
    kept = [name for name in table.column_names if name not in ("request_id", "caller_id", "row", inference_log.NAIVE)]
    named = table.select(kept).rename_columns([name if name == clock else name.removeprefix(inference_log.FEATURE) for name in kept])
    return reference.from_arrow(named, at=clock)


def of_table(table: pa.Table, *, time: str = "") -> Window:
    """The rows of *table*, named as in the log, as a window; *time* as in `read`."""
    return Window(
        sample=_sample(table, clock=f"{inference_log.FEATURE}{time}" if time else "at"), table=table, rows=table.num_rows, trouble=()
    )


def span_s(sample: Sample) -> float:
    """Seconds spanned by the rows of a window on their own clock; 0 for fewer than two."""
    return float(sample.at[-1] - sample.at[0]) if sample.rows > 1 else 0.0

"""What the watch would have done on a table of the past: each window judged, each alarm decided, by the stable bundle and its rules.

Uses the same code as for live rows (`judging`, `decision`) on stored rows. The answers that the bundle would have given are
computed by its own code. Nothing is written to the ledger, nobody is paged, and no traffic moves.

What does not belong here: plots of the results (`reports.drift_page`).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors, release
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import decision as drift_decision
from lastgood.drift import judging, looks, watch
from lastgood.drift import reference as drift_reference_file
from lastgood.drift import window as windows
from lastgood.drift.decision import DriftDecision
from lastgood.drift.judging import DriftWatch, WindowReport
from lastgood.drift.kept_state import State
from lastgood.drift.reference import LABEL, PROBABILITY
from lastgood.serving import inference_log

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pydantic

    from lastgood.serving.app import Loaded

AT = "at"
DECIDED_ROWS = 10_000
"""Number of rows that a look at an alarm compares; larger sets are thinned evenly."""
TRIED = 100
"""Number of first rows that are tried: if the service accepts none of them, the table is for something else."""
MOST_WINDOWS = 100_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """The results for the rows between two moments (Unix seconds): every window and every decision, oldest first."""

    since: float
    until: float
    rows: int
    windows: Sequence[WindowReport]
    decisions: Sequence[DriftDecision]

    @property
    def alarms(self) -> list[WindowReport]:
        """The windows that opened an alarm."""
        return [one for one in self.windows if one.change == "opened"]

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Number of windows per verdict."""
        return collections.Counter(str(one.verdict["outcome"]) for one in self.windows)

    def to_json(self) -> dict[str, Any]:
        """Plain values; kept states are left out, because they are long."""
        decisions = [dataclasses.replace(one, kept=None).to_json() for one in self.decisions]
        found = {"since": self.since, "until": self.until, "rows": self.rows, "alarms": len(self.alarms), "outcomes": dict(self.outcomes)}
        return {**found, "windows": [one.to_json() for one in self.windows], "decisions": decisions}


def read(file: Path) -> pa.Table:
    """The table in *file*, CSV or, if its name ends so, Parquet. Raises UsageError."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file) if file.suffix in (".parquet", ".pq") else pyarrow.csv.read_csv(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise errors.UsageError(f"{str(file)!r} cannot be read as a table: {error}; give a CSV or a .parquet file") from error


def run(ctx: release.Context, what: DriftWatch, table: pa.Table, *, labels: pa.Table | None = None) -> Backtest:
    """Judge the rows of *table* window by window with the stable bundle of *what*, and decide each alarm when it is due.

    *table* has the fields of a request and a time: `drift.time`, or `at`, or its only time column. `label` is a column of it, or of
    *labels*, which shares one or more columns with it that identify a row; the `at` of *labels* is when a label arrived. Windows begin
    at whole multiples of their length. Raises UsageError for a table that does not fit.
    """
    loaded = drift_reference.load(ctx.settings, ctx.ledger.bundle(what.bundle))
    past = _Past(loaded, _as_logged(table, loaded, what, labels=labels), time=what.rules.time)
    first, last = float(past.at[0]), float(past.at[-1])
    what = dataclasses.replace(what, since=math.floor(first / what.rules.window_s) * what.rules.window_s)
    count = math.ceil((last - what.since + 1e-6) / what.rules.window_s)
    if count > MOST_WINDOWS:
        raise errors.UsageError(
            f"the table spans {count:,} windows of {what.rules.window_s:g} s; leave out what is older, at most {MOST_WINDOWS:,}"
        )
    return _Run(ctx, what, past).through(count)


class _Run:
    """One pass over the past: windows and decisions in order of time."""

    def __init__(self, ctx: release.Context, what: DriftWatch, past: _Past) -> None:
        self._ctx, self._what, self._past = ctx, what, past
        made = watch.made_by(ctx, what)
        made = dataclasses.replace(made, features=lambda window: past.features(window, made.reference))
        self._judge = judging.Judge(what, made, past.rows)
        self._target = drift_decision.way_back(ctx, ctx.ledger.state(what.service))
        self._windows: list[WindowReport] = []
        self._decisions: list[DriftDecision] = []
        self._states: list[State] = []

    def through(self, count: int) -> Backtest:
        for _ in range(count):
            self._past.now = self._what.begin(self._judge.number + 1) + self._what.rules.settle_s
            self._windows.append(self._judge.look())
            self._judge.go_on(self._windows[-1])
            self._decide(self._windows[-1])
        return Backtest(
            since=self._what.begin(0),
            until=self._what.begin(count),
            rows=len(self._past.at),
            windows=self._windows,
            decisions=self._decisions,
        )

    def _decide(self, newest: WindowReport) -> None:
        """Decide the due look at the open alarm, if any. After a rollback another bundle would serve, so that alarm is settled."""
        rules = self._what.rules.decide
        decided = {one.look.number: str(one.outcome) for one in self._decisions if one.look.alarm == newest.episode.alarm}
        look = None if "roll_back" in decided.values() else looks.due(newest, decided, rules, now=self._past.now)
        if look is None:
            return
        rows = self._past.rows(since=looks.since(look, rules), until=look.until, columns=(LABEL,), most=DECIDED_ROWS).table
        drifted = looks.drifted(self._windows, look)
        found = drift_decision.on_rows(self._ctx, self._what, look, rows, target=self._target, drifted=drifted)
        self._decisions.append(found)
        if found.kept is not None:
            self._states.append(found.kept)
            self._judge.keep(self._states)


class _Past:
    """The rows of the table in order of time, as if they were in the log; `now` is the simulated time (Unix seconds)."""

    def __init__(self, loaded: Loaded, table: pa.Table, *, time: str) -> None:
        import numpy as np
        import pyarrow as pa

        self.now = math.inf
        self.at: npt.NDArray[np.float64] = table[AT].cast(pa.int64()).to_numpy() / 1e6
        self._loaded, self._table, self._time = loaded, table, time
        self._answers = np.full(table.num_rows, np.nan)
        self._answered = np.zeros(table.num_rows, dtype=bool)
        self._newest: tuple[pa.Table | None, list[pydantic.BaseModel | None]] = (None, [])

    def features(self, window: windows.Window, reference: drift_reference_file.Sample) -> drift_reference_file.Sample:
        """Like `judging.Made.features`; the requests of the newest window are built once."""
        if window.table is None:
            return window.sample
        asked = self._newest[1] if window.table is self._newest[0] else inference_log.requests(window.table, self._loaded.runtime.Request)
        return drift_reference.with_made(self._loaded, reference, window.sample, asked)

    def rows(self, *, since: float, until: float, columns: Collection[str], most: int) -> windows.Window:
        """Like `judging.Rows`."""
        import numpy as np
        import pyarrow as pa

        first, last = np.searchsorted(self.at, [since, until])
        count = int(last - first)
        if not count:
            return windows.Window(sample=drift_reference_file.empty(), table=None, rows=0, trouble=())
        which = first + np.arange(min(count, most)) * count // min(count, most)
        table = self._labelled(self._table.take(pa.array(which)))
        asked = self._answer(which, table) if PROBABILITY in columns else []
        table = table.append_column(PROBABILITY, pa.array(self._answers[which], from_pandas=True))
        if asked:
            self._newest = table, asked
        return dataclasses.replace(windows.of_table(table, time=self._time), rows=count)

    def _labelled(self, table: pa.Table) -> pa.Table:
        """*table* with the labels that have arrived so far."""
        import pyarrow as pa
        import pyarrow.compute as pc

        come = pc.less_equal(table[f"{LABEL}_at"], self.now)
        label = pc.if_else(come, table[LABEL], pa.scalar(None, pa.float64()))
        return table.drop_columns([LABEL, f"{LABEL}_at"]).append_column(LABEL, label)

    def _answer(self, which: npt.NDArray[np.intp], table: pa.Table) -> list[pydantic.BaseModel | None]:
        """Compute the answers to the requests in *table*; returns the requests, or an empty list if all answers were known."""
        if self._answered[which].all():
            return []
        asked = inference_log.requests(table, self._loaded.runtime.Request)
        found = drift_reference.forecast(self._loaded, asked)
        self._answers[which] = [math.nan if value is None else value for value in found]
        self._answered[which] = True
        return asked


def _as_logged(table: pa.Table, loaded: Loaded, what: DriftWatch, *, labels: pa.Table | None) -> pa.Table:
    """The rows of *table* in order of time, with columns named as in the log, `label`, and its arrival in Unix seconds."""
    import numpy as np
    import pyarrow as pa

    if not table.num_rows:
        raise errors.UsageError("the table has no rows; give the rows that were answered")
    clock = _clock(table, what)
    moments = _moments(table, clock)
    label, came = _labels(table, labels, clock=clock)
    fields = _fields(table, loaded)
    made = pa.table(
        {
            AT: pa.array(np.round(moments * 1e6).astype(np.int64)).cast(pa.timestamp("us", tz="UTC")),
            **{f"{inference_log.FEATURE}{name}": column for name, column in fields.items()},
            LABEL: pa.array(label, pa.float64(), from_pandas=True),
            f"{LABEL}_at": pa.array(np.where(np.isfinite(came), came, -np.inf), pa.float64()),
        }
    ).take(pa.array(np.argsort(moments, kind="stable")))
    _try(made, loaded)
    return made


def _clock(table: pa.Table, what: DriftWatch) -> str:
    """The column with the time of each row."""
    import pyarrow as pa

    times: list[str] = [name for name in table.column_names if pa.types.is_temporal(table[name].type)]
    named = [name for name in (what.rules.time, AT) if name in table.column_names]
    if named or len(times) == 1:
        return [*named, *times][0]
    raise errors.UsageError(f"no column of the table says when a row was; name one {what.rules.time or AT!r} (timestamps, or Unix seconds)")


def _moments(table: pa.Table, clock: str) -> npt.NDArray[np.float64]:
    import numpy as np
    import pyarrow as pa

    try:
        found = drift_reference_file.seconds(table[clock])
    except (pa.ArrowException, ValueError) as error:
        raise errors.UsageError(f"column {clock!r} does not hold times: {error}; give timestamps or Unix seconds") from error
    if table[clock].null_count or not np.isfinite(found).all():
        raise errors.UsageError(f"some rows have no time in {clock!r}; leave them out, or give their time")
    return found


def _fields(table: pa.Table, loaded: Loaded) -> dict[str, pa.ChunkedArray]:
    """The fields of a request in their own types; a time without a zone is read as UTC."""
    import pyarrow as pa

    found = {}
    for name, kind in inference_log.form_of(loaded.runtime.Request).kinds.items():
        if name not in table.column_names:
            continue
        try:
            found[name] = drift_reference_file.plain(table[name]) if kind is None else table[name].cast(kind)
        except pa.ArrowException as error:
            raise errors.UsageError(
                f"column {name!r} ({table[name].type}) is not {kind}, as a request has it: {error}; correct the table"
            ) from error
    return found


def _try(table: pa.Table, loaded: Loaded) -> None:
    """Raises UsageError if the service accepts none of the first rows."""
    first = table.slice(0, TRIED)
    refused = list(inference_log.refusals(first, loaded.runtime.Request))
    asked = inference_log.requests(first, loaded.runtime.Request)
    if not any(row is not None for row in asked):
        why = str(refused[0][1]) if refused else "no column of it is a field of a request"
        raise errors.UsageError(
            f"the service takes none of the first {first.num_rows} rows: {why}; give a table with the columns of its requests"
        )


def _labels(table: pa.Table, labels: pa.Table | None, *, clock: str) -> tuple[Any, npt.NDArray[np.float64]]:
    """The label of each row (NaN where there is none), and when it arrived in Unix seconds (NaN where unknown)."""
    import numpy as np

    never = np.full(table.num_rows, np.nan)
    if labels is None:
        return (_numbers(table[LABEL]) if LABEL in table.column_names else never), never
    keys = [name for name in labels.column_names if name in table.column_names and name not in (LABEL, AT)]
    keys = keys or [name for name in (clock,) if name in labels.column_names]
    if LABEL not in labels.column_names or not keys:
        raise errors.UsageError(
            f"the labels need a column {LABEL!r} and one or more that name a row, and that the table has as well, for example 'id'"
        )
    came = _moments(labels, AT) if AT in labels.column_names and AT not in keys else np.full(labels.num_rows, np.nan)
    known = dict(zip(_keys(labels, keys), zip(_numbers(labels[LABEL]), came, strict=True), strict=True))
    found = np.array([known.get(key, (np.nan, np.nan)) for key in _keys(table, keys)], dtype=np.float64)
    return found[:, 0], found[:, 1]


def _keys(table: pa.Table, names: Iterable[str]) -> Iterable[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    found = drift_reference_file.values(column)
    if not drift_reference_file.is_numeric(found):
        raise errors.UsageError(f"column {LABEL!r} holds text; give the labels as numbers, 0 and 1 for yes and no")
    return found

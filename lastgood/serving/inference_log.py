"""What was asked and answered, by which bundle: the predictions log, and how it is joined with what really happened.

Every answered row is one row here. A request's id is made by the proxy, and a mirrored copy has that of the request, so two
bundles are compared on the same rows. `caller_id` is the caller's own (`x-request-id`), which several requests may share.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from lastgood.serving import restore, row_form, row_ids, segments

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS = "predictions"
FEEDBACK = "feedback"
FEATURE = "feature_"
"""Prefix of the columns that hold the fields of a request."""

NAIVE = "naive"
"""Column with the fields whose time came without an offset, as JSON; there for requests that can have such."""

_IDENTITY = ("request_id", "row", "bundle", "shadow")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request as it was answered. `at` in Unix seconds, `latency_us` from the whole body's arrival to the answer."""

    request_id: str
    caller_id: str | None = None
    at: float
    bundle: str
    arm: str | None
    shadow: bool
    latency_us: int
    rows: Sequence[pydantic.BaseModel]
    outputs: Sequence[Mapping[str, Any]]

    def as_rows(self) -> list[segments.LogRow]:
        """One row for the log for each row of the request."""
        at = round(self.at * 1e6)
        return [(at, number, self, row, output) for number, (row, output) in enumerate(zip(self.rows, self.outputs, strict=True))]


def table_maker(request: type[pydantic.BaseModel]) -> Callable[[Sequence[segments.LogRow]], pa.Table]:
    """A function that turns rows of `Answered.as_rows` into a table with a typed column for each field of *request*."""
    import pyarrow as pa

    form = form_of(request)

    def to_table(rows: Sequence[segments.LogRow]) -> pa.Table:
        asked: list[Answered] = [row[2] for row in rows]
        outputs: list[Mapping[str, Any]] = [row[4] for row in rows]
        columns = {
            "at": pa.array([row[0] for row in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "request_id": pa.array([one.request_id for one in asked], pa.string()),
            "caller_id": pa.array([one.caller_id for one in asked], pa.string()),
            "row": pa.array([row[1] for row in rows], pa.int32()),
            "bundle": pa.array([one.bundle for one in asked], pa.string()),
            "arm": pa.array([one.arm for one in asked], pa.string()),
            "shadow": pa.array([one.shadow for one in asked], pa.bool_()),
            "latency_us": pa.array([one.latency_us for one in asked], pa.int64()),
            "probability": pa.array([_probability(output) for output in outputs], pa.float64()),
            "output": pa.array([json.dumps(output) for output in outputs], pa.string()),
        }
        texts = [form.text(row[3]) for row in rows]
        for name, kind in form.kinds.items():
            values = [getattr(row[3], name) for row in rows] if kind is not None else [text[name] for text in texts]
            columns[FEATURE + name] = pa.array(values, kind or pa.string())
        if form.times:
            columns[NAIVE] = pa.array([form.naive(row[3]) for row in rows], pa.string())
        return pa.table(columns)

    return to_table


def form_of(request: type[pydantic.BaseModel]) -> row_form.Form:
    """How rows of *request* are kept."""
    return row_form.Form(request, {name: arrow_type(field.annotation) for name, field in request.model_fields.items()})


def arrow_type(annotation: Any) -> pa.DataType | None:
    """The column type of a request field; None if only JSON text can hold it."""
    import pyarrow as pa

    simple: dict[Any, pa.DataType] = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        datetime.datetime: pa.timestamp("us", tz="UTC"),
        datetime.date: pa.date32(),
    }
    if typing.get_origin(annotation) is typing.Annotated:
        return arrow_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return arrow_type(rest[0]) if len(rest) == 1 else None
    if annotation is pydantic.AwareDatetime:
        return simple[datetime.datetime]
    return simple.get(annotation)


def read_predictions(folder: Path, *, since: float, until: float, columns: Collection[str] | None = None) -> pa.Table | None:
    """Answered rows with *since* <= `at` < *until* (Unix seconds), oldest first; None if there are none.

    *folder* is `settings.inference(service)`. *columns* besides `at`: request_id, caller_id, row, bundle, arm, shadow, latency_us,
    probability, output (JSON) and `feature_<field>` for each field of a request. None means all.
    """
    return segments.read(folder / PREDICTIONS, since=since, until=until, columns=columns)


def requests(table: pa.Table, request: type[pydantic.BaseModel]) -> list[pydantic.BaseModel | None]:
    """The rows of a table of predictions as they were asked; None for one that *request* does not take, or that cannot be read.

    Columns are named as in the log, or by the fields alone.
    """
    form = form_of(request)
    return [_request(form, row, naive) for row, naive in _kept(table, form)]


def refusals(table: pa.Table, request: type[pydantic.BaseModel]) -> Iterator[tuple[int, Exception]]:
    """The number of each row of *table* that `requests` would leave out, and why."""
    form = form_of(request)
    for number, (row, naive) in enumerate(_kept(table, form)):
        try:
            _asked(form, row, naive)
        except Exception as error:  # noqa: BLE001  # a validator of a team's model may raise anything
            yield number, error


def _kept(table: pa.Table, form: row_form.Form) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each row's values by field, and which of them came without an offset."""
    columns = {}
    for name in form.kinds:
        found = next((one for one in (FEATURE + name, name) if one in table.column_names), None)
        if found is not None:
            columns[name] = _values(table[found])
    if not columns:
        return
    naive = table[NAIVE].to_pylist() if NAIVE in table.column_names else [None] * table.num_rows
    for row, fields in zip(zip(*columns.values(), strict=True), naive, strict=True):
        yield dict(zip(columns, row, strict=True)), fields


_UNREADABLE = object()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column, one by one if need be: what cannot be read is _UNREADABLE, and the others are there."""
    values: list[Any]
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):  # a time that no calendar of ours has, from before such were refused
        values = [_value(one) for one in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return _UNREADABLE


def _request(form: row_form.Form, row: dict[str, Any], naive: str | None) -> pydantic.BaseModel | None:
    try:
        return _asked(form, row, naive)
    except Exception:  # noqa: BLE001  # not only ValidationError: a validator of a team's model may raise anything
        return None


def _asked(form: row_form.Form, row: dict[str, Any], naive: str | None) -> pydantic.BaseModel:
    """The request of one row. Raises what the model raises, or ValueError."""
    if _UNREADABLE in row.values():
        raise ValueError("it holds a time outside the calendar")
    for name in json.loads(naive) if naive else ():
        if row.get(name) is not None:
            row[name] = row[name].replace(tzinfo=None)
    return restore.restore_request(form, row)


def read_feedback(folder: Path, *, since: float = -math.inf, until: float = math.inf) -> pa.Table | None:
    """Feedback that arrived in the window: at, request_id, row, label (or null), outcome (JSON); None if there is none."""
    return segments.read(folder / FEEDBACK, since=since, until=until)


def labelled(folder: Path, *, since: float, until: float, columns: Collection[str] | None = None) -> pa.Table | None:
    """Predictions of the window whose outcome is known by now, oldest first, with `label` and `label_at`; None if there are none.

    A row answered twice by one bundle under one request id counts once, and so does a label sent twice: the last one holds.
    """
    import pyarrow.compute as pc

    wanted = None if columns is None else {*columns, *_IDENTITY, "caller_id"}
    answers = read_predictions(folder, since=since, until=until, columns=wanted)
    told = read_feedback(folder, since=since)
    if answers is None or told is None:
        return None
    labels = _last(_by_request(told.filter(pc.is_valid(told["label"])), answers), ["request_id", "row"])
    labels = labels.select(["request_id", "row", "label", "at"]).rename_columns(["request_id", "row", "label", "label_at"])
    joined = _last(answers, list(_IDENTITY)).join(labels, keys=["request_id", "row"], join_type="inner", use_threads=False)
    return joined.sort_by("at") if joined.num_rows else None


def caller_ids(answers: pa.Table) -> dict[str, str]:
    """Caller's id to request id in a table of predictions, for those ids that name one of its requests."""
    if "caller_id" not in answers.column_names:  # a log from before there were two ids
        return {}
    return row_ids.unambiguous(zip(answers["request_id"].to_pylist(), answers["caller_id"].to_pylist(), strict=True))


def _by_request(told: pa.Table, answers: pa.Table) -> pa.Table:
    """Feedback with the id of its request in place of the caller's, where that names one request; the rest as it is."""
    import pyarrow as pa

    owners, own = caller_ids(answers), set(answers["request_id"].to_pylist())
    ids = [given if given in own else owners.get(given, given) for given in told["request_id"].to_pylist()]
    return told.set_column(told.column_names.index("request_id"), "request_id", pa.array(ids, pa.string()))


def quality(table: pa.Table) -> list[dict[str, Any]]:
    """For each (bundle, shadow) in a `labelled` table of 0/1 labels: n, label_rate, brier, and auc where both labels occur."""
    import numpy as np
    import pyarrow.compute as pc

    found = []
    for key in table.group_by(["bundle", "shadow"], use_threads=False).aggregate([]).to_pylist():
        rows = table.filter(pc.and_(pc.equal(table["bundle"], key["bundle"]), pc.equal(table["shadow"], key["shadow"])))
        rows = rows.filter(pc.is_valid(rows["probability"]))
        if not rows.num_rows:
            continue
        label, probability = rows["label"].to_numpy(), rows["probability"].to_numpy()
        scores = {"n": len(label), "label_rate": float(label.mean()), "brier": float(np.mean((probability - label) ** 2))}
        found.append({**key, **scores, "auc": _auc(label > 0.5, probability)})
    return found


def _auc(positive: Any, score: Any) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counted half; None if all labels are alike."""
    import numpy as np

    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _last(table: pa.Table, keys: list[str]) -> pa.Table:
    """The last row of each combination of *keys* in the order of *table*."""
    import pyarrow as pa

    numbered = table.append_column("_position", pa.array(range(table.num_rows), pa.int64()))
    last = numbered.group_by(keys, use_threads=False).aggregate([("_position", "max")])["_position_max"]
    return table.take(last)


def _probability(output: Mapping[str, Any]) -> float | None:
    value = output.get("probability")
    return float(value) if isinstance(value, int | float) else None

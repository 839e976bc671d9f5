"""Feedback: the true outcome, sent later under the id of the request, once or several times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from lastgood.serving import segments

if TYPE_CHECKING:
    import pyarrow as pa

REQUEST_ID = r"^[\x21-\x7e]{1,128}$"
MAX_OUTCOMES = 50
MAX_FIGURE = 1e50
"""Largest absolute value of outcomes and labels: their fourth powers, and sums of those, are still finite."""

Scalar = (
    pydantic.StrictBool
    | pydantic.StrictInt
    | Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False, ge=-MAX_FIGURE, le=MAX_FIGURE)]
    | Annotated[str, pydantic.Field(strict=True, max_length=1000)]
    | None
)


class Feedback(pydantic.BaseModel):
    """The outcome of one row. Any further field is an outcome: a label or a business figure, true/false, number or text."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Scalar] = pydantic.Field(init=False)

    request_id: Annotated[str, pydantic.StringConstraints(pattern=REQUEST_ID)]
    """`request_id` of the answer (`x-lastgood-request-id`), or the caller's own `x-request-id` where one request alone had it.

    An id that is not known (yet) is taken as well."""
    row: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = 0
    """Number of the row in its request, from 0."""

    @pydantic.model_validator(mode="after")
    def _some_outcome(self) -> Feedback:
        count = len(self.outcome)
        if not 1 <= count <= MAX_OUTCOMES:
            raise ValueError(f"has {count} outcomes; give 1 to {MAX_OUTCOMES} fields besides request_id and row")
        return self

    @property
    def outcome(self) -> Mapping[str, Any]:
        """The additional fields."""
        return self.__pydantic_extra__ or {}

    def as_row(self, *, at: float, label: float | None) -> segments.LogRow:
        """The row for the log; *at* in Unix seconds."""
        return (round(at * 1e6), self.request_id, self.row, label, json.dumps(dict(self.outcome), sort_keys=True))


def to_table(rows: Sequence[segments.LogRow]) -> pa.Table:
    """Rows of `Feedback.as_row` as a table."""
    import pyarrow as pa

    at, request_id, row, label, outcome = zip(*rows, strict=True)
    return pa.table(
        {
            "at": pa.array(at, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "request_id": pa.array(request_id, pa.string()),
            "row": pa.array(row, pa.int32()),
            "label": pa.array(label, pa.float64()),
            "outcome": pa.array(outcome, pa.string()),
        }
    )


def check_label(label: Any) -> float | None:
    """*label* from a runtime, as a float of a usable magnitude. Raises ValueError."""
    if label is None:
        return None
    try:
        value = float(label)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError("the label must be a finite number") from error
    if not math.isfinite(value):
        raise ValueError("the label must be a finite number")
    if abs(value) > MAX_FIGURE:
        raise ValueError(f"the label must lie between -{MAX_FIGURE:g} and {MAX_FIGURE:g}")
    return value

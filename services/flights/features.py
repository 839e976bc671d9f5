"""The one definition of the model's features, used by training and by serving.

A row (a request, or a row of the training data) has the fields of `FIELDS`. `matrix` turns rows into the numbers
that the model sees. The one thing that may differ is the clock on which the scheduled departure is read:
training reads it at the airport; serving reads it as the service's option `departure_clock` says.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Clock = Literal["local", "utc"]

CATEGORICAL = ("carrier", "origin", "dest")
NUMERIC = ("distance", "seats", "temp", "humid", "wind_speed", "precip", "pressure", "visib")
FIELDS = (*CATEGORICAL, "scheduled_departure", "plane_year", *NUMERIC)
"""What a request holds."""
FEATURES = (*CATEGORICAL, "departure_min", "weekday", "plane_age", *NUMERIC)
"""What the model sees, in the order of the matrix's columns. The first three are category numbers."""

LATE_MIN = 15.0
"""A flight is late if it arrives this many minutes after its schedule, or more."""

CLOCKS: dict[str, datetime.tzinfo] = {"local": zoneinfo.ZoneInfo("America/New_York"), "utc": datetime.UTC}
"""All three origins (EWR, JFK, LGA) are on New York time."""


def matrix(
    columns: Mapping[str, Sequence[Any]], *, categories: Mapping[str, Sequence[str]], departure_clock: Clock = "local"
) -> np.ndarray:
    """float64 of shape (rows, 14): *columns* by `FIELDS` as the model's features.

    `scheduled_departure` holds aware datetimes. An absent number (None or NaN) and a category that training
    did not see become NaN, which the model treats as missing.
    """
    zone = CLOCKS[departure_clock]
    moments = [moment.astimezone(zone) for moment in columns["scheduled_departure"]]
    year = np.array([moment.year for moment in moments], dtype=np.float64)
    derived = {
        "departure_min": [moment.hour * 60 + moment.minute for moment in moments],
        "weekday": [moment.weekday() for moment in moments],
        "plane_age": year - np.array(columns["plane_year"], dtype=np.float64),
    }
    for name in CATEGORICAL:
        codes = {value: float(code) for code, value in enumerate(categories[name])}
        derived[name] = [codes.get(value, np.nan) for value in columns[name]]
    out = np.empty((len(moments), len(FEATURES)), dtype=np.float64)
    for position, name in enumerate(FEATURES):
        out[:, position] = np.array(derived[name] if name in derived else columns[name], dtype=np.float64)
    return out


def columns_of(frame: pd.DataFrame) -> dict[str, Sequence[Any]]:
    """The columns of a prepared table, as `matrix` takes them."""
    columns: dict[str, Sequence[Any]] = {name: frame[name].tolist() for name in CATEGORICAL}
    columns["scheduled_departure"] = frame["scheduled_departure"].array.to_pydatetime().tolist()
    for name in ("plane_year", *NUMERIC):
        columns[name] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return columns


def window(frame: pd.DataFrame) -> dict[str, str]:
    """First and last scheduled departure of a prepared table, RFC 3339 in UTC (so that text order is time order)."""
    times = frame["scheduled_departure"].dt.tz_convert("UTC")
    return {"first": times.min().isoformat(), "last": times.max().isoformat()}
